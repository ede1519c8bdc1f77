//! Accepting connections, answering their requests, and stopping.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::answer::Answer;
use crate::api::anthropic_error_body;
use crate::api::routes::{self, Entry, Handler};
use crate::app::App;
use crate::auth::{ApiCaller, Denied};
use crate::error::ApiError;
use crate::http::{
    Body, Call, Connection, Flavor, Reader, Route, Tls, allow_origin, check_origin, is_preflight,
    json_body, wants_tls,
};
use crate::limits::REFUSED_CONNECTIONS;
use crate::metrics::Rejection;

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

const EVENT_STREAM: &str = "text/event-stream";

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
    let metrics = server.app.metrics.http();
    for route in routes::all().chain([&Route::UNKNOWN]) {
        let method = if route.has_body() { "POST" } else { "GET" };
        metrics.add_route(route.template, method, route.statuses);
    }
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
            if wants_tls(&stream).await? {
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
        let found = routes::find(parts.uri.path());
        let route = found.map_or(&Route::UNKNOWN, |(entry, _)| &entry.route);
        let call = Call::new(Arc::clone(&self.app), route);
        let mut answered = call.answered(&parts.method, self.calls.token());
        log_client_id(&call, &parts.headers);
        let origins = &self.app.config.server.cors_origins;
        let checked = check_origin(&parts, peer.on_loopback, origins);
        let mut preflight = false;
        let (outcome, origin) = match checked {
            Ok(checked) => {
                preflight = is_preflight(&parts, &checked);
                let is_own = peer.is_loopback && checked.is_own_host;
                let answer = async {
                    if preflight {
                        return Ok(empty(StatusCode::NO_CONTENT));
                    }
                    self.answer(&call, &parts, found, &mut body, is_own).await
                };
                (guarded(&call, answer).await, checked.origin)
            }
            Err(error) => {
                self.app.metrics.auth_failure("forbidden");
                (Err(error), None)
            }
        };
        let mut response = outcome.unwrap_or_else(|error| {
            self.app.metrics.error(route.endpoint, error.label());
            let body = error_body(route.flavor, &error, call.id());
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
        if route.flavor == Flavor::Anthropic {
            response.headers_mut().insert("request-id", id.clone());
        }
        response.headers_mut().insert("x-request-id", id);
        if let Some(origin) = origin {
            allow_origin(response.headers_mut(), origin, &parts.headers, preflight);
        }
        answered.status(response.status().as_u16());
        response.map(|body| body.accounted(answered))
    }

    /// Checks what the route asks for, and calls its handler.
    async fn answer(
        &self,
        call: &Call,
        parts: &Parts,
        found: Option<(&'static Entry, &str)>,
        body: &mut Option<Incoming>,
        // Whether a program on this machine asks, and not a web page by a name of its own.
        is_own: bool,
    ) -> Result<Response<Body>, ApiError> {
        let (method, path) = (&parts.method, parts.uri.path());
        let Some((Entry { route, handler }, id)) = found else {
            return Err(ApiError::unknown_url(method.as_str(), path));
        };
        if !route.allows(method) {
            return Err(ApiError::method_not_allowed(method.as_str(), path, route.allow));
        }
        let answer = match handler {
            Handler::Open(_, handler) => handler(call).await?,
            Handler::OpenHere(handler) => {
                if !is_own {
                    self.authorize(&parts.headers)?;
                }
                handler(call).await?
            }
            Handler::Get(get) => get(self.admit(&parts.headers)?, call, id).await?,
            Handler::GetOrDelete(get, delete) => {
                let handler = if *method == Method::DELETE { delete } else { get };
                handler(self.admit(&parts.headers)?, call, id).await?
            }
            Handler::Post(handler) => {
                let caller = self.admit(&parts.headers)?;
                let body = body.take().expect("nothing else reads it");
                let body = self.read_body(call, &parts.headers, body).await?;
                handler(caller, call, body).await?
            }
        };
        Ok(response(answer))
    }

    /// A caller, while the daemon takes requests: E16, E17, E33.
    fn admit(&self, headers: &HeaderMap) -> Result<ApiCaller, ApiError> {
        let caller = self.authorize(headers)?;
        if self.app.shutdown.is_cancelled() {
            return Err(ApiError::shutting_down());
        }
        Ok(caller)
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

    /// Reads a body; the request holds its memory from here on.
    async fn read_body(
        &self,
        call: &Call,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Bytes, ApiError> {
        let config = &self.app.config;
        let (max, pause) = (config.limits.max_body, config.server.request_read_timeout);
        let reader = Reader { memory: &self.app.request_memory, max_bytes: max, pause };
        let (body, share) = json_body(reader, headers, body).await?;
        call.hold(share);
        self.app.metrics.http().body(call.route().template, body.len());
        Ok(body)
    }
}

fn response(answer: Answer) -> Response<Body> {
    let (status, content_type, body) = match answer {
        Answer::Document { status, content_type, body } => {
            (status, content_type, Body::whole(body))
        }
        Answer::Events(stream) => (StatusCode::OK, EVENT_STREAM, Body::events(stream)),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if content_type == EVENT_STREAM {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // Proxies such as nginx must not hold events back.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    }
    response
}

/// The body of a refusal in the form that the clients of a route expect.
fn error_body(flavor: Flavor, error: &ApiError, request_id: &str) -> Bytes {
    match flavor {
        Flavor::Anthropic => Bytes::from(anthropic_error_body(error, request_id)),
        Flavor::OpenAi => error.body(),
    }
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
        tracing::error!(request = call.id(), route = call.route().template, "a handler panicked");
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
    if !timeout(REFUSAL_TIME, wants_tls(&stream)).await?? {
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
        let call = Call::new(Arc::new(app), &Route::UNKNOWN);
        let error = guarded::<()>(&call, async { panic!("a secret detail") }).await.unwrap_err();
        assert_eq!((error.status().as_u16(), error.label()), (500, "internal_error"));
        assert!(!error.message().contains("secret"));
    }

    #[test]
    fn the_refusal_has_the_length_that_it_says() {
        let text = std::str::from_utf8(REFUSAL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        serde_json::from_str::<serde_json::Value>(body).unwrap();
    }
}
