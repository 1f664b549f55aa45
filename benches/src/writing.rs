//! How fast clips get into a table: COPY and row by row, in both modes, beside what the embedder does on the same machine.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use esr_tests::cluster::{Cluster, Options, wait_until};
use serde_json::json;

use crate::latency::sound;
use crate::measure::percentile;

/// How clips are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    /// `esr_embed_speech` of arrays, nothing stored.
    Arrays,
    /// COPY into a table without a trigger: what storing the clips takes, whoever embeds them.
    Bare,
    /// COPY, mode `sync`.
    Copy,
    /// COPY, mode `queue`.
    Queue,
    /// INSERT row by row from many connections, mode `sync`.
    Rows,
}

/// What to write.
#[derive(Args)]
pub struct WritingArguments {
    /// Clips written in each way.
    #[arg(long, default_value_t = 400)]
    clips: usize,
    /// Length of a clip, seconds.
    #[arg(long, default_value_t = 3.0)]
    seconds: f32,
    /// Connections that insert row by row.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Threads of one inference, in the server and in the program without one; by default one for each processor.
    #[arg(long)]
    threads: Option<usize>,
    /// Rounds; `esr-embedder bench` runs before and after each, since a machine's speed changes over minutes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Which ways.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "arrays,bare,copy,queue,rows")]
    ways: Vec<Way>,
    /// Also let a client of this Python interpreter embed with onnxruntime and write into pgvector (`benches/python_client.py`
    /// says what it needs).
    #[arg(long, value_name = "PROGRAM")]
    python: Option<PathBuf>,
    /// The bundle that the server's default model is.
    #[arg(long, value_name = "FOLDER", default_value = "models/default")]
    bundle: PathBuf,
    /// The program that runs it without a server; it finds ONNX Runtime by `ORT_DYLIB_PATH`.
    #[arg(long, value_name = "PROGRAM", default_value = "target/release/esr-embedder")]
    embedder: PathBuf,
    /// A line of `postgresql.conf`, such as `esr.execution_provider=cpu`; may be given several times. Where it names the execution
    /// provider or its precision, the program without a server uses the same.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = crate::load::setting)]
    settings: Vec<(String, String)>,
}

/// Measures on a private cluster; prints a table, then the same as one JSON object.
pub fn run(arguments: &WritingArguments) -> Result<()> {
    let threads = arguments.threads.unwrap_or_else(crate::measure::processors);
    let mut options = Options::default().set("autovacuum", "off").set("max_connections", arguments.connections + 20);
    options = options.set("esr.embedder_threads", threads);
    options.settings.extend(arguments.settings.iter().cloned());
    let cluster = Cluster::start(options)?;
    let mut session = cluster.connect()?;
    session.batch_execute(
        "CREATE EXTENSION esr;
         CREATE TABLE sync (id int, audio bytea, style esr_vector);
         CREATE TABLE queue (id int, audio bytea, style esr_vector);
         CREATE TABLE bare (id int, audio bytea);
         ALTER TABLE sync ALTER audio SET STORAGE EXTERNAL;
         ALTER TABLE queue ALTER audio SET STORAGE EXTERNAL;
         ALTER TABLE bare ALTER audio SET STORAGE EXTERNAL;
         SELECT esr_attach('sync', 'audio', 'style', 'sync'), esr_attach('queue', 'audio', 'style', 'queue');",
    )?;
    let clips: Vec<Vec<u8>> =
        (0..arguments.clips).map(|i| sound(90.0 + 0.5 * i as f32, arguments.seconds)).collect::<Result<_>>()?;
    session.query_one("SELECT esr_embed_speech($1::bytea) IS NOT NULL", &[&clips[0]])?;

    let mut measured = Measured::default();
    let mut before = embedder_bench(arguments, threads)?;
    for _ in 0..arguments.rounds {
        let mut rates = Vec::new();
        for way in &arguments.ways {
            rates.extend(by_way(*way, &cluster, &mut session, arguments, &clips)?);
        }
        if let Some(python) = &arguments.python {
            let rate = python_client(python, &cluster, arguments, threads, &clips)?;
            rates.push(("Python, onnxruntime and COPY into pgvector".to_owned(), "python", rate));
        }
        let after = embedder_bench(arguments, threads)?;
        measured.add((before + after) / 2.0, rates);
        before = after;
    }
    measured.print(arguments, threads);
    Ok(())
}

