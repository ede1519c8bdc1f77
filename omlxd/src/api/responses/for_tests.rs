//! What fuzz targets and tests reach of this module.

use std::sync::Arc;

use engine::{SamplingParams, Tokenizer};
use serde_json::{Map, Value};

use super::super::reading::Reading;
use super::super::reply::{Identity, Write};
use super::archive::Archive;
use super::reply::{ResponseEcho, ResponsesReply};
use super::request::ResponsesRequest;
#[cfg(test)]
use crate::api::chat_request::ChatRequest;
use crate::error::ApiError;
use crate::response_store::ResponseStore;

/// Reads a body as [`super::create`] does, for a fuzz target.
pub(in crate::api) fn check(
    body: &Map<String, Value>,
    reading: &Reading,
    store: &Arc<ResponseStore>,
) -> Result<(), ApiError> {
    let archive = Archive::new(Arc::clone(store), String::new());
    ResponsesRequest::read(body, reading, archive).map(drop)
}

/// The chat request that a body becomes.
#[cfg(test)]
pub(in crate::api) fn chat(
    body: &Map<String, Value>,
    reading: &Reading,
    store: &Arc<ResponseStore>,
) -> Result<ChatRequest, ApiError> {
    let archive = Archive::new(Arc::clone(store), String::new());
    ResponsesRequest::read(body, reading, archive).map(ResponsesRequest::into_chat)
}

/// What writes an answer, for a fuzz target. `echo` is what it repeats of the request.
pub(in crate::api) fn writer(
    identity: &Identity,
    echo: Map<String, Value>,
    tokenizer: Tokenizer,
) -> impl Write + use<> {
    let told = ResponseEcho { echo, seal: true, ..ResponseEcho::default() };
    ResponsesReply::new(identity, told, &SamplingParams::default(), tokenizer)
}
