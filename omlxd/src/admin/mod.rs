//! The admin socket: HTTP/1.1 and JSON over a Unix socket, for the daemon's user and root only.
//!
//! | route | answer ([`omlxctl::protocol`]) |
//! |---|---|
//! | `GET /admin/v1/version` | `Version` |
//! | `GET /admin/v1/status` | `Status` |
//! | `GET /admin/v1/models` | `Models` |
//! | `GET /admin/v1/models/{id}` | `KnownModel` |
//! | `POST /admin/v1/models/{id}/load`, `../unload` | lines of `ModelEvent` |
//! | `POST /admin/v1/models/{id}/pin`, `../unpin` | `Pinned` |
//! | `POST /admin/v1/models/{id}/remove?cache=1` | `RemovedModel` |
//! | `POST /admin/v1/pull/{id}?revision=R&force=1` | lines of `PullEvent` |
//! | `GET /admin/v1/pulls` | `PullList` |
//! | `POST /admin/v1/pulls/{id}/cancel` | `PullCancelled` |
//! | `GET /admin/v1/activity` | `Activity` |
//! | `GET /admin/v1/doctor` | `Checks` |
//! | `GET /admin/v1/ps` | `Loaded` |
//! | `GET /admin/v1/requests` | `Requests` |
//! | `POST /admin/v1/requests/{id}/cancel` | `Cancelled` |
//! | `GET /admin/v1/key`, `POST /admin/v1/key/rotate` | `ApiKey` |
//! | `GET /admin/v1/keys` | `ApiKeys` |
//! | `POST /admin/v1/keys/{name}/add` | `KeyAdded` |
//! | `POST /admin/v1/keys/{name}/revoke` | `KeyRevoked` |
//! | `GET /admin/v1/config` | `Settings` |
//! | `GET /admin/v1/config/check` | `ConfigCheck` |
//! | `GET /admin/v1/cache` | `CacheStats` |
//! | `POST /admin/v1/cache/verify` | lines of `VerifyEvent` |
//! | `POST /admin/v1/cache/clear`, `POST /admin/v1/cache/clear/{id}` | `Cleared` |
//! | `POST /admin/v1/cache/demote` | `Demoted` |
//! | `GET /admin/v1/cache/explain/{id}` | `Explanation` |
//! | `POST /admin/v1/shutdown` | `ShuttingDown` |
//!
//! None of these is ever mounted on TCP: the two servers share no route table.

mod answer;
mod cache;
mod doctor;
mod handlers;
mod keys;
mod models;
mod peer;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::unfold;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use omlxctl::protocol::{
    ADMIN_API, API_HEADER, ErrorBody, ErrorCode, ErrorDetail, PREFIX, VERSION_HEADER,
};
use percent_encoding::percent_decode_str;
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::daemon::{Daemon, VERSION};

use answer::{AdminError, Answer, Asked, Events, json};
pub use peer::AdminPeer;

/// Most connections at once; one more waits to be accepted.
const MAX_CONNECTIONS: usize = 64;

/// Longest time for a peer to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest request head.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// Events of a long answer that may wait for a slow reader, who then slows down the work.
const MAX_WAITING_EVENTS: usize = 16;

/// Pause after a failed accept, so that running out of files does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the admin socket until told to stop, then lets open exchanges end.
///
/// # Errors
/// When the listener cannot be used with the runtime.
pub fn serve(
    daemon: Arc<Daemon>,
    listener: std::os::unix::net::UnixListener,
    stop: CancellationToken,
) -> io::Result<impl Future<Output = ()> + Send> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    Ok(accept(daemon, listener, stop))
}

async fn accept(daemon: Arc<Daemon>, listener: UnixListener, stop: CancellationToken) {
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await.ok()?;
            Some((listener.accept().await, slot))
        };
        let (stream, slot) = tokio::select! {
            accepted = accepted => match accepted {
                Some((Ok((stream, _)), slot)) => (stream, slot),
                Some((Err(error), _)) => {
                    tracing::warn!(%error, "cannot accept on the admin socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
                None => break,
            },
            () = stop.cancelled() => break,
        };
        let uid = stream.peer_cred().map(|peer| peer.uid()).ok();
        let daemon = daemon.clone();
        let service = service_fn(move |request| answer(daemon.clone(), uid, request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an admin connection broke");
            }
            drop(slot);
        });
    }
    graceful.shutdown().await;
}

async fn answer(
    daemon: Arc<Daemon>,
    uid: Option<u32>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let answer = match AdminPeer::check(uid, request.uri(), request.headers()) {
        Ok(peer) => route(peer, daemon, request).await,
        Err(refused) => Err(refused),
    };
    Ok(finish(answer))
}

/// An answer's body.
type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Answers one route. Handlers may block.
#[derive(Clone, Copy)]
enum Handler {
    /// With one document.
    Document(fn(AdminPeer, &Daemon, &Asked) -> Answer),
    /// With lines of JSON, the last one `done` or `error`.
    Lines(fn(AdminPeer, &Daemon, &Asked, &Events)),
}

use Handler::{Document, Lines};

/// What a handler gave.
enum Reply {
    Document(Vec<u8>),
    Lines(mpsc::Receiver<Bytes>),
}

