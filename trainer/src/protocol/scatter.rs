//! Clips and descriptions in one plane, by t-SNE (exact, perplexity 30, from a seeded start): whether both modalities of a
//! style lie together, as in the paper's figure.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use rand::seq::index::sample;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::pool::{Asked, Pool};
use crate::figure::{Cloud, points};

/// Clips of a style that are drawn at most.
const CLIPS: usize = 60;
/// Descriptions of a style that are drawn at most.
const PROMPTS: usize = 10;
const PERPLEXITY: f32 = 30.0;
const EPOCHS: usize = 1000;

/// A drawing of some clips and descriptions of each style; the same seed gives the same. Descriptions may lie off the region
/// where clips lie, which does not matter to a ranking; `centred` moves both kinds to their own middle first.
///
/// # Errors
/// If there are fewer than ten points.
pub fn draw(pool: &Pool, asked: &[Asked], centred: bool, seed: u64) -> Result<String> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let styles = pool.styles();
    let mut vectors: Vec<&[f32]> = vec![];
    // Style, and whether it is a description.
    let mut kinds: Vec<(&str, bool)> = vec![];
    for asked in asked {
        let Some(clips) = styles.get(asked.style.as_str()) else { continue };
        for n in sample(&mut random, clips.len(), CLIPS.min(clips.len())) {
            vectors.push(pool.rows.row(clips[n]));
            kinds.push((&asked.style, false));
        }
        for n in sample(&mut random, asked.queries.len(), PROMPTS.min(asked.queries.len())) {
            vectors.push(asked.queries.row(n));
            kinds.push((&asked.style, true));
        }
    }
    let moved = if centred { centre(&vectors, &kinds) } else { vectors.iter().map(|v| v.to_vec()).collect() };
    let places = plane(&moved.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut random)?;
    let mut clouds: BTreeMap<&str, Cloud> = BTreeMap::new();
    for ((style, described), place) in kinds.iter().zip(places) {
        let cloud =
            clouds.entry(style).or_insert_with(|| Cloud { name: (*style).into(), circles: vec![], crosses: vec![] });
        if *described { cloud.crosses.push(place) } else { cloud.circles.push(place) }
    }
    let how = if centred { ", each kind centred" } else { "" };
    let title = format!("{}: clips (circles) and descriptions (crosses), t-SNE{how}", pool.name);
    points(&title, &clouds.into_values().collect::<Vec<_>>())
}

/// Takes the mean of each modality away.
fn centre(vectors: &[&[f32]], kinds: &[(&str, bool)]) -> Vec<Vec<f32>> {
    let mean = |described: bool| {
        let own = vectors.iter().zip(kinds).filter(|(_, kind)| kind.1 == described);
        let n = own.clone().count().max(1) as f32;
        let mut sum = vec![0f32; vectors.first().map_or(0, |v| v.len())];
        own.for_each(|(v, _)| sum.iter_mut().zip(v.iter()).for_each(|(s, x)| *s += x / n));
        sum
    };
    let means = [mean(false), mean(true)];
    let moved =
        |(v, kind): (&&[f32], &(&str, bool))| v.iter().zip(&means[usize::from(kind.1)]).map(|(x, m)| x - m).collect();
    vectors.iter().zip(kinds).map(moved).collect()
}

/// Places of vectors in the plane.
fn plane(vectors: &[&[f32]], random: &mut ChaCha8Rng) -> Result<Vec<(f64, f64)>> {
    ensure!(vectors.len() >= 10, "t-SNE of {} points says nothing; it needs ten", vectors.len());
    let perplexity = PERPLEXITY.min((vectors.len() as f32 - 1.0) / 3.5);
    let start: Vec<f32> = (0..2 * vectors.len()).map(|_| random.random_range(-1e-2..1e-2)).collect();
    // Between unit vectors this grows with the angle, as the cosine does by which clips are ranked.
    let distance = |a: &&[f32], b: &&[f32]| a.iter().zip(b.iter()).map(|(x, y)| (x - y) * (x - y)).sum::<f32>().sqrt();
    // On several threads sums would be added up in another order each time, and the places with them.
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let places = alone.install(|| {
        let mut tsne: bhtsne::tSNE<f32, &[f32]> = bhtsne::tSNE::new(vectors);
        tsne.embedding_dim(2).perplexity(perplexity).epochs(EPOCHS).initial_embedding(start);
        tsne.exact(distance);
        tsne.embedding()
    });
    Ok(places.chunks_exact(2).map(|p| (f64::from(p[0]), f64::from(p[1]))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_bunches_stay_apart_and_the_seed_decides() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let rows: Vec<Vec<f32>> = (0..60)
            .map(|n| (0..6).map(|d| if d == n % 3 { 1.0 } else { 0.0 } + random.random_range(-0.1..0.1)).collect())
            .collect();
        let vectors: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let seeded = || plane(&vectors, &mut ChaCha8Rng::seed_from_u64(9)).unwrap();
        let places = seeded();
        let distance = |a: usize, b: usize| (places[a].0 - places[b].0).hypot(places[a].1 - places[b].1);
        let nearest =
            |n: usize| (0..60).filter(|m| *m != n).min_by(|a, b| distance(n, *a).total_cmp(&distance(n, *b))).unwrap();
        let same = (0..60).filter(|n| nearest(*n) % 3 == n % 3).count();
        assert!(same >= 58, "only {same} of 60 have a neighbour of their bunch");
        assert_eq!(places, seeded());
        assert!(plane(&vectors[..5], &mut random).is_err());
    }
}
