//! ONNX Runtime: its library, its sessions, one backend per bundle. This file and those below it are the only ones that name `ort`.

mod measure;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ort::environment::Environment;
use ort::ep::{self, ExecutionProvider};
use ort::logging::LogLevel;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{RunOptions, Session, SessionInputValue};
use ort::value::Tensor;

use crate::backend::{Backend, Batch, Cancel, RunError, Towers};
use crate::bundle::{Bundle, SPEECH_FILE, TEXT_FILE};
use crate::device::{Device, DeviceOptions, Precision, Provider};
use crate::embedding::Embedding;
use crate::error::{LoadError, RuntimeError};
use crate::half;

/// All fusions: weight-only int8 is written as Cast and Mul on constants, which this folds at load.
const OPTIMISATION: GraphOptimizationLevel = GraphOptimizationLevel::All;

/// ONNX Runtime, loaded. Clones share it; a process can have only one.
#[derive(Clone)]
pub struct Runtime {
    environment: Environment,
    threads: usize,
    device: DeviceOptions,
}

/// Where ONNX Runtime's library is when nobody says: the file named by `ORT_DYLIB_PATH`, `libonnxruntime.so` beside the
/// running program (where `make install` puts it), or the build's cache
/// (`${ESR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/esr}/libs/onnxruntime`). The file may be missing.
pub fn default_library() -> PathBuf {
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        return path.into();
    }
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join(LIBRARY_FILE)));
    if let Some(beside) = beside.filter(|path| path.exists()) {
        return beside;
    }
    let folder = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let cache = folder("ESR_CACHE")
        .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("esr")))
        .or_else(|| folder("HOME").map(|home| home.join(".cache/esr")))
        .unwrap_or_default();
    cache.join("libs/onnxruntime").join(LIBRARY_FILE)
}

const LIBRARY_FILE: &str = "libonnxruntime.so";

static LOADED: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

impl Runtime {
    /// Loads the library at `path`, for sessions that use `threads` threads each (at least one).
    pub fn load(path: &Path, threads: usize) -> Result<Self, RuntimeError> {
        let threads = threads.max(1);
        // A relative path would be looked up beside the program first, which surprises.
        let path = path.canonicalize().map_err(|_| RuntimeError::Missing { path: path.into() })?;
        let mut loaded = LOADED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((before, environment)) = loaded.as_ref() {
            if *before != path {
                return Err(RuntimeError::AlreadyLoaded { path, loaded: before.clone() });
            }
            return Ok(Self { environment: environment.clone(), threads, device: DeviceOptions::default() });
        }
        let unusable = |reason: String| RuntimeError::Unusable { path: path.clone(), reason };
        let builder = ort::init_from(&path).map_err(|error| unusable(error.to_string()))?;
        let environment =
            builder.with_name("esr").with_telemetry(false).build().map_err(|error| unusable(error.to_string()))?;
        // Errors come back as values and are told there; cancelled runs would fill the log with them.
        environment.set_log_level(LogLevel::Fatal);
        *loaded = Some((path, environment.clone()));
        Ok(Self { environment, threads, device: DeviceOptions::default() })
    }

    /// Where sessions made from now on run. CUDA that was asked for by name must be in the library.
    pub fn on(mut self, device: DeviceOptions) -> Result<Self, RuntimeError> {
        if device.provider == Provider::Cuda && !has_cuda() {
            return Err(RuntimeError::NoCuda { reason: "this ONNX Runtime library is built without it".into() });
        }
        self.device = device;
        Ok(self)
    }

