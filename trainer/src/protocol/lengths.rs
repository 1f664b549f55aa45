//! R@k by length of utterance: the paper's Figure 3, which found R@1 to fall below about four seconds. The clip that is to
//! be found has the length; the others are of all lengths.

use serde::Serialize;

use super::bootstrap::{Estimate, REPLICATES};
use super::pool::{Asked, Pool};
use super::ranking::rank;
use super::recall::{Chances, Recall};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Ends of the bins in seconds; the last bin is open.
pub const ENDS: [f32; 8] = [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0];
/// Bins with fewer clips say nothing.
const FEWEST: usize = 10;

/// Clips of like length.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bin {
    /// Shortest, in seconds.
    pub from: f32,
    /// Longest; infinite in the last bin.
    pub until: f32,
    /// Clips with such a length, over all styles.
    pub clips: usize,
    /// Mean of their lengths.
    pub seconds: f32,
    /// Mean over these clips of R@k for each of the places.
    pub recall: [Estimate; 4],
}

/// Exact R@k among `drawn` others of the clips of each bin, mean over clips (as trials that draw the positive among them
/// would give), with intervals from drawing the bin's clips again.
pub fn by_length(pool: &Pool, asked: &[Asked], drawn: usize, seed: u64) -> Vec<Bin> {
    let mut found: Vec<(f32, Recall)> = vec![];
    for asked in asked {
        let relevant = pool.relevant(&asked.style);
        let chances = Chances::new(relevant.iter().filter(|r| !**r).count(), drawn);
        let mut sums = vec![Recall::default(); pool.clips.len()];
        for query in asked.queries.iter() {
            for (clip, above) in rank(&pool.rows.scores(query), &relevant).above {
                sums[clip].0.iter_mut().zip(chances.of(above).0).for_each(|(s, c)| *s += c);
            }
        }
        let n = asked.queries.len().max(1) as f64;
        let own = (0..pool.clips.len()).filter(|clip| relevant[*clip]);
        found.extend(own.map(|clip| (pool.clips[clip].seconds, Recall(sums[clip].0.map(|s| s / n)))));
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let starts = [0.0].into_iter().chain(ENDS);
    starts
        .zip(ENDS.into_iter().chain([f32::INFINITY]))
        .filter_map(|(from, until)| bin(&found, from, until, &mut random))
        .collect()
}

fn bin(found: &[(f32, Recall)], from: f32, until: f32, random: &mut ChaCha8Rng) -> Option<Bin> {
    let own: Vec<&(f32, Recall)> = found.iter().filter(|(s, _)| *s >= from && *s < until).collect();
    if own.len() < FEWEST {
        return None;
    }
    let mean = Recall::mean(own.iter().map(|(_, r)| *r));
    let again: Vec<Recall> = (0..REPLICATES)
        .map(|_| Recall::mean((0..own.len()).map(|_| own[random.random_range(0..own.len())].1)))
        .collect();
    Some(Bin {
        from,
        until,
        clips: own.len(),
        seconds: own.iter().map(|(s, _)| s).sum::<f32>() / own.len() as f32,
        recall: [0, 1, 2, 3].map(|place| Estimate::new(mean.0[place], again.iter().map(|r| r.0[place]).collect())),
    })
}

impl Bin {
    /// The bin in words.
    pub fn name(&self) -> String {
        if self.until.is_finite() {
            format!("{} to {} s", self.from, self.until)
        } else {
            format!("over {} s", self.from)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::pool::{Heard, Rows};

    #[test]
    fn longer_clips_that_rank_better_show_it() {
        // Style `a`: the longer, the higher its score; style `b` in the middle.
        let (mut clips, mut rows) = (vec![], vec![]);
        for n in 0..60 {
            let seconds = 0.5 + n as f32 / 10.0;
            clips.push(Heard { style: "a".into(), seconds, ..Heard::default() });
            rows.push(vec![seconds]);
            clips.push(Heard { style: "b".into(), seconds: 3.0, ..Heard::default() });
            rows.push(vec![1.0 + 0.05 * n as f32]);
        }
        let pool = Pool { name: "p".into(), clips, rows: Rows::new(1, rows).unwrap() };
        let asked = Asked { style: "a".into(), queries: Rows::new(1, [vec![1.0]]).unwrap() };
        let bins = by_length(&pool, &[asked], 400, 1);
        assert_eq!(bins.iter().map(|b| b.clips).sum::<usize>(), 30, "bins with five clips are left out");
        let recall: Vec<f64> = bins.iter().map(|b| b.recall[3].value).collect();
        assert!(recall.is_sorted(), "{recall:?}");
        assert_eq!(recall[recall.len() - 1], 1.0);
        assert!(bins.iter().all(|b| b.seconds >= b.from && b.seconds < b.until));
        assert_eq!(bins[0].name(), "3 to 4 s");
    }
}
