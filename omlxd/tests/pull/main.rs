//! Pulling models, from a hub of the tests' own that fails in every way a hub can.

#[path = "../common/mod.rs"]
#[allow(dead_code)]
mod common;
mod faults;
mod hub;
mod jobs;
