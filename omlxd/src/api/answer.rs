//! What a handler answers.

use hyper::StatusCode;
use serde_json::Value;

use crate::http::EventStream;

/// The answer to a request that was taken.
pub(crate) enum Answer {
    /// A document.
    Document {
        /// 200, or 503 where the document says why the daemon is not ready.
        status: StatusCode,
        /// The value of `content-type`.
        content_type: &'static str,
        /// The document itself.
        body: Vec<u8>,
    },
    /// A stream of events.
    Events(EventStream),
}

impl Answer {
    /// A JSON document with the status 200.
    pub(crate) fn json(value: &Value) -> Self {
        Self::json_text(value.to_string().into_bytes())
    }

    /// The same for JSON that was written already.
    pub(crate) fn json_text(body: Vec<u8>) -> Self {
        Answer::Document { status: StatusCode::OK, content_type: "application/json", body }
    }
}
