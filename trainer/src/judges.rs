//! Where the embeddings of a judged model come from: the latest checkpoint of a run, or a bundle as production runs it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, ensure};
use esr_audio::Waveform;
use esr_encoder::bundle::SPEECH_FILE;
use tch::{Tensor, no_grad};

use crate::audio_file::{at_least, waveform};
use crate::config::Config;
use crate::data::piece::Piece;
use crate::encoders;
use crate::kept::{Kept, hash};
use crate::nets::log_mel::SAMPLE_RATE;
use crate::prepare::{Form, open};
use crate::progress::Progress;
use crate::speech_batches::Frames;
use crate::store::Entry;
use crate::text_features::text_features;
use crate::torch::{Params, run};
use crate::trained::trained;
use crate::waveforms;

/// Clips or waveforms that are embedded at once.
const BATCH: usize = 8;
/// Clips whose cached frames are embedded at once.
const FRAMES_BATCH: usize = 64;
/// Clips whose vectors are kept in one file: what a kill costs.
const KEPT: usize = 512;

/// Which model is judged.
pub enum Model<'a> {
    /// The latest checkpoint of the config's run, over cached features.
    Run,
    /// An exported bundle, from the clips' files through ONNX Runtime, as in production. What it says is kept beside the
    /// feature cache.
    Bundle(&'a Path),
}

/// Where embeddings of the judged model come from.
pub(crate) trait Judge {
    /// Unit vectors of clips: by their files or by their pooled features, a row each.
    fn speech(&mut self, entries: &[Entry], pooled: &Tensor) -> Result<Tensor>;
    /// Unit vectors of waveforms at the model's rate.
    fn waveforms(&mut self, clips: &[Vec<f32>]) -> Result<Tensor>;
    /// Unit vectors of texts.
    fn texts(&mut self, config: &Config, texts: &[String]) -> Result<Tensor>;
}

/// Opens a model.
pub(crate) fn judge_of(config: &Config, model: &Model<'_>) -> Result<Box<dyn Judge>> {
    Ok(match model {
        Model::Run => Box::new(RunJudge::new(config)?),
        Model::Bundle(folder) => Box::new(BundleJudge::new(config, folder)?),
    })
}

struct RunJudge {
    config: Config,
    params: Params,
    speech: crate::graph::Graph,
    text: crate::graph::Graph,
    /// The head with the encoder below it, once waveforms were asked for.
    whole: Option<waveforms::Whole>,
}

impl RunJudge {
    fn new(config: &Config) -> Result<Self> {
        let params =
            trained(config)?.context("there is no checkpoint; run `esr-trainer train` with this config first")?;
        let (speech, text) =
            (config.speech.tower.record_head(config.dimension), config.text.tower.record_head(config.dimension));
        Ok(Self { config: config.clone(), params, speech, text, whole: None })
    }

    /// Of a run that trained what is above a layer: from the cached frames after it.
    fn over_frames(&self, entries: &[Entry], layer: usize) -> Result<Tensor> {
        let tower = &self.config.speech.tower;
        let mut store = open(&self.config, Form::Frames { layer })?;
        let cached: HashMap<(PathBuf, String), usize> =
            store.entries.iter().enumerate().map(|(n, e)| ((e.path.clone(), e.variant.clone()), n)).collect();
        let place = |entry: &Entry| {
            cached.get(&(entry.path.clone(), entry.variant.clone())).copied().with_context(|| {
                let path = entry.path.display();
                format!("the frames of {path} are not cached; run `esr-trainer prepare` with --frames {layer}")
            })
        };
        let places = entries.iter().map(place).collect::<Result<Vec<_>>>()?;
        let graph = tower.record_upper(layer, self.config.dimension);
        let mut parts = vec![];
        for batch in places.chunks(FRAMES_BATCH) {
            let frames = Frames::read(&mut store, batch, tower.whisper.width)?;
            let rows: Vec<usize> = (0..batch.len()).collect();
            parts.push(no_grad(|| frames.run(&rows, &graph, &self.params, false))["embedding"].shallow_clone());
        }
        ensure!(!parts.is_empty(), "there are no clips to embed");
        Ok(Tensor::cat(&parts, 0))
    }

    fn whole(&self) -> Result<waveforms::Whole> {
        let mut params = Params::new();
        if self.config.training.waveforms.is_none() {
            params = encoders::speech(&self.config, self.config.speech.tower.last())?;
        }
        params.extend(self.params.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())));
        waveforms::Whole::new(&self.config, &params)
    }
}

impl Judge for RunJudge {
    fn speech(&mut self, entries: &[Entry], pooled: &Tensor) -> Result<Tensor> {
        if self.config.training.waveforms.is_some() {
            return waveforms::measure(&self.config, &self.params, entries);
        }
        if self.config.training.unfreeze_from > 0 {
            return self.over_frames(entries, self.config.training.unfreeze_from - 1);
        }
        Ok(no_grad(|| run(&self.speech, &self.params, &[("pooled", pooled)], false))["embedding"].shallow_clone())
    }

