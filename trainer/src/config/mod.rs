//! A training run as a TOML file: data, networks, augmentation, losses, schedule. Knows values and their defaults only.

mod file;
mod training;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

pub use self::training::{Processor, Training, Waveforms};
use crate::data::sets::Set;
use crate::nets::bert::Bert;
use crate::nets::speech_tower::SpeechTower;
use crate::nets::text_tower::TextTower;
use crate::sounds::Sound;

/// Everything that decides a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the bundle.
    pub name: String,
    /// Version of the bundle.
    #[serde(default = "first_version")]
    pub version: String,
    /// Seed of every random choice.
    #[serde(default)]
    pub seed: u64,
    /// Width of the shared space.
    pub dimension: usize,
    /// Where clips come from.
    pub data: Data,
    /// The speech side.
    pub speech: Speech,
    /// The text side.
    pub text: Text,
    /// What is made of each training clip.
    #[serde(default)]
    pub augment: Augment,
    /// Optimisation.
    pub training: Training,
    /// What the bundle says about itself.
    #[serde(default)]
    pub card: Card,
}

/// Corpora and files.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Folder that holds one folder a corpus.
    pub root: PathBuf,
    /// Corpora to train on; their speakers are split by the files in `splits`.
    pub train: Vec<String>,
    /// Corpora that are only tested on, with all their speakers.
    #[serde(default)]
    pub test: Vec<String>,
    /// Corpora that are data sets of the paper in their owners' layout, by the name that stands in `train` or `test`. All
    /// other corpora are folders with a manifest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sets: BTreeMap<String, Set>,
    /// Styles whose clips are never trained on; clips with one of them are still tested.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
    /// Train on all speakers of `train` but those for choosing settings: for tests on other corpora only.
    #[serde(default, skip_serializing_if = "training::is_default")]
    pub all_speakers: bool,
    /// Folder of speaker splits.
    pub splits: PathBuf,
    /// Prompt file.
    pub prompts: PathBuf,
    /// Working folder of this run: feature cache, checkpoints, metrics.
    pub work: PathBuf,
    /// Folder of the feature cache and of the tuned text encoder, where another run has made them; `work` when it is not
    /// named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// Clips longer than this are cut when cached, seconds.
    #[serde(default = "longest")]
    pub longest: f32,
    /// Clips shorter than this are repeated, seconds.
    #[serde(default = "shortest")]
    pub shortest: f32,
}

impl Data {
    /// Folder of the feature cache and of the tuned text encoder.
    pub fn cache(&self) -> &Path {
        self.cache.as_deref().unwrap_or(&self.work)
    }
}

/// The speech network and its published weights.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Speech {
    /// Weight file, relative to the weights folder of the cache.
    pub weights: PathBuf,
    /// Round the encoder's weights to int8 before anything is computed with them, so that heads are trained on what an
    /// int8 bundle computes.
    #[serde(default)]
    pub int8: bool,
    /// Layers whose statistics are cached, so that heads on any of them can be tried; empty caches those of the tower.
    #[serde(default)]
    pub cached_layers: Vec<usize>,
    /// The network.
    pub tower: SpeechTower,
    /// What log-mel statistics add to the finished network; see `fuse`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fusion: Option<Fusion>,
}

/// How much of a linear map from log-mel statistics is added to a finished speech network.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fusion {
    /// Mean length of what is added over the mean length of the network's own output, before normalisation.
    pub share: f64,
    /// Penalty of the map, over the mean variance of the statistics.
    pub ridge: f64,
    /// Length of what all clips have in common and no description has, over the same mean length.
    #[serde(default)]
    pub doubt: f64,
}

impl Speech {
    /// The tower whose pooled features are cached: all statistics of the cached layers.
    pub fn cached_tower(&self) -> SpeechTower {
        let layers = if self.cached_layers.is_empty() { self.tower.layers.clone() } else { self.cached_layers.clone() };
        SpeechTower { layers, deviation: true, mel: true, ..self.tower.clone() }
    }
}

