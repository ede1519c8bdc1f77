//! Reading a request's body: bounded in size, also after decompression, in time, and by the memory that
//! all requests share.

use std::io::Read;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap};
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::ApiError;
use crate::request_memory::{NoRoom, RequestMemory, Share};

/// How long what is left of a refused body is read and thrown away, so that a client which writes
/// all of it before it reads gets its answer instead of a reset.
const DISCARD_TIME: Duration = Duration::from_secs(2);
/// How much of a refused body is thrown away, in units of the limit.
const DISCARD_LIMITS: u64 = 4;

/// What is taken of memory for the first part of a body.
const FIRST_BYTES: u64 = 64 << 10;
/// The most that a byte of gzip unpacks to.
const GZIP_RATIO: u64 = 1032;

/// How bodies are read.
pub(crate) struct Reader<'a> {
    pub(crate) memory: &'a RequestMemory,
    pub(crate) max_bytes: u64,
    /// Longest pause between two parts of a body.
    pub(crate) pause: Duration,
}

/// Reads the body of a JSON request, and takes memory for it. E1, E22, E23, E24, E26.
pub(crate) async fn json_body(
    reader: Reader<'_>,
    headers: &HeaderMap,
    mut body: Incoming,
) -> Result<(Bytes, Share), ApiError> {
    let max_bytes = reader.max_bytes;
    check_type(headers)?;
    let gzip = is_gzip(headers)?;
    let announced = headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > max_bytes) {
        // A client that waits for `100 Continue` has sent nothing yet, and must not get one.
        if !headers.contains_key(header::EXPECT) {
            discard(&mut body, max_bytes).await;
        }
        return Err(ApiError::too_large(max_bytes));
    }
    let share = reader.memory.share();
    let read = reader.read(&mut body, announced, &share).await;
    if read.as_ref().is_err_and(|error| error.status() == StatusCode::SERVICE_UNAVAILABLE) {
        discard(&mut body, max_bytes).await;
    }
    let bytes = read?;
    let length = bytes.len() as u64;
    if !gzip {
        room(share.read(length).await)?;
        return Ok((bytes, share));
    }
    room(share.read(max_bytes.min(length.saturating_mul(GZIP_RATIO))).await)?;
    let unpacked = tokio::task::spawn_blocking(move || gunzip(&bytes, max_bytes)).await;
    Ok((unpacked.map_err(|_| ApiError::internal())??, share))
}

fn room(found: Result<(), NoRoom>) -> Result<(), ApiError> {
    found.map_err(|NoRoom| ApiError::no_request_memory())
}

impl Reader<'_> {
    async fn read(
        &self,
        body: &mut Incoming,
        announced: Option<u64>,
        share: &Share,
    ) -> Result<Bytes, ApiError> {
        let (max, pause) = (self.max_bytes, self.pause);
        let mut bytes = BytesMut::with_capacity(announced.map_or(0, |length| length as usize));
        let mut covered = 0;
        loop {
            let frame = timeout(pause, body.frame()).await;
            let frame = frame.map_err(|_| ApiError::read_timeout(pause.as_secs()))?;
            let Some(frame) = frame else { return Ok(bytes.freeze()) };
            let frame = frame.map_err(ApiError::bad_body)?;
            let Ok(data) = frame.into_data() else { continue };
            let length = (bytes.len() + data.len()) as u64;
            if length > max {
                drop(bytes);
                discard(body, max).await;
                return Err(ApiError::too_large(max));
            }
            if length > covered {
                // By half as much again, so that a large body asks seldom.
                covered = (length + length / 2).max(FIRST_BYTES);
                room(share.cover(covered).await)?;
            }
            bytes.extend_from_slice(&data);
        }
    }
}

/// JSON, or nothing said, which many simple clients leave out.
fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let text = value.to_str().unwrap_or_default().to_ascii_lowercase();
    let kind = text.split(';').next().unwrap_or_default().trim();
    let structured = kind.starts_with("application/") && kind.ends_with("+json");
    if kind.is_empty() || kind == "application/json" || structured {
        return Ok(());
    }
    Err(ApiError::unsupported_media(format!(
        "Unsupported content type '{kind:.64}'; send application/json."
    )))
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, ApiError> {
    let Some(value) = headers.get(header::CONTENT_ENCODING) else { return Ok(false) };
    let encoding = value.to_str().unwrap_or_default().trim().to_ascii_lowercase();
    match encoding.as_str() {
        "" | "identity" => Ok(false),
        "gzip" | "x-gzip" => Ok(true),
        other => Err(ApiError::unsupported_media(format!(
            "Unsupported content encoding '{other:.64}'; supported are identity and gzip."
        ))),
    }
}

async fn discard(body: &mut Incoming, max: u64) {
    let deadline = Instant::now() + DISCARD_TIME;
    let mut left = max.saturating_mul(DISCARD_LIMITS);
    while let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await {
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

fn gunzip(bytes: &[u8], max: u64) -> Result<Bytes, ApiError> {
    let mut unpacked = Vec::new();
    let mut reader = MultiGzDecoder::new(bytes).take(max + 1);
    reader.read_to_end(&mut unpacked).map_err(ApiError::not_gzip)?;
    if unpacked.len() as u64 > max {
        return Err(ApiError::too_large(max));
    }
    // It grew by doubling.
    unpacked.shrink_to_fit();
    Ok(Bytes::from(unpacked))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use hyper::header::HeaderValue;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_unpacks_to_too_much_is_refused() {
        assert_eq!(gunzip(&gzip(b"{}"), 2).unwrap(), "{}");
        let bomb = gzip(&vec![0; 1 << 20]);
        assert!(bomb.len() < 8192);
        assert_eq!(gunzip(&bomb, 8192).unwrap_err().status(), 413);
        assert_eq!(gunzip(b"not gzip", 8192).unwrap_err().status(), 400);
    }

    #[test]
    fn types_and_encodings() {
        let with = |name: header::HeaderName, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            headers
        };
        for kind in ["application/json", "Application/JSON; charset=utf-8", "application/x+json"] {
            assert!(check_type(&with(header::CONTENT_TYPE, kind)).is_ok(), "{kind}");
        }
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
            let error = check_type(&with(header::CONTENT_TYPE, kind)).unwrap_err();
            assert_eq!(error.status(), 415, "{kind}");
        }
        assert_eq!(is_gzip(&with(header::CONTENT_ENCODING, "gzip")), Ok(true));
        assert_eq!(is_gzip(&with(header::CONTENT_ENCODING, "br")).unwrap_err().status(), 415);
    }
}
