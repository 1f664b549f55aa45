//! Trains projections and heads (and, if asked, the last encoder blocks, or the whole encoder from waveforms), in the paper's
//! stages: classifier first, then the contrastive loss, then the modality discriminator behind gradient reversal.

mod pairs;
mod prompt_table;

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use anyhow::{Context, Result, ensure};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tch::{Device, Kind, Tensor, no_grad};

use self::pairs::{domain, domains_of, hide, hide_pairs, marks, positives};
use self::prompt_table::{class_targets, class_texts, draw_prompt, prompt_table};
use crate::by_length::indices;
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::encoders::{self, initialise};
use crate::graph::{Dim, Graph};
use crate::losses::{contrastive, modality, reverse_gradient, sigmoid, soft_cross_entropy};
use crate::nets::heads::classifier;
use crate::optimiser::{AdamW, half_cosine};
use crate::progress::Progress;
use crate::prompts::{Prompts, Side};
use crate::retrieval::{Quality, judge};
use crate::sampling::{Sampler, weights};
use crate::speech_batches::{Speech, Validation};
use crate::text_features::text_features;
use crate::torch::{Params, run};
use crate::{tune_text, tuned_text, warm_start, waveforms};

/// One line of the metrics file.
#[derive(Debug, Default, Serialize)]
struct Metrics {
    epoch: usize,
    /// Mean over the epoch of each loss that is on.
    #[serde(flatten)]
    losses: BTreeMap<&'static str, f64>,
    temperature: f64,
    /// Mean average precision on the speakers kept for choosing settings, over corpora and styles; every fifth epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    validation: Option<f64>,
}