/// The route table.
const ROUTES: &[(Method, &str, Handler)] = &[
    (Method::GET, "/version", Document(handlers::version)),
    (Method::GET, "/status", Document(handlers::status)),
    (Method::GET, "/models", Document(models::list)),
    (Method::GET, "/models/{id}", Document(models::show)),
    (Method::POST, "/models/{id}/load", Lines(models::load)),
    (Method::POST, "/models/{id}/unload", Lines(models::unload)),
    (Method::POST, "/models/{id}/pin", Document(models::pin)),
    (Method::POST, "/models/{id}/unpin", Document(models::unpin)),
    (Method::POST, "/models/{id}/remove", Document(models::remove)),
    (Method::POST, "/pull/{id}", Lines(models::pull)),
    (Method::GET, "/pulls", Document(models::pulls)),
    (Method::POST, "/pulls/{id}/cancel", Document(models::cancel_pull)),
    (Method::GET, "/activity", Document(handlers::activity)),
    (Method::GET, "/doctor", Document(doctor::checks)),
    (Method::GET, "/ps", Document(handlers::ps)),
    (Method::GET, "/requests", Document(handlers::requests)),
    (Method::POST, "/requests/{id}/cancel", Document(handlers::cancel)),
    (Method::GET, "/key", Document(keys::show)),
    (Method::POST, "/key/rotate", Document(keys::rotate)),
    (Method::GET, "/keys", Document(keys::list)),
    (Method::POST, "/keys/{id}/add", Document(keys::add)),
    (Method::POST, "/keys/{id}/revoke", Document(keys::revoke)),
    (Method::GET, "/config", Document(handlers::config)),
    (Method::GET, "/config/check", Document(handlers::check_config)),
    (Method::GET, "/cache", Document(cache::stats)),
    (Method::POST, "/cache/verify", Lines(cache::verify)),
    (Method::POST, "/cache/clear", Document(cache::clear)),
    (Method::POST, "/cache/clear/{id}", Document(cache::clear)),
    (Method::POST, "/cache/demote", Document(cache::demote)),
    (Method::GET, "/cache/explain/{id}", Document(cache::explain)),
    (Method::POST, "/shutdown", Document(handlers::shutdown)),
];

async fn route(
    peer: AdminPeer,
    daemon: Arc<Daemon>,
    request: Request<Incoming>,
) -> Result<Reply, AdminError> {
    let (parts, _) = request.into_parts();
    let (method, path) = (&parts.method, parts.uri.path());
    let matching = ROUTES.iter().find_map(|(allowed, pattern, handler)| {
        Some((allowed, handler, matches(pattern, path.strip_prefix(PREFIX)?)?))
    });
    let Some((allowed, handler, id)) = matching else {
        let message =
            format!("there is no such route; this is omlxd {VERSION}, admin API {ADMIN_API}");
        return Err(AdminError::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message));
    };
    if method != allowed {
        let message = format!("this route takes {allowed} only");
        let status = StatusCode::METHOD_NOT_ALLOWED;
        return Err(AdminError::new(status, ErrorCode::MethodNotAllowed, message));
    }
    let asked = Asked {
        id: percent_decode_str(id).decode_utf8_lossy().into_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers.clone(),
    };
    match *handler {
        Document(handler) => {
            let answer = tokio::task::spawn_blocking(move || handler(peer, &daemon, &asked)).await;
            answer.map_err(|_| AdminError::bug()).flatten().map(Reply::Document)
        }
        Lines(handler) => {
            let (events, lines) = mpsc::channel(MAX_WAITING_EVENTS);
            // One that panics leaves its lines without an end, which readers take for a failure.
            tokio::task::spawn_blocking(move || handler(peer, &daemon, &asked, &Events(events)));
            Ok(Reply::Lines(lines))
        }
    }
}

/// What stands at `{id}` when the path has the pattern's form; empty for a pattern without one.
fn matches<'p>(pattern: &str, path: &'p str) -> Option<&'p str> {
    let Some((before, after)) = pattern.split_once("{id}") else {
        return (pattern == path).then_some("");
    };
    let id = path.strip_prefix(before)?.strip_suffix(after)?;
    (!id.is_empty() && !id.contains('/')).then_some(id)
}

fn finish(answer: Result<Reply, AdminError>) -> Response<Body> {
    let whole = |body: Vec<u8>| Full::new(Bytes::from(body)).boxed_unsync();
    let document = HeaderValue::from_static("application/json");
    let (status, content_type, body) = match answer {
        Ok(Reply::Document(body)) => (StatusCode::OK, document, whole(body)),
        Ok(Reply::Lines(lines)) => {
            let next = |mut lines: mpsc::Receiver<Bytes>| async {
                let line = lines.recv().await?;
                Some((Ok(Frame::data(line)), lines))
            };
            let lines = StreamBody::new(unfold(lines, next)).boxed_unsync();
            (StatusCode::OK, HeaderValue::from_static("application/x-ndjson"), lines)
        }
        Err(error) => {
            let detail = ErrorDetail { code: error.code, message: error.message };
            let body = json(&ErrorBody { error: detail }).unwrap_or_default();
            (error.status, document, whole(body))
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(VERSION_HEADER, HeaderValue::from_static(VERSION));
    headers.insert(API_HEADER, HeaderValue::from(ADMIN_API));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_takes_exactly_one_id() {
        assert_eq!(matches("/key", "/key"), Some(""));
        assert_eq!(matches("/key", "/keys"), None);
        assert_eq!(matches("/requests/{id}/cancel", "/requests/req-1/cancel"), Some("req-1"));
        for path in ["/requests//cancel", "/requests/a/b/cancel", "/requests/cancel", "/requests"] {
            assert_eq!(matches("/requests/{id}/cancel", path), None, "{path}");
        }
    }
}
