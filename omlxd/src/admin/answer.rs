//! What handlers of the admin socket take and give.

use bytes::Bytes;
use hyper::StatusCode;
use omlxctl::protocol::ErrorCode;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use tokio::sync::mpsc;

/// A refusal: status, and what the body says.
#[derive(Debug)]
pub(super) struct AdminError {
    pub(super) status: StatusCode,
    pub(super) code: ErrorCode,
    pub(super) message: String,
}

impl AdminError {
    pub(super) fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        AdminError { status, code, message: message.into() }
    }

    pub(super) fn bug() -> Self {
        let message = "this is a bug in omlxd: its log has the details";
        AdminError::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Failed, message)
    }
}

/// What a route answers: a JSON document or a refusal.
pub(super) type Answer = Result<Vec<u8>, AdminError>;

/// Where a long answer goes, event by event.
pub(super) struct Events(pub(super) mpsc::Sender<Bytes>);

impl Events {
    /// Sends one line of JSON; false when nobody reads any more. Blocks while the reader is behind.
    pub(super) fn send<T: Serialize>(&self, event: &T) -> bool {
        let Ok(mut line) = json(event) else { return false };
        line.push(b'\n');
        self.0.blocking_send(Bytes::from(line)).is_ok()
    }
}

impl Events {
    /// Sends the last line, whether or not somebody reads it.
    pub(super) fn end<T: Serialize>(&self, event: &T) {
        self.send(event);
    }
}

/// What a request says besides its route.
pub(super) struct Asked {
    /// What stands at `{id}` in the pattern, decoded.
    pub(super) id: String,
    pub(super) query: String,
    pub(super) headers: hyper::HeaderMap,
}

impl Asked {
    /// A value of the query, decoded.
    pub(super) fn value(&self, name: &str) -> Option<String> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        let value = pairs.into_iter().find(|(key, _)| *key == name)?.1;
        Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
    }

    /// Whether the query sets `name` to 1.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.value(name).as_deref() == Some("1")
    }

    pub(super) fn header(&self, name: &str) -> Option<String> {
        Some(self.headers.get(name)?.to_str().ok()?.to_owned())
    }
}

pub(super) fn json<T: Serialize>(document: &T) -> Answer {
    serde_json::to_vec(document).map_err(|error| {
        let message = format!("the answer cannot be written as JSON: {error}");
        AdminError::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Failed, message)
    })
}
