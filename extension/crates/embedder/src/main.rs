//! The command line of `esr-embedder`. Knows the arguments; the work is the library's.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use esr_audio::Limits;
use esr_embedder::{batch_bench, bench, compare, list, serve};
use esr_encoder::device::{DeviceOptions, Precision, Provider};
use esr_encoder::{Bundle, Encoder, Runtime, RuntimeError, runtime};

/// Embeds clips of speech and descriptions of speaking style with ONNX Runtime.
#[derive(Parser)]
#[command(name = "esr-embedder", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer the backends of one PostgreSQL cluster on a unix socket; the extension's supervisor starts this.
    Serve(ServeArguments),
    /// Embed audio files and texts, and print one JSON object a line.
    Embed(EmbedArguments),
    /// Measure how fast a model is on this machine.
    Bench(BenchArguments),
    /// Compare a model's embeddings on the CPU and on a GPU; fails if they differ by more than they may.
    Compare(CompareArguments),
}

#[derive(Args)]
struct RuntimeArguments {
    /// ONNX Runtime's library [default: $ORT_DYLIB_PATH, libonnxruntime.so beside this program, or the build's cache]
    #[arg(long, value_name = "LIB")]
    onnxruntime: Option<PathBuf>,
    /// Threads of one run.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// auto: a GPU if there is a usable one, else the CPU; cpu; cuda: a GPU or an error.
    #[arg(long, value_name = "PROVIDER", default_value_t = Provider::Cpu)]
    execution_provider: Provider,
    /// Number of the GPU.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(i32).range(0..))]
    cuda_device: i32,
    /// Most memory that each network may take on the GPU, in MiB [default: no limit]
    #[arg(long, value_name = "MIB")]
    cuda_memory_mib: Option<u32>,
    /// Numbers of the GPU's products: float32, tf32 or float16 [default: float32; `compare` takes all]
    #[arg(long, value_name = "PRECISION")]
    cuda_precision: Option<Precision>,
}

impl RuntimeArguments {
    fn device(&self) -> DeviceOptions {
        DeviceOptions {
            provider: self.execution_provider,
            cuda_device: self.cuda_device,
            cuda_memory: self.cuda_memory_mib.map(|mib| mib as usize * (1 << 20)),
            cuda_precision: self.cuda_precision.unwrap_or_default(),
        }
    }

    fn library(&self) -> PathBuf {
        self.onnxruntime.clone().unwrap_or_else(runtime::default_library)
    }

    fn load(&self) -> Result<Runtime, RuntimeError> {
        Runtime::load(&self.library(), self.threads.into())?.on(self.device())
    }

    fn encoder(&self, bundle: &Path) -> Result<Encoder, Box<dyn std::error::Error>> {
        Ok(Encoder::load(&Bundle::open(bundle)?, &self.load()?)?)
    }
}

#[derive(Args)]
struct ServeArguments {
    /// Where to make the socket.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Folder of model folders.
    #[arg(long, value_name = "DIR")]
    model_directory: PathBuf,
    /// Requests that may wait in each of the two queues, one for texts and one for clips; more are refused.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    queue: u32,
    /// End when standard input ends, because its other end is the supervisor's.
    #[arg(long)]
    watch_stdin: bool,
    #[command(flatten)]
    runtime: RuntimeArguments,
}

#[derive(Args)]
struct EmbedArguments {
    /// Folder of the model.
    #[arg(long, value_name = "DIR")]
    bundle: PathBuf,
    /// File with the path of an audio file on each line.
    #[arg(long, value_name = "FILE")]
    speech_list: Option<PathBuf>,
    /// File with a text on each line.
    #[arg(long, value_name = "FILE")]
    text_list: Option<PathBuf>,
    /// Audio files, after those of the lists.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    runtime: RuntimeArguments,
}

