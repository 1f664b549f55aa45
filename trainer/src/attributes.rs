//! What a voice is like apart from its style, measured from the signal, and descriptions made of it: pitch and how far it moves, rate,
//! loudness, brightness and voicing, after the families of eGeMAPS (Eyben et al., "The Geneva minimalistic acoustic parameter set
//! (GeMAPS) for voice research and affective computing", 2016).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Context, Result};
use rand::Rng;
use rand::seq::SliceRandom;
use rayon::prelude::*;
use tch::Tensor;

use crate::audio_file;
use crate::augment::{filter, loud_rms, trim};
use crate::config::Config;
use crate::finetune::batches::stream;
use crate::kept::{Kept, hash};
use crate::nets::log_mel::SAMPLE_RATE;
use crate::prepare::{Listed, list};
use crate::progress::Progress;
use crate::prompts::{Prompts, Side};
use crate::store::Entry;
use crate::variants::{render, variants};
use crate::voice;

/// What is measured, by the names that `attributes` of the prompt file has.
pub const NAMES: [&str; 6] = ["pitch", "pitch_range", "rate", "loudness", "brightness", "voicing"];

/// Values of one clip in the order of [`NAMES`]: hertz, semitones, syllables a second, decibels, decibels, a share. NaN is what
/// cannot be measured, such as the pitch of a whisper.
pub type Measured = [f32; NAMES.len()];

/// Share of a corpus's clips whose value counts as low, and as high.
const EXTREME: f32 = 0.25;
/// Descriptions a clip.
const DESCRIPTIONS: usize = 2;
/// Attributes that one description names at most.
const MOST: usize = 3;
/// Forms that are measured between two writes.
const KEPT: usize = 2048;

/// What is said of training clips besides their styles.
#[derive(Default)]
pub struct Described {
    /// Descriptions, all different.
    pub texts: Vec<String>,
    /// What each says, such as `pitch low`.
    pub says: Vec<BTreeSet<String>>,
    /// Descriptions of each entry.
    pub of_entry: Vec<Vec<usize>>,
    /// All that could be said of each entry.
    pub traits: Vec<BTreeSet<String>>,
}

/// Measures the entries' forms (once; the values are kept beside the feature cache) and describes them. A value is low or high against
/// the other clips of its corpus, since level and brightness are of the recording as well.
///
/// # Errors
/// If a clip is not among the config's any more or cannot be read.
pub fn describe(config: &Config, prompts: &Prompts, entries: &[Entry]) -> Result<Described> {
    let measured = measure_all(config, prompts, entries)?;
    let mut thresholds: BTreeMap<&str, [Option<[f32; 2]>; NAMES.len()]> = BTreeMap::new();
    for entry in entries {
        thresholds.entry(&entry.corpus).or_insert_with(|| {
            let own = || entries.iter().zip(&measured).filter(|(e, _)| e.corpus == entry.corpus);
            std::array::from_fn(|n| extremes(own().map(|(_, values)| values[n])))
        });
    }
    let mut random = stream(config.seed, 0, 0);
    let (mut all, mut numbers) = (Described::default(), HashMap::new());
    for (entry, values) in entries.iter().zip(&measured) {
        let bounds = &thresholds[entry.corpus.as_str()];
        let ranks: Vec<(&str, &str)> = (0..NAMES.len())
            .filter_map(|n| Some((NAMES[n], rank(values[n], bounds[n]?)?)))
            .filter(|(name, rank)| prompts.has_words_for(name, rank))
            .collect();
        let named = |(name, rank): &(&str, &str)| format!("{name} {rank}");
        let mut own = vec![];
        for _ in 0..DESCRIPTIONS {
            let mut chosen = ranks.clone();
            chosen.shuffle(&mut random);
            chosen.truncate(random.random_range(1..=MOST));
            let Some(text) = prompts.of_attributes(&chosen, Side::Train, &mut random) else { continue };
            own.push(*numbers.entry(text.clone()).or_insert_with(|| {
                all.texts.push(text);
                all.says.push(chosen.iter().map(named).collect());
                all.texts.len() - 1
            }));
        }
        all.of_entry.push(own);
        all.traits.push(ranks.iter().map(named).collect());
    }
    Ok(all)
}

