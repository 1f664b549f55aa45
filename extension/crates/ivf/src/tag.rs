//! Which model's embeddings an index holds: those of the first that came with a tag.

use crate::chain;
use crate::page::{self, Kind, META_BLOCK, Meta};
use crate::store::{Edit, PageStore, StoreError};

/// Claims an index for a model if no other has; returns the tag that is there then.
///
/// # Errors
/// Those of the store.
pub fn set_tag<S: PageStore>(store: &S, tag: u64) -> Result<u64, StoreError> {
    let known = chain::meta(store)?.tag.get();
    if known != 0 || tag == 0 {
        return Ok(known);
    }
    let mut edit = store.edit();
    let handle = edit.open(META_BLOCK)?;
    page::read::<Meta>(edit.bytes(handle), META_BLOCK, Kind::Meta)?;
    let meta: &mut Meta = page::write(edit.bytes(handle));
    // Another session may have been faster.
    if meta.tag.get() == 0 {
        meta.tag = tag.into();
    }
    let tag = meta.tag.get();
    edit.commit();
    Ok(tag)
}
