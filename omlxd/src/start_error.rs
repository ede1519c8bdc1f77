//! Why the daemon did not start: what it prints and the exit code.

use std::io::{self, Write};
use std::net::SocketAddr;

use crate::config::Problem;
use crate::error_chain::Chain;
use crate::exit::Exit;
use crate::home::HomeError;
use crate::http::TlsError;

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("{}", lines(.0))]
    Config(Vec<Problem>),
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error("cannot listen on {address}: {}", address_reason(source))]
    Address { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot {what}")]
    Io { what: &'static str, source: io::Error },
}

impl StartError {
    /// The exit code, for service managers.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            StartError::Config(_) => Exit::Config,
            StartError::Address { .. } => Exit::Address,
            StartError::Home(HomeError::Running { .. }) => Exit::AlreadyRunning,
            StartError::Home(
                HomeError::Owner { .. } | HomeError::OpenDir { .. } | HomeError::OpenKey { .. },
            )
            | StartError::Tls(TlsError::OpenKey { .. }) => Exit::Permission,
            StartError::Tls(_) => Exit::Config,
            // A path that cannot be written has the wrong mode, too.
            StartError::Home(HomeError::Io { source, .. })
                if matches!(
                    source.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                Exit::Permission
            }
            StartError::Home(_) | StartError::Io { .. } => Exit::Failed,
        }
    }

    /// Prints the error on standard error: one line, or one line for each problem of the
    /// configuration.
    pub(crate) fn print(&self) {
        // When standard error is closed, the exit code still says what happened.
        let _ = match self {
            StartError::Config(_) => writeln!(io::stderr(), "{self}"),
            StartError::Address { .. } => writeln!(io::stderr(), "omlxd: {self}"),
            _ => writeln!(io::stderr(), "omlxd: {}", Chain(self)),
        };
    }
}

fn address_reason(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "the port is in use; stop what uses it, or choose another with --port (0 picks a free one)"
                .to_owned()
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address; choose another with --host".to_owned()
        }
        _ => source.to_string(),
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}
