//! Runs the frozen part of the speech encoder over every clip and its altered copies once and keeps the results on disk.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use tch::{Kind, Tensor, no_grad};

use crate::config::{Config, Data};
pub use crate::data::sets::Listed;
use crate::data::splits::{Speakers, Split};
use crate::data::{Clip, manifest};
use crate::nets::log_mel::{BANDS, SAMPLE_RATE};
use crate::progress::Progress;
use crate::prompts::Prompts;
use crate::store::{Entry, Store};
use crate::torch::{Params, run};
use crate::variants::{Variant, render, styles, variants};
use crate::{audio_file, encoders};

const BATCH: usize = 8;

/// Which features are cached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    /// Statistics over time of the chosen layers, with the features of the baselines.
    Pooled,
    /// All frames after one layer, for training the blocks above it. About 50 kB a second.
    Frames {
        /// The layer, counted from 1; 0 is the input of the first block.
        layer: usize,
    },
}

/// All clips of the config's corpora with the roles of their speakers. Speakers of corpora that are not trained on are
/// for testing, whatever their split files say; of a data set of the paper that is not trained on, the published test part
/// is tested, or all of it where it has none.
pub fn list(config: &Config, prompts: &Prompts) -> Result<Vec<Listed>> {
    list_of(&config.data, prompts)
}

/// [`list`] for the data part of a config.
pub fn list_of(data: &Data, prompts: &Prompts) -> Result<Vec<Listed>> {
    let mut all = vec![];
    for corpus in data.train.iter().chain(&data.test) {
        let trained = data.train.contains(corpus);
        if let Some(set) = data.sets.get(corpus) {
            let mut listed = set.read(corpus, &data.root, data.cache(), prompts)?;
            if !trained && listed.iter().any(|l| l.split == Split::Test) {
                listed.retain(|l| l.split == Split::Test);
            } else if !trained {
                listed.iter_mut().for_each(|l| l.split = Split::Test);
            }
            all.extend(listed);
            continue;
        }
        let roles = if trained { Speakers::read(&data.splits, corpus)? } else { Speakers::default() };
        if trained && !roles.trainable() {
            anyhow::bail!(
                "data.train names {corpus} but {}/{corpus}.csv gives it no training speaker",
                data.splits.display()
            );
        }
        let clips = manifest::read(corpus, &data.root.join(corpus), prompts)?;
        all.extend(clips.into_iter().map(|clip| Listed { split: roles.role(&clip.speaker), clip }));
    }
    Ok(all)
}

/// Folder of one form's cache.
pub fn folder(config: &Config, form: Form) -> PathBuf {
    config.data.cache().join(match form {
        Form::Pooled => "pooled".into(),
        Form::Frames { layer } => format!("frames-{layer}"),
    })
}

/// Opens the cache of a form, for reading or for continuing it.
pub fn open(config: &Config, form: Form) -> Result<Store> {
    let tower = config.speech.cached_tower();
    // Only what decides the numbers: adding a corpus or more copies continues the same cache.
    let recipe = json!({"weights": config.speech.weights, "int8": config.speech.int8, "whisper": tower.whisper, "layers": tower.layers,
        "gate": tower.gate, "trim": tower.trim, "level": tower.level, "seed": config.seed, "shortest": config.data.shortest, "longest": config.data.longest});
    Store::open(&folder(config, form), &serde_json::to_string_pretty(&recipe)?)
}

/// Number of values of an entry with pooled features: statistics of the cached layers, plain means of the last one, log-mel
/// statistics.
pub fn entry_width(config: &Config) -> usize {
    config.speech.cached_tower().pooled_width() + config.speech.tower.whisper.width + 2 * BANDS
}

/// Which of the cached columns are the config's own tower's.
///
/// # Errors
/// If the cache lacks some.
pub fn columns(config: &Config) -> Result<Tensor> {
    let own = config.speech.tower.columns_of(&config.speech.cached_tower());
    Ok(Tensor::from_slice(&own.context("the cache lacks a layer of the tower")?))
}

/// Caches whatever is not cached yet. Returns the number of entries added.
pub fn prepare(config: &Config, form: Form) -> Result<usize> {
    let prompts = Prompts::read(&config.data.prompts)?;
    let listed = list(config, &prompts)?;
    let mut store = open(config, form)?;
    ensure_same_splits(&folder(config, form), &store.entries, &listed)?;
    let mut todo = lacking(config, &listed, &store);
    // Originals first, so that an unfinished cache can already be evaluated.
    todo.sort_by_key(|(_, v)| *v != Variant::Original);
    let params = encoders::speech(config, config.speech.cached_tower().last())?;
    let progress = Progress::start(todo.len() as u64, "clips");
    for batch in todo.chunks(BATCH) {
        for (entry, values) in features(config, form, &params, batch)? {
            store.append(entry, &values)?;
        }
        progress.advance(batch.len() as u64);
    }
    progress.finish();
    Ok(todo.len())
}

/// Fails unless all that the config asks for is cached: an unfinished cache would be trained on, and judged by, in silence.
///
/// # Errors
/// Says how much is missing, and how to cache it.
pub fn ensure_complete(config: &Config, form: Form) -> Result<()> {
    let listed = list(config, &Prompts::read(&config.data.prompts)?)?;
    let count = lacking(config, &listed, &open(config, form)?).len();
    let frames = match form {
        Form::Pooled => String::new(),
        Form::Frames { layer } => format!(" with --frames {layer}"),
    };
    anyhow::ensure!(
        count == 0,
        "the feature cache {} lacks {count} of the config's clips and copies; run `esr-trainer prepare`{frames}, which goes on where it was stopped",
        folder(config, form).display()
    );
    Ok(())
}

