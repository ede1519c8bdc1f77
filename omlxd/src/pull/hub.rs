//! The hub's HTTP API: what a revision holds, and the bytes of its files.
//!
//! The token goes to the hub's own origin only: not to where it redirects, and never over plain HTTP
//! to another machine.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use ureq::config::Config;
use ureq::http::{Response, StatusCode, Uri, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::error::PullError;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// Longest wait for a connection, for a response's head, and for more of a body.
const PATIENCE: Duration = Duration::from_secs(30);
/// Hops from the hub to where a file's bytes are.
const MAX_REDIRECTS: usize = 5;
/// Largest listing of a revision.
const MAX_LISTING_BYTES: u64 = 32 << 20;
/// In which header a hub says what is wrong.
const ERROR_CODE: &str = "x-error-code";
/// Largest token file.
const MAX_TOKEN_BYTES: u64 = 4096;

/// A hub and who we are there.
#[derive(Clone)]
pub(super) struct Hub {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// What a client may send along with a pull; the rest comes from the daemon's environment.
#[derive(Clone, Default)]
pub struct Access {
    /// `HF_ENDPOINT`.
    pub endpoint: Option<String>,
    /// `HF_TOKEN`.
    pub token: Option<String>,
}

// Not derived: a token must not reach a log by way of `{:?}`.
impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// A revision of a repository.
#[derive(Debug, Deserialize)]
pub(super) struct Revision {
    /// The commit.
    pub(super) sha: String,
    /// Its files.
    #[serde(default)]
    pub(super) siblings: Vec<Sibling>,
}

/// A file of a revision.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sibling {
    #[serde(rename = "rfilename")]
    pub(super) name: String,
    pub(super) size: Option<u64>,
    /// The hash by which git knows its content.
    pub(super) blob_id: Option<String>,
    pub(super) lfs: Option<Lfs>,
}

/// What the hub says of a file that is not in git itself.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Lfs {
    pub(super) sha256: String,
    pub(super) size: u64,
}

/// The bytes of a file from some position on.
pub(super) struct Bytes {
    /// Where they begin: 0 although another position was asked for when the server cannot do that.
    pub(super) from: u64,
    pub(super) reader: Box<dyn Read + Send>,
}

impl Hub {
    pub(super) fn new(access: &Access) -> Result<Self, PullError> {
        let endpoint = access.endpoint.clone().or_else(|| env("HF_ENDPOINT"));
        let endpoint = endpoint.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let uri = endpoint.parse::<Uri>().ok().filter(|uri| uri.host().is_some());
        let uri = uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
        let uri = uri.ok_or_else(|| {
            PullError::Refused(format!("HF_ENDPOINT is not the address of a hub: {endpoint:?}"))
        })?;
        let token = access.token.clone().or_else(|| env("HF_TOKEN")).or_else(token_file);
        let token = token.filter(|_| uri.scheme_str() == Some("https") || is_loopback(&uri));
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let config = Config::builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("omlx/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .build();
        Ok(Hub { agent: Agent::new_with_config(config), endpoint, token })
    }

    /// What a branch, tag or commit holds.
    pub(super) fn revision(&self, id: &str, name: &str) -> Result<Revision, PullError> {
        let name = name.replace('/', "%2F");
        let url = format!("{}/api/models/{id}/revision/{name}?blobs=true", self.endpoint);
        let (_, response) = self.get(&url, None)?;
        let response = self.expect_ok(response, id)?;
        let mut text = Vec::new();
        let body = response.into_body().into_reader();
        body.take(MAX_LISTING_BYTES).read_to_end(&mut text).map_err(PullError::from_read)?;
        serde_json::from_slice(&text)
            .map_err(|error| PullError::Refused(format!("{url} is not a hub's answer: {error}")))
    }

    /// A file's bytes from `from` on.
    pub(super) fn file(
        &self,
        id: &str,
        sha: &str,
        name: &str,
        from: u64,
    ) -> Result<Bytes, PullError> {
        let url = format!("{}/{id}/resolve/{sha}/{name}", self.endpoint);
        let (_, response) = self.get(&url, Some(from))?;
        let status = response.status();
        if status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(PullError::Range);
        }
        let response = self.expect_ok(response, id)?;
        let from = match status {
            StatusCode::PARTIAL_CONTENT => {
                let range = response.headers().get(header::CONTENT_RANGE);
                let start = range.and_then(|range| range.to_str().ok()).and_then(range_start);
                start.filter(|start| *start == from).ok_or(PullError::Range)?
            }
            _ => 0,
        };
        Ok(Bytes { from, reader: Box::new(response.into_body().into_reader()) })
    }

