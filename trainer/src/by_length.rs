//! Computing things of unlike length a few at a time, those of like length together, so that little is padding.

use std::collections::BTreeMap;

use anyhow::Result;
use tch::Tensor;

/// Rows of all things, in their order. `lengths` has a length for each; `compute` gets the numbers of at most `piece` things at a time and
/// gives a row for each in every tensor.
///
/// # Errors
/// If `compute` fails.
pub(crate) fn by_length(
    lengths: &[usize],
    piece: usize,
    mut compute: impl FnMut(&[usize]) -> Result<BTreeMap<String, Tensor>>,
) -> Result<BTreeMap<String, Tensor>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|n| lengths[*n]);
    let mut parts: BTreeMap<String, Vec<Tensor>> = BTreeMap::new();
    for chosen in order.chunks(piece.max(1)) {
        for (name, rows) in compute(chosen)? {
            parts.entry(name).or_default().push(rows);
        }
    }
    let place = indices(&order).argsort(0, false);
    let whole = |rows: Vec<Tensor>| {
        let joined = Tensor::cat(&rows, 0);
        joined.index_select(0, &place.to_device(joined.device()))
    };
    Ok(parts.into_iter().map(|(name, rows)| (name, whole(rows))).collect())
}

/// Row numbers as a tensor.
pub fn indices(rows: &[usize]) -> Tensor {
    Tensor::from_slice(&rows.iter().map(|r| *r as i64).collect::<Vec<_>>())
}
