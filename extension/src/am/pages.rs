//! The index's pages: PostgreSQL's buffers behind `esr_ivf::PageStore`. Knows buffers and WAL, not what is on a page.
//!
//! A page is PostgreSQL's 24-byte header and 8,168 bytes of ours. `pd_lower` is where our content ends and only zeros follow,
//! because generic WAL does not log what lies between `pd_lower` and `pd_upper`.
//!
//! Unsafe is allowed here. A page is pinned and locked from `read` or `open` until its guard is dropped, so the bytes
//! lent out stay where they are and as they are. While a panic unwinds, guards do nothing: what unwinds is an error of the
//! statement, whose abort releases pins and locks; releasing a lock before that would count PostgreSQL's interrupt holds,
//! which its error reporting has already reset, below zero.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;

use esr_ivf::store::{BlockNumber, CONTENT_BYTES, MAX_PAGES_PER_EDIT};
use esr_ivf::{Edit, PageStore, StoreError};
use pgrx::pg_sys::{self, Buffer};

use super::pg_missing;
use super::recent_buffers::RecentBuffers;
use super::relation::Index;

const HEADER_BYTES: usize = 24;

const _: () = assert!(HEADER_BYTES == std::mem::offset_of!(pg_sys::PageHeaderData, pd_linp));
const _: () = assert!(HEADER_BYTES + CONTENT_BYTES == pg_sys::BLCKSZ as usize);

/// Pages of one fork of an index.
pub struct IndexPages {
    index: Index,
    fork: pg_sys::ForkNumber::Type,
    strategy: pg_sys::BufferAccessStrategy,
    purpose: Purpose,
    /// As many pages as there were when it was last asked; indexes never shrink.
    known_blocks: Cell<BlockNumber>,
    /// Pages this process had read from disk when this was made.
    disk_reads: i64,
    recent: Option<Rc<RecentBuffers>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Reading and writing while others do.
    Life,
    /// The same in VACUUM, which sleeps between pages.
    Vacuum,
    /// Writing an index that nobody else sees yet: edits are not logged one by one and cannot be undone.
    Build,
}

impl IndexPages {
    fn new(index: Index, purpose: Purpose) -> Self {
        let fork = pg_sys::ForkNumber::MAIN_FORKNUM;
        Self {
            index,
            fork,
            strategy: std::ptr::null_mut(),
            purpose,
            known_blocks: Cell::new(0),
            disk_reads: disk_reads(),
            recent: None,
        }
    }

    /// Pages of an index in use.
    pub fn of(index: Index) -> Self {
        Self::new(index, Purpose::Life)
    }

    /// Pages for a search, which remembers where they were.
    pub fn for_search(index: Index, recent: Rc<RecentBuffers>) -> Self {
        Self { recent: Some(recent), ..Self::of(index) }
    }

    /// Pages for VACUUM.
    ///
    /// # Safety
    /// `strategy` is VACUUM's ring of buffers, or NULL.
    pub unsafe fn for_vacuum(index: Index, strategy: pg_sys::BufferAccessStrategy) -> Self {
        Self { strategy, ..Self::new(index, Purpose::Vacuum) }
    }

    /// Pages for building an index in its main fork, or the empty index that an unlogged one is reset to.
    pub fn for_build(index: Index, is_init_fork: bool) -> Self {
        let mut pages = Self::new(index, Purpose::Build);
        if is_init_fork {
            pages.fork = pg_sys::ForkNumber::INIT_FORKNUM;
        }
        pages
    }

    /// Logs all pages after a build.
    pub fn log_all(&self) {
        let blocks = self.count();
        // SAFETY: the relation is open and no other session sees it yet. An init fork is logged whatever the relation is:
        // it is copied over the main fork after a crash.
        unsafe {
            if self.fork == pg_sys::ForkNumber::INIT_FORKNUM || pg_missing::needs_wal(self.index.raw()) {
                pg_sys::log_newpage_range(self.index.raw(), self.fork, 0, blocks, true);
            }
        }
    }

