//! How R@k falls as the pool grows to a million clips: exactly as far as there are clips, and by a stated extrapolation
//! beyond. A backtest predicts the whole pool from an eighth of its clips, so that the extrapolation can be judged.

use anyhow::{Result, ensure};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::tail::{Tail, within};
use super::{deviation, mean};
use crate::config::Config;
use crate::figure::{Series, Words, lines};
use crate::prompts::Side;
use crate::protocol::bootstrap::{Estimate, estimate};
use crate::protocol::command::Subject;
use crate::protocol::ground::{Ground, together};
use crate::protocol::pool::{Asked, Pool, Rows};
use crate::protocol::recall::{PLACES, Recall, exact_of};
use crate::report::{Answer, Cell, Figure, Table};

/// Others in a trial.
const SIZES: [usize; 8] = [100, 400, 1000, 2000, 4000, 10_000, 100_000, 1_000_000];
const REPLICATES: usize = 100;
/// Share of the others that the backtest knows.
const KNOWN: usize = 8;
const BACKTESTS: usize = 20;

/// Arguments of `esr-trainer question pool-size`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Model, corpora, output.
    #[command(flatten)]
    pub subject: Subject,
}

/// Asks.
///
/// # Errors
/// If the model or its data are missing.
pub fn run(arguments: &Arguments) -> Result<Answer> {
    let subject = &arguments.subject;
    let config = Config::read(&subject.config)?;
    let mut ground = Ground::open(&config, &subject.model())?;
    let corpora = subject.corpora(&ground)?;
    ensure!(!corpora.is_empty(), "no corpus has two styles in this split");
    let mut pools = vec![];
    for corpus in &corpora {
        pools.push(ground.pool(corpus, subject.split, |_| true)?);
    }
    let largest = pools.iter().max_by_key(|pool| pool.clips.len()).cloned();
    let mut judged: Vec<Pool> = largest.into_iter().collect();
    if pools.len() > 1 {
        judged.push(union(&pools)?);
    }
    let mut table = Table::new(
        "R@k by the number of others (held-out prompts averaged), mean over styles with twenty clips",
        &["pool", "clips", "others", "how", "R@1", "R@5", "R@10", "R@20"],
    );
    let mut backtest = Table::new(
        format!(
            "Backtest: R@k of the whole pool, predicted from a {KNOWN}th of the other clips ({BACKTESTS} draws: mean, deviation)"
        ),
        &["pool", "R@", "truth", "by counted share", "by tail fit"],
    );
    let mut curves = vec![];
    for pool in &judged {
        let asked = asked(&mut ground, pool)?;
        let others = asked.iter().map(|a| pool.relevant(&a.style).iter().filter(|r| !**r).count()).min().unwrap_or(0);
        let (mut known, mut guessed) = (vec![], vec![]);
        for size in SIZES {
            let is_exact = size <= others;
            let values = if is_exact {
                estimate(pool, &asked, size, REPLICATES, subject.seed).mean
            } else {
                extrapolated(pool, &asked, size as f64, subject.seed)
            };
            let how = if is_exact { "exact" } else { "extrapolated by the tail" };
            let mut row: Vec<Cell> = vec![pool.name.clone().into(), pool.clips.len().into(), size.into(), how.into()];
            row.extend(values.map(Cell::from));
            table.row(row);
            let points = if is_exact { &mut known } else { &mut guessed };
            points.push((size as f64, [values[1].value, values[1].low, values[1].high]));
        }
        guessed.splice(0..0, known.last().copied());
        curves.push(Series { name: format!("{}, exact", pool.name), points: known, dashed: false });
        curves.push(Series { name: format!("{}, extrapolated", pool.name), points: guessed, dashed: true });
        let truth = Recall::mean(asked.iter().map(|a| exact_of(pool, a, pool.clips.len())));
        let [counted, tail] = predictions(pool, &asked, subject.seed);
        for (n, place) in PLACES.into_iter().enumerate() {
            let of = |all: &[Recall]| all.iter().map(|r| r.0[n]).collect::<Vec<_>>();
            let print = |all: Vec<f64>| format!("{:.3}, {:.3}", mean(all.iter().copied()), deviation(&all));
            backtest.row(vec![
                pool.name.clone().into(),
                place.into(),
                truth.0[n].into(),
                print(of(&counted)).into(),
                print(of(&tail)).into(),
            ]);
        }
    }
    let words = Words { title: "R@5 by pool size", x: "clips of other styles", y: "R@5" };
    let figures = vec![Figure { name: "pool-size".into(), svg: lines(words, &curves, true)? }];
    let remarks = vec![
        "Beyond the clips at hand, each clip of the style gets the probability q with which a clip of another style outranks it, from \
         the generalised Pareto tail of the other clips' scores; R@k is then binomial. It holds as far as further clips are like \
         those at hand."
            .into(),
    ];
    Ok(Answer { name: "pool-size".into(), tables: vec![table, backtest], figures, remarks })
}

/// All pools in one, but for clips with two styles, which would count as wrong for either.
///
/// # Errors
/// If their vectors have different widths.
fn union(pools: &[Pool]) -> Result<Pool> {
    let single = |pool: &Pool| {
        let kept: Vec<usize> = (0..pool.clips.len()).filter(|n| !pool.clips[*n].style.contains(" + ")).collect();
        pool.pick(&pool.name, &kept)
    };
    let pools: Vec<Pool> = pools.iter().map(single).collect();
    let width = pools.iter().find(|pool| !pool.rows.is_empty()).map_or(0, |pool| pool.rows.row(0).len());
    let rows = Rows::new(width, pools.iter().flat_map(|pool| pool.rows.iter().map(<[f32]>::to_vec)))?;
    let clips = pools.iter().flat_map(|pool| pool.clips.clone()).collect();
    Ok(Pool { name: "all corpora together".into(), clips, rows })
}

