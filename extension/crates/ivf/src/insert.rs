//! Adds one row to the nearest list. Knows pages, not PostgreSQL.

use crate::block::{self, Arrival, Layout, StoredRow};
use crate::chain;
use crate::key::Key;
use crate::page::{self, Kind, ListHeader, NULL_LIST, UNRANKED_LIST};
use crate::store::{BlockNumber, Edit, PageStore, RowId, StoreError};
use crate::structure::Structure;

/// How an insertion went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// The row is in the index.
    Done,
    /// The index was trained anew since the structure was read: read it again and repeat.
    Stale,
}

/// Adds a row.
///
/// # Errors
/// Those of the store, or a damaged page.
pub fn insert<S: PageStore>(
    store: &S,
    structure: &Structure,
    row: RowId,
    key: Key<'_>,
) -> Result<Inserted, StoreError> {
    let (list, stored) = code(structure, row, key);
    store.as_insertion(|| put_in_list(store, structure, list, &stored))
}

/// Adds a coded row to its list; whoever calls sees to it that the index is not trained anew meanwhile.
pub(crate) fn put_in_list<S: PageStore>(
    store: &S,
    structure: &Structure,
    list: u32,
    stored: &StoredRow,
) -> Result<Inserted, StoreError> {
    let head = structure.lists[list as usize].head;
    if chain::meta(store)?.epoch != structure.meta.epoch {
        return Ok(Inserted::Stale);
    }
    let mut edit = store.edit();
    let handle = edit.open(head)?;
    let is_ours = page::read::<ListHeader>(edit.bytes(handle), head, Kind::List)
        .is_ok_and(|header| header.epoch == structure.meta.epoch && header.page.owner.get() == list);
    if !is_ours {
        return Err(StoreError::Damaged { block: head, problem: format!("it is not the head of list {list}") });
    }
    put(store, &mut edit, structure.layout, handle, stored)?;
    edit.commit();
    Ok(Inserted::Done)
}

/// The list a row belongs to, and what is stored of it there.
pub fn code(structure: &Structure, row: RowId, key: Key<'_>) -> (u32, StoredRow) {
    let without_code = StoredRow { row, norm: 0.0, codes: Vec::new() };
    let Key::Vector(vector) = key else { return (NULL_LIST, without_code) };
    let Some(vector) = structure.normalised(vector) else { return (UNRANKED_LIST, without_code) };
    let mut rotated = structure.rotate_row(&vector);
    let list = structure.nearest_list(&rotated);
    let mut codes = vec![0; structure.layout.groups];
    structure.model.quantiser.encode(&mut rotated, &mut codes);
    let norm = if structure.layout.has_norms { (esr_vector::kernels().dot)(&vector, &vector) } else { 0.0 };
    (list, StoredRow { row, norm, codes })
}

/// Puts a row on the head of a list that an edit has opened. When the head is full, its rows move to a new second page.
///
/// # Errors
/// Those of the store.
fn put<S: PageStore>(
    store: &S,
    edit: &mut S::Edit<'_>,
    layout: Layout,
    head: usize,
    row: &StoredRow,
) -> Result<(), StoreError> {
    if block::put_row(layout, edit.bytes(head), row, Arrival::Alone) {
        return Ok(());
    }
    let (block, second) = chain::allocate(store, edit)?;
    move_to_second(edit, head, block, second);
    assert!(block::put_row(layout, edit.bytes(head), row, Arrival::Alone), "an empty page has no room for a row");
    Ok(())
}

/// Moves the rows of a head to a fresh page, which becomes the second one.
pub(crate) fn move_to_second<E: Edit>(edit: &mut E, head: usize, block: BlockNumber, second: usize) {
    let full = edit.bytes(head).to_vec();
    let copy = edit.bytes(second);
    copy.copy_from_slice(&full);
    page::write::<ListHeader>(copy).is_head = 0.into();
    page::write::<ListHeader>(copy).version = 0.into();
    let page = edit.bytes(head);
    page[size_of::<ListHeader>()..].fill(0);
    let header: &mut ListHeader = page::write(page);
    header.live = 0.into();
    header.fresh = 0.into();
    header.page.next = block.into();
}
