//! What fuzz targets and tests reach of this module.

use serde_json::{Map, Value};

use super::super::reading::Reading;
use super::super::reply::{Identity, Write};
use super::reply::{MessagesReply, Thoughts};
use super::request::MessagesRequest;
#[cfg(test)]
use crate::api::chat_request::ChatRequest;
use crate::error::ApiError;

/// Reads a body as [`super::messages`] does, for a fuzz target.
pub(in crate::api) fn check(body: &Map<String, Value>, reading: &Reading) -> Result<(), ApiError> {
    MessagesRequest::read(body, reading).map(drop)
}

/// The chat request that a body becomes.
#[cfg(test)]
pub(in crate::api) fn chat(
    body: &Map<String, Value>,
    reading: &Reading,
) -> Result<ChatRequest, ApiError> {
    MessagesRequest::read(body, reading).map(MessagesRequest::into_chat)
}

/// What writes an answer, for a fuzz target.
pub(in crate::api) fn writer(identity: &Identity, model: &str) -> impl Write + use<> {
    MessagesReply::new(identity, model, Thoughts::Shown)
}
