//! Anthropic's API: `/v1/messages` and `/v1/messages/count_tokens`.

mod error;
// Not in release builds: what fuzz targets and tests reach of this module.
#[cfg(debug_assertions)]
mod for_tests;
mod input;
mod reply;
mod request;

use bytes::Bytes;
use serde_json::json;

use super::answer::Answer;
use super::parse::parse;
use super::run;
use crate::auth::ApiCaller;
use crate::error::ApiError;
use crate::http::Call;
use request::MessagesRequest;

pub(crate) use error::body as error_body;
#[cfg(test)]
pub(super) use for_tests::chat;
#[cfg(debug_assertions)]
pub(super) use for_tests::{check, writer};

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
    Ok(Answer::json(&json!({"input_tokens": tokens})))
}
