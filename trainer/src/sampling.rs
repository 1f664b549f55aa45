//! Draws the clips of a batch so that classes and corpora appear as often as the config says. Knows counts, not tensors.

use std::collections::BTreeMap;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Draws indices with fixed probabilities.
pub struct Sampler {
    cumulative: Vec<f64>,
}

impl Sampler {
    /// `items` gives each item's corpus and class. A balance of 0 draws by size, 1 gives each corpus (each class inside
    /// its corpus) the same share, between them a power of the size.
    pub fn new<'a>(items: impl Iterator<Item = (&'a str, String)> + Clone, corpus_balance: f64, class_balance: f64) -> Self {
        let mut corpora: BTreeMap<&str, BTreeMap<String, usize>> = BTreeMap::new();
        for (corpus, class) in items.clone() {
            *corpora.entry(corpus).or_default().entry(class).or_default() += 1;
        }
        let corpus_weight = |corpus: &str| (corpora[corpus].values().sum::<usize>() as f64).powf(1.0 - corpus_balance);
        let class_weight = |n: usize| (n as f64).powf(1.0 - class_balance);
        let class_total: BTreeMap<&str, f64> =
            corpora.iter().map(|(c, classes)| (*c, classes.values().map(|n| class_weight(*n)).sum())).collect();
        let mut total = 0.0;
        let weigh = |(corpus, class): (&str, String)| {
            let n = corpora[corpus][&class];
            total += corpus_weight(corpus) * class_weight(n) / class_total[corpus] / n as f64;
            total
        };
        Self { cumulative: items.map(weigh).collect() }
    }

    /// One index.
    pub fn draw(&self, random: &mut ChaCha8Rng) -> usize {
        let total = self.cumulative.last().copied().unwrap_or(0.0);
        let at = random.random::<f64>() * total;
        self.cumulative.partition_point(|c| *c <= at).min(self.cumulative.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn shares(corpus_balance: f64, class_balance: f64) -> BTreeMap<String, f64> {
        let items: Vec<(&str, String)> = [("big", "a", 800), ("big", "b", 100), ("small", "a", 90), ("small", "c", 10)]
            .iter()
            .flat_map(|(corpus, class, n)| std::iter::repeat_n((*corpus, class.to_string()), *n))
            .collect();
        let sampler = Sampler::new(items.iter().map(|(c, s)| (*c, s.clone())), corpus_balance, class_balance);
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let mut seen: BTreeMap<String, f64> = BTreeMap::new();
        for _ in 0..40_000 {
            let (corpus, class) = &items[sampler.draw(&mut random)];
            *seen.entry(format!("{corpus} {class}")).or_default() += 1.0 / 40_000.0;
        }
        seen
    }

    #[test]
    fn unbalanced_draws_follow_the_sizes() {
        assert!((shares(0.0, 0.0)["big a"] - 0.8).abs() < 0.01);
    }

    #[test]
    fn balanced_draws_are_even_over_classes_and_corpora() {
        for (class, share) in shares(1.0, 1.0) {
            assert!((share - 0.25).abs() < 0.01, "{class}: {share}");
        }
        let classes_only = shares(0.0, 1.0);
        assert!((classes_only["big b"] - 0.45).abs() < 0.01 && (classes_only["small c"] - 0.05).abs() < 0.01);
    }
}
