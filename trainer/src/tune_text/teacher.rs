//! What the teacher shows: where it places the taught texts, and what tells the styles apart there.

use std::path::PathBuf;

use anyhow::{Context, Result};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tch::Tensor;

use super::classifier::softmax_regression;
use super::lesson::Lesson;
use super::space::teacher_space;
use super::{Aim, Pupil, head, tuned_tower};
use crate::config::{Config, Tuning};
use crate::kept::hash;
use crate::nets::text_tower::ENCODER;
use crate::text_features::{Encoder, pooled};
use crate::tokenizer::TextTokenizer;
use crate::weights;

/// The teacher's answers. When it learns to name styles first, they are kept beside the feature cache.
pub(super) fn aim(config: &Config, tuning: &Tuning, lesson: &Lesson) -> Result<Aim> {
    let published = pooled(config, &Encoder::Teacher(tuning), &lesson.taught)?;
    let (targets, means) = teacher_space(&published, &lesson.owners, lesson.of_style.len(), config.dimension);
    let keys = keys(tuning, lesson, &targets, &means);
    let aim = Aim { targets, keys, means };
    if tuning.teacher_steps == 0 {
        return Ok(aim);
    }
    let file = kept(config, tuning, lesson)?;
    let targets = match Tensor::read_safetensors(&file) {
        Ok(mut parts) if parts.len() == 1 => parts.remove(0).1,
        _ => {
            let targets = tuned(config, tuning, lesson, &aim)?;
            Tensor::write_safetensors(&[("places", &targets)], &file)
                .with_context(|| format!("cannot write {}", file.display()))?;
            targets
        }
    };
    let keys = self::keys(tuning, lesson, &targets, &aim.keys);
    Ok(Aim { targets, keys, means: aim.means })
}

/// Places of the taught texts after the teacher has learned to name the training prompts.
fn tuned(config: &Config, tuning: &Tuning, lesson: &Lesson, aim: &Aim) -> Result<Tensor> {
    let positions = tuning.bert.positions.min(config.text.max_tokens);
    let teacher = Pupil {
        tower: tuned_tower(config, tuning, &tuning.bert)?,
        tokenizer: TextTokenizer::read(&weights::resolve(&tuning.tokenizer), positions)?,
        steps: tuning.teacher_steps,
        rate: tuning.teacher_rate,
        table_rate: 0.0,
        // Its head starts as a map of its own places onto themselves.
        head_rate: tuning.teacher_rate * 10.0,
    };
    let file = weights::read_tensors(&weights::resolve(&tuning.weights))?;
    let mut params = weights::text::load(file, &tuning.bert, &[], ENCODER)?;
    params.extend(head(config, &Encoder::Teacher(tuning), &lesson.taught, &aim.targets)?);
    let mut random = ChaCha8Rng::seed_from_u64(config.seed);
    let params = teacher.learn(config, tuning, lesson, aim, params, &mut random)?;
    teacher.places(config, &params, &lesson.taught)
}

/// The bank's keys for places of the taught texts. `start`: where to begin the search, `[styles, dimension]`, or what to take
/// when there is none.
fn keys(tuning: &Tuning, lesson: &Lesson, targets: &Tensor, start: &Tensor) -> Tensor {
    if tuning.classifying == 0.0 {
        return start.copy();
    }
    let labelled = targets.narrow(0, 0, lesson.labelled as i64);
    // The bank multiplies by its sharpness what the classifier gives as logits.
    let sharpness = f64::from(tuning.sharpness);
    softmax_regression(&labelled, &lesson.owners, &(start * sharpness), tuning.classifying) / sharpness
}

/// The file for the answers of a tuned teacher: named after all that decides them.
fn kept(config: &Config, tuning: &Tuning, lesson: &Lesson) -> Result<PathBuf> {
    let weights = (tuning.naming, tuning.placing, tuning.agreeing, tuning.dropout, tuning.reworded, tuning.negated);
    let how = (tuning.teacher_steps, tuning.teacher_rate, tuning.batch, tuning.classifying, tuning.sharpness);
    let net = (&tuning.weights, &tuning.bert, config.seed, config.dimension);
    let name = hash(serde_json::to_vec(&(weights, how, net, &lesson.of_style, &lesson.taught))?);
    Ok(config.data.cache().join("texts").join(format!("taught-{name}.safetensors")))
}
