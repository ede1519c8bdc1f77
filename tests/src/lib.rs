//! What the cross-package tests share: small random models, their goldens, and raw HTTP.
//!
//! This library knows none of the other packages, so that each of them can use it in its own tests.

pub mod daemon;
mod families;
pub mod fixtures;
pub mod golden;
pub mod http;
pub mod script;
pub mod scripted;
pub mod sse;
mod weights;
