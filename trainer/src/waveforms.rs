//! The speech side of training from waveforms: clips are decoded once and kept in memory, and threads alter them anew, ahead of
//! the network. Also runs the whole network over clips to measure it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use anyhow::{Context, Result, ensure};
use tch::{Device, Kind, Tensor, no_grad};

use crate::audio_file;
use crate::config::{Config, Waveforms};
use crate::data::Clip;
use crate::data::splits::Split;
use crate::encoders::{initialise, round};
use crate::finetune::batches::{Window, for_each, in_threads, stream};
use crate::graph::Graph;
use crate::nets::log_mel::SAMPLE_RATE;
use crate::nets::speech_tower::ENCODER;
use crate::onnx::int8_channels;
use crate::prepare::{Listed, batch_of, entry, list};
use crate::progress::Progress;
use crate::prompts::Prompts;
use crate::quantise::rounded;
use crate::store::Entry;
use crate::torch::{Mode, Params, run_in};
use crate::variants::{Variant, render_anew, variants};
use crate::weights;

/// Rendered batches that wait in each thread.
const AHEAD: usize = 2;
/// Clips computed together when measuring.
const BATCH: usize = 32;

/// All training clips, decoded.
pub struct Clips {
    /// 16-bit samples of each file.
    decoded: Vec<Vec<i16>>,
    /// File and form of each entry.
    forms: Vec<(usize, Variant)>,
    settings: Waveforms,
    /// Fewest and most samples that the encoder is given.
    bounds: [usize; 2],
}

/// Training entries (all forms of all clips of training speakers but the altered copies: those are made anew each time),
/// validation entries and the decoded clips.
pub fn load(config: &Config) -> Result<(Vec<Entry>, Vec<Entry>, Clips)> {
    let settings = config.training.waveforms.clone().context("training.waveforms is not set")?;
    let prompts = Prompts::read(&config.data.prompts)?;
    let kept = |l: &Listed| !l.clip.styles.iter().any(|style| config.data.without.contains(style));
    let in_training = |l: &Listed| config.data.train.contains(&l.clip.corpus);
    let listed: Vec<Listed> = list(config, &prompts)?.into_iter().filter(|l| kept(l) && in_training(l)).collect();
    let (mut entries, mut forms, mut files) = (vec![], vec![], Files::default());
    for Listed { clip, split } in listed.iter().filter(|l| l.split == Split::Train) {
        for variant in variants(&config.augment, clip, *split, config.seed) {
            if !matches!(variant, Variant::Copy(_)) {
                forms.push((files.number(&clip.path), variant));
                entries.push(entry(clip, *split, variant));
            }
        }
    }
    let validation = listed.iter().filter(|l| l.split == Split::Val);
    let validation = validation.map(|l| entry(&l.clip, l.split, Variant::Original)).collect();
    let decoded = decode(&files.paths, settings.workers)?;
    let bounds = [config.data.shortest, config.data.longest].map(|seconds| (seconds * SAMPLE_RATE as f32) as usize);
    Ok((entries, validation, Clips { decoded, forms, settings, bounds }))
}

#[derive(Default)]
struct Files {
    numbers: HashMap<PathBuf, usize>,
    paths: Vec<PathBuf>,
}

impl Files {
    fn number(&mut self, path: &Path) -> usize {
        *self.numbers.entry(path.to_path_buf()).or_insert_with(|| {
            self.paths.push(path.to_path_buf());
            self.paths.len() - 1
        })
    }
}

fn decode(paths: &[PathBuf], workers: usize) -> Result<Vec<Vec<i16>>> {
    let one = |path: &PathBuf| -> Result<Vec<i16>> {
        let samples = audio_file::read(path)?;
        ensure!(!samples.is_empty(), "{} holds no sound", path.display());
        Ok(samples.iter().map(|s| (s * 32767.0).clamp(-32767.0, 32767.0) as i16).collect())
    };
    in_threads(paths, workers, one)
}

