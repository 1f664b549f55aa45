//! Expresso as its owners give it out: `audio_48khz/conversational/{left-right}/{style}/{name}.wav` in stereo, one speaker a
//! channel; `audio_48khz/read/{speaker}/{style}/{base,longform}/{name}.wav`; `splits/{train,dev,test}.txt`.
//!
//! As in the paper's released code, conversations are cut by channel where they are not silent, long readings every ten
//! seconds, other readings stay whole, and the style is the folder's name, or its left or right half. Seven of the 26
//! styles are left out.
//!
//! The split files give `name<TAB>(from,until)` for recordings of which only a part is meant. The released code looks at the
//! name alone and takes the first of train, dev and test that lists it, which puts every conversation into training
//! ([`Reading::Files`]). [`Reading::Ranges`] heeds the ranges, so that all styles are tested.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use esr_audio::WaveformError;
use serde::{Deserialize, Serialize};

use super::piece::Piece;
use super::source::{Listed, Source};
use super::splits::Split;
use crate::audio_file;
use crate::energy::{Cutting, merged, pieces, voiced};
use crate::nets::log_mel::SAMPLE_RATE;
use crate::progress::Progress;

/// How the split files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// By file, as the paper's released code does.
    Files,
    /// By time range, as they are meant.
    Ranges,
}

const LEFT_OUT: [&str; 7] = ["animal", "animaldir", "child", "childdir", "narration", "nonverbal", "singing"];
/// In the order in which a file's name is looked up.
const SPLITS: [(&str, Split); 3] = [("train", Split::Train), ("dev", Split::Val), ("test", Split::Test)];
const RATE: f64 = SAMPLE_RATE as f64;
/// 30 dB, gaps up to 2 s, pieces of 1 to 10 s.
const CUTTING: Cutting = Cutting {
    top_db: 30.0,
    gap: 2 * SAMPLE_RATE as usize,
    longest: 10 * SAMPLE_RATE as usize,
    shortest: SAMPLE_RATE as usize,
};

pub(super) fn read(set: &Source<'_>, reading: Reading, cache: &Path) -> Result<Vec<Listed>> {
    let roles = Roles::read(set)?;
    let recordings = recordings(set)?;
    roles.check(set, &recordings)?;
    let mut silences = Silences::open(cache, set)?;
    let mut all = vec![];
    let progress = Progress::start(recordings.len() as u64, "recordings of Expresso");
    for recording in &recordings {
        progress.advance(1);
        let ranges = roles.of(&recording.name, reading);
        if ranges.is_empty() || recording.voices.iter().all(|v| LEFT_OUT.contains(&v.style.as_str())) {
            continue;
        }
        if recording.form == Form::Whole {
            let voice = &recording.voices[0];
            let clip = set.clip(recording.file.clone(), voice.speaker.clone(), &voice.style, 0.0)?;
            all.push(Listed { clip, split: ranges[0].split });
            continue;
        }
        let stretches = silences.stretches(recording)?;
        for (voice, stretches) in recording.voices.iter().zip(&stretches) {
            if LEFT_OUT.contains(&voice.style.as_str()) {
                continue;
            }
            for range in &ranges {
                for piece in stretches.iter().filter_map(|s| range.within(s)).flat_map(ten_seconds) {
                    let (from, until) = (piece.start as f64 / RATE, piece.end as f64 / RATE);
                    let path = Piece { from, until: Some(until), channel: voice.channel }.of(&recording.file);
                    let clip = set.clip(path, voice.speaker.clone(), &voice.style, (until - from) as f32)?;
                    all.push(Listed { clip, split: range.split });
                }
            }
        }
    }
    progress.finish();
    Ok(all)
}

fn ten_seconds(stretch: Range<usize>) -> Vec<Range<usize>> {
    pieces(stretch, CUTTING.longest, CUTTING.shortest)
}

/// How a recording becomes clips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// One clip.
    Whole,
    /// Every ten seconds.
    Long,
    /// By channel, without silence.
    Conversation,
}

