//! Teaches a small text encoder the words of speaking style: it learns to name the style of the training prompts and to
//! place other words where a larger, frozen teacher places them. The style bank it answers with is the teacher's too.
//! Held-out phrases, and words that occur only in them, are never shown.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use crate::baseline::unit;
use crate::config::Config;
use crate::encoders;
use crate::losses::soft_cross_entropy;
use crate::nets::text_tower::Bank;
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

/// Weight in a text's mixture of a style that is only guessed from others, against one that was heard.
const GUESSED: f32 = 0.5;

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

/// Tunes the text tower of a config that asks for it and writes [`file()`]. With `from`, the tower of that bundle learns the
/// prompts of today for a while longer: it keeps its bank, and it is its own teacher for all other texts.
pub fn tune_text(config: &Config, from: Option<&Path>) -> Result<()> {
    let tuning = config.text.tuning.as_ref().context("the config has no [text.tuning]")?;
    let bank = config.text.tower.bank.as_ref().context("tuning needs text.tower.bank")?;
    let prompts = Prompts::read(&config.data.prompts)?;
    let styles: Vec<String> = prompts.styles().map(String::from).collect();
    ensure!(
        styles.len() == bank.styles,
        "text.tower.bank.styles is {}, the prompt file has {} styles",
        bank.styles,
        styles.len()
    );
    let mut random = ChaCha8Rng::seed_from_u64(config.seed);

    // Texts with a style, a sample of them for the teacher, and other words for the teacher.
    let of_style: Vec<Vec<String>> =
        styles.iter().map(|s| prompts.of_class(std::slice::from_ref(s), Side::Train)).collect();
    let mut taught: Vec<String> = vec![];
    let mut owners: Vec<i64> = vec![];
    for (n, own) in of_style.iter().enumerate() {
        let mut own = own.clone();
        own.shuffle(&mut random);
        own.truncate(tuning.prompts_per_style);
        owners.extend(own.iter().map(|_| n as i64));
        taught.extend(own);
    }
    let labelled = taught.len();
    // A tower that goes on only has to be held where it is: fewer texts, from all over.
    let (around, share): (&[String], _) = if from.is_some() { (&[], 4) } else { (&taught, 1) };
    let words = words(config, &prompts, around, tuning.words / share, &mut random)?;
    let sentences = sentences(config, tuning.sentence_count / share, &prompts, around, &mut random)?;
    let templates = prompts.adjective_templates();
    // The teacher places a word in one plain template, and the student learns that place for every template.
    taught.extend(words.iter().map(|w| fill(TEACHER_TEMPLATE, w)));
    taught.extend(sentences);

    tch::manual_seed(config.seed as i64);
    let mut tower = config.text.tower.clone();
    tower.bank = Some(Bank { sharpness: tuning.sharpness, ..bank.clone() });
    let graph = tower.record_tuning(config.dimension, tuning.dropout);
    let mut params = encoders::text(config)?;
    encoders::initialise(&graph, &mut params);
    let (targets, keys) = if let Some(bundle) = from {
        let known = weights::read_tensors(&bundle.join(esr_encoder::bundle::TEXT_FILE))?;
        for (name, tensor) in params.iter_mut().filter(|(name, _)| !name.ends_with(".values")) {
            *tensor = known.get(name).with_context(|| format!("{} has no {name}", bundle.display()))?.copy();
        }
        let keys = params["text.head.keys"].shallow_clone();
        let (own, others) =
            (keys.index_select(0, &Tensor::from_slice(&owners)), own_places(config, &params, &taught[labelled..])?);
        (Tensor::cat(&[own, others], 0), keys)
    } else {
        let teacher = pooled(config, &Encoder::Teacher(tuning), &taught)?;
        let (targets, keys) = teacher_space(&teacher, &owners, labelled, styles.len(), config.dimension);
        params.insert("text.head.keys".into(), keys.shallow_clone());
        start_head(config, &mut params, &taught, &targets)?;
        (targets, keys)
    };
    params.insert("text.head.values".into(), keys.shallow_clone());
    for (name, tensor) in &params {
        // The token table stays as published: rare words keep the place that training on much text gave them.
        let fixed = name.ends_with(".keys")
            || name.ends_with(".values")
            || name.contains(".embeddings.")
            || (tuning.rate == 0.0 && name.contains(".encoder."));
        let _ = tensor.set_requires_grad(!fixed);
    }

    let tokenizer = TextTokenizer::read(&weights::resolve(&config.text.tokenizer), config.text.max_tokens)?;
    let mut adam = AdamW { decay: 0.01, ..AdamW::default() };
    let steps = if from.is_some() { tuning.more_steps } else { tuning.steps };
    let progress = Progress::start(steps as u64, "steps of text tuning");
    for step in 0..steps {
        let half = tuning.batch / 2;
        let mut texts = vec![];
        let mut wanted = vec![];
        for _ in 0..half {
            let style = random.random_range(0..styles.len());
            texts.push(of_style[style][random.random_range(0..of_style[style].len())].clone());
            wanted.push(style as i64);
        }
        let rows: Vec<i64> = (0..half).map(|_| random.random_range(0..taught.len()) as i64).collect();
        texts.extend(rows.iter().map(|r| match (*r as usize).checked_sub(labelled).and_then(|word| words.get(word)) {
            None => taught[*r as usize].clone(),
            Some(word) => fill(&templates[random.random_range(0..templates.len())], word),
        }));
        let (ids, mask) = tokenizer.encode(&texts)?;
        let out = run(&graph, &params, &[("input_ids", &ids), ("attention_mask", &mask)], true);
        let logits = out["logits"].narrow(0, 0, half as i64);
        let naming = logits.cross_entropy_for_logits(&Tensor::from_slice(&wanted));
        let placed = out["direction"].narrow(0, half as i64, half as i64);
        let target = targets.index_select(0, &Tensor::from_slice(&rows));
        let cosine: Tensor = placed * &target;
        let seen = soft_cross_entropy(
            &out["logits"].narrow(0, half as i64, half as i64),
            &(target.matmul(&keys.transpose(0, 1)) * f64::from(tuning.sharpness)).softmax(1, Kind::Float),
        );
        let placing: Tensor = 1.0 - cosine.sum_dim_intlist([1i64].as_slice(), false, Kind::Float).mean(Kind::Float);
        let loss: Tensor = naming * tuning.naming + placing * tuning.placing + seen * tuning.agreeing;
        ensure!(loss.double_value(&[]).is_finite(), "the loss is not finite in step {step}; lower text.tuning.rate");
        progress.remark(format!("steps of text tuning, loss {:.3}", loss.double_value(&[])));
        loss.backward();
        let at = step as f64 / steps as f64;
        let fade = (at * 20.0).min(1.0) * (0.5 + 0.5 * (std::f64::consts::PI * at).cos());
        adam.step(&params, |name| fade * if name.contains(".encoder.") { tuning.rate } else { tuning.head_rate });
        progress.advance(1);
    }
    progress.finish();
    if config.text.int8 {
        params = encoders::round(params.into_iter().map(|(k, t)| (k, t.detach())).collect());
    }
    let named: Vec<(String, Tensor)> = params.into_iter().map(|(k, t)| (k, t.detach().contiguous())).collect();
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

/// Lets the styles that no training clip shows answer with those that some do: the ones the prompt file says they are
/// like, else the ones the teacher sees nearest. Otherwise such a style points to where no clip lies, and any other style
/// in a text's mixture outweighs it.
///
/// `sharpness` is the inverse temperature of that likeness; 0 leaves everything as it is.
pub fn link(sharpness: f64, prompts: &Prompts, heard: &[String], params: &mut Params) {
    if sharpness == 0.0 {
        return;
    }
    let (keys, values) = (&params["text.head.keys"], &params["text.head.values"]);
    let names: Vec<&str> = prompts.styles().collect();
    let alike = keys.matmul(&keys.transpose(0, 1));
    let known = |name: &str| heard.iter().any(|h| h == name);
    let each = |yes: f32, no: f32| {
        Tensor::from_slice(&names.iter().map(|n| if known(n) { yes } else { no }).collect::<Vec<_>>())
    };
    let near = (alike * sharpness + each(0.0, f32::NEG_INFINITY)).softmax(1, Kind::Float);
    let row = |(n, name): (usize, &&str)| {
        let like: Vec<&String> = prompts.like(name).iter().filter(|l| heard.contains(l)).collect();
        let marks = |chosen: &dyn Fn(&str) -> bool| {
            Tensor::from_slice(&names.iter().map(|m| f32::from(u8::from(chosen(m)))).collect::<Vec<_>>())
        };
        match (known(name), like.is_empty()) {
            (true, _) => marks(&|m| m == *name),
            (false, false) => marks(&|m| like.iter().any(|l| *l == m)),
            (false, true) => near.get(n as i64),
        }
    };
    let mixed = unit(&Tensor::stack(&names.iter().enumerate().map(row).collect::<Vec<_>>(), 0).matmul(values));
    params.insert("text.head.values".into(), mixed * each(1.0, GUESSED).unsqueeze(1));
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

/// The teacher's vectors, centred and reduced to `width`, of unit length, and the mean direction of each style.
fn teacher_space(teacher: &Tensor, owners: &[i64], labelled: usize, styles: usize, width: usize) -> (Tensor, Tensor) {
    let rows = unit(teacher);
    let mean = rows.narrow(0, 0, labelled as i64).mean_dim([0i64].as_slice(), true, Kind::Float);
    let rows = unit(&(rows - mean));
    // Principal directions, so that nothing that matters is lost when the teacher is wider than the space.
    let (_, _, directions) = rows.svd(true, true);
    let kept = directions.narrow(1, 0, (width as i64).min(directions.size()[1]));
    let mut reduced = rows.matmul(&kept);
    let missing = width as i64 - reduced.size()[1];
    if missing > 0 {
        reduced = reduced.constant_pad_nd([0, missing]);
    }
    let reduced = unit(&reduced);
    let sums = Tensor::zeros([styles as i64, width as i64], (Kind::Float, Device::Cpu));
    let keys = sums.index_add(0, &Tensor::from_slice(owners), &reduced.narrow(0, 0, labelled as i64));
    (reduced, unit(&keys))
}

/// The directions the bank answers with: the keys' likenesses, pulled by `sharpen` (0 to 1) towards none at all, turned so
/// that every element of the space is used.
fn values(keys: &Tensor, sharpen: f64, width: usize) -> Tensor {
    let n = keys.size()[0];
    if sharpen == 0.0 || n > width as i64 {
        return keys.copy();
    }
    let alike =
        keys.matmul(&keys.transpose(0, 1)) * (1.0 - sharpen) + Tensor::eye(n, (Kind::Float, Device::Cpu)) * sharpen;
    let (strengths, directions) = alike.linalg_eigh("L");
    let rows = unit(&(directions * strengths.clamp_min(0.0).sqrt()));
    tch::manual_seed(77);
    let (turn, _) = Tensor::linalg_qr(&Tensor::randn([width as i64, n], (Kind::Float, Device::Cpu)), "reduced");
    rows.matmul(&turn.transpose(0, 1))
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

/// Words of the vocabulary that lie near the styles, and some that do not; none that occurs in a held-out phrase.
fn words(
    config: &Config,
    prompts: &Prompts,
    taught: &[String],
    count: usize,
    random: &mut ChaCha8Rng,
) -> Result<Vec<String>> {
    let heldout: BTreeSet<String> = prompts.words(Side::Heldout);
    let tokenizer = TextTokenizer::read(&weights::resolve(&config.text.tokenizer), config.text.max_tokens)?;
    let plain = |w: &String| w.len() >= 4 && w.chars().all(|c| c.is_ascii_lowercase());
    let all = tokenizer.vocabulary().into_iter().filter(plain).filter(|w| !heldout.contains(w)).collect();
    nearest(config, all, taught, count, random)
}

/// Sentences of the config's file that lie near the styles, and some that do not; none with a word that only held-out
/// phrases have.
fn sentences(
    config: &Config,
    count: usize,
    prompts: &Prompts,
    taught: &[String],
    random: &mut ChaCha8Rng,
) -> Result<Vec<String>> {
    let file = config.text.tuning.as_ref().and_then(|t| t.sentences.as_ref()).map(|f| weights::resolve(f));
    let Some(file) = file else { return Ok(vec![]) };
    let text = std::fs::read_to_string(&file).with_context(|| {
        format!("cannot read the sentences in {}; scripts/fetch-weights.sh makes it", file.display())
    })?;
    let trained = prompts.words(Side::Train);
    let only_heldout: BTreeSet<String> = prompts.words(Side::Heldout).difference(&trained).cloned().collect();
    let shares_none =
        |s: &str| s.split(|c: char| !c.is_alphanumeric()).all(|w| !only_heldout.contains(w.to_lowercase().as_str()));
    let all = text.lines().map(str::trim).filter(|s| !s.is_empty() && shares_none(s)).map(String::from).collect();
    nearest(config, all, taught, count, random)
}

/// Three quarters of `count` from the candidates nearest to the `taught` texts as the published encoder sees them, the
/// rest drawn from the others; all are drawn when there are no `taught` texts.
fn nearest(
    config: &Config,
    mut candidates: Vec<String>,
    taught: &[String],
    count: usize,
    random: &mut ChaCha8Rng,
) -> Result<Vec<String>> {
    candidates.sort();
    candidates.dedup();
    if count == 0 || candidates.is_empty() {
        return Ok(vec![]);
    }
    if taught.is_empty() {
        candidates.shuffle(random);
        candidates.truncate(count);
        return Ok(candidates);
    }
    let place = |texts: &[String]| Ok::<_, anyhow::Error>(unit(&pooled(config, &Encoder::Published, texts)?));
    let likeness = place(&candidates)?.matmul(&place(taught)?.transpose(0, 1));
    let nearest: Vec<f32> = Vec::try_from(likeness.amax([1i64].as_slice(), false))?;
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|a, b| nearest[*b].total_cmp(&nearest[*a]));
    let near = (count * 3 / 4).min(order.len());
    let mut rest: Vec<usize> = order.split_off(near);
    rest.shuffle(random);
    order.extend(rest.into_iter().take(count - near));
    order.sort_unstable();
    Ok(order.into_iter().map(|n| candidates[n].clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn styles_without_clips_point_to_those_that_have_some() {
        let style = |name: &str, like: &str| {
            format!(
                "[[style]]\nname = {name:?}\nlike = [{like}]\ntrain = {{ adjective = [{name:?}] }}\nheldout = {{}}\n"
            )
        };
        let templates: String = ["adjective", "gerund", "noun", "pair"]
            .map(|form| format!("[templates.{form}]\ntrain = [\"{{x}}\"]\nheldout = [\"a {{x}}\"]\n"))
            .concat();
        let styles =
            [style("sad", ""), style("slow", ""), style("bored", r#""sad", "slow""#), style("gloomy", "")].concat();
        let prompts = Prompts::parse(&(templates + &styles)).unwrap();
        let keys = Tensor::from_slice(&[1f32, 0.0, 0.0, 1.0, 0.0, -1.0, 0.9, 0.1]).view([4, 2]);
        let values = Tensor::eye(4, (Kind::Float, Device::Cpu));
        let mut params = Params::from([("text.head.keys".into(), keys), ("text.head.values".into(), values)]);
        link(20.0, &prompts, &["sad".into(), "slow".into()], &mut params);
        let got: Vec<Vec<f32>> = Vec::try_from(&params["text.head.values"]).unwrap();
        assert_eq!(got[0], [1.0, 0.0, 0.0, 0.0]);
        assert!(
            (got[2][0] - got[2][1]).abs() < 1e-6 && got[2][0] > 0.35 && got[2][2] == 0.0,
            "as the file says: {:?}",
            got[2]
        );
        assert!(got[3][0] > 0.49 && got[3][3] == 0.0, "as the teacher sees it: {:?}", got[3]);
    }
}
