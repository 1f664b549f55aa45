//! Lets only so many threads decode at a time: more than there are cores gain nothing, and each may hold minutes of sound at
//! the file's own rate. Knows nothing of what is done inside.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// How often one who waits looks whether its answer is still wanted.
const LOOK_UP: Duration = Duration::from_millis(50);

/// The places that are left.
pub struct Gate {
    free: Mutex<usize>,
    left: Condvar,
}

/// A place, until it is dropped.
pub struct Place<'a>(&'a Gate);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) += 1;
        self.0.left.notify_one();
    }
}

impl Gate {
    /// For `places` threads at a time, at least one.
    pub fn new(places: usize) -> Self {
        Self { free: Mutex::new(places.max(1)), left: Condvar::new() }
    }

    /// Waits for a place, for as long as `is_wanted` says nothing else.
    pub fn enter<E>(&self, mut is_wanted: impl FnMut() -> Result<(), E>) -> Result<Place<'_>, E> {
        let mut free = self.free.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        while *free == 0 {
            free = self.left.wait_timeout(free, LOOK_UP).unwrap_or_else(|poisoned| poisoned.into_inner()).0;
            if *free == 0 {
                drop(free);
                is_wanted()?;
                free = self.free.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            }
        }
        *free -= 1;
        Ok(Place(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_gets_the_place_that_is_left_or_gives_up() {
        let gate = Gate::new(1);
        let first = gate.enter(|| Ok::<(), ()>(())).unwrap();
        let mut looks = 0;
        let gave_up = gate.enter(|| {
            looks += 1;
            if looks < 3 { Ok(()) } else { Err("left") }
        });
        assert_eq!(gave_up.err(), Some("left"));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| gate.enter(|| Ok::<(), ()>(())).is_ok());
            std::thread::sleep(Duration::from_millis(20));
            drop(first);
            assert!(waiting.join().unwrap());
        });
        assert!(gate.enter(|| Err("taken")).is_ok());
    }
}
