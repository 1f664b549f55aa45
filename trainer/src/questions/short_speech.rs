//! How well short speech is found, and what helps: the same recordings cut to half a second up to six seconds, as they are
//! and with remedies, so that only the length differs.
//!
//! Few clips of the corpora are six seconds long, so a recording here is several clips of one speaker and style in a row,
//! silence around each cut off, until there are six seconds.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::mean;
use crate::audio_file::{at_least, read};
use crate::augment::trim;
use crate::config::Config;
use crate::figure::{Series, Words, lines};
use crate::nets::log_mel::SAMPLE_RATE;
use crate::prompts::Side;
use crate::protocol::bootstrap::{Estimates, estimate};
use crate::protocol::command::Subject;
use crate::protocol::ground::{Ground, together};
use crate::protocol::lengths::by_length;
use crate::protocol::pool::{Heard, Pool, Rows};
use crate::protocol::ranking::{average_precision, rank};
use crate::report::{Answer, Cell, Figure, Table};
use crate::store::Entry;

/// Lengths in seconds.
const LENGTHS: [f32; 7] = [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
/// From here on speech is not short, and no remedy is tried but sessions. The paper's Figure 3 falls off below it.
const ENOUGH: f32 = 4.0;
const REPLICATES: usize = 300;

/// Arguments of `esr-trainer question short-speech`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Model, corpora, output.
    #[command(flatten)]
    pub subject: Subject,
    /// Recordings of each corpus at most.
    #[arg(long, default_value_t = 120)]
    pub recordings: usize,
    /// Others in a trial.
    #[arg(long, default_value_t = 50)]
    pub drawn: usize,
    /// Longest cut, seconds.
    #[arg(long, default_value_t = 6.0)]
    pub longest: f32,
}

/// What is done with a short cut before it is embedded, or with the vectors of several.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Remedy {
    /// Nothing (below the shortest clip that the model takes it is repeated, as in production).
    None,
    /// Zeros after it, up to so many seconds.
    Zeros(f32),
    /// Repeated up to so many seconds.
    Repeat(f32),
    /// The mean of the vectors of the whole cut and of three overlapping crops of three quarters of it.
    Crops,
    /// The mean of the vectors of so many cuts of the speaker and style, each of this length.
    Session(usize),
}

const REMEDIES: [(Remedy, &str); 7] = [
    (Remedy::None, "as it is"),
    (Remedy::Zeros(4.0), "zeros up to 4 s"),
    (Remedy::Repeat(2.0), "repeated to 2 s"),
    (Remedy::Repeat(4.0), "repeated to 4 s"),
    (Remedy::Crops, "mean of four crops"),
    (Remedy::Session(2), "mean of 2 cuts of the speaker"),
    (Remedy::Session(4), "mean of 4 cuts of the speaker"),
];

/// Asks.
///
/// # Errors
/// If the run's checkpoint, the encoder's weights or the clips are missing.
pub fn run(arguments: &Arguments) -> Result<Answer> {
    let subject = &arguments.subject;
    let config = Config::read(&subject.config)?;
    let mut ground = Ground::open(&config, &subject.model())?;
    let mut table = Table::new(
        format!(
            "Recordings of {} s cut to a length, {} others of the same length in a trial, held-out prompts averaged, mean over styles",
            arguments.longest, arguments.drawn
        ),
        &["corpus", "recordings", "length, s", "remedy", "R@1", "R@5", "mAP"],
    );
    let mut means: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
    for corpus in subject.corpora(&ground)? {
        let recordings = recordings(&ground.entries(&corpus, subject.split), arguments, subject.seed)?;
        let styles: std::collections::BTreeSet<&str> = recordings.iter().map(|r| r.heard.style.as_str()).collect();
        if styles.len() < 2 {
            continue;
        }
        let mut random = ChaCha8Rng::seed_from_u64(subject.seed);
        for (at, length) in LENGTHS.into_iter().enumerate().filter(|(_, length)| *length <= arguments.longest) {
            let plain = embed(&mut ground, &recordings, length, Remedy::None)?;
            for (n, (remedy, name)) in REMEDIES.iter().enumerate() {
                if !applies(*remedy, length, config.data.longest) {
                    continue;
                }
                let rows = match remedy {
                    Remedy::None => plain.clone(),
                    Remedy::Session(count) => session_rows(&plain, &sessions(&recordings, *count, &mut random))?,
                    _ => embed(&mut ground, &recordings, length, *remedy)?,
                };
                let clips = recordings.iter().map(|r| r.heard.clone()).collect();
                let pool = Pool { name: corpus.clone(), clips, rows };
                let (estimates, precision) = judge(&mut ground, &pool, arguments.drawn, subject.seed)?;
                let [first, fifth, ..] = estimates.mean;
                table.row(vec![
                    corpus.clone().into(),
                    recordings.len().into(),
                    Cell::Text(length.to_string()),
                    (*name).into(),
                    first.into(),
                    fifth.into(),
                    precision.into(),
                ]);
                means.entry((n, at)).or_default().push(precision);
            }
        }
    }
    ensure!(!means.is_empty(), "no corpus has recordings of {} s in two styles", arguments.longest);
    let (summary, curves) = summarise(&means);
    let natural = natural(&mut ground, arguments)?;
    let words = Words { title: "mAP by length of speech, mean over corpora", x: "seconds", y: "mAP" };
    let figures = vec![Figure { name: "short-speech".into(), svg: lines(words, &curves, true)? }];
    Ok(Answer { name: "short-speech".into(), tables: vec![summary, table, natural], figures, remarks: winners(&means) })
}

