//! The bundles in memory: loaded at first use by folder name, checked once, kept. Knows no queue and no sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use esr_encoder::bundle::{MANIFEST_FILE, is_plain_name};
use esr_encoder::device::{Device, DeviceOptions};
use esr_encoder::{Backend, Bundle, Encoder, Parts, Preparer, Runtime, Towers, encoder};
use esr_wire::{Failure, FailureKind};

use crate::failure::{self, failure, with_hint};

/// Which network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tower {
    /// Rows are windows of clips, their length is in microseconds.
    Speech,
    /// Rows are texts, their length is in tokens.
    Text,
}

/// One loaded model.
pub struct Model {
    /// Folder name, which requests use.
    pub name: String,
    /// Version in its manifest.
    pub version: String,
    /// Identity.
    pub tag: u64,
    /// Elements per embedding.
    pub dimension: u32,
    /// Differs from that of every other model in memory: rows of one number may share a batch.
    pub number: u64,
    /// Makes rows of inputs, on any thread.
    pub preparer: Preparer,
    /// Where it runs.
    pub device: Device,
    speech: Mutex<Box<dyn Backend>>,
    text: Mutex<Box<dyn Backend>>,
}

impl Model {
    /// What a batch may cost, in the unit of its tower.
    pub fn budget(&self, tower: Tower) -> u64 {
        let (seconds, tokens) = encoder::budget(self.device);
        match tower {
            Tower::Speech => (seconds * 1e6) as u64,
            Tower::Text => tokens as u64,
        }
    }

    /// One of its networks, for the thread of that lane.
    pub fn tower(&self, tower: Tower) -> MutexGuard<'_, Box<dyn Backend>> {
        let backend = match tower {
            Tower::Speech => &self.speech,
            Tower::Text => &self.text,
        };
        // A panic inside a run leaves the network as it was: it has no state.
        backend.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Where models and ONNX Runtime are, and which of them are loaded.
pub struct Models {
    directory: PathBuf,
    library: PathBuf,
    threads: usize,
    device: DeviceOptions,
    loaded: RwLock<BTreeMap<String, Arc<Model>>>,
    /// Held while loading, so that a model is loaded once, and those that are there stay usable meanwhile.
    loading: Mutex<()>,
}

impl Models {
    /// Nothing is loaded yet, ONNX Runtime included.
    pub fn new(directory: PathBuf, library: PathBuf, threads: usize, device: DeviceOptions) -> Self {
        Self { directory, library, threads, device, loaded: RwLock::default(), loading: Mutex::default() }
    }

    /// The model of that folder name, loading it if need be.
    pub fn get(&self, name: &str) -> Result<Arc<Model>, Failure> {
        if let Some(model) = self.find(name) {
            return Ok(model);
        }
        let _loading = self.loading.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Another connection may have loaded it while this one waited.
        if let Some(model) = self.find(name) {
            return Ok(model);
        }
        let start = std::time::Instant::now();
        let model = Arc::new(self.load(name)?);
        let seconds = start.elapsed().as_secs_f32();
        let Model { version, tag, device, .. } = &*model;
        eprintln!("esr-embedder: loaded model {name:?} {version} (tag {tag:016x}) on {device} in {seconds:.2} s");
        let mut loaded = self.loaded.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        loaded.insert(name.to_owned(), model.clone());
        Ok(model)
    }

    /// Names of the loaded models.
    pub fn names(&self) -> Vec<String> {
        self.loaded.read().unwrap_or_else(|poisoned| poisoned.into_inner()).keys().cloned().collect()
    }

    /// Where the loaded models run, such as `cpu`; empty while none is loaded.
    pub fn devices(&self) -> String {
        let loaded = self.loaded.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let devices: BTreeSet<String> = loaded.values().map(|model| model.device.to_string()).collect();
        devices.into_iter().collect::<Vec<_>>().join(", ")
    }

    fn find(&self, name: &str) -> Option<Arc<Model>> {
        self.loaded.read().unwrap_or_else(|poisoned| poisoned.into_inner()).get(name).cloned()
    }

    fn load(&self, name: &str) -> Result<Model, Failure> {
        if !is_plain_name(name) {
            let message = format!("{name:?} is not a model name: use letters, digits, '_', '-' and inner dots");
            return Err(failure(FailureKind::UnknownModel, message));
        }
        let folder = self.directory.join(name);
        if !folder.join(MANIFEST_FILE).exists() {
            // Any role may get this message, so the path goes to the log only.
            eprintln!("there is no model {name:?} in {}", self.directory.display());
            let message = format!("there is no model {name:?} in the model directory");
            let hint = "Install the model there, or name one that is; esr.model_directory sets the place.";
            return Err(with_hint(failure(FailureKind::UnknownModel, message), hint));
        }
        let bundle = Bundle::open(&folder).map_err(|error| logged(failure::bundle(&error)))?;
        let runtime = Runtime::load(&self.library, self.threads)
            .and_then(|runtime| runtime.on(self.device))
            .map_err(|error| logged(failure::runtime(&error)))?;
        let encoder = Encoder::load(&bundle, &runtime).map_err(|error| logged(failure::loading(name, &error)))?;
        let Parts { manifest, tag, preparer, towers: Towers { speech, text, device } } = encoder.into_parts();
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Ok(Model {
            name: name.to_owned(),
            version: manifest.version,
            tag,
            dimension: manifest.dimension as u32,
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            preparer,
            device,
            speech: Mutex::new(speech),
            text: Mutex::new(text),
        })
    }
}

/// Writes a failure that names files of the server to the log: not every role is shown it.
fn logged(failure: Failure) -> Failure {
    eprintln!("{}", failure.message);
    failure
}
