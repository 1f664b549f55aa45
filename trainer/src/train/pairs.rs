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

/// `[batch, batch]`: one where a prompt describes a clip, that is, says only what the clip has: its styles, and what was measured of it.
pub(super) fn positives<'a>(
    clips: impl Iterator<Item = (&'a Entry, Option<&'a BTreeSet<String>>)>,
    prompts: impl Iterator<Item = &'a BTreeSet<String>> + Clone,
) -> Tensor {
    let describes = |entry: &Entry, traits: Option<&BTreeSet<String>>, prompt: &BTreeSet<String>| {
        prompt.iter().all(|said| entry.styles.contains(said) || traits.is_some_and(|all| all.contains(said)))
    };
    let n = prompts.clone().count() as i64;
    let flat: Vec<f32> =
        clips.flat_map(|(e, t)| prompts.clone().map(move |p| f32::from(u8::from(describes(e, t, p))))).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_describes_the_clips_that_have_all_it_says() {
        let entry = |style: &str| Entry { styles: vec![style.into()], ..crate::store::tests::entry(0) };
        let set = |said: &[&str]| said.iter().map(|s| s.to_string()).collect::<BTreeSet<_>>();
        let (entries, traits) =
            ([entry("angry"), entry("sad")], [set(&["pitch low", "rate high"]), set(&["pitch low"])]);
        let prompts = [set(&["angry"]), set(&["pitch low"]), set(&["pitch low", "rate high"])];
        let with = |traits: &[BTreeSet<String>]| {
            let clips = entries.iter().enumerate().map(|(n, e)| (e, traits.get(n)));
            Vec::<f32>::try_from(positives(clips, prompts.iter()).view(-1)).unwrap()
        };
        assert_eq!(with(&traits), [1.0, 1.0, 1.0, 0.0, 1.0, 0.0]);
        assert_eq!(with(&[]), [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }
}
