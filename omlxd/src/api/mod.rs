//! The OpenAI-compatible API: requests in, answers out. Knows nothing of sockets.

pub(crate) mod anthropic;
mod chat;
mod chat_reply;
mod completions;
mod completions_reply;
mod constrain;
mod conversation;
mod dialect;
mod embeddings;
pub mod error;
mod fold;
pub mod fuzz;
#[cfg(test)]
mod history_tests;
pub(crate) mod json;
mod messages;
pub(crate) mod models;
mod params;
mod parts;
mod read;
mod reply;
pub(crate) mod responses;
mod run;
mod session;
mod tools;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::auth::ApiCaller;
use crate::http::{Call, EventStream, Route};
use chat::ChatRequest;
use completions::CompletionsRequest;
use error::ApiError;
pub(crate) use params::Ignored;
use params::Reading;

/// The answer to a request that was taken.
pub(crate) enum Answer {
    /// A JSON document.
    Json(Vec<u8>),
    /// A stream of events.
    Events(EventStream),
}

/// Answers `POST /v1/chat/completions`.
pub(crate) async fn chat_completions(
    caller: ApiCaller,
    call: &Call,
    body: Bytes,
) -> Result<Answer, ApiError> {
    let request = parse(call, body, false, ChatRequest::read).await?;
    run::answer(caller, call, request).await
}

/// Answers `POST /v1/completions`.
pub(crate) async fn completions(
    caller: ApiCaller,
    call: &Call,
    body: Bytes,
) -> Result<Answer, ApiError> {
    let request = parse(call, body, false, CompletionsRequest::read).await?;
    run::answer(caller, call, request).await
}

/// Answers `POST /v1/embeddings`: with a refusal.
pub(crate) async fn embeddings(
    _caller: ApiCaller,
    call: &Call,
    body: Bytes,
) -> Result<Answer, ApiError> {
    Err(parse(call, body, false, |body, _| Ok(embeddings::refuse(body))).await?)
}

/// The body of a refusal in the shape that the clients of a route expect.
pub(crate) fn error_body(route: Route, error: &ApiError, request_id: &str) -> Bytes {
    match route {
        Route::Messages | Route::CountTokens => {
            Bytes::from(anthropic::error_body(error, request_id))
        }
        _ => error.body(),
    }
}

/// Bodies larger than this are parsed on a thread of their own.
const INLINE_BODY_BYTES: usize = 64 << 10;

/// Parses and validates a body. `blocks`: `read` waits for a disk.
async fn parse<R: Send + 'static>(
    call: &Call,
    body: Bytes,
    blocks: bool,
    read: impl FnOnce(&Map<String, Value>, &Reading) -> Result<R, ApiError> + Send + 'static,
) -> Result<R, ApiError> {
    let config = &call.app().config;
    let reading =
        Reading::new(config.server.strict, config.limits.max_choices, config.limits.max_stop);
    let elsewhere = blocks || body.len() > INLINE_BODY_BYTES;
    let parse = move || {
        let request = read(&json::object(&body)?, &reading)?;
        Ok((request, reading.into_ignored()))
    };
    let parsed = if elsewhere {
        tokio::task::spawn_blocking(parse).await.map_err(|_| ApiError::internal())?
    } else {
        parse()
    };
    let (request, ignored) = parsed?;
    call.app().note_ignored(call.route().endpoint(), &ignored);
    Ok(request)
}
