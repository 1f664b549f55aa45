//! A training run as a TOML file: data, networks, augmentation, losses, schedule. Knows values and their defaults only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

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
    #[serde(default, skip_serializing_if = "is_false")]
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
    /// Steps.
    pub steps: usize,
    /// Steps when a bundle's tower is tuned further.
    #[serde(default)]
    pub more_steps: usize,
    /// Texts a step: half with a style to name, half with a place to learn.
    pub batch: usize,
    /// Learning rate of the encoder; 0 leaves it as published and trains the head alone.
    pub rate: f64,
    /// Learning rate of the head.
    pub head_rate: f64,
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
}

/// Optimisation. The defaults of the loss weights and the schedule are the paper's.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Training {
    /// Passes over the data.
    pub epochs: usize,
    /// Steps in one epoch; 0 is the number of training clips over the batch size.
    pub steps: usize,
    /// Clips a step.
    pub batch: usize,
    /// Learning rate of projections and heads.
    pub rate: f64,
    /// Learning rate of encoder blocks that are trained.
    pub encoder_rate: f64,
    /// Learning rate of the discriminator.
    pub discriminator_rate: f64,
    /// Weight decay of AdamW.
    pub decay: f64,
    /// Half-cosine decay of the learning rates to zero over the run.
    pub cosine: bool,
    /// Weight of the average that is exported, per step (0 exports the last weights).
    pub average: f64,
    /// First epoch with the contrastive loss; before it only the classifier is trained.
    pub contrastive_from: usize,
    /// First epoch with the discriminator.
    pub discriminator_from: usize,
    /// Weight of the contrastive loss.
    pub contrastive: f64,
    /// Weight of the classifier.
    pub classifier: f64,
    /// Weight of the discriminator behind gradient reversal.
    pub discriminator: f64,
    /// Classify by cosine to the mean text embedding of each class instead of a separate head.
    pub tied_classifier: bool,
    /// All batch mates that a prompt describes are positives.
    pub multi_positive: bool,
    /// Judge each pair of a clip and a prompt by itself (Zhai et al., "Sigmoid loss for language image pre-training", 2023)
    /// instead of by softmax over the batch; every prompt that describes a clip is then a positive.
    pub sigmoid: bool,
    /// One plain prompt a class, instead of all of them: the paper's training without prompt augmentation.
    pub single_prompt: bool,
    /// Softmax temperature.
    pub temperature: f64,
    /// Whether the temperature is trained.
    pub learn_temperature: bool,
    /// 0 draws clips as they come, 1 draws every class equally often.
    pub class_balance: f64,
    /// 0 draws corpora by size, 1 equally often.
    pub corpus_balance: f64,
    /// Share of prompts that describe all styles of a clip at once when it has several.
    pub pair_prompts: f64,
    /// Noise added to the pooled features in training, in deviations.
    pub feature_noise: f64,
    /// Weight of what a change of recording does to the features, drawn from the altered copies of other clips and added or
    /// taken away in training, so that the projection learns not to hear it. Weights above 1 exaggerate.
    pub channel_noise: f64,
    /// Groups of corpora that sound alike. Clips and classes are contrasted only inside a group; empty is one group.
    pub domains: Vec<Vec<String>>,
    /// Start the speech projection as the ridge map onto the mean text embedding of each class, with this penalty (in mean
    /// variances); 0 starts at random.
    pub warm_start: f64,
    /// Weight of one minus the cosine between a clip and the mean text embedding of its class.
    pub alignment: f64,
    /// Weight of each corpus in sampling, in place of `corpus_balance`; its share of the clips where it is not named.
    pub corpus_weight: std::collections::BTreeMap<String, f64>,
    /// Weight of all clips made by signal processing, together, against the recorded ones; 0 leaves them as they come.
    pub made_weight: f64,
    /// The same for all sounds made from nothing.
    pub sound_weight: f64,
    /// Added to the seed in training only, so that several runs share one feature cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub reseed: u64,
    /// Train the last blocks of the speech encoder, from this layer on, over cached frames; 0 trains heads only.
    pub unfreeze_from: usize,
    /// Epochs between checkpoints.
    pub checkpoint_every: usize,
}

impl Default for Training {
    fn default() -> Self {
        Self {
            epochs: 105,
            steps: 0,
            batch: 32,
            rate: 5e-5,
            encoder_rate: 5e-5,
            discriminator_rate: 2e-5,
            decay: 0.01,
            cosine: false,
            average: 0.0,
            contrastive_from: 5,
            discriminator_from: 10,
            contrastive: 1.0,
            classifier: 0.5,
            discriminator: 0.1,
            tied_classifier: false,
            multi_positive: false,
            sigmoid: false,
            single_prompt: false,
            temperature: 0.07,
            learn_temperature: false,
            class_balance: 0.0,
            corpus_balance: 0.0,
            pair_prompts: 0.3,
            feature_noise: 0.0,
            channel_noise: 0.0,
            domains: vec![],
            warm_start: 0.0,
            alignment: 0.0,
            corpus_weight: Default::default(),
            made_weight: 0.0,
            sound_weight: 0.0,
            reseed: 0,
            unfreeze_from: 0,
            checkpoint_every: 1,
        }
    }
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
    /// Reads and checks a config file. Relative paths are relative to the working directory.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read the config {}", path.display()))?;
        let config: Self = toml::from_str(&text).with_context(|| format!("in the config {}", path.display()))?;
        config.check().with_context(|| format!("in the config {}", path.display()))?;
        Ok(config)
    }

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

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &u64) -> bool {
    *value == 0
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
