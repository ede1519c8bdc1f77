//! Accepting connections, answering their requests, and stopping.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::Connection;
use super::{Body, Call, Route, Tls, origin, read, tls};
use crate::api::error::ApiError;
use crate::api::{self, Answer};
use crate::app::App;
use crate::auth::{ApiCaller, Denied};
use crate::limits::REFUSED_CONNECTIONS;
use crate::metrics::{self, Rejection};
use crate::watchdog;

/// What the system may hold of an answer that its client does not read. Left to itself it grows to
/// megabytes, which are many thousand tokens generated for nobody.
const SEND_BUFFER_BYTES: usize = 256 << 10;
/// After an accept that failed (out of file descriptors, for one).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection beyond the limit may take to hear it.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// And how long to agree on TLS before: many may do that at a time.
const REFUSAL_TLS_TIME: Duration = Duration::from_secs(10);
/// After the drain: how long cancelled requests and then their connections have to end.
const STOP_TIME: Duration = Duration::from_millis(800);

/// What a connection beyond the limit hears: the length of the body is that of the last line.
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\
    retry-after: 1\r\ncontent-type: application/json\r\ncontent-length: 141\r\n\r\n\
    {\"error\":{\"message\":\"All connections of this server are in use. Retry later.\",\
    \"type\":\"server_error\",\"param\":null,\"code\":\"server_overloaded\"}}";

/// Answers requests until `app.shutdown` fires; then drains: no new connections, new requests of
/// open connections are refused (E33), and running ones have `server.drain` to finish before they
/// are cancelled.
pub async fn serve(app: Arc<App>, listener: TcpListener) {
    serve_with(app, listener, None).await;
}

/// The same; with a certificate, clients on other machines have to use TLS. Programs on this machine
/// may, and may not: what they send does not leave it.
pub async fn serve_with(app: Arc<App>, listener: TcpListener, tls: Option<Arc<Tls>>) {
    let server = Arc::new(Server {
        slots: Arc::new(Semaphore::new(app.config.server.max_connections)),
        refusals: Arc::new(Semaphore::new(REFUSED_CONNECTIONS)),
        calls: TaskTracker::new(),
        connections: TaskTracker::new(),
        close: CancellationToken::new(),
        abort: CancellationToken::new(),
        tls,
        app,
    });
    loop {
        tokio::select! {
            biased;
            () = server.app.shutdown.cancelled() => break,
            () = server.accept_one(&listener) => {}
        }
    }
    drop(listener);
    server.drain().await;
}

struct Server {
    app: Arc<App>,
    slots: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    /// Requests being answered.
    calls: TaskTracker,
    connections: TaskTracker,
    /// Connections end after the response under way.
    close: CancellationToken,
    /// Connections end at once.
    abort: CancellationToken,
    tls: Option<Arc<Tls>>,
}

/// What a connection may become.
enum Place {
    /// Served.
    Slot(OwnedSemaphorePermit),
    /// Refused.
    Refusal(OwnedSemaphorePermit),
}

/// How a client speaks.
enum Either {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What is the same for all requests of a connection.
#[derive(Clone, Copy)]
struct Peer {
    is_loopback: bool,
    /// The client is on this machine, whichever of its addresses it comes from.
    is_here: bool,
    /// The address that the client reached is a loopback address.
    on_loopback: bool,
}

impl Server {
    /// Takes a connection, to serve it or to say that there are too many. When too many are being told
    /// so, the next ones wait in the system's own queue: to close one without a word is to reset it.
    async fn accept_one(self: &Arc<Self>, listener: &TcpListener) {
        let place = tokio::select! {
            biased;
            Ok(slot) = Arc::clone(&self.slots).acquire_owned() => Place::Slot(slot),
            Ok(permit) = Arc::clone(&self.refusals).acquire_owned() => Place::Refusal(permit),
        };
        match listener.accept().await {
            Ok((stream, peer)) => self.accept(stream, peer, place),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    fn accept(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, place: Place) {
        let slot = match place {
            Place::Slot(slot) => slot,
            // A slot may have become free while this one was waited for.
            Place::Refusal(permit) => match Arc::clone(&self.slots).try_acquire_owned() {
                Ok(slot) => slot,
                Err(_) => return self.refuse(stream, permit),
            },
        };
        // A failure leaves the system's own, larger size.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER_BYTES);
        // Without this a small event waits for the acknowledgement of the one before it.
        let _ = stream.set_nodelay(true);
        let own = stream.local_addr().map(|address| address.ip().to_canonical()).ok();
        let peer = peer.ip().to_canonical();
        let is_loopback = peer.is_loopback();
        let peer = Peer {
            is_loopback,
            is_here: is_loopback || own == Some(peer),
            on_loopback: own.is_some_and(|own| own.is_loopback()),
        };
        let server = Arc::clone(self);
        self.connections.spawn(async move {
            server.app.metrics.http().connections.inc();
            tokio::select! {
                () = server.negotiate(stream, peer) => {}
                () = server.abort.cancelled() => {}
            }
            server.app.metrics.http().connections.dec();
            drop(slot);
        });
    }

    /// Says 503 to a connection beyond the limit, over TLS where the client begins with that.
    fn refuse(self: &Arc<Self>, stream: TcpStream, permit: OwnedSemaphorePermit) {
        let server = Arc::clone(self);
        self.connections.spawn(async move {
            tokio::select! {
                // A client that says nothing, or reads nothing, is not worth a word in the log.
                _ = say_refusal(stream, server.tls.as_deref()) => {}
                () = server.close.cancelled() => {}
            }
            drop(permit);
        });
    }

    /// Speaks TLS where it is to be spoken, then HTTP.
    async fn negotiate(self: &Arc<Self>, stream: TcpStream, peer: Peer) {
        let Some(tls) = &self.tls else { return self.connection(stream, peer).await };
        let negotiated = timeout(self.app.config.server.request_read_timeout, async {
            if tls::is_wanted(&stream).await? {
                return Ok(Some(Either::Tls(Box::new(tls.acceptor().accept(stream).await?))));
            }
            Ok::<_, io::Error>(peer.is_here.then_some(Either::Plain(stream)))
        });
        match negotiated.await {
            Ok(Ok(Some(Either::Tls(stream)))) => self.connection(stream, peer).await,
            Ok(Ok(Some(Either::Plain(stream)))) => self.connection(stream, peer).await,
            Ok(Ok(None)) => tracing::debug!("a client of another machine does not use TLS"),
            Ok(Err(error)) => tracing::debug!(%error, "no TLS connection was made"),
            Err(_) => tracing::debug!("a client took too long to begin"),
        }
    }

    async fn connection<S>(self: &Arc<Self>, stream: S, peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let config = &self.app.config;
        let io = TokioIo::new(Connection::new(stream, config.server.write_timeout));
        let service = service_fn(|request| {
            let server = Arc::clone(self);
            async move { Ok::<_, Infallible>(server.handle(request, peer).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(config.server.request_read_timeout)
            .max_buf_size(config.limits.max_header as usize)
            .serve_connection(io, service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.close.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        }
    }

    async fn drain(&self) {
        self.calls.close();
        self.connections.close();
        if timeout(self.app.config.server.drain, self.calls.wait()).await.is_err() {
            tracing::warn!(requests = self.calls.len(), "the drain is over: cancelling requests");
            self.app.requests.stop();
            let _ = timeout(STOP_TIME, self.calls.wait()).await;
        }
        self.close.cancel();
        if timeout(STOP_TIME, self.connections.wait()).await.is_err() {
            self.abort.cancel();
        }
    }

    /// Answers one request; whatever happens in it, there is a response.
    async fn handle(&self, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        let (parts, body) = request.into_parts();
        // What is left here in the end was not looked at.
        let mut body = Some(body);
        let (route, id) = Route::of(parts.uri.path());
        let call = Call::new(Arc::clone(&self.app), route);
        let mut answered = call.answered(&parts.method, self.calls.token());
        log_client_id(&call, &parts.headers);
        let origins = &self.app.config.server.cors_origins;
        let checked = origin::check(&parts, peer.on_loopback, origins);
        let mut preflight = false;
        let (outcome, origin) = match checked {
            Ok(checked) => {
                preflight = origin::is_preflight(&parts, &checked);
                let is_own = peer.is_loopback && checked.is_own_host;
                let answer = async {
                    if preflight {
                        return Ok(empty(StatusCode::NO_CONTENT));
                    }
                    self.answer(&call, &parts, id, &mut body, is_own).await
                };
                (guarded(&call, answer).await, checked.origin)
            }
            Err(error) => {
                self.app.metrics.auth_failure("forbidden");
                (Err(error), None)
            }
        };
        let mut response = outcome.unwrap_or_else(|error| {
            self.app.metrics.error(route.endpoint(), error.label());
            let body = api::error_body(route, &error, call.id());
            let mut response = Response::new(Body::whole(body));
            *response.status_mut() = error.status();
            error.headers(response.headers_mut());
            response
        });
        if body.is_some_and(|body| !body.is_end_stream()) {
            // hyper closes a connection on which a body was not read; a client that is not told would
            // send its next request into the void.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let id = HeaderValue::from_str(call.id()).expect("an id is plain text");
        if matches!(route, Route::Messages | Route::CountTokens) {
            // Anthropic's name for it.
            response.headers_mut().insert("request-id", id.clone());
        }
        response.headers_mut().insert("x-request-id", id);
        if let Some(origin) = origin {
            origin::allow(response.headers_mut(), origin, &parts.headers, preflight);
        }
        answered.status(response.status().as_u16());
        response.map(|body| body.accounted(answered))
    }

    async fn answer(
        &self,
        call: &Call,
        parts: &Parts,
        id: &str,
        body: &mut Option<Incoming>,
        // Whether a program on this machine asks, and not a web page by a name of its own.
        is_own: bool,
    ) -> Result<Response<Body>, ApiError> {
        let app = &self.app;
        let (method, path) = (&parts.method, parts.uri.path());
        let route = call.route();
        if route == Route::Unknown {
            return Err(ApiError::unknown_url(method.as_str(), path));
        }
        if !route.allows(method) {
            return Err(ApiError::method_not_allowed(method.as_str(), path, route.allow()));
        }
        match route {
            Route::Unknown => Err(ApiError::unknown_url(method.as_str(), path)),
            Route::Healthz => Ok(document(StatusCode::OK, &json!({"status": "ok"}))),
            Route::Readyz => Ok(ready(app)),
            Route::Metrics => {
                if !is_own {
                    self.authorize(&parts.headers)?;
                }
                metrics_text(app).await
            }
            Route::Version => {
                self.authorize(&parts.headers)?;
                Ok(document(StatusCode::OK, &json!({"version": app.version})))
            }
            Route::Models | Route::Model => {
                let caller = self.authorize(&parts.headers)?;
                self.refuse_when_stopping()?;
                models(caller, app, route, id).await
            }
            Route::Response => {
                let caller = self.authorize(&parts.headers)?;
                self.refuse_when_stopping()?;
                let answer = match *method {
                    Method::DELETE => api::responses::delete(caller, call, id).await?,
                    _ => api::responses::get(caller, call, id).await?,
                };
                Ok(document(StatusCode::OK, &answer))
            }
            Route::ChatCompletions
            | Route::Completions
            | Route::Responses
            | Route::InputTokens
            | Route::Messages
            | Route::CountTokens
            | Route::Embeddings => {
                let caller = self.authorize(&parts.headers)?;
                self.refuse_when_stopping()?;
                let body = body.take().expect("nobody else reads it");
                self.generate(caller, call, &parts.headers, body).await
            }
        }
    }

    /// A caller, or E16 or E17.
    fn authorize(&self, headers: &HeaderMap) -> Result<ApiCaller, ApiError> {
        self.app.keys.api_caller(headers).map_err(|denied| {
            let metrics = &self.app.metrics;
            metrics.other_model().rejected(Rejection::Auth);
            match denied {
                Denied::Missing => {
                    metrics.auth_failure("missing");
                    ApiError::no_key()
                }
                Denied::Invalid { tail } => {
                    metrics.auth_failure("invalid");
                    ApiError::wrong_key(&tail)
                }
            }
        })
    }

    fn refuse_when_stopping(&self) -> Result<(), ApiError> {
        match self.app.shutdown.is_cancelled() {
            true => Err(ApiError::shutting_down()),
            false => Ok(()),
        }
    }

    async fn generate(
        &self,
        caller: ApiCaller,
        call: &Call,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Response<Body>, ApiError> {
        let config = &self.app.config;
        let (max, pause) = (config.limits.max_body, config.server.request_read_timeout);
        let reader = read::Reader { memory: &self.app.request_memory, max_bytes: max, pause };
        let (body, share) = read::json_body(reader, headers, body).await?;
        call.hold(share);
        self.app.metrics.http().body(call.route().template(), body.len());
        let answer = match call.route() {
            Route::ChatCompletions => api::chat_completions(caller, call, body).await?,
            Route::Responses => api::responses::create(caller, call, body).await?,
            Route::InputTokens => api::responses::input_tokens(caller, call, body).await?,
            Route::Messages => api::anthropic::messages(caller, call, body).await?,
            Route::CountTokens => api::anthropic::count_tokens(caller, call, body).await?,
            Route::Embeddings => api::embeddings(caller, call, body).await?,
            _ => api::completions(caller, call, body).await?,
        };
        Ok(match answer {
            Answer::Json(document) => json_response(StatusCode::OK, document),
            Answer::Events(stream) => {
                let mut response = Response::new(Body::events(stream));
                let headers = response.headers_mut();
                let event_stream = HeaderValue::from_static("text/event-stream");
                headers.insert(header::CONTENT_TYPE, event_stream);
                headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
                headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
                response
            }
        })
    }
}

async fn models(
    _caller: ApiCaller,
    app: &Arc<App>,
    route: Route,
    id: &str,
) -> Result<Response<Body>, ApiError> {
    let (app, id) = (Arc::clone(app), id.to_owned());
    // Looking for models reads directories.
    let found = tokio::task::spawn_blocking(move || match route {
        Route::Model => api::models::get(&app, &id),
        _ => Ok(api::models::list(&app)),
    });
    let found = found.await.map_err(|_| ApiError::internal())??;
    Ok(document(StatusCode::OK, &found))
}

async fn metrics_text(app: &Arc<App>) -> Result<Response<Body>, ApiError> {
    let app = Arc::clone(app);
    let text = tokio::task::spawn_blocking(move || app.render_metrics()).await;
    let mut response = Response::new(Body::whole(text.map_err(|_| ApiError::internal())?));
    let kind = HeaderValue::from_static(metrics::CONTENT_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// Whether requests can be served. Names no model: nobody was asked for a key.
fn ready(app: &App) -> Response<Body> {
    let progress = app.engine.progress();
    let (loading, ready, failed) = app.registry.counts();
    // A model that cannot be loaded says nothing about the daemon, which serves the others.
    let status = match () {
        () if app.shutdown.is_cancelled() => "shutting_down",
        () if watchdog::is_stalled(&progress) => "stalled",
        () => "ready",
    };
    let code = match status {
        "ready" => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let models = json!({"ready": ready, "loading": loading, "failed": failed});
    document(code, &json!({"status": status, "models": models}))
}

fn document(status: StatusCode, value: &Value) -> Response<Body> {
    json_response(status, value.to_string().into_bytes())
}

fn json_response(status: StatusCode, json: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::whole(json));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::whole(Vec::new()));
    *response.status_mut() = status;
    response
}

/// What a handler gives, or E32 when it panics. The panic's own message and place are in the log
/// already, by the panic hook.
async fn guarded<T>(
    call: &Call,
    handler: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    AssertUnwindSafe(handler).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!(request = call.id(), route = call.route().template(), "a handler panicked");
        Err(ApiError::internal())
    })
}

/// The client's own id for the request, which is for logs only.
fn log_client_id(call: &Call, headers: &HeaderMap) {
    let Some(id) = headers.get("x-client-request-id").and_then(|id| id.to_str().ok()) else {
        return;
    };
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    let client_id: String = id.chars().filter(is_plain).take(64).collect();
    tracing::debug!(request = call.id(), client_id, "the client's own id");
}

/// Says 503 in the way that the client speaks.
async fn say_refusal(stream: TcpStream, tls: Option<&Tls>) -> io::Result<()> {
    let Some(tls) = tls else { return write_refusal(stream).await };
    if !timeout(REFUSAL_TIME, tls::is_wanted(&stream)).await?? {
        return write_refusal(stream).await;
    }
    let stream = timeout(REFUSAL_TLS_TIME, tls.acceptor().accept(stream)).await??;
    write_refusal(stream).await
}

/// Writes the refusal, and waits for it to be read.
async fn write_refusal<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<()> {
    let writing = async {
        stream.write_all(REFUSAL).await?;
        stream.shutdown().await?;
        let mut sink = [0_u8; 4096];
        while stream.read(&mut sink).await? > 0 {}
        Ok(())
    };
    timeout(REFUSAL_TIME, writing).await?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Keys;
    use crate::config::Config;

    #[tokio::test]
    async fn a_panic_is_an_internal_error_without_internals() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { base_dir: dir.path().to_owned(), ..Config::default() };
        let app = App::start(Arc::new(config), Keys::disabled(), "0").unwrap();
        let call = Call::new(Arc::new(app), Route::Models);
        let error = guarded::<()>(&call, async { panic!("a secret detail") }).await.unwrap_err();
        assert_eq!((error.status().as_u16(), error.label()), (500, "internal_error"));
        assert!(!error.message().contains("secret"));
    }

    #[test]
    fn the_refusal_has_the_length_that_it_says() {
        let text = std::str::from_utf8(REFUSAL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        serde_json::from_str::<Value>(body).unwrap();
    }
}
