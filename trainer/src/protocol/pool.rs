//! Clips and queries as vectors. Knows no model and no file.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

/// Vectors of one width, a row each, back to back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    width: usize,
    values: Vec<f32>,
}

impl Rows {
    /// Takes rows of a width.
    ///
    /// # Errors
    /// If a row has another width.
    pub fn new(width: usize, rows: impl IntoIterator<Item = Vec<f32>>) -> Result<Self> {
        let mut values = vec![];
        for (n, row) in rows.into_iter().enumerate() {
            ensure!(row.len() == width, "row {n} has {} elements, not {width}", row.len());
            values.extend(row);
        }
        Ok(Self { width, values })
    }

    /// A matrix `[rows, width]`.
    ///
    /// # Errors
    /// If it is none.
    pub fn of(matrix: &Tensor) -> Result<Self> {
        let width = matrix.size2()?.1 as usize;
        Ok(Self { width, values: Vec::try_from(matrix.to_kind(Kind::Float).contiguous().flatten(0, -1))? })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// One row.
    pub fn row(&self, n: usize) -> &[f32] {
        &self.values[n * self.width..(n + 1) * self.width]
    }

    /// All rows in order.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.width.max(1))
    }

    /// The rows of these numbers.
    pub fn pick(&self, rows: &[usize]) -> Self {
        Self { width: self.width, values: rows.iter().flat_map(|n| self.row(*n).iter().copied()).collect() }
    }

    /// Inner product of every row with a query, which for unit vectors ranks like the cosine. Summed in f64, so that the
    /// order of the sum does not show.
    pub fn scores(&self, query: &[f32]) -> Vec<f32> {
        let dot = |row: &[f32]| row.iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32;
        self.iter().map(dot).collect()
    }

    /// The mean of the rows. For unit vectors of a style's prompts it ranks like the mean of the prompts' cosines, which is
    /// how the paper's released code asks.
    pub fn mean(&self) -> Vec<f32> {
        let n = self.len().max(1) as f64;
        let sum = |column: usize| self.iter().map(|row| f64::from(row[column])).sum::<f64>();
        (0..self.width).map(|column| (sum(column) / n) as f32).collect()
    }
}

/// What is known about a clip.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heard {
    /// File or piece of one.
    pub path: String,
    /// Speaker.
    pub speaker: String,
    /// Its class: the styles joined.
    pub style: String,
    /// Length in seconds.
    pub seconds: f32,
    /// What is said, where a manifest tells; empty when unknown.
    pub sentence: String,
    /// Language code; empty when unknown.
    pub language: String,
}

/// Clips that are ranked together.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    /// Name, such as that of the corpus.
    pub name: String,
    /// The clips.
    pub clips: Vec<Heard>,
    /// Their unit vectors, in the same order.
    pub rows: Rows,
}

impl Pool {
    /// Clips of each style.
    pub fn styles(&self) -> BTreeMap<&str, Vec<usize>> {
        let mut all: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        self.clips.iter().enumerate().for_each(|(n, clip)| all.entry(&clip.style).or_default().push(n));
        all
    }

    /// Which clips are of a style.
    pub fn relevant(&self, style: &str) -> Vec<bool> {
        self.clips.iter().map(|clip| clip.style == style).collect()
    }

    /// Some of the clips.
    pub fn pick(&self, name: &str, clips: &[usize]) -> Pool {
        Pool {
            name: name.into(),
            clips: clips.iter().map(|n| self.clips[*n].clone()).collect(),
            rows: self.rows.pick(clips),
        }
    }
}

/// How a pool is asked for a style: with one vector or with several that are averaged over, each ranking alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The style.
    pub style: String,
    /// One query a row.
    pub queries: Rows,
}

impl Asked {
    /// One query: the mean of several.
    pub fn together(style: &str, prompts: &Rows) -> Self {
        let mean = prompts.mean();
        Self { style: style.into(), queries: Rows { width: mean.len(), values: mean } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_unit_vectors_ranks_like_the_mean_of_cosines() {
        let rows = Rows::new(2, [vec![1.0, 0.0], vec![0.6, 0.8], vec![0.0, -1.0]]).unwrap();
        let prompts = Rows::new(2, [vec![0.0, 1.0], vec![0.8, 0.6]]).unwrap();
        let means: Vec<f32> =
            (0..3).map(|n| prompts.iter().map(|p| rows.pick(&[n]).scores(p)[0]).sum::<f32>() / 2.0).collect();
        let together = rows.scores(Asked::together("x", &prompts).queries.row(0));
        means.iter().zip(&together).for_each(|(a, b)| assert!((a - b).abs() < 1e-6, "{a} {b}"));
        assert!(Rows::new(2, [vec![1.0]]).is_err());
    }

    #[test]
    fn matrices_become_rows() {
        let rows = Rows::of(&Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).view([2, 3])).unwrap();
        assert_eq!((rows.len(), rows.row(1)), (2, &[4.0f32, 5.0, 6.0][..]));
        assert!(Rows::of(&Tensor::from_slice(&[1.0f32])).is_err());
    }
}
