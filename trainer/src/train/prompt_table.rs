//! The text side of a batch: training prompts with their features, and the places of the classes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor, no_grad};

use crate::attributes::describe;
use crate::baseline::unit;
use crate::by_length::indices;
use crate::config::{Config, Training};
use crate::graph::Graph;
use crate::prompts::{Prompts, Side};
use crate::store::Entry;
use crate::text_features::text_features;
use crate::torch::{Params, run};

/// Training prompts with their features and the classes they describe.
pub(super) struct PromptTable {
    /// Pooled text features `[prompts, width]`.
    pub features: Tensor,
    /// What a prompt describes: styles, or what was measured.
    pub styles: Vec<BTreeSet<String>>,
    /// Prompts of each class (one style or a combination).
    pub of_class: BTreeMap<String, Vec<usize>>,
    /// Prompts about what was measured of each entry; no entries where such are not asked for.
    pub of_entry: Vec<Vec<usize>>,
    /// What those may say of each entry, beside its styles.
    pub traits: Vec<BTreeSet<String>>,
}

/// The training prompts of all classes of the entries and, where the config asks for them, of what is measured of each.
pub(super) fn prompt_table(config: &Config, prompts: &Prompts, entries: &[Entry]) -> Result<PromptTable> {
    let mut classes: BTreeSet<Vec<String>> = entries.iter().map(|e| e.styles.clone()).collect();
    classes.extend(entries.iter().flat_map(|e| e.styles.iter().map(|s| vec![s.clone()])));
    let (mut texts, mut styles, mut of_class) = (vec![], vec![], BTreeMap::new());
    for class in classes {
        let single = config.training.single_prompt;
        let own = if single { vec![prompts.plain(&class)] } else { prompts.of_class(&class, Side::Train) };
        of_class.insert(class.join(" + "), (texts.len()..texts.len() + own.len()).collect());
        styles.extend(own.iter().map(|_| class.iter().cloned().collect::<BTreeSet<_>>()));
        texts.extend(own);
    }
    let (mut of_entry, mut traits) = (vec![], vec![]);
    if config.training.attribute_prompts > 0.0 {
        let described = describe(config, prompts, entries)?;
        let own = |numbers: Vec<usize>| numbers.into_iter().map(|n| texts.len() + n).collect();
        of_entry = described.of_entry.into_iter().map(own).collect();
        traits = described.traits;
        texts.extend(described.texts);
        styles.extend(described.says);
    }
    Ok(PromptTable { features: text_features(config, &texts)?, styles, of_class, of_entry, traits })
}

/// A prompt for the clip of a row: about what was measured of it, about all its styles at once, or about one of them.
pub(super) fn draw_prompt(
    row: usize,
    entry: &Entry,
    table: &PromptTable,
    training: &Training,
    random: &mut ChaCha8Rng,
) -> usize {
    if let Some(own) = table.of_entry.get(row).filter(|own| !own.is_empty())
        && random.random::<f64>() < training.attribute_prompts
    {
        return own[random.random_range(0..own.len())];
    }
    let both = entry.styles.len() > 1 && random.random::<f64>() < training.pair_prompts;
    let class = if both { entry.class() } else { entry.styles[random.random_range(0..entry.styles.len())].clone() };
    let own = &table.of_class[&class];
    own[random.random_range(0..own.len())]
}

/// Unit text embeddings of the styles: the projection of the mean features of each style's prompts.
pub(super) fn class_texts(table: &PromptTable, styles: &[String], graph: &Graph, params: &Params) -> Tensor {
    let mean = |s: &String| {
        table.features.index_select(0, &indices(&table.of_class[s]).to_device(table.features.device())).mean_dim(
            [0i64].as_slice(),
            false,
            Kind::Float,
        )
    };
    let features = Tensor::stack(&styles.iter().map(mean).collect::<Vec<_>>(), 0);
    run(graph, params, &[("pooled", &features)], true)["embedding"].shallow_clone()
}

/// The unit mean text embedding of each entry's class, `known` from earlier or computed; no gradient flows into the text
/// side.
pub(super) fn class_targets<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    table: &PromptTable,
    graph: &Graph,
    params: &Params,
    known: &mut BTreeMap<String, Tensor>,
) -> Tensor {
    let rows: Vec<Tensor> = entries
        .map(|e| {
            let target = known.entry(e.class()).or_insert_with(|| {
                let rows = indices(&table.of_class[&e.class()]).to_device(table.features.device());
                let pooled = table.features.index_select(0, &rows);
                let texts = no_grad(|| run(graph, params, &[("pooled", &pooled)], false)["embedding"].shallow_clone());
                unit(&texts.mean_dim([0i64].as_slice(), true, Kind::Float)).squeeze_dim(0)
            });
            target.shallow_clone()
        })
        .collect();
    Tensor::stack(&rows, 0)
}
