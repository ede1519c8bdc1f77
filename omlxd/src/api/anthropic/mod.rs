//! Anthropic's API: `/v1/messages` and `/v1/messages/count_tokens`.

mod error;
mod input;
mod reply;
mod request;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::params::Reading;
use super::reply::{Identity, Write};
use super::{Answer, parse, run};
use crate::auth::ApiCaller;
use crate::http::Call;
use reply::MessagesReply;
use request::{MessagesRequest, Thoughts};

pub(crate) use error::body as error_body;

/// Answers `POST /v1/messages`.
pub(crate) async fn messages(
    caller: ApiCaller,
    call: &Call,
    body: Bytes,
) -> Result<Answer, ApiError> {
    let request = parse(caller, call, body, MessagesRequest::read).await?;
    run::answer(caller, call, request).await
}

/// Answers `POST /v1/messages/count_tokens`: how many tokens the prompt would have.
pub(crate) async fn count_tokens(
    caller: ApiCaller,
    call: &Call,
    body: Bytes,
) -> Result<Answer, ApiError> {
    let request = parse(caller, call, body, MessagesRequest::read_any).await?;
    let tokens = run::count(call, request).await?;
    Ok(Answer::Json(json!({"input_tokens": tokens}).to_string().into_bytes()))
}

/// Reads a body as [`messages`] does, for a fuzz target.
pub(super) fn check(body: &Map<String, Value>, reading: &Reading) -> Result<(), ApiError> {
    MessagesRequest::read(body, reading).map(drop)
}

/// The chat request that a body becomes.
#[cfg(test)]
pub(super) fn chat(
    body: &Map<String, Value>,
    reading: &Reading,
) -> Result<super::chat::ChatRequest, ApiError> {
    MessagesRequest::read(body, reading).map(MessagesRequest::into_chat)
}

/// What writes an answer, for a fuzz target.
pub(super) fn writer(identity: &Identity, model: &str) -> impl Write + use<> {
    MessagesReply::new(identity, model, Thoughts::Shown)
}