/// Forms of clips that are not cached yet.
fn lacking<'a>(config: &Config, listed: &'a [Listed], store: &Store) -> Vec<(&'a Listed, Variant)> {
    let done: HashSet<(&Path, &str)> = store.entries.iter().map(|e| (e.path.as_path(), e.variant.as_str())).collect();
    listed
        .iter()
        .flat_map(|l| variants(&config.augment, &l.clip, l.split, config.seed).into_iter().map(move |v| (l, v)))
        .filter(|(l, v)| !done.contains(&(l.clip.path.as_path(), v.name().as_str())))
        .collect()
}

/// Whether the cached clips have the roles that the config gives them. Of a cache that another config has filled, speakers that
/// this one trains on would be tested, or the other way round.
fn ensure_same_splits(folder: &Path, entries: &[Entry], listed: &[Listed]) -> Result<()> {
    let roles: HashMap<&Path, Split> = listed.iter().map(|l| (l.clip.path.as_path(), l.split)).collect();
    for entry in entries {
        let Some(role) = roles.get(entry.path.as_path()).filter(|role| **role != entry.split) else { continue };
        anyhow::bail!(
            "the feature cache {} holds {} for {:?}, but by this config it is for {role:?}: other corpora were trained on when it \
             was made; give the config a data.cache of its own, or evaluate with --alone",
            folder.display(),
            entry.path.display(),
            entry.split
        );
    }
    Ok(())
}

fn features(
    config: &Config,
    form: Form,
    params: &Params,
    batch: &[(&Listed, Variant)],
) -> Result<Vec<(Entry, Vec<f32>)>> {
    let mut decoded: BTreeMap<PathBuf, Vec<f32>> = BTreeMap::new();
    let mut waveforms = vec![];
    for (listed, variant) in batch {
        let clip = &listed.clip;
        if !decoded.contains_key(&clip.path) {
            decoded.insert(clip.path.clone(), audio_file::read(&clip.path)?);
        }
        let rendered = render(&decoded[&clip.path], clip, *variant, config.seed);
        waveforms.push(fit(rendered, config.data.shortest, config.data.longest));
    }
    let (waveform, length) = batch_of(&waveforms);
    let graph = match form {
        Form::Pooled => config.speech.cached_tower().record_pooled(),
        Form::Frames { layer } => config.speech.tower.record_frames(layer),
    };
    let out = no_grad(|| run(&graph, params, &[("waveform", &waveform), ("length", &length)], false));
    let described = |n: usize| {
        let (Listed { clip, split }, variant) = (batch[n].0, batch[n].1);
        Entry { seconds: waveforms[n].len() as f32 / SAMPLE_RATE as f32, ..entry(clip, *split, variant) }
    };
    let values = |n: usize| -> Result<Vec<f32>> {
        let n = n as i64;
        let row = match form {
            Form::Pooled => Tensor::cat(&[out["pooled"].get(n), out["plain"].get(n), out["mel"].get(n)], 0),
            Form::Frames { .. } => {
                // The log-mel statistics, then one row a frame with its pooling weight; frames after the clip are left out.
                let valid = out["mask"].get(n).sum(Kind::Int64).int64_value(&[]);
                let joined = Tensor::cat(&[out["frames"].get(n), out["weight"].get(n).unsqueeze(1)], 1);
                Tensor::cat(&[out["mel"].get(n), joined.narrow(0, 0, valid).flatten(0, -1)], 0)
            }
        };
        let row = Vec::<f32>::try_from(row.contiguous())?;
        let sound = row.iter().all(|v| v.is_finite());
        anyhow::ensure!(
            sound,
            "{}: the encoder gave a number that is not finite",
            batch[n as usize].0.clip.path.display()
        );
        Ok(row)
    };
    (0..batch.len()).map(|n| Ok((described(n), values(n).context("features of a batch")?))).collect()
}

/// A form of a clip as an entry that is in no cache yet, as long as its manifest says.
pub fn entry(clip: &Clip, split: Split, variant: Variant) -> Entry {
    Entry {
        corpus: clip.corpus.clone(),
        path: clip.path.clone(),
        speaker: clip.speaker.clone(),
        split,
        styles: styles(clip, variant),
        variant: variant.name(),
        seconds: clip.seconds,
        offset: 0,
        length: 0,
    }
}

/// Repeats a short clip and cuts a long one.
pub fn fit(samples: Vec<f32>, shortest: f32, longest: f32) -> Vec<f32> {
    let rate = SAMPLE_RATE as f32;
    let mut samples = audio_file::at_least(samples, (shortest * rate) as usize);
    samples.truncate((longest * rate) as usize);
    samples
}

/// Zero-padded waveforms `[batch, samples]` and their lengths `[batch]`.
pub fn batch_of(waveforms: &[Vec<f32>]) -> (Tensor, Tensor) {
    let longest = waveforms.iter().map(Vec::len).max().unwrap_or(0);
    let mut flat = vec![0.0f32; longest * waveforms.len()];
    for (row, waveform) in flat.chunks_mut(longest.max(1)).zip(waveforms) {
        row[..waveform.len()].copy_from_slice(waveform);
    }
    let lengths: Vec<i64> = waveforms.iter().map(|w| w.len() as i64).collect();
    (Tensor::from_slice(&flat).view([waveforms.len() as i64, longest as i64]), Tensor::from_slice(&lengths))
}
