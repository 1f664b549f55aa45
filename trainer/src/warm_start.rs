//! Starts the speech projection as the ridge map onto the text embeddings of the classes, fitted inside each group of
//! corpora: what tells groups apart (rooms, words against bursts) must not look like style.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor};

use crate::config::Config;
use crate::sampling::weights;
use crate::store::Entry;
use crate::torch::Params;

/// Sets `speech.head.outer.*` so that standardised features give the ridge prediction.
pub fn start(
    config: &Config,
    entries: &[Entry],
    features: &Tensor,
    targets: &Tensor,
    params: &mut Params,
) -> Result<()> {
    ensure!(
        config.speech.tower.projection.standardise,
        "training.warm_start needs speech.tower.projection.standardise"
    );
    let (mean, scale) =
        (params["speech.head.mean"].to_kind(Kind::Double), params["speech.head.scale"].to_kind(Kind::Double));
    let x = (features.to_kind(Kind::Double) - mean) * scale;
    let strength = config.training.warm_start;
    let (map, bias) = ridge(config, entries, &weights(&config.training, entries), &x, targets, strength)?;
    // The classifier and the contrastive loss see unit vectors, so only the directions matter; a common scale keeps the
    // weights in the range the optimiser expects.
    let size = map.std(false).double_value(&[]).max(1e-9);
    let usual = 0.5 / (x.size()[1] as f64).sqrt();
    params.insert("speech.head.outer.weight".into(), (map * (usual / size)).to_kind(Kind::Float));
    params.insert("speech.head.outer.bias".into(), (bias * (usual / size)).to_kind(Kind::Float));
    Ok(())
}

/// The ridge map `[width, dimension]` and its bias from features `x` `[entries, width]` to `targets` `[entries, dimension]`, fitted
/// inside each of the config's domains. The penalty is `strength` times the mean variance of the features.
///
/// # Errors
/// If the equations have no solution.
pub(crate) fn ridge(
    config: &Config,
    entries: &[Entry],
    weights: &[f64],
    x: &Tensor,
    targets: &Tensor,
    strength: f64,
) -> Result<(Tensor, Tensor)> {
    let y = targets.to_kind(Kind::Double);
    let domains = &config.training.domains;
    let domain = |e: &Entry| domains.iter().position(|d| d.contains(&e.corpus)).unwrap_or(usize::MAX);
    let mut grouped: BTreeMap<usize, Vec<i64>> = BTreeMap::new();
    entries.iter().enumerate().for_each(|(n, e)| grouped.entry(domain(e)).or_default().push(n as i64));

    let width = x.size()[1];
    let options = (Kind::Double, x.device());
    let (mut normal, mut right) =
        (Tensor::zeros([width, width], options), Tensor::zeros([width, y.size()[1]], options));
    let (mut centre, mut total) = (Tensor::zeros([1, width], options), 0.0);
    for rows in grouped.values() {
        let w: Vec<f64> = rows.iter().map(|n| weights[*n as usize]).collect();
        let sum: f64 = w.iter().sum();
        let rows = Tensor::from_slice(rows);
        let w = Tensor::from_slice(&w).unsqueeze(1);
        let (x, y) = (x.index_select(0, &rows), y.index_select(0, &rows));
        let share = &w / sum;
        let middle = (&x * &share).sum_dim_intlist([0i64].as_slice(), true, Kind::Double);
        let x = x - &middle;
        let y = &y - (&y * &share).sum_dim_intlist([0i64].as_slice(), true, Kind::Double);
        let weighted = (&x * &w).transpose(0, 1);
        normal += weighted.matmul(&x);
        right += weighted.matmul(&y);
        centre += middle * sum;
        total += sum;
    }
    let penalty = Tensor::eye(width, options) * (normal.trace() / width as f64 * strength);
    let map =
        Tensor::f_linalg_solve(&(normal + penalty), &right, true).context("the ridge equations have no solution")?;
    let bias = -(centre / total).matmul(&map).squeeze_dim(0);
    Ok((map, bias))
}
