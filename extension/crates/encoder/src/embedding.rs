//! The proof type for a model's answer. Knows no models.

/// How far from 1 the length of a row may be that a model calls a unit vector.
const UNIT_TOLERANCE: f64 = 1e-2;

/// One embedding: the dimension its model states, finite, of length one. Built only by this crate.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding(Vec<f32>);

/// Why a row of numbers is no embedding: a fault of the model that made it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EmbeddingError {
    /// Wrong number of elements.
    #[error("the model gave {got} elements, its manifest states {expected}")]
    Dimension {
        /// Of the row.
        got: usize,
        /// Of the manifest.
        expected: usize,
    },
    /// NaN or infinite.
    #[error("element {at} of the model's answer is {value}")]
    NotFinite {
        /// Position.
        at: usize,
        /// The element.
        value: f32,
    },
    /// Not of length one.
    #[error("the model's answer has length {length}, not 1")]
    NotUnit {
        /// Euclidean.
        length: f64,
    },
}

impl Embedding {
    /// Elements, `dimension` of them.
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }

    /// Gives the elements away.
    pub fn into_vec(self) -> Vec<f32> {
        self.0
    }

    /// One minus the cosine: 0 for the same direction, 2 for the opposite one.
    pub fn cosine_distance(&self, other: &Self) -> f64 {
        1.0 - self.0.iter().zip(&other.0).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
    }

    /// Takes a row that should already have unit length, and removes what rounding has added to it.
    pub(crate) fn from_row(row: &[f32], dimension: usize) -> Result<Self, EmbeddingError> {
        if row.len() != dimension {
            return Err(EmbeddingError::Dimension { got: row.len(), expected: dimension });
        }
        if let Some(at) = row.iter().position(|value| !value.is_finite()) {
            return Err(EmbeddingError::NotFinite { at, value: row[at] });
        }
        let length = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        if (length - 1.0).abs() > UNIT_TOLERANCE {
            return Err(EmbeddingError::NotUnit { length });
        }
        Ok(Self(row.iter().map(|value| (f64::from(*value) / length) as f32).collect()))
    }

    /// The direction between several embeddings of one clip: the mean, brought back to unit length. Fails if they cancel
    /// each other.
    pub(crate) fn mean(parts: &[Self]) -> Result<Self, EmbeddingError> {
        if let [one] = parts {
            return Ok(one.clone());
        }
        let dimension = parts.first().map_or(0, |part| part.0.len());
        let mut sum = vec![0f64; dimension];
        for part in parts {
            sum.iter_mut().zip(&part.0).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        let length = sum.iter().map(|value| value * value).sum::<f64>().sqrt();
        if length < 1e-6 {
            return Err(EmbeddingError::NotUnit { length });
        }
        Ok(Self(sum.iter().map(|value| (value / length) as f32).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finite_unit_rows_of_the_right_dimension_are_embeddings() {
        assert_eq!(Embedding::from_row(&[0.6, 0.8], 2).unwrap().as_slice(), [0.6, 0.8]);
        assert!(matches!(Embedding::from_row(&[0.6, 0.8], 3), Err(EmbeddingError::Dimension { .. })));
        assert!(matches!(Embedding::from_row(&[1.0, f32::NAN], 2), Err(EmbeddingError::NotFinite { at: 1, .. })));
        assert!(matches!(Embedding::from_row(&[0.7, 0.8], 2), Err(EmbeddingError::NotUnit { .. })));
        assert!(matches!(Embedding::from_row(&[0.0, 0.0], 2), Err(EmbeddingError::NotUnit { .. })));
    }

    #[test]
    fn the_mean_of_windows_has_unit_length() {
        let a = Embedding::from_row(&[1.0, 0.0], 2).unwrap();
        let b = Embedding::from_row(&[0.0, 1.0], 2).unwrap();
        let mean = Embedding::mean(&[a.clone(), b]).unwrap();
        assert!((mean.as_slice()[0] - 0.5f32.sqrt()).abs() < 1e-6);
        let opposite = Embedding::from_row(&[-1.0, 0.0], 2).unwrap();
        assert_eq!(a.cosine_distance(&opposite), 2.0);
        assert!(Embedding::mean(&[a, opposite]).is_err());
    }
}