/// Clips a second of a way: what it is called, its key, its rate.
type Rate = (String, &'static str, f64);

/// Rates and shares of `esr-embedder bench`, a value a round.
#[derive(Default)]
struct Measured {
    bench: Vec<f64>,
    /// In the order they were first measured.
    ways: Vec<Shares>,
}

/// One way's.
struct Shares {
    name: String,
    key: &'static str,
    /// Clips a second.
    rates: Vec<f64>,
    /// Those over the bench's.
    shares: Vec<f64>,
}

impl Measured {
    fn add(&mut self, bench: f64, rates: Vec<Rate>) {
        self.bench.push(bench);
        for (name, key, rate) in rates {
            let place = self.ways.iter().position(|way| way.key == key).unwrap_or_else(|| {
                self.ways.push(Shares { name, key, rates: Vec::new(), shares: Vec::new() });
                self.ways.len() - 1
            });
            self.ways[place].rates.push(rate);
            self.ways[place].shares.push(rate / bench);
        }
    }

    fn print(&self, arguments: &WritingArguments, threads: usize) {
        let (count, seconds, rounds) = (arguments.clips, arguments.seconds, arguments.rounds);
        println!(
            "{count} clips of {seconds} s, {threads} thread(s), {rounds} round(s); clips/s, and against esr-embedder bench before and \
             after (median of the rounds; from least to most):"
        );
        println!("  {:44}{:8.1}", "esr-embedder bench, no server", middle(&self.bench));
        for Shares { name, rates, shares, .. } in &self.ways {
            let [least, share, most] =
                [percentile(&mut shares.clone(), 0.0), middle(shares), percentile(&mut shares.clone(), 1.0)]
                    .map(|share| 100.0 * share);
            println!("  {name:44}{:8.1} {share:6.0} % ({least:.0} to {most:.0})", middle(rates));
        }
        let by_key = |values: fn(&Shares) -> &[f64]| {
            serde_json::Map::from_iter(self.ways.iter().map(|way| (way.key.to_owned(), json!(values(way)))))
        };
        println!(
            "{}",
            json!({
                "clips": count, "seconds": seconds, "connections": arguments.connections, "threads": threads,
                "bench": self.bench, "clips_per_s": by_key(|way| &way.rates), "shares": by_key(|way| &way.shares),
                "processors": crate::measure::processors(),
            })
        );
    }
}

/// The median: of an even number of values the mean of the two in the middle.
fn middle(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { (sorted[half - 1] + sorted[half]) / 2.0 } else { sorted[half] }
}

/// Writes all clips in one way.
fn by_way(
    way: Way,
    cluster: &Cluster,
    session: &mut postgres::Client,
    arguments: &WritingArguments,
    clips: &[Vec<u8>],
) -> Result<Vec<Rate>> {
    let rate = |time: Duration| clips.len() as f64 / time.as_secs_f64();
    let one = |name: &str, key: &'static str, took: Duration| vec![(name.to_owned(), key, rate(took))];
    Ok(match way {
        Way::Arrays => {
            session.batch_execute("TRUNCATE bare")?;
            copy(session, "bare", clips)?;
            // What the embedder gives to somebody who only asks: arrays of 32.
            let ask = "SELECT count(esr_embed_speech(a)) FROM (SELECT array_agg(audio) a FROM bare GROUP BY id / 32) b";
            one("esr_embed_speech of arrays, nothing stored", "arrays", time(|| Ok(session.batch_execute(ask)?))?)
        }
        Way::Bare => {
            session.batch_execute(
                "CREATE TABLE IF NOT EXISTS plain (id int, audio bytea, style esr_vector);
                 ALTER TABLE plain ALTER audio SET STORAGE EXTERNAL",
            )?;
            one("COPY, no trigger", "copy_bare", time(|| copy(session, "plain", clips))?)
        }
        Way::Copy => one("COPY, mode sync", "copy_sync", time(|| copy(session, "sync", clips))?),
        Way::Queue => {
            let committed = time(|| copy(session, "queue", clips))?;
            let drained = time(|| {
                wait_until(Duration::from_secs(3600), || pending(session).is_ok_and(|rows| rows == 0))
                    .context("the queue is not drained")
            })?;
            vec![
                ("COPY, mode queue, until the last vector".to_owned(), "copy_queue", rate(committed + drained)),
                ("COPY, mode queue, until the commit".to_owned(), "copy_queue_commit", rate(committed)),
            ]
        }
        Way::Rows => {
            let name = format!("INSERT by {} connections, mode sync", arguments.connections);
            one(&name, "rows_sync", time(|| row_by_row(cluster, arguments.connections, clips))?)
        }
    })
}

/// Clips a second of the embedder alone, with as many threads as it has in the server.
fn embedder_bench(arguments: &WritingArguments, threads: usize) -> Result<f64> {
    let mut command = Command::new(&arguments.embedder);
    command.arg("bench").arg(&arguments.bundle).args(["--json", "--threads", &threads.to_string()]);
    command.args(["--clip-seconds", &arguments.seconds.to_string(), "--seconds", "20"]);
    for (name, option) in [
        ("esr.execution_provider", "--execution-provider"),
        ("esr.cuda_precision", "--cuda-precision"),
        ("esr.onnxruntime_library", "--onnxruntime"),
    ] {
        let set = arguments.settings.iter().filter(|(set, _)| set == name);
        command.args(set.flat_map(|(_, value)| [option, value.as_str()]));
    }
    Ok(number(&mut command, "clips_per_second")? * threads as f64)
}

/// Clips a second of a client that embeds by itself.
fn python_client(
    python: &Path,
    cluster: &Cluster,
    arguments: &WritingArguments,
    threads: usize,
    clips: &[Vec<u8>],
) -> Result<f64> {
    let folder = cluster.folder().join("clips");
    std::fs::create_dir_all(&folder)?;
    for (id, clip) in clips.iter().enumerate() {
        std::fs::write(folder.join(format!("{id:06}.wav")), clip)?;
    }
    let server = format!("host={} user=postgres dbname=postgres", cluster.socket_folder().display());
    let mut command = Command::new(python);
    command.args(["benches/python_client.py", "--server", &server]).arg("--clips").arg(&folder);
    command.arg("--bundle").arg(&arguments.bundle).args(["--threads", &threads.to_string()]);
    number(&mut command, "clips_per_s")
}

/// Runs a program that prints a JSON object, and takes one number out of it.
fn number(command: &mut Command, field: &str) -> Result<f64> {
    let output = command.output().with_context(|| format!("running {:?}", command.get_program()))?;
    let failure = || format!("{:?} failed: {}", command.get_program(), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), failure());
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).with_context(failure)?;
    printed[field].as_f64().with_context(|| format!("no number {field} in {printed}"))
}

