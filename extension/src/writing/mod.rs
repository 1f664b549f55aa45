//! How embeddings get into rows: the triggers of `esr_attach`, the background queue, and `esr_refresh`.
//!
//! The style column belongs to whoever is attached to it: what a writer puts there is replaced. A vector is only ever
//! written beside the audio that it was made from.
//!
//! * [`trigger`]: mode `sync`. The first row of a statement is embedded before it is stored, so that a single INSERT
//!   writes its row once; further rows are stored without a vector and get it, in batches, when the statement ends.
//! * [`queue`]: mode `queue`. Rows are visible at once; the table itself is the queue, because a pending row is one with
//!   audio and no style, and a partial index finds those. So nothing can be lost, restored databases included.
//! * [`refresh`]: a walk over a table in small transactions.

pub mod claim;
pub mod error;
pub mod failures;
pub mod fill;
pub mod firing;
pub mod isolate;
pub mod launch;
pub mod queue;
pub mod refresh;
pub mod role;
pub mod rows;
pub mod spi;
pub mod statement;
pub mod target;
pub mod transaction;
pub mod trigger;
pub mod worker;