    /// Sessions for both towers of a bundle, on the device of [`Runtime::on`]. With [`Provider::Auto`], a GPU that cannot be
    /// used is told on standard error, and the CPU is used.
    pub fn towers(&self, bundle: &Bundle) -> Result<Towers, LoadError> {
        let cuda = Device::Cuda { id: self.device.cuda_device, precision: self.device.cuda_precision };
        match self.device.provider {
            Provider::Cpu => self.towers_on(bundle, Device::Cpu),
            Provider::Cuda => self.towers_on(bundle, cuda),
            Provider::Auto if !has_cuda() => self.towers_on(bundle, Device::Cpu),
            Provider::Auto => self.towers_on(bundle, cuda).or_else(|error| {
                eprintln!("esr-embedder: no GPU is used, but the CPU: {error}");
                self.towers_on(bundle, Device::Cpu)
            }),
        }
    }

    /// Sessions on the CPU, if those on `device` were made there because nobody asked for it by name.
    pub(crate) fn fallback(&self, bundle: &Bundle, device: Device) -> Option<Result<Towers, LoadError>> {
        let may = self.device.provider == Provider::Auto && device != Device::Cpu;
        may.then(|| self.towers_on(bundle, Device::Cpu))
    }

    fn towers_on(&self, bundle: &Bundle, device: Device) -> Result<Towers, LoadError> {
        let precision = match device {
            Device::Cpu => Precision::Float32,
            Device::Cuda { precision, .. } => precision,
        };
        self.towers_in(bundle, device, precision)
    }

    fn towers_in(&self, bundle: &Bundle, device: Device, precision: Precision) -> Result<Towers, LoadError> {
        let dimension = bundle.manifest().dimension;
        let open = |name: &'static str, inputs: [&str; 2]| -> Result<Box<dyn Backend>, LoadError> {
            let fail = |reason: String| LoadError::Model(format!("{name}: {reason}"));
            let network = in_precision(bundle.required(name), precision).map_err(fail)?;
            let session = commit(self.builder(device)?, &network).map_err(fail)?;
            for input in inputs {
                if !session.inputs().iter().any(|outlet| outlet.name() == input) {
                    return Err(fail(format!("it has no input named {input:?}")));
                }
            }
            if !session.outputs().iter().any(|outlet| outlet.name() == OUTPUT) {
                return Err(fail(format!("it has no output named {OUTPUT:?}")));
            }
            Ok(Box::new(Tower { session, dimension }))
        };
        Ok(Towers {
            speech: open(SPEECH_FILE, ["waveform", "length"])?,
            text: open(TEXT_FILE, ["input_ids", "attention_mask"])?,
            device,
        })
    }

    fn builder(&self, device: Device) -> Result<SessionBuilder, LoadError> {
        let builder = self.options().map_err(LoadError::Model)?;
        let Device::Cuda { id, precision } = device else { return Ok(builder) };
        let mut cuda = ep::CUDA::default()
            .with_device_id(id)
            // Said either way: with it, ONNX Runtime's own default, "32-bit" products are right to three digits only.
            .with_tf32(precision == Precision::Tf32)
            // Clips have many lengths; trying every algorithm for each would take longer than it saves.
            .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
            .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested);
        if let Some(bytes) = self.device.cuda_memory {
            cuda = cuda.with_memory_limit(bytes);
        }
        let cuda = cuda.build().error_on_failure();
        let refused = |error: String| LoadError::Device(RuntimeError::NoCuda { reason: reason(&error).into() });
        builder.with_execution_providers([cuda]).map_err(|error| refused(error.to_string()))
    }

    fn options(&self) -> Result<SessionBuilder, String> {
        let text = |error: ort::Error| error.to_string();
        Session::builder(&self.environment)
            .map_err(text)?
            .with_log_level(LogLevel::Fatal)
            .map_err(|error| error.to_string())?
            .with_optimization_level(OPTIMISATION)
            .map_err(|error| error.to_string())?
            .with_intra_threads(self.threads)
            .map_err(|error| error.to_string())?
            // A spinning thread takes a core from PostgreSQL for a gain that a request of milliseconds does not see.
            .with_intra_op_spinning(false)
            .map_err(|error| error.to_string())?
            .with_inter_op_spinning(false)
            .map_err(|error| error.to_string())?
            // A plan is kept for every shape ever seen, and clips have as many lengths as there are clips: it would grow for
            // as long as the process lives. Without it runs are as fast (52 ms for a clip of 3 s, both ways).
            .with_memory_pattern(false)
            .map_err(|error| error.to_string())
    }
}

