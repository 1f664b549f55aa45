//! Which clips, prompts and classes of a batch belong together, and which must not be compared.

use std::collections::BTreeSet;

use tch::Tensor;

use crate::config::Config;
use crate::store::Entry;

/// `[batch, classes]`: one where a clip has a style.
pub(super) fn marks<'a>(entries: impl Iterator<Item = &'a Entry>, styles: &[String]) -> Tensor {
    let flat: Vec<f32> =
        entries.flat_map(|e| styles.iter().map(|s| f32::from(u8::from(e.styles.contains(s))))).collect();
    Tensor::from_slice(&flat).view([-1, styles.len() as i64])
}

/// `[batch, batch]`: one where a prompt describes a clip, that is, names only styles the clip has.
pub(super) fn positives<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    prompts: impl Iterator<Item = &'a BTreeSet<String>> + Clone,
) -> Tensor {
    let describes = |e: &Entry, p: &BTreeSet<String>| p.iter().all(|s| e.styles.contains(s));
    let n = prompts.clone().count() as i64;
    let flat: Vec<f32> =
        entries.flat_map(|e| prompts.clone().map(move |p| f32::from(u8::from(describes(e, p))))).collect();
    Tensor::from_slice(&flat).view([-1, n])
}

/// The group of corpora that a corpus belongs to.
pub(super) fn domain(config: &Config, corpus: &str) -> usize {
    config.training.domains.iter().position(|d| d.iter().any(|c| c == corpus)).unwrap_or(usize::MAX)
}

/// The groups in which a style occurs.
pub(super) fn domains_of(config: &Config, entries: &[Entry], style: &str) -> Vec<usize> {
    let found: BTreeSet<usize> =
        entries.iter().filter(|e| e.styles.iter().any(|s| s == style)).map(|e| domain(config, &e.corpus)).collect();
    found.into_iter().collect()
}

/// `[batch, classes]`: very low where a class does not occur in a clip's group.
pub(super) fn hide(clips: &[usize], classes: &[Vec<usize>]) -> Tensor {
    let flat: Vec<f32> =
        clips.iter().flat_map(|d| classes.iter().map(move |c| if c.contains(d) { 0.0 } else { -1e4 })).collect();
    Tensor::from_slice(&flat).view([clips.len() as i64, classes.len() as i64])
}

/// `[batch, batch]`: very low where two clips are of different groups.
pub(super) fn hide_pairs(clips: &[usize]) -> Tensor {
    let flat: Vec<f32> =
        clips.iter().flat_map(|a| clips.iter().map(move |b| if a == b { 0.0 } else { -1e4 })).collect();
    Tensor::from_slice(&flat).view([clips.len() as i64, clips.len() as i64])
}
