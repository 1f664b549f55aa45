//! Pages in memory, for tests: pedantic about locks, and able to crash after any edit.
//!
//! A page that is being changed may not be read, and a page that is being read may not be changed, as in PostgreSQL, where
//! one process would wait for itself. Every committed edit is kept, so that a test can rebuild what a crash would leave.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Deref;

use crate::store::{BlockNumber, CONTENT_BYTES, Edit, MAX_PAGES_PER_EDIT, PageStore, StoreError};

/// A committed edit.
#[derive(Debug, Clone)]
struct Record {
    pages: Vec<(BlockNumber, Vec<u8>)>,
    /// Pages there were then, written or not.
    block_count: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct MemoryStore {
    pages: RefCell<Vec<Vec<u8>>>,
    log: RefCell<Vec<Record>>,
    readers: RefCell<HashMap<BlockNumber, u32>>,
    writers: RefCell<HashMap<BlockNumber, ()>>,
    reads: Cell<u64>,
}

impl MemoryStore {
    /// Committed edits so far.
    pub fn edits(&self) -> usize {
        self.log.borrow().len()
    }

    /// Pages read so far.
    pub fn reads(&self) -> u64 {
        self.reads.get()
    }

    /// What a crash after the first `edits` edits leaves: their pages, and pages that the next edit had added to the file
    /// but not yet written.
    pub fn crashed_after(&self, edits: usize) -> Self {
        let log = self.log.borrow();
        let count = log.get(edits).or(log.last()).map_or(0, |record| record.block_count);
        let mut pages = vec![vec![0; CONTENT_BYTES]; count];
        for record in &log[..edits] {
            for (block, content) in &record.pages {
                pages[*block as usize].clone_from(content);
            }
        }
        Self { pages: RefCell::new(pages), log: RefCell::new(log[..edits].to_vec()), ..Self::default() }
    }

    /// Damages a page, as a failing disk would.
    pub fn damage(&self, block: BlockNumber, change: impl FnOnce(&mut [u8])) {
        change(&mut self.pages.borrow_mut()[block as usize]);
    }
}

/// A page being read.
pub struct MemoryPage<'a> {
    store: &'a MemoryStore,
    block: BlockNumber,
    content: Vec<u8>,
}

impl Deref for MemoryPage<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.content
    }
}

impl Drop for MemoryPage<'_> {
    fn drop(&mut self) {
        *self.store.readers.borrow_mut().get_mut(&self.block).expect("counted when read") -= 1;
    }
}

/// An edit in memory.
pub struct MemoryEdit<'a> {
    store: &'a MemoryStore,
    pages: Vec<(BlockNumber, Vec<u8>)>,
}

impl PageStore for MemoryStore {
    type Page<'a> = MemoryPage<'a>;
    type Edit<'a> = MemoryEdit<'a>;

    fn block_count(&self) -> BlockNumber {
        self.pages.borrow().len() as BlockNumber
    }

    fn read(&self, block: BlockNumber) -> Result<MemoryPage<'_>, StoreError> {
        assert!(!self.writers.borrow().contains_key(&block), "block {block} is read while it is being changed");
        let pages = self.pages.borrow();
        let content =
            pages.get(block as usize).ok_or(StoreError::Missing { block, pages: self.block_count() })?.clone();
        self.reads.set(self.reads.get() + 1);
        *self.readers.borrow_mut().entry(block).or_insert(0) += 1;
        Ok(MemoryPage { store: self, block, content })
    }

    fn edit(&self) -> MemoryEdit<'_> {
        MemoryEdit { store: self, pages: Vec::new() }
    }

    fn check_for_interrupts(&self) {
        assert!(self.readers.borrow().values().all(|&readers| readers == 0), "interrupted while a page is locked");
    }
}

impl MemoryEdit<'_> {
    fn lock(&mut self, block: BlockNumber, content: Vec<u8>) -> usize {
        assert!(self.pages.len() < MAX_PAGES_PER_EDIT, "an edit of more than {MAX_PAGES_PER_EDIT} pages");
        let readers = self.store.readers.borrow().get(&block).copied().unwrap_or(0);
        assert!(readers == 0, "block {block} is changed while it is being read");
        let before = self.store.writers.borrow_mut().insert(block, ());
        assert!(before.is_none(), "block {block} is changed by two edits at once");
        self.pages.push((block, content));
        self.pages.len() - 1
    }
}

impl Edit for MemoryEdit<'_> {
    fn open(&mut self, block: BlockNumber) -> Result<usize, StoreError> {
        if let Some(handle) = self.pages.iter().position(|(opened, _)| *opened == block) {
            return Ok(handle);
        }
        let pages = self.store.block_count();
        let content = self.store.pages.borrow().get(block as usize).cloned();
        Ok(self.lock(block, content.ok_or(StoreError::Missing { block, pages })?))
    }

    fn extend(&mut self) -> Result<(BlockNumber, usize), StoreError> {
        let block = self.store.block_count();
        self.store.pages.borrow_mut().push(vec![0; CONTENT_BYTES]);
        Ok((block, self.lock(block, vec![0; CONTENT_BYTES])))
    }

    fn bytes(&mut self, handle: usize) -> &mut [u8] {
        &mut self.pages[handle].1
    }

    fn commit(mut self) {
        let pages = std::mem::take(&mut self.pages);
        for (block, content) in &pages {
            self.store.pages.borrow_mut()[*block as usize].clone_from(content);
            self.store.writers.borrow_mut().remove(block);
        }
        let block_count = self.store.block_count() as usize;
        self.store.log.borrow_mut().push(Record { pages, block_count });
    }
}

impl Drop for MemoryEdit<'_> {
    fn drop(&mut self) {
        for (block, _) in &self.pages {
            self.store.writers.borrow_mut().remove(block);
        }
    }
}
