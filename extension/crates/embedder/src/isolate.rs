//! What to do when a batch fails: halve it, again and again, until the row that is to blame fails alone. Memory that a batch
//! wants and a half of it does not is found the same way. Pure: the computing is a function.

use esr_encoder::{Embedding, RunError};

/// One answer per row, in order.
pub type Answers = Vec<Result<Embedding, RunError>>;

/// Computes some of the rows.
pub type Compute<'a, R> = dyn FnMut(&[R]) -> Result<Vec<Embedding>, RunError> + 'a;

/// Computes all rows together, or in ever smaller parts where that fails. A cancelled run is not repeated: nobody waits.
/// Of n rows, one that always fails costs about 2 log2 n further runs. Also returns how many runs failed.
pub fn run<R>(rows: &[R], compute: &mut Compute<'_, R>) -> (Answers, u64) {
    match compute(rows) {
        Ok(embeddings) => (embeddings.into_iter().map(Ok).collect(), 0),
        Err(error) if rows.len() <= 1 || error == RunError::Cancelled => {
            (rows.iter().map(|_| Err(error.clone())).collect(), 1)
        }
        Err(_) => {
            let (first, second) = rows.split_at(rows.len() / 2);
            let (mut answers, failed) = run(first, compute);
            let (rest, failed_too) = run(second, compute);
            answers.extend(rest);
            (answers, failed + failed_too + 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use esr_encoder::backend::{Backend, Batch, Cancel, fake::Fake};

    /// Embeds numbers, unless there are more than `memory` or one of them is negative.
    fn check(rows: &[i64], memory: usize) -> (Vec<bool>, Vec<usize>, u64) {
        let mut sizes = Vec::new();
        let (answers, failed) = run(rows, &mut |part: &[i64]| {
            sizes.push(part.len());
            if part.len() > memory {
                return Err(RunError::Runtime("bad_alloc".into()));
            }
            if part.iter().any(|row| *row < 0) {
                return Err(RunError::Runtime("poison".into()));
            }
            let rows: Vec<&[i64]> = part.iter().map(std::slice::from_ref).collect();
            Fake { dimension: 2, runs: Default::default() }.run(&Batch::text(&rows), &Cancel::default())
        });
        (answers.iter().map(Result::is_ok).collect(), sizes, failed)
    }

    #[test]
    fn a_poison_row_fails_alone() {
        let (answers, sizes, failed) = check(&[1, 2, 3, 4, 5, -6, 7, 8], 99);
        assert_eq!(answers, [true, true, true, true, true, false, true, true]);
        assert_eq!((sizes, failed), (vec![8, 4, 4, 2, 1, 1, 2], 4));
        assert_eq!(check(&[-1], 99).0, [false]);
        assert_eq!(check(&[-1, -2, 3], 99).0, [false, false, true]);
    }

    #[test]
    fn a_batch_that_wants_too_much_memory_is_halved() {
        let (answers, sizes, _) = check(&[1; 8], 2);
        assert_eq!(answers, [true; 8]);
        assert_eq!(sizes, [8, 4, 2, 2, 4, 2, 2]);
    }

    #[test]
    fn answers_stay_in_order_and_a_cancelled_run_is_not_repeated() {
        let (answers, _) = run(&[1, 2], &mut |_: &[i32]| Err(RunError::Cancelled));
        assert_eq!(answers, [Err(RunError::Cancelled), Err(RunError::Cancelled)]);
        let mut fake = Fake { dimension: 2, runs: Default::default() };
        let mut embed = |part: &[i64]| {
            let rows: Vec<&[i64]> = part.iter().map(std::slice::from_ref).collect();
            fake.run(&Batch::text(&rows), &Cancel::default())
        };
        let whole = embed(&[1, 2, 3, 4, 5]).unwrap();
        let (answers, _) = run(&[1, 2, 3, 4, 5], &mut |part: &[i64]| {
            if part.len() > 2 { Err(RunError::Runtime("bad_alloc".into())) } else { embed(part) }
        });
        assert_eq!(answers.into_iter().map(Result::unwrap).collect::<Vec<_>>(), whole);
    }
}
