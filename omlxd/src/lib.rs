//! The daemon: configuration, the OpenAI-compatible HTTP API, and the admin socket.
#![forbid(unsafe_code)]

pub mod admin;
pub mod config;
pub mod daemon;
pub mod exit;
pub mod home;
pub mod logging;
pub mod options;
