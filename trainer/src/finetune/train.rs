//! Runs the paper's three stages: classifier alone, then the contrastive loss, then the modality discriminator behind gradient
//! reversal. All of the speech encoder is trained; the text encoder is frozen, with its dropout on.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rand::Rng;
use serde::Serialize;
use tch::{Device, Kind, Tensor, no_grad};

use super::batches::{Window, for_each, shuffled, stream};
use super::config::{Finetune, PromptUse};
use super::evaluate::mean_precision;
use crate::checkpoint::{self, Checkpoint};
use crate::data::Clip;
use crate::data::splits::Split;
use crate::graph::{Dim, Graph};
use crate::losses::{contrastive, modality, reverse_gradient};
use crate::nets::heads::classifier;
use crate::optimiser::AdamW;
use crate::prepare::{batch_of, list_of};
use crate::progress::Progress;
use crate::prompts::{Prompts, Side};
use crate::tokenizer::TextTokenizer;
use crate::torch::{Mode, Params, run_in};
use crate::weights;

/// Stream of random numbers for prompts; clips have the streams before it.
const PROMPT_STREAM: u64 = u64::MAX;

/// One line of the metrics file.
#[derive(Debug, Default, Serialize)]
struct Metrics {
    epoch: usize,
    /// Mean over the epoch of each loss that is on.
    #[serde(flatten)]
    losses: BTreeMap<&'static str, f64>,
    /// Mean average precision over corpora and styles on the validation clips, in epochs where it is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    validation: Option<f64>,
}

/// The networks of a run and everything that does not change.
struct Networks {
    speech: Graph,
    text: Graph,
    text_head: Graph,
    classifier: Graph,
    discriminator: Graph,
    /// The text encoder as published.
    frozen: Params,
    mode: Mode,
    device: Device,
}

/// Trains to the last epoch (or stops after `until` epochs), continuing from the latest checkpoint unless `restart`.
pub fn train(config: &Finetune, restart: bool, until: Option<usize>) -> Result<()> {
    config.check()?;
    let t = &config.training;
    let work = &config.data.work;
    std::fs::create_dir_all(work).with_context(|| format!("cannot create {}", work.display()))?;
    let prompts = Prompts::read(&config.data.prompts)?;
    let listed = list_of(&config.data, &prompts)?;
    let of = |split| listed.iter().filter(|l| l.split == split).map(|l| l.clip.clone()).collect::<Vec<Clip>>();
    let (clips, validation) = (of(Split::Train), of(Split::Val));
    ensure!(
        clips.len() >= t.batch,
        "there are {} training clips, fewer than one batch of {}; lower training.batch",
        clips.len(),
        t.batch
    );
    let classes: Vec<String> = clips.iter().map(Clip::class).collect::<BTreeSet<_>>().into_iter().collect();
    let table = prompt_table(config, &prompts, &clips);
    let tokenizer = TextTokenizer::read(&weights::resolve(&config.text.tokenizer), config.text.max_tokens)?;

    let nets = networks(config, classes.len())?;
    let written = serde_json::to_string(config)?;
    let known = if restart { None } else { Checkpoint::load(work, Some(&written))? };
    let fresh = known.is_none();
    let mut state = match known {
        Some(state) => state,
        None => start(config, &nets)?,
    };
    state.place(nets.device);
    for tensor in state.params.values() {
        let _ = tensor.set_requires_grad(true);
    }

    let mut metrics = std::fs::OpenOptions::new()
        .create(true)
        .append(!fresh)
        .write(true)
        .truncate(fresh)
        .open(work.join("metrics.jsonl"))
        .context("cannot write metrics.jsonl in the work folder")?;
    let steps = clips.len() / t.batch;
    let progress = Progress::start((t.epochs * steps) as u64, "steps");
    progress.advance((state.epoch * steps) as u64);
    let last = until.unwrap_or(t.epochs).min(t.epochs);
    let window = Window::seconds(config.data.shortest, Some(t.crop));
    while state.epoch < last {
        let epoch = state.epoch;
        // Everything random in an epoch follows from its number, so that a resumed run repeats an unbroken one.
        tch::manual_seed((config.seed as i64).wrapping_mul(1_000_003).wrapping_add(epoch as i64));
        let mut random = stream(config.seed, epoch, PROMPT_STREAM);
        let mut line = Metrics { epoch, ..Metrics::default() };
        let batches = shuffled(clips.len(), t.batch, config.seed, epoch);
        for_each(&clips, &batches, window, Some((config.seed, epoch)), t.workers, |rows, waveforms| {
            let texts: Vec<String> = rows
                .iter()
                .map(|row| {
                    let own = &table[&clips[*row].class()];
                    own[random.random_range(0..own.len())].clone()
                })
                .collect();
            let target: Vec<i64> = rows.iter().map(|row| class_of(&classes, &clips[*row])).collect();
            let batch = Batch { waveforms, tokens: tokenizer.encode(&texts)?, target: Tensor::from_slice(&target) };
            let losses = losses(config, &nets, &state.params, &batch, epoch);
            let mut total = Tensor::zeros([], (Kind::Float, nets.device));
            for (name, loss, weight) in losses {
                *line.losses.entry(name).or_default() += loss.double_value(&[]) / steps as f64;
                total += loss * weight;
            }
            ensure!(
                total.double_value(&[]).is_finite(),
                "the loss is not finite in epoch {epoch}; lower training.rate, or set training.bf16 to false"
            );
            total.backward();
            state.optimiser.step(&state.params, |name| rate(config, name));
            progress.advance(1);
            Ok(())
        })?;
        state.epoch += 1;
        let measured =
            t.validate_every > 0 && (state.epoch.is_multiple_of(t.validate_every) || state.epoch == t.epochs);
        if measured && !validation.is_empty() {
            let mut params: Params = nets.frozen.iter().map(|(k, v)| (k.clone(), v.shallow_clone())).collect();
            params.extend(state.params.iter().map(|(k, v)| (k.clone(), v.detach())));
            line.validation = mean_precision(config, &params, &prompts, &validation, nets.device)?;
        }
        progress.remark(format!("steps, losses {}", describe(&line)));
        writeln!(metrics, "{}", serde_json::to_string(&line)?)?;
        if state.epoch.is_multiple_of(t.checkpoint_every.max(1)) || state.epoch == last {
            state.save(work, &written)?;
            keep(config, state.epoch)?;
        }
    }
    progress.finish();
    Ok(())
}

