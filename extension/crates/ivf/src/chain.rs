//! Pages handed out and taken back, and byte streams over chains of pages.

use zerocopy::FromBytes;

use crate::page::{self, Kind, META_BLOCK, Meta, PageHeader};
use crate::store::{BlockNumber, CONTENT_BYTES, Edit, NO_BLOCK, PageStore, StoreError};

const HEADER: usize = size_of::<PageHeader>();

/// A page for new content, all zero, as part of an edit: a free one, or one more at the end. Opens the meta page, which
/// must therefore be the last of the edit's pages that others may want.
///
/// # Errors
/// Those of the store, or a damaged chain of free pages.
pub fn allocate<S: PageStore>(store: &S, edit: &mut S::Edit<'_>) -> Result<(BlockNumber, usize), StoreError> {
    // Usually nothing is free, and then nobody has to wait for the meta page.
    if meta(store)?.free.get() == NO_BLOCK {
        return edit.extend();
    }
    allocate_within(edit)
}

/// Like [`allocate`], for an edit that has opened the meta page already.
///
/// # Errors
/// As [`allocate`].
pub fn allocate_within<E: Edit>(edit: &mut E) -> Result<(BlockNumber, usize), StoreError> {
    let meta_handle = edit.open(META_BLOCK)?;
    let free = page::write::<Meta>(edit.bytes(meta_handle)).free.get();
    if free == NO_BLOCK {
        return edit.extend();
    }
    let handle = edit.open(free)?;
    let next = page::read::<PageHeader>(edit.bytes(handle), free, Kind::Free)?.next;
    page::write::<Meta>(edit.bytes(meta_handle)).free = next;
    edit.bytes(handle).fill(0);
    Ok((free, handle))
}

/// Puts pages that nothing points to on the chain of free pages.
///
/// # Errors
/// Those of the store.
pub fn free<S: PageStore>(store: &S, blocks: &[BlockNumber]) -> Result<(), StoreError> {
    for &block in blocks {
        let mut edit = store.edit();
        let meta_handle = edit.open(META_BLOCK)?;
        let handle = edit.open(block)?;
        let next = page::write::<Meta>(edit.bytes(meta_handle)).free;
        let bytes = edit.bytes(handle);
        bytes.fill(0);
        *page::write(bytes) = PageHeader::linked(Kind::Free, 0, next.get());
        page::write::<Meta>(edit.bytes(meta_handle)).free = block.into();
        edit.commit();
    }
    Ok(())
}

/// The meta page.
///
/// # Errors
/// If block 0 is none.
pub fn meta<S: PageStore>(store: &S) -> Result<Meta, StoreError> {
    let bytes = store.read(META_BLOCK)?;
    page::read::<Meta>(&bytes, META_BLOCK, Kind::Meta).copied()
}

/// Changes the meta page alone.
///
/// # Errors
/// As [`meta`].
pub fn change_meta<S: PageStore>(store: &S, change: impl FnOnce(&mut Meta)) -> Result<(), StoreError> {
    let mut edit = store.edit();
    let handle = edit.open(META_BLOCK)?;
    page::read::<Meta>(edit.bytes(handle), META_BLOCK, Kind::Meta)?;
    change(page::write(edit.bytes(handle)));
    edit.commit();
    Ok(())
}

/// Writes bytes over as many new pages as they need, last page first, so that every link leads to a page that is there.
/// Returns the first page.
///
/// # Errors
/// Those of the store.
pub fn write_stream<S: PageStore>(store: &S, kind: Kind, bytes: &[u8]) -> Result<BlockNumber, StoreError> {
    let mut next = NO_BLOCK;
    for (position, chunk) in bytes.chunks(CONTENT_BYTES - HEADER).enumerate().rev() {
        let mut edit = store.edit();
        let (block, handle) = allocate(store, &mut edit)?;
        let page = edit.bytes(handle);
        *page::write(page) = PageHeader::linked(kind, position as u32, next);
        page[HEADER..HEADER + chunk.len()].copy_from_slice(chunk);
        edit.commit();
        next = block;
    }
    Ok(next)
}

/// Reads what [`write_stream`] wrote.
///
/// # Errors
/// If a page of the chain is not what it should be.
pub fn read_stream<S: PageStore>(
    store: &S,
    kind: Kind,
    first: BlockNumber,
    length: usize,
) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::with_capacity(length);
    let mut block = first;
    for position in 0.. {
        if bytes.len() >= length {
            break;
        }
        let page = store.read(block)?;
        let header: &PageHeader = page::read(&page, block, kind)?;
        if header.owner.get() != position {
            let problem = format!("position {} of a chain where {position} belongs", header.owner.get());
            return Err(StoreError::Damaged { block, problem });
        }
        let take = (length - bytes.len()).min(CONTENT_BYTES - HEADER);
        bytes.extend_from_slice(&page[HEADER..HEADER + take]);
        block = header.next.get();
    }
    Ok(bytes)
}

/// The pages of a chain of one kind, for those who give them back.
///
/// # Errors
/// If a page of the chain is not what it should be.
pub fn blocks_of<S: PageStore>(store: &S, kind: Kind, first: BlockNumber) -> Result<Vec<BlockNumber>, StoreError> {
    let mut blocks = Vec::new();
    let mut block = first;
    let most = store.block_count();
    while block != NO_BLOCK {
        let page = store.read(block)?;
        let header: &PageHeader = page::read(&page, block, kind)?;
        blocks.push(block);
        if blocks.len() > most as usize {
            return Err(StoreError::Damaged { block, problem: "its chain of pages never ends".into() });
        }
        block = header.next.get();
    }
    Ok(blocks)
}

/// Whether a page was added to the file and never written.
pub fn is_blank(bytes: &[u8]) -> bool {
    PageHeader::ref_from_prefix(bytes).is_ok_and(|_| bytes[..HEADER].iter().all(|&byte| byte == 0))
}
