//! The admin socket: HTTP/1.1 and JSON over a Unix socket, for the daemon's user and root only.
//!
//! | route | answer ([`omlxctl::protocol`]) |
//! |---|---|
//! | `GET /admin/v1/version` | `Version` |
//! | `GET /admin/v1/status` | `Status` |
//! | `GET /admin/v1/models` | `Models` |
//! | `GET /admin/v1/ps` | `Loaded` |
//! | `GET /admin/v1/requests` | `Requests` |
//! | `POST /admin/v1/requests/{id}/cancel` | `Cancelled` |
//! | `GET /admin/v1/key`, `POST /admin/v1/key/rotate` | `ApiKey` |
//! | `GET /admin/v1/config` | `Settings` |
//! | `GET /admin/v1/config/check` | `ConfigCheck` |
//! | `POST /admin/v1/shutdown` | `ShuttingDown` |
//!
//! None of these is ever mounted on TCP: the two servers share no route table.

mod handlers;
mod peer;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use omlxctl::protocol::{
    ADMIN_API, API_HEADER, ErrorBody, ErrorCode, ErrorDetail, PREFIX, VERSION_HEADER,
};
use serde::Serialize;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::daemon::{Daemon, VERSION};

pub use peer::AdminPeer;

/// Most connections at once; one more waits to be accepted.
const MAX_CONNECTIONS: usize = 64;

/// Longest time for a peer to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest request head.
const MAX_HEAD_BYTES: usize = 16 << 10;

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
) -> Result<Response<Full<Bytes>>, Infallible> {
    let answer = match AdminPeer::check(uid, request.headers()) {
        Ok(peer) => route(peer, daemon, request.method(), request.uri().path()).await,
        Err(refused) => Err(refused),
    };
    Ok(finish(answer))
}

/// A refusal: status, and what the body says.
#[derive(Debug)]
struct AdminError {
    status: StatusCode,
    code: ErrorCode,
    message: String,
}

impl AdminError {
    fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        AdminError { status, code, message: message.into() }
    }
}

/// What a route answers: a JSON document or a refusal.
type Answer = Result<Vec<u8>, AdminError>;

/// Answers one route. The text is what stands at `{id}` in its pattern. Handlers may block.
type Handler = fn(AdminPeer, &Daemon, &str) -> Answer;

/// The route table.
const ROUTES: &[(Method, &str, Handler)] = &[
    (Method::GET, "/version", handlers::version),
    (Method::GET, "/status", handlers::status),
    (Method::GET, "/models", handlers::models),
    (Method::GET, "/ps", handlers::ps),
    (Method::GET, "/requests", handlers::requests),
    (Method::POST, "/requests/{id}/cancel", handlers::cancel),
    (Method::GET, "/key", handlers::key),
    (Method::POST, "/key/rotate", handlers::rotate_key),
    (Method::GET, "/config", handlers::config),
    (Method::GET, "/config/check", handlers::check_config),
    (Method::POST, "/shutdown", handlers::shutdown),
];

async fn route(peer: AdminPeer, daemon: Arc<Daemon>, method: &Method, path: &str) -> Answer {
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
    let (handler, id) = (*handler, id.to_owned());
    let answer = tokio::task::spawn_blocking(move || handler(peer, &daemon, &id)).await;
    answer.unwrap_or_else(|_| {
        let message = "this is a bug in omlxd: its log has the details";
        Err(AdminError::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Failed, message))
    })
}

/// What stands at `{id}` when the path has the pattern's form; empty for a pattern without one.
fn matches<'p>(pattern: &str, path: &'p str) -> Option<&'p str> {
    let Some((before, after)) = pattern.split_once("{id}") else {
        return (pattern == path).then_some("");
    };
    let id = path.strip_prefix(before)?.strip_suffix(after)?;
    (!id.is_empty() && !id.contains('/')).then_some(id)
}

fn finish(answer: Answer) -> Response<Full<Bytes>> {
    let (status, body) = match answer {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => {
            let detail = ErrorDetail { code: error.code, message: error.message };
            let body = json(&ErrorBody { error: detail }).unwrap_or_default();
            (error.status, body)
        }
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(VERSION_HEADER, HeaderValue::from_static(VERSION));
    headers.insert(API_HEADER, HeaderValue::from(ADMIN_API));
    response
}

fn json<T: Serialize>(document: &T) -> Answer {
    serde_json::to_vec(document).map_err(|error| {
        let message = format!("the answer cannot be written as JSON: {error}");
        AdminError::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Failed, message)
    })
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
