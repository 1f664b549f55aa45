//! A list's chain of pages, for those who want all of its rows and no scores.

use crate::page::{self, Kind, ListHeader};
use crate::store::{BlockNumber, NO_BLOCK, PageStore, StoreError};
use crate::structure::Structure;

/// Shows every page of a list, head first; starts over when rows change pages meanwhile, so that a row may be shown twice
/// but none is missed.
///
/// # Errors
/// Those of the store, or a damaged page.
pub fn for_each_page<S: PageStore>(
    store: &S,
    structure: &Structure,
    list: u32,
    mut show: impl FnMut(&[u8]),
) -> Result<(), StoreError> {
    const TRIES: usize = 16;
    let head = structure.lists[list as usize].head;
    for _ in 0..TRIES {
        let mut block = head;
        let mut version = None;
        let mut is_whole = true;
        let mut pages = 0;
        while block != NO_BLOCK {
            store.check_for_interrupts();
            let page = store.read(block)?;
            let is_head = version.is_none();
            let header: &ListHeader = match page::read(&page, block, Kind::List) {
                Err(error) if is_head => return Err(error),
                Err(_) => {
                    is_whole = false;
                    break;
                }
                Ok(header) => header,
            };
            if header.page.owner.get() != list {
                if is_head {
                    return Err(StoreError::Damaged { block, problem: format!("it is not the head of list {list}") });
                }
                is_whole = false;
                break;
            }
            version.get_or_insert(header.version.get());
            show(&page);
            let next = header.page.next.get();
            drop(page);
            pages += 1;
            refuse_endless(store, list, block, pages)?;
            block = next;
        }
        let page = store.read(head)?;
        let after = page::read::<ListHeader>(&page, head, Kind::List)?.version.get();
        if is_whole && version == Some(after) {
            return Ok(());
        }
    }
    Err(StoreError::Damaged { block: head, problem: format!("the pages of list {list} do not hold together") })
}

/// Shows every page of a list, head first; only while nobody else moves rows (vacuum alone does).
///
/// # Errors
/// Those of the store, or a damaged page.
pub fn visit<S: PageStore>(
    store: &S,
    list: u32,
    head: BlockNumber,
    mut show: impl FnMut(BlockNumber, &ListHeader),
) -> Result<(), StoreError> {
    let mut block = head;
    let mut pages = 0;
    while block != NO_BLOCK {
        store.check_for_interrupts();
        let page = store.read(block)?;
        let header: &ListHeader = page::read(&page, block, Kind::List)?;
        if header.page.owner.get() != list {
            let problem = format!("it belongs to list {}, not to list {list}", header.page.owner.get());
            return Err(StoreError::Damaged { block, problem });
        }
        show(block, header);
        pages += 1;
        let next = header.page.next.get();
        drop(page);
        refuse_endless(store, list, block, pages)?;
        block = next;
    }
    Ok(())
}

/// The pages of a list, as [`visit`] shows them.
///
/// # Errors
/// As [`visit`].
pub fn blocks<S: PageStore>(store: &S, list: u32, head: BlockNumber) -> Result<Vec<BlockNumber>, StoreError> {
    let mut blocks = Vec::new();
    visit(store, list, head, |block, _| blocks.push(block))?;
    Ok(blocks)
}

/// A chain of more pages than there are leads back to itself.
///
/// # Errors
/// [`StoreError::Damaged`] if it does.
pub fn refuse_endless<S: PageStore>(store: &S, list: u32, block: BlockNumber, pages: u32) -> Result<(), StoreError> {
    // Asking for the number of pages costs a system call, so it is done rarely.
    if pages.is_multiple_of(256) && pages > store.block_count() {
        return Err(StoreError::Damaged { block, problem: format!("the chain of list {list} never ends") });
    }
    Ok(())
}
