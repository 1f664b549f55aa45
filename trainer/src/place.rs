//! Styles that no training clip shows but that can be made of any speech: their descriptions are answered with where the finished
//! speech side places clips that are made like them, less where it places the same clips as they were.
//!
//! Nothing is trained: a style whose clips the speech side cannot tell from others stays a guess.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use rand::Rng as _;
use tch::{Kind, Tensor};

use crate::audio_file::read;
use crate::baseline::unit;
use crate::config::{Config, Shown};
use crate::data::Clip;
use crate::data::splits::Split;
use crate::judges::{Model, judge_of};
use crate::nets::log_mel::SAMPLE_RATE;
use crate::placed;
use crate::prepare::list;
use crate::prompts::Prompts;
use crate::trained::trained;
use crate::tune_text::GUESSED;
use crate::variants::{Variant, generator, render, styles, variants};

/// Makes clips, embeds them by the run's speech side and writes where each style lies. Returns the styles.
///
/// # Errors
/// If the run or its clips are missing, or a style is unknown or has clips of its own.
pub fn place(config: &Config) -> Result<Vec<String>> {
    let shown = config.augment.shown.as_ref().context("the config has no augment.shown: there is nothing to place")?;
    let prompts = Prompts::read(&config.data.prompts)?;
    let clips = training_clips(config, &prompts)?;
    check(shown, &prompts, &heard(config, &clips))?;
    let target = placed::file(&config.data.work);
    if target.exists() {
        // It may be of an earlier speech side, with which the run would be refused.
        std::fs::remove_file(&target).with_context(|| format!("cannot remove {}", target.display()))?;
    }
    let mut judge = judge_of(config, &Model::Run)?;
    let drawn: Vec<&Clip> = clips.iter().filter(|clip| is_drawn(shown, clip, config.seed)).collect();
    ensure!(!drawn.is_empty(), "augment.shown draws no clip of {}", shown.corpora.join(", "));
    let recorded = drawn.iter().map(|clip| read(&clip.path)).collect::<Result<Vec<_>>>()?;
    let most = (config.data.longest * SAMPLE_RATE as f32) as usize;
    let mut mean = |variant: Variant| -> Result<Tensor> {
        let make = |(samples, clip): (&Vec<f32>, &&Clip)| {
            let mut made = render(samples, clip, variant, config.seed);
            made.truncate(most);
            made
        };
        let made: Vec<Vec<f32>> = recorded.iter().zip(&drawn).map(make).collect();
        Ok(judge.waveforms(&made)?.mean_dim([0i64].as_slice(), true, Kind::Float))
    };
    let before = mean(Variant::Original)?;
    let mut places: Vec<(String, Tensor)> = vec![];
    for kind in &shown.kinds {
        let place = unit(&(mean(Variant::Made(kind.manner))? - &before)) * f64::from(GUESSED);
        places.extend(kind.styles.iter().map(|style| (style.clone(), place.shallow_clone())));
    }
    let named = places.iter().map(|(style, _)| style.clone()).collect();
    let params = trained(config)?.context("the run has no checkpoint any more")?;
    placed::write(config, places, &params)?;
    Ok(named)
}

fn training_clips(config: &Config, prompts: &Prompts) -> Result<Vec<Clip>> {
    let in_training = |corpus: &String| config.data.train.contains(corpus);
    let listed = list(config, prompts)?.into_iter().filter(|l| l.split == Split::Train && in_training(&l.clip.corpus));
    Ok(listed.map(|l| l.clip).collect())
}

/// Styles of the clips and of what is made of them in training.
fn heard(config: &Config, clips: &[Clip]) -> BTreeSet<String> {
    let forms = |clip: &Clip| {
        let all = variants(&config.augment, clip, Split::Train, config.seed).into_iter();
        all.flat_map(|variant| styles(clip, variant)).collect::<Vec<_>>()
    };
    clips.iter().flat_map(forms).collect()
}

fn check(shown: &Shown, prompts: &Prompts, heard: &BTreeSet<String>) -> Result<()> {
    for style in shown.kinds.iter().flat_map(|kind| &kind.styles) {
        ensure!(
            prompts.styles().any(|known| known == style),
            "augment.shown names {style:?}, which is no style of the prompts"
        );
        ensure!(
            !heard.contains(style),
            "augment.shown names {style:?}, which training clips have: it is learned from them"
        );
    }
    Ok(())
}

fn is_drawn(shown: &Shown, clip: &Clip, seed: u64) -> bool {
    shown.corpora.contains(&clip.corpus) && generator(seed, clip, "shown").random::<f64>() < shown.share
}