struct Batch<'a> {
    waveforms: &'a [Vec<f32>],
    tokens: (Tensor, Tensor),
    target: Tensor,
}

/// The losses that are on in an epoch, with their weights.
fn losses(
    config: &Finetune,
    nets: &Networks,
    params: &Params,
    batch: &Batch<'_>,
    epoch: usize,
) -> Vec<(&'static str, Tensor, f64)> {
    let t = &config.training;
    let (waveform, length) = batch_of(batch.waveforms);
    let (waveform, length) = (waveform.to_device(nets.device), length.to_device(nets.device));
    let mut out = run_in(&nets.speech, params, &[("waveform", &waveform), ("length", &length)], nets.mode);
    let mut take = |name: &str| out.remove(name).expect("the speech graph names its outputs");
    let (raw, speech) = (take("raw"), take("embedding"));
    let mut found = vec![];
    if t.classifier > 0.0 {
        let logits = run_in(&nets.classifier, params, &[("x", &raw)], nets.mode)["logits"].shallow_clone();
        let loss = logits.cross_entropy_for_logits(&batch.target.to_device(nets.device));
        found.push(("classifier", loss, t.classifier));
    }
    // Without a classifier there would be nothing to train in the first stage.
    let contrasted = t.contrastive > 0.0 && (epoch >= t.contrastive_from || t.classifier == 0.0);
    let judged = t.adversarial_weight() > 0.0 && epoch >= t.discriminator_from;
    if !contrasted && !judged {
        return found;
    }
    let text = embed_texts(nets, params, &batch.tokens);
    if contrasted {
        let temperature = Tensor::from(t.temperature as f32).to_device(nets.device);
        found.push(("contrastive", contrastive(&speech, &text, &temperature, None, None), t.contrastive));
    }
    if judged {
        let judge = |x: &Tensor| {
            let turned = reverse_gradient(x, 1.0);
            run_in(&nets.discriminator, params, &[("x", &turned)], nets.mode)["logits"].shallow_clone()
        };
        found.push(("discriminator", modality(&judge(&speech), &judge(&text)), t.adversarial_weight()));
    }
    found
}

/// Unit vectors of texts: the frozen encoder with its dropout, then the trained projection.
fn embed_texts(nets: &Networks, params: &Params, tokens: &(Tensor, Tensor)) -> Tensor {
    let (ids, mask) = (tokens.0.to_device(nets.device), tokens.1.to_device(nets.device));
    let inputs = [("input_ids", &ids), ("attention_mask", &mask)];
    let pooled = no_grad(|| run_in(&nets.text, &nets.frozen, &inputs, nets.mode)["pooled"].shallow_clone());
    run_in(&nets.text_head, params, &[("pooled", &pooled)], nets.mode)["embedding"].shallow_clone()
}