    fn waveforms(&mut self, clips: &[Vec<f32>]) -> Result<Tensor> {
        let whole = match self.whole.take() {
            Some(whole) => whole,
            None => self.whole()?,
        };
        let shortest = (self.config.data.shortest * SAMPLE_RATE as f32) as usize;
        let progress = Progress::start(clips.len() as u64, "waveforms");
        let mut parts = vec![];
        for batch in clips.chunks(BATCH) {
            let batch: Vec<Vec<f32>> = batch.iter().map(|clip| at_least(clip.clone(), shortest)).collect();
            parts.push(whole.embed(&batch));
            progress.advance(batch.len() as u64);
        }
        progress.finish();
        self.whole = Some(whole);
        ensure!(!parts.is_empty(), "there is no waveform to embed");
        Ok(Tensor::cat(&parts, 0))
    }

    fn texts(&mut self, config: &Config, texts: &[String]) -> Result<Tensor> {
        let pooled = text_features(config, texts)?;
        Ok(no_grad(|| run(&self.text, &self.params, &[("pooled", &pooled)], false))["embedding"].shallow_clone())
    }
}

struct BundleJudge {
    encoder: esr_encoder::Encoder,
    clips: Kept,
    texts: Kept,
}

impl BundleJudge {
    fn new(config: &Config, folder: &Path) -> Result<Self> {
        let bundle = esr_encoder::Bundle::open(folder)?;
        let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1);
        let runtime = esr_encoder::Runtime::load(&esr_encoder::runtime::default_library(), threads)?;
        let encoder = esr_encoder::Encoder::load(&bundle, &runtime)?;
        // What decides a clip's vector: bundles that differ in their text side alone share them.
        let speech = &bundle.manifest().speech;
        let network = bundle.file(SPEECH_FILE).context("the bundle has no speech network")?;
        let key = hash([network, &serde_json::to_vec(speech)?].concat());
        let clips = Kept::open(&config.data.cache().join("clips"), &key)?;
        let texts = Kept::open(&config.data.cache().join("texts"), &format!("{:016x}", encoder.tag()))?;
        Ok(Self { encoder, clips, texts })
    }
}

/// Unit vectors of waveforms through a bundle.
fn embed(encoder: &mut esr_encoder::Encoder, clips: &[Waveform]) -> Result<Vec<Tensor>> {
    let embedded = encoder.embed_speech(clips, &esr_encoder::Cancel::default())?;
    Ok(embedded.iter().map(|e| Tensor::from_slice(e.as_slice())).collect())
}

/// A file of this length and time is the same file.
fn name_of(path: &Path) -> Result<String> {
    let (file, _) = Piece::split(path);
    let known = std::fs::metadata(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(format!(
        "{} {} {:?}",
        path.display(),
        known.len(),
        known.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default()
    ))
}

impl Judge for BundleJudge {
    fn speech(&mut self, entries: &[Entry], _: &Tensor) -> Result<Tensor> {
        let Self { encoder, clips: kept, .. } = self;
        let rate = encoder.sample_rate();
        let progress = Progress::start(entries.len() as u64, "clips through the bundle");
        let mut parts = vec![];
        for some in entries.chunks(KEPT) {
            let names = some.iter().map(|e| name_of(&e.path)).collect::<Result<Vec<_>>>()?;
            parts.push(kept.rows(&names, |places| {
                let mut rows = vec![];
                for batch in places.chunks(BATCH) {
                    let clips = batch.iter().map(|n| waveform(&some[*n].path, rate)).collect::<Result<Vec<_>>>()?;
                    rows.extend(embed(encoder, &clips)?);
                }
                Ok(Tensor::stack(&rows, 0))
            })?);
            progress.advance(some.len() as u64);
        }
        progress.finish();
        ensure!(!parts.is_empty(), "there are no clips to embed");
        Ok(Tensor::cat(&parts, 0))
    }

    fn waveforms(&mut self, clips: &[Vec<f32>]) -> Result<Tensor> {
        let rate = self.encoder.sample_rate();
        ensure!(rate == SAMPLE_RATE, "the bundle hears {rate} samples a second, the clips have {SAMPLE_RATE}");
        let progress = Progress::start(clips.len() as u64, "waveforms through the bundle");
        let mut rows = vec![];
        for batch in clips.chunks(BATCH) {
            let batch = batch.iter().map(|clip| Ok(Waveform::new(clip.clone(), rate)?)).collect::<Result<Vec<_>>>()?;
            rows.extend(embed(&mut self.encoder, &batch)?);
            progress.advance(batch.len() as u64);
        }
        progress.finish();
        Ok(Tensor::stack(&rows, 0))
    }

    fn texts(&mut self, _: &Config, texts: &[String]) -> Result<Tensor> {
        let Self { encoder, texts: kept, .. } = self;
        kept.rows(texts, |places| {
            let mut rows = vec![];
            for batch in places.chunks(32) {
                let batch: Vec<&str> = batch.iter().map(|n| texts[*n].as_str()).collect();
                let embedded = encoder.embed_texts(&batch, &esr_encoder::Cancel::default())?;
                rows.extend(embedded.iter().map(|e| Tensor::from_slice(e.as_slice())));
            }
            Ok(Tensor::stack(&rows, 0))
        })
    }
}
