//! A fine-tuning run as a TOML file. The defaults are the released code's settings (FIELD notes: AdamW, constant rates,
//! batches of 32, 105 epochs in three stages). Knows values only.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tch::Device;

use crate::config::{Card, Data, Processor};
use crate::nets::conv_features::FIELD;
use crate::nets::log_mel::SAMPLE_RATE;
use crate::nets::text_encoder::{Sizes, TextEncoder};
use crate::nets::waveform_encoder::WaveformEncoder;

/// Everything that decides a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finetune {
    /// Name of the run and of its bundle.
    pub name: String,
    /// Version of the bundle.
    #[serde(default = "first_version")]
    pub version: String,
    /// Seed of every random choice.
    #[serde(default)]
    pub seed: u64,
    /// Width of the shared space.
    #[serde(default = "usual_dimension")]
    pub dimension: usize,
    /// Where clips come from, and the prompts.
    pub data: Data,
    /// The speech side.
    pub speech: SpeechSide,
    /// The text side.
    pub text: TextSide,
    /// Optimisation.
    #[serde(default)]
    pub training: Recipe,
    /// What the bundle says about itself.
    #[serde(default)]
    pub card: Card,
}

/// The speech network and its published weights.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpeechSide {
    /// Weight file (safetensors or a PyTorch checkpoint), relative to the folder of weights.
    pub weights: PathBuf,
    /// The network.
    pub net: WaveformEncoder,
}

/// The text network, its published weights and its tokenizer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSide {
    /// Weight file (safetensors or a PyTorch checkpoint), relative to the folder of weights.
    pub weights: PathBuf,
    /// Tokenizer: `tokenizer.json`, `vocab.txt`, `vocab.json` beside `merges.txt`, or `spiece.model`.
    pub tokenizer: PathBuf,
    /// Longest text in tokens.
    #[serde(default = "max_tokens")]
    pub max_tokens: usize,
    /// The network.
    pub net: TextEncoder,
}

/// How strongly the discriminator turns the encoders.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Adversary {
    /// By `discriminator`, as the paper says.
    Paper,
    /// By `discriminator + 1`: the released code propagates the discriminator's loss a second time, with weight 1.
    Released,
}

/// Which description of its style a clip gets in training.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PromptUse {
    /// Another one each time, drawn from all training prompts of the style.
    All,
    /// Always the same one (the ablation without prompt augmentation).
    One,
}

/// Optimisation.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// Passes over the data.
    pub epochs: usize,
    /// Clips a step; an incomplete last batch is left out.
    pub batch: usize,
    /// Longer clips are cut to a random piece of this length in each epoch, seconds.
    pub crop: f32,
    /// Longer clips are cut to their first piece of this length for validation, seconds; test clips are heard whole.
    pub validation_crop: f32,
    /// Learning rate of the speech encoder and of both projections.
    pub rate: f64,
    /// Learning rate of the classifier.
    pub classifier_rate: f64,
    /// Learning rate of the discriminator.
    pub discriminator_rate: f64,
    /// Weight decay of AdamW, on all parameters.
    pub decay: f64,
    /// First epoch with the contrastive loss; before it only the classifier is trained. Without a classifier there is no
    /// such stage.
    pub contrastive_from: usize,
    /// First epoch with the discriminator.
    pub discriminator_from: usize,
    /// Weight of the contrastive loss.
    pub contrastive: f64,
    /// Weight of the classifier's loss.
    pub classifier: f64,
    /// Weight of the discriminator's loss behind gradient reversal.
    pub discriminator: f64,
    /// Reading of that weight.
    pub adversary: Adversary,
    /// Softmax temperature; it is not trained.
    pub temperature: f64,
    /// Which prompts are used.
    pub prompts: PromptUse,
    /// Where tensors live.
    pub device: Processor,
    /// Products in bfloat16; left out, on a GPU only.
    pub bf16: Option<bool>,
    /// Threads that decode clips while the last batch is computed.
    pub workers: usize,
    /// Epochs between validations; 0 is never.
    pub validate_every: usize,
    /// Epochs between checkpoints to continue from.
    pub checkpoint_every: usize,
    /// Epochs between checkpoints that are kept beside; 0 keeps none.
    pub keep_every: usize,
    /// From this epoch on every checkpoint is kept beside; 0 is never.
    pub keep_all_from: usize,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            epochs: 105,
            batch: 32,
            crop: 8.0,
            validation_crop: 10.0,
            rate: 5e-5,
            classifier_rate: 5e-5,
            discriminator_rate: 2e-5,
            decay: 0.01,
            contrastive_from: 5,
            discriminator_from: 10,
            contrastive: 1.0,
            classifier: 0.5,
            discriminator: 0.1,
            adversary: Adversary::Paper,
            temperature: 0.07,
            prompts: PromptUse::All,
            device: Processor::Auto,
            bf16: None,
            workers: 2,
            validate_every: 5,
            checkpoint_every: 1,
            keep_every: 0,
            keep_all_from: 0,
        }
    }
}

impl Recipe {
    /// What the discriminator's loss is multiplied by.
    pub fn adversarial_weight(&self) -> f64 {
        match self.adversary {
            _ if self.discriminator == 0.0 => 0.0,
            Adversary::Paper => self.discriminator,
            Adversary::Released => self.discriminator + 1.0,
        }
    }

    /// Whether products are computed in bfloat16 on a device.
    pub fn short(&self, device: Device) -> bool {
        self.bf16.unwrap_or(device.is_cuda())
    }
}

impl Finetune {
    /// Reads and checks a config file. Relative paths in `data` are relative to the working directory.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read the config {}", path.display()))?;
        let config: Self = toml::from_str(&text).with_context(|| format!("in the config {}", path.display()))?;
        config.check().with_context(|| format!("in the config {}", path.display()))?;
        Ok(config)
    }

    /// Whether the settings fit together.
    pub fn check(&self) -> Result<()> {
        let t = &self.training;
        ensure!(self.dimension > 0, "dimension is 0");
        ensure!(!self.data.train.is_empty(), "data.train names no corpus");
        ensure!(t.batch >= 2, "training.batch is {}; a contrastive loss needs at least 2", t.batch);
        ensure!(t.temperature > 0.0, "training.temperature is {}, it must be above 0", t.temperature);
        ensure!(t.crop > 0.0 && t.validation_crop > 0.0, "training.crop and validation_crop must be above 0 seconds");
        ensure!(t.classifier > 0.0 || t.contrastive > 0.0, "training.classifier and training.contrastive are both 0");
        let least = FIELD as f32 / SAMPLE_RATE as f32;
        ensure!(
            self.data.shortest >= least && self.data.longest >= self.data.shortest,
            "data.shortest is {} s and data.longest {} s; the encoder needs {least} s",
            self.data.shortest,
            self.data.longest
        );
        if let Sizes::Bert(net) = self.text.net.backbone.sizes() {
            ensure!(
                self.text.max_tokens <= net.positions,
                "text.max_tokens is {}, but the position table has {} rows",
                self.text.max_tokens,
                net.positions
            );
        }
        Ok(())
    }

    /// The run with another seed, in a work folder of its own.
    pub fn with_seed(&self, seed: u64) -> Self {
        let mut other = self.clone();
        other.seed = seed;
        other.data.cache = Some(self.data.cache().to_path_buf());
        other.data.work = self.data.work.join(format!("seed-{seed}"));
        other
    }
}

fn first_version() -> String {
    "1".into()
}

fn usual_dimension() -> usize {
    512
}

fn max_tokens() -> usize {
    64
}