/// One recording with its samples, long enough for the longest cut.
#[derive(Clone, Debug)]
struct Recording {
    heard: Heard,
    samples: Vec<f32>,
}

/// Clips of one speaker and class in a row until they are long enough, over and over; some of them, as many of each style.
fn recordings(entries: &[Entry], arguments: &Arguments, seed: u64) -> Result<Vec<Recording>> {
    let mut groups: BTreeMap<(String, String), Vec<&Entry>> = BTreeMap::new();
    entries.iter().for_each(|e| groups.entry((e.class(), e.speaker.clone())).or_default().push(e));
    let enough = (arguments.longest * SAMPLE_RATE as f32) as usize;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut of_style: BTreeMap<String, Vec<Recording>> = BTreeMap::new();
    let styles: std::collections::BTreeSet<String> = entries.iter().map(Entry::class).collect();
    let each = arguments.recordings.div_ceil(styles.len().max(1));
    let mut keys: Vec<(String, String)> = groups.keys().cloned().collect();
    keys.shuffle(&mut random);
    for key in keys {
        let (style, speaker) = key.clone();
        let made = of_style.entry(style.clone()).or_default();
        let mut samples: Vec<f32> = vec![];
        for entry in &groups[&key] {
            if made.len() >= each {
                break;
            }
            samples.extend_from_slice(trim(&read(&entry.path)?));
            if samples.len() >= enough {
                samples.truncate(enough);
                let heard = Heard {
                    style: style.clone(),
                    speaker: speaker.clone(),
                    seconds: arguments.longest,
                    ..Heard::default()
                };
                made.push(Recording { heard, samples: std::mem::take(&mut samples) });
            }
        }
    }
    // A style with a few recordings would weigh as much as one with many and be mostly chance.
    Ok(of_style.into_values().filter(|made| made.len() >= 3).flatten().collect())
}

/// Whether a remedy changes a cut of this length, and the model takes what it makes.
fn applies(remedy: Remedy, length: f32, longest: f32) -> bool {
    match remedy {
        Remedy::Zeros(to) | Remedy::Repeat(to) => length < to && to <= longest,
        Remedy::Crops => length < ENOUGH,
        Remedy::None | Remedy::Session(_) => true,
    }
}

/// The waveforms that a cut is embedded as; their vectors are averaged.
fn waveforms(cut: &[f32], remedy: Remedy) -> Vec<Vec<f32>> {
    let samples = |seconds: f32| (seconds * SAMPLE_RATE as f32) as usize;
    match remedy {
        Remedy::None | Remedy::Session(_) => vec![cut.to_vec()],
        Remedy::Zeros(to) => {
            let mut padded = cut.to_vec();
            padded.resize(samples(to).max(cut.len()), 0.0);
            vec![padded]
        }
        Remedy::Repeat(to) => vec![at_least(cut.to_vec(), samples(to))],
        Remedy::Crops => {
            let part = cut.len() * 3 / 4;
            let crop = |n: usize| cut[(cut.len() - part) * n / 2..][..part].to_vec();
            vec![cut.to_vec(), crop(0), crop(1), crop(2)]
        }
    }
}

