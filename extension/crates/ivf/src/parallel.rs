//! Pure arithmetic over blocks of rows by a few threads. They live no longer than one call and see nothing but numbers, so
//! that PostgreSQL, which knows no threads, never meets them.

use std::sync::OnceLock;

/// Something to do around the start of threads: it calls what it is given.
pub type AroundSpawn = fn(spawn: &mut dyn FnMut());

static AROUND_SPAWN: OnceLock<AroundSpawn> = OnceLock::new();

/// Says once what to do around the start of threads. A new thread takes over the signal mask of the one that starts it, and
/// PostgreSQL's handlers must run on the main thread alone; the shell, which may touch signals, blocks them meanwhile.
pub fn set_around_spawn(around: AroundSpawn) {
    // A second caller would set the same.
    let _ = AROUND_SPAWN.set(around);
}

/// Applies `work` to consecutive blocks of `block_length` elements (the last may be shorter) and joins the results in order.
pub fn map_blocks<T: Sync, R: Send>(
    items: &[T],
    block_length: usize,
    threads: usize,
    work: impl Fn(&[T]) -> Vec<R> + Sync,
) -> Vec<R> {
    let blocks: Vec<&[T]> = items.chunks(block_length.max(1)).collect();
    let threads = threads.clamp(1, blocks.len().max(1));
    if threads == 1 {
        return blocks.into_iter().flat_map(work).collect();
    }
    let share = blocks.len().div_ceil(threads);
    let work = &work;
    std::thread::scope(|scope| {
        let mut parts = blocks.chunks(share);
        let own = parts.next().unwrap_or_default();
        let mut others = Vec::new();
        let mut spawn = || {
            for part in parts.by_ref() {
                others.push(scope.spawn(move || part.iter().flat_map(|block| work(block)).collect::<Vec<R>>()));
            }
        };
        match AROUND_SPAWN.get() {
            Some(around) => around(&mut spawn),
            None => spawn(),
        }
        let mut results: Vec<R> = own.iter().flat_map(|block| work(block)).collect();
        for other in others {
            match other.join() {
                Ok(part) => results.extend(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        results
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_come_in_order_whatever_the_threads() {
        let items: Vec<u32> = (0..1003).collect();
        for threads in 1..6 {
            let doubled = super::map_blocks(&items, 10, threads, |block| block.iter().map(|x| x * 2).collect());
            assert_eq!(doubled, items.iter().map(|x| x * 2).collect::<Vec<_>>());
        }
        assert!(super::map_blocks(&[0u8; 0], 10, 4, |block| block.to_vec()).is_empty());
    }
}
