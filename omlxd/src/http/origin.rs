//! Who a browser may call for. A page of another site can make a browser send requests here, and
//! a name of that site can be made to point to 127.0.0.1; both are refused by what the browser
//! itself says in `Host` and `Origin`.

use std::net::{Ipv4Addr, Ipv6Addr};

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Version};

use crate::error::ApiError;

/// How long a browser may keep the answer to a preflight.
const MAX_AGE_SECS: &str = "600";
/// Response headers that a page may read besides those that it always may.
const EXPOSED: &str = "x-request-id, request-id, retry-after, x-should-retry";
const METHODS: &str = "GET, HEAD, POST, DELETE, OPTIONS";
/// What a preflight asks for, when it does not say which headers it means.
const HEADERS: &str = "authorization, content-type, x-api-key";
/// A page of a public site asks for this before it calls an address of a private network.
const REQUEST_PRIVATE: HeaderName =
    HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// What a request says of where it goes and whence it comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checked {
    /// The origin to allow in the response, when the request came from a listed one.
    pub(crate) origin: Option<HeaderValue>,
    /// The host can only mean this machine.
    pub(crate) is_own_host: bool,
}

/// Checks `Host`, the target and `Origin`.
///
/// # Errors
/// E18 for a host that is no host or is said twice, for a name that is not this machine's own (when
/// listening on loopback), and for an origin that is neither listed nor this server itself.
pub(crate) fn check(
    parts: &Parts,
    on_loopback: bool,
    allowed: &[String],
) -> Result<Checked, ApiError> {
    let host = host(parts)?;
    let is_own_host = host.is_none_or(|host| host.is_own);
    if on_loopback && !is_own_host {
        let message = "This server listens on loopback and does not answer to the name in the \
                       Host header; call it by address or as localhost.";
        return Err(ApiError::forbidden(message));
    }
    let Some(origin) = only(&parts.headers, header::ORIGIN)? else {
        return Ok(Checked { origin: None, is_own_host });
    };
    let text = origin.to_str().unwrap_or_default();
    if allowed.iter().any(|known| known == text) {
        return Ok(Checked { origin: Some(origin.clone()), is_own_host });
    }
    let site = text.split_once("://").map(|(_, site)| site);
    if site.is_some() && site == host.map(|host| host.text) {
        return Ok(Checked { origin: None, is_own_host });
    }
    let message = "Requests from this browser origin are not allowed; add it to \
                   server.cors_origins.";
    Err(ApiError::forbidden(message))
}

/// A host as a request names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Host<'a> {
    text: &'a str,
    /// An address needs no name service, and `localhost` never leaves the machine.
    is_own: bool,
}

/// The host that a request is for. `None` only before HTTP/1.1, where it may be left out.
fn host(parts: &Parts) -> Result<Option<Host<'_>>, ApiError> {
    let refused = || {
        ApiError::forbidden(
            "The Host header is not one host name or address with an optional port; send exactly \
             one, such as localhost:1337.",
        )
    };
    let named = only(&parts.headers, header::HOST)?;
    let named = named.map(|host| host.to_str().ok().and_then(read_host).ok_or_else(refused));
    let named = named.transpose()?;
    if named.is_none() && parts.version >= Version::HTTP_11 {
        return Err(refused());
    }
    if let Some(target) = parts.uri.authority() {
        // Whoever names the host twice means the same one.
        let target = read_host(target.as_str()).ok_or_else(refused)?;
        if named.is_some_and(|named| !named.text.eq_ignore_ascii_case(target.text)) {
            return Err(refused());
        }
        return Ok(Some(target));
    }
    Ok(named)
}

/// A header that may stand once.
fn only(headers: &HeaderMap, name: HeaderName) -> Result<Option<&HeaderValue>, ApiError> {
    let mut values = headers.get_all(&name).iter();
    let value = values.next();
    match values.next() {
        None => Ok(value),
        Some(_) => {
            let message = format!("The header {name} stands more than once; send it once.");
            Err(ApiError::forbidden(message))
        }
    }
}

/// `name`, `1.2.3.4` or `[::1]`, and perhaps `:port`; nothing else.
fn read_host(text: &str) -> Option<Host<'_>> {
    let (is_own, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            (true, port)
        }
        None => {
            let end = text.find(':').unwrap_or(text.len());
            let (name, port) = text.split_at(end);
            (is_name(name)?, port)
        }
    };
    let is_port = |port: &str| {
        port.len() <= 5
            && port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    let is_whole = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    is_whole.then_some(Host { text, is_own })
}

