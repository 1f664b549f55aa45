//! Lays clips and descriptions out in two dimensions: t-SNE over cosine distance.
//!
//! Descriptions lie off the region where clips lie, so both kinds are centred on their own mean first; without that
//! every description would land in one far corner. The map is for looking, the ranking never uses it.

/// A place on the map, both coordinates within 0..=1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// From left to right.
    pub x: f32,
    /// From top to bottom.
    pub y: f32,
}

/// Places for `clips` followed by `texts`. The same input gives the same map.
pub fn lay_out(clips: &[Vec<f32>], texts: &[Vec<f32>]) -> Vec<Place> {
    let mut points = centred(clips);
    points.extend(centred(texts));
    if points.len() < 8 {
        let n = points.len().max(1) as f32;
        return (0..points.len()).map(|i| Place { x: (i as f32 + 0.5) / n, y: 0.5 }).collect();
    }
    let perplexity = ((points.len() - 1) as f32 / 3.0).min(30.0);
    let rows: Vec<&[f32]> = points.iter().map(Vec::as_slice).collect();
    let mut tsne: bhtsne::tSNE<f32, &[f32]> = bhtsne::tSNE::new(&rows);
    tsne.embedding_dim(2).perplexity(perplexity).epochs(600);
    let distance = |a: &&[f32], b: &&[f32]| a.iter().zip(*b).map(|(x, y)| (x - y) * (x - y)).sum::<f32>().sqrt();
    if points.len() <= 600 {
        tsne.exact(distance);
    } else {
        tsne.barnes_hut(0.5, distance);
    }
    fit(&tsne.embedding())
}

/// Subtracts the mean and scales every row to unit length.
fn centred(rows: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let Some(first) = rows.first() else { return Vec::new() };
    let mut mean = vec![0f32; first.len()];
    for row in rows {
        mean.iter_mut().zip(row).for_each(|(m, x)| *m += x / rows.len() as f32);
    }
    rows.iter()
        .map(|row| {
            let moved: Vec<f32> = row.iter().zip(&mean).map(|(x, m)| x - m).collect();
            let length = moved.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
            moved.into_iter().map(|x| x / length).collect()
        })
        .collect()
}

fn fit(flat: &[f32]) -> Vec<Place> {
    let bounds = |offset: usize| {
        let axis = flat.iter().skip(offset).step_by(2);
        let low = axis.clone().copied().fold(f32::INFINITY, f32::min);
        let high = axis.copied().fold(f32::NEG_INFINITY, f32::max);
        (low, (high - low).max(1e-12))
    };
    let ((left, width), (top, height)) = (bounds(0), bounds(1));
    flat.chunks_exact(2).map(|p| Place { x: (p[0] - left) / width, y: (p[1] - top) / height }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_stay_together() {
        let group = |axis: usize, n: usize| {
            (0..n).map(move |i| {
                let mut row = vec![0f32; 8];
                row[axis] = 1.0;
                row[7] = i as f32 * 0.01;
                row
            })
        };
        let clips: Vec<Vec<f32>> = group(0, 20).chain(group(1, 20)).collect();
        let places = lay_out(&clips, &[]);
        let between = |a: &Place, b: &Place| ((a.x - b.x).powi(2) + (a.y - b.y).powi(2)).sqrt();
        let mean = |pairs: Vec<f32>| pairs.iter().sum::<f32>() / pairs.len() as f32;
        let inside = mean((1..20).map(|i| between(&places[0], &places[i])).collect());
        let across = mean((20..40).map(|i| between(&places[0], &places[i])).collect());
        assert!(inside * 2.0 < across, "inside {inside}, across {across}");
        assert!(places.iter().all(|p| (0.0..=1.0).contains(&p.x) && (0.0..=1.0).contains(&p.y)));
    }

    #[test]
    fn few_points_are_laid_in_a_row() {
        assert_eq!(lay_out(&[vec![1.0, 0.0]], &[]).len(), 1);
        assert!(lay_out(&[], &[]).is_empty());
    }
}
