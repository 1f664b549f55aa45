//! Where training takes the speech side of a batch from: pooled features of the frozen encoder, the frames below the blocks
//! that are trained, or the clips' waveforms.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use tch::{Device, Kind, Tensor, no_grad};

use crate::by_length::{by_length, indices};
use crate::config::{Config, Training};
use crate::data::splits::Split;
use crate::finetune::batches::stream;
use crate::graph::Graph;
use crate::nets::log_mel::BANDS;
use crate::prepare::{Form, columns, entry_width, open};
use crate::sampling::Sampler;
use crate::store::{Entry, Store};
use crate::torch::{Mode, Params, run};
use crate::waveforms::{self, Ahead, Clips};

/// Clips of validation speakers with their pooled features, where training hears those.
pub type Validation = (Vec<Entry>, Option<Tensor>);

/// The speech side of all training clips.
pub enum Speech {
    /// Pooled features of frozen layers.
    Pooled {
        /// `[clips, width]`.
        features: Tensor,
        /// What changes of recording did to the features of the clips that have altered copies, `[copies, width]`.
        changes: Tensor,
        /// From features to embedding.
        graph: Graph,
    },
    /// Frames of the last frozen layer.
    Frames {
        /// Of each clip.
        frames: Frames,
        /// From frames to embedding.
        graph: Graph,
    },
    /// The clips themselves.
    Waveforms {
        /// Decoded clips.
        clips: Arc<Clips>,
        /// From waveform to embedding.
        graph: Graph,
        /// Whether the encoder is heard as int8 weights will sound.
        int8: bool,
    },
}

impl Speech {
    /// Training entries, validation entries with pooled features, and the source of batches, out of the feature cache.
    pub fn load(config: &Config) -> Result<(Vec<Entry>, Option<Validation>, Self)> {
        match &config.training {
            t if t.waveforms.is_some() => load_waveforms(config),
            t if t.unfreeze_from > 0 => load_frames(config),
            _ => load_pooled(config),
        }
    }

    /// The part of the network that is trained.
    pub fn graph(&self) -> &Graph {
        match self {
            Self::Pooled { graph, .. } | Self::Frames { graph, .. } | Self::Waveforms { graph, .. } => graph,
        }
    }

    /// The batches of an epoch, where they have to be made ahead of time.
    pub fn ahead(&self, sampler: &Sampler, size: [usize; 2], seed: u64, epoch: usize) -> Option<Ahead> {
        let Self::Waveforms { clips, .. } = self else { return None };
        let mut random = stream(seed, epoch, 0);
        let [steps, batch] = size;
        let plan = (0..steps).map(|_| (0..batch).map(|_| sampler.draw(&mut random)).collect()).collect();
        Some(Ahead::start(clips, plan, seed, epoch))
    }

    /// The features that the projection maps, of all training rows by the weights there are, where they come from a cache.
    pub fn pooled(&self, params: &Params) -> Option<Tensor> {
        match self {
            Self::Pooled { features, .. } => Some(features.shallow_clone()),
            Self::Frames { frames, graph } => {
                let rows: Vec<usize> = (0..frames.frames.len()).collect();
                Some(no_grad(|| frames.run(&rows, graph, params, false))["pooled"].shallow_clone())
            }
            Self::Waveforms { .. } => None,
        }
    }

    /// Embeddings of training rows, before and after normalisation, with dropout and the noise that the settings ask for;
    /// of waveforms those of the next batch of `ahead`.
    pub fn embed(
        &self,
        rows: &[usize],
        ahead: Option<&mut Ahead>,
        params: &Params,
        training: &Training,
    ) -> (Tensor, Tensor) {
        let mut out = match self {
            Self::Waveforms { graph, int8, .. } => {
                let device = params.values().next().map_or(Device::Cpu, Tensor::device);
                let bf16 = training.waveforms.as_ref().is_some_and(|w| w.short(device));
                let ahead = ahead.expect("batches of waveforms are made ahead");
                return waveforms::embed(graph, ahead, params, *int8, Mode { training: true, bf16 });
            }
            Self::Pooled { features, changes, graph } => {
                let mut x = features.index_select(0, &indices(rows));
                if training.feature_noise > 0.0 {
                    let spread = if let Some(scale) = params.get("speech.head.scale") {
                        1.0 / scale
                    } else {
                        x.std_dim([0i64].as_slice(), false, true)
                    };
                    x = &x + x.randn_like() * spread * training.feature_noise;
                }
                if training.channel_noise > 0.0 && changes.size()[0] > 0 {
                    let n = rows.len() as i64;
                    let drawn =
                        changes.index_select(0, &Tensor::randint(changes.size()[0], [n], (Kind::Int64, Device::Cpu)));
                    let signs = Tensor::randint(2, [n, 1], (Kind::Float, Device::Cpu)) * 2.0 - 1.0;
                    x += drawn * signs * training.channel_noise;
                }
                run(graph, params, &[("pooled", &x)], true)
            }
            Self::Frames { frames, graph } => frames.run(rows, graph, params, true),
        };
        let take =
            |out: &mut BTreeMap<String, Tensor>, name: &str| out.remove(name).expect("head graphs name their outputs");
        (take(&mut out, "raw"), take(&mut out, "embedding"))
    }
}

fn load_waveforms(config: &Config) -> Result<(Vec<Entry>, Option<Validation>, Speech)> {
    let (entries, validation, clips) = waveforms::load(config)?;
    let graph = config.speech.tower.record_whole(config.dimension);
    let speech = Speech::Waveforms { clips: Arc::new(clips), graph, int8: config.speech.int8 };
    Ok((entries, (!validation.is_empty()).then_some((validation, None)), speech))
}