fn embed(ground: &mut Ground<'_>, recordings: &[Recording], length: f32, remedy: Remedy) -> Result<Rows> {
    let cut = (length * SAMPLE_RATE as f32) as usize;
    let forms = waveforms(&recordings[0].samples[..cut.min(recordings[0].samples.len())], remedy).len();
    let all: Vec<Vec<f32>> =
        recordings.iter().flat_map(|r| waveforms(&r.samples[..cut.min(r.samples.len())], remedy)).collect();
    let vectors = ground.waveforms(&all)?;
    let own = |n: usize| vectors.pick(&(n * forms..(n + 1) * forms).collect::<Vec<_>>()).mean();
    Rows::new(vectors.row(0).len(), (0..recordings.len()).map(|n| unit(own(n))))
}

/// Unit means of the rows of each session.
fn session_rows(single: &Rows, sessions: &[Vec<usize>]) -> Result<Rows> {
    let means: Vec<Vec<f32>> = sessions.iter().map(|mates| unit(single.pick(mates).mean())).collect();
    Rows::new(means.first().map_or(0, Vec::len), means)
}

/// For each recording, itself and others of its speaker and style, `count` in all where there are as many.
fn sessions(recordings: &[Recording], count: usize, random: &mut ChaCha8Rng) -> Vec<Vec<usize>> {
    let same = |a: &Recording, b: &Recording| a.heard.speaker == b.heard.speaker && a.heard.style == b.heard.style;
    (0..recordings.len())
        .map(|n| {
            let mut mates: Vec<usize> =
                (0..recordings.len()).filter(|m| *m != n && same(&recordings[n], &recordings[*m])).collect();
            while mates.len() >= count {
                mates.swap_remove(random.random_range(0..mates.len()));
            }
            mates.insert(0, n);
            mates
        })
        .collect()
}

fn unit(row: Vec<f32>) -> Vec<f32> {
    let length = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-9);
    row.into_iter().map(|x| x / length).collect()
}

fn judge(ground: &mut Ground<'_>, pool: &Pool, drawn: usize, seed: u64) -> Result<(Estimates, f64)> {
    let asked = together(&ground.asked(pool, Side::Heldout)?);
    let precision = |a: &crate::protocol::pool::Asked| {
        average_precision(&rank(&pool.rows.scores(a.queries.row(0)), &pool.relevant(&a.style)))
    };
    let precision = mean(asked.iter().map(precision));
    Ok((estimate(pool, &asked, drawn, REPLICATES, seed), precision))
}

fn summarise(means: &BTreeMap<(usize, usize), Vec<f64>>) -> (Table, Vec<Series>) {
    let used: Vec<usize> = (0..LENGTHS.len()).filter(|at| means.contains_key(&(0, *at))).collect();
    let mut columns = vec!["remedy".to_string()];
    columns.extend(used.iter().map(|at| format!("{} s", LENGTHS[*at])));
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let mut table = Table::new("mAP by length and remedy, mean over corpora", &columns);
    let mut curves = vec![];
    for (n, (_, name)) in REMEDIES.iter().enumerate() {
        let value = |at: usize| means.get(&(n, at)).map(|all| mean(all.iter().copied()));
        let mut row: Vec<Cell> = vec![(*name).into()];
        row.extend(used.iter().map(|at| Cell::from(value(*at))));
        table.row(row);
        curves.push(Series::plain(*name, used.iter().filter_map(|at| Some((f64::from(LENGTHS[*at]), value(*at)?)))));
    }
    curves.retain(|curve| !curve.points.is_empty());
    (table, curves)
}

/// Which remedy wins at each length under four seconds, and by how much. Sessions need more clips than the one, so they are
/// named apart.
fn winners(means: &BTreeMap<(usize, usize), Vec<f64>>) -> Vec<String> {
    let mut out = vec![];
    let mut gains: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for (at, length) in LENGTHS.into_iter().enumerate().filter(|(_, length)| *length < ENOUGH) {
        let value = |n: usize| means.get(&(n, at)).map(|all| mean(all.iter().copied()));
        let Some(plain) = value(0) else { continue };
        let single = (1..REMEDIES.len()).filter(|n| !matches!(REMEDIES[*n].0, Remedy::Session(_)));
        let gained: Vec<(usize, f64)> = single.filter_map(|n| Some((n, value(n)? - plain))).collect();
        gained.iter().for_each(|(n, gain)| gains.entry(*n).or_default().push(*gain));
        if let Some((n, gain)) = gained.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)) {
            let verdict = if gain > 0.0 { format!("best is \"{}\"", REMEDIES[n].1) } else { "no remedy helps".into() };
            out.push(format!("At {length} s, as it is: mAP {plain:.3}; {verdict} ({gain:+.3})."));
        }
    }
    for (n, all) in gains {
        let each = mean(all.iter().copied());
        out.push(format!(
            "\"{}\" changes mAP by {each:+.3} on average over {} lengths under 4 s.",
            REMEDIES[n].1,
            all.len()
        ));
    }
    out
}

