//! What the process has once, whatever the number of connections.

use std::sync::Arc;

use crate::admission::Admission;
use crate::gate::Gate;
use crate::inference::Lane;
use crate::models::Models;
use crate::statistics::Statistics;

/// What all connections share.
pub struct Shared {
    /// The bundles.
    pub models: Models,
    /// The way to the speech towers.
    pub speech: Lane,
    /// The way to the text towers.
    pub text: Lane,
    /// Bounds what all requests together may hold in memory.
    pub admission: Admission,
    /// Bounds how many clips are decoded at a time.
    pub decoders: Gate,
    /// The counters.
    pub statistics: Arc<Statistics>,
}
