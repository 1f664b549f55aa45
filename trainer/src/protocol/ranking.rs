//! Where the clips of a style come in a ranking. Knows scores only.

/// For each clip of the asked style, how many clips of other styles rank above it. Clips with equal scores count as above:
/// a tie is no success.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranking {
    /// Clip and number of others above it, best first.
    pub above: Vec<(usize, usize)>,
    /// Clips of other styles.
    pub others: usize,
}

/// Ranks scored clips. `relevant` says which are of the asked style.
pub fn rank(scores: &[f32], relevant: &[bool]) -> Ranking {
    let order = order(scores, relevant);
    let (mut above, mut others) = (vec![], 0);
    for clip in order {
        if relevant[clip] {
            above.push((clip, others));
        } else {
            others += 1;
        }
    }
    Ranking { above, others }
}

/// Clips from the best to the worst; of equal ones those of other styles first.
pub fn order(scores: &[f32], relevant: &[bool]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(relevant[*a].cmp(&relevant[*b])));
    order
}

/// Mean over the clips of a style of the share of clips at or before it that are of the style.
pub fn average_precision(ranking: &Ranking) -> f64 {
    let share = |(place, (_, above)): (usize, &(usize, usize))| (place + 1) as f64 / (place + 1 + above) as f64;
    ranking.above.iter().enumerate().map(share).sum::<f64>() / ranking.above.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retrieval::judge;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn counts_are_those_of_a_naive_count() {
        let mut random = ChaCha8Rng::seed_from_u64(2);
        for _ in 0..200 {
            let n = random.random_range(1..40);
            // Few different scores, so that there are ties.
            let scores: Vec<f32> = (0..n).map(|_| random.random_range(0..9) as f32).collect();
            let relevant: Vec<bool> = (0..n).map(|_| random.random_bool(0.3)).collect();
            let ranking = rank(&scores, &relevant);
            assert_eq!(ranking.above.len(), relevant.iter().filter(|r| **r).count());
            for (clip, above) in &ranking.above {
                let naive = (0..n).filter(|o| !relevant[*o] && scores[*o] >= scores[*clip]).count();
                assert_eq!(*above, naive);
            }
            assert!((average_precision(&ranking) - judge(&scores, &relevant).precision).abs() < 1e-12);
        }
    }
}
