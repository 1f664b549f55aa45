//! Optimisation as a TOML table. Knows values and their defaults only.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use tch::{Cuda, Device};

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
    /// Weight of a classifier of speakers behind gradient reversal, so that clips are placed alike whoever speaks.
    #[serde(skip_serializing_if = "is_default")]
    pub speaker_adversary: f64,
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
    /// Share of prompts that describe pitch, rate, loudness and the like as measured from the clip, instead of its style.
    #[serde(skip_serializing_if = "is_default")]
    pub attribute_prompts: f64,
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
    pub corpus_weight: BTreeMap<String, f64>,
    /// Weight of all clips made by signal processing, together, against the recorded ones; 0 leaves them as they come.
    pub made_weight: f64,
    /// The same for all sounds made from nothing.
    pub sound_weight: f64,
    /// Added to the seed in training only, so that several runs share one feature cache.
    #[serde(skip_serializing_if = "is_default")]
    pub reseed: u64,
    /// Train the last blocks of the speech encoder, from this layer on, over cached frames; 0 trains heads only.
    pub unfreeze_from: usize,
    /// Train all of the speech encoder from the clips' waveforms, altered anew each time, instead of from cached features.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waveforms: Option<Waveforms>,
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
            speaker_adversary: 0.0,
            tied_classifier: false,
            multi_positive: false,
            sigmoid: false,
            single_prompt: false,
            temperature: 0.07,
            learn_temperature: false,
            class_balance: 0.0,
            corpus_balance: 0.0,
            pair_prompts: 0.3,
            attribute_prompts: 0.0,
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
            waveforms: None,
            checkpoint_every: 1,
        }
    }
}

/// How the whole speech encoder is trained from waveforms. The run begins where a bundle with a trained head ends: fine-tuning
/// from a random head would first bend the encoder's features (Kumar et al., "Fine-tuning can distort pretrained features and
/// underperform out-of-distribution", 2022).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Waveforms {
    /// Folder of the bundle whose speech head (and whose standardisation) the run begins with.
    pub from: PathBuf,
    /// Where tensors live.
    pub device: Processor,
    /// Products in bfloat16; left out, on a GPU only.
    pub bf16: Option<bool>,
    /// Threads that decode and alter clips ahead of training.
    pub workers: usize,
    /// Longer clips are cut to a random piece of this length each time, seconds.
    pub crop: f32,
    /// Share of the clips that are heard through another room, microphone and noise each time.
    pub disturbed: f64,
    /// Learning rate of each block over that of the block above it.
    pub layer_decay: f64,
    /// Share of the run's steps in which the learning rates rise from zero.
    pub warm_up: f64,
    /// Weight of the starting point in what is exported, the rest being what was trained (Wortsman et al., "Robust
    /// fine-tuning of zero-shot models", 2022).
    pub keep: f64,
    /// Epochs between measurements on the validation speakers; 0 is never.
    pub validate_every: usize,
}

impl Default for Waveforms {
    fn default() -> Self {
        Self {
            from: "models/default".into(),
            device: Processor::Auto,
            bf16: None,
            workers: 2,
            crop: 6.0,
            disturbed: 0.7,
            layer_decay: 1.0,
            warm_up: 0.05,
            keep: 0.0,
            validate_every: 5,
        }
    }
}

impl Waveforms {
    /// Whether products are computed in bfloat16 on a device.
    pub fn short(&self, device: Device) -> bool {
        self.bf16.unwrap_or(device.is_cuda())
    }
}

/// Where tensors live.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Processor {
    /// The GPU if there is one.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first GPU, or an error.
    Cuda,
}

impl Processor {
    /// The device, if it is to be had.
    ///
    /// # Errors
    /// `cuda` on a machine, or with a libtorch, that has none.
    pub fn device(self) -> Result<Device> {
        ensure!(
            self != Self::Cuda || Cuda::is_available(),
            "the config's device is \"cuda\", but this libtorch sees no GPU; set it to \"auto\" or \"cpu\""
        );
        Ok(if self == Self::Cpu { Device::Cpu } else { Device::cuda_if_available() })
    }
}

/// Whether a setting has its type's own default: 0, off.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