    /// Follows redirects itself: the token must not follow them.
    fn get(&self, url: &str, from: Option<u64>) -> Result<(String, Response<Body>), PullError> {
        let mut url = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent.get(&url);
            if let Some(token) = self.token.as_ref().filter(|_| self.is_own(&url)) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if let Some(from) = from {
                // As it is stored: a compressed body has other bytes and another length.
                request = request.header(header::ACCEPT_ENCODING, "identity");
                if from > 0 {
                    request = request.header(header::RANGE, format!("bytes={from}-"));
                }
            }
            let response = request.call().map_err(|error| PullError::from_ureq(&url, error))?;
            if !response.status().is_redirection() {
                return Ok((url, response));
            }
            let location = response.headers().get(header::LOCATION);
            let location = location.and_then(|location| location.to_str().ok());
            let next = location.and_then(|location| join(&url, location)).ok_or_else(|| {
                PullError::Refused(format!("{} redirects to nowhere", host_of(&url)))
            })?;
            // A renamed repository is the same question at another path.
            let query = url.split_once('?').filter(|_| self.is_own(&next) && !next.contains('?'));
            url = query.map_or_else(|| next.clone(), |(_, query)| format!("{next}?{query}"));
        }
        Err(PullError::Refused(format!("{} redirects for ever", host_of(&url))))
    }

    /// Whether a URL is of the hub's own origin.
    fn is_own(&self, url: &str) -> bool {
        url.strip_prefix(&self.endpoint).is_some_and(|rest| rest.starts_with('/'))
    }

    fn expect_ok(&self, response: Response<Body>, id: &str) -> Result<Response<Body>, PullError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let endpoint = &self.endpoint;
        let said = response.headers().get(ERROR_CODE).and_then(|said| said.to_str().ok());
        let token = match self.token {
            None => "set HF_TOKEN (or run `hf auth login`)",
            Some(_) => "check that HF_TOKEN is valid and has access to it, or use another token",
        };
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if said == Some("GatedRepo") => {
                PullError::Refused(format!(
                    "{id} is gated: accept its terms at {endpoint}/{id}, and {token}"
                ))
            }
            // A hub does not say whether a repository is private or does not exist.
            StatusCode::UNAUTHORIZED => PullError::Refused(format!(
                "{endpoint} has no public model {id}: check the name, organisation and spelling \
                 included. If it is private or has terms to accept, accept them at {endpoint}/{id} \
                 and {token}"
            )),
            StatusCode::FORBIDDEN => PullError::Refused(format!(
                "{endpoint} does not give out {id}: accept its terms at {endpoint}/{id} if it has \
                 some, and {token}"
            )),
            StatusCode::NOT_FOUND if said == Some("RevisionNotFound") => {
                PullError::NotFound(format!("{id} has no such revision: check --revision"))
            }
            StatusCode::NOT_FOUND => PullError::NotFound(format!(
                "{endpoint} has no {id} of this revision: check the name and the revision, or set \
                 HF_TOKEN if it is private"
            )),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let after = response.headers().get(header::RETRY_AFTER);
                let after = after.and_then(|after| after.to_str().ok()?.parse().ok());
                PullError::Busy { status: status.as_u16(), after: after.map(Duration::from_secs) }
            }
            _ if status.is_server_error() => {
                PullError::Busy { status: status.as_u16(), after: None }
            }
            _ => PullError::Refused(format!("{endpoint} answers {status} for {id}")),
        })
    }
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// Where `hf auth login` puts the token.
fn token_file() -> Option<String> {
    let home = || Some(std::env::home_dir()?.join(".cache/huggingface"));
    let path = match env("HF_TOKEN_PATH") {
        Some(path) => PathBuf::from(path),
        None => env("HF_HOME").map(PathBuf::from).or_else(home)?.join("token"),
    };
    let token = omlxctl::files::read_text(&path, MAX_TOKEN_BYTES).ok()?;
    Some(token.trim().to_owned()).filter(|token| !token.is_empty())
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Signed URLs are secrets: only the host is for people.
fn host_of(url: &str) -> String {
    let uri = url.parse::<Uri>().ok();
    uri.and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_else(|| "the hub".to_owned())
}

/// Where a redirect leads. From HTTPS to plain HTTP it leads nowhere.
fn join(from: &str, location: &str) -> Option<String> {
    let (scheme, rest) = from.split_once("://")?;
    if location.starts_with("https://") || (location.starts_with("http://") && scheme == "http") {
        return Some(location.to_owned());
    }
    let authority = rest.split(['/', '?']).next()?;
    (location.starts_with('/') && !location.starts_with("//"))
        .then(|| format!("{scheme}://{authority}{location}"))
}

/// The first position of `bytes 5-9/10`.
fn range_start(range: &str) -> Option<u64> {
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_as_safe_as_they_were() {
        let to = |location| join("https://hub.example/a/b?c", location);
        assert_eq!(to("/x").as_deref(), Some("https://hub.example/x"));
        assert_eq!(to("https://cdn.example/x").as_deref(), Some("https://cdn.example/x"));
        for bad in ["http://cdn.example/x", "//cdn.example/x", "file:///etc/passwd", "x"] {
            assert_eq!(to(bad), None, "{bad}");
        }
        assert_eq!(range_start("bytes 5-9/10"), Some(5));
        assert_eq!(range_start("bytes */10"), None);
    }

    #[test]
    fn the_token_is_for_the_hub_alone() {
        let hub = |endpoint: &str| {
            let token = Some("hf_secret".to_owned());
            Hub::new(&Access { endpoint: Some(endpoint.to_owned()), token }).unwrap()
        };
        let own = hub("https://hub.example/");
        assert!(own.token.is_some() && own.is_own("https://hub.example/api/models/x"));
        for other in ["https://hub.example.evil/x", "https://cdn.example/", "http://hub.example/x"]
        {
            assert!(!own.is_own(other), "{other}");
        }
        assert!(hub("http://hub.example").token.is_none(), "in clear over the network");
        assert!(hub("http://127.0.0.1:9").token.is_some());
        assert!(
            !format!("{:?}", Access { endpoint: None, token: Some("hf_x".into()) })
                .contains("hf_x")
        );
        for bad in ["", "hub", "ftp://hub.example", "/x"] {
            assert!(
                Hub::new(&Access { endpoint: Some(bad.into()), token: None }).is_err(),
                "{bad:?}"
            );
        }
    }
}