/// The text network and its published weights.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// Weight file, relative to the weights folder of the cache.
    pub weights: PathBuf,
    /// Tokenizer file (tokenizer.json) or vocabulary (vocab.txt).
    pub tokenizer: PathBuf,
    /// Blocks of the weight file that are kept; empty keeps the first ones.
    #[serde(default)]
    pub keep: Vec<usize>,
    /// As for speech.
    #[serde(default)]
    pub int8: bool,
    /// Longest text in tokens.
    #[serde(default = "max_tokens")]
    pub max_tokens: usize,
    /// The network.
    pub tower: TextTower,
    /// Fine-tuning on the prompts with a larger encoder as teacher, before the speech side is trained.
    #[serde(default)]
    pub tuning: Option<Tuning>,
}

/// How the text encoder learns from prompts and from a larger text encoder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuning {
    /// Weight file of the teacher.
    pub weights: PathBuf,
    /// Its tokenizer.
    pub tokenizer: PathBuf,
    /// Its sizes.
    pub bert: Bert,
    /// Steps in which the teacher itself first learns to name the training prompts while all else stays in its place; 0 takes
    /// it as published.
    #[serde(default)]
    pub teacher_steps: usize,
    /// Learning rate of its blocks then; its tables stay as published.
    #[serde(default)]
    pub teacher_rate: f64,
    /// The bank's keys are a linear classifier of the styles on the teacher's places; this is the weight of its errors against
    /// the size of its rows (LIBLINEAR's C). 0 takes the mean place of each style instead.
    #[serde(default)]
    pub classifying: f64,
    /// Prompts of each style that the teacher reads.
    pub prompts_per_style: usize,
    /// Words of the vocabulary, mostly near the styles, that the teacher places for the student.
    pub words: usize,
    /// A file with one sentence a line that the teacher places as well, beside the weights.
    #[serde(default)]
    pub sentences: Option<PathBuf>,
    /// How many of its sentences, mostly near the styles.
    #[serde(default)]
    pub sentence_count: usize,
    /// Whether running text among them may hold words that, in the prompt file, only held-out phrases have, as the text that
    /// published encoders were trained on does. Phrases about a voice with such a word are never read.
    #[serde(default)]
    pub running_text: bool,
    /// Steps.
    pub steps: usize,
    /// Steps when a bundle's tower is tuned further.
    #[serde(default)]
    pub more_steps: usize,
    /// Texts a step: half with a style to name, half with a place to learn.
    pub batch: usize,
    /// Share of the texts that are read as somebody might ask for them: inside a request, mistyped or both. Their places stay.
    #[serde(default)]
    pub reworded: f64,
    /// Share of the texts that negate a style ("not angry"); they belong opposite to it.
    #[serde(default)]
    pub negated: f64,
    /// Learning rate of the encoder; 0 leaves it as published and trains the head alone.
    pub rate: f64,
    /// Learning rate of the head.
    pub head_rate: f64,
    /// Learning rate of the token table and of what else the encoder looks up; 0 leaves them as published.
    #[serde(default)]
    pub table_rate: f64,
    /// Where the student and its teacher are computed.
    #[serde(default)]
    pub device: Processor,
    /// Dropout inside the encoder.
    #[serde(default)]
    pub dropout: f64,
    /// Weight of naming the style.
    pub naming: f64,
    /// Weight of the place.
    pub placing: f64,
    /// Weight of seeing the same likenesses to the styles as the teacher.
    #[serde(default)]
    pub agreeing: f64,
    /// Inverse temperature of the bank while tuning; that of `text.tower.bank` is for answering.
    pub sharpness: f32,
    /// 0 keeps styles as alike as the teacher sees them, 1 makes them all equally unlike.
    #[serde(default)]
    pub sharpen: f64,
    /// Styles without training clips answer with styles that have some, weighed by the teacher's likeness with this inverse
    /// temperature where the prompt file names none; 0 leaves them where the teacher puts them.
    #[serde(default)]
    pub link: f64,
}

/// What is made of training clips, by signal processing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// Copies of each training clip with changes that keep its style (gain, noise, band limit, small speed change, crop);
    /// a fraction is the chance of one more.
    pub copies: f64,
    /// Styles made by signal processing.
    pub derived: Vec<Derived>,
    /// Sounds of the body made from nothing, such as coughs.
    pub sounds: Option<Sounds>,
    /// Styles that are made only to see where the finished speech side places them; see `placed`.
    pub shown: Option<Shown>,
}

