//! Fixture models on the engine, held against the oracle.
//!
//! One binary for all of it: linking the engine takes longer than running these.

mod batching;
mod chunking;
mod common;
mod damaged;
mod folders;
mod grammar;
mod parity;
mod reuse;
mod sampling;
mod trace;
