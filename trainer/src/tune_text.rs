//! Teaches a small text encoder the words of speaking style: it learns to name the style of the training prompts and to
//! place other words where a larger, frozen teacher places them. The style bank it answers with is the teacher's too.
//! Held-out phrases, and words that occur only in them, are never shown.

mod space;
mod texts;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

pub use self::space::link;
use self::space::{teacher_space, values};
use crate::config::{Config, Tuning};
use crate::encoders;
use crate::losses::soft_cross_entropy;
use crate::nets::text_tower::{Bank, TextTower};
use crate::optimiser::AdamW;
use crate::progress::Progress;
use crate::prompts::{Prompts, Side, fill_one as fill};
use crate::text_features::{Encoder, pooled};
use crate::tokenizer::TextTokenizer;
use crate::torch::{Params, run};
use crate::weights;

/// The template in which the teacher reads a word.
const TEACHER_TEMPLATE: &str = "a {x} voice";

const ASKED: usize = 100;

/// The file with the tuned text tower.
pub fn file(config: &Config) -> PathBuf {
    config.data.cache().join("text.safetensors")
}

/// The tuned text tower: encoder, head and bank.
pub fn load(config: &Config) -> Result<Params> {
    let file = file(config);
    let named = Tensor::read_safetensors(&file).with_context(|| {
        format!("cannot read {}; run `esr-trainer tune-text` with this config first", file.display())
    })?;
    let mut params: Params = named.into_iter().collect();
    let tuning = config.text.tuning.as_ref().context("the config has no [text.tuning]")?;
    let keys = params.get("text.head.keys").context("the tuned text tower has no bank")?;
    let values = values(keys, tuning.sharpen, config.dimension);
    params.insert("text.head.values".into(), values);
    Ok(params)
}

/// What the student reads, and the places it should give what it reads.
struct Lesson {
    /// All training prompts of each style.
    of_style: Vec<Vec<String>>,
    /// Texts with a place: a sample of the prompts, then words, then sentences.
    taught: Vec<String>,
    /// How many of them are prompts.
    labelled: usize,
    /// The words, to be put into any template.
    words: Vec<String>,
    /// Templates for them.
    templates: Vec<String>,
    /// Style of each of the prompts among `taught`.
    owners: Vec<i64>,
}

impl Lesson {
    fn new(config: &Config, tuning: &Tuning, goes_on: bool, random: &mut ChaCha8Rng) -> Result<Self> {
        let prompts = Prompts::read(&config.data.prompts)?;
        let bank = config.text.tower.bank.as_ref().context("tuning needs text.tower.bank")?;
        let styles: Vec<String> = prompts.styles().map(String::from).collect();
        ensure!(
            styles.len() == bank.styles,
            "text.tower.bank.styles is {}, the prompt file has {} styles",
            bank.styles,
            styles.len()
        );
        let of_style: Vec<Vec<String>> =
            styles.iter().map(|s| prompts.of_class(std::slice::from_ref(s), Side::Train)).collect();
        let (mut taught, mut owners) = (vec![], vec![]);
        for (n, own) in of_style.iter().enumerate() {
            let mut own = own.clone();
            own.shuffle(random);
            own.truncate(tuning.prompts_per_style);
            owners.extend(own.iter().map(|_| n as i64));
            taught.extend(own);
        }
        let labelled = taught.len();
        // A tower that goes on only has to be held where it is: fewer texts, from all over.
        let (around, share): (&[String], _) = if goes_on { (&[], 4) } else { (&taught, 1) };
        let words = texts::words(config, &prompts, around, tuning.words / share, random)?;
        let sentences = texts::sentences(config, tuning.sentence_count / share, &prompts, around, random)?;
        // The teacher places a word in one plain template, and the student learns that place for every template.
        taught.extend(words.iter().map(|w| fill(TEACHER_TEMPLATE, w)));
        taught.extend(sentences);
        let templates = prompts.adjective_templates();
        Ok(Self { of_style, taught, labelled, words, templates, owners })
    }

    /// A step's texts: prompts with the style each has, then others with their rows among the taught ones.
    fn draw(&self, tuning: &Tuning, random: &mut ChaCha8Rng) -> (Vec<String>, Vec<i64>, Vec<i64>) {
        let prompts = tuning.batch / 2;
        let (mut texts, mut styles) = (vec![], vec![]);
        for _ in 0..prompts {
            let style = random.random_range(0..self.of_style.len());
            texts.push(self.of_style[style][random.random_range(0..self.of_style[style].len())].clone());
            styles.push(style as i64);
        }
        let rows: Vec<i64> =
            (prompts..tuning.batch).map(|_| random.random_range(0..self.taught.len()) as i64).collect();
        texts.extend(rows.iter().map(|row| {
            let word = (*row as usize).checked_sub(self.labelled).and_then(|n| self.words.get(n));
            let template = |word: &String| fill(&self.templates[random.random_range(0..self.templates.len())], word);
            word.map_or_else(|| self.taught[*row as usize].clone(), template)
        }));
        (texts, styles, rows)
    }
}