fn time(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

fn pending(session: &mut postgres::Client) -> Result<i64> {
    Ok(session.query_one("SELECT count(*) FROM queue WHERE style IS NULL", &[])?.get(0))
}

fn copy(session: &mut postgres::Client, table: &str, clips: &[Vec<u8>]) -> Result<()> {
    let mut writer = session.copy_in(&format!("COPY {table} (id, audio) FROM STDIN (FORMAT binary)"))?;
    writer.write_all(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0")?;
    for (id, clip) in clips.iter().enumerate() {
        writer.write_all(&2i16.to_be_bytes())?;
        writer.write_all(&4i32.to_be_bytes())?;
        writer.write_all(&(id as i32).to_be_bytes())?;
        writer.write_all(&(clip.len() as i32).to_be_bytes())?;
        writer.write_all(clip)?;
    }
    writer.write_all(&(-1i16).to_be_bytes())?;
    writer.finish()?;
    Ok(())
}

fn row_by_row(cluster: &Cluster, connections: usize, clips: &[Vec<u8>]) -> Result<()> {
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..connections)
            .map(|first| {
                scope.spawn(move || -> Result<()> {
                    let mut session = cluster.connect()?;
                    let insert = session.prepare("INSERT INTO sync (id, audio) VALUES ($1, $2)")?;
                    for (id, clip) in clips.iter().enumerate().skip(first).step_by(connections) {
                        session.execute(&insert, &[&(id as i32), clip])?;
                    }
                    Ok(())
                })
            })
            .collect();
        writers.into_iter().try_for_each(|writer| writer.join().expect("a writer panicked"))
    })
}