/// Who speaks how on which channel.
#[derive(Debug)]
struct Voice {
    speaker: String,
    style: String,
    channel: Option<u16>,
}

/// One file.
#[derive(Debug)]
struct Recording {
    name: String,
    file: PathBuf,
    form: Form,
    voices: Vec<Voice>,
}

/// All files of the set.
fn recordings(set: &Source<'_>) -> Result<Vec<Recording>> {
    let audio = set.folder.join("audio_48khz");
    let mut all = vec![];
    let mut add = |folder: &Path, form: Form, voices: &dyn Fn() -> Vec<Voice>| -> Result<()> {
        for file in set.names(folder)? {
            if let Some(name) = file.strip_suffix(".wav") {
                all.push(Recording { name: name.into(), file: folder.join(&file), form, voices: voices() });
            }
        }
        Ok(())
    };
    let speaker = |name: &str| format!("expresso_{name}");
    let conversations = audio.join("conversational");
    for pair in folders(set, &conversations)? {
        let Some((left, right)) = pair.split_once('-') else {
            bail!("{}/{pair}: a folder of conversations is named after two speakers", conversations.display())
        };
        for folder in folders(set, &conversations.join(&pair))? {
            let (style, other) = folder.split_once('-').unwrap_or((&folder, &folder));
            add(&conversations.join(&pair).join(&folder), Form::Conversation, &|| {
                [(left, style, 0), (right, other, 1)]
                    .map(|(who, style, n)| Voice { speaker: speaker(who), style: style.into(), channel: Some(n) })
                    .into()
            })?;
        }
    }
    let readings = audio.join("read");
    for who in folders(set, &readings)? {
        for style in folders(set, &readings.join(&who))? {
            for part in folders(set, &readings.join(&who).join(&style))? {
                let form = if part == "longform" { Form::Long } else { Form::Whole };
                add(&readings.join(&who).join(&style).join(&part), form, &|| {
                    vec![Voice { speaker: speaker(&who), style: style.clone(), channel: None }]
                })?;
            }
        }
    }
    Ok(all)
}

fn folders(set: &Source<'_>, folder: &Path) -> Result<Vec<String>> {
    Ok(set.names(folder)?.into_iter().filter(|name| folder.join(name).is_dir()).collect())
}

/// A part of a recording with its role, in samples at 16 kHz.
#[derive(Clone, Debug, PartialEq)]
struct Ranged {
    from: usize,
    until: usize,
    split: Split,
}

impl Ranged {
    fn within(&self, stretch: &Range<usize>) -> Option<Range<usize>> {
        let (from, until) = (self.from.max(stretch.start), self.until.min(stretch.end));
        (from < until).then_some(from..until)
    }
}

/// What the split files say, by the name of a recording.
struct Roles(BTreeMap<String, Vec<Ranged>>);

impl Roles {
    fn read(set: &Source<'_>) -> Result<Self> {
        let mut roles: BTreeMap<String, Vec<Ranged>> = BTreeMap::new();
        for (name, split) in SPLITS {
            let file = set.folder.join("splits").join(format!("{name}.txt"));
            for (number, line) in set.text(&file)?.lines().enumerate() {
                let line = line.trim();
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                let mut fields = line.split('\t');
                let name = fields.next().unwrap_or_default().to_string();
                let (from, until) = match fields.next() {
                    None => (0, usize::MAX),
                    Some(range) => parse_range(range).with_context(|| {
                        format!("{} line {}: {range:?} is no time range such as (60.0s,)", file.display(), number + 1)
                    })?,
                };
                roles.entry(name).or_default().push(Ranged { from, until, split });
            }
        }
        Ok(Self(roles))
    }

