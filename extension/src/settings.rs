//! Settings, `esr.*`: their names, defaults, limits and who may change them. The one home of each number.
//!
//! What decides which program runs, and what it loads, is read by the one supervisor of the cluster and can therefore
//! only stand in the server's configuration (`postgresql.conf` or ALTER SYSTEM, then a reload). What bounds untrusted
//! audio may be changed by superusers; the rest, by anyone, for their own session.

use std::ffi::{CStr, CString};
use std::path::PathBuf;
use std::time::Duration;

use esr_wire::{AudioLimits, Class};
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

use crate::server;

static MODEL_DIRECTORY: Text = Text::new(Some(c"$sharedir/esr/models"));
static ONNXRUNTIME_LIBRARY: Text = Text::new(Some(c"$pkglibdir/esr/libonnxruntime.so"));
static EMBEDDER_PROGRAM: Text = Text::new(Some(c"$pkglibdir/esr/esr-embedder"));
static EMBEDDER_THREADS: GucSetting<i32> = GucSetting::<i32>::new(0);
static EXECUTION_PROVIDER: GucSetting<Provider> = GucSetting::<Provider>::new(Provider::Auto);
static CUDA_DEVICE: GucSetting<i32> = GucSetting::<i32>::new(0);
static CUDA_MEMORY_LIMIT_MB: GucSetting<i32> = GucSetting::<i32>::new(0);
static CUDA_PRECISION: GucSetting<Precision> = GucSetting::<Precision>::new(Precision::Float32);
static EMBEDDER_QUEUE: GucSetting<i32> = GucSetting::<i32>::new(1_000);
static DEFAULT_MODEL: Text = Text::new(Some(c"default"));
static EMBEDDER_TIMEOUT_MS: GucSetting<i32> = GucSetting::<i32>::new(60_000);
static REQUEST_CLASS: GucSetting<RequestClass> = GucSetting::<RequestClass>::new(RequestClass::Interactive);
static TEXT_CACHE_ENTRIES: GucSetting<i32> = GucSetting::<i32>::new(256);
static ENABLE_EXACT_SCAN: GucSetting<bool> = GucSetting::<bool>::new(true);
static BATCH_ROWS: GucSetting<bool> = GucSetting::<bool>::new(true);
static QUEUE_WORKERS: GucSetting<i32> = GucSetting::<i32>::new(2);
static AUDIO_MAX_BYTES: GucSetting<i32> = GucSetting::<i32>::new(64 << 20);
static AUDIO_MAX_SECONDS: GucSetting<i32> = GucSetting::<i32>::new(600);
static AUDIO_MAX_CHANNELS: GucSetting<i32> = GucSetting::<i32>::new(8);
static AUDIO_MAX_RATE: GucSetting<i32> = GucSetting::<i32>::new(192_000);

static TARGET_RECALL: GucSetting<f64> = GucSetting::<f64>::new(esr_ivf::DEFAULT_TARGET_RECALL);
static PROBES: GucSetting<i32> = GucSetting::<i32>::new(0);

type Text = GucSetting<Option<CString>>;

/// Values of `esr.request_class`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
enum RequestClass {
    #[name = c"interactive"]
    Interactive,
    #[name = c"backfill"]
    Backfill,
}

/// Values of `esr.execution_provider`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
enum Provider {
    #[name = c"auto"]
    Auto,
    #[name = c"cpu"]
    Cpu,
    #[name = c"cuda"]
    Cuda,
}

/// Values of `esr.cuda_precision`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
enum Precision {
    #[name = c"float32"]
    Float32,
    #[name = c"tf32"]
    Tf32,
    #[name = c"float16"]
    Float16,
}

/// What the supervisor needs to start an embedder. Two equal values mean that a running one need not be restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbedderSettings {
    /// The program.
    pub program: PathBuf,
    /// The folder of model bundles.
    pub model_directory: PathBuf,
    /// ONNX Runtime's shared library.
    pub onnxruntime: PathBuf,
    /// Threads for inference.
    pub threads: usize,
    /// Requests that may wait.
    pub queue: i32,
    /// `auto`, `cpu` or `cuda`.
    pub provider: &'static str,
    /// Number of the GPU.
    pub cuda_device: i32,
    /// Most memory of each network on the GPU, in MiB.
    pub cuda_memory_mib: Option<i32>,
    /// `float32`, `tf32` or `float16`.
    pub cuda_precision: &'static str,
}

/// Settings of the embedder process, with `$sharedir` and `$pkglibdir` replaced.
pub fn embedder() -> EmbedderSettings {
    EmbedderSettings {
        program: path(&EMBEDDER_PROGRAM),
        model_directory: model_directory(),
        onnxruntime: path(&ONNXRUNTIME_LIBRARY),
        threads: threads(),
        queue: EMBEDDER_QUEUE.get(),
        provider: match EXECUTION_PROVIDER.get() {
            Provider::Auto => "auto",
            Provider::Cpu => "cpu",
            Provider::Cuda => "cuda",
        },
        cuda_device: CUDA_DEVICE.get(),
        cuda_memory_mib: Some(CUDA_MEMORY_LIMIT_MB.get()).filter(|mib| *mib > 0),
        cuda_precision: match CUDA_PRECISION.get() {
            Precision::Float32 => "float32",
            Precision::Tf32 => "tf32",
            Precision::Float16 => "float16",
        },
    }
}

