//! Teaches a small text encoder the words of speaking style: it learns to name the style of the training prompts and to
//! place other words where a larger teacher places them, which may learn to name styles first itself. The style bank it
//! answers with is the teacher's too.
//! Held-out phrases, and words that occur only in them, are never shown.

mod classifier;
mod lesson;
pub(crate) mod space;
mod teacher;
mod texts;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use self::lesson::{Lesson, Step};
pub(crate) use self::space::GUESSED;
pub use self::space::link;
use self::space::{MEANS, style_means};
use crate::config::{Config, Tuning};
use crate::encoders;
use crate::graph::Graph;
use crate::losses::soft_cross_entropy;
use crate::nets::bert::Bert;
use crate::nets::text_tower::{Bank, KEYS, TextTower, VALUES};
use crate::optimiser::{AdamW, half_cosine};
use crate::progress::Progress;
use crate::prompts::{Prompts, Side};
use crate::text_features::{self, Encoder, pooled};
use crate::tokenizer::TextTokenizer;
use crate::torch::{Params, run};
use crate::tuned_text::{file, load};
use crate::weights;

const ASKED: usize = 100;
/// Batches that the texts of a step are computed in.
const PIECES: usize = 4;

/// Tunes the text tower of a config that asks for it and writes [`file()`]. With `from`, the tower of that bundle learns the
/// prompts of today for a while longer: it keeps its bank, and it is its own teacher for all other texts.
pub fn tune_text(config: &Config, from: Option<&Path>) -> Result<()> {
    let tuning = config.text.tuning.as_ref().context("the config has no [text.tuning]")?;
    let mut random = ChaCha8Rng::seed_from_u64(config.seed);
    let lesson = Lesson::new(config, tuning, from.is_some(), &mut random)?;
    let pupil = Pupil {
        tower: tuned_tower(config, tuning, &config.text.tower.bert)?,
        tokenizer: TextTokenizer::read(&weights::resolve(&config.text.tokenizer), config.text.max_tokens)?,
        steps: if from.is_some() { tuning.more_steps } else { tuning.steps },
        rate: tuning.rate,
        table_rate: tuning.table_rate,
        head_rate: tuning.head_rate,
    };
    let mut params = encoders::text(config)?;
    let aim = if let Some(bundle) = from {
        encoders::initialise(&pupil.tower.record_tuning(config.dimension, 0.0), &mut params);
        let known = weights::read_tensors(&bundle.join(esr_encoder::bundle::TEXT_FILE))?;
        for (name, tensor) in params.iter_mut().filter(|(name, _)| *name != VALUES) {
            *tensor = known.get(name).with_context(|| format!("{} has no {name}", bundle.display()))?.copy();
        }
        let targets = pupil.places(config, &params, &lesson.taught)?;
        let means = style_means(&targets, &lesson.owners, lesson.of_style.len());
        // A new description belongs where those of its style are, everything else where it is.
        let own = means.index_select(0, &Tensor::from_slice(&lesson.owners));
        let others = targets.slice(0, lesson.labelled as i64, None, 1);
        Aim { targets: Tensor::cat(&[own, others], 0), keys: params[KEYS].shallow_clone(), means }
    } else {
        let aim = teacher::aim(config, tuning, &lesson)?;
        params.extend(head(config, &Encoder::Published, &lesson.taught, &aim.targets)?);
        aim
    };
    params = pupil.learn(config, tuning, &lesson, &aim, params, &mut random)?;
    params.insert(MEANS.into(), aim.means);
    if config.text.int8 {
        params = encoders::round(params);
    }
    let named: Vec<(String, Tensor)> = params.into_iter().collect();
    Tensor::write_safetensors(&named, file(config))
        .with_context(|| format!("cannot write {}", file(config).display()))?;
    Ok(())
}

/// What is to be learned.
struct Aim {
    /// Places of the taught texts, `[texts, dimension]`, of unit length.
    targets: Tensor,
    /// The bank's keys, `[styles, dimension]`: what tells the styles apart there.
    keys: Tensor,
    /// Mean places of the styles' prompts, of unit length: how alike the styles are.
    means: Tensor,
}

/// The text tower of a config over some encoder, with the bank's sharpness for tuning.
fn tuned_tower(config: &Config, tuning: &Tuning, bert: &Bert) -> Result<TextTower> {
    let bank = config.text.tower.bank.clone().context("tuning needs text.tower.bank")?;
    let bank = Some(Bank { sharpness: tuning.sharpness, ..bank });
    Ok(TextTower { bert: bert.clone(), bank, ..config.text.tower.clone() })
}

/// A text tower that is taught.
struct Pupil {
    tower: TextTower,
    tokenizer: TextTokenizer,
    steps: usize,
    /// Learning rates of the encoder's blocks, of what it looks up and of the head.
    rate: f64,
    table_rate: f64,
    head_rate: f64,
}

