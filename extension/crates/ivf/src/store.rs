//! What the index asks of whoever keeps its pages and its rows. Knows neither page formats nor PostgreSQL.
//!
//! One [`Edit`] is one atomic, durable change of at most [`MAX_PAGES_PER_EDIT`] pages: link and target together. Dropping
//! an edit undoes it. Locks are taken in this order, so that nobody waits in a circle: pages of a list in the order of
//! their chain, then directory pages, then the meta page, then fresh pages.

use std::ops::Deref;

/// Number of a page within the index.
pub type BlockNumber = u32;

/// "No page", as the end of a chain.
pub const NO_BLOCK: BlockNumber = u32::MAX;

/// Bytes of a page that belong to the index: PostgreSQL's 8,192 less its page header.
pub const CONTENT_BYTES: usize = 8192 - 24;

/// What one generic WAL record holds (`MAX_GENERIC_XLOG_PAGES`).
pub const MAX_PAGES_PER_EDIT: usize = 4;

/// Where a row lies in its table: PostgreSQL's item pointer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId {
    /// Page of the table.
    pub block: u32,
    /// Line pointer on that page.
    pub offset: u16,
}

/// What is wrong with the pages, whoever's fault that is. Most mean a damaged index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A page that is not what the page pointing to it says.
    #[error("block {block} is damaged: {problem}")]
    Damaged {
        /// The page.
        block: BlockNumber,
        /// What is wrong with it.
        problem: String,
    },
    /// A pointer leads beyond the last page.
    #[error("block {block} does not exist; the index has {pages} blocks")]
    Missing {
        /// The page asked for.
        block: BlockNumber,
        /// How many there are.
        pages: BlockNumber,
    },
    /// Written by another release.
    #[error("the index has format {found}, this release reads format {expected}")]
    Format {
        /// What the meta page says.
        found: u16,
        /// What this code reads.
        expected: u16,
    },
}

/// Pages, read under a share lock and changed by edits.
pub trait PageStore {
    /// A page's content, pinned and share-locked while this lives.
    type Page<'a>: Deref<Target = [u8]>
    where
        Self: 'a;
    /// An unfinished change.
    type Edit<'a>: Edit
    where
        Self: 'a;

    /// Pages there are.
    fn block_count(&self) -> BlockNumber;

    /// Reads a page: [`CONTENT_BYTES`] bytes; all zero if the page was added and never written (a crash between the two).
    ///
    /// # Errors
    /// [`StoreError::Missing`] if there is no such page.
    fn read(&self, block: BlockNumber) -> Result<Self::Page<'_>, StoreError>;

    /// Whether pages come from disk, so that asking for them early is worth the trouble.
    fn is_cold(&self) -> bool {
        false
    }

    /// Says that a page will be read soon.
    fn prefetch(&self, block: BlockNumber) {
        let _ = block;
    }

    /// Starts a change.
    fn edit(&self) -> Self::Edit<'_>;

    /// Runs one insertion; many may run at once.
    fn as_insertion<R>(&self, insert: impl FnOnce() -> R) -> R {
        insert()
    }

    /// Runs something while no insertion does.
    fn without_insertions<R>(&self, work: impl FnOnce() -> R) -> R {
        work()
    }

    /// Gives the caller's session a chance to be cancelled; called between pages, never while one is locked.
    fn check_for_interrupts(&self) {}
}

/// A change of up to [`MAX_PAGES_PER_EDIT`] pages that becomes visible and durable as a whole.
pub trait Edit {
    /// Locks a page for writing; the handle is for [`Edit::bytes`]. Opening a page twice gives the same handle.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if there is no such page.
    fn open(&mut self, block: BlockNumber) -> Result<usize, StoreError>;

    /// Adds a page, all zero, and locks it.
    ///
    /// # Errors
    /// Only those of the medium.
    fn extend(&mut self) -> Result<(BlockNumber, usize), StoreError>;

    /// The content of an opened page as this edit will leave it.
    fn bytes(&mut self, handle: usize) -> &mut [u8];

    /// Makes the change visible and durable, and unlocks its pages.
    fn commit(self);
}

/// Exact distances to the rows of the table, for the last step of a search.
pub trait ExactVectors {
    /// The distance of a row to the query under the index's metric as the operator computes it; `None` if the row is
    /// not visible to the search, or is gone.
    fn distance(&mut self, row: RowId) -> Option<f64>;

    /// Says that a row will probably be asked for soon: a few are announced ahead of each that is asked for.
    fn announce(&mut self, row: RowId) {
        let _ = row;
    }

    /// What has been announced and not asked for will not be asked for soon after all.
    fn forget(&mut self) {}
}
