//! The structures of indexes (rotation, codebook, centroids) that this backend keeps in memory between statements.
//! Knows when to forget them; whether one is still current is decided by `esr_ivf::current` from the meta page.
//!
//! Unsafe is allowed here: PostgreSQL calls back when it forgets a relation.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;

use esr_ivf::{PageStore, Structure};
use lru::LruCache;
use pgrx::pg_sys::{self, Datum, Oid};

use super::error::IndexError;
use super::pages::IndexPages;
use super::recent_buffers::RecentBuffers;
use super::relation::Index;

/// Most memory that structures may take together; one is kept whatever its size.
const MAX_BYTES: usize = 256 << 20;

/// Relations whose pages' buffers are remembered.
const MAX_RECENT: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// A relation and the file that holds it: REINDEX and TRUNCATE give it another file.
pub type Key = (Oid, u32);

thread_local! {
    static STRUCTURES: RefCell<LruCache<Key, Arc<Structure>>> = RefCell::new(LruCache::unbounded());
    static RECENT: RefCell<LruCache<Key, Rc<RecentBuffers>>> = RefCell::new(LruCache::new(MAX_RECENT));
    static IS_REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// The structure of an index as its pages have it now.
pub fn structure(index: Index, pages: &impl PageStore) -> Result<Arc<Structure>, IndexError> {
    register();
    let key = (index.oid(), index.file_number());
    // Taken out, not borrowed: reading pages may make PostgreSQL forget relations, which calls `forget`.
    let mut cached = STRUCTURES.with_borrow_mut(|structures| structures.pop(&key));
    let structure = esr_ivf::current(pages, &mut cached).map_err(index.error())?;
    STRUCTURES.with_borrow_mut(|structures| {
        structures.put(key, Arc::clone(&structure));
        let bytes = |structures: &LruCache<Key, Arc<Structure>>| -> usize {
            structures.iter().map(|(_, structure)| structure.memory_bytes()).sum()
        };
        while structures.len() > 1 && bytes(structures) > MAX_BYTES {
            structures.pop_lru();
        }
    });
    Ok(structure)
}

/// Pages of an index for a search.
pub fn pages(index: Index) -> IndexPages {
    IndexPages::for_search(index, recent_buffers((index.oid(), index.file_number())))
}

/// Where pages of a relation were, in a file of it.
pub fn recent_buffers(key: Key) -> Rc<RecentBuffers> {
    RECENT.with_borrow_mut(|recent| Rc::clone(recent.get_or_insert(key, Rc::default)))
}

fn register() {
    if !IS_REGISTERED.replace(true) {
        // SAFETY: the function stays where it is, because PostgreSQL never unloads a library.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(forget), Datum::from(0)) };
    }
}

/// A relation was changed or dropped; all of them if the id is 0.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn forget(_argument: Datum, relation: Oid) {
    STRUCTURES.with_borrow_mut(|structures| {
        if relation == pg_sys::InvalidOid {
            structures.clear();
            return;
        }
        let gone: Vec<Key> = structures.iter().map(|(key, _)| *key).filter(|(oid, _)| *oid == relation).collect();
        for key in gone {
            structures.pop(&key);
        }
    });
}
