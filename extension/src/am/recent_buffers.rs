//! The buffers that pages of a relation were in when this backend last read them: mostly they still are, and asking for a
//! certain buffer is cheaper than looking a page up.

use std::cell::RefCell;

use pgrx::pg_sys::{BlockNumber, Buffer};

/// Pages remembered of a relation, four bytes each. Of larger ones, pages this far apart share a place.
const MOST: usize = 1 << 18;

/// See the module. What it says is a guess; whoever uses it has PostgreSQL check that the page is there.
#[derive(Default)]
pub struct RecentBuffers(RefCell<Vec<Buffer>>);

impl RecentBuffers {
    /// The buffer that a page was in; 0 if that is not known.
    #[inline]
    pub fn get(&self, block: BlockNumber) -> Buffer {
        self.0.borrow().get(block as usize % MOST).copied().unwrap_or_default()
    }

    /// Remembers where a page is.
    #[inline]
    pub fn set(&self, block: BlockNumber, buffer: Buffer) {
        let place = block as usize % MOST;
        let mut buffers = self.0.borrow_mut();
        if buffers.len() <= place {
            buffers.resize(place + 1, 0);
        }
        buffers[place] = buffer;
    }
}