/// Trains to the last epoch (or stops after `until` epochs), continuing from the latest checkpoint unless `restart`.
pub fn train(config: &Config, restart: bool, until: Option<usize>) -> Result<()> {
    let t = &config.training;
    let seed = config.seed.wrapping_add(t.reseed);
    let device = t.waveforms.as_ref().map_or(Ok(Device::Cpu), |w| w.device.device())?;
    let prompts = Prompts::read(&config.data.prompts)?;
    let (entries, validation, speech) = Speech::load(config)?;
    ensure!(
        !entries.is_empty(),
        "there are no training clips; unless training.waveforms is set, `esr-trainer prepare` caches them (with --frames {} for \
         training.unfreeze_from)",
        t.unfreeze_from.saturating_sub(1)
    );
    let styles: Vec<String> =
        entries.iter().flat_map(|e| e.styles.clone()).collect::<BTreeSet<_>>().into_iter().collect();
    let mut table = prompt_table(config, &prompts, &entries)?;

    let text_graph = config.text.tower.record_head(config.dimension);
    let (class_graph, judge_graph) =
        (head_graph("classifier", config.dimension, styles.len()), head_graph("discriminator", config.dimension, 2));
    let (speaker_of, speakers) = numbered(entries.iter().map(|e| (&e.corpus, &e.speaker)));
    let speaker_graph = (t.speaker_adversary > 0.0).then(|| head_graph("speakers", config.dimension, speakers));
    let written = serde_json::to_string(config)?;
    let known = if restart { None } else { Checkpoint::load(&config.data.work, Some(&written))? };
    let fresh = known.is_none();
    let mut state = match known {
        Some(state) => state,
        None => {
            tch::manual_seed(seed as i64);
            let mut params = Params::new();
            if let Speech::Frames { graph, .. } = &speech {
                let wanted: BTreeSet<String> = graph.params().into_iter().map(|(n, _)| n).collect();
                params.extend(
                    encoders::speech(config, config.speech.tower.last())?
                        .into_iter()
                        .filter(|(n, _)| wanted.contains(n)),
                );
            }
            if let (Speech::Waveforms { graph, .. }, Some(settings)) = (&speech, &t.waveforms) {
                params.extend(waveforms::start(config, settings, graph)?);
            }
            for graph in [speech.graph(), &text_graph, &class_graph, &judge_graph].into_iter().chain(&speaker_graph) {
                initialise(graph, &mut params);
            }
            if t.sigmoid {
                // Where Zhai et al. begin: nearly all pairs are negatives.
                params.insert("sigmoid_bias".into(), Tensor::from(-10f32));
            }
            params.insert("log_temperature".into(), Tensor::from(t.temperature as f32).log());
            if let Some(tuning) = &config.text.tuning {
                params.extend(tuned_text::load(config)?.into_iter().filter(|(n, _)| n.starts_with("text.head.")));
                tune_text::link(tuning.link, &prompts, &styles, &mut params);
            }
            standardise(&mut params, &speech, &table.features);
            if let (Speech::Pooled { features, .. }, true) = (&speech, t.warm_start > 0.0) {
                let targets = class_targets(entries.iter(), &table, &text_graph, &params, &mut BTreeMap::new());
                warm_start::start(config, &entries, features, &targets, &mut params)?;
            }
            let optimiser = AdamW { decay: t.decay, ..AdamW::default() };
            Checkpoint { epoch: 0, params, average: Params::new(), optimiser }
        }
    };
    state.place(device);
    table.features = table.features.to_device(device);
    for (name, tensor) in &state.params {
        let tuned = config.text.tuning.is_some() && name.starts_with("text.head.");
        let fixed = tuned
            || name.ends_with(".mean")
            || name.ends_with("head.scale")
            || name.ends_with("positional_embedding")
            || (name == "log_temperature" && !t.learn_temperature);
        let _ = tensor.set_requires_grad(!fixed);
    }

    std::fs::create_dir_all(&config.data.work)
        .with_context(|| format!("cannot create {}", config.data.work.display()))?;
    let mut metrics = std::fs::OpenOptions::new()
        .create(true)
        .append(!fresh)
        .write(true)
        .truncate(fresh)
        .open(config.data.work.join("metrics.jsonl"))
        .context("cannot write metrics.jsonl in the work folder")?;
    let sampler = Sampler::new(&weights(t, &entries));
    let steps = if t.steps == 0 { (entries.len() / t.batch).max(1) } else { t.steps };
    let style_domains: Vec<Vec<usize>> = styles.iter().map(|s| domains_of(config, &entries, s)).collect();
    let progress = Progress::start((t.epochs * steps) as u64, "steps");
    progress.advance((state.epoch * steps) as u64);
    let last = until.unwrap_or(t.epochs).min(t.epochs);
    // A tuned text side does not move, and neither do the places of the classes.
    let mut targets = BTreeMap::new();
    while state.epoch < last {
        let epoch = state.epoch;
        // Everything random in an epoch follows from its number, so that a resumed run repeats an unbroken one.
        tch::manual_seed((seed as i64).wrapping_mul(1_000_003).wrapping_add(epoch as i64));
        let mut random = ChaCha8Rng::seed_from_u64(seed.wrapping_mul(7919).wrapping_add(epoch as u64));
        let mut line = Metrics { epoch, ..Metrics::default() };
        let mut ahead = speech.ahead(&sampler, [steps, t.batch], seed, epoch);
        for step in 0..steps {
            let rows: Vec<usize> = match &ahead {
                Some(ahead) => ahead.rows(step).to_vec(),
                None => (0..t.batch).map(|_| sampler.draw(&mut random)).collect(),
            };
            let chosen: Vec<usize> =
                rows.iter().map(|r| draw_prompt(*r, &entries[*r], &table, t, &mut random)).collect();
            let (raw, embedding) = speech.embed(&rows, ahead.as_mut(), &state.params, t);
            // Needed by some of the losses only.
            let text = LazyCell::new(|| {
                let features = table.features.index_select(0, &indices(&chosen).to_device(device));
                run(&text_graph, &state.params, &[("pooled", &features)], true)["embedding"].shallow_clone()
            });
            let temperature = state.params["log_temperature"].exp();

            let domains: Vec<usize> = rows.iter().map(|r| domain(config, &entries[*r].corpus)).collect();
            let mut loss = Tensor::zeros([], (Kind::Float, device));
            let mut add = |name, term: Tensor, weight: f64| {
                *line.losses.entry(name).or_default() += term.double_value(&[]) / steps as f64;
                loss += term * weight;
            };
            if t.classifier > 0.0 {
                let logits = if t.tied_classifier {
                    let classes = class_texts(&table, &styles, &text_graph, &state.params);
                    let hidden = hide(&domains, &style_domains).to_device(device);
                    embedding.matmul(&classes.transpose(0, 1)) / &temperature + hidden
                } else {
                    run(&class_graph, &state.params, &[("x", &raw)], true)["logits"].shallow_clone()
                };
                let marks = marks(rows.iter().map(|r| &entries[*r]), &styles).to_device(device);
                let term = soft_cross_entropy(&logits, &marks);
                add("classifier", term, t.classifier);
            }
            if t.alignment > 0.0 {
                if config.text.tuning.is_none() {
                    targets.clear();
                }
                let of_rows = rows.iter().map(|r| &entries[*r]);
                let target = class_targets(of_rows, &table, &text_graph, &state.params, &mut targets);
                let cosine: Tensor = &embedding * target;
                let term: Tensor =
                    1.0 - cosine.sum_dim_intlist([1i64].as_slice(), false, Kind::Float).mean(Kind::Float);
                add("alignment", term, t.alignment);
            }
            if epoch >= t.contrastive_from && t.contrastive > 0.0 {
                let positives = (t.multi_positive || t.sigmoid).then(|| {
                    let described = chosen.iter().map(|p| &table.styles[*p]);
                    positives(rows.iter().map(|r| (&entries[*r], table.traits.get(*r))), described).to_device(device)
                });
                let apart = (t.domains.len() > 1).then(|| hide_pairs(&domains).to_device(device));
                let term = match &positives {
                    Some(positives) if t.sigmoid => {
                        let bias = &state.params["sigmoid_bias"];
                        sigmoid(&embedding, &text, &temperature, bias, positives, apart.as_ref())
                    }
                    _ => contrastive(&embedding, &text, &temperature, positives.as_ref(), apart.as_ref()),
                };
                add("contrastive", term, t.contrastive);
            }
            if epoch >= t.discriminator_from && t.discriminator > 0.0 {
                let judged = |x: &Tensor| {
                    run(&judge_graph, &state.params, &[("x", &reverse_gradient(x, 1.0))], true)["logits"]
                        .shallow_clone()
                };
                let term = modality(&judged(&embedding), &judged(&text));
                add("discriminator", term, t.discriminator);
            }
            if let Some(graph) = &speaker_graph {
                let logits = run(graph, &state.params, &[("x", &reverse_gradient(&embedding, 1.0))], true);
                let own: Vec<i64> = rows.iter().map(|row| speaker_of[*row]).collect();
                let term = logits["logits"].cross_entropy_for_logits(&Tensor::from_slice(&own).to_device(device));
                add("speaker", term, t.speaker_adversary);
            }
            ensure!(
                loss.requires_grad(),
                "no loss is on in epoch {epoch}: give training.classifier, alignment or contrastive a weight"
            );
            ensure!(
                loss.double_value(&[]).is_finite(),
                "the loss is not finite in epoch {epoch}, step {step}; lower training.rate"
            );
            loss.backward();
            let at = (epoch * steps + step) as f64 / (t.epochs * steps) as f64;
            let rise = t.waveforms.as_ref().filter(|w| w.warm_up > 0.0).map_or(1.0, |w| (at / w.warm_up).min(1.0));
            let fade = rise * if t.cosine { half_cosine(at) } else { 1.0 };
            state.optimiser.step(&state.params, |name| fade * rate(config, name));
            average(&mut state, t.average);
            progress.advance(1);
        }
        line.temperature = state.params["log_temperature"].exp().double_value(&[]);
        state.epoch += 1;
        let every = t.waveforms.as_ref().map_or(5, |w| w.validate_every);
        if every > 0 && (state.epoch.is_multiple_of(every) || state.epoch == t.epochs) {
            line.validation = validate(config, &prompts, &validation, &state)?;
        }
        progress.remark(format!(
            "steps, loss {:.3}, validation {:.3}",
            line.losses.values().sum::<f64>(),
            line.validation.unwrap_or(f64::NAN)
        ));
        writeln!(metrics, "{}", serde_json::to_string(&line)?)?;
        if state.epoch % t.checkpoint_every.max(1) == 0 || state.epoch == last {
            state.save(&config.data.work, &written)?;
        }
    }
    progress.finish();
    Ok(())
}

