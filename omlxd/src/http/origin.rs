//! Who a browser may call for. A page of another site can make a browser send requests here, and
//! a name of that site can be made to point to 127.0.0.1; both are refused by what the browser
//! itself says in `Host` and `Origin`.

use std::net::IpAddr;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::api::error::ApiError;

/// What response headers tell the browser.
const CORS: [(HeaderName, &str); 4] = [
    (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, DELETE, OPTIONS"),
    (
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        "authorization, content-type, x-api-key, x-client-request-id, anthropic-version, anthropic-beta",
    ),
    (header::ACCESS_CONTROL_EXPOSE_HEADERS, "x-request-id, retry-after, x-should-retry"),
    (header::ACCESS_CONTROL_MAX_AGE, "600"),
];

/// The origin to allow in the response, when the request came from a listed one.
///
/// # Errors
/// E18 for a name in `Host` that is not this machine's own (when listening on loopback), and for an
/// origin that is neither listed nor this server itself.
pub(super) fn check(
    headers: &HeaderMap,
    authority: Option<&str>,
    on_loopback: bool,
    allowed: &[String],
) -> Result<Option<HeaderValue>, ApiError> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).or(authority);
    if on_loopback && !host.is_none_or(is_own_host) {
        let message = "This server listens on loopback and does not answer to the name in the \
                       Host header; call it by address or as localhost.";
        return Err(ApiError::forbidden(message));
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(None) };
    let text = origin.to_str().unwrap_or_default();
    if allowed.iter().any(|known| known == text) {
        return Ok(Some(origin.clone()));
    }
    let same_site = text.split_once("://").is_some_and(|(_, site)| Some(site) == host);
    if same_site {
        return Ok(None);
    }
    let message = "Requests from this browser origin are not allowed; add it to \
                   server.cors_origins.";
    Err(ApiError::forbidden(message))
}

/// Whether a `Host` can only mean this machine: an address needs no name service, and `localhost`
/// never leaves the machine.
pub(super) fn is_own_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.to_ascii_lowercase();
    name.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}

/// Adds what lets a listed origin read the response.
pub(super) fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    for (name, value) in CORS {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(host: &str, origin: Option<&str>, loopback: bool) -> Result<bool, ()> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        let allowed = ["https://chat.example".to_owned()];
        let checked = check(&headers, None, loopback, &allowed);
        checked.map(|origin| origin.is_some()).map_err(|_| ())
    }

    #[test]
    fn a_foreign_name_is_refused_on_loopback() {
        for host in ["127.0.0.1:1337", "localhost:1337", "LOCALHOST", "[::1]:1337", "a.localhost"] {
            assert_eq!(checked(host, None, true), Ok(false), "{host}");
        }
        for host in ["evil.example", "evil.example:1337", "localhost.evil.example", ""] {
            assert_eq!(checked(host, None, true), Err(()), "{host}");
        }
        assert_eq!(checked("mac.local:1337", None, false), Ok(false));
    }

    #[test]
    fn only_listed_origins_and_this_server_itself_pass() {
        assert_eq!(checked("127.0.0.1:1", Some("https://chat.example"), true), Ok(true));
        assert_eq!(checked("127.0.0.1:1", Some("http://127.0.0.1:1"), true), Ok(false));
        for origin in ["https://evil.example", "null", "http://127.0.0.1:2"] {
            assert_eq!(checked("127.0.0.1:1", Some(origin), true), Err(()), "{origin}");
        }
    }
}
