//! From a body to a valid request.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::json;
use super::reading::Reading;
use super::run::ApiRequest;
use crate::auth::ApiCaller;
use crate::error::ApiError;
use crate::http::Call;
use crate::metrics::Rejection;
use crate::requests::{About, Ticket};

/// Bodies larger than this are parsed on a thread of their own.
const INLINE_BODY_BYTES: usize = 64 << 10;

/// Parses and validates a body; the request is in the table from here on. E25.
pub(super) async fn parse<R: ApiRequest>(
    caller: ApiCaller,
    call: &Call,
    body: Bytes,
    read: impl FnOnce(&Map<String, Value>, &Reading) -> Result<R, ApiError> + Send + 'static,
) -> Result<(R, Ticket), ApiError> {
    parse_as(caller, call, R::NAME, R::READS_DISK, body, read).await
}

/// The same for an endpoint of this name. `reads_disk`: `read` is not for an async thread.
pub(super) async fn parse_as<R: Send + 'static>(
    caller: ApiCaller,
    call: &Call,
    endpoint: &'static str,
    reads_disk: bool,
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
    let elsewhere = bytes > INLINE_BODY_BYTES || reads_disk;
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
            kvstore::platform::give_back_memory();
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
    app.note_ignored(call.route().endpoint, ignored.count, &ignored.names);
    Ok((request, ticket))
}
