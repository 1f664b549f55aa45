//! `esr-embedder`: the process beside a PostgreSQL cluster that owns everything dangerous, namely decoding of untrusted
//! audio, ONNX Runtime and the models' memory. A crash here costs the waiting statements one error and nobody else
//! anything.
//!
//! [`serve`] answers the messages of `esr-wire` on a unix socket: one thread per connection reads, decodes and waits;
//! one inference thread takes jobs off a bounded queue. [`list`] and [`mod@bench`] are the same encoder for the command
//! line, without a database. Knows no PostgreSQL: who starts it and what a failure means in SQL is the extension's.

#![forbid(unsafe_code)]

pub mod bench;
mod connection;
mod failure;
mod inference;
pub mod list;
mod models;
mod segments;
pub mod serve;
mod statistics;
