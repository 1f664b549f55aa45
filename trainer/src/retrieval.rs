//! How good a ranking is: the paper's one positive among 400 distractors in exact expectation, and average precision with
//! all clips of the style relevant. Knows scores, not models.

use serde::{Deserialize, Serialize};

/// Distractors of one trial in the paper's protocol.
pub const DISTRACTORS: usize = 400;

/// Quality of the ranking for one style, or a mean of several. All are shares of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Chance that one clip of the style is first among itself and [`DISTRACTORS`] clips of other styles.
    pub recall_1: f64,
    /// The same for the first five.
    pub recall_5: f64,
    /// The same for the first ten.
    pub recall_10: f64,
    /// Average precision with all clips of the style relevant.
    pub precision: f64,
    /// Whether the first clip is of the style.
    pub first: f64,
}

impl Quality {
    /// Element-wise mean.
    pub fn mean<'a>(all: impl IntoIterator<Item = &'a Quality>) -> Quality {
        let (mut sum, mut n) = (Quality::default(), 0.0f64);
        for q in all {
            sum.recall_1 += q.recall_1;
            sum.recall_5 += q.recall_5;
            sum.recall_10 += q.recall_10;
            sum.precision += q.precision;
            sum.first += q.first;
            n += 1.0;
        }
        let n = n.max(1.0);
        Quality {
            recall_1: sum.recall_1 / n,
            recall_5: sum.recall_5 / n,
            recall_10: sum.recall_10 / n,
            precision: sum.precision / n,
            first: sum.first / n,
        }
    }
}

/// Judges one query. Clips with equal scores are ranked with the irrelevant ones first.
pub fn judge(scores: &[f32], relevant: &[bool]) -> Quality {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(relevant[*a].cmp(&relevant[*b])));
    let positives = relevant.iter().filter(|r| **r).count();
    let others = scores.len() - positives;
    if positives == 0 {
        return Quality::default();
    }
    let drawn = others.min(DISTRACTORS);
    let (mut above, mut found) = (0usize, 0usize);
    let mut q = Quality { first: f64::from(u8::from(relevant[order[0]])), ..Quality::default() };
    for &clip in &order {
        if !relevant[clip] {
            above += 1;
            continue;
        }
        found += 1;
        q.precision += found as f64 / (found + above) as f64;
        q.recall_1 += at_most(others, above, drawn, 0);
        q.recall_5 += at_most(others, above, drawn, 4);
        q.recall_10 += at_most(others, above, drawn, 9);
    }
    let n = positives as f64;
    Quality {
        recall_1: q.recall_1 / n,
        recall_5: q.recall_5 / n,
        recall_10: q.recall_10 / n,
        precision: q.precision / n,
        first: q.first,
    }
}

/// What a random ranking would get.
pub fn chance(clips: usize, positives: usize) -> Quality {
    let drawn = (clips - positives).min(DISTRACTORS) as f64;
    let recall = |k: f64| (k / (drawn + 1.0)).min(1.0);
    // E[precision at a relevant rank k] = (1 + (k-1)(R-1)/(N-1)) / k, and every rank is relevant equally often.
    let (n, r) = (clips as f64, positives as f64);
    let rate = if clips > 1 { (r - 1.0) / (n - 1.0) } else { 0.0 };
    let precision = (1..=clips).map(|k| (1.0 + (k as f64 - 1.0) * rate) / k as f64).sum::<f64>() / n;
    Quality { recall_1: recall(1.0), recall_5: recall(5.0), recall_10: recall(10.0), precision, first: r / n }
}

/// Probability that of `drawn` items without replacement from `all`, of which `marked` are marked, at most `limit` are.
pub fn at_most(all: usize, marked: usize, drawn: usize, limit: usize) -> f64 {
    let least = (drawn + marked).saturating_sub(all);
    if marked.min(drawn) <= limit {
        return 1.0;
    }
    if least > limit {
        return 0.0;
    }
    let choose = |n: usize, k: usize| log_factorial(n) - log_factorial(k) - log_factorial(n - k);
    let total = choose(all, drawn);
    let term = |k: usize| (choose(marked, k) + choose(all - marked, drawn - k) - total).exp();
    (least..=limit).map(term).sum::<f64>().min(1.0)
}

fn log_factorial(n: usize) -> f64 {
    // Stirling's series is exact to 1e-10 from 20 on; below, the product.
    if n < 20 {
        return (2..=n).map(|k| (k as f64).ln()).sum();
    }
    let x = n as f64 + 1.0;
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::seq::index::sample;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn hypergeometric_values_of_the_field_notes() {
        assert!((at_most(1200, 1, 400, 0) - 0.667).abs() < 1e-3);
        assert!((at_most(1200, 2, 400, 0) - 0.444).abs() < 1e-3);
        assert!((at_most(1200, 5, 400, 0) - 0.131).abs() < 1e-3);
        assert!((at_most(1200, 5, 400, 4) - 0.996).abs() < 1e-3);
        assert!((at_most(410, 1, 400, 0) - 0.024).abs() < 1e-3);
    }

    #[test]
    fn expectation_is_what_trials_average_to() {
        let mut random = ChaCha8Rng::seed_from_u64(11);
        let relevant: Vec<bool> = (0..700).map(|n| n % 9 == 0).collect();
        let scores: Vec<f32> = relevant.iter().map(|r| random.random::<f32>() + if *r { 0.4 } else { 0.0 }).collect();
        let (good, bad): (Vec<usize>, Vec<usize>) = (0..700).partition(|n| relevant[*n]);
        let trials = 20_000;
        let mut hits = 0;
        for _ in 0..trials {
            let positive = scores[good[random.random_range(0..good.len())]];
            let above =
                sample(&mut random, bad.len(), DISTRACTORS).iter().filter(|b| scores[bad[*b]] > positive).count();
            hits += usize::from(above < 5);
        }
        let got = judge(&scores, &relevant).recall_5;
        assert!((got - hits as f64 / f64::from(trials)).abs() < 0.01, "{got} against {hits} of {trials}");
    }

    #[test]
    fn perfect_and_random_rankings() {
        let relevant = [true, true, false, false, false];
        let best = judge(&[5.0, 4.0, 3.0, 2.0, 1.0], &relevant);
        assert_eq!((best.precision, best.first, best.recall_1), (1.0, 1.0, 1.0));
        assert_eq!(judge(&[1.0; 5], &relevant).first, 0.0);
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let all: Vec<Quality> =
            (0..20_000).map(|_| judge(&[0; 5].map(|_| random.random::<f32>()), &relevant)).collect();
        let (mean, expected) = (Quality::mean(&all), chance(5, 2));
        assert!((mean.precision - expected.precision).abs() < 0.01 && (mean.first - expected.first).abs() < 0.02);
    }
}