    fn count(&self) -> BlockNumber {
        // SAFETY: the relation is open.
        let blocks = unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.index.raw(), self.fork) };
        self.known_blocks.set(blocks);
        blocks
    }

    /// Pins and locks a page.
    fn lock(&self, block: BlockNumber, mode: u32) -> Result<Buffer, StoreError> {
        if block >= self.known_blocks.get() {
            let pages = self.count();
            if block >= pages {
                return Err(StoreError::Missing { block, pages });
            }
        }
        let recent = self.recent.as_ref().map_or(0, |recent| recent.get(block));
        let page = pg_missing::Page { relation: self.index.raw(), fork: self.fork, block, recent };
        // SAFETY: the relation is open and the block exists.
        let buffer = unsafe { pg_missing::read_and_lock(page, self.strategy, mode as i32) };
        if let Some(buffers) = &self.recent
            && buffer != recent
        {
            buffers.set(block, buffer);
        }
        Ok(buffer)
    }

    /// Adds a page, pinned and locked for writing.
    fn extend(&self) -> Buffer {
        let relation = self.index.raw();
        // SAFETY: the relation is open. Another session could add a page at the same time, hence the lock of the
        // relation for extension; it is held until the page is locked, so that the page is still empty then.
        unsafe {
            let mode = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;
            let is_shared = !pg_missing::is_local(relation);
            if is_shared {
                pg_sys::LockRelationForExtension(relation, mode);
            }
            let normal = pg_sys::ReadBufferMode::RBM_NORMAL;
            let buffer = pg_sys::ReadBufferExtended(relation, self.fork, pg_missing::NEW_BLOCK, normal, self.strategy);
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_EXCLUSIVE as i32);
            if is_shared {
                pg_sys::UnlockRelationForExtension(relation, mode);
            }
            buffer
        }
    }
}

impl IndexPages {
    /// Holds a heavyweight lock on the meta page, which no reader takes. An error releases it with the transaction; the
    /// deadlock detector knows it.
    fn with_page_lock<R>(&self, mode: i32, work: impl FnOnce() -> R) -> R {
        // SAFETY: the relation is open; the lock is released with the same arguments.
        unsafe {
            pg_sys::LockPage(self.index.raw(), esr_ivf::page::META_BLOCK, mode);
            let result = work();
            pg_sys::UnlockPage(self.index.raw(), esr_ivf::page::META_BLOCK, mode);
            result
        }
    }
}

impl PageStore for IndexPages {
    type Page<'a> = LockedPage<'a>;
    type Edit<'a> = PageEdit<'a>;

    fn block_count(&self) -> BlockNumber {
        self.count()
    }

    fn read(&self, block: BlockNumber) -> Result<LockedPage<'_>, StoreError> {
        let buffer = self.lock(block, pg_sys::BUFFER_LOCK_SHARE)?;
        // SAFETY: the buffer is pinned and share-locked until the guard made here is dropped.
        let page = unsafe {
            let page = pg_sys::BufferGetPage(buffer);
            LockedPage { buffer, content: &*content_of(page), is_ours: pg_sys::PageIsNew(page) || is_ours(page) }
        };
        if page.is_ours { Ok(page) } else { Err(not_ours(block)) }
    }

    fn is_cold(&self) -> bool {
        disk_reads() != self.disk_reads
    }

    fn prefetch(&self, block: BlockNumber) {
        if block < self.known_blocks.get() {
            // SAFETY: the relation is open and the block exists.
            unsafe { pg_sys::PrefetchBuffer(self.index.raw(), self.fork, block) };
        }
    }

    fn edit(&self) -> PageEdit<'_> {
        PageEdit { store: self, record: std::ptr::null_mut(), pages: [None; MAX_PAGES_PER_EDIT] }
    }

    fn as_insertion<R>(&self, insert: impl FnOnce() -> R) -> R {
        self.with_page_lock(pg_sys::ShareLock as i32, insert)
    }

    fn without_insertions<R>(&self, work: impl FnOnce() -> R) -> R {
        self.with_page_lock(pg_sys::ExclusiveLock as i32, work)
    }

    fn check_for_interrupts(&self) {
        if self.purpose == Purpose::Vacuum {
            // SAFETY: no page is locked, says `PageStore`. Checks for interrupts too.
            unsafe { pg_sys::vacuum_delay_point() };
        } else {
            crate::server::check_interrupts();
        }
    }
}

