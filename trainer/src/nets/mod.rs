//! The networks, each a plain function from graph values to graph values.

pub mod bert;
pub mod heads;
pub mod log_mel;
pub mod speech_tower;
pub mod text_tower;
pub mod whisper;