fn asked(ground: &mut Ground<'_>, pool: &Pool) -> Result<Vec<Asked>> {
    let large: Vec<String> =
        pool.styles().into_iter().filter(|(_, clips)| clips.len() >= 20).map(|(style, _)| style.to_string()).collect();
    let all = large.iter().map(|style| ground.asked_style(style, Side::Heldout)).collect::<Result<Vec<_>>>()?;
    ensure!(!all.is_empty(), "no style of {} has twenty clips", pool.name);
    Ok(together(&all))
}

/// R@k among `n` others like those in the pool, with an interval from drawing its clips again.
fn extrapolated(pool: &Pool, asked: &[Asked], n: f64, seed: u64) -> [Estimate; 4] {
    let scored: Vec<(Vec<f64>, Vec<f64>)> = asked.iter().map(|a| split(pool, a)).collect();
    let value = Recall::mean(scored.iter().map(|(good, bad)| predict(good, &Tail::fit(bad.clone()), n)));
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let again: Vec<Recall> = (0..REPLICATES)
        .map(|_| {
            let mut draw = |from: &[f64]| -> Vec<f64> {
                (0..from.len()).map(|_| from[random.random_range(0..from.len())]).collect()
            };
            Recall::mean(scored.iter().map(|(good, bad)| predict(&draw(good), &Tail::fit(draw(bad)), n)))
        })
        .collect();
    [0, 1, 2, 3].map(|place| Estimate::new(value.0[place], again.iter().map(|r| r.0[place]).collect()))
}

fn predict(good: &[f64], tail: &Tail, n: f64) -> Recall {
    Recall::mean(good.iter().map(|score| {
        let q = tail.above(*score);
        Recall(PLACES.map(|place| within(place, n, q)))
    }))
}

/// Scores of the clips of a style and of the others.
fn split(pool: &Pool, asked: &Asked) -> (Vec<f64>, Vec<f64>) {
    let scores = pool.rows.scores(asked.queries.row(0));
    let (mut good, mut bad) = (vec![], vec![]);
    for (score, clip) in scores.into_iter().zip(&pool.clips) {
        if clip.style == asked.style { good.push(f64::from(score)) } else { bad.push(f64::from(score)) }
    }
    (good, bad)
}

/// R@k of the whole pool as predicted from a part of the others: by the share that is above in the part, and by its tail.
fn predictions(pool: &Pool, asked: &[Asked], seed: u64) -> [Vec<Recall>; 2] {
    let scored: Vec<(Vec<f64>, Vec<f64>)> = asked.iter().map(|a| split(pool, a)).collect();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut all = [vec![], vec![]];
    for _ in 0..BACKTESTS {
        let mut both = [vec![], vec![]];
        for (good, bad) in &scored {
            let mut part = bad.clone();
            part.shuffle(&mut random);
            part.truncate(bad.len() / KNOWN);
            let n = bad.len() as f64;
            both[1].push(predict(good, &Tail::fit(part.clone()), n));
            let share = |score: &f64| part.iter().filter(|s| *s >= score).count() as f64 / part.len().max(1) as f64;
            let counted = good.iter().map(|score| Recall(PLACES.map(|place| within(place, n, share(score)))));
            both[0].push(Recall::mean(counted));
        }
        all.iter_mut().zip(both).for_each(|(all, styles)| all.push(Recall::mean(styles)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::pool::Heard;

    /// Two styles whose scores overlap.
    fn pool(each: usize) -> (Pool, Vec<Asked>) {
        let mut random = ChaCha8Rng::seed_from_u64(4);
        let mut bell = || (0..12).map(|_| random.random::<f32>()).sum::<f32>() - 6.0;
        let rows: Vec<Vec<f32>> = (0..2 * each).map(|n| vec![bell() + if n % 2 == 0 { 2.0 } else { 0.0 }]).collect();
        let clip = |n: usize| Heard { style: if n.is_multiple_of(2) { "a" } else { "b" }.into(), ..Heard::default() };
        let clips = (0..2 * each).map(clip).collect();
        let asked = Asked { style: "a".into(), queries: Rows::new(1, [vec![1.0]]).unwrap() };
        (Pool { name: "p".into(), clips, rows: Rows::new(1, rows).unwrap() }, vec![asked])
    }

    #[test]
    fn a_small_part_predicts_the_whole() {
        let (pool, asked) = pool(2000);
        let truth = exact_of(&pool, &asked[0], 2000);
        let [counted, tail] = predictions(&pool, &asked, 1);
        for place in [1, 3] {
            let got = mean(tail.iter().map(|r| r.0[place]));
            assert!((got - truth.0[place]).abs() < 0.06, "place {place}: {got}, truth {}", truth.0[place]);
        }
        // Counting takes clips that nothing in the part outranks for safe, and so promises too much.
        let error = |all: &[Recall]| (mean(all.iter().map(|r| r.0[0])) - truth.0[0]).abs();
        assert!(error(&tail) < error(&counted));
    }

    #[test]
    fn more_others_never_help() {
        let (pool, asked) = pool(300);
        let values: Vec<f64> = [1e3, 1e4, 1e5].map(|n| extrapolated(&pool, &asked, n, 1)[1].value).into();
        assert!(values.windows(2).all(|w| w[0] >= w[1]), "{values:?}");
        let exact = exact_of(&pool, &asked[0], 200).0[1];
        let modelled = extrapolated(&pool, &asked, 200.0, 1)[1];
        assert!((exact - modelled.value).abs() < 0.05, "{exact} {modelled:?}");
    }
}