/// `esr.embedder_threads`; by default half of the cores, because the other half has a database to run, and at most four,
/// because one short clip cannot use more.
fn threads() -> usize {
    match usize::try_from(EMBEDDER_THREADS.get()) {
        Ok(0) | Err(_) => std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).clamp(1, 4)),
        Ok(chosen) => chosen,
    }
}

/// `esr.model_directory`.
pub fn model_directory() -> PathBuf {
    path(&MODEL_DIRECTORY)
}

/// `esr.default_model`.
pub fn default_model() -> String {
    text(&DEFAULT_MODEL)
}

/// Whether `esr.default_model` has this value; cheap enough to ask for every row.
pub fn is_default_model(name: &str) -> bool {
    server::with_setting(&DEFAULT_MODEL, |value| value.to_bytes() == name.as_bytes())
}

/// `esr.embedder_timeout`; `None` waits for ever.
pub fn embedder_timeout() -> Option<Duration> {
    u64::try_from(EMBEDDER_TIMEOUT_MS.get()).ok().filter(|ms| *ms > 0).map(Duration::from_millis)
}

/// `esr.request_class`.
pub fn request_class() -> Class {
    match REQUEST_CLASS.get() {
        RequestClass::Interactive => Class::Interactive,
        RequestClass::Backfill => Class::Backfill,
    }
}

/// `esr.text_cache_size`, entries per session.
pub fn text_cache_entries() -> usize {
    usize::try_from(TEXT_CACHE_ENTRIES.get()).unwrap_or(0)
}

/// `esr.enable_exact_scan`.
pub fn exact_scan_is_enabled() -> bool {
    ENABLE_EXACT_SCAN.get()
}

/// `esr.batch_rows`.
pub fn rows_are_batched() -> bool {
    BATCH_ROWS.get()
}

/// `esr.queue_workers`, workers per database.
pub fn queue_workers() -> i32 {
    QUEUE_WORKERS.get()
}

/// `esr.audio_max_*`.
pub fn audio_limits() -> AudioLimits {
    AudioLimits {
        max_bytes: u64::try_from(AUDIO_MAX_BYTES.get()).unwrap_or(0),
        max_seconds: AUDIO_MAX_SECONDS.get() as f32,
        max_channels: AUDIO_MAX_CHANNELS.get().try_into().unwrap_or(u16::MAX),
        max_rate: AUDIO_MAX_RATE.get().try_into().unwrap_or(0),
    }
}

/// `esr.target_recall`.
pub fn target_recall() -> f64 {
    TARGET_RECALL.get()
}

/// `esr.probes`; `None` leaves the number of lists to the target recall.
pub fn probes() -> Option<u32> {
    u32::try_from(PROBES.get()).ok().filter(|probes| *probes > 0)
}