/// The batches of one epoch, rendered by threads while earlier ones are computed.
pub struct Ahead {
    plan: Arc<Vec<Vec<usize>>>,
    /// Thread n renders batches n, n + threads, ...
    rendered: Vec<Receiver<Vec<Vec<f32>>>>,
    next: usize,
}

impl Ahead {
    /// Starts rendering the batches of `plan`. Everything random follows from seed, epoch and place in the plan.
    pub fn start(clips: &Arc<Clips>, plan: Vec<Vec<usize>>, seed: u64, epoch: usize) -> Self {
        let (plan, workers) = (Arc::new(plan), clips.settings.workers.max(1));
        let rendered = (0..workers).map(|worker| {
            let (send, receive) = sync_channel(AHEAD);
            let (clips, plan) = (clips.clone(), plan.clone());
            thread::spawn(move || {
                for (step, rows) in plan.iter().enumerate().skip(worker).step_by(workers) {
                    let place = |n: usize| (step * rows.len() + n) as u64;
                    let waveforms =
                        rows.iter().enumerate().map(|(n, row)| clips.render(*row, seed, epoch, place(n))).collect();
                    if send.send(waveforms).is_err() {
                        break;
                    }
                }
            });
            receive
        });
        Self { rendered: rendered.collect(), plan: plan.clone(), next: 0 }
    }

    /// Entries of a batch.
    pub fn rows(&self, step: usize) -> &[usize] {
        &self.plan[step]
    }

    /// The next batch's waveforms.
    fn next(&mut self) -> Vec<Vec<f32>> {
        let waveforms = self.rendered[self.next % self.rendered.len()].recv().expect("a rendering thread ended early");
        self.next += 1;
        waveforms
    }
}

impl Clips {
    fn render(&self, row: usize, seed: u64, epoch: usize, place: u64) -> Vec<f32> {
        let (file, variant) = self.forms[row];
        let samples: Vec<f32> = self.decoded[file].iter().map(|s| f32::from(*s) / 32767.0).collect();
        // Stream 0 draws the batches.
        let mut random = stream(seed, epoch, place + 1);
        let longest = (self.settings.crop * SAMPLE_RATE as f32) as usize;
        let mut out = render_anew(&samples, variant, longest, self.settings.disturbed, &mut random);
        // Played slower, a piece can become longer than was cut.
        out.truncate(self.bounds[1]);
        audio_file::at_least(if out.is_empty() { vec![0.0] } else { out }, self.bounds[0])
    }
}

/// Outputs `raw` and `embedding` of the next batch. With `int8` the encoder's weights act as the bundle will hold them, while
/// their gradients pass as if nothing were rounded (Bengio et al., "Estimating or propagating gradients through stochastic
/// neurons", 2013).
pub fn embed(graph: &Graph, ahead: &mut Ahead, params: &Params, int8: bool, mode: Mode) -> (Tensor, Tensor) {
    let device = params.values().next().map_or(Device::Cpu, Tensor::device);
    let (waveform, length) = batch_of(&ahead.next());
    let (waveform, length) = (waveform.to_device(device), length.to_device(device));
    let heard: Params = params
        .iter()
        .map(|(name, tensor)| match int8_channels(name, tensor.dim()).filter(|_| int8 && name.starts_with(ENCODER)) {
            Some(channels) => (name.clone(), tensor + (no_grad(|| rounded(tensor, channels) - tensor)).detach()),
            None => (name.clone(), tensor.shallow_clone()),
        })
        .collect();
    let mut out = run_in(graph, &heard, &[("waveform", &waveform), ("length", &length)], mode);
    let mut take = |name: &str| out.remove(name).expect("the speech graph names its outputs");
    (take("raw"), take("embedding"))
}

