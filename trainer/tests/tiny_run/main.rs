//! The whole path on tiny networks and generated sounds: prepare, tune-text, train (interrupted and not), evaluate,
//! export, evaluate the bundle. Needs no downloads.

mod frames;
mod ground;
mod questions;
#[path = "../common/runs.rs"]
mod runs;
mod waveforms;
mod whole_path;
