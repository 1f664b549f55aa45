//! What the student reads in tuning, drawn step by step.

use anyhow::{Context, Result, ensure};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::texts;
use crate::config::{Config, Tuning};
use crate::prompts::{Prompts, Side, fill_one as fill};

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
        Ok(Self { of_style, taught, labelled, words, templates, owners })
    }

    /// A step's texts: prompts with the style each has, then others with their rows among the taught ones.
    pub(super) fn draw(&self, tuning: &Tuning, random: &mut ChaCha8Rng) -> (Vec<String>, Vec<i64>, Vec<i64>) {
        let prompts = tuning.batch / 2;
        let (mut texts, mut styles) = (vec![], vec![]);
        for _ in 0..prompts {
            let style = random.random_range(0..self.of_style.len());
            texts.push(self.of_style[style][random.random_range(0..self.of_style[style].len())].clone());
            styles.push(style as i64);
        }
        let rows: Vec<i64> =
            (prompts..tuning.batch).map(|_| random.random_range(0..self.taught.len()) as i64).collect();
        texts.extend(rows.iter().map(|row| {
            let word = (*row as usize).checked_sub(self.labelled).and_then(|n| self.words.get(n));
            let template = |word: &String| fill(&self.templates[random.random_range(0..self.templates.len())], word);
            word.map_or_else(|| self.taught[*row as usize].clone(), template)
        }));
        (texts, styles, rows)
    }
}
