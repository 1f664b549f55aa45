//! The two baselines that every result stands beside: ridge maps onto the frozen text encoder's space from the frozen speech
//! encoder and from log-mel statistics, fitted on the same training clips as the model.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

use crate::baseline::{Ridge, STRENGTHS, unit};
use crate::config::Config;
use crate::data::splits::Split;
use crate::nets::log_mel::BANDS;
use crate::prepare::{Form, columns, entry_width, open};
use crate::prompts::{Prompts, Side};
use crate::retrieval::{Quality, judge};
use crate::speech_batches::role;
use crate::store::{Entry, Store};
use crate::text_features::{Encoder, pooled};

/// Their names.
pub const NAMES: [&str; 2] = ["frozen encoder + ridge", "log-mel + ridge"];

/// The feature cache and what was fitted on it.
pub struct Baselines {
    cache: Cache,
    ridges: [Ridge; 2],
    space: TextSpace,
}

/// Entries with their features: pooled as the model hears them, mean-pooled of the frozen encoder, log-mel statistics.
pub type Rows = (Vec<Entry>, [Tensor; 3]);

/// The feature cache, an entry's values told apart.
pub(crate) struct Cache {
    store: Store,
    columns: Tensor,
    /// Widths of an entry, of what lies before the plain means, and of those.
    widths: [usize; 3],
}

impl Cache {
    /// Opens the config's.
    ///
    /// # Errors
    /// An empty cache, or one that lacks a layer.
    pub(crate) fn open(config: &Config) -> Result<Self> {
        let store = open(config, Form::Pooled)?;
        ensure!(
            !store.entries.is_empty(),
            "the feature cache is empty; run `esr-trainer prepare` with this config first"
        );
        let widths =
            [entry_width(config), config.speech.cached_tower().pooled_width(), config.speech.tower.whisper.width];
        Ok(Self { store, columns: columns(config)?, widths })
    }

    /// The wanted entries.
    pub(crate) fn rows(&mut self, wanted: &dyn Fn(&Entry) -> bool) -> Result<Rows> {
        let [all, wide, plain] = self.widths;
        let (entries, values) = self.store.rows(all, wanted)?;
        let part = |from: usize, n: usize| values.narrow(1, from as i64, n as i64).copy();
        Ok((entries, [values.index_select(1, &self.columns), part(wide, plain), part(wide + plain, 2 * BANDS)]))
    }
}

impl Baselines {
    /// Fits both on the config's feature cache; the penalty is the one that ranks the validation speakers best.
    ///
    /// # Errors
    /// An empty cache, or one that lacks a layer.
    pub fn fit(config: &Config, prompts: &Prompts) -> Result<Self> {
        let mut cache = Cache::open(config)?;
        let (entries, fit) = cache.rows(&|e| role(config, e) == Some(Split::Train))?;
        let (chosen, choose) = cache.rows(&|e| role(config, e) == Some(Split::Val) && e.variant == "original")?;
        let space = TextSpace::new(config, prompts)?;
        let ridges = [
            fit_ridge(config, prompts, &space, &entries, &fit[1], &chosen, &choose[1])?,
            fit_ridge(config, prompts, &space, &entries, &fit[2], &chosen, &choose[2])?,
        ];
        Ok(Self { cache, ridges, space })
    }

    /// Cached clips.
    pub fn rows(&mut self, wanted: &dyn Fn(&Entry) -> bool) -> Result<Rows> {
        self.cache.rows(wanted)
    }

    /// What each baseline makes of clips.
    pub fn speech(&self, rows: &Rows) -> [Tensor; 2] {
        [self.ridges[0].apply(&rows.1[1]), self.ridges[1].apply(&rows.1[2])]
    }

    /// Unit vectors of texts in the space of both.
    pub fn texts(&self, config: &Config, texts: &[String]) -> Result<Tensor> {
        self.space.of(config, texts)
    }
}

/// The frozen text encoder's space, centred.
struct TextSpace {
    centre: Tensor,
}

impl TextSpace {
    fn new(config: &Config, prompts: &Prompts) -> Result<Self> {
        let all: BTreeSet<String> =
            prompts.styles().flat_map(|s| prompts.of_class(&[s.to_string()], Side::Train)).collect();
        let features = unit(&pooled(config, &Encoder::Published, &all.into_iter().collect::<Vec<_>>())?);
        Ok(Self { centre: features.mean_dim([0i64].as_slice(), true, Kind::Float) })
    }

    /// Unit vectors of texts.
    fn of(&self, config: &Config, texts: &[String]) -> Result<Tensor> {
        Ok(unit(&(unit(&pooled(config, &Encoder::Published, texts)?) - &self.centre)))
    }
}

/// The unit mean vector of the training descriptions of each class among the entries, as `place` puts texts.
pub(crate) fn class_places<'a>(
    entries: impl IntoIterator<Item = &'a Entry>,
    prompts: &Prompts,
    mut place: impl FnMut(&[String]) -> Result<Tensor>,
) -> Result<BTreeMap<String, Tensor>> {
    let mut known = BTreeMap::new();
    for entry in entries {
        if let Slot::Vacant(slot) = known.entry(entry.class()) {
            let texts = place(&prompts.of_class(&entry.styles, Side::Train))?;
            slot.insert(unit(&texts.mean_dim([0i64].as_slice(), true, Kind::Float)).squeeze_dim(0));
        }
    }
    Ok(known)
}

/// The ridge whose penalty ranks the validation speakers best.
fn fit_ridge(
    config: &Config,
    prompts: &Prompts,
    space: &TextSpace,
    entries: &[Entry],
    features: &Tensor,
    choose: &[Entry],
    choose_features: &Tensor,
) -> Result<Ridge> {
    let classes: Vec<String> = entries.iter().map(Entry::class).collect();
    let known = class_places(entries.iter().chain(choose), prompts, |texts| space.of(config, texts))?;
    let targets = Tensor::stack(&classes.iter().map(|c| &known[c]).collect::<Vec<_>>(), 0);
    let mut best: Option<(f64, Ridge)> = None;
    for strength in STRENGTHS {
        let ridge = Ridge::fit(features, &targets, &classes, strength)?;
        let mut all = vec![];
        if !choose.is_empty() {
            let clips = ridge.apply(choose_features);
            for corpus in &config.data.train {
                let rows: Vec<i64> =
                    (0..choose.len()).filter(|n| choose[*n].corpus == *corpus).map(|n| n as i64).collect();
                let styles: BTreeSet<String> = rows.iter().map(|n| choose[*n as usize].class()).collect();
                if styles.len() < 2 {
                    continue;
                }
                let clips = clips.index_select(0, &Tensor::from_slice(&rows));
                for style in styles {
                    let scores = Vec::<f32>::try_from(clips.matmul(&known[&style]))?;
                    let relevant: Vec<bool> = rows.iter().map(|n| choose[*n as usize].class() == style).collect();
                    all.push(judge(&scores, &relevant));
                }
            }
        }
        let precision = Quality::mean(&all).precision;
        if best.as_ref().is_none_or(|(p, _)| precision > *p) {
            best = Some((precision, ridge));
        }
    }
    Ok(best.expect("at least one strength was tried").1)
}
