//! The errors that callers see.

use crate::layout::Damage;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another store holds the root.
    #[error(
        "the cache at {path} is in use by {}; stop that process, or give this one another folder",
        holder(.pid)
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The process that holds it, if the lock file names one.
        pid: Option<u32>,
    },
    /// The root cannot be created, read or locked.
    #[error("cannot use {path} for the cache; check that its owner may read and write there")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Two limits contradict each other.
    #[error("the cache is misconfigured: {0}")]
    Config(&'static str),
    /// The key file cannot be used.
    #[error("cannot use the cache's key file {path}: {what}")]
    KeyFile {
        /// The key file.
        path: PathBuf,
        /// The problem, and how to fix it.
        what: String,
    },
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// Why [`Store::get`](crate::Store::get) returned no block. The caller recomputes the block in
/// every case; the reason is for logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Miss {
    /// There is no block with that key.
    NotStored,
    /// There is a block with that key, but it was made from other content.
    WitnessDiffers,
    /// The block failed its checks and was set aside.
    Damaged(Damage),
    /// The block could not be read from disk and was dropped from the store.
    Io,
    /// There is no memory (or no file descriptor) for the block at this time.
    NoMemory,
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Miss::NotStored => f.write_str("not stored"),
            Miss::WitnessDiffers => f.write_str("made from other content"),
            Miss::Damaged(damage) => write!(f, "damaged ({})", damage.name()),
            Miss::Io => f.write_str("the disk did not give it"),
            Miss::NoMemory => f.write_str("no memory to hold it"),
        }
    }
}

/// The bytes of a guard changed while it was held: the file under the mapping was modified, or the
/// disk failed. Discard everything computed from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the file of a mapped block changed while it was in use; it was set aside, recompute it")]
pub struct Corrupt;
