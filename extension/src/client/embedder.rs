//! Which embedder process a session talks to.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use rustix::process::Pid;

/// The embedder process that a session talks to.
pub struct Embedder {
    pid: Pid,
    /// Differs from that of every other embedder this session has talked to.
    pub generation: u64,
}

impl Embedder {
    /// The one behind a new connection: the one that another connection of this session leads to, or a new one.
    pub fn of(pid: Pid) -> Rc<Self> {
        thread_local! {
            static LATEST: RefCell<Weak<Embedder>> = const { RefCell::new(Weak::new()) };
            static GENERATIONS: Cell<u64> = const { Cell::new(0) };
        }
        if let Some(same) = LATEST.with_borrow(Weak::upgrade).filter(|latest| latest.pid == pid) {
            return same;
        }
        GENERATIONS.set(GENERATIONS.get() + 1);
        let new = Rc::new(Self { pid, generation: GENERATIONS.get() });
        LATEST.set(Rc::downgrade(&new));
        new
    }
}
