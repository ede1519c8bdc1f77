//! The OpenAI-compatible API: requests in, answers out. Knows nothing of sockets.

pub(crate) mod answer;
mod anthropic;
mod chat;
mod chat_reply;
pub mod code;
mod completions;
mod completions_reply;
mod constrain;
mod conversation;
mod dialect;
mod embeddings;
pub mod error;
mod fold;
// Not in release builds: fuzz targets and their twins in tests call it.
#[cfg(debug_assertions)]
pub mod fuzz;
#[cfg(test)]
mod history_tests;
pub(crate) mod json;
mod messages;
mod models;
mod params;
mod parse;
mod parts;
mod read;
mod reading;
mod reply;
mod responses;
pub mod routes;
mod run;
mod service;
mod session;
mod tools;
mod vendor_fields;

#[cfg(test)]
mod bounds_tests;

use bytes::Bytes;

use crate::http::Flavor;
use error::ApiError;
pub(crate) use reading::Ignored;

/// The body of a refusal in the shape that the clients of a route expect.
pub(crate) fn error_body(flavor: Flavor, error: &ApiError, request_id: &str) -> Bytes {
    match flavor {
        Flavor::Anthropic => Bytes::from(anthropic::error_body(error, request_id)),
        Flavor::OpenAi => error.body(),
    }
}
