//! The daemon: configuration, the OpenAI-compatible HTTP API, and the admin socket.
#![forbid(unsafe_code)]

pub mod config;
pub mod home;
pub mod logging;
