//! Real coding agents against the daemon. `replay.rs` sends what they were recorded sending; with
//! `make agents`, `real.rs` runs the agents themselves and records them anew.

mod agents;
mod place;
mod real;
mod recorder;
mod replay;
mod sanitise;