/// Whether a name is this machine's own; `None` for what is no name. A name that looks like a number is
/// an address or nothing: some resolvers read `127.1` and `0x7f.1` as one.
fn is_name(name: &str) -> Option<bool> {
    if name.parse::<Ipv4Addr>().is_ok() {
        return Some(true);
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number = last.starts_with(|first: char| first.is_ascii_digit());
    if name.len() > 253 || is_number || !name.split('.').all(is_label) {
        return None;
    }
    let name = name.to_ascii_lowercase();
    Some(name == "localhost" || name.ends_with(".localhost"))
}

/// Whether a request asks what a page of a listed origin may send.
pub(crate) fn is_preflight(parts: &Parts, checked: &Checked) -> bool {
    checked.origin.is_some() && parts.method == Method::OPTIONS
}

/// Adds what lets a listed origin read the response; to a preflight, that it may send what it asks for.
pub(crate) fn allow(
    headers: &mut HeaderMap,
    origin: HeaderValue,
    asked: &HeaderMap,
    preflight: bool,
) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    if !preflight {
        return;
    }
    headers.append(header::VARY, HeaderValue::from_static("Access-Control-Request-Headers"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE_SECS));
    let wanted = asked.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS).iter();
    let mut any = false;
    for names in wanted.filter(|names| !names.is_empty()) {
        any = true;
        headers.append(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    if !any {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(HEADERS));
    }
    if asked.get(REQUEST_PRIVATE).is_some_and(|asks| asks == "true") {
        headers.insert(ALLOW_PRIVATE, HeaderValue::from_static("true"));
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn parts(target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::get(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn checked(host: &str, origin: Option<&str>, loopback: bool) -> Result<bool, ()> {
        let mut headers = vec![("host", host)];
        headers.extend(origin.map(|origin| ("origin", origin)));
        let allowed = ["https://chat.example".to_owned()];
        let checked = check(&parts("/", &headers), loopback, &allowed);
        checked.map(|checked| checked.origin.is_some()).map_err(|_| ())
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
    fn what_is_no_host_is_refused_wherever_it_listens() {
        for host in [
            "",
            " ",
            ":1337",
            "a:b@localhost",
            "localhost@evil.example",
            "[::1].evil",
            "[::1]x:1",
            "[::1",
            "::1",
            "[127.0.0.1]",
            "[::1%25lo]",
            "localhost.",
            "127.0.0.1.",
            "localhost:",
            "localhost:0",
            "localhost:99999",
            "localhost:+80",
            "localhost:1e3",
            "localhost:80:80",
            "localhost:80, evil.example",
            "localhost evil",
            "local\thost",
            "localhost/",
            "a..b",
            "127.1",
            "0x7f.0.0.1",
            "2130706433",
            "127.0.0.1.5",
            "loc%61lhost",
            "*",
            "\u{ff11}",
        ] {
            for loopback in [true, false] {
                assert_eq!(checked(host, None, loopback), Err(()), "{host:?}");
            }
        }
    }

    #[test]
    fn a_host_is_named_once() {
        let is_ok = |target: &str, headers: &[(&str, &str)]| {
            check(&parts(target, headers), true, &[]).is_ok()
        };
        assert!(is_ok("http://localhost:1/", &[("host", "localhost:1")]));
        assert!(is_ok("http://LOCALHOST:1/", &[("host", "localhost:1")]));
        assert!(!is_ok("http://evil.example/", &[("host", "localhost")]));
        assert!(!is_ok("http://localhost/", &[("host", "evil.example")]));
        assert!(!is_ok("http://127.0.0.1/", &[("host", "localhost")]));
        assert!(!is_ok("http://user@localhost/", &[("host", "localhost")]));
        assert!(!is_ok("/", &[("host", "localhost"), ("host", "localhost")]));
        assert!(!is_ok("/", &[("host", "localhost"), ("host", "evil.example")]));
        assert!(!is_ok("/", &[]));
        let twice = [("host", "a.localhost"), ("origin", "http://a.localhost"), ("origin", "x")];
        assert!(!is_ok("/", &twice));
        assert!(is_ok("/", &twice[..2]));
    }

    #[test]
    fn only_listed_origins_and_this_server_itself_pass() {
        assert_eq!(checked("127.0.0.1:1", Some("https://chat.example"), true), Ok(true));
        assert_eq!(checked("127.0.0.1:1", Some("http://127.0.0.1:1"), true), Ok(false));
        for origin in ["https://evil.example", "null", "http://127.0.0.1:2", "", "127.0.0.1:1"] {
            assert_eq!(checked("127.0.0.1:1", Some(origin), true), Err(()), "{origin}");
        }
    }

    #[test]
    fn a_preflight_is_allowed_what_it_asks_for() {
        let asks = [
            (
                "access-control-request-headers",
                "x-stainless-os,anthropic-dangerous-direct-browser-access",
            ),
            ("access-control-request-private-network", "true"),
        ];
        let asked = parts("/", &asks).headers;
        let origin = || HeaderValue::from_static("https://chat.example");
        let mut headers = HeaderMap::new();
        allow(&mut headers, origin(), &asked, true);
        assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_HEADERS], asks[0].1);
        assert_eq!(headers[ALLOW_PRIVATE], "true");
        assert_eq!(headers[header::ACCESS_CONTROL_MAX_AGE], MAX_AGE_SECS);
        let mut headers = HeaderMap::new();
        allow(&mut headers, origin(), &HeaderMap::new(), true);
        assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_HEADERS], HEADERS);
        assert!(!headers.contains_key(ALLOW_PRIVATE));
        let mut headers = HeaderMap::new();
        allow(&mut headers, origin(), &asked, false);
        assert!(!headers.contains_key(header::ACCESS_CONTROL_ALLOW_HEADERS));
        assert_eq!(headers[header::ACCESS_CONTROL_EXPOSE_HEADERS], EXPOSED);
    }
}
