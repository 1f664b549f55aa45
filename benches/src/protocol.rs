//! The paper's retrieval protocol through SQL, compared with what `esr-trainer protocol --embeddings FILE` found in memory:
//! the same clips ranked by the same queries with `ORDER BY style <=> query`, R@k from the ranks by a formula of its own.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use esr_tests::cluster::{Cluster, Options};
use postgres::Client;
use serde::Deserialize;

use crate::binary::text;

/// Numbers of first places.
const PLACES: [usize; 4] = [1, 5, 10, 20];
/// Two cosines this near are a tie: f32 sums differ in this order from one order of adding to another.
const TIE: f64 = 1e-6;

/// What is compared.
#[derive(Debug, Args)]
pub struct ProtocolArguments {
    /// What `esr-trainer protocol --embeddings FILE` wrote.
    embeddings: PathBuf,
    /// Fail unless R@k of every query agrees to within this, where clips that tie have the order that they have in memory.
    #[arg(long, default_value_t = 1e-6)]
    tolerance: f64,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Line {
    Header { dimension: usize, drawn: usize },
    Clip { pool: String, clip: usize, style: String, embedding: Vec<f32> },
    Query { pool: String, style: String, embedding: Vec<f32>, above: Vec<(usize, usize, f32)>, recall: [f64; 4] },
}

/// A query with what came of it in memory.
struct Query {
    style: String,
    vector: Vec<f32>,
    /// By clip of the style: clips of other styles above it, cosine.
    above: BTreeMap<usize, (usize, f32)>,
    recall: [f64; 4],
}

#[derive(Default)]
struct Pool {
    styles: Vec<String>,
    queries: Vec<Query>,
}

/// What came of comparing one pool.
#[derive(Default)]
struct Compared {
    memory: [f64; 4],
    sql: [f64; 4],
    /// Clips of the asked styles, and of those the ones that come at another place among the others.
    ranked: usize,
    moved: usize,
    /// Largest difference of R@k of a query, and what is left of it where ties are broken as in memory.
    recall: f64,
    untied: f64,
    /// Largest difference of a cosine.
    cosine: f64,
}

/// Loads a file into a private cluster and compares.
pub fn run(arguments: &ProtocolArguments) -> Result<()> {
    let cluster = Cluster::start(Options::default().set("shared_buffers", "512MB").set("autovacuum", "off"))?;
    let mut session = cluster.connect()?;
    session.batch_execute("CREATE EXTENSION esr")?;
    let (drawn, pools) = load(&arguments.embeddings, &mut session)?;
    ensure!(!pools.is_empty(), "{} holds no pool", arguments.embeddings.display());
    println!("One clip of the style among {drawn} of others, in exact expectation, mean over styles\n");
    println!("| pool | clips | ranked by | R@1 | R@5 | R@10 | R@20 |\n|---|---|---|---|---|---|---|");
    let mut worst = Compared::default();
    for (name, pool) in &pools {
        let compared = compare(&mut session, name, pool, drawn)?;
        for (by, recall) in [("in memory", compared.memory), ("SQL", compared.sql)] {
            let shares: Vec<String> = recall.iter().map(|r| format!("{r:.7}")).collect();
            println!("| {name} | {} | {by} | {} |", pool.styles.len(), shares.join(" | "));
        }
        worst.ranked += compared.ranked;
        worst.moved += compared.moved;
        worst.recall = worst.recall.max(compared.recall);
        worst.untied = worst.untied.max(compared.untied);
        worst.cosine = worst.cosine.max(compared.cosine);
    }
    println!(
        "\n{} clips ranked; {} tie with others and come at another place among the clips of other styles; R@k of a query differs by at \
         most {:.1e}, with ties as in memory by {:.1e}, a cosine by at most {:.1e}",
        worst.ranked, worst.moved, worst.recall, worst.untied, worst.cosine
    );
    ensure!(
        worst.untied <= arguments.tolerance,
        "SQL and memory disagree: R@k differs by {:.1e}, over the tolerance of {:.1e}",
        worst.untied,
        arguments.tolerance
    );
    Ok(())
}

fn load(file: &Path, session: &mut Client) -> Result<(usize, BTreeMap<String, Pool>)> {
    let lines = BufReader::new(File::open(file).with_context(|| format!("cannot read {}", file.display()))?).lines();
    let mut lines = lines.enumerate().map(|(n, line)| -> Result<Line> {
        serde_json::from_str(&line?).with_context(|| format!("{} line {}", file.display(), n + 1))
    });
    let Some(Line::Header { dimension, drawn }) = lines.next().transpose()? else {
        bail!(
            "{} does not begin with a header; it should be what `esr-trainer protocol --embeddings` wrote",
            file.display()
        )
    };
    session.batch_execute(&format!("CREATE TABLE clips (pool text, clip int, style esr_vector({dimension}))"))?;
    let mut copy = session.copy_in("COPY clips FROM STDIN")?;
    let mut pools: BTreeMap<String, Pool> = BTreeMap::new();
    for line in lines {
        match line? {
            Line::Header { .. } => bail!("{} has two headers", file.display()),
            Line::Clip { pool, clip, style, embedding } => {
                ensure!(!pool.contains(['\t', '\\', '\n']), "the name of the pool {pool:?} is not plain");
                writeln!(copy, "{pool}\t{clip}\t{}", text(&embedding))?;
                let styles = &mut pools.entry(pool).or_default().styles;
                ensure!(styles.len() == clip, "clip {clip} is out of order");
                styles.push(style);
            }
            Line::Query { pool, style, embedding, above, recall } => {
                let above = above.into_iter().map(|(clip, above, cosine)| (clip, (above, cosine))).collect();
                pools.entry(pool).or_default().queries.push(Query { style, vector: embedding, above, recall });
            }
        }
    }
    copy.finish()?;
    session.batch_execute("VACUUM ANALYZE clips")?;
    Ok((drawn, pools))
}

fn compare(session: &mut Client, name: &str, pool: &Pool, drawn: usize) -> Result<Compared> {
    let mut all = Compared::default();
    let statement = session.prepare(
        "SELECT clip, 1 - (style <=> $1::text::esr_vector) FROM clips WHERE pool = $2 ORDER BY style <=> $1::text::esr_vector",
    )?;
    for query in &pool.queries {
        let rows = session.query(&statement, &[&text(&query.vector), &name])?;
        ensure!(rows.len() == pool.styles.len(), "SQL gave {} of {} clips of {name}", rows.len(), pool.styles.len());
        let ranked: Vec<(usize, f64)> = rows.iter().map(|row| (row.get::<_, i32>(0) as usize, row.get(1))).collect();
        let length = query.vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let others = pool.styles.iter().filter(|style| **style != query.style).count();
        let (mut above, mut sum, mut untied, mut found) = (0, [0.0; 4], [0.0; 4], 0);
        for (clip, cosine) in &ranked {
            if pool.styles[*clip] != query.style {
                above += 1;
                continue;
            }
            let Some((expected, score)) = query.above.get(clip) else {
                bail!("memory did not rank clip {clip} of {name}")
            };
            // In memory the query is not scaled to length 1, which no ranking notices.
            all.cosine = all.cosine.max((cosine - f64::from(*score) / length).abs());
            if *expected != above {
                let near = ranked.iter().filter(|(c, other)| c != clip && (other - cosine).abs() < TIE).count();
                ensure!(
                    near > 0,
                    "SQL ranks clip {clip} of {name} below {above} others, memory below {expected}, and it is no tie"
                );
                all.moved += 1;
            }
            found += 1;
            for ((sum, untied), place) in sum.iter_mut().zip(&mut untied).zip(PLACES) {
                *sum += within(place, others, above, drawn);
                *untied += within(place, others, *expected, drawn);
            }
        }
        ensure!(
            found == query.above.len(),
            "SQL ranked {found} clips of {:?}, memory {}",
            query.style,
            query.above.len()
        );
        all.ranked += found;
        let n = pool.queries.len() as f64;
        for (place, (sum, untied)) in sum.into_iter().zip(untied).enumerate() {
            let [sql, untied] = [sum, untied].map(|sum| sum / found.max(1) as f64);
            all.untied = all.untied.max((untied - query.recall[place]).abs());
            all.sql[place] += sql / n;
            all.memory[place] += query.recall[place] / n;
            all.recall = all.recall.max((sql - query.recall[place]).abs());
        }
    }
    Ok(all)
}

/// Probability that of `drawn` clips out of `others`, of which `above` rank above, fewer than `place` rank above. Each term
/// of the hypergeometric distribution follows from the one before it.
fn within(place: usize, others: usize, above: usize, drawn: usize) -> f64 {
    let drawn = drawn.min(others);
    let (all, marked, kept) = (others as f64, above as f64, drawn as f64);
    // So many of those above are drawn at least.
    let least = (above + drawn).saturating_sub(others);
    if place <= least {
        return 0.0;
    }
    // Probability of the least number, as a product over the smaller of the two groups that must be missed or taken.
    let mut term: f64 = if least == 0 {
        (0..above).map(|i| (all - kept - i as f64) / (all - i as f64)).product()
    } else {
        (0..others - above).map(|i| (kept - i as f64) / (all - i as f64)).product()
    };
    let mut sum = 0.0;
    for j in least..place.min(above.min(drawn) + 1) {
        sum += term;
        let j = j as f64;
        term *= (marked - j) * (kept - j) / ((j + 1.0) * (all - marked - kept + j + 1.0));
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formula_is_that_of_counting_every_draw() {
        for (others, drawn) in [(1, 1), (8, 3), (11, 6), (12, 12), (9, 8)] {
            for above in 0..=others {
                for place in [1, 2, 5, 20] {
                    let (mut hits, mut all) = (0u32, 0u32);
                    for set in 0u32..1 << others {
                        if set.count_ones() as usize == drawn {
                            all += 1;
                            hits += u32::from(((set & ((1 << above) - 1)).count_ones() as usize) < place);
                        }
                    }
                    let (got, want) = (within(place, others, above, drawn), f64::from(hits) / f64::from(all));
                    assert!((got - want).abs() < 1e-12, "{above} of {others}, {drawn} drawn, {place}: {got}, {want}");
                }
            }
        }
        assert!((within(1, 1200, 2, 400) - 0.444).abs() < 1e-3);
    }
}