/// Pages this process has read from disk, or from the kernel's cache of it.
fn disk_reads() -> i64 {
    // SAFETY: a counter of this process.
    unsafe { pg_sys::pgBufferUsage.shared_blks_read }
}

/// The bytes of a page that are ours.
///
/// # Safety
/// `page` is a whole page.
unsafe fn content_of(page: pg_sys::Page) -> *mut [u8] {
    // SAFETY: a page has BLCKSZ bytes.
    std::ptr::slice_from_raw_parts_mut(unsafe { page.cast::<u8>().add(HEADER_BYTES) }, CONTENT_BYTES)
}

/// Whether a page's header is as [`mark_end`] leaves it.
///
/// # Safety
/// `page` is a whole page that does not change meanwhile.
unsafe fn is_ours(page: pg_sys::Page) -> bool {
    // SAFETY: as the caller says; every page starts with a header.
    let header = unsafe { &*page.cast::<pg_sys::PageHeaderData>() };
    let is_whole = [header.pd_upper, header.pd_special].iter().all(|&end| u32::from(end) == pg_sys::BLCKSZ);
    is_whole && (HEADER_BYTES..=pg_sys::BLCKSZ as usize).contains(&header.pd_lower.into())
}

/// Says where the content of a page ends. What follows is zero, and PostgreSQL leaves zeros between `pd_lower` and `pd_upper` out
/// of its log (`log_newpage`, full page images, generic records) and writes them again when it replays it.
///
/// # Safety
/// `page` is one of our pages, locked for writing.
unsafe fn mark_end(page: pg_sys::Page) {
    const STEP: usize = 64;
    // SAFETY: as the caller says.
    unsafe {
        let content = &*content_of(page);
        let zeros = content.rchunks(STEP).take_while(|chunk| chunk.iter().all(|&byte| byte == 0)).count() * STEP;
        (*page.cast::<pg_sys::PageHeaderData>()).pd_lower = (HEADER_BYTES + content.len().saturating_sub(zeros)) as u16;
    }
}

/// Makes a page one of ours, all zero.
///
/// # Safety
/// `page` is a whole page, locked for writing.
unsafe fn initialise(page: pg_sys::Page) {
    // SAFETY: as the caller says.
    unsafe { pg_sys::PageInit(page, pg_sys::BLCKSZ as usize, 0) };
}

fn not_ours(block: BlockNumber) -> StoreError {
    StoreError::Damaged { block, problem: "its header is not that of a page of this index".into() }
}

/// A page that is pinned and share-locked.
pub struct LockedPage<'a> {
    buffer: Buffer,
    content: &'a [u8],
    is_ours: bool,
}

impl Deref for LockedPage<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.content
    }
}

impl Drop for LockedPage<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: pinned and locked by `read`.
            unsafe { pg_sys::UnlockReleaseBuffer(self.buffer) };
        }
    }
}

/// A change of a few pages: one generic WAL record.
pub struct PageEdit<'a> {
    store: &'a IndexPages,
    /// NULL before the first page, and always in a build.
    record: *mut pg_sys::GenericXLogState,
    pages: [Option<OpenPage>; MAX_PAGES_PER_EDIT],
}