/// Sets the standardisation of both projections from the training features, where the config asks for it.
fn standardise(params: &mut Params, speech: &Speech, text: &Tensor) {
    let pooled = speech.pooled(params);
    let mut set = |path: &str, features: &Tensor| {
        if params.contains_key(&format!("{path}.mean")) {
            params.insert(format!("{path}.mean"), features.mean_dim([0i64].as_slice(), false, Kind::Float));
            let deviation = features.std_dim([0i64].as_slice(), false, false).clamp_min(1e-3);
            params.insert(format!("{path}.scale"), 1.0 / deviation);
        }
    };
    if let Some(features) = &pooled {
        set("speech.head", features);
    }
    set("text.head", text);
}

/// A number for each of the things, equal ones having the same, and how many there are.
fn numbered<T: Ord>(things: impl Iterator<Item = T>) -> (Vec<i64>, usize) {
    let mut known = BTreeMap::new();
    let numbers = things
        .map(|thing| {
            let next = known.len() as i64;
            *known.entry(thing).or_insert(next)
        })
        .collect();
    (numbers, known.len())
}

fn head_graph(path: &str, dimension: usize, classes: usize) -> Graph {
    let g = Graph::new();
    g.output("logits", classifier(g.input("x", &[Dim::Batch, Dim::Fixed(dimension)]), path, classes));
    g
}