/// Tunes the text tower of a config that asks for it and writes [`file()`]. With `from`, the tower of that bundle learns the
/// prompts of today for a while longer: it keeps its bank, and it is its own teacher for all other texts.
pub fn tune_text(config: &Config, from: Option<&Path>) -> Result<()> {
    let tuning = config.text.tuning.as_ref().context("the config has no [text.tuning]")?;
    let device = tuning.device.device()?;
    let mut random = ChaCha8Rng::seed_from_u64(config.seed);
    let lesson = Lesson::new(config, tuning, from.is_some(), &mut random)?;

    tch::manual_seed(config.seed as i64);
    let bank = config.text.tower.bank.clone().context("tuning needs text.tower.bank")?;
    let tower = TextTower { bank: Some(Bank { sharpness: tuning.sharpness, ..bank }), ..config.text.tower.clone() };
    let graph = tower.record_tuning(config.dimension, tuning.dropout);
    let mut params = encoders::text(config)?;
    encoders::initialise(&graph, &mut params);
    let (targets, keys) = if let Some(bundle) = from {
        let known = weights::read_tensors(&bundle.join(esr_encoder::bundle::TEXT_FILE))?;
        for (name, tensor) in params.iter_mut().filter(|(name, _)| !name.ends_with(".values")) {
            *tensor = known.get(name).with_context(|| format!("{} has no {name}", bundle.display()))?.copy();
        }
        let keys = params["text.head.keys"].shallow_clone();
        let own = keys.index_select(0, &Tensor::from_slice(&lesson.owners));
        let others = own_places(config, &params, &lesson.taught[lesson.labelled..])?;
        (Tensor::cat(&[own, others], 0), keys)
    } else {
        let teacher = pooled(config, &Encoder::Teacher(tuning), &lesson.taught)?;
        let (targets, keys) = teacher_space(&teacher, &lesson.owners, lesson.of_style.len(), config.dimension);
        params.insert("text.head.keys".into(), keys.shallow_clone());
        start_head(config, &mut params, &lesson.taught, &targets)?;
        (targets, keys)
    };
    params.insert("text.head.values".into(), keys.shallow_clone());
    let rate = |name: &str| match name {
        // Where it stays as published, rare words keep the place that training on much text gave them.
        _ if name.contains(".embeddings.") => tuning.table_rate,
        _ if name.contains(".encoder.") => tuning.rate,
        _ if name.ends_with(".keys") || name.ends_with(".values") => 0.0,
        _ => tuning.head_rate,
    };
    for (name, tensor) in &mut params {
        *tensor = tensor.detach().to_device(device).set_requires_grad(rate(name) > 0.0);
    }
    let (targets, keys) = (targets.to_device(device), keys.to_device(device));

    let tokenizer = TextTokenizer::read(&weights::resolve(&config.text.tokenizer), config.text.max_tokens)?;
    let mut adam = AdamW { decay: 0.01, ..AdamW::default() };
    let steps = if from.is_some() { tuning.more_steps } else { tuning.steps };
    let progress = Progress::start(steps as u64, "steps of text tuning");
    for step in 0..steps {
        let (texts, styles, rows) = lesson.draw(tuning, &mut random);
        let (ids, mask) = tokenizer.encode(&texts)?;
        let inputs = [("input_ids", &ids.to_device(device)), ("attention_mask", &mask.to_device(device))];
        let out = run(&graph, &params, &inputs, true);
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
        let at = step as f64 / steps as f64;
        let fade = (at * 20.0).min(1.0) * (0.5 + 0.5 * (std::f64::consts::PI * at).cos());
        adam.step(&params, |name| fade * rate(name));
        progress.advance(1);
    }
    progress.finish();
    params = params.into_iter().map(|(name, t)| (name, t.detach().to_device(Device::Cpu).contiguous())).collect();
    if config.text.int8 {
        params = encoders::round(params);
    }
    let named: Vec<(String, Tensor)> = params.into_iter().collect();
    Tensor::write_safetensors(&named, file(config))
        .with_context(|| format!("cannot write {}", file(config).display()))?;
    Ok(())
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

/// Where a tower itself places texts.
fn own_places(config: &Config, params: &Params, texts: &[String]) -> Result<Tensor> {
    let graph = config.text.tower.record_tuning(config.dimension, 0.0);
    let tokenizer = TextTokenizer::read(&weights::resolve(&config.text.tokenizer), config.text.max_tokens)?;
    let progress = Progress::start(texts.len() as u64, "texts");
    let place = |batch: &[String]| -> Result<Tensor> {
        let (ids, mask) = tokenizer.encode(batch)?;
        let out = tch::no_grad(|| run(&graph, params, &[("input_ids", &ids), ("attention_mask", &mask)], false));
        progress.advance(batch.len() as u64);
        Ok(out["direction"].shallow_clone())
    };
    let places = texts.chunks(64).map(place).collect::<Result<Vec<_>>>()?;
    progress.finish();
    Ok(Tensor::cat(&places, 0))
}

/// Starts the head as the linear map from the untuned student to the teacher.
fn start_head(config: &Config, params: &mut Params, taught: &[String], targets: &Tensor) -> Result<()> {
    let x = pooled(config, &Encoder::Published, taught)?.to_kind(Kind::Double);
    let mean = x.mean_dim([0i64].as_slice(), true, Kind::Double);
    let centred = &x - &mean;
    let normal = centred.transpose(0, 1).matmul(&centred);
    let penalty = Tensor::eye(x.size()[1], (Kind::Double, Device::Cpu)) * (normal.trace() / x.size()[1] * 0.1);
    let right = centred.transpose(0, 1).matmul(&targets.to_kind(Kind::Double));
    let map = Tensor::f_linalg_solve(&(normal + penalty), &right, true).context("the text map has no solution")?;
    params.insert("text.head.outer.bias".into(), -mean.matmul(&map).squeeze_dim(0).to_kind(Kind::Float));
    params.insert("text.head.outer.weight".into(), map.to_kind(Kind::Float));
    Ok(())
}
