//! A client for the admin socket, and the little HTTP that both it and `chat` need.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

use crate::protocol::{
    ADMIN_API, API_HEADER, ErrorBody, ErrorCode, HOST, MAX_BODY_BYTES, PREFIX, VERSION_HEADER,
};

/// Why a call did not give an answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens on the socket.
    #[error("cannot reach omlxd on {socket}: {}", unreachable_reason(.cause))]
    Unreachable {
        /// The socket tried.
        socket: PathBuf,
        /// Why connecting failed.
        cause: io::Error,
    },
    /// The socket, or the daemon behind it, is not for us.
    #[error("{what}")]
    Permission {
        /// Who refused what.
        what: String,
    },
    /// No answer in time.
    #[error("omlxd did not answer within {0:?}")]
    Timeout(Duration),
    /// The daemon speaks another protocol.
    #[error(
        "omlxd {version} speaks admin API {theirs}, this omlxctl {ours}: restart the daemon so that both are \
         of one version"
    )]
    Version {
        /// The daemon's version.
        version: String,
        /// The daemon's protocol.
        theirs: String,
        /// Ours.
        ours: u32,
    },
    /// The daemon said no.
    #[error("{message}")]
    Refused {
        /// Why, for programs.
        code: ErrorCode,
        /// Why, for people.
        message: String,
    },
    /// The connection broke, or what came is no answer of ours.
    #[error("the answer of omlxd cannot be read: {0}")]
    Broken(String),
}

fn unreachable_reason(cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::NotFound => "the socket does not exist".to_owned(),
        io::ErrorKind::ConnectionRefused => {
            "the socket exists, but no daemon listens on it".to_owned()
        }
        _ => format!("the socket cannot be used: {cause}"),
    }
}

/// An answer and the version of the daemon that gave it.
#[derive(Debug)]
pub struct Answer<T> {
    /// What was asked for.
    pub value: T,
    /// The daemon's version.
    pub daemon_version: String,
}

/// Talks to one daemon. Each call is one connection.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

impl Client {
    /// A client for a socket; connects with each call. No call takes longer than `timeout`.
    pub fn new(socket: PathBuf, timeout: Duration) -> Self {
        Client { socket, timeout }
    }

    /// The socket that it talks to.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET /admin/v1/{path}`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, ClientError> {
        self.call(Method::GET, path).await
    }

    /// `POST /admin/v1/{path}`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, ClientError> {
        self.call(Method::POST, path).await
    }

    /// `POST /admin/v1/{path}`, answered with a JSON document a line. `each` is given them as they
    /// come, until it gives something back. The timeout is for each line.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ClientError::Broken`] when the lines end before `each` does.
    pub async fn post_lines<T: DeserializeOwned, R>(
        &self,
        path: &str,
        each: impl FnMut(T) -> Option<R>,
    ) -> Result<Answer<R>, ClientError> {
        self.post_lines_with(path, &[], each).await
    }

    /// The same, with additional headers.
    ///
    /// # Errors
    /// As [`Client::post_lines`].
    pub async fn post_lines_with<T: DeserializeOwned, R>(
        &self,
        path: &str,
        headers: &[(&'static str, String)],
        mut each: impl FnMut(T) -> Option<R>,
    ) -> Result<Answer<R>, ClientError> {
        let late = |_| ClientError::Timeout(self.timeout);
        let response = tokio::time::timeout(self.timeout, self.ask(Method::POST, path, headers));
        let (mut body, daemon_version) = response.await.map_err(late)??;
        let mut waiting = Vec::new();
        loop {
            let frame = tokio::time::timeout(self.timeout, body.frame()).await.map_err(late)?;
            let Some(frame) = frame else {
                return Err(ClientError::Broken("it ended early".to_owned()));
            };
            let frame = frame.map_err(|error| ClientError::Broken(error.to_string()))?;
            waiting.extend(frame.into_data().unwrap_or_default());
            while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = waiting.drain(..=end).collect();
                let event = serde_json::from_slice(&line);
                let event = event.map_err(|error| ClientError::Broken(error.to_string()))?;
                if let Some(value) = each(event) {
                    return Ok(Answer { value, daemon_version });
                }
            }
            if waiting.len() > MAX_BODY_BYTES {
                return Err(ClientError::Broken("a line is too long".to_owned()));
            }
        }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> Result<Answer<T>, ClientError> {
        let exchange = tokio::time::timeout(self.timeout, self.exchange(method, path));
        exchange.await.unwrap_or(Err(ClientError::Timeout(self.timeout)))
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> Result<Answer<T>, ClientError> {
        let (body, daemon_version) = self.ask(method, path, &[]).await?;
        let body = Limited::new(body, MAX_BODY_BYTES).collect().await;
        let body = body.map_err(|error| ClientError::Broken(error.to_string()))?.to_bytes();
        let value = serde_json::from_slice(&body);
        let value = value.map_err(|error| ClientError::Broken(error.to_string()))?;
        Ok(Answer { value, daemon_version })
    }

    /// Asks; gives the body of a good answer, still to come, and the daemon's version.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
    ) -> Result<(Incoming, String), ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(e))?;
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{PREFIX}{path}"))
            .header(header::HOST, HOST);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request
            .body(Full::default())
            .map_err(|error| ClientError::Broken(error.to_string()))?;
        let response = send(stream, request).await?;
        let daemon_version = check_version(&response)?;
        let status = response.status();
        if status.is_success() {
            return Ok((response.into_body(), daemon_version));
        }
        let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await;
        let body = body.map_err(|error| ClientError::Broken(error.to_string()))?.to_bytes();
        Err(refusal(status, &body))
    }

    fn unreachable(&self, cause: io::Error) -> ClientError {
        if cause.kind() == io::ErrorKind::PermissionDenied {
            let what = format!(
                "the socket {} is not yours: run omlxctl as the user who runs omlxd",
                self.socket.display()
            );
            return ClientError::Permission { what };
        }
        ClientError::Unreachable { socket: self.socket.clone(), cause }
    }
}

/// Sends one request over a fresh connection and gives the response with its body still to come.
///
/// # Errors
/// [`ClientError::Broken`] when the connection breaks.
pub async fn send<S>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, ClientError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let broken = |error: hyper::Error| ClientError::Broken(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Ends with the response's body; an error reaches the reader of that body.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(broken)
}

/// The daemon's version, unless it speaks another protocol.
fn check_version(response: &Response<Incoming>) -> Result<String, ClientError> {
    let header = |name| {
        let value = response.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or("unknown").to_owned()
    };
    let (version, theirs) = (header(VERSION_HEADER), header(API_HEADER));
    if theirs == ADMIN_API.to_string() {
        return Ok(version);
    }
    Err(ClientError::Version { version, theirs, ours: ADMIN_API })
}

fn refusal(status: StatusCode, body: &[u8]) -> ClientError {
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(ErrorBody { error }) if error.code == ErrorCode::Forbidden => {
            ClientError::Permission { what: error.message }
        }
        Ok(ErrorBody { error }) => {
            ClientError::Refused { code: error.code, message: error.message }
        }
        Err(_) => ClientError::Broken(format!("status {status} without an error object")),
    }
}
