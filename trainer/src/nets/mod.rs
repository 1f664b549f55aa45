//! The networks, each a plain function from graph values to graph values.

pub mod bert;
pub mod conv_features;
pub mod emotion2vec;
pub mod heads;
pub mod log_mel;
pub mod speech_tower;
pub mod t5;
pub mod text_encoder;
pub mod text_tower;
pub mod waveform_encoder;
pub mod wavlm;
pub mod whisper;
