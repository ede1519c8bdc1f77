//! The daemon: configuration, the OpenAI-compatible HTTP API, and the admin socket.
#![forbid(unsafe_code)]

pub mod admin;
pub mod api;
pub mod app;
pub mod auth;
pub mod cache;
pub mod config;
mod crash;
pub mod daemon;
pub mod error;
mod error_chain;
pub mod error_code;
pub mod exit;
pub mod home;
pub mod http;
mod key_file;
pub mod limits;
mod log_file;
pub mod logging;
mod memory;
pub mod metrics;
pub mod options;
pub mod pull;
pub mod registry;
pub mod request_memory;
pub mod requests;
pub mod response_store;
pub mod serve;
pub mod server;
mod signals;
mod start_error;
mod watchdog;
