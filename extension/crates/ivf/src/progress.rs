//! How far a build is.

/// What a build is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Reading rows for the sample.
    Sampling,
    /// Learning directions and codes.
    Training,
    /// Finding centroids.
    Clustering,
    /// Reading, coding and writing rows.
    Loading,
    /// Finding out how many lists a recall takes.
    Calibrating,
}

/// Whoever wants to know how far a build is.
pub trait Progress {
    /// A phase begins that has `total` units (rows), 0 if that is not known.
    fn phase(&mut self, phase: Phase, total: u64);

    /// So many units of it are done.
    fn done(&mut self, units: u64);
}

/// Progress that nobody wants to see.
pub struct Silent;

impl Progress for Silent {
    fn phase(&mut self, _: Phase, _: u64) {}

    fn done(&mut self, _: u64) {}
}