/// Below which value one is low, and above which high; `None` where hardly any could be measured.
fn extremes(values: impl Iterator<Item = f32>) -> Option<[f32; 2]> {
    let mut values: Vec<f32> = values.filter(|v| v.is_finite()).collect();
    values.sort_by(f32::total_cmp);
    let at = |share: f32| values[(share * (values.len() - 1) as f32) as usize];
    (values.len() >= 8).then(|| [at(EXTREME), at(1.0 - EXTREME)])
}

fn rank(value: f32, [low, high]: [f32; 2]) -> Option<&'static str> {
    match value {
        _ if value.is_nan() => None,
        _ if value < low => Some("low"),
        _ if value > high => Some("high"),
        _ => Some("mid"),
    }
}

fn measure_all(config: &Config, prompts: &Prompts, entries: &[Entry]) -> Result<Vec<Measured>> {
    let listed = list(config, prompts)?;
    let by_path: HashMap<&Path, &Listed> = listed.iter().map(|l| (l.clip.path.as_path(), l)).collect();
    let one = |entry: &Entry| -> Result<Measured> {
        let lacking =
            || format!("{} ({}) is not among the config's clips any more", entry.path.display(), entry.variant);
        let Listed { clip, split } = by_path.get(entry.path.as_path()).with_context(lacking)?;
        let forms = variants(&config.augment, clip, *split, config.seed);
        let form = forms.into_iter().find(|form| form.name() == entry.variant).with_context(lacking)?;
        Ok(measure(&render(&audio_file::read(&clip.path)?, clip, form, config.seed)))
    };
    let mut kept = Kept::open(&config.data.cache().join("attributes"), &hash(format!("seed {}", config.seed)))?;
    let names: Vec<String> = entries.iter().map(|e| format!("{} {}", e.path.display(), e.variant)).collect();
    let progress = Progress::start(entries.len() as u64, "measured clips");
    let mut all = vec![];
    for (entries, names) in entries.chunks(KEPT).zip(names.chunks(KEPT)) {
        let rows = kept.rows(names, |places| {
            let values: Vec<Measured> = places.par_iter().map(|n| one(&entries[*n])).collect::<Result<_>>()?;
            Ok(Tensor::from_slice(values.as_flattened()).view([-1, NAMES.len() as i64]))
        })?;
        let flat = Vec::<f32>::try_from(rows.contiguous().view(-1))?;
        all.extend(flat.chunks_exact(NAMES.len()).map(|row| Measured::try_from(row).expect("rows have that length")));
        progress.advance(entries.len() as u64);
    }
    progress.finish();
    Ok(all)
}

/// Measures a clip.
pub fn measure(samples: &[f32]) -> Measured {
    let speech = trim(samples);
    let pitch = voice::pitch(speech);
    let mut semitones: Vec<f32> = pitch.iter().filter(|hertz| **hertz > 0.0).map(|hertz| 12.0 * hertz.log2()).collect();
    semitones.sort_by(f32::total_cmp);
    let middle = voice::middle(&pitch);
    let at = |share: f32| semitones[(share * (semitones.len() - 1) as f32) as usize];
    let voicing = semitones.len() as f32 / pitch.len().max(1) as f32;
    let mut upper = speech.to_vec();
    filter(&mut upper, 1000.0, true);
    let decibels = |share: f32| 20.0 * share.max(1e-6).log10();
    [
        middle.unwrap_or(f32::NAN),
        middle.map_or(f32::NAN, |_| at(0.8) - at(0.2)),
        middle.map_or(f32::NAN, |_| syllables(speech, &pitch) as f32 / (speech.len() as f32 / SAMPLE_RATE as f32)),
        decibels(loud_rms(speech)),
        decibels(loud_rms(&upper) / loud_rms(speech).max(1e-6)),
        if pitch.is_empty() { f32::NAN } else { voicing },
    ]
}

