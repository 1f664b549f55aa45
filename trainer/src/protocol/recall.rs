//! R@k of one clip of a style among N clips of other styles: in exact expectation over all draws, and by sampled trials as
//! the paper's released code does it (1,000 a style; the positive with replacement, the others without).

use rand::seq::index::sample;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::pool::{Asked, Pool};
use super::ranking::{Ranking, rank};
use crate::retrieval::at_most;

/// The paper's numbers of first places.
pub const PLACES: [usize; 4] = [1, 5, 10, 20];
/// Trials a style in the paper's released code.
pub const TRIALS: usize = 1000;
/// Probabilities below this are 0.
const NOTHING: f64 = 1e-15;

/// Shares of one: how often the clip is within the first k places, for each of [`PLACES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recall(pub [f64; PLACES.len()]);

impl Recall {
    /// Element-wise mean.
    pub fn mean(all: impl IntoIterator<Item = Recall>) -> Recall {
        let (mut sum, mut n) = (Recall::default(), 0.0f64);
        for one in all {
            sum.0.iter_mut().zip(one.0).for_each(|(s, o)| *s += o);
            n += 1.0;
        }
        Recall(sum.0.map(|s| s / n.max(1.0)))
    }
}

/// The chance of being within the first places by the number of others that outrank a clip: of `others` in the pool
/// `drawn` are drawn, so the number drawn of those above is hypergeometric.
pub struct Chances {
    /// For each place, chances by the number above; 0 beyond the end.
    tables: [Vec<f64>; PLACES.len()],
}

impl Chances {
    /// For a pool with this many clips of other styles, of which at most `drawn` are drawn.
    pub fn new(others: usize, drawn: usize) -> Self {
        let drawn = drawn.min(others);
        let table = |place: usize| {
            let chances = (0..=others).map(|above| at_most(others, above, drawn, place - 1));
            chances.take_while(|chance| *chance > NOTHING).collect()
        };
        Self { tables: PLACES.map(table) }
    }

    /// For a clip with this many others above it.
    pub fn of(&self, above: usize) -> Recall {
        Recall([0, 1, 2, 3].map(|place| self.tables[place].get(above).copied().unwrap_or(0.0)))
    }
}

/// Exact R@k of one ranking, in expectation over the positive and the `drawn` others.
pub fn exact(ranking: &Ranking, drawn: usize) -> Recall {
    let chances = Chances::new(ranking.others, drawn);
    Recall::mean(ranking.above.iter().map(|(_, above)| chances.of(*above)))
}

/// Exact R@k of a style in a pool, mean over the queries, each asked alone.
pub fn exact_of(pool: &Pool, asked: &Asked, drawn: usize) -> Recall {
    let relevant = pool.relevant(&asked.style);
    let chances = Chances::new(relevant.iter().filter(|r| !**r).count(), drawn);
    let of = |query: &[f32]| {
        let ranking = rank(&pool.rows.scores(query), &relevant);
        Recall::mean(ranking.above.iter().map(|(_, above)| chances.of(*above)))
    };
    Recall::mean(asked.queries.iter().map(of))
}

/// R@k of one query by trials. The same seed gives the same trials on every machine.
pub fn sampled(scores: &[f32], relevant: &[bool], drawn: usize, trials: usize, seed: u64) -> Recall {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (good, bad): (Vec<usize>, Vec<usize>) = (0..scores.len()).partition(|n| relevant[*n]);
    if good.is_empty() {
        return Recall::default();
    }
    Recall::mean((0..trials).map(|_| {
        let positive = scores[good[random.random_range(0..good.len())]];
        let others = sample(&mut random, bad.len(), drawn.min(bad.len()));
        let above = others.iter().filter(|n| scores[bad[*n]] >= positive).count();
        Recall(PLACES.map(|place| f64::from(u8::from(above < place))))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{ProptestConfig, prop_assert, proptest};

    /// All ways to draw, counted one by one.
    fn naive(above: usize, others: usize, drawn: usize, place: usize) -> f64 {
        let (mut hits, mut all) = (0u32, 0u32);
        for set in 0u32..1 << others {
            if set.count_ones() as usize == drawn {
                all += 1;
                hits += u32::from(((set & ((1 << above) - 1)).count_ones() as usize) < place);
            }
        }
        f64::from(hits) / f64::from(all)
    }

    #[test]
    fn chances_are_those_of_counting_every_draw() {
        for (others, drawn) in [(1, 1), (7, 3), (10, 5), (12, 12), (12, 6)] {
            let chances = Chances::new(others, drawn);
            for above in 0..=others {
                for (n, place) in PLACES.into_iter().enumerate() {
                    let (got, want) = (chances.of(above).0[n], naive(above, others, drawn, place));
                    assert!(
                        (got - want).abs() < 1e-9,
                        "{above} of {others}, {drawn} drawn, place {place}: {got}, {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_pool_smaller_than_the_draw_is_drawn_whole() {
        let ranking = Ranking { above: vec![(0, 0), (1, 1), (2, 7)], others: 50 };
        assert_eq!(exact(&ranking, 400).0, [1.0 / 3.0, 2.0 / 3.0, 1.0, 1.0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn trials_average_to_the_exact_value(seed in 0u64..1000, positives in 1usize..30, shift in 0.0f32..1.0) {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let relevant: Vec<bool> = (0..600).map(|n| n < positives).collect();
            let scores: Vec<f32> =
                relevant.iter().map(|r| random.random::<f32>() + if *r { shift } else { 0.0 }).collect();
            let exact = exact(&rank(&scores, &relevant), 400);
            let trials = 4000;
            let got = sampled(&scores, &relevant, 400, trials, seed + 1);
            for (a, b) in exact.0.into_iter().zip(got.0) {
                // Five standard errors.
                let error = (a * (1.0 - a) / trials as f64).sqrt();
                prop_assert!((a - b).abs() < 5.0 * error + 1e-3, "exact {}, trials {}", a, b);
            }
        }
    }
}