#[derive(Clone, Copy)]
struct OpenPage {
    block: BlockNumber,
    buffer: Buffer,
    /// The copy that the WAL record is made from; in a build, the page itself.
    image: pg_sys::Page,
}

impl PageEdit<'_> {
    /// Takes a locked page into the change.
    fn add(&mut self, block: BlockNumber, buffer: Buffer) -> usize {
        let handle = self.pages.iter().position(Option::is_none).expect("an edit has at most four pages");
        // SAFETY: the buffer is pinned and locked for writing until the edit ends, and the record with it.
        let image = unsafe {
            let is_new = pg_sys::PageIsNew(pg_sys::BufferGetPage(buffer));
            let image = if self.store.purpose == Purpose::Build {
                pg_sys::BufferGetPage(buffer)
            } else {
                if self.record.is_null() {
                    self.record = pg_sys::GenericXLogStart(self.store.index.raw());
                }
                let flags = if is_new { pg_sys::GENERIC_XLOG_FULL_IMAGE } else { 0 };
                pg_sys::GenericXLogRegisterBuffer(self.record, buffer, flags as i32)
            };
            if is_new {
                initialise(image);
            }
            image
        };
        self.pages[handle] = Some(OpenPage { block, buffer, image });
        handle
    }

    fn unlock(&mut self) {
        for page in self.pages.iter_mut().filter_map(Option::take) {
            // SAFETY: pinned and locked by `open` or `extend`.
            unsafe { pg_sys::UnlockReleaseBuffer(page.buffer) };
        }
    }
}

impl Edit for PageEdit<'_> {
    fn open(&mut self, block: BlockNumber) -> Result<usize, StoreError> {
        if let Some(handle) = self.pages.iter().position(|page| page.is_some_and(|page| page.block == block)) {
            return Ok(handle);
        }
        let buffer = self.store.lock(block, pg_sys::BUFFER_LOCK_EXCLUSIVE)?;
        // SAFETY: the buffer is pinned and locked.
        let is_usable = unsafe {
            let page = pg_sys::BufferGetPage(buffer);
            pg_sys::PageIsNew(page) || is_ours(page)
        };
        if !is_usable {
            // SAFETY: pinned and locked above.
            unsafe { pg_sys::UnlockReleaseBuffer(buffer) };
            return Err(not_ours(block));
        }
        Ok(self.add(block, buffer))
    }

    fn extend(&mut self) -> Result<(BlockNumber, usize), StoreError> {
        let buffer = self.store.extend();
        // SAFETY: the buffer is pinned.
        let block = unsafe { pg_sys::BufferGetBlockNumber(buffer) };
        self.store.known_blocks.set(block + 1);
        Ok((block, self.add(block, buffer)))
    }

    fn bytes(&mut self, handle: usize) -> &mut [u8] {
        let page = self.pages[handle].as_ref().expect("a handle of this edit");
        // SAFETY: `add` says who else sees the image: nobody until the edit ends.
        unsafe { &mut *content_of(page.image) }
    }

    fn commit(mut self) {
        for page in self.pages.iter().flatten() {
            // SAFETY: `add` says who else sees the image: nobody until the edit ends.
            unsafe { mark_end(page.image) };
        }
        if self.store.purpose == Purpose::Build {
            for page in self.pages.iter().flatten() {
                // SAFETY: pinned and locked for writing.
                unsafe { pg_sys::MarkBufferDirty(page.buffer) };
            }
        } else if !self.record.is_null() {
            // SAFETY: the record was started by this edit and is used up here.
            unsafe { pg_sys::GenericXLogFinish(self.record) };
            self.record = std::ptr::null_mut();
        }
        self.unlock();
    }
}

impl Drop for PageEdit<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        if !self.record.is_null() {
            // SAFETY: the record was started by this edit, which was not committed.
            unsafe { pg_sys::GenericXLogAbort(self.record) };
        }
        self.unlock();
    }
}