/// Syllables by their nuclei: peaks of the intensity in voiced places, with a dip of at least 2 dB between two (De Jong and Wempe, "Praat
/// script to detect syllable nuclei and measure speech rate automatically", 2009).
fn syllables(samples: &[f32], pitch: &[f32]) -> usize {
    const DIP: f32 = 2.0;
    const BELOW_LOUDEST: f32 = 25.0;
    let window = 4 * voice::HOP;
    let intensity: Vec<f32> = (0..pitch.len())
        .map(|n| {
            let from = (n * voice::HOP).saturating_sub(window);
            let piece = &samples[from..(n * voice::HOP + window).min(samples.len())];
            10.0 * (piece.iter().map(|s| s * s).sum::<f32>() / piece.len().max(1) as f32).max(1e-10).log10()
        })
        .collect();
    let loudest = intensity.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (mut count, mut peak, mut valley) = (0, None::<usize>, f32::INFINITY);
    for (n, level) in intensity.iter().copied().enumerate() {
        match peak {
            // Risen far enough above the last valley: a new peak begins.
            None if level >= valley + DIP && level > loudest - BELOW_LOUDEST => peak = Some(n),
            None => valley = valley.min(level),
            Some(top) if level > intensity[top] => peak = Some(n),
            Some(top) if level <= intensity[top] - DIP => {
                count += usize::from(pitch[top] > 0.0);
                (peak, valley) = (None, level);
            }
            Some(_) => {}
        }
    }
    count + usize::from(peak.is_some_and(|top| pitch[top] > 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A buzz at a pitch, `syllables` bursts of it a second.
    fn buzz(hertz: f32, syllables: f32, level: f32) -> Vec<f32> {
        let rate = SAMPLE_RATE as f32;
        let at = |n: u32| {
            let (time, phase) = (n as f32 / rate, (n as f32 * hertz / rate).fract());
            let burst = (std::f32::consts::PI * time * syllables).sin().powi(2);
            level * burst * (-8.0 * phase).exp()
        };
        (0..3 * SAMPLE_RATE).map(at).collect()
    }

    #[test]
    fn what_was_made_is_measured() {
        let [pitch, range, rate, loudness, _, voicing] = measure(&buzz(120.0, 4.0, 0.5));
        assert!((pitch - 120.0).abs() < 4.0, "{pitch}");
        assert!(range < 1.0 && (3.0..=4.5).contains(&rate) && voicing > 0.5, "{range} {rate} {voicing}");
        let [high, _, fast, quiet, ..] = measure(&buzz(240.0, 7.0, 0.05));
        assert!(high > 1.9 * pitch && fast > 1.4 * rate, "{high} {fast}");
        assert!((loudness - quiet - 20.0).abs() < 3.0, "{loudness} {quiet}");
    }

    #[test]
    fn noise_has_no_pitch_and_silence_nothing() {
        let mut random = stream(7, 0, 0);
        let noise: Vec<f32> = (0..SAMPLE_RATE).map(|_| random.random_range(-0.3..0.3)).collect();
        let [pitch, _, rate, loudness, _, voicing] = measure(&noise);
        assert!(pitch.is_nan() && rate.is_nan() && loudness.is_finite() && voicing < 0.2, "{pitch} {voicing}");
        assert!(measure(&[]).iter().all(|v| v.is_nan() || *v <= 0.0));
        assert!(measure(&vec![0.0; 16_000])[0].is_nan());
    }

    #[test]
    fn the_outer_quarters_are_low_and_high() {
        let bounds = extremes((0..100).map(|n| n as f32).chain([f32::NAN])).unwrap();
        assert_eq!(
            [10.0, 50.0, 90.0, f32::NAN].map(|v| rank(v, bounds)),
            [Some("low"), Some("mid"), Some("high"), None]
        );
        assert!(extremes((0..3).map(|n| n as f32)).is_none());
    }
}
