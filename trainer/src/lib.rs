//! Trains the speech and text encoders and writes the bundles the extension serves.
//!
//! Each network is recorded once as a [`graph`] and interpreted twice: [`torch`] runs it with autograd, [`onnx`] writes it
//! out, so that what was trained is what is shipped. The steps of a run are [`prepare`] (cache what the frozen encoders
//! say), [`train`], [`evaluate`] and [`export`]. This crate knows nothing of PostgreSQL and of indexes.

pub mod attributes;
pub mod audio_file;
pub mod augment;
pub mod baseline;
pub mod baselines;
mod by_length;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod encoders;
pub mod energy;
pub mod evaluate;
pub mod export;
pub mod figure;
pub mod finetune;
pub mod fuse;
pub mod graph;
pub mod judges;
pub mod kept;
pub mod layers;
pub mod losses;
pub mod nets;
pub mod onnx;
pub mod onnx_messages;
pub mod optimiser;
pub mod paper;
pub mod place;
pub mod placed;
pub mod prepare;
pub mod progress;
pub mod prompts;
pub mod protocol;
pub mod quantise;
pub mod questions;
pub mod report;
pub mod resonance;
pub mod retrieval;
pub mod room;
pub mod sampling;
pub mod sides;
pub mod sounds;
pub mod soup;
pub mod speech_batches;
pub mod store;
pub mod text_features;
pub mod tokenizer;
pub mod tokenizer_formats;
pub mod torch;
pub mod train;
pub mod trained;
pub mod tune_text;
pub mod tuned_text;
pub mod variants;
pub mod voice;
pub mod warm_start;
pub mod waveforms;
pub mod weights;
pub mod wording;
