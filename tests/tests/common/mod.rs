//! What several server tests share.
#![allow(dead_code)] // each test file uses its own part

pub mod ranking;
pub mod vectors;

use std::io::Cursor;

use esr_tests::{
    cluster::{Cluster, Options},
    models::use_tiny_model,
};
use postgres::{Client, error::SqlState};

/// A running cluster with the extension and the tiny model.
pub fn cluster() -> Cluster {
    cluster_with(Options::default(), &[])
}

/// The same with settings of one's own; `more` are esr's settings.
pub fn cluster_with(options: Options, more: &[(&str, &str)]) -> Cluster {
    let mut cluster = Cluster::create(options).unwrap();
    use_tiny_model(&cluster, more).unwrap();
    cluster.start_again().unwrap();
    cluster.connect().unwrap().batch_execute("CREATE EXTENSION esr").unwrap();
    cluster
}

/// The same with a table `clips` that is attached in a mode.
pub fn attached(mode: &str) -> (Cluster, Client) {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    let table = "CREATE TABLE clips (id int PRIMARY KEY, note text, audio bytea, style esr_vector(8))";
    let attach = format!("SELECT esr_attach('clips', 'audio', 'style', mode => '{mode}')");
    session.batch_execute(&format!("{table}; {attach};")).unwrap();
    (cluster, session)
}

/// A WAV file: a tone of `hz` lasting `seconds`.
pub fn tone(hz: f32, seconds: f32) -> Vec<u8> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut bytes = Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
    for i in 0..(seconds * 16000.0) as u32 {
        let wave = (i as f32 / 16000.0 * hz * std::f32::consts::TAU).sin() * (1.0 + (i as f32 / 3000.0).sin());
        writer.write_sample((wave * 8000.0) as i16).unwrap();
    }
    writer.finalize().unwrap();
    bytes.into_inner()
}

/// `esr_embed_text(text)` as an array.
pub fn embed_text(session: &mut Client, text: &str) -> Result<Vec<f32>, postgres::Error> {
    Ok(session.query_one("SELECT esr_embed_text($1)::real[]", &[&text])?.get(0))
}

/// `esr_embed_speech(audio)` as an array.
pub fn embed_speech(session: &mut Client, audio: &[u8]) -> Result<Vec<f32>, postgres::Error> {
    Ok(session.query_one("SELECT esr_embed_speech($1::bytea)::real[]", &[&audio])?.get(0))
}

/// The SQLSTATE of a refusal by the server.
pub fn state(error: &postgres::Error) -> SqlState {
    error.code().unwrap_or_else(|| panic!("not a refusal by the server: {error:?}")).clone()
}

/// Message, detail and hint in one string.
pub fn words(error: &postgres::Error) -> String {
    let refusal = error.as_db_error().unwrap_or_else(|| panic!("not a refusal by the server: {error:?}"));
    format!("{} | {} | {}", refusal.message(), refusal.detail().unwrap_or(""), refusal.hint().unwrap_or(""))
}

/// Whether two vectors point the same way.
pub fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>() > 0.999_9
}

/// Makes a copied bundle another model: a blank more in its tokenizer's file changes the hash that its tag comes from.
pub fn change_identity(bundle: &std::path::Path, session: &mut Client) {
    let tokenizer = bundle.join("tokenizer.json");
    let hash = |session: &mut Client| -> String {
        let bytes = std::fs::read(&tokenizer).unwrap();
        session.query_one("SELECT encode(sha256($1), 'hex')", &[&bytes]).unwrap().get(0)
    };
    let before = hash(session);
    std::fs::write(&tokenizer, std::fs::read_to_string(&tokenizer).unwrap() + " ").unwrap();
    let manifest = bundle.join("manifest.toml");
    let text = std::fs::read_to_string(&manifest).unwrap().replace(&before, &hash(session));
    std::fs::write(&manifest, text).unwrap();
}
