//! Words are split in halves: those of training, and those that are held out.

use serde::Deserialize;

/// Which half of the phrases and templates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Side {
    /// Used in training.
    Train,
    /// Never used in training.
    Heldout,
}

/// Texts of both sides.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Halves {
    train: Vec<String>,
    heldout: Vec<String>,
}

impl Halves {
    pub(crate) fn of(&self, side: Side) -> &[String] {
        if side == Side::Train { &self.train } else { &self.heldout }
    }
}
