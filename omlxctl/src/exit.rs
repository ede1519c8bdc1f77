//! How a run of omlxctl ends.

use std::io;
use std::process::ExitCode;

use omlxctl::client::ClientError;

use crate::service::launchctl::LaunchError;

/// The exit codes, which scripts rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// The operation failed, or the answer is no.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// No daemon answers.
    Unreachable = 3,
    /// Not ours to ask.
    Permission = 4,
    /// No answer in time.
    Timeout = 5,
    /// The daemon speaks another protocol.
    Version = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// The daemon could not be asked, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The answer is no; said on standard output already.
    #[error("no")]
    Negative,
    /// The command line asks for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// It failed.
    #[error("{0}")]
    Failed(String),
    /// Somebody else may.
    #[error("{0}")]
    Denied(String),
    /// launchd could not be asked, or refused.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Nobody answers where an answer was expected, other than on the admin socket.
    #[error("{0}")]
    Unreachable(String),
    /// Standard output or input cannot be used.
    #[error("cannot use standard input or output")]
    Stdio(#[from] io::Error),
}

impl CommandError {
    /// The exit code that tells a script what happened.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            CommandError::Client(error) => match error {
                ClientError::Unreachable { .. } => Exit::Unreachable,
                ClientError::Permission { .. } => Exit::Permission,
                ClientError::Timeout(_) => Exit::Timeout,
                ClientError::Version { .. } => Exit::Version,
                ClientError::Refused { .. } | ClientError::Broken(_) => Exit::Failed,
            },
            CommandError::Negative | CommandError::Failed(_) => Exit::Failed,
            CommandError::Launch(_) => Exit::Failed,
            CommandError::Denied(_) => Exit::Permission,
            CommandError::Usage(_) => Exit::Usage,
            CommandError::Unreachable(_) => Exit::Unreachable,
            // The reader closed the pipe.
            CommandError::Stdio(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
            CommandError::Stdio(_) => Exit::Failed,
        }
    }

    /// What to run next, when there is one obvious thing.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            CommandError::Client(ClientError::Unreachable { .. }) => Some(
                "start the daemon with `omlxd`; if it runs with another base directory, name that with \
                 --base-dir or OMLX_BASE_DIR",
            ),
            CommandError::Client(ClientError::Timeout(_)) => {
                Some("wait longer with --timeout, such as --timeout 60s")
            }
            _ => None,
        }
    }
}

/// An error and what caused it, in one line.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        // An error that shows its cause's own words has said it already.
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}
