//! Confidence intervals by drawing the clips again: within each style as many clips as there are, with replacement, so
//! that positives and distractors both vary. It says how much the choice of clips matters, not how much training does.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::pool::{Asked, Pool};
use super::ranking::order;
use super::recall::{Chances, Recall};

/// How often clips are drawn again.
pub const REPLICATES: usize = 1000;

/// An estimate with the middle 95 % of what it is when clips are drawn again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The value on the clips as they are.
    pub value: f64,
    /// 2.5th percentile.
    pub low: f64,
    /// 97.5th percentile.
    pub high: f64,
}

impl Estimate {
    /// A value and what it was when drawn again.
    pub fn new(value: f64, mut drawn: Vec<f64>) -> Self {
        if drawn.is_empty() {
            return Self { value, low: value, high: value };
        }
        drawn.sort_by(f64::total_cmp);
        let at = |share: f64| drawn[((drawn.len() - 1) as f64 * share).round() as usize];
        Self { value, low: at(0.025), high: at(0.975) }
    }
}

/// Results of a pool: each style, and their mean.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimates {
    /// Style, its clips, and R@k for each of the places.
    pub styles: Vec<(String, usize, [Estimate; 4])>,
    /// Mean over styles of R@k.
    pub mean: [Estimate; 4],
}

/// One query's ranking, ready to be counted again and again.
struct Ranked {
    order: Vec<usize>,
    chances: Chances,
    style: usize,
}

/// Exact R@k among `drawn` others, with intervals. Every style of `asked` must have clips in the pool.
pub fn estimate(pool: &Pool, asked: &[Asked], drawn: usize, replicates: usize, seed: u64) -> Estimates {
    let of_style = pool.styles();
    let styles: Vec<(&str, &Vec<usize>)> = of_style.iter().map(|(style, clips)| (*style, clips)).collect();
    let class: Vec<usize> = {
        let mut class = vec![0; pool.clips.len()];
        styles.iter().enumerate().for_each(|(n, (_, clips))| clips.iter().for_each(|clip| class[*clip] = n));
        class
    };
    let ranked: Vec<Vec<Ranked>> = asked
        .iter()
        .filter_map(|asked| {
            let style = styles.iter().position(|(style, _)| *style == asked.style)?;
            let relevant = pool.relevant(&asked.style);
            let others = relevant.iter().filter(|r| !**r).count();
            let one = |query: &[f32]| Ranked {
                order: order(&pool.rows.scores(query), &relevant),
                chances: Chances::new(others, drawn),
                style,
            };
            Some(asked.queries.iter().map(one).collect())
        })
        .collect();
    let count = |weights: &[u32]| -> Vec<Recall> {
        ranked.iter().map(|queries| Recall::mean(queries.iter().map(|q| recall(q, weights, &class)))).collect()
    };
    let value = count(&vec![1; pool.clips.len()]);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let drawn: Vec<Vec<Recall>> = (0..replicates)
        .map(|_| {
            let mut weights = vec![0u32; pool.clips.len()];
            for (_, clips) in &styles {
                for _ in 0..clips.len() {
                    weights[clips[random.random_range(0..clips.len())]] += 1;
                }
            }
            count(&weights)
        })
        .collect();
    let four =
        |value: Recall, drawn: &dyn Fn(usize) -> Vec<f64>| [0, 1, 2, 3].map(|p| Estimate::new(value.0[p], drawn(p)));
    let one = |n: usize| four(value[n], &|place| drawn.iter().map(|all| all[n].0[place]).collect());
    let mean = |all: &[Recall]| Recall::mean(all.iter().copied());
    Estimates {
        styles: ranked
            .iter()
            .enumerate()
            .map(|(n, queries)| {
                let (style, clips) = styles[queries[0].style];
                (style.to_string(), clips.len(), one(n))
            })
            .collect(),
        mean: four(mean(&value), &|place| drawn.iter().map(|all| mean(all).0[place]).collect()),
    }
}

/// R@k when each clip is there as often as its weight says.
fn recall(ranked: &Ranked, weights: &[u32], class: &[usize]) -> Recall {
    let (mut above, mut found, mut sum) = (0usize, 0u32, Recall::default());
    for clip in &ranked.order {
        let weight = weights[*clip];
        if class[*clip] != ranked.style {
            above += weight as usize;
        } else if weight > 0 {
            let chance = ranked.chances.of(above);
            sum.0.iter_mut().zip(chance.0).for_each(|(s, c)| *s += f64::from(weight) * c);
            found += weight;
        }
    }
    Recall(sum.0.map(|s| s / f64::from(found.max(1))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::pool::{Heard, Rows};
    use crate::protocol::recall::exact_of;

    /// Clips on a line: style `a` is drawn around 0.6, style `b` around 0.4.
    fn pool(each: usize, seed: u64) -> (Pool, Vec<Asked>) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (mut clips, mut rows) = (vec![], vec![]);
        for n in 0..2 * each {
            let (style, middle) = if n % 2 == 0 { ("a", 0.6) } else { ("b", 0.4) };
            clips.push(Heard { style: style.into(), ..Heard::default() });
            rows.push(vec![middle + random.random_range(-0.3..0.3)]);
        }
        let ask = |style: &str, way: f32| Asked { style: style.into(), queries: Rows::new(1, [vec![way]]).unwrap() };
        (Pool { name: "line".into(), clips, rows: Rows::new(1, rows).unwrap() }, vec![ask("a", 1.0), ask("b", -1.0)])
    }

    #[test]
    fn values_are_exact_and_intervals_hold_them() {
        let (pool, asked) = pool(60, 1);
        let got = estimate(&pool, &asked, 20, 200, 5);
        for (n, asked) in asked.iter().enumerate() {
            let exact = exact_of(&pool, asked, 20);
            assert_eq!((got.styles[n].0.as_str(), got.styles[n].1), (asked.style.as_str(), 60));
            for (place, estimate) in got.styles[n].2.iter().enumerate() {
                assert!((estimate.value - exact.0[place]).abs() < 1e-12);
                assert!(
                    estimate.low <= estimate.value + 0.05 && estimate.value <= estimate.high + 0.05,
                    "{estimate:?}"
                );
            }
        }
        assert_eq!(got, estimate(&pool, &asked, 20, 200, 5), "the same seed gives the same intervals");
    }

    #[test]
    fn intervals_cover_the_spread_of_fresh_pools() {
        // How far R@5 of fresh pools spreads is what the interval of one pool should say.
        let fresh: Vec<f64> = (0..60)
            .map(|seed| {
                let (pool, asked) = pool(60, 100 + seed);
                Recall::mean(asked.iter().map(|a| exact_of(&pool, a, 20))).0[1]
            })
            .collect();
        let spread = Estimate::new(0.0, fresh);
        let widths: Vec<f64> = (0..5)
            .map(|seed| {
                let (pool, asked) = pool(60, seed);
                let mean = estimate(&pool, &asked, 20, 200, seed).mean[1];
                mean.high - mean.low
            })
            .collect();
        let (width, truth) = (widths.iter().sum::<f64>() / 5.0, spread.high - spread.low);
        assert!(width > 0.6 * truth && width < 1.6 * truth, "interval {width}, spread {truth}");
    }

    #[test]
    fn drawing_one_clip_again_and_again_changes_nothing() {
        assert_eq!(Estimate::new(0.5, vec![]), Estimate { value: 0.5, low: 0.5, high: 0.5 });
        let all = Estimate::new(0.5, (0..=100).map(|n| f64::from(n) / 100.0).collect());
        assert_eq!((all.low, all.high), (0.03, 0.98));
    }
}
