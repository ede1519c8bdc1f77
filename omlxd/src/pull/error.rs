//! Why a pull failed.

use std::io;
use std::path::Path;
use std::time::Duration;

/// Why a pull did not make a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// Asking again will not help.
    #[error("{0}")]
    Refused(String),
    /// There is no such model or revision.
    #[error("{0}")]
    NotFound(String),
    /// The hub asks to come back later.
    #[error("the hub answers {status}{}; try again later", asked(*.after))]
    Busy {
        /// The HTTP status.
        status: u16,
        /// When, if it says.
        after: Option<Duration>,
    },
    /// The connection failed.
    #[error("{0}: check the network and run the pull again, it goes on where it was")]
    Network(String),
    /// The server cannot give a file from this position on.
    #[error("the hub does not give the rest of a file that was begun")]
    Range,
    /// What came is not what the hub announced.
    #[error("{0}: it was thrown away; run the pull again")]
    Damaged(String),
    /// The disk.
    #[error("{0}")]
    Disk(String),
    /// Somebody stopped it.
    #[error("the pull was cancelled; what was downloaded is kept for the next one")]
    Cancelled,
}

impl PullError {
    pub(super) fn from_ureq(url: &str, error: ureq::Error) -> Self {
        let host = url.split_once("://").map_or(url, |(_, rest)| rest);
        let host = host.split(['/', '?']).next().unwrap_or(host);
        match error {
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::BadUri(_) => {
                PullError::Refused(format!("{host} cannot be talked to safely: {error}"))
            }
            error => PullError::Network(format!("{host} cannot be reached: {error}")),
        }
    }

    pub(super) fn from_read(error: io::Error) -> Self {
        PullError::Network(format!("the connection broke: {error}"))
    }

    pub(super) fn disk(path: &Path, error: &io::Error) -> Self {
        PullError::Disk(match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => format!(
                "the disk of {} is full: make room (`omlxctl models rm`, `omlxctl cache clear`) and \
                 run the pull again, it goes on where it was",
                path.display()
            ),
            _ => format!("{}: {error}", path.display()),
        })
    }
}

fn asked(after: Option<Duration>) -> String {
    after.map_or_else(String::new, |after| format!(" and asks to wait {} s", after.as_secs()))
}
