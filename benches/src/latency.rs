//! How long a session waits for an embedding.

use std::time::Instant;

use anyhow::Result;
use esr_tests::cluster::{Cluster, Options};
use serde_json::json;

use crate::measure::percentile;

/// Measures on a private cluster; prints a table, then the same as one JSON object.
pub fn run() -> Result<()> {
    let cluster = Cluster::start(Options::default().set("autovacuum", "off"))?;
    cluster.connect()?.batch_execute("CREATE EXTENSION esr")?;
    let text = text_latency(&cluster)?;
    println!("esr_embed_text of a text not seen before: p50 {:.1} ms, p99 {:.1} ms", text.p50, text.p99);
    let speech = speech_latency(&cluster)?;
    println!("esr_embed_speech of a 3 s WAV: p50 {:.1} ms, p99 {:.1} ms", speech.p50, speech.p99);
    println!(
        "{}",
        json!({
            "text_p50_ms": text.p50, "text_p99_ms": text.p99, "speech_3s_p50_ms": speech.p50, "speech_3s_p99_ms": speech.p99,
            "processors": crate::measure::processors(),
        })
    );
    Ok(())
}

struct Latency {
    p50: f64,
    p99: f64,
}

fn text_latency(cluster: &Cluster) -> Result<Latency> {
    let adjectives =
        ["angry", "soft", "whispering", "bored", "joyful", "tired", "sarcastic", "trembling", "proud", "flat"];
    let nouns = ["voice", "tone", "delivery", "reading", "shout", "murmur", "laugh", "sigh", "remark", "announcement"];
    let texts: Vec<String> = adjectives
        .iter()
        .flat_map(|a| nouns.iter().flat_map(move |n| ["a", "one very"].map(|article| format!("{article} {a} {n}"))))
        .collect();
    let mut session = cluster.connect()?;
    session.query_one("SELECT esr_embed_text('warm up')", &[])?;
    let statement = session.prepare("SELECT esr_embed_text($1) IS NOT NULL")?;
    time_each(&texts, |text| Ok(session.query_one(&statement, &[text]).map(drop)?))
}

fn speech_latency(cluster: &Cluster) -> Result<Latency> {
    let clips = (0..60).map(|i| sound(120.0 + 5.0 * i as f32, 3.0)).collect::<Result<Vec<_>>>()?;
    let mut session = cluster.connect()?;
    let statement = session.prepare("SELECT esr_embed_speech($1::bytea) IS NOT NULL")?;
    session.query_one(&statement, &[&clips[0]])?;
    time_each(&clips, |clip| Ok(session.query_one(&statement, &[clip]).map(drop)?))
}

fn time_each<T>(inputs: &[T], mut run: impl FnMut(&T) -> Result<()>) -> Result<Latency> {
    let mut times = Vec::new();
    for input in inputs {
        let start = Instant::now();
        run(input)?;
        times.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(Latency { p50: percentile(&mut times, 0.5), p99: percentile(&mut times, 0.99) })
}

/// A WAV file with a buzzing, wavering tone: speech-like enough to keep every layer busy.
pub fn sound(hz: f32, seconds: f32) -> Result<Vec<u8>> {
    let sample_format = hound::SampleFormat::Int;
    let spec = hound::WavSpec { channels: 1, sample_rate: 16000, bits_per_sample: 16, sample_format };
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec)?;
    for i in 0..(seconds * 16000.0) as u32 {
        let time = i as f32 / 16000.0;
        let buzz: f32 = (1..9).map(|k| (time * hz * k as f32 * std::f32::consts::TAU).sin() / k as f32).sum();
        writer.write_sample((buzz * 3000.0 * (1.0 + (time * 20.0).sin())) as i16)?;
    }
    writer.finalize()?;
    Ok(bytes.into_inner())
}