/// Where a run begins: the published encoder, not rounded, and the speech head of the bundle that the config names.
pub fn start(config: &Config, settings: &Waveforms, graph: &Graph) -> Result<Params> {
    let tower = &config.speech.tower;
    let published = weights::read_tensors(&weights::resolve(&config.speech.weights))?;
    let mut params = weights::whisper::load(published, &tower.whisper, tower.last(), ENCODER)?;
    let file = settings.from.join(esr_encoder::bundle::SPEECH_FILE);
    let known = weights::read_tensors(&file).context("training.waveforms.from names a bundle to begin with")?;
    for (name, shape) in graph.params() {
        let Some(tensor) = known.get(&name).filter(|_| !params.contains_key(&name)) else { continue };
        let wanted: Vec<i64> = shape.iter().map(|n| *n as i64).collect();
        ensure!(tensor.size() == wanted, "{}: {name} is {:?}, not {wanted:?}", file.display(), tensor.size());
        params.insert(name, tensor.copy());
    }
    // What the bundle lacks, such as weights of attention.
    initialise(graph, &mut params);
    Ok(params)
}

/// The whole speech network as a bundle will hold it, on a device.
pub struct Whole {
    graph: Graph,
    params: Params,
    device: Device,
    mode: Mode,
}

impl Whole {
    /// The speech side of a run.
    ///
    /// # Errors
    /// If the config names a device that is not there.
    pub fn new(config: &Config, params: &Params) -> Result<Self> {
        let settings = config.training.waveforms.clone().unwrap_or_default();
        let device = settings.device.device()?;
        let own = params.iter().filter(|(name, _)| name.starts_with("speech.")).map(|(k, t)| (k.clone(), t.detach()));
        let own: Params = if config.speech.int8 { round(own.collect()) } else { own.collect() };
        let params = own.into_iter().map(|(k, t)| (k, t.to_device(device))).collect();
        let mode = Mode { training: false, bf16: settings.short(device) };
        Ok(Self { graph: config.speech.tower.record(config.dimension), params, device, mode })
    }

    /// Unit vectors `[waveforms, dimension]` on the CPU.
    pub fn embed(&self, waveforms: &[Vec<f32>]) -> Tensor {
        let (waveform, length) = batch_of(waveforms);
        let (waveform, length) = (waveform.to_device(self.device), length.to_device(self.device));
        let inputs = [("waveform", &waveform), ("length", &length)];
        let out = no_grad(|| run_in(&self.graph, &self.params, &inputs, self.mode));
        out["embedding"].to_kind(Kind::Float).to_device(Device::Cpu)
    }
}

/// The whole speech network over files: unit vectors `[entries, dimension]`.
pub fn measure(config: &Config, params: &Params, entries: &[Entry]) -> Result<Tensor> {
    let settings = config.training.waveforms.clone().unwrap_or_default();
    let whole = Whole::new(config, params)?;
    let clips: Vec<Clip> = entries.iter().map(as_clip).collect();
    // Clips of like length share a batch, so that little is padding.
    let mut order: Vec<usize> = (0..clips.len()).collect();
    order.sort_by(|a, b| clips[*a].seconds.total_cmp(&clips[*b].seconds));
    let batches: Vec<Vec<usize>> = order.chunks(BATCH).map(<[usize]>::to_vec).collect();
    let window = Window::seconds(config.data.shortest, Some(config.data.longest));
    let progress = Progress::start(clips.len() as u64, "clips");
    let mut rows: Vec<Option<Tensor>> = clips.iter().map(|_| None).collect();
    for_each(&clips, &batches, window, None, settings.workers, |chosen, waveforms| {
        let embedding = whole.embed(waveforms);
        chosen.iter().enumerate().for_each(|(n, row)| rows[*row] = Some(embedding.get(n as i64)));
        progress.advance(chosen.len() as u64);
        Ok(())
    })?;
    progress.finish();
    let rows: Vec<Tensor> = rows.into_iter().flatten().collect();
    ensure!(rows.len() == clips.len() && !rows.is_empty(), "there are no clips to embed");
    Ok(Tensor::stack(&rows, 0))
}

fn as_clip(entry: &Entry) -> Clip {
    Clip {
        corpus: entry.corpus.clone(),
        path: entry.path.clone(),
        speaker: entry.speaker.clone(),
        styles: entry.styles.clone(),
        seconds: entry.seconds,
    }
}
