//! Metrics over `f32` vectors, with SIMD kernels chosen once at run time.
//!
//! ```
//! use esr_vector::{Metric, metric::distance};
//! let whisper = [0.0_f32, 1.0];
//! let shout = [1.0_f32, 0.0];
//! assert_eq!(distance(Metric::Cosine, &whisper, &shout), 1.0);
//! ```
//!
//! The scalar kernels are the specification; every other level is property-tested against them. Knows no files, no
//! pages, no PostgreSQL and no randomness.

pub mod kernel;
pub mod metric;

pub use kernel::{CosineParts, Kernels, kernels};
pub use metric::Metric;

/// Most elements a vector may have.
pub const MAX_DIMENSIONS: usize = 16_000;
