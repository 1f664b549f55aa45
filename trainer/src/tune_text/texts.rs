//! Which texts beside the prompts the student is taught.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::baseline::unit;
use crate::config::Config;
use crate::prompts::{Prompts, Side};
use crate::text_features::{Encoder, pooled};
use crate::tokenizer::TextTokenizer;
use crate::weights;

/// Words of the vocabulary that lie near the styles, and some that do not; none that occurs in a held-out phrase.
pub(super) fn words(
    config: &Config,
    prompts: &Prompts,
    taught: &[String],
    count: usize,
    random: &mut ChaCha8Rng,
) -> Result<Vec<String>> {
    let heldout: BTreeSet<String> = prompts.words(Side::Heldout);
    let tokenizer = TextTokenizer::read(&weights::resolve(&config.text.tokenizer), config.text.max_tokens)?;
    let plain = |w: &String| w.len() >= 4 && w.chars().all(|c| c.is_ascii_lowercase());
    let all = tokenizer.vocabulary().into_iter().filter(plain).filter(|w| !heldout.contains(w)).collect();
    nearest(config, all, taught, count, random)
}

/// Sentences of the config's file that lie near the styles, and some that do not; none with a word that only held-out
/// phrases have, unless `running_text` allows it and the sentence is no phrase about a voice.
pub(super) fn sentences(
    config: &Config,
    count: usize,
    prompts: &Prompts,
    taught: &[String],
    random: &mut ChaCha8Rng,
) -> Result<Vec<String>> {
    let Some(tuning) = &config.text.tuning else { return Ok(vec![]) };
    let Some(file) = tuning.sentences.as_ref().map(|file| weights::resolve(file)) else { return Ok(vec![]) };
    let text = std::fs::read_to_string(&file).with_context(|| {
        format!("cannot read the sentences in {}; scripts/fetch-weights.sh makes it", file.display())
    })?;
    let trained = prompts.words(Side::Train);
    let only_heldout: BTreeSet<String> = prompts.words(Side::Heldout).difference(&trained).cloned().collect();
    let allowed = |s: &str| (tuning.running_text && !about_a_voice(s)) || shares_none(s, &only_heldout);
    let all = text.lines().map(str::trim).filter(|s| !s.is_empty() && allowed(s)).map(String::from).collect();
    nearest(config, all, taught, count, random)
}

fn shares_none(sentence: &str, words: &BTreeSet<String>) -> bool {
    sentence.split(|c: char| !c.is_alphanumeric()).all(|word| !words.contains(word.to_lowercase().as_str()))
}

/// Whether a sentence has the form that scripts/wordnet_sentences.py puts single words into, which is that of our prompts.
fn about_a_voice(sentence: &str) -> bool {
    let phrase = sentence.ends_with(" voice") && (sentence.starts_with("a ") || sentence.starts_with("an "));
    phrase || sentence.starts_with("someone ") || sentence.starts_with("a voice full of ")
}

/// Three quarters of `count` from the candidates nearest to the `taught` texts as the published encoder sees them, the
/// rest drawn from the others; all are drawn when there are no `taught` texts.
fn nearest(
    config: &Config,
    mut candidates: Vec<String>,
    taught: &[String],
    count: usize,
    random: &mut ChaCha8Rng,
) -> Result<Vec<String>> {
    candidates.sort();
    candidates.dedup();
    if count == 0 || candidates.is_empty() {
        return Ok(vec![]);
    }
    if count >= candidates.len() {
        return Ok(candidates);
    }
    if taught.is_empty() {
        candidates.shuffle(random);
        candidates.truncate(count);
        return Ok(candidates);
    }
    let place = |texts: &[String]| Ok::<_, anyhow::Error>(unit(&pooled(config, &Encoder::Published, texts)?));
    let likeness = place(&candidates)?.matmul(&place(taught)?.transpose(0, 1));
    let nearest: Vec<f32> = Vec::try_from(likeness.amax([1i64].as_slice(), false))?;
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|a, b| nearest[*b].total_cmp(&nearest[*a]));
    let near = (count * 3 / 4).min(order.len());
    let mut rest: Vec<usize> = order.split_off(near);
    rest.shuffle(random);
    order.extend(rest.into_iter().take(count - near));
    order.sort_unstable();
    Ok(order.into_iter().map(|n| candidates[n].clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_out_word_is_known_in_any_dress_and_phrases_from_running_text() {
        let words = BTreeSet::from(["irate".to_string()]);
        for (sentence, free, phrase) in [
            ("an irate voice", false, true),
            ("a voice full of ire", true, true),
            ("someone speaking Irate-ly", false, true),
            ("an Irate customer rang", false, false),
            ("the pirate rang", true, false),
        ] {
            assert_eq!((shares_none(sentence, &words), about_a_voice(sentence)), (free, phrase), "{sentence}");
        }
    }
}
