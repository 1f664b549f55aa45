//! The paper's recipe: the speech encoder is trained whole, from waveforms, beside a frozen text encoder.
//!
//! [`config`] says what decides a run, [`batches`] reads and crops clips, [`train`] runs the three stages, [`embed`] embeds
//! clips and texts with a trained run, [`evaluate`] ranks them, [`export`] writes a bundle. The other way of training, over
//! cached features of a frozen encoder, is [`crate::train`].

pub mod batches;
pub mod config;
pub mod embed;
pub mod evaluate;
pub mod export;
pub mod train;
pub mod trained;