    /// Every file that the splits name must be there; files that they do not name are left out, as in the released code.
    fn check(&self, set: &Source<'_>, recordings: &[Recording]) -> Result<()> {
        let known: std::collections::BTreeSet<&str> = recordings.iter().map(|r| r.name.as_str()).collect();
        let mut missing = self.0.keys().filter(|name| !known.contains(name.as_str()));
        if let Some(first) = missing.next() {
            bail!(
                "the split files of {} name {first}.wav and {} others that are not below audio_48khz; {}",
                set.folder.display(),
                missing.count(),
                set.kind.source()
            );
        }
        Ok(())
    }

    fn of(&self, name: &str, reading: Reading) -> Vec<Ranged> {
        let all = self.0.get(name).cloned().unwrap_or_default();
        match reading {
            Reading::Ranges => all,
            // The split files were read in the order of the look-up.
            Reading::Files => {
                all.into_iter().take(1).map(|first| Ranged { from: 0, until: usize::MAX, ..first }).collect()
            }
        }
    }
}

/// `(60.0s,120.0s)` with either end left out, in samples.
fn parse_range(text: &str) -> Option<(usize, usize)> {
    let (from, until) = text.trim().strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    let samples = |text: &str, open: usize| match text.trim().trim_end_matches('s') {
        "" => Some(open),
        number => number.parse::<f64>().ok().filter(|t| *t >= 0.0).map(|seconds| (seconds * RATE).round() as usize),
    };
    let (from, until) = (samples(from, 0)?, samples(until, usize::MAX)?);
    (from < until).then_some((from, until))
}

/// What takes long to find out about a recording: where each voice is heard. Kept in a file, one line a recording.
struct Silences {
    known: BTreeMap<PathBuf, Line>,
    file: std::fs::File,
}

#[derive(Serialize, Deserialize)]
struct Line {
    file: PathBuf,
    bytes: u64,
    /// Start and end in samples at 16 kHz, a list for each voice.
    stretches: Vec<Vec<(usize, usize)>>,
}

impl Silences {
    fn open(cache: &Path, set: &Source<'_>) -> Result<Self> {
        std::fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
        let path = cache.join(format!("{}-voiced.jsonl", set.corpus));
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
        let known = lines.map(|line| (line.file.clone(), line)).collect();
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        if !text.is_empty() && !text.ends_with('\n') {
            writeln!(file)?;
        }
        Ok(Self { known, file })
    }

    fn stretches(&mut self, recording: &Recording) -> Result<Vec<Vec<Range<usize>>>> {
        let bytes = std::fs::metadata(&recording.file)?.len();
        let known = self.known.get(&recording.file).filter(|line| line.bytes == bytes);
        if let Some(line) = known {
            return Ok(line.stretches.iter().map(|v| v.iter().map(|(from, until)| *from..*until).collect()).collect());
        }
        let found = measure(recording)?;
        let stretches = found.iter().map(|v| v.iter().map(|r| (r.start, r.end)).collect()).collect();
        let line = Line { file: recording.file.clone(), bytes, stretches };
        writeln!(self.file, "{}", serde_json::to_string(&line)?)?;
        Ok(found)
    }
}

fn measure(recording: &Recording) -> Result<Vec<Vec<Range<usize>>>> {
    if recording.form == Form::Long {
        let samples = (audio_file::seconds(&recording.file)? * RATE) as usize;
        return Ok(vec![vec![0..samples]]);
    }
    let channels = audio_file::channels(&recording.file)?;
    ensure!(channels == 2, "{}: a conversation has two channels, this has {channels}", recording.file.display());
    recording
        .voices
        .iter()
        .map(|voice| {
            let whole = Piece { from: 0.0, until: None, channel: voice.channel }.of(&recording.file);
            let samples = match audio_file::read(&whole) {
                Ok(samples) => samples,
                // A channel on which nobody says anything.
                Err(error) if matches!(error.downcast_ref(), Some(WaveformError::Silent)) => return Ok(vec![]),
                Err(error) => return Err(error),
            };
            Ok(merged(&voiced(&samples, CUTTING.top_db), CUTTING.gap)
                .into_iter()
                .filter(|stretch| stretch.len() >= CUTTING.shortest)
                .collect())
        })
        .collect()
}
