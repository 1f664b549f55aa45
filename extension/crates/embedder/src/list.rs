//! `esr-embedder embed`: files and texts in, one JSON object a line out. Knows no sockets.

use std::io::Write;
use std::path::{Path, PathBuf};

use esr_audio::{Limits, Waveform};
use esr_encoder::{Cancel, EmbedError, Embedding, Encoder};
use serde::Serialize;

/// Inputs that are embedded together.
const BATCH: usize = 32;

/// One thing to embed.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// An audio file.
    Speech(PathBuf),
    /// A description.
    Text(String),
}

/// A line of output.
#[derive(Debug, Serialize)]
struct Line<'a> {
    kind: &'static str,
    input: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding: Option<&'a [f32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Embeds every input and writes one line each, in order; an input that fails has an `error` instead of an `embedding`
/// and stops nothing. Returns how many failed.
pub fn run(
    encoder: &mut Encoder,
    inputs: &[Input],
    limits: &Limits,
    out: &mut impl Write,
) -> Result<usize, std::io::Error> {
    let mut failed = 0;
    for part in inputs.chunks(BATCH) {
        for (input, result) in part.iter().zip(embed(encoder, part, limits)) {
            failed += usize::from(result.is_err());
            let path;
            let (kind, input) = match input {
                Input::Speech(file) => {
                    path = file.to_string_lossy();
                    ("speech", path.as_ref())
                }
                Input::Text(text) => ("text", text.as_str()),
            };
            let (embedding, error) = match &result {
                Ok(embedding) => (Some(embedding.as_slice()), None),
                Err(error) => (None, Some(error.clone())),
            };
            serde_json::to_writer(&mut *out, &Line { kind, input, embedding, error })?;
            out.write_all(b"\n")?;
        }
    }
    out.flush()?;
    Ok(failed)
}

fn embed(encoder: &mut Encoder, part: &[Input], limits: &Limits) -> Vec<Result<Embedding, String>> {
    let rate = encoder.sample_rate();
    let mut results: Vec<Option<Result<Embedding, String>>> = vec![None; part.len()];
    let (mut clips, mut clip_places) = (Vec::new(), Vec::new());
    let (mut texts, mut text_places) = (Vec::new(), Vec::new());
    for (at, input) in part.iter().enumerate() {
        match input {
            Input::Text(text) => {
                texts.push(text.as_str());
                text_places.push(at);
            }
            Input::Speech(path) => match read(path, limits, rate) {
                Ok(clip) => {
                    clips.push(clip);
                    clip_places.push(at);
                }
                Err(error) => results[at] = Some(Err(error)),
            },
        }
    }
    let texts = each(&texts, |texts| encoder.embed_texts(texts, &Cancel::default()));
    let clips = each(&clips, |clips| encoder.embed_speech(clips, &Cancel::default()));
    for (at, result) in text_places.into_iter().zip(texts).chain(clip_places.into_iter().zip(clips)) {
        results[at] = Some(result);
    }
    results.into_iter().map(|result| result.unwrap_or_else(|| Err("not embedded".into()))).collect()
}

/// All at once, or one by one if one of them is wrong.
fn each<T>(
    inputs: &[T],
    mut embed: impl FnMut(&[T]) -> Result<Vec<Embedding>, EmbedError>,
) -> Vec<Result<Embedding, String>> {
    if let Ok(embeddings) = embed(inputs) {
        return embeddings.into_iter().map(Ok).collect();
    }
    let one = |input: &T| match embed(std::slice::from_ref(input)) {
        Ok(mut embeddings) if embeddings.len() == 1 => Ok(embeddings.remove(0)),
        Ok(_) => Err("not embedded".into()),
        // The position in a request of one says nothing.
        Err(EmbedError::Text { source, .. }) => Err(source.to_string()),
        Err(error) => Err(error.to_string()),
    };
    inputs.iter().map(one).collect()
}

fn read(path: &Path, limits: &Limits, rate: u32) -> Result<Waveform, String> {
    // One byte more than allowed is enough to see that there are too many.
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| std::io::Read::read_to_end(&mut std::io::Read::take(file, limits.max_bytes + 1), &mut bytes))
        .map_err(|error| format!("cannot read the file: {error}"))?;
    let pcm = esr_audio::decode(&bytes, limits).map_err(|error| error.to_string())?;
    pcm.to_model_rate(rate).map_err(|error| error.to_string())
}
