//! Text queries of many sessions at once, alone and beside a backfill of clips; and a storm of calls during which everything
//! goes wrong.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use esr_tests::cluster::{Cluster, Options};
use esr_tests::processes::{cpu_seconds, resident_bytes};
use esr_tests::storm::{self, Storm};
use serde_json::json;

use crate::latency::sound;
use crate::measure::{percentile, processors};

/// Arguments of `esr-benches load`.
#[derive(clap::Args)]
pub struct LoadArguments {
    /// Sessions that ask for texts.
    #[arg(long, default_value_t = 32)]
    clients: usize,
    /// Sessions that embed clips in the background, 16 of 3 s at a time.
    #[arg(long, default_value_t = 1)]
    backfills: usize,
    /// How long each part is measured, in seconds.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// `esr.embedder_threads`.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// A line of `postgresql.conf`, such as `esr.cuda_precision=float16`; may be given several times.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
}

/// Arguments of `esr-benches storm`.
#[derive(clap::Args)]
pub struct StormArguments {
    /// Sessions.
    #[arg(long, default_value_t = 200)]
    connections: usize,
    /// Calls of all sessions together, a quarter of them clips.
    #[arg(long, default_value_t = 20_000)]
    calls: usize,
    /// How often the embedder is killed.
    #[arg(long, default_value_t = 10)]
    kills: usize,
    /// Of the random choices.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Measures on a private cluster; prints a table, then the same as one JSON object.
pub fn run(arguments: &LoadArguments) -> Result<()> {
    let mut options = Options::default()
        .set("autovacuum", "off")
        .set("max_connections", arguments.clients + arguments.backfills + 10)
        .set("esr.embedder_threads", arguments.threads)
        .set("shared_preload_libraries", "esr");
    options.settings.extend(arguments.settings.iter().cloned());
    let cluster = Cluster::start(options)?;
    let mut session = cluster.connect()?;
    session.batch_execute("CREATE EXTENSION esr")?;
    session.query_one("SELECT esr_embed_text('warm'), esr_embed_speech($1::bytea)", &[&sound(200.0, 1.0)?])?;
    let embedder = *cluster.embedders().first().ok_or_else(|| anyhow!("no embedder"))?;
    let loaded = resident_bytes(embedder);
    let idle = idle_processor(embedder);
    let alone = measure(&cluster, arguments, 0)?;
    let under_texts = resident_bytes(embedder);
    let beside = measure(&cluster, arguments, arguments.backfills)?;
    let under_both = resident_bytes(embedder);
    let device: String = session.query_one("SELECT device FROM esr_stat_embedder", &[])?.get(0);
    let idle_again = idle_processor(embedder);
    println!(
        "{} sessions asking for texts, {} processors, {} threads, on {device}",
        arguments.clients,
        processors(),
        arguments.threads
    );
    for (name, part) in [("alone", &alone), ("beside backfill", &beside)] {
        println!(
            "{name:<16} {:7.0} texts/s   p50 {:6.1} ms   p99 {:6.1} ms   mean batch {:5.1}   {:5.1} clips/s   embedder {:4.2} CPU",
            part.texts_per_second, part.p50_ms, part.p99_ms, part.mean_batch, part.clips_per_second, part.embedder_cpu
        );
    }
    let [a, b, c] = [loaded, under_texts, under_both].map(|bytes| bytes as f64 / 1e6);
    println!("embedder's memory: {a:.0} MB loaded, {b:.0} MB after texts, {c:.0} MB after both");
    println!("embedder's processor time while idle: {idle:.3} s in 3 s before, {idle_again:.3} s after");
    let part = |part: &Part| {
        json!({"texts_per_second": part.texts_per_second, "p50_ms": part.p50_ms, "p99_ms": part.p99_ms,
               "mean_batch": part.mean_batch, "clips_per_second": part.clips_per_second, "embedder_cpu": part.embedder_cpu})
    };
    println!(
        "{}",
        json!({
            "clients": arguments.clients, "processors": processors(), "device": device, "alone": part(&alone), "beside_backfill": part(&beside),
            "memory_loaded": loaded, "memory_texts": under_texts, "memory_both": under_both, "idle_cpu_s": idle_again,
        })
    );
    Ok(())
}

/// A setting of the command line.
pub fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a setting has the form NAME=VALUE")?;
    Ok((name.into(), value.into()))
}

/// Processor seconds of a process over three seconds in which nobody asks anything.
fn idle_processor(pid: i32) -> f64 {
    std::thread::sleep(Duration::from_millis(500));
    let before = cpu_seconds(pid);
    std::thread::sleep(Duration::from_secs(3));
    cpu_seconds(pid) - before
}

struct Part {
    texts_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    mean_batch: f64,
    clips_per_second: f64,
    /// Processors that the embedder kept busy.
    embedder_cpu: f64,
}

