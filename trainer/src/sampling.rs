//! Draws the clips of a batch so that classes and corpora appear as often as the config says. Knows counts, not tensors.

use std::collections::BTreeMap;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::config::Training;
use crate::store::Entry;

/// Draws indices with fixed probabilities.
pub struct Sampler {
    cumulative: Vec<f64>,
}

/// Weight of each clip in sampling. Inside a corpus a class weighs as a power of its size: `class_balance` 0 keeps the
/// sizes, 1 makes all classes equal. Corpora weigh by `corpus_weight`, else by a power of their size in the same way. Clips
/// made by signal processing weigh `made_weight` of their corpus together, sounds made from nothing `sound_weight`; 0
/// counts them like recorded ones.
pub fn weights(training: &Training, entries: &[Entry]) -> Vec<f64> {
    let apart = |e: &Entry| {
        let weights = [("made-", training.made_weight), ("sound-", training.sound_weight)];
        weights.into_iter().find(|(kind, weight)| *weight > 0.0 && e.variant.starts_with(kind))
    };
    let group = |e: &Entry| (e.corpus.clone(), apart(e).map(|(kind, _)| kind));
    let (mut classes, mut corpora) = (BTreeMap::new(), BTreeMap::new());
    for e in entries {
        *classes.entry((group(e), e.class())).or_insert(0.0) += 1.0;
        *corpora.entry(&e.corpus).or_insert(0.0) += 1.0;
    }
    let raw: Vec<f64> =
        entries.iter().map(|e| f64::powf(classes[&(group(e), e.class())], -training.class_balance)).collect();
    let mut totals = BTreeMap::new();
    entries.iter().zip(&raw).for_each(|(e, w)| *totals.entry(group(e)).or_insert(0.0) += w);
    let corpus = |name: &String| {
        let by_size = f64::powf(corpora[name] / entries.len() as f64, 1.0 - training.corpus_balance);
        training.corpus_weight.get(name).copied().unwrap_or(by_size)
    };
    let share = |e: &Entry| apart(e).map_or(1.0, |(_, weight)| weight);
    entries.iter().zip(&raw).map(|(e, w)| w / totals[&group(e)] * corpus(&e.corpus) * share(e)).collect()
}

impl Sampler {
    /// Draws index n with a probability proportional to the n-th weight.
    pub fn new(weights: &[f64]) -> Self {
        let mut total = 0.0;
        let add = |w: &f64| {
            total += w;
            total
        };
        Self { cumulative: weights.iter().map(add).collect() }
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
    use crate::data::splits::Split;
    use rand::SeedableRng;

    fn entry(corpus: &str, style: &str, variant: &str) -> Entry {
        Entry {
            corpus: corpus.into(),
            path: "x.wav".into(),
            speaker: "s".into(),
            split: Split::Train,
            styles: vec![style.into()],
            variant: variant.into(),
            seconds: 1.0,
            offset: 0,
            length: 0,
        }
    }

    fn shares(training: &Training) -> BTreeMap<String, f64> {
        let counts = [
            ("big", "a", "original", 800),
            ("big", "b", "original", 100),
            ("small", "a", "original", 90),
            ("small", "c", "made-c", 10),
        ];
        let entries: Vec<Entry> =
            counts.iter().flat_map(|(c, s, v, n)| std::iter::repeat_n(entry(c, s, v), *n)).collect();
        let sampler = Sampler::new(&weights(training, &entries));
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let mut seen: BTreeMap<String, f64> = BTreeMap::new();
        for _ in 0..40_000 {
            let drawn = &entries[sampler.draw(&mut random)];
            *seen.entry(format!("{} {}", drawn.corpus, drawn.class())).or_default() += 1.0 / 40_000.0;
        }
        seen
    }

    #[test]
    fn unbalanced_draws_follow_the_sizes() {
        assert!((shares(&Training::default())["big a"] - 0.8).abs() < 0.01);
    }

    #[test]
    fn balanced_draws_are_even_over_classes_and_corpora() {
        let balanced = Training { class_balance: 1.0, corpus_balance: 1.0, ..Training::default() };
        for (class, share) in shares(&balanced) {
            assert!((share - 0.25).abs() < 0.01, "{class}: {share}");
        }
        let classes_only = shares(&Training { class_balance: 1.0, ..Training::default() });
        assert!((classes_only["big b"] - 0.45).abs() < 0.01 && (classes_only["small c"] - 0.05).abs() < 0.01);
    }

    #[test]
    fn made_clips_and_corpora_weigh_as_configured() {
        let corpus_weight = BTreeMap::from([("big".to_string(), 1.0), ("small".to_string(), 1.0)]);
        let got = shares(&Training { made_weight: 0.5, corpus_weight, ..Training::default() });
        assert!((got["small c"] - 0.2).abs() < 0.01 && (got["small a"] - 0.4).abs() < 0.01, "{got:?}");
    }
}
