//! The OpenAI-compatible API: requests in, answers out. Knows nothing of sockets.

pub(crate) mod anthropic;
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
pub(crate) mod models;
mod params;
mod parts;
mod read;
mod reply;
pub(crate) mod responses;
mod run;
mod session;
mod tools;
mod vendor_fields;

#[cfg(test)]
mod bounds_tests;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::auth::ApiCaller;
use crate::http::{Call, EventStream, Route};
use crate::metrics::Rejection;
use crate::requests::{About, Ticket};
use chat::ChatRequest;
use completions::CompletionsRequest;
use error::ApiError;
pub(crate) use params::Ignored;
use params::Reading;
use responses::ResponsesRequest;
use run::Endpoint as _;

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
    let request = parse(caller, call, body, ChatRequest::read).await?;
    run::answer(caller, call, request).await
}

/// Answers `POST /v1/completions`.
pub(crate) async fn completions(
    caller: ApiCaller,
    call: &Call,
    body: Bytes,
) -> Result<Answer, ApiError> {
    let request = parse(caller, call, body, CompletionsRequest::read).await?;
    run::answer(caller, call, request).await
}

/// Answers `POST /v1/embeddings`: with a refusal.
pub(crate) async fn embeddings(
    caller: ApiCaller,
    call: &Call,
    body: Bytes,
) -> Result<Answer, ApiError> {
    let read = |body: &_, _: &_| embeddings::model(body);
    let (model, _ticket) = parse_as(caller, call, "embeddings", body, read).await?;
    Err(embeddings::refuse(call.app(), model).await)
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

/// Parses and validates a body; the request is in the table from here on. E25.
async fn parse<R: run::Endpoint>(
    caller: ApiCaller,
    call: &Call,
    body: Bytes,
    read: impl FnOnce(&Map<String, Value>, &Reading) -> Result<R, ApiError> + Send + 'static,
) -> Result<(R, Ticket), ApiError> {
    parse_as(caller, call, R::NAME, body, read).await
}

/// The same for an endpoint of this name.
async fn parse_as<R: Send + 'static>(
    caller: ApiCaller,
    call: &Call,
    endpoint: &'static str,
    body: Bytes,
    read: impl FnOnce(&Map<String, Value>, &Reading) -> Result<R, ApiError> + Send + 'static,
) -> Result<(R, Ticket), ApiError> {
    let app = call.app();
    let limits = &app.config.limits;
    let about = About { id: call.id(), endpoint, key: caller.key() };
    let ticket = app.requests.begin(about, limits.max_requests_per_key).map_err(|running| {
        app.metrics.other_model().rejected(Rejection::RateLimit);
        ApiError::rate_limited(running)
    })?;
    let cancelled = ticket.cancel_token();
    let reading = Reading::new(app.config.server.strict, limits.max_choices, limits.max_stop)
        .until(cancelled.clone());
    let (share, bytes) = (call.share(), body.len());
    // Earlier answers are read from the disk.
    let elsewhere = bytes > INLINE_BODY_BYTES || endpoint == ResponsesRequest::NAME;
    let parse = move || {
        let read = json::parse(&body, &|| !reading.is_cancelled()).and_then(|parsed| {
            drop(body);
            reading.holds(parsed.values);
            let read = read(&parsed.map, &reading);
            if let Some(share) = &share {
                share.parsed(bytes, reading.values());
            }
            read
        });
        if share.is_some_and(|share| share.is_large()) {
            engine::give_back_memory();
        }
        read.map(|request| (request, reading.into_ignored()))
    };
    let parsed = if elsewhere {
        tokio::select! {
            biased;
            parsed = tokio::task::spawn_blocking(parse) => parsed.map_err(|_| ApiError::internal())?,
            () = cancelled.cancelled() => Err(app.requests.cancelled_error()),
        }
    } else {
        parse()
    };
    let (request, ignored) = parsed?;
    app.note_ignored(call.route().endpoint(), &ignored);
    Ok((request, ticket))
}
