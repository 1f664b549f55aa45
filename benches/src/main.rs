//! `esr-benches`: exact scans and embedding latency through SQL, on a private cluster.
//!
//! CPU time comes from the process accounting of the backend, so that a noisy machine matters less. Prints a table, then
//! the same as one JSON object. Run by `make bench`.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;
use esr_tests::{
    cluster::{Cluster, Options},
    processes::cpu_seconds,
};
use postgres::Client;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

const ROWS: usize = 100_000;
const DIMENSIONS: usize = 512;
const SEED: u64 = 7;

fn main() -> Result<()> {
    let options =
        Options::default().set("shared_buffers", "1200MB").set("max_wal_size", "4GB").set("autovacuum", "off");
    let cluster = Cluster::start(options)?;
    let mut session = cluster.connect()?;
    session.batch_execute("CREATE EXTENSION esr")?;
    let scans = exact_scans(&mut session)?;
    for Scan { name, cpu_ms, .. } in &scans {
        println!("exact ORDER BY {name} LIMIT 10 over {ROWS} x {DIMENSIONS}: {cpu_ms:.1} ms of CPU a query");
    }
    let text = text_latency(&cluster)?;
    println!("esr_embed_text of a text not seen before: p50 {:.1} ms, p99 {:.1} ms", text.p50, text.p99);
    let speech = speech_latency(&cluster)?;
    println!("esr_embed_speech of a 3 s WAV: p50 {:.1} ms, p99 {:.1} ms", speech.p50, speech.p99);
    println!(
        "{}",
        json!({
            "rows": ROWS, "dimensions": DIMENSIONS, "seed": SEED,
            "exact_scan_cpu_ms": scans.iter().map(|scan| (scan.name, scan.cpu_ms)).collect::<BTreeMap<_, _>>(),
            "text_p50_ms": text.p50, "text_p99_ms": text.p99, "speech_3s_p50_ms": speech.p50, "speech_3s_p99_ms": speech.p99,
            "processors": std::thread::available_parallelism()?.get(),
        })
    );
    Ok(())
}

/// One way of ranking all rows.
struct Scan {
    name: &'static str,
    query: &'static str,
    /// CPU milliseconds of the backend for one query, the table being in shared buffers.
    cpu_ms: f64,
}

/// Our exact scan, what PostgreSQL alone takes for sorting the same table by a number in its rows, and pgvector's scan with
/// vectors inline, where the PostgreSQL that is measured has pgvector. In turns, so that all meet the same machine.
fn exact_scans(session: &mut Client) -> Result<Vec<Scan>> {
    use std::io::Write;
    session.batch_execute("CREATE TABLE v (id int, style esr_vector(512)); SET max_parallel_workers_per_gather = 0")?;
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut copy = session.copy_in("COPY v FROM STDIN")?;
    let mut line = String::new();
    for id in 0..ROWS {
        use std::fmt::Write as _;
        line.clear();
        write!(line, "{id}\t[")?;
        for i in 0..DIMENSIONS {
            write!(line, "{}{:.4}", if i == 0 { "" } else { "," }, random.random_range(-1.0f32..1.0))?;
        }
        line.push_str("]\n");
        copy.write_all(line.as_bytes())?;
    }
    copy.finish()?;
    session.batch_execute("VACUUM (FREEZE, ANALYZE) v")?;
    let target: Vec<f32> = (0..DIMENSIONS).map(|_| random.random_range(-1.0f32..1.0)).collect();
    let mut scans = vec![
        Scan { name: "<=>", query: "SELECT id FROM v ORDER BY style <=> $1::real[]::esr_vector LIMIT 10", cpu_ms: 0.0 },
        Scan {
            name: "id::float8 (no vector is read)",
            query: "SELECT id FROM v WHERE $1::real[] IS NOT NULL ORDER BY id::float8 LIMIT 10",
            cpu_ms: 0.0,
        },
    ];
    if session.query_opt("SELECT FROM pg_available_extensions WHERE name = 'vector'", &[])?.is_some() {
        session.batch_execute(
            "CREATE EXTENSION vector; CREATE TABLE pgv (id int, style vector(512));
             ALTER TABLE pgv ALTER style SET STORAGE plain;
             INSERT INTO pgv SELECT id, style::real[]::vector FROM v",
        )?;
        session.batch_execute("VACUUM (FREEZE, ANALYZE) pgv")?;
        let query = "SELECT id FROM pgv ORDER BY style <=> $1::real[]::vector LIMIT 10";
        scans.push(Scan { name: "pgvector's <=>", query, cpu_ms: 0.0 });
    }
    let pid: i32 = session.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    let (rounds, repeats) = (8, 10);
    for scan in &scans {
        session.query(scan.query, &[&target])?;
    }
    for _ in 0..rounds {
        for scan in &mut scans {
            let before = cpu_seconds(pid);
            for _ in 0..repeats {
                session.query(scan.query, &[&target])?;
            }
            scan.cpu_ms += (cpu_seconds(pid) - before) * 1000.0 / f64::from(rounds * repeats);
        }
    }
    Ok(scans)
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
    times.sort_by(f64::total_cmp);
    Ok(Latency { p50: times[times.len() / 2], p99: times[times.len() * 99 / 100] })
}

/// A WAV file with a buzzing, wavering tone: speech-like enough to keep every layer busy.
fn sound(hz: f32, seconds: f32) -> Result<Vec<u8>> {
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