fn rate(config: &Config, name: &str) -> f64 {
    let t = &config.training;
    match name {
        _ if name.contains(".encoder.") => {
            let decay: f64 = t.waveforms.as_ref().map_or(1.0, |w| w.layer_decay);
            t.encoder_rate * decay.powi(blocks_above(name, config.speech.tower.last()) as i32)
        }
        _ if name.starts_with("discriminator") || name.starts_with("speakers") => t.discriminator_rate,
        _ => t.rate,
    }
}

/// How many encoder blocks lie above a parameter; below the blocks is the stem.
fn blocks_above(name: &str, blocks: usize) -> usize {
    let own = name.split_once(".blocks.").and_then(|(_, rest)| rest.split('.').next()?.parse::<usize>().ok());
    own.map_or(blocks, |n| blocks.saturating_sub(n + 1))
}

fn average(state: &mut Checkpoint, share: f64) {
    if share == 0.0 {
        return;
    }
    no_grad(|| {
        for (name, tensor) in state.params.iter() {
            match state.average.get_mut(name) {
                None => {
                    state.average.insert(name.clone(), tensor.detach().copy());
                }
                // Early averages follow closely: the share of the past grows with the number of steps.
                Some(kept) => {
                    let past = share.min(state.optimiser.steps as f64 / (state.optimiser.steps as f64 + 10.0));
                    let _ = kept.g_mul_scalar_(past).g_add_(&(tensor.detach() * (1.0 - past)));
                }
            }
        }
    });
}

/// Mean average precision over corpora and their styles, on validation speakers with training prompts.
fn validate(config: &Config, prompts: &Prompts, data: &Option<Validation>, state: &Checkpoint) -> Result<Option<f64>> {
    let Some((entries, features)) = data else { return Ok(None) };
    let mut params: Params = state.params.iter().map(|(k, t)| (k.clone(), t.to_device(Device::Cpu))).collect();
    params.extend(state.average.iter().map(|(k, t)| (k.clone(), t.to_device(Device::Cpu))));
    let (speech, text) =
        (config.speech.tower.record_head(config.dimension), config.text.tower.record_head(config.dimension));
    let embedding = match features {
        Some(x) => no_grad(|| run(&speech, &params, &[("pooled", x)], false)["embedding"].shallow_clone()),
        None => waveforms::measure(config, &params, entries)?,
    };
    let mut all = vec![];
    for corpus in &config.data.train {
        let rows: Vec<usize> =
            (0..entries.len()).filter(|n| entries[*n].corpus == *corpus && entries[*n].variant == "original").collect();
        let classes: BTreeSet<Vec<String>> = rows.iter().map(|n| entries[*n].styles.clone()).collect();
        if classes.len() < 2 {
            continue;
        }
        let clips = embedding.index_select(0, &indices(&rows));
        for class in classes {
            let features = text_features(config, &prompts.of_class(&class, Side::Train))?;
            let texts = no_grad(|| {
                run(&text, &params, &[("pooled", &features)], false)["embedding"].mean_dim(
                    [0i64].as_slice(),
                    false,
                    Kind::Float,
                )
            });
            let scores = Vec::<f32>::try_from(clips.matmul(&texts))?;
            let relevant: Vec<bool> = rows.iter().map(|n| entries[*n].styles == class).collect();
            all.push(judge(&scores, &relevant));
        }
    }
    Ok((!all.is_empty()).then(|| Quality::mean(&all).precision))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_things_share_a_number() {
        assert_eq!(numbered(["b", "a", "b", "c"].iter()), (vec![0, 1, 0, 2], 3));
    }
}
