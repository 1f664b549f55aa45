//! What the student reads in tuning, drawn step by step.

use anyhow::{Context, Result, bail, ensure};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::texts;
use crate::config::{Config, Tuning};
use crate::prompts::{Prompts, Side, fill_one as fill};
use crate::wording::{Wordings, mistype};

/// The template in which the teacher reads a word.
const TEACHER_TEMPLATE: &str = "a {x} voice";

/// What the student reads, and the places it should give what it reads.
pub(super) struct Lesson {
    /// All training prompts of each style.
    pub(super) of_style: Vec<Vec<String>>,
    /// Texts with a place: a sample of the prompts, then words, then sentences.
    pub(super) taught: Vec<String>,
    /// How many of them are prompts.
    pub(super) labelled: usize,
    /// The words, to be put into any template.
    words: Vec<String>,
    /// Templates for them.
    templates: Vec<String>,
    /// Style of each of the prompts among `taught`.
    pub(super) owners: Vec<i64>,
    /// Descriptions that negate each style.
    negated: Vec<Vec<String>>,
    /// What else is done to texts.
    wordings: Wordings,
}

/// The texts of a step: first those with a style, then those with a place.
pub(super) struct Step {
    pub(super) texts: Vec<String>,
    /// Style of each text that has one to name.
    pub(super) styles: Vec<i64>,
    /// Row of each other text among the taught ones; behind those, rows of the negated styles.
    pub(super) rows: Vec<i64>,
}

impl Lesson {
    pub(super) fn new(config: &Config, tuning: &Tuning, goes_on: bool, random: &mut ChaCha8Rng) -> Result<Self> {
        let prompts = Prompts::read(&config.data.prompts)?;
        let bank = config.text.tower.bank.as_ref().context("tuning needs text.tower.bank")?;
        let styles: Vec<String> = prompts.styles().map(String::from).collect();
        ensure!(
            styles.len() == bank.styles,
            "text.tower.bank.styles is {}, the prompt file has {} styles",
            bank.styles,
            styles.len()
        );
        let of_style: Vec<Vec<String>> =
            styles.iter().map(|s| prompts.of_class(std::slice::from_ref(s), Side::Train)).collect();
        let (mut taught, mut owners) = (vec![], vec![]);
        for (n, own) in of_style.iter().enumerate() {
            let mut own = own.clone();
            own.shuffle(random);
            own.truncate(tuning.prompts_per_style);
            owners.extend(own.iter().map(|_| n as i64));
            taught.extend(own);
        }
        let labelled = taught.len();
        // A tower that goes on only has to be held where it is: fewer texts, from all over.
        let (around, share): (&[String], _) = if goes_on { (&[], 4) } else { (&taught, 1) };
        let words = texts::words(config, &prompts, around, tuning.words / share, random)?;
        let sentences = texts::sentences(config, tuning.sentence_count / share, &prompts, around, random)?;
        // The teacher places a word in one plain template, and the student learns that place for every template.
        taught.extend(words.iter().map(|w| fill(TEACHER_TEMPLATE, w)));
        taught.extend(sentences);
        let templates = prompts.adjective_templates();
        let negated: Vec<Vec<String>> = styles.iter().map(|s| prompts.negated(s, Side::Train, Side::Train)).collect();
        if tuning.reworded > 0.0 {
            prompts.wordings.check_requests(Side::Train)?;
        }
        if let (true, Some(n)) = (tuning.negated > 0.0, negated.iter().position(Vec::is_empty)) {
            bail!("text.tuning.negated needs negations, and the prompt file has none for {:?}", styles[n]);
        }
        Ok(Self { of_style, taught, labelled, words, templates, owners, negated, wordings: prompts.wordings })
    }

    /// A step's texts, drawn: half of them prompts.
    pub(super) fn draw(&self, tuning: &Tuning, random: &mut ChaCha8Rng) -> Step {
        let (prompts, negated) = (tuning.batch / 2, (tuning.batch as f64 * tuning.negated) as usize);
        let (mut texts, mut styles, mut rows) = (vec![], vec![], vec![]);
        for _ in 0..prompts {
            let style = random.random_range(0..self.of_style.len());
            texts.push(one_of(&self.of_style[style], random).clone());
            styles.push(style as i64);
        }
        for _ in 0..negated.min(tuning.batch - prompts) {
            let style = random.random_range(0..self.negated.len());
            texts.push(one_of(&self.negated[style], random).clone());
            rows.push((self.taught.len() + style) as i64);
        }
        while texts.len() < tuning.batch {
            let row = random.random_range(0..self.taught.len());
            let word = row.checked_sub(self.labelled).and_then(|n| self.words.get(n));
            texts.push(match word {
                Some(word) => fill(one_of(&self.templates, random), word),
                None => self.taught[row].clone(),
            });
            rows.push(row as i64);
        }
        if tuning.reworded > 0.0 {
            texts.iter_mut().for_each(|text| *text = self.reworded(text, tuning.reworded, random));
        }
        Step { texts, styles, rows }
    }

    /// A text as somebody might ask for it: `share` of them inside a request, mistyped or both.
    fn reworded(&self, text: &str, share: f64, random: &mut ChaCha8Rng) -> String {
        if !random.random_bool(share) {
            return text.into();
        }
        let how = random.random_range(0..5);
        let text = if how < 3 { mistype(text, random) } else { text.into() };
        if how < 2 { text } else { self.wordings.request(&text, Side::Train, random) }
    }
}

fn one_of<'a>(all: &'a [String], random: &mut ChaCha8Rng) -> &'a String {
    &all[random.random_range(0..all.len())]
}
