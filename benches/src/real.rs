//! Real embeddings: a bundle's vectors of speech corpora and of style descriptions, made once and kept in a file.
//!
//! Rows are clips in a seeded order. *Text-like* queries are descriptions from the trainer's phrases and templates.
//! *Data-like* queries and the rows added later are clips that are not among the rows.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use crate::{
    data::{Dataset, Sizes, Vectors},
    measure::processors,
    progress::{Progress, note},
    random::DIMENSIONS,
};

/// Audio files by the ends of their names.
const AUDIO: [&str; 6] = ["ogg", "wav", "flac", "mp3", "m4a", "aac"];

/// Where real data comes from.
#[derive(Debug, Args)]
pub struct RealArguments {
    /// Folder with speech, for `--data real`; searched to any depth.
    #[arg(long, value_name = "FOLDER", default_value = "../shared/data")]
    corpora: PathBuf,
    /// The bundle that embeds it.
    #[arg(long, value_name = "FOLDER", default_value = "models/default")]
    bundle: PathBuf,
    /// Phrases and templates that the text queries are made of.
    #[arg(long, value_name = "FILE", default_value = "trainer/data/prompts.toml")]
    prompts: PathBuf,
    /// The program that runs the bundle; it finds ONNX Runtime by `ORT_DYLIB_PATH`.
    #[arg(long, value_name = "PROGRAM", default_value = "target/release/esr-embedder")]
    embedder: PathBuf,
}

/// Loads or makes the embeddings.
pub fn load(arguments: &RealArguments, cache: &Path, seed: u64, sizes: Sizes) -> Result<Dataset> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut clips = Vec::new();
    find_audio(&arguments.corpora, &mut clips)?;
    clips.sort();
    clips.shuffle(&mut random);
    let mut texts = descriptions(&arguments.prompts)?;
    texts.shuffle(&mut random);
    texts.truncate(sizes.queries);
    let manifest = fs::read(arguments.bundle.join("manifest.toml")).context("reading the bundle's manifest")?;
    let clips: Vec<String> = clips.iter().map(|path| path.display().to_string()).collect();
    let mut speech = embeddings(arguments, cache, "speech", &clips, &manifest)?;
    let text_like = embeddings(arguments, cache, "text", &texts, &manifest)?;
    // A tenth of the clips at most for each purpose beside being rows.
    let part = speech.len() / 10;
    let data_like = speech.split_off(speech.len() - sizes.queries.min(part));
    let later = speech.split_off(speech.len() - sizes.later.min(part));
    speech.split_off(sizes.rows);
    ensure!(speech.len() >= 100, "only {} clips in {}", speech.len(), arguments.corpora.display());
    Ok(Dataset { rows: speech, later, text_like, data_like })
}

fn find_audio(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            find_audio(&path, found)?;
        } else if path.extension().and_then(|end| end.to_str()).is_some_and(|end| AUDIO.contains(&end)) {
            found.push(path);
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct Prompts {
    templates: BTreeMap<String, Halves<Vec<String>>>,
    style: Vec<Halves<BTreeMap<String, Vec<String>>>>,
}

#[derive(Deserialize)]
struct Halves<T> {
    train: T,
    heldout: T,
}

/// Every phrase in every template of its kind, those that were trained with and those that were not.
fn descriptions(file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let prompts: Prompts = toml::from_str(&text).with_context(|| format!("{} is not as expected", file.display()))?;
    let mut all = Vec::new();
    for style in &prompts.style {
        for (kind, phrases) in style.train.iter().chain(&style.heldout) {
            let Some(templates) = prompts.templates.get(kind) else { continue };
            for template in templates.train.iter().chain(&templates.heldout) {
                all.extend(phrases.iter().map(|phrase| fill(template, phrase)));
            }
        }
    }
    all.sort();
    all.dedup();
    ensure!(!all.is_empty(), "{} has no phrases", file.display());
    Ok(all)
}

fn fill(template: &str, phrase: &str) -> String {
    let article = if phrase.starts_with(['a', 'e', 'i', 'o', 'u']) { "an {x}" } else { "a {x}" };
    template.replace("a {x}", article).replace("{x}", phrase)
}

/// Embeds a list of inputs, or reads what an earlier run made of the same list with the same bundle.
fn embeddings(
    arguments: &RealArguments,
    cache: &Path,
    kind: &str,
    inputs: &[String],
    manifest: &[u8],
) -> Result<Vectors> {
    let bytes = manifest.iter().chain(inputs.iter().flat_map(|input| input.as_bytes()));
    let key = bytes
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let file = cache.join(format!("real-{kind}-{key:016x}.f32"));
    if let Ok(bytes) = fs::read(&file) {
        let (elements, _) = bytes.as_chunks();
        return Ok(Vectors::new(elements.iter().map(|element| f32::from_le_bytes(*element)).collect()));
    }
    fs::create_dir_all(cache)?;
    let list = cache.join(format!("real-{kind}.list"));
    fs::write(&list, inputs.join("\n") + "\n")?;
    let values = embed(arguments, kind, &list, inputs.len())?;
    let mut out = std::io::BufWriter::new(fs::File::create(&file)?);
    for value in &values {
        out.write_all(&value.to_le_bytes())?;
    }
    out.flush()?;
    Ok(Vectors::new(values))
}

#[derive(Deserialize)]
struct Line {
    input: String,
    embedding: Option<Vec<f32>>,
    error: Option<String>,
}

fn embed(arguments: &RealArguments, kind: &str, list: &Path, count: usize) -> Result<Vec<f32>> {
    let mut command = Command::new(&arguments.embedder);
    command.arg("embed").arg("--bundle").arg(&arguments.bundle).arg(format!("--{kind}-list")).arg(list);
    command.arg("--threads").arg(processors().to_string()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting {}", arguments.embedder.display()))?;
    let output = child.stdout.take().context("the embedder's output is piped")?;
    let progress = Progress::new(format!("embedding {kind}"), count);
    let mut values = Vec::with_capacity(count * DIMENSIONS);
    let mut failed = 0;
    for (i, line) in BufReader::new(output).lines().enumerate() {
        let line: Line = serde_json::from_str(&line?).context("the embedder's output")?;
        match line.embedding {
            Some(embedding) => {
                ensure!(embedding.len() == DIMENSIONS, "the bundle's vectors have {} elements", embedding.len());
                values.extend(embedding);
            }
            None => {
                failed += 1;
                note(&format!("  left out: {}: {}", line.input, line.error.unwrap_or_default()));
            }
        }
        progress.at(i);
    }
    // It ends with an error if any input failed, which is reported above; having no output at all is fatal.
    child.wait()?;
    ensure!(!values.is_empty(), "{} embedded none of {count} inputs", arguments.embedder.display());
    note(&format!("  embedded {} of {count}, {failed} left out", values.len() / DIMENSIONS));
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_take_the_right_article() {
        assert_eq!(fill("a {x} voice", "angry"), "an angry voice");
        assert_eq!(fill("a {x} voice", "calm"), "a calm voice");
        assert_eq!(fill("the speaker sounds {x}", "awed"), "the speaker sounds awed");
    }

    #[test]
    fn the_trainers_prompts_give_thousands_of_descriptions() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../trainer/data/prompts.toml");
        let all = descriptions(&file).unwrap();
        assert!(all.len() > 2000, "{}", all.len());
        assert!(all.iter().all(|text| !text.contains('{')));
    }
}
