//! Frees pages of a list that deletions have emptied. Rows move to later pages only, so that a search on its way through
//! the list may see a row twice but misses none.

use crate::block::{self, Arrival};
use crate::chain;
use crate::list;
use crate::page::{self, Kind, ListHeader, PageHeader};
use crate::store::{BlockNumber, Edit, PageStore, StoreError};
use crate::structure::Structure;

/// Frees what can be freed; returns the number of pages.
///
/// # Errors
/// Those of the store, or damaged pages.
pub fn compact<S: PageStore>(store: &S, structure: &Structure, number: u32) -> Result<u32, StoreError> {
    let head = structure.lists[number as usize].head;
    let blocks = list::blocks(store, number, head)?;
    let capacity = structure.layout.rows();
    let mut freed = Vec::new();
    // The head is never freed, and the page after it may get a new predecessor at any time.
    let mut before = head;
    for place in 1..blocks.len() {
        store.check_for_interrupts();
        let block = blocks[place];
        let live = live_rows(store, block)?;
        let next = blocks.get(place + 1).copied();
        let fits = match next {
            Some(next) => live > 0 && live + live_rows(store, next)? <= capacity,
            None => false,
        };
        if let (true, Some(next)) = (fits, next) {
            move_rows(store, structure, head, block, next)?;
        }
        if (fits || live == 0) && unlink(store, head, before, block)? {
            freed.push(block);
        } else {
            before = block;
        }
    }
    chain::free(store, &freed)?;
    Ok(freed.len() as u32)
}

fn live_rows<S: PageStore>(store: &S, block: BlockNumber) -> Result<usize, StoreError> {
    let page = store.read(block)?;
    Ok(page::read::<ListHeader>(&page, block, Kind::List)?.live.get().into())
}

/// Moves all rows of a page that is not the head to the next one.
fn move_rows<S: PageStore>(
    store: &S,
    structure: &Structure,
    head: BlockNumber,
    from: BlockNumber,
    to: BlockNumber,
) -> Result<(), StoreError> {
    let layout = structure.layout;
    let mut edit = store.edit();
    let (head, from, to) = (edit.open(head)?, edit.open(from)?, edit.open(to)?);
    let rows: Vec<_> = block::rows_of(layout, edit.bytes(from))
        .map(|(number, slot, block)| (number, slot, block::stored(&block, slot)))
        .collect();
    for (number, slot, row) in rows {
        if block::put_row(layout, edit.bytes(to), &row, Arrival::Together) {
            block::remove_row(layout, edit.bytes(from), number, slot);
        }
    }
    bump_version(edit.bytes(head));
    edit.commit();
    Ok(())
}

/// Takes an empty page out of its chain; `false` if it is not empty, or its predecessor has become another one.
fn unlink<S: PageStore>(
    store: &S,
    head: BlockNumber,
    before: BlockNumber,
    block: BlockNumber,
) -> Result<bool, StoreError> {
    let mut edit = store.edit();
    let (head, before, page) = (edit.open(head)?, edit.open(before)?, edit.open(block)?);
    let is_empty = page::write::<ListHeader>(edit.bytes(page)).live.get() == 0;
    if !is_empty || page::header(edit.bytes(before)).next.get() != block {
        return Ok(false);
    }
    let next = page::header(edit.bytes(page)).next;
    page::write::<PageHeader>(edit.bytes(before)).next = next;
    bump_version(edit.bytes(head));
    let bytes = edit.bytes(page);
    bytes.fill(0);
    *page::write(bytes) = PageHeader::new(Kind::Free, 0);
    edit.commit();
    Ok(true)
}

/// Says on a list's head that rows have left it or changed pages.
pub(crate) fn bump_version(head: &mut [u8]) {
    let header: &mut ListHeader = page::write(head);
    header.version = header.version.get().wrapping_add(1).into();
}
