//! Anyone's folder of audio files, with or without manifests.
//!
//! A `manifest.csv` describes the files of its own folder; audio files that no manifest names are taken as they are, the
//! name of their folder serving as speaker. Every folder with a manifest is a data set of its own.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use walkdir::WalkDir;

use crate::clip::{Clip, Dataset};

const AUDIO: [&str; 10] = ["wav", "wave", "flac", "ogg", "oga", "mp3", "m4a", "mp4", "aac", "caf"];

#[derive(Deserialize)]
struct Row {
    #[serde(alias = "file", alias = "filename")]
    path: String,
    #[serde(default)]
    speaker: Option<String>,
    #[serde(default, alias = "label", alias = "emotion")]
    style: Option<String>,
    #[serde(default, alias = "transcript", alias = "sentence")]
    text: Option<String>,
    #[serde(default)]
    language: Option<String>,
}

/// Every clip under a folder, in a stable order.
pub fn read(folder: &Path) -> Result<Vec<Clip>> {
    ensure!(folder.is_dir(), "{} is not a folder", folder.display());
    let folder = folder.canonicalize()?;
    let files: Vec<PathBuf> = WalkDir::new(&folder)
        .follow_links(true)
        .sort_by_file_name()
        .into_iter()
        .filter_map(|entry| entry.inspect_err(|error| eprintln!("skipped: {error}")).ok())
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| entry.into_path())
        .collect();
    let mut clips = Vec::new();
    for manifest in files.iter().filter(|file| file.file_name().is_some_and(|name| name == "manifest.csv")) {
        clips.extend(read_manifest(manifest)?);
    }
    let described: HashSet<PathBuf> = clips.iter().map(|clip| clip.file.clone()).collect();
    let others = files.iter().filter(|file| is_audio(file) && !described.contains(*file));
    let dataset = dataset_of(&folder);
    clips.extend(others.map(|file| Clip {
        file: file.clone(),
        path: file.strip_prefix(&folder).unwrap_or(file).display().to_string(),
        dataset: dataset.clone(),
        speaker: name_of(file.parent().unwrap_or(&folder)),
        label: None,
        transcript: None,
        language: None,
    }));
    Ok(clips)
}

fn read_manifest(manifest: &Path) -> Result<Vec<Clip>> {
    let folder = manifest.parent().context("a manifest lies in a folder")?;
    let dataset = dataset_of(folder);
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_path(manifest)?;
    let some = |field: Option<String>| field.map(|text| text.trim().to_string()).filter(|text| !text.is_empty());
    let mut clips = Vec::new();
    for (number, row) in reader.deserialize::<Row>().enumerate() {
        let row = row.with_context(|| format!("{} row {}", manifest.display(), number + 2))?;
        let file = folder.join(&row.path);
        if !file.is_file() {
            eprintln!("skipped: {} names {}, which is not there", manifest.display(), row.path);
            continue;
        }
        clips.push(Clip {
            file,
            path: row.path,
            dataset: dataset.clone(),
            speaker: some(row.speaker).unwrap_or_else(|| "unknown".into()),
            label: some(row.style),
            transcript: some(row.text),
            language: some(row.language),
        });
    }
    Ok(clips)
}

fn dataset_of(folder: &Path) -> Dataset {
    Dataset { name: name_of(folder), licence: None, source: None }
}

fn name_of(folder: &Path) -> String {
    folder.file_name().map_or_else(|| "clips".into(), |name| name.to_string_lossy().into_owned())
}

fn is_audio(file: &Path) -> bool {
    let extension = file.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    extension.is_some_and(|extension| AUDIO.contains(&extension.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_describe_and_other_files_are_taken_as_they_are() {
        let root = std::env::temp_dir().join(format!("esr-demo-folder-{}", std::process::id()));
        std::fs::create_dir_all(root.join("set/loose")).unwrap();
        for file in ["set/a.wav", "set/loose/B.FLAC", "set/notes.txt"] {
            std::fs::write(root.join(file), "x").unwrap();
        }
        let manifest = "path,speaker,style,text\na.wav,ann,sad,\"hello, you\"\nmissing.wav,ann,sad,\n";
        std::fs::write(root.join("set/manifest.csv"), manifest).unwrap();
        let clips = read(&root).unwrap();
        std::fs::remove_dir_all(&root).unwrap();
        let seen: Vec<_> = clips.iter().map(|c| (c.path.as_str(), c.speaker.as_str(), c.label.as_deref())).collect();
        assert_eq!(seen, [("a.wav", "ann", Some("sad")), ("set/loose/B.FLAC", "loose", None)]);
        assert_eq!(clips[0].transcript.as_deref(), Some("hello, you"));
        assert_eq!(clips[0].dataset.name, "set");
    }
}
