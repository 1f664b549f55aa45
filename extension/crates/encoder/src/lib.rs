//! From clips and descriptions to unit embeddings, by one model bundle.
//!
//! [`Bundle::open`] checks a folder against its manifest; [`Runtime::load`] loads ONNX Runtime; [`Encoder::load`] joins
//! the two, runs the golden vectors and then answers [`Encoder::embed_texts`] and [`Encoder::embed_speech`]. The tag of
//! a bundle ([`Bundle::tag`]) is its identity: embeddings of different tags must not be compared.
//!
//! Knows no sockets, no PostgreSQL and no training. ONNX Runtime is behind [`Backend`], so that everything around it
//! can be tested without a model.

#![forbid(unsafe_code)]

pub mod backend;
pub mod bundle;
pub mod device;
pub mod embedding;
pub mod encoder;
pub mod error;
pub mod golden;
mod graph;
mod half;
mod operations;
pub mod prepare;
pub mod runtime;
pub mod tokenizer;

pub use backend::{Backend, Batch, Cancel, RunError, Towers};
pub use bundle::{Bundle, BundleError, Manifest};
pub use embedding::Embedding;
pub use encoder::{Encoder, Parts};
pub use error::{EmbedError, GoldenError, LoadError, RuntimeError};
pub use golden::Golden;
pub use prepare::Preparer;
pub use runtime::Runtime;
pub use tokenizer::{TextError, Tokenizer};
