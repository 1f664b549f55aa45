//! Reads a corpus: a folder with `manifest.csv` (columns path, speaker, style; optionally text, duration_s, language,
//! extra), or any such CSV file. Labels are normalised to the concepts of the prompt file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::Clip;
use crate::prompts::Prompts;

#[derive(Deserialize)]
struct Row {
    path: PathBuf,
    #[serde(default)]
    speaker: String,
    style: String,
    #[serde(default)]
    duration_s: Option<f32>,
    #[serde(default)]
    text: String,
    #[serde(default)]
    language: String,
    #[serde(default)]
    extra: String,
}

/// What a manifest says about a clip beyond its style.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// The words that are said, or what stands for them in `extra` (`{"sentence": "01"}`); empty when unknown.
    pub sentence: String,
    /// Language code, such as `en`; empty when unknown.
    pub language: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Extra {
    sentence: String,
}

/// What the manifest of a corpus says about its clips, by their paths as [`read`] gives them.
///
/// # Errors
/// If there is no manifest or a line of it is not one.
pub fn details(source: &Path) -> Result<BTreeMap<PathBuf, Details>> {
    let (file, rows) = rows(source)?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let one = |row: Row| {
        let extra: Extra = serde_json::from_str(&row.extra).unwrap_or_default();
        let sentence = if row.text.is_empty() { extra.sentence } else { row.text };
        (folder.join(row.path), Details { sentence, language: row.language })
    };
    Ok(rows.into_iter().map(one).collect())
}

/// All clips of one corpus. `source` is a folder with `manifest.csv` or a CSV file whose paths are relative to it.
/// An unknown label is an error that names it: silently dropped clips would bend every number.
pub fn read(corpus: &str, source: &Path, prompts: &Prompts) -> Result<Vec<Clip>> {
    let (file, rows) = rows(source)?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut clips = vec![];
    for (line, row) in rows.into_iter().enumerate() {
        let styles = prompts.concepts_of_label(&row.style);
        let Some(styles) = styles else {
            bail!(
                "{} line {}: the style {:?} is no label of the prompt file; add it to a style's `labels`",
                file.display(),
                line + 2,
                row.style
            )
        };
        let speaker = if row.speaker.is_empty() { format!("{corpus}:{}", row.path.display()) } else { row.speaker };
        let path = folder.join(row.path);
        clips.push(Clip { corpus: corpus.into(), path, speaker, styles, seconds: row.duration_s.unwrap_or(0.0) });
    }
    ensure!(!clips.is_empty(), "{} lists no clips", file.display());
    Ok(clips)
}

fn rows(source: &Path) -> Result<(PathBuf, Vec<Row>)> {
    let file = if source.is_dir() { source.join("manifest.csv") } else { source.to_path_buf() };
    let mut reader =
        csv::Reader::from_path(&file).with_context(|| format!("cannot read the manifest {}", file.display()))?;
    let numbered = reader.deserialize::<Row>().enumerate();
    let rows = numbered
        .map(|(line, row)| row.with_context(|| format!("{} line {}", file.display(), line + 2)))
        .collect::<Result<Vec<_>>>()?;
    Ok((file, rows))
}