/// Clips as they were recorded, by their length.
fn natural(ground: &mut Ground<'_>, arguments: &Arguments) -> Result<Table> {
    let subject = &arguments.subject;
    let mut table = Table::new(
        format!(
            "Clips as they are, by length ({} others of any length, held-out prompts averaged), mean over clips",
            arguments.drawn
        ),
        &["corpus", "length", "clips", "R@1", "R@5"],
    );
    for corpus in subject.corpora(ground)? {
        let pool = ground.pool(&corpus, subject.split, |_| true)?;
        let asked = together(&ground.asked(&pool, Side::Heldout)?);
        for bin in by_length(&pool, &asked, arguments.drawn, subject.seed) {
            let [first, fifth, ..] = bin.recall;
            table.row(vec![corpus.clone().into(), bin.name().into(), bin.clips.into(), first.into(), fifth.into()]);
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_do_what_they_say() {
        let cut: Vec<f32> = (0..8000).map(|n| n as f32).collect();
        let seconds = |remedy| waveforms(&cut, remedy).iter().map(|w| w.len() as f32 / 16_000.0).collect::<Vec<_>>();
        assert_eq!(seconds(Remedy::None), [0.5]);
        assert_eq!(seconds(Remedy::Zeros(4.0)), [4.0]);
        assert_eq!(seconds(Remedy::Repeat(2.0)), [2.0]);
        assert_eq!(seconds(Remedy::Crops), [0.5, 0.375, 0.375, 0.375]);
        let repeated = waveforms(&cut, Remedy::Repeat(2.0)).remove(0);
        assert_eq!((repeated[8000], repeated[31_999]), (0.0, 7999.0));
        let crops = waveforms(&cut, Remedy::Crops);
        assert_eq!((crops[1][0], crops[2][0], crops[3][0]), (0.0, 1000.0, 2000.0));
        assert!(applies(Remedy::Repeat(2.0), 1.5, 12.0) && !applies(Remedy::Repeat(2.0), 2.0, 12.0));
        assert!(
            applies(Remedy::Crops, 3.0, 12.0)
                && !applies(Remedy::Crops, 4.0, 12.0)
                && !applies(Remedy::Repeat(4.0), 1.0, 2.0)
        );
    }

    #[test]
    fn sessions_stay_with_speaker_and_style() {
        let of = |speaker: &str, style: &str| Recording {
            heard: Heard { speaker: speaker.into(), style: style.into(), ..Heard::default() },
            samples: vec![],
        };
        let all = [of("s", "a"), of("s", "a"), of("t", "a"), of("s", "b"), of("s", "a")];
        let mates = sessions(&all, 2, &mut ChaCha8Rng::seed_from_u64(1));
        assert_eq!((mates[2].clone(), mates[3].clone()), (vec![2], vec![3]));
        assert!(mates[0].len() == 2 && mates[0][0] == 0 && [1, 4].contains(&mates[0][1]));
        assert_eq!(sessions(&all, 4, &mut ChaCha8Rng::seed_from_u64(1))[4].len(), 3);
    }

    #[test]
    fn the_winner_is_named_with_its_gain() {
        let means = BTreeMap::from([
            ((0, 1), vec![0.4, 0.5]),
            ((3, 1), vec![0.5, 0.6]),
            ((4, 1), vec![0.3, 0.3]),
            ((6, 1), vec![0.9]),
        ]);
        let remarks = winners(&means);
        assert!(remarks[0].contains("\"repeated to 4 s\" (+0.100)") && remarks[0].contains("0.450"), "{}", remarks[0]);
        assert!(remarks.iter().any(|r| r.contains("mean of four crops") && r.contains("-0.150")));
        assert!(!remarks.iter().any(|r| r.contains("of the speaker")));
    }
}
