//! The OpenAI-compatible API: requests in, answers out. Knows nothing of sockets.

mod chat;
mod chat_reply;
mod completions;
mod completions_reply;
mod constrain;
pub mod error;
pub(crate) mod json;
mod messages;
pub(crate) mod models;
mod params;
mod read;
mod reply;
mod run;
mod session;
mod tools;

pub(crate) use reply::error_event;

use bytes::Bytes;

use crate::auth::ApiCaller;
use crate::http::{Call, EventStream};
use chat::ChatRequest;
use completions::CompletionsRequest;
use error::ApiError;
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
    let request = parse(call, body, ChatRequest::read).await?;
    run::answer(caller, call, request).await
}

/// Answers `POST /v1/completions`.
pub(crate) async fn completions(
    caller: ApiCaller,
    call: &Call,
    body: Bytes,
) -> Result<Answer, ApiError> {
    let request = parse(call, body, CompletionsRequest::read).await?;
    run::answer(caller, call, request).await
}

/// Bodies larger than this are parsed on a thread of their own.
const INLINE_BODY_BYTES: usize = 64 << 10;

async fn parse<R: Send + 'static>(
    call: &Call,
    body: Bytes,
    read: fn(&serde_json::Map<String, serde_json::Value>, &Reading) -> Result<R, ApiError>,
) -> Result<R, ApiError> {
    let config = &call.app().config;
    let reading =
        Reading::new(config.server.strict, config.limits.max_choices, config.limits.max_stop);
    let large = body.len() > INLINE_BODY_BYTES;
    let parse = move || {
        let request = read(&json::object(&body)?, &reading)?;
        Ok((request, reading.into_ignored()))
    };
    let parsed = if large {
        tokio::task::spawn_blocking(parse).await.map_err(|_| ApiError::internal())?
    } else {
        parse()
    };
    let (request, ignored) = parsed?;
    call.app().note_ignored(call.route().endpoint(), &ignored);
    Ok(request)
}
