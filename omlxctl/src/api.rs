//! The daemon's own HTTP API, for commands that measure or try what every client does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, header};
use omlxctl::client::{self, ClientError};
use omlxctl::protocol::{ApiKey, Models, Status};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::context::Context;
use crate::exit::CommandError;

/// Where the API is, and the key to it.
pub(crate) struct Api {
    address: SocketAddr,
    key: Option<String>,
}

/// An answer and when its parts came.
pub(crate) struct Timed {
    /// The document; of a stream, the last event that was one.
    pub(crate) body: Value,
    /// Until the first event with text, or the whole document.
    pub(crate) first: Duration,
    /// Until the end.
    pub(crate) total: Duration,
}

impl Api {
    /// Asks the admin socket where it is.
    pub(crate) async fn open(context: &Context) -> Result<Api, CommandError> {
        let status: Status = context.get("/status").await?;
        let key: ApiKey = context.get("/key").await?;
        let address = reachable(&status.http).ok_or_else(|| {
            CommandError::Failed(format!("{} is not an address to connect to", status.http))
        })?;
        Ok(Api { address, key: key.key })
    }

    /// Posts a request and reads the answer, a document or a stream.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Timed, CommandError> {
        let started = Instant::now();
        let stream = TcpStream::connect(self.address).await.map_err(|error| {
            CommandError::Unreachable(format!("cannot reach the API on {}: {error}", self.address))
        })?;
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        let request = request.body(Full::from(Bytes::from(body.to_string())));
        let request = request.map_err(|error| CommandError::Failed(error.to_string()))?;
        let response = client::send(stream, request).await?;
        let (status, mut body) = (response.status(), response.into_body());
        let (mut text, mut first) = (Vec::new(), None);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ClientError::Broken(error.to_string()))?;
            let data = frame.into_data().unwrap_or_default();
            if first.is_none() && !data.starts_with(b":") {
                first = Some(started.elapsed());
            }
            text.extend_from_slice(&data);
        }
        let total = started.elapsed();
        let text = String::from_utf8_lossy(&text);
        let mut events = text.lines().filter_map(|line| line.strip_prefix("data: "));
        let last = events.rfind(|data| *data != "[DONE]").unwrap_or(&text);
        let body: Value = serde_json::from_str(last).unwrap_or_default();
        if let Some(message) = body.pointer("/error/message").and_then(Value::as_str) {
            return Err(CommandError::Failed(message.to_owned()));
        }
        if !status.is_success() {
            return Err(CommandError::Failed(format!("the API answers {status}")));
        }
        Ok(Timed { body, first: first.unwrap_or(total), total })
    }
}

/// The model that was named, else the daemon's choice.
pub(crate) async fn model(
    context: &Context,
    named: Option<String>,
) -> Result<String, CommandError> {
    if let Some(named) = named {
        return Ok(named);
    }
    let models: Models = context.get("/models").await?;
    models.default.ok_or_else(|| {
        CommandError::Failed(
            "no model that can run was found: get one with `omlxctl pull org/name`".into(),
        )
    })
}

/// Where to connect to reach a daemon bound to this address: every-address means loopback.
pub(crate) fn reachable(bound: &str) -> Option<SocketAddr> {
    let mut address: SocketAddr = bound.parse().ok()?;
    match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    Some(address)
}