impl Pupil {
    /// Teaches it, starting from `params` (encoder and head), and returns what it has become.
    fn learn(
        &self,
        config: &Config,
        tuning: &Tuning,
        lesson: &Lesson,
        aim: &Aim,
        mut params: Params,
        random: &mut ChaCha8Rng,
    ) -> Result<Params> {
        let device = tuning.device.device()?;
        tch::manual_seed(config.seed as i64);
        let graph = self.tower.record_tuning(config.dimension, tuning.dropout);
        encoders::initialise(&graph, &mut params);
        for part in [KEYS, VALUES] {
            params.insert(part.into(), aim.keys.shallow_clone());
        }
        let rate = |name: &str| match name {
            // Where it stays as published, rare words keep the place that training on much text gave them.
            _ if name.contains(".embeddings.") => self.table_rate,
            _ if name.contains(".encoder.") => self.rate,
            KEYS | VALUES => 0.0,
            _ => self.head_rate,
        };
        for (name, tensor) in &mut params {
            *tensor = tensor.detach().to_device(device).set_requires_grad(rate(name) > 0.0);
        }
        // What is negated lies opposite.
        let targets = Tensor::cat(&[aim.targets.shallow_clone(), -&aim.means], 0).to_device(device);
        let keys = aim.keys.to_device(device);
        let mut adam = AdamW { decay: 0.01, ..AdamW::default() };
        let progress = Progress::start(self.steps as u64, "steps of text tuning");
        for step in 0..self.steps {
            let Step { texts, styles, rows } = lesson.draw(tuning, random);
            let out = self.read(&graph, &params, &texts, device)?;
            let (prompts, others) = (styles.len() as i64, rows.len() as i64);
            let named = out["logits"].narrow(0, 0, prompts);
            let naming = named.cross_entropy_for_logits(&Tensor::from_slice(&styles).to_device(device));
            let target = targets.index_select(0, &Tensor::from_slice(&rows).to_device(device));
            let cosine: Tensor = out["direction"].narrow(0, prompts, others) * &target;
            let seen = soft_cross_entropy(
                &out["logits"].narrow(0, prompts, others),
                &(target.matmul(&keys.transpose(0, 1)) * f64::from(tuning.sharpness)).softmax(1, Kind::Float),
            );
            let placing: Tensor = 1.0 - cosine.sum_dim_intlist([1i64].as_slice(), false, Kind::Float).mean(Kind::Float);
            let loss: Tensor = naming * tuning.naming + placing * tuning.placing + seen * tuning.agreeing;
            let value = loss.double_value(&[]);
            ensure!(value.is_finite(), "the loss is not finite in step {step}; lower text.tuning.rate");
            progress.remark(format!("steps of text tuning, loss {value:.3}"));
            loss.backward();
            let at = step as f64 / self.steps as f64;
            let fade = (at * 20.0).min(1.0) * half_cosine(at);
            adam.step(&params, |name| fade * rate(name));
            progress.advance(1);
        }
        progress.finish();
        Ok(params.into_iter().map(|(name, t)| (name, t.detach().to_device(Device::Cpu).contiguous())).collect())
    }

    /// What the tower makes of the texts of a step.
    fn read(
        &self,
        graph: &Graph,
        params: &Params,
        texts: &[String],
        device: Device,
    ) -> Result<BTreeMap<String, Tensor>> {
        let size = texts.len().div_ceil(PIECES);
        text_features::tokens_by_length(&self.tokenizer, texts, size, device, |inputs| run(graph, params, inputs, true))
    }

    /// Where a tower with these parameters places texts.
    fn places(&self, config: &Config, params: &Params, texts: &[String]) -> Result<Tensor> {
        let graph = self.tower.record_tuning(config.dimension, 0.0);
        text_features::rows(config, &self.tokenizer, &graph, params, "direction", texts)
    }
}

/// How often the tuned tower names the right style for the training prompts and for the held-out ones, asked about at most
/// a hundred of each style.
pub fn accuracy(config: &Config) -> Result<[f64; 2]> {
    let prompts = Prompts::read(&config.data.prompts)?;
    let params = load(config)?;
    let graph = config.text.tower.record_tuning(config.dimension, 0.0);
    let tokenizer = TextTokenizer::read(&weights::resolve(&config.text.tokenizer), config.text.max_tokens)?;
    let share = |side| -> Result<f64> {
        let (mut right, mut all) = (0.0, 0.0);
        for (n, style) in prompts.styles().enumerate() {
            let texts = prompts.of_class(&[style.to_string()], side);
            let asked: Vec<String> = texts.iter().step_by(texts.len().div_ceil(ASKED).max(1)).cloned().collect();
            let (ids, mask) = tokenizer.encode(&asked)?;
            let out = tch::no_grad(|| run(&graph, &params, &[("input_ids", &ids), ("attention_mask", &mask)], false));
            let named = Vec::<i64>::try_from(out["logits"].argmax(1, false))?;
            right += named.iter().filter(|k| **k == n as i64).count() as f64;
            all += named.len() as f64;
        }
        Ok(right / all)
    };
    Ok([share(Side::Train)?, share(Side::Heldout)?])
}

/// The head as the linear map from an untuned encoder to the targets.
fn head(config: &Config, encoder: &Encoder<'_>, taught: &[String], targets: &Tensor) -> Result<Params> {
    let x = pooled(config, encoder, taught)?.to_kind(Kind::Double);
    let mean = x.mean_dim([0i64].as_slice(), true, Kind::Double);
    let centred = &x - &mean;
    let normal = centred.transpose(0, 1).matmul(&centred);
    let penalty = Tensor::eye(x.size()[1], (Kind::Double, Device::Cpu)) * (normal.trace() / x.size()[1] * 0.1);
    let right = centred.transpose(0, 1).matmul(&targets.to_kind(Kind::Double));
    let map = Tensor::f_linalg_solve(&(normal + penalty), &right, true).context("the text map has no solution")?;
    Ok(Params::from([
        ("text.head.outer.bias".into(), -mean.matmul(&map).squeeze_dim(0).to_kind(Kind::Float)),
        ("text.head.outer.weight".into(), map.to_kind(Kind::Float)),
    ]))
}
