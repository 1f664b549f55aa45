//! What can go wrong: with a bundle's contents, with ONNX Runtime, with an input.

use std::path::PathBuf;

use crate::backend::RunError;
use crate::bundle::TOKENIZER_FILE;
use crate::prepare::RateError;
use crate::tokenizer::TextError;

/// Why there are no embeddings.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EmbedError {
    /// One of the texts cannot be embedded.
    #[error("text {item}: {source}")]
    Text {
        /// Zero-based position.
        item: usize,
        /// Why.
        source: TextError,
    },
    /// A clip is at another rate than the model's: the caller's mistake.
    #[error("clip {item}: {source}")]
    Rate {
        /// Zero-based position.
        item: usize,
        /// Which rates.
        source: RateError,
    },
    /// The model or ONNX Runtime fails, or the request was cancelled.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Why a bundle cannot be used although its files are what its manifest states.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// `tokenizer.json` is wrong.
    #[error("{TOKENIZER_FILE}: {0}")]
    Tokenizer(String),
    /// An ONNX file is wrong.
    #[error("{0}")]
    Model(String),
    /// The device that was asked for cannot be had.
    #[error(transparent)]
    Device(#[from] RuntimeError),
    /// The golden vectors are not met.
    #[error(transparent)]
    Golden(#[from] GoldenError),
}

/// Why a bundle's golden vectors are not met.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// Not JSON of the right form.
    #[error("malformed golden.json: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A golden vector of either tower is missing, or a number is out of range.
    #[error("golden.json {0}")]
    Content(String),
    /// The encoder fails on a golden input.
    #[error("golden input {input}: {source}")]
    Embed {
        /// The text, or the recipe of the clip.
        input: String,
        /// Why.
        source: Box<EmbedError>,
    },
    /// The answer is another one.
    #[error(
        "golden input {input} is embedded at cosine distance {distance:.2e} from what the bundle states \
         (tolerance {tolerance:.1e}): the bundle's files don't belong together, or ONNX Runtime computes them wrongly here"
    )]
    Distance {
        /// The text, or the recipe of the clip.
        input: String,
        /// Measured.
        distance: f64,
        /// Allowed.
        tolerance: f64,
    },
}

/// The oldest ONNX Runtime whose C interface is the one called here; `ort`'s feature `api-24` says the same.
pub const MINIMUM_VERSION: &str = "1.24";

/// Why ONNX Runtime cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RuntimeError {
    /// No file there.
    #[error(
        "ONNX Runtime's library {path} is missing; install ONNX Runtime {MINIMUM_VERSION} or newer \
         (libonnxruntime.so, as in the onnxruntime wheel of PyPI) and set its path"
    )]
    Missing {
        /// As given.
        path: PathBuf,
    },
    /// A file, but not a usable library.
    #[error("{path} is not a usable ONNX Runtime library: {reason}; install ONNX Runtime {MINIMUM_VERSION} or newer")]
    Unusable {
        /// As given.
        path: PathBuf,
        /// The loader's message.
        reason: String,
    },
    /// Another library is loaded already; a process has one.
    #[error("{path} was asked for, but {loaded} is loaded already")]
    AlreadyLoaded {
        /// As given now.
        path: PathBuf,
        /// As given before.
        loaded: PathBuf,
    },
    /// No GPU can be used, where one was asked for by name.
    #[error("CUDA cannot be used: {reason}")]
    NoCuda {
        /// ONNX Runtime's message, or what it lacks.
        reason: String,
    },
}
