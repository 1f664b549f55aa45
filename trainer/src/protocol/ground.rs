//! Where pools and queries come from: the clips of a config and a model. A run hears them by its feature cache, a bundle from
//! their files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use tch::Tensor;

use super::pool::{Asked, Heard, Pool, Rows};
use crate::audio_file;
use crate::config::Config;
use crate::data::manifest::{self, Details};
use crate::data::splits::Split;
use crate::judges::{Judge, Model, judge_of};
use crate::prepare::{Form, Listed, columns, entry, entry_width, list, open};
use crate::prompts::{Prompts, Side};
use crate::speech_batches::role;
use crate::store::{Entry, Store};
use crate::variants::variants;

/// A model with everything that it can be asked about.
pub struct Ground<'a> {
    /// The config.
    pub config: &'a Config,
    /// Its descriptions.
    pub prompts: Prompts,
    /// Every form of every clip.
    entries: Vec<Entry>,
    /// Their features, where the model is asked by them.
    store: Option<Store>,
    judge: Box<dyn Judge>,
    details: BTreeMap<PathBuf, Details>,
}

impl<'a> Ground<'a> {
    /// Opens the model and what it hears.
    ///
    /// # Errors
    /// If either is missing; the message says which command makes it.
    pub fn open(config: &'a Config, model: &Model<'_>) -> Result<Self> {
        let prompts = Prompts::read(&config.data.prompts)?;
        let (entries, store) = match model {
            Model::Run => {
                let store = open(config, Form::Pooled)?;
                ensure!(
                    !store.entries.is_empty(),
                    "the feature cache is empty; run `esr-trainer prepare` with this config first"
                );
                (store.entries.clone(), Some(store))
            }
            Model::Bundle(_) => (all_forms(config, &prompts)?, None),
        };
        let mut details = BTreeMap::new();
        for corpus in config.data.train.iter().chain(&config.data.test) {
            let folder = config.data.root.join(corpus);
            if !config.data.sets.contains_key(corpus) && folder.join("manifest.csv").exists() {
                details.extend(manifest::details(&folder)?);
            }
        }
        Ok(Self { config, prompts, entries, store, judge: judge_of(config, model)?, details })
    }

    /// Names of the corpora with clips of a split, in the order of the config.
    pub fn corpora(&self, split: Split) -> Vec<String> {
        let all = self.config.data.train.iter().chain(&self.config.data.test);
        let there = |c: &&String| self.entries.iter().any(|e| e.corpus == **c && plain(e, split));
        all.filter(there).cloned().collect()
    }

    /// Styles of which some clip was trained on, made clips included.
    pub fn trained_styles(&self) -> std::collections::BTreeSet<String> {
        let entries = self.entries.iter().filter(|e| role(self.config, e) == Some(Split::Train));
        entries.flat_map(|e| e.styles.clone()).collect()
    }

    /// The entries of one corpus and split, as recorded.
    pub fn entries(&self, corpus: &str, split: Split) -> Vec<Entry> {
        self.entries.iter().filter(|e| e.corpus == corpus && plain(e, split)).cloned().collect()
    }

    /// The clips of one corpus and split with their vectors. Clips with a style that `wanted` does not let pass are left
    /// out.
    ///
    /// # Errors
    /// If the cache cannot be read or a file not be embedded.
    pub fn pool(&mut self, corpus: &str, split: Split, wanted: impl Fn(&Entry) -> bool) -> Result<Pool> {
        let ours = |e: &Entry| e.corpus == corpus && plain(e, split) && wanted(e);
        let (entries, pooled) = match &mut self.store {
            Some(store) => {
                let (entries, all) = store.rows(entry_width(self.config), ours)?;
                (entries, all.index_select(1, &columns(self.config)?))
            }
            None => (self.entries.iter().filter(|e| ours(e)).cloned().collect(), Tensor::default()),
        };
        ensure!(!entries.is_empty(), "there are no such clips of {corpus}");
        let rows = Rows::of(&self.judge.speech(&entries, &pooled)?)?;
        let clips = entries.iter().map(|e| self.heard(e)).collect();
        Ok(Pool { name: corpus.into(), clips, rows })
    }

    fn heard(&self, entry: &Entry) -> Heard {
        let details = self.details.get(&entry.path).cloned().unwrap_or_default();
        Heard {
            path: entry.path.display().to_string(),
            speaker: entry.speaker.clone(),
            style: entry.class(),
            seconds: entry.seconds,
            sentence: details.sentence,
            language: details.language,
        }
    }

    /// Unit vectors of waveforms at the encoder's rate.
    ///
    /// # Errors
    /// If there are none, or the model cannot embed them.
    pub fn waveforms(&mut self, clips: &[Vec<f32>]) -> Result<Rows> {
        ensure!(!clips.is_empty(), "there is no waveform to embed");
        Rows::of(&self.judge.waveforms(clips)?)
    }

    /// Unit vectors of texts.
    ///
    /// # Errors
    /// If the model cannot read them.
    pub fn texts(&mut self, texts: &[String]) -> Result<Rows> {
        ensure!(!texts.is_empty(), "there is no text to embed");
        Rows::of(&self.judge.texts(self.config, texts)?)
    }

    /// Queries for every style of a pool, out of one half of the prompts: each prompt alone.
    ///
    /// # Errors
    /// If the model cannot read them.
    pub fn asked(&mut self, pool: &Pool, side: Side) -> Result<Vec<Asked>> {
        let styles: Vec<String> = pool.styles().into_keys().map(String::from).collect();
        styles.into_iter().map(|style| self.asked_style(&style, side)).collect()
    }

    /// Queries for one style or combination of styles.
    ///
    /// # Errors
    /// If the model cannot read them.
    pub fn asked_style(&mut self, style: &str, side: Side) -> Result<Asked> {
        let class: Vec<String> = style.split(" + ").map(String::from).collect();
        let queries = self.texts(&self.prompts.of_class(&class, side))?;
        Ok(Asked { style: style.into(), queries })
    }
}

/// The same queries averaged a style, as the paper asks.
pub fn together(asked: &[Asked]) -> Vec<Asked> {
    asked.iter().map(|a| Asked::together(&a.style, &a.queries)).collect()
}

/// All forms of all clips, as `prepare` would cache them.
fn all_forms(config: &Config, prompts: &Prompts) -> Result<Vec<Entry>> {
    let mut all = vec![];
    for Listed { mut clip, split } in list(config, prompts)? {
        if clip.seconds == 0.0 {
            clip.seconds = audio_file::seconds(&clip.path)? as f32;
        }
        let forms = variants(&config.augment, &clip, split, config.seed).into_iter();
        all.extend(forms.map(|variant| entry(&clip, split, variant)));
    }
    Ok(all)
}

fn plain(entry: &Entry, split: Split) -> bool {
    entry.split == split && entry.variant == "original"
}
