//! `esr-embedder`: the process beside a PostgreSQL cluster that owns everything dangerous, namely decoding of untrusted
//! audio, ONNX Runtime and the models' memory. A crash here costs the waiting statements one error and nobody else
//! anything.
//!
//! [`serve`] answers the messages of `esr-wire` on a unix socket: one thread per connection reads, decodes and waits; one
//! thread per tower computes the batches that `batcher` makes of what all connections ask for. [`list`] and [`mod@bench`] are the same encoder for the command
//! line, without a database. Knows no PostgreSQL: who starts it and what a failure means in SQL is the extension's.

#![forbid(unsafe_code)]

mod admission;
pub mod batch_bench;
mod batcher;
pub mod bench;
mod caller;
pub mod compare;
mod connection;
mod embed;
mod failure;
mod gate;
mod incoming;
mod inference;
mod isolate;
pub mod list;
mod models;
mod segments;
pub mod serve;
mod shared;
mod statistics;
mod ticket;
