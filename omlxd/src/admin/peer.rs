//! Who may use the admin socket.

use hyper::header::{self, HeaderMap};
use hyper::{StatusCode, Uri};
use omlxctl::protocol::{ErrorCode, HOST};

use super::answer::AdminError;

/// Proof that a request comes from a process of the daemon's user or of root, and not from a web
/// page. Every handler takes one, and only `AdminPeer::check` makes one.
#[derive(Debug)]
pub struct AdminPeer(());

impl AdminPeer {
    /// Checks the user id that the kernel gave for the peer, and the headers.
    pub(super) fn check(
        uid: Option<u32>,
        target: &Uri,
        headers: &HeaderMap,
    ) -> Result<AdminPeer, AdminError> {
        let ours = rustix::process::geteuid().as_raw();
        if uid.is_none_or(|uid| uid != ours && uid != 0) {
            return Err(forbidden(
                "only the user who runs omlxd, and root, may use its admin socket",
            ));
        }
        // A browser that something made talk to this socket would send one of these.
        for name in [header::ORIGIN, header::REFERER] {
            if headers.contains_key(&name) {
                return Err(forbidden(format!(
                    "the admin API is not for web pages: it takes no {name}"
                )));
            }
        }
        if target.authority().is_some() {
            return Err(forbidden("the admin API takes a path only, without a host before it"));
        }
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = hosts.next().map(|host| host.as_bytes());
        if hosts.next().is_some() || (host != Some(HOST.as_bytes()) && host != Some(b"localhost")) {
            return Err(forbidden(format!("the admin API takes Host: {HOST} (or localhost) only")));
        }
        Ok(AdminPeer(()))
    }
}

fn forbidden(message: impl Into<String>) -> AdminError {
    AdminError::new(StatusCode::FORBIDDEN, ErrorCode::Forbidden, message)
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    fn check(uid: Option<u32>, headers: &[(HeaderName, &'static str)]) -> bool {
        let pairs =
            headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(name, value);
        }
        AdminPeer::check(uid, &Uri::from_static("/admin/v1/status"), &map).is_ok()
    }

    #[test]
    fn only_our_own_user_and_root_may_ask() {
        let ours = rustix::process::geteuid().as_raw();
        let host = [(header::HOST, HOST)];
        assert!(check(Some(ours), &host));
        assert!(check(Some(0), &host));
        assert!(!check(Some(ours + 1), &host));
        assert!(!check(None, &host));
    }

    #[test]
    fn nothing_that_a_browser_sends_is_taken() {
        let with = |name, value| check(Some(0), &[(header::HOST, HOST), (name, value)]);
        assert!(!with(header::ORIGIN, "http://localhost"));
        assert!(!with(header::ORIGIN, "null"));
        assert!(!with(header::REFERER, "http://localhost/"));
        assert!(!with(header::HOST, "omlxd"), "two hosts");
        assert!(check(Some(0), &[(header::HOST, "localhost")]));
        for host in ["evil.example", "localhost:80", "omlxd.evil.example", ""] {
            assert!(!check(Some(0), &[(header::HOST, host)]), "{host}");
        }
        assert!(!check(Some(0), &[]));
        let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(HOST))]);
        for (target, is_ok) in [("/x", true), ("http://omlxd/x", false), ("http://evil/x", false)] {
            let target = Uri::from_static(target);
            assert_eq!(AdminPeer::check(Some(0), &target, &headers).is_ok(), is_ok, "{target}");
        }
    }
}
