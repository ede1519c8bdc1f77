//! The OpenAI-compatible API: requests in, answers out. Knows nothing of sockets.

pub(crate) mod answer;
mod anthropic;
mod chat;
mod chat_reply;
mod chat_request;
mod completions;
mod completions_reply;
mod constrain;
mod conversation;
mod dialect;
mod embeddings;
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

pub(crate) use anthropic::error_body as anthropic_error_body;
