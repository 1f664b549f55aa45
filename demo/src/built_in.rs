//! Clips for a machine that has none: synthesised ones, and real voices out of a Debian package.
//!
//! What to make is said in `clips.toml`. A source that cannot be had (no network, no synthesiser) is left out aloud.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::clip::{Clip, Dataset};

const LIST: &str = include_str!("../clips.toml");

#[derive(Deserialize)]
struct List {
    sentences: Vec<String>,
    dataset: Vec<DatasetEntry>,
    espeak: Vec<Synthesised>,
    flite: Synthesised,
    game: Game,
}

#[derive(Deserialize)]
struct DatasetEntry {
    name: String,
    licence: String,
    source: String,
}

#[derive(Deserialize)]
struct Synthesised {
    style: String,
    voices: Vec<String>,
    #[serde(default)]
    options: Vec<String>,
    sentences: usize,
}

#[derive(Deserialize)]
struct Game {
    package: String,
    folder: String,
    casts: Vec<String>,
    lines: BTreeMap<String, Vec<String>>,
}

/// Makes or fetches every clip into `folder` (those already there are kept) and lists them.
pub fn prepare(folder: &Path) -> Result<Vec<Clip>> {
    let list: List = toml::from_str(LIST)?;
    let dataset = |name: &str| -> Result<Dataset> {
        let entry = list.dataset.iter().find(|entry| entry.name == name).context("clips.toml names its data sets")?;
        let (licence, source) = (Some(entry.licence.clone()), Some(entry.source.clone()));
        Ok(Dataset { name: entry.name.clone(), licence, source })
    };
    let mut clips = Vec::new();
    // Each kind begins with another sentence, so that no style always says the same.
    for (first, kind) in list.espeak.iter().enumerate() {
        let make = |voice: &str, text: &str, file: &Path| {
            let mut command = Command::new("espeak-ng");
            command.args(["-v", voice]).args(&kind.options).arg("-w").arg(file).arg(text);
            // It calls on PulseAudio's library though it plays nothing, and that writes into a new home's folders and draws from
            // the generator of the whispers' noise, which then sound another way.
            command.env("PULSE_SERVER", "unix:/nonexistent");
            command
        };
        clips.extend(synthesise(kind, &list.sentences, first, &dataset("espeak-ng")?, folder, make));
    }
    let make = |voice: &str, text: &str, file: &Path| {
        let mut command = Command::new("flite");
        command.args(["-voice", voice, "-t", text]).arg(file);
        command
    };
    clips.extend(synthesise(&list.flite, &list.sentences, 0, &dataset("flite")?, folder, make));
    match game_voices(&list.game, &folder.join("game")) {
        Ok(voices) => clips.extend(game_clips(&list.game, &voices, &dataset("hedgewars")?)),
        Err(error) => eprintln!("left out the recorded voices of {}: {error:#}", list.game.package),
    }
    Ok(clips)
}

fn synthesise(
    kind: &Synthesised,
    sentences: &[String],
    first: usize,
    dataset: &Dataset,
    folder: &Path,
    make: impl Fn(&str, &str, &Path) -> Command,
) -> Vec<Clip> {
    let mut clips = Vec::new();
    let folder = folder.join(&dataset.name);
    for (number, voice) in kind.voices.iter().enumerate() {
        for i in 0..kind.sentences {
            let sentence = (first + number * kind.sentences + i) % sentences.len();
            let text = &sentences[sentence];
            let path = format!("{}-{voice}-{sentence}.wav", kind.style);
            let file = folder.join(&path);
            if let Err(error) = once(&file, |part| run(&mut make(voice, text, part))) {
                eprintln!("left out {} clips of {} by {voice}: {error:#}", kind.style, dataset.name);
                break;
            }
            clips.push(Clip {
                file,
                path,
                dataset: dataset.clone(),
                speaker: voice.clone(),
                label: Some(kind.style.clone()),
                transcript: Some(text.clone()),
                language: Some("en".into()),
            });
        }
    }
    clips
}

/// The folder of the game's voices, taken out of its Debian package without installing it.
fn game_voices(game: &Game, folder: &Path) -> Result<PathBuf> {
    let voices = folder.join(&game.folder);
    if voices.is_dir() {
        return Ok(voices);
    }
    println!("fetching {} for its recorded voices (140 MB, once)", game.package);
    let download = folder.with_extension("download");
    let _ = fs::remove_dir_all(&download);
    fs::create_dir_all(&download)?;
    run(Command::new("apt-get").args(["download", "-q", &game.package]).current_dir(&download))?;
    let package = fs::read_dir(&download)?.flatten().next().context("apt-get download left no file")?.path();
    let unpacked = download.join("unpacked");
    run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&unpacked))?;
    // Only the voices are kept, not the other 150 MB of the game.
    let destination = folder.join(&game.folder);
    fs::create_dir_all(destination.parent().context("a folder inside the package")?)?;
    fs::rename(unpacked.join(&game.folder), &destination)?;
    fs::remove_dir_all(&download)?;
    Ok(voices)
}

fn game_clips(game: &Game, voices: &Path, dataset: &Dataset) -> Vec<Clip> {
    let mut clips = Vec::new();
    for (style, lines) in &game.lines {
        for (cast, line) in game.casts.iter().flat_map(|cast| lines.iter().map(move |line| (cast, line))) {
            let path = format!("{cast}/{line}.ogg");
            let file = voices.join(&path);
            // Not every cast has every line.
            if file.is_file() {
                clips.push(Clip {
                    file,
                    path,
                    dataset: dataset.clone(),
                    speaker: cast.clone(),
                    label: Some(style.clone()),
                    transcript: None,
                    language: Some("en".into()),
                });
            }
        }
    }
    clips
}

/// Makes a file unless it is there, under another name first, so that a broken run leaves no half file behind.
fn once(file: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if file.exists() {
        return Ok(());
    }
    fs::create_dir_all(file.parent().context("a file has a folder")?)?;
    let part = file.with_extension("part.wav");
    make(&part)?;
    ensure!(fs::metadata(&part).is_ok_and(|data| data.len() > 1000), "made no sound");
    Ok(fs::rename(&part, file)?)
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {program}"))?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_enough_clips_and_styles_without_the_network() {
        let list: List = toml::from_str(LIST).unwrap();
        let made: usize = list.espeak.iter().map(|kind| kind.voices.len() * kind.sentences).sum::<usize>()
            + list.flite.voices.len() * list.flite.sentences;
        let real: usize = list.game.lines.values().map(|lines| lines.len() * list.game.casts.len()).sum();
        assert!(made >= 50, "{made} synthesised clips");
        assert!(made + real >= 60);
        assert!(list.espeak.len() + 1 + list.game.lines.len() >= 10);
    }
}