/// Makes the settings known to PostgreSQL; once per process, when the library is loaded.
pub fn define() {
    let server_only = |name, short: &'static CStr, long: &'static CStr, setting: &'static Text| {
        GucRegistry::define_string_guc(name, short, long, setting, GucContext::Sighup, GucFlags::SUPERUSER_ONLY);
    };
    server_only(
        c"esr.model_directory",
        c"Folder whose subfolders are model bundles.",
        c"$sharedir stands for what pg_config --sharedir prints. Nothing outside this folder is ever loaded.",
        &MODEL_DIRECTORY,
    );
    server_only(
        c"esr.onnxruntime_library",
        c"ONNX Runtime's shared library, which esr-embedder loads.",
        c"$pkglibdir stands for what pg_config --pkglibdir prints.",
        &ONNXRUNTIME_LIBRARY,
    );
    server_only(
        c"esr.embedder_program",
        c"The program that runs the models, started and watched by esr's background worker.",
        c"$pkglibdir stands for what pg_config --pkglibdir prints.",
        &EMBEDDER_PROGRAM,
    );
    let number = |name, short: &'static CStr, long: &'static CStr, setting, range: (i32, i32), context, flags| {
        GucRegistry::define_int_guc(name, short, long, setting, range.0, range.1, context, flags);
    };
    number(
        c"esr.embedder_threads",
        c"Threads that one inference may use.",
        c"0 takes half of the machine's cores, at most 4.",
        &EMBEDDER_THREADS,
        (0, 1024),
        GucContext::Sighup,
        GucFlags::default(),
    );
    number(
        c"esr.embedder_queue",
        c"Requests that may wait in the embedder, texts and clips counted apart; more are refused at once.",
        c"Requests of class \"backfill\" may fill half of it.",
        &EMBEDDER_QUEUE,
        (1, 1_000_000),
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"esr.execution_provider",
        c"Where models run.",
        c"\"auto\" takes a GPU if there is a usable one, and esr_stat_embedder says what it got; \"cuda\" is an error without one.",
        &EXECUTION_PROVIDER,
        GucContext::Sighup,
        GucFlags::default(),
    );
    number(
        c"esr.cuda_device",
        c"Number of the GPU that models run on.",
        c"As the driver counts them.",
        &CUDA_DEVICE,
        (0, 1023),
        GucContext::Sighup,
        GucFlags::default(),
    );
    number(
        c"esr.cuda_memory_limit",
        c"Most memory that each network of a model may take on the GPU.",
        c"0 leaves it to ONNX Runtime.",
        &CUDA_MEMORY_LIMIT_MB,
        (0, 1 << 20),
        GucContext::Sighup,
        GucFlags::UNIT_MB,
    );
    GucRegistry::define_enum_guc(
        c"esr.cuda_precision",
        c"Numbers in which a GPU multiplies.",
        c"\"tf32\" and \"float16\" are faster and round what is multiplied; a CPU always uses 32-bit floats.",
        &CUDA_PRECISION,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"esr.default_model",
        c"Model bundle used where a call does not name one.",
        c"The name of a folder in esr.model_directory.",
        &DEFAULT_MODEL,
        GucContext::Userset,
        GucFlags::default(),
    );
    number(
        c"esr.embedder_timeout",
        c"Longest wait for the embedder to be there, and for each of its answers.",
        c"0 waits for ever. statement_timeout applies as well.",
        &EMBEDDER_TIMEOUT_MS,
        (0, i32::MAX),
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_enum_guc(
        c"esr.request_class",
        c"How urgent this session's embeddings are.",
        c"\"backfill\" gives way to the interactive requests of other sessions; set it where clips are embedded in bulk.",
        &REQUEST_CLASS,
        GucContext::Userset,
        GucFlags::default(),
    );
    number(
        c"esr.text_cache_size",
        c"Embeddings of texts that a session remembers.",
        c"PostgreSQL evaluates esr_embed_text for every row of a plain scan; the cache makes that one question.",
        &TEXT_CACHE_ENTRIES,
        (0, 100_000),
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_float_guc(
        c"esr.target_recall",
        c"Share of the nearest rows that a scan of an esr_ivf index finds, on average.",
        c"Higher is slower. 1 finds all of them.",
        &TARGET_RECALL,
        0.0,
        1.0,
        GucContext::Userset,
        GucFlags::default(),
    );
    number(
        c"esr.probes",
        c"Lists that a scan of an esr_ivf index reads before its first row.",
        c"0 lets esr.target_recall decide, query by query.",
        &PROBES,
        (0, i32::MAX),
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"esr.enable_exact_scan",
        c"Lets the planner use esr's own scan for the nearest rows of a table.",
        c"Off, PostgreSQL reads, projects and sorts all rows itself.",
        &ENABLE_EXACT_SCAN,
        GucContext::Userset,
        GucFlags::EXPLAIN,
    );
    GucRegistry::define_bool_guc(
        c"esr.batch_rows",
        c"Lets a statement of many rows store them first and embed them in batches when it ends.",
        c"Off, each row is embedded by itself before it is stored, so that it is written once and RETURNING shows its vector.",
        &BATCH_ROWS,
        GucContext::Userset,
        GucFlags::default(),
    );
    number(
        c"esr.queue_workers",
        c"Background workers for each database that has tables attached in mode queue.",
        c"A worker that starts reads it; each takes one of max_worker_processes.",
        &QUEUE_WORKERS,
        (1, 16),
        GucContext::Sighup,
        GucFlags::default(),
    );
    let limit = |name, short, setting, range, flags| {
        let long = c"Checked before and while a clip is decoded.";
        number(name, short, long, setting, range, GucContext::Suset, flags);
    };
    limit(
        c"esr.audio_max_bytes",
        c"Largest audio file that is decoded.",
        &AUDIO_MAX_BYTES,
        (1, 1 << 30),
        GucFlags::UNIT_BYTE,
    );
    limit(
        c"esr.audio_max_seconds",
        c"Longest clip that is embedded.",
        &AUDIO_MAX_SECONDS,
        (1, 24 * 3600),
        GucFlags::UNIT_S,
    );
    limit(
        c"esr.audio_max_channels",
        c"Most channels an audio file may have.",
        &AUDIO_MAX_CHANNELS,
        (1, 64),
        GucFlags::default(),
    );
    limit(
        c"esr.audio_max_rate",
        c"Highest sample rate an audio file may have, in hertz.",
        &AUDIO_MAX_RATE,
        (8_000, 1_000_000),
        GucFlags::default(),
    );
    server::reserve_setting_prefix(c"esr");
}

fn text(setting: &Text) -> String {
    server::with_setting(setting, |value| value.to_string_lossy().into_owned())
}

fn path(setting: &Text) -> PathBuf {
    let value = text(setting);
    for (variable, folder) in [("$sharedir", server::share_directory()), ("$pkglibdir", server::library_directory())] {
        if let Some(rest) = value.strip_prefix(variable) {
            return folder.join(rest.trim_start_matches('/'));
        }
    }
    value.into()
}
