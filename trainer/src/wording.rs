//! What people do to a description when they ask for it: wrap it into a request, mistype it, negate it. Knows words only.

use anyhow::{Result, ensure};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use crate::sides::{Halves, Side};

/// The keys of an English keyboard, row by row: a neighbour is hit instead of the right one.
const KEYS: [&str; 3] = ["qwertyuiop", "asdfghjkl", "zxcvbnm"];

/// The section `wordings` of the prompt file, which may be missing.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wordings {
    /// What comes before a description in a request.
    before: Halves,
    /// What comes after it.
    after: Halves,
    /// What negates an adjective, in the place of `{x}`.
    not_adjective: Halves,
    /// What negates something that a speaker does.
    not_gerund: Halves,
    /// What negates a noun.
    not_noun: Halves,
}

impl Wordings {
    /// Templates that negate a phrase of this form.
    pub fn negations(&self, form: &str, side: Side) -> &[String] {
        let halves = match form {
            "adjective" => &self.not_adjective,
            "gerund" => &self.not_gerund,
            _ => &self.not_noun,
        };
        halves.of(side)
    }

    /// Fails if there are no requests of this side.
    pub fn check_requests(&self, side: Side) -> Result<()> {
        let known = !self.before.of(side).is_empty() && !self.after.of(side).is_empty();
        ensure!(known, "the prompt file has no wordings.before and wordings.after of this side ({side:?})");
        Ok(())
    }

    /// A description inside a request, which is drawn. Panics without requests: see [`Wordings::check_requests`].
    pub fn request(&self, text: &str, side: Side, random: &mut ChaCha8Rng) -> String {
        let mut draw = |halves: &Halves| {
            let all = halves.of(side);
            all[random.random_range(0..all.len())].clone()
        };
        format!("{}{text}{}", draw(&self.before), draw(&self.after))
    }
}

/// One typing error in a word of at least four letters: two letters swapped, one left out, doubled or hit beside its key.
pub fn mistype(text: &str, random: &mut ChaCha8Rng) -> String {
    let mut words: Vec<Vec<char>> = text.split(' ').map(|word| word.chars().collect()).collect();
    let long: Vec<usize> = (0..words.len()).filter(|n| words[*n].len() >= 4).collect();
    if long.is_empty() {
        return text.into();
    }
    let word = &mut words[long[random.random_range(0..long.len())]];
    // First letters are rarely mistyped.
    let at = random.random_range(1..word.len() - 1);
    match random.random_range(0..4) {
        0 => word.swap(at, at + 1),
        1 => drop(word.remove(at)),
        2 => word.insert(at, word[at]),
        _ => word[at] = beside(word[at], random),
    }
    words.iter().map(|word| word.iter().collect::<String>()).collect::<Vec<_>>().join(" ")
}

/// The key left or right of a letter's; what is no letter stays.
fn beside(letter: char, random: &mut ChaCha8Rng) -> char {
    let row = |keys: &&str| keys.chars().position(|key| key == letter).map(|at| (keys.chars().collect::<Vec<_>>(), at));
    let Some((keys, at)) = KEYS.iter().find_map(row) else { return letter };
    let right = at == 0 || (at + 1 < keys.len() && random.random_bool(0.5));
    keys[if right { at + 1 } else { at - 1 }]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;
    use crate::prompts::Prompts;

    fn shipped() -> Prompts {
        Prompts::parse(include_str!("../data/prompts.toml")).unwrap()
    }

    #[test]
    fn a_typing_error_changes_one_word_by_one_letter() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        for _ in 0..200 {
            let text = "find clips where the talker is irate";
            let got = mistype(text, &mut random);
            let changed: Vec<_> = text.split(' ').zip(got.split(' ')).filter(|(a, b)| a != b).collect();
            assert!(changed.len() <= 1, "{got}");
            assert!(changed.iter().all(|(a, b)| a.len().abs_diff(b.len()) <= 1 && a.as_bytes()[0] == b.as_bytes()[0]));
        }
        assert_eq!(mistype("a sad", &mut random), "a sad");
        assert!((0..50).all(|_| beside('q', &mut random) == 'w' && ['a', 'd'].contains(&beside('s', &mut random))));
        assert_eq!(beside('é', &mut random), 'é');
    }

    #[test]
    fn requests_and_negations_keep_their_sides_apart() {
        let wordings = &shipped().wordings;
        for halves in
            [&wordings.before, &wordings.after, &wordings.not_adjective, &wordings.not_gerund, &wordings.not_noun]
        {
            assert!(!halves.of(Side::Train).is_empty() && !halves.of(Side::Heldout).is_empty());
            assert!(halves.of(Side::Train).iter().all(|text| !halves.of(Side::Heldout).contains(text)), "{halves:?}");
        }
        for halves in [&wordings.not_adjective, &wordings.not_gerund, &wordings.not_noun] {
            assert!([Side::Train, Side::Heldout].iter().flat_map(|s| halves.of(*s)).all(|text| text.contains("{x}")));
        }
    }

    #[test]
    fn what_surrounds_a_description_describes_no_style() {
        // A game's second level, and the cutting of a film: no monotone voice and no contempt.
        const OTHER_SENSES: [&str; 2] = ["level", "cutting"];
        let prompts = shipped();
        // Words of single-word phrases: what alone names a style.
        let naming: BTreeSet<String> = prompts
            .styles()
            .flat_map(|style| [Side::Train, Side::Heldout].map(|side| prompts.adjectives(style, side)))
            .flatten()
            .filter(|phrase| !phrase.contains(' '))
            .cloned()
            .collect();
        let around = [&prompts.wordings.before, &prompts.wordings.after];
        for text in around.iter().flat_map(|halves| [Side::Train, Side::Heldout].map(|side| halves.of(side))).flatten()
        {
            let words = text.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase);
            let named: Vec<_> = words.filter(|w| naming.contains(w) && !OTHER_SENSES.contains(&w.as_str())).collect();
            assert!(named.is_empty(), "{text:?} says {named:?}");
        }
    }

    #[test]
    fn a_request_holds_the_description() {
        let (prompts, mut random) = (shipped(), ChaCha8Rng::seed_from_u64(8));
        prompts.wordings.check_requests(Side::Train).unwrap();
        let all: BTreeSet<String> =
            (0..100).map(|_| prompts.wordings.request("an irate voice", Side::Train, &mut random)).collect();
        assert!(all.len() > 60 && all.iter().all(|text| text.contains("an irate voice")));
        assert!(Wordings::default().check_requests(Side::Train).is_err());
    }
}