/// Clips whose frames are computed together.
const PIECE: usize = 16;

/// All frames of some clips after one layer.
pub struct Frames {
    /// Log-mel statistics of each clip.
    mel: Vec<Tensor>,
    /// `[frames, width + 1]` of each clip; the last column is the pooling weight.
    frames: Vec<Tensor>,
    /// Width of the encoder.
    width: i64,
}

impl Frames {
    /// Reads those of some entries, which [`Form::Frames`] has cached.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn read(store: &mut Store, which: &[usize], width: usize) -> Result<Self> {
        let mut all = Self { mel: vec![], frames: vec![], width: width as i64 };
        for n in which {
            let values = store.read(*n)?;
            all.mel.push(Tensor::from_slice(&values[..2 * BANDS]));
            all.frames.push(Tensor::from_slice(&values[2 * BANDS..]).view([-1, all.width + 1]).to_kind(Kind::Half));
        }
        Ok(all)
    }

    /// What the upper part of a speech tower makes of some of the clips, in their order. Those of like length are computed together, so
    /// that little is padding.
    pub fn run(&self, rows: &[usize], graph: &Graph, params: &Params, training: bool) -> BTreeMap<String, Tensor> {
        let lengths: Vec<usize> = rows.iter().map(|r| self.frames[*r].size()[0] as usize).collect();
        let piece = |chosen: &[usize]| {
            let chosen: Vec<usize> = chosen.iter().map(|n| rows[*n]).collect();
            Ok(self.run_together(&chosen, graph, params, training))
        };
        by_length(&lengths, PIECE, piece).expect("running a network does not fail")
    }

    fn run_together(&self, rows: &[usize], graph: &Graph, params: &Params, training: bool) -> BTreeMap<String, Tensor> {
        let chosen: Vec<&Tensor> = rows.iter().map(|r| &self.frames[*r]).collect();
        let lengths: Vec<i64> = chosen.iter().map(|f| f.size()[0]).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let pad = |f: &&Tensor| f.to_kind(Kind::Float).constant_pad_nd([0, 0, 0, longest - f.size()[0]]);
        let joined = Tensor::stack(&chosen.iter().map(pad).collect::<Vec<_>>(), 0);
        let (x, weight) = (joined.narrow(2, 0, self.width), joined.select(2, self.width));
        let positions = Tensor::arange(longest, (Kind::Int64, Device::Cpu)).unsqueeze(0);
        let mask = positions.lt_tensor(&Tensor::from_slice(&lengths).unsqueeze(1)).to_kind(Kind::Float);
        let mel = Tensor::stack(&rows.iter().map(|r| &self.mel[*r]).collect::<Vec<_>>(), 0);
        run(graph, params, &[("frames", &x), ("mask", &mask), ("weight", &weight), ("mel", &mel)], training)
    }
}

fn load_frames(config: &Config) -> Result<(Vec<Entry>, Option<Validation>, Speech)> {
    let (tower, layer) = (&config.speech.tower, config.training.unfreeze_from - 1);
    let mut store = open(config, Form::Frames { layer })?;
    let is_trained = |n: &usize| role(config, &store.entries[*n]) == Some(Split::Train);
    let kept: Vec<usize> = (0..store.entries.len()).filter(is_trained).collect();
    let frames = Frames::read(&mut store, &kept, tower.whisper.width)?;
    let entries = kept.iter().map(|n| store.entries[*n].clone()).collect();
    Ok((entries, None, Speech::Frames { frames, graph: tower.record_upper(layer, config.dimension) }))
}

fn load_pooled(config: &Config) -> Result<(Vec<Entry>, Option<Validation>, Speech)> {
    let tower = &config.speech.tower;
    let mut store = open(config, Form::Pooled)?;
    let columns = columns(config)?;
    let width = entry_width(config);
    let mut read = |split| -> Result<(Vec<Entry>, Tensor)> {
        let (entries, values) = store.rows(width, |e| role(config, e) == Some(split))?;
        Ok((entries, values.index_select(1, &columns)))
    };
    let (entries, features) = read(Split::Train)?;
    let validation = Some(read(Split::Val)?).filter(|(e, _)| !e.is_empty()).map(|(e, x)| (e, Some(x)));
    let changes = changes(&entries, &features);
    Ok((entries, validation, Speech::Pooled { features, changes, graph: tower.record_head(config.dimension) }))
}

/// What training uses an entry for; `None` when it does not use it.
pub fn role(config: &Config, entry: &Entry) -> Option<Split> {
    let data = &config.data;
    if !data.train.contains(&entry.corpus) || entry.styles.iter().any(|style| data.without.contains(style)) {
        return None;
    }
    // Another config may have cached them.
    if config.augment.copies == 0.0 && entry.variant.starts_with("copy-") {
        return None;
    }
    Some(if data.all_speakers && entry.split == Split::Test { Split::Train } else { entry.split })
}

/// Features of altered copies minus those of their originals.
fn changes(entries: &[Entry], features: &Tensor) -> Tensor {
    let originals: HashMap<&Path, usize> = (0..entries.len())
        .filter(|n| entries[*n].variant == "original")
        .map(|n| (entries[n].path.as_path(), n))
        .collect();
    let (copies, sources): (Vec<usize>, Vec<usize>) = (0..entries.len())
        .filter(|n| entries[*n].variant.starts_with("copy-"))
        .filter_map(|n| Some((n, *originals.get(entries[n].path.as_path())?)))
        .unzip();
    features.index_select(0, &indices(&copies)) - features.index_select(0, &indices(&sources))
}
