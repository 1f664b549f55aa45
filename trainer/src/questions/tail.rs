//! How often a clip of another style scores above a threshold that few or none of those at hand reach: the generalised
//! Pareto distribution over the highest scores (Pickands 1975), fitted by probability-weighted moments (Hosking and Wallis
//! 1987). What is beyond the data is extrapolated, and said to be.

/// Share of the scores that count as the tail, and the fewest of them.
const SHARE: f64 = 0.1;
const FEWEST: usize = 30;

/// A sample's distribution above its highest part.
#[derive(Clone, Debug, PartialEq)]
pub struct Tail {
    /// All scores, ascending.
    sorted: Vec<f64>,
    /// Where the tail begins.
    threshold: f64,
    /// Share of the scores above it.
    share: f64,
    /// Shape (below 0: the scores have an end) and scale.
    shape: f64,
    scale: f64,
}

impl Tail {
    /// Fits a sample. With fewer than 60 scores, or a tail without spread, shares are simply counted.
    pub fn fit(mut scores: Vec<f64>) -> Self {
        scores.sort_by(f64::total_cmp);
        let n = scores.len();
        let count = ((n as f64 * SHARE) as usize).max(FEWEST);
        if n < 2 * FEWEST {
            return Self { sorted: scores, threshold: f64::INFINITY, share: 0.0, shape: 0.0, scale: 1.0 };
        }
        let threshold = scores[n - count - 1];
        let excess: Vec<f64> = scores[n - count..].iter().map(|s| s - threshold).collect();
        let (shape, scale) = moments(&excess);
        let usable = scale > 1e-12 && shape.is_finite();
        let threshold = if usable { threshold } else { f64::INFINITY };
        Self { threshold, share: count as f64 / n as f64, shape, scale, sorted: scores }
    }

    /// Share of scores at or above `score`: counted below the tail, modelled within and beyond it.
    pub fn above(&self, score: f64) -> f64 {
        if score <= self.threshold {
            let below = self.sorted.partition_point(|s| *s < score);
            return (self.sorted.len() - below) as f64 / self.sorted.len().max(1) as f64;
        }
        let x = (score - self.threshold) / self.scale;
        let inside = 1.0 + self.shape * x;
        if inside <= 0.0 {
            return 0.0;
        }
        let survival = if self.shape.abs() < 1e-9 { (-x).exp() } else { inside.powf(-1.0 / self.shape) };
        self.share * survival
    }
}

/// Shape and scale of excesses over a threshold.
fn moments(ascending: &[f64]) -> (f64, f64) {
    let n = ascending.len() as f64;
    let first = ascending.iter().sum::<f64>() / n;
    let weigh = |(place, x): (usize, &f64)| (n - 1.0 - place as f64) / (n - 1.0) * x;
    let second = ascending.iter().enumerate().map(weigh).sum::<f64>() / n;
    let gap = first - 2.0 * second;
    (2.0 - first / gap, 2.0 * first * second / gap)
}

/// Probability that of `n` independent clips, each above with probability `q`, fewer than `place` are.
pub fn within(place: usize, n: f64, q: f64) -> f64 {
    if q <= 0.0 {
        return 1.0;
    }
    if q >= 1.0 {
        return f64::from(u8::from(n < place as f64));
    }
    // Terms of the binomial, each from the one before; the logarithm keeps (1 - q)^n from vanishing too early.
    let (mut term, mut sum) = (n * (-q).ln_1p(), 0.0);
    for j in 0..place {
        if j as f64 > n {
            break;
        }
        sum += term.exp();
        term += ((n - j as f64).max(0.0) / (j as f64 + 1.0)).ln() + q.ln() - (-q).ln_1p();
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn shares_beyond_the_sample_are_near_the_truth() {
        // Exponential (shape 0) and uniform (shape -1) scores, whose shares are known.
        let mut random = ChaCha8Rng::seed_from_u64(8);
        let uniform: Vec<f64> = (0..4000).map(|_| random.random::<f64>()).collect();
        let exponential = Tail::fit(uniform.iter().map(|u| -u.ln()).collect());
        for score in [2.0f64, 5.0, 8.0, 10.0] {
            let (got, truth) = (exponential.above(score), (-score).exp());
            assert!((got / truth).ln().abs() < 0.9, "at {score}: {got}, truth {truth}");
        }
        let flat = Tail::fit(uniform);
        for score in [0.3, 0.95, 0.999] {
            let (got, truth) = (flat.above(score), 1.0 - score);
            assert!((got - truth).abs() < 0.02, "at {score}: {got}, truth {truth}");
        }
        assert!(flat.above(1.2) < 1e-6);
    }

    #[test]
    fn small_samples_are_counted() {
        let tail = Tail::fit((0..20).map(f64::from).collect());
        assert_eq!((tail.above(10.0), tail.above(19.0), tail.above(19.5)), (0.5, 0.05, 0.0));
        let same = Tail::fit(vec![1.0; 200]);
        assert_eq!((same.above(1.0), same.above(1.5)), (1.0, 0.0));
    }

    #[test]
    fn the_binomial_is_that_of_counting() {
        for (n, q) in [(5usize, 0.3f64), (12, 0.05), (3, 0.9)] {
            for place in [1, 2, 5, 20] {
                let mut naive = 0.0;
                for set in 0u32..1 << n {
                    let ones = set.count_ones() as i32;
                    if (ones as usize) < place {
                        naive += q.powi(ones) * (1.0 - q).powi(n as i32 - ones);
                    }
                }
                assert!((within(place, n as f64, q) - naive).abs() < 1e-12, "{n} {q} {place}");
            }
        }
        assert!((within(1, 1e6, 1e-6) - (-1.0f64).exp()).abs() < 1e-6);
        assert_eq!((within(1, 1e6, 0.0), within(1, 1e6, 1.0)), (1.0, 0.0));
    }
}