#[derive(Args)]
struct BenchArguments {
    /// Folder of the model.
    #[arg(value_name = "DIR")]
    bundle: PathBuf,
    /// Length of a clip, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = clip_seconds)]
    clip_seconds: f64,
    /// About how long to measure, in seconds.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Measure batches of every size instead, and how much embeddings depend on their batch mates.
    #[arg(long)]
    batches: bool,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    runtime: RuntimeArguments,
}

#[derive(Args)]
struct CompareArguments {
    /// Folder of the model.
    #[arg(value_name = "DIR")]
    bundle: PathBuf,
    /// Largest cosine distance to the CPU's embeddings [default: 1e-6 for float32, 1e-5 for the others]
    #[arg(long, value_name = "DISTANCE")]
    tolerance: Option<f64>,
    #[command(flatten)]
    runtime: RuntimeArguments,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Serve(arguments) => serve(arguments),
        Command::Embed(arguments) => embed(&arguments),
        Command::Bench(arguments) => measure(&arguments),
        Command::Compare(arguments) => compare(&arguments),
    };
    let code = match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("esr-embedder: {error}");
            1
        }
    };
    let _ = std::io::stdout().flush();
    // Some versions of ONNX Runtime crash in their exit handlers, and everything that must be tidied up has been.
    signal_hook::low_level::exit(code)
}

fn serve(arguments: ServeArguments) -> Result<(), Box<dyn std::error::Error>> {
    serve::run(serve::Options {
        library: arguments.runtime.library(),
        threads: arguments.runtime.threads.into(),
        socket: arguments.socket,
        model_directory: arguments.model_directory,
        device: arguments.runtime.device(),
        queue: arguments.queue as usize,
        watch_stdin: arguments.watch_stdin,
    })?;
    Ok(())
}

fn embed(arguments: &EmbedArguments) -> Result<(), Box<dyn std::error::Error>> {
    let mut inputs = Vec::new();
    if let Some(file) = &arguments.speech_list {
        inputs.extend(lines(file)?.map(|line| list::Input::Speech(line.into())));
    }
    if let Some(file) = &arguments.text_list {
        inputs.extend(lines(file)?.map(list::Input::Text));
    }
    inputs.extend(arguments.files.iter().cloned().map(list::Input::Speech));
    let mut encoder = arguments.runtime.encoder(&arguments.bundle)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let failed = list::run(&mut encoder, &inputs, &Limits::default(), &mut out)?;
    if failed > 0 {
        eprintln!("esr-embedder: {failed} of {} inputs failed", inputs.len());
    }
    Ok(())
}

/// The lines of a list; an empty line at its end is none.
fn lines(file: &Path) -> Result<impl Iterator<Item = String>, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    Ok(lines.into_iter())
}

fn clip_seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.05..=60.0).contains(&seconds) { Ok(seconds) } else { Err("must lie between 0.05 and 60".into()) }
}

fn compare(arguments: &CompareArguments) -> Result<(), Box<dyn std::error::Error>> {
    let CompareArguments { bundle, tolerance, runtime } = arguments;
    let bundle = Bundle::open(bundle)?;
    let within = compare::run(&bundle, &runtime.load()?, runtime.device(), runtime.cuda_precision, *tolerance)?;
    if within { Ok(()) } else { Err("embeddings differ from the CPU's by more than they may".into()) }
}

fn measure(arguments: &BenchArguments) -> Result<(), Box<dyn std::error::Error>> {
    let threads = arguments.runtime.threads.into();
    let bundle = Bundle::open(&arguments.bundle)?;
    let runtime = arguments.runtime.load()?;
    let mut encoder = Encoder::load(&bundle, &runtime)?;
    if arguments.batches {
        let report = batch_bench::run(encoder, &bundle, &runtime, threads, arguments.seconds)?;
        if arguments.json {
            println!("{}", serde_json::to_string(&report)?)
        } else {
            println!("{report}")
        }
        return Ok(());
    }
    let report = bench::run(&mut encoder, threads, arguments.clip_seconds, arguments.seconds)?;
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("model:           {:>8}", encoder.manifest().name);
        println!("{report}");
    }
    Ok(())
}
