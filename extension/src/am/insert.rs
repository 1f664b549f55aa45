//! `aminsert`: a new row. Knows what PostgreSQL passes and when to try again.
//!
//! Unsafe is allowed here: arguments come as PostgreSQL's pointers.
#![allow(unsafe_code)]

use esr_ivf::{Inserted, Key, RowId, Structure};
use pgrx::pg_sys::{self, Datum};

use super::cache;
use super::error::IndexError;
use super::key::{Space, with_vector};
use super::pages::IndexPages;
use super::relation::{Index, row_id};
use crate::error::or_raise;
use crate::vector::Vector;
use crate::vector::tag::Tag;

/// Adds a row; NULL and the zero vector have their place in the index too. Never says anything about uniqueness.
#[pgrx::pg_guard]
#[allow(clippy::too_many_arguments)] // PostgreSQL's own
pub unsafe extern "C-unwind" fn aminsert(
    index: pg_sys::Relation,
    values: *mut Datum,
    nulls: *mut bool,
    tid: pg_sys::ItemPointer,
    _table: pg_sys::Relation,
    _check_unique: pg_sys::IndexUniqueCheck::Type,
    _is_unchanged: bool,
    _info: *mut pg_sys::IndexInfo,
) -> bool {
    // SAFETY: PostgreSQL passes an open index, one value, and where its row lies.
    unsafe {
        let (index, row) = (Index::new(index), row_id(*tid));
        let result = if *nulls {
            insert(index, row, Key::Null, |_, _| Ok(()))
        } else {
            with_vector(*values, |vector| {
                let key = Key::Vector(vector.elements);
                insert(index, row, key, |pages, structure| admit(index, pages, structure, &vector))
            })
        };
        or_raise(result);
    }
    false
}

/// Inserts under the current structure; another session may have replaced it between looking and inserting.
fn insert(
    index: Index,
    row: RowId,
    key: Key<'_>,
    admit: impl Fn(&IndexPages, &Structure) -> Result<(), IndexError>,
) -> Result<(), IndexError> {
    let pages = IndexPages::of(index);
    loop {
        let structure = cache::structure(index, &pages)?;
        admit(&pages, &structure)?;
        match esr_ivf::insert(&pages, &structure, row, key).map_err(index.error())? {
            Inserted::Done => return Ok(()),
            Inserted::Stale => crate::server::check_interrupts(),
        }
    }
}

/// Refuses a vector that cannot be in the index. The first tagged one claims the index for its model.
fn admit(index: Index, pages: &IndexPages, structure: &Structure, vector: &Vector<'_>) -> Result<(), IndexError> {
    let held = Tag(structure.tag());
    let mut space = Space::new(index, structure.dimension(), held);
    space.admit(vector)?;
    if space.tag != held {
        space.tag = Tag(esr_ivf::set_tag(pages, vector.tag.0).map_err(index.error())?);
        space.admit(vector)?;
    }
    Ok(())
}