/// Styles that are made once training is over.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shown {
    /// Share of the training clips of the corpora that they are made of.
    pub share: f64,
    /// Corpora they are made of.
    pub corpora: Vec<String>,
    /// Which ones.
    pub kinds: Vec<ShownKind>,
}

/// One way of speaking and the styles that it shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShownKind {
    /// Which transformation.
    pub manner: Manner,
    /// Styles of the prompt file; none that training clips have.
    pub styles: Vec<String>,
}

/// Sounds made from nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sounds {
    /// Which ones.
    pub kinds: Vec<Sound>,
    /// Each kind is made once for this share of the clips of a corpus, whose speakers' roles they take over.
    pub share: f64,
    /// The corpus.
    pub corpus: String,
}

/// One style made by signal processing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Derived {
    /// Which transformation.
    pub kind: Manner,
    /// Share of the clips of each corpus that get such a copy.
    pub share: f64,
    /// Corpora it is applied to.
    pub corpora: Vec<String>,
}

/// Styles that can be made of any speech.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "kebab-case")]
pub enum Manner {
    /// Voice replaced by breath.
    Whisper,
    /// Faster, pitch kept.
    Fast,
    /// Slower, pitch kept.
    Slow,
    /// Louder effort.
    Projected,
    /// Gentler effort.
    Soft,
    /// Higher pitch.
    HighPitched,
    /// Lower pitch.
    LowPitched,
    /// A child's high voice and short mouth.
    Child,
    /// High and lively, as to a small child.
    ChildDirected,
}

/// Texts of the bundle's manifest and model card.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Card {
    /// Licence of the bundle.
    pub licence: String,
    /// One sentence about it.
    pub description: String,
    /// Where weights and data come from, with their licences: (name, terms).
    pub provenance: std::collections::BTreeMap<String, String>,
    /// What it is bad at, in plain sentences.
    pub weaknesses: Vec<String>,
    /// What else a reader of the results should know, in plain sentences.
    pub notes: Vec<String>,
}

impl Config {
    /// Whether the settings fit together.
    fn check(&self) -> Result<()> {
        let whisper = &self.speech.tower.whisper;
        ensure!(self.dimension > 0, "dimension is 0");
        ensure!(!self.data.train.is_empty(), "data.train names no corpus");
        ensure!(
            !self.speech.tower.layers.is_empty(),
            "speech.tower.layers is empty; name at least one layer, such as [3]"
        );
        ensure!(self.speech.tower.layers.is_sorted(), "speech.tower.layers must ascend");
        ensure!(whisper.width.is_multiple_of(whisper.heads), "whisper.width must be a multiple of whisper.heads");
        ensure!(
            self.speech.tower.columns_of(&self.speech.cached_tower()).is_some(),
            "speech.cached_layers {:?} lacks a layer of speech.tower.layers {:?}",
            self.speech.cached_layers,
            self.speech.tower.layers
        );
        ensure!(
            self.data.longest * 50.0 <= whisper.positions as f32,
            "data.longest is {} s, but whisper.positions {} hold only {} s",
            self.data.longest,
            whisper.positions,
            whisper.positions as f32 / 50.0
        );
        ensure!(
            self.training.batch >= 2,
            "training.batch is {}; a contrastive loss needs at least 2",
            self.training.batch
        );
        ensure!(self.text.tuning.is_none() || self.text.tower.bank.is_some(), "text.tuning needs text.tower.bank");
        ensure!(
            self.text.max_tokens <= self.text.tower.bert.positions,
            "text.max_tokens is longer than the position table"
        );
        let corpora: std::collections::BTreeSet<_> = self.data.train.iter().chain(&self.data.test).collect();
        ensure!(
            corpora.len() == self.data.train.len() + self.data.test.len(),
            "a corpus is named twice in data.train and data.test"
        );
        let unused = self.data.sets.keys().find(|name| !corpora.contains(name));
        ensure!(unused.is_none(), "data.sets names {unused:?}, which neither data.train nor data.test does");
        Ok(())
    }
}

fn first_version() -> String {
    "1".into()
}

fn longest() -> f32 {
    12.0
}

fn shortest() -> f32 {
    0.5
}

fn max_tokens() -> usize {
    128
}