fn networks(config: &Finetune, classes: usize) -> Result<Networks> {
    let device = config.training.device.device()?;
    let frozen = weights::paper::text(&weights::resolve(&config.text.weights), &config.text.net)?;
    Ok(Networks {
        speech: config.speech.net.record(config.dimension),
        text: config.text.net.record_pooled(),
        text_head: config.text.net.record_head(config.dimension),
        classifier: head("classifier", config.dimension, classes),
        discriminator: head("discriminator", config.dimension, 2),
        frozen: frozen.into_iter().map(|(k, t)| (k, t.to_device(device))).collect(),
        mode: Mode { training: true, bf16: config.training.short(device) },
        device,
    })
}

fn head(path: &str, dimension: usize, classes: usize) -> Graph {
    let g = Graph::new();
    g.output("logits", classifier(g.input("x", &[Dim::Batch, Dim::Fixed(dimension)]), path, classes));
    g
}

/// Published weights of the speech encoder, random projections and heads.
fn start(config: &Finetune, nets: &Networks) -> Result<Checkpoint> {
    tch::manual_seed(config.seed as i64);
    let mut params = weights::paper::speech(&weights::resolve(&config.speech.weights), &config.speech.net)?;
    for graph in [&nets.speech, &nets.text_head, &nets.classifier, &nets.discriminator] {
        initialise_linear(graph, &mut params);
    }
    let optimiser = AdamW { decay: config.training.decay, decay_all: true, ..AdamW::default() };
    Ok(Checkpoint { epoch: 0, params, average: Params::new(), optimiser })
}

/// Starting values of linear layers as PyTorch's `nn.Linear` has them: weights and biases evenly between plus and minus one over
/// the root of the number of inputs.
fn initialise_linear(graph: &Graph, params: &mut Params) {
    let shapes: BTreeMap<String, Vec<usize>> = graph.params().into_iter().collect();
    for (name, shape) in &shapes {
        let inputs = shapes.get(&name.replace(".bias", ".weight")).map_or(1, |weight| weight[0]);
        let bound = 1.0 / (inputs as f64).sqrt();
        let dims: Vec<i64> = shape.iter().map(|n| *n as i64).collect();
        params
            .entry(name.clone())
            .or_insert_with(|| (Tensor::rand(&dims, (Kind::Float, Device::Cpu)) * 2.0 - 1.0) * bound);
    }
}

/// The prompts of each class that clips may get.
fn prompt_table(config: &Finetune, prompts: &Prompts, clips: &[Clip]) -> BTreeMap<String, Vec<String>> {
    let classes: BTreeSet<&Vec<String>> = clips.iter().map(|c| &c.styles).collect();
    let own = |class: &Vec<String>| match config.training.prompts {
        PromptUse::All => prompts.of_class(class, Side::Train),
        PromptUse::One => vec![prompts.plain(class)],
    };
    classes.into_iter().map(|class| (class.join(" + "), own(class))).collect()
}

fn class_of(classes: &[String], clip: &Clip) -> i64 {
    let class = clip.class();
    classes.iter().position(|c| *c == class).expect("the classes were taken from the clips") as i64
}

fn rate(config: &Finetune, name: &str) -> f64 {
    let t = &config.training;
    match name {
        _ if name.starts_with("discriminator") => t.discriminator_rate,
        _ if name.starts_with("classifier") => t.classifier_rate,
        _ => t.rate,
    }
}

fn describe(line: &Metrics) -> String {
    let losses: Vec<String> = line.losses.iter().map(|(name, loss)| format!("{name} {loss:.3}")).collect();
    let validation = line.validation.map(|v| format!(", validation {v:.3}")).unwrap_or_default();
    losses.join(" ") + &validation
}

/// Copies the checkpoint beside where the recipe wants it kept.
fn keep(config: &Finetune, epoch: usize) -> Result<()> {
    let t = &config.training;
    let wanted =
        (t.keep_every > 0 && epoch.is_multiple_of(t.keep_every)) || (t.keep_all_from > 0 && epoch > t.keep_all_from);
    if wanted {
        let target = kept_file(&config.data.work, epoch);
        std::fs::copy(checkpoint::file(&config.data.work), &target)
            .with_context(|| format!("cannot write {}", target.display()))?;
    }
    Ok(())
}

/// The file of a checkpoint that was kept.
pub fn kept_file(work: &Path, epoch: usize) -> PathBuf {
    work.join(format!("epoch-{epoch}.safetensors"))
}
