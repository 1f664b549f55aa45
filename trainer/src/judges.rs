//! Where the embeddings of a judged model come from: the latest checkpoint of a run, or a bundle as production runs it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor, no_grad};

use crate::audio_file::waveform;
use crate::config::Config;
use crate::progress::Progress;
use crate::store::Entry;
use crate::text_features::text_features;
use crate::torch::run;
use crate::train::trained;
use crate::waveforms;

/// Which model is judged.
pub enum Model<'a> {
    /// The latest checkpoint of the config's run, over cached features.
    Run,
    /// An exported bundle, from the clips' files through ONNX Runtime, as in production.
    Bundle(&'a Path),
    /// A bundle whose speech side is taken from the run's checkpoint and the cached features, after a sample of clips has shown
    /// that the bundle gives the same.
    Cached(&'a Path),
}

/// Where embeddings of the judged model come from.
pub(crate) trait Judge {
    /// Unit vectors of clips: by their files or by their pooled features, a row each.
    fn speech(&mut self, entries: &[Entry], pooled: &Tensor) -> Result<Tensor>;
    /// Unit vectors of texts.
    fn texts(&mut self, config: &Config, texts: &[String]) -> Result<Tensor>;
}

/// Opens a model.
pub(crate) fn judge_of(config: &Config, model: &Model<'_>) -> Result<Box<dyn Judge>> {
    Ok(match model {
        Model::Run => Box::new(RunJudge::new(config)?),
        Model::Bundle(folder) => Box::new(BundleJudge::new(folder)?),
        Model::Cached(folder) => Box::new(CachedJudge {
            run: RunJudge::new(config)?,
            bundle: BundleJudge::new(folder)?,
            longest: config.data.longest,
        }),
    })
}

struct RunJudge {
    config: Config,
    params: crate::torch::Params,
    speech: crate::graph::Graph,
    text: crate::graph::Graph,
}

impl RunJudge {
    fn new(config: &Config) -> Result<Self> {
        let params =
            trained(config)?.context("there is no checkpoint; run `esr-trainer train` with this config first")?;
        ensure!(
            config.training.unfreeze_from == 0,
            "this run changed the speech encoder, so cached features do not show it; export it and evaluate with --bundle"
        );
        let (speech, text) =
            (config.speech.tower.record_head(config.dimension), config.text.tower.record_head(config.dimension));
        Ok(Self { config: config.clone(), params, speech, text })
    }
}

impl Judge for RunJudge {
    fn speech(&mut self, entries: &[Entry], pooled: &Tensor) -> Result<Tensor> {
        if let Some(settings) = &self.config.training.waveforms {
            return waveforms::measure(&self.config, &self.params, entries, settings.device.device()?);
        }
        Ok(no_grad(|| run(&self.speech, &self.params, &[("pooled", pooled)], false))["embedding"].shallow_clone())
    }

    fn texts(&mut self, config: &Config, texts: &[String]) -> Result<Tensor> {
        let pooled = text_features(config, texts)?;
        Ok(no_grad(|| run(&self.text, &self.params, &[("pooled", &pooled)], false))["embedding"].shallow_clone())
    }
}

struct BundleJudge {
    encoder: esr_encoder::Encoder,
}

impl BundleJudge {
    fn new(folder: &Path) -> Result<Self> {
        let bundle = esr_encoder::Bundle::open(folder)?;
        let runtime = esr_encoder::Runtime::load(&esr_encoder::runtime::default_library(), 1)?;
        Ok(Self { encoder: esr_encoder::Encoder::load(&bundle, &runtime)? })
    }
}

impl Judge for BundleJudge {
    fn speech(&mut self, entries: &[Entry], _: &Tensor) -> Result<Tensor> {
        let progress = Progress::start(entries.len() as u64, "clips through the bundle");
        let mut rows = vec![];
        let rate = self.encoder.sample_rate();
        for batch in entries.chunks(4) {
            let clips = batch.iter().map(|e| waveform(&e.path, rate)).collect::<Result<Vec<_>>>()?;
            let embedded = self.encoder.embed_speech(&clips, &esr_encoder::Cancel::default())?;
            rows.extend(embedded.iter().map(|e| Tensor::from_slice(e.as_slice())));
            progress.advance(batch.len() as u64);
        }
        progress.finish();
        Ok(Tensor::stack(&rows, 0))
    }

    fn texts(&mut self, _: &Config, texts: &[String]) -> Result<Tensor> {
        let mut rows = vec![];
        for batch in texts.chunks(32) {
            let batch: Vec<&str> = batch.iter().map(String::as_str).collect();
            let embedded = self.encoder.embed_texts(&batch, &esr_encoder::Cancel::default())?;
            rows.extend(embedded.iter().map(|e| Tensor::from_slice(e.as_slice())));
        }
        Ok(Tensor::stack(&rows, 0))
    }
}

/// Clips of each corpus that go through the bundle when its speech side is taken from the cache.
const SAMPLE: usize = 30;
/// Cosine by which the two may differ: 16-bit features, and other clips in the batch.
const SAMPLE_TOLERANCE: f64 = 0.005;

struct CachedJudge {
    run: RunJudge,
    bundle: BundleJudge,
    longest: f32,
}

impl Judge for CachedJudge {
    fn speech(&mut self, entries: &[Entry], pooled: &Tensor) -> Result<Tensor> {
        let rows = self.run.speech(entries, pooled)?;
        // The embedder averages over the windows of a long clip, the cache holds its beginning.
        let long = |n: &usize| entries[*n].seconds >= self.longest;
        let step = entries.len().div_ceil(SAMPLE).max(1);
        let chosen: Vec<usize> = (0..entries.len()).filter(|n| n % step == 0 || long(n)).collect();
        let sample: Vec<Entry> = chosen.iter().map(|n| entries[*n].clone()).collect();
        let served = self.bundle.speech(&sample, pooled)?;
        for (row, n) in chosen.iter().enumerate() {
            let (own, served) = (rows.get(*n as i64), served.get(row as i64));
            let cosine = (&own * &served).sum(Kind::Float).double_value(&[]);
            ensure!(
                long(n) || cosine > 1.0 - SAMPLE_TOLERANCE,
                "the bundle is not this run's: they embed {} with cosine {cosine}",
                entries[*n].path.display()
            );
            rows.get(*n as i64).copy_(&served);
        }
        Ok(rows)
    }

    fn texts(&mut self, config: &Config, texts: &[String]) -> Result<Tensor> {
        self.bundle.texts(config, texts)
    }
}