fn measure(cluster: &Cluster, arguments: &LoadArguments, backfills: usize) -> Result<Part> {
    let (is_over, clips) = (AtomicBool::new(false), AtomicUsize::new(0));
    let embedder = *cluster.embedders().first().ok_or_else(|| anyhow!("no embedder"))?;
    let counters = || -> Result<(i64, i64)> {
        let row = cluster
            .connect()?
            .query_one("SELECT batches, (batches * mean_batch)::bigint FROM esr_stat_embedder", &[])?;
        Ok((row.get(0), row.get(1)))
    };
    let before = counters()?;
    let (start, spent) = (Instant::now(), cpu_seconds(embedder));
    let mut times = std::thread::scope(|scope| -> Result<Vec<f64>> {
        let asking: Vec<_> = (0..arguments.clients)
            .map(|client| {
                let is_over = &is_over;
                scope.spawn(move || texts(cluster, client, is_over))
            })
            .collect();
        let filling: Vec<_> = (0..backfills)
            .map(|at| {
                let (is_over, clips) = (&is_over, &clips);
                scope.spawn(move || backfill(cluster, at, is_over, clips))
            })
            .collect();
        std::thread::sleep(Duration::from_secs_f64(arguments.seconds));
        is_over.store(true, Ordering::SeqCst);
        let mut times = Vec::new();
        for thread in asking {
            times.extend(thread.join().map_err(|_| anyhow!("a client panicked"))??);
        }
        for thread in filling {
            thread.join().map_err(|_| anyhow!("a backfill panicked"))??;
        }
        Ok(times)
    })?;
    let (took, spent) = (start.elapsed().as_secs_f64(), cpu_seconds(embedder) - spent);
    let after = counters()?;
    Ok(Part {
        texts_per_second: times.len() as f64 / took,
        p50_ms: percentile(&mut times, 0.5),
        p99_ms: percentile(&mut times, 0.99),
        mean_batch: (after.1 - before.1) as f64 / (after.0 - before.0).max(1) as f64,
        clips_per_second: clips.load(Ordering::SeqCst) as f64 / took,
        embedder_cpu: spent / took,
    })
}

/// Milliseconds that each text took.
fn texts(cluster: &Cluster, client: usize, is_over: &AtomicBool) -> Result<Vec<f64>> {
    const STYLES: [&str; 8] = ["angry", "soft", "whispering", "bored", "joyful", "tired", "sarcastic", "proud"];
    let mut session = cluster.connect()?;
    // The answer must come from the embedder each time, not from the session's memory.
    session.batch_execute("SET esr.text_cache_size = 0")?;
    let statement = session.prepare("SELECT esr_embed_text($1) IS NOT NULL")?;
    let mut times = Vec::new();
    for call in 0.. {
        if is_over.load(Ordering::SeqCst) {
            break;
        }
        let text = format!("a {} voice number {}", STYLES[(client + call) % STYLES.len()], call % 97);
        let start = Instant::now();
        session.query_one(&statement, &[&text])?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

fn backfill(cluster: &Cluster, at: usize, is_over: &AtomicBool, done: &AtomicUsize) -> Result<()> {
    let clips: Vec<Vec<u8>> =
        (0..16).map(|clip| sound(100.0 + 20.0 * (at * 16 + clip) as f32, 3.0)).collect::<Result<_>>()?;
    let clips: Vec<&[u8]> = clips.iter().map(Vec::as_slice).collect();
    let mut session = cluster.connect()?;
    session.batch_execute("SELECT esr_dims('[1]'); SET esr.request_class = 'backfill'")?;
    while !is_over.load(Ordering::SeqCst) {
        session.query_one("SELECT cardinality(esr_embed_speech($1::bytea[]))", &[&clips])?;
        done.fetch_add(clips.len(), Ordering::SeqCst);
    }
    Ok(())
}

/// Two hundred sessions, twenty thousand calls, cancels, timeouts, terminations, a dying embedder.
pub fn run_storm(arguments: &StormArguments) -> Result<()> {
    let cluster = Cluster::start(Options::default().set("max_connections", arguments.connections + 20))?;
    cluster.connect()?.batch_execute("CREATE EXTENSION esr")?;
    let clips = [0.6f32, 0.7, 1.0, 1.5, 2.0].map(|seconds| sound(100.0 + 50.0 * seconds, seconds));
    let clips = clips.into_iter().collect::<Result<Vec<_>>>()?;
    let &StormArguments { connections, calls, kills, seed } = arguments;
    let mut outcome = storm::run(&cluster, &Storm { connections, calls, kills, seed, clips })?;
    println!("{calls} calls of {connections} sessions in {:.1} s", outcome.took.as_secs_f64());
    println!("answered rightly: {}; failed, by SQLSTATE: {:?}", outcome.answered, outcome.failed);
    println!(
        "embedder killed {} times, statements cancelled {} times, sessions terminated {} times",
        outcome.killed, outcome.cancelled, outcome.terminated
    );
    let (p50, p99) = (percentile(&mut outcome.latencies, 0.5), percentile(&mut outcome.latencies, 0.99));
    println!("answered within: p50 {p50:.1} ms, p99 {p99:.1} ms");
    Ok(())
}