/// The network in the numbers of a device.
fn in_precision(onnx: &[u8], precision: Precision) -> Result<Cow<'_, [u8]>, String> {
    match precision {
        Precision::Float16 => Ok(half::rewrite(onnx)?.0.into()),
        // The execution provider's own doing.
        Precision::Float32 | Precision::Tf32 => Ok(onnx.into()),
    }
}

/// What ONNX Runtime's messages begin with where they tell something, behind the places in its source.
const BEGINNINGS: [&str; 5] =
    ["CUDA failure", "Available memory of", "Failed to allocate memory", "Failed to load library", "Invalid device ID"];

/// ONNX Runtime's message without the places in its source.
fn reason(message: &str) -> &str {
    let text = BEGINNINGS.iter().find_map(|start| message.find(start)).map_or(message, |at| &message[at..]);
    // CUDA's are followed by where it was called.
    text.split_once(" ; GPU=").map_or(text, |(text, _)| text).trim()
}

fn commit(mut builder: SessionBuilder, model: &[u8]) -> Result<Session, String> {
    builder.commit_from_memory(model).map_err(|error| reason(&error.to_string()).to_owned())
}

/// Whether the library was built with CUDA; the driver may still be missing.
fn has_cuda() -> bool {
    ep::CUDA::is_available().unwrap_or(false)
}

/// A batch as the networks take it.
fn inputs(batch: &Batch) -> Result<Vec<(Cow<'static, str>, SessionInputValue<'static>)>, ort::Error> {
    let rows = batch.rows();
    Ok(match batch {
        Batch::Speech { waveforms, lengths, samples } => {
            let waveforms = Tensor::from_array(([rows, *samples], waveforms.clone()))?;
            let lengths = Tensor::from_array(([rows], lengths.clone()))?;
            ort::inputs!["waveform" => waveforms, "length" => lengths]
        }
        Batch::Text { ids, mask, tokens } => {
            let ids = Tensor::from_array(([rows, *tokens], ids.clone()))?;
            let mask = Tensor::from_array(([rows, *tokens], mask.clone()))?;
            ort::inputs!["input_ids" => ids, "attention_mask" => mask]
        }
    })
}

const OUTPUT: &str = "embedding";

struct Tower {
    session: Session,
    dimension: usize,
}

impl Backend for Tower {
    fn run(&mut self, batch: &Batch, cancel: &Cancel) -> Result<Vec<Embedding>, RunError> {
        if cancel.is_cancelled() {
            return Err(RunError::Cancelled);
        }
        let fail = |error: ort::Error| RunError::Runtime(error.to_string());
        let rows = batch.rows();
        let inputs = inputs(batch).map_err(fail)?;
        let options = Arc::new(RunOptions::new().map_err(fail)?);
        let stop = options.clone();
        let result = cancel.during(
            move || {
                let _ = stop.terminate();
            },
            || self.session.run_with_options(inputs, &options),
        );
        let outputs = match result {
            Ok(outputs) => outputs,
            Err(_) if cancel.is_cancelled() => return Err(RunError::Cancelled),
            Err(error) => return Err(fail(error)),
        };
        let (shape, values) = outputs[OUTPUT].try_extract_tensor::<f32>().map_err(fail)?;
        if shape.len() != 2 || shape[0] != rows as i64 || shape[1] < 1 {
            return Err(RunError::Runtime(format!("the output has shape {shape:?} for {rows} inputs")));
        }
        let rows = values.chunks_exact(shape[1] as usize);
        rows.map(|row| Ok(Embedding::from_row(row, self.dimension)?)).collect()
    }
}
