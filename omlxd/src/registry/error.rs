//! Why a model cannot be used, unloaded or removed.

use super::core::Refused;

/// Why a model cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    /// Its folder cannot be loaded.
    #[error("{0}")]
    Failed(String),
    /// It needs more memory than it can ever get.
    #[error(
        "it needs {needed_bytes} bytes of memory and memory.budget leaves {budget_bytes} for it: \
         choose a smaller or more strongly quantized model, or raise the budget"
    )]
    TooLarge {
        /// What its weights take.
        needed_bytes: u64,
        /// What there is.
        budget_bytes: u64,
    },
    /// Others were in use, or pinned, for all of the time that a request may wait.
    #[error(
        "it needs {needed_bytes} bytes of memory, of {budget_bytes} only {free_bytes} are free, and \
         the other models were in use or pinned for {waited_secs} s"
    )]
    NoRoom {
        /// What its weights take.
        needed_bytes: u64,
        /// What is not used.
        free_bytes: u64,
        /// What there is.
        budget_bytes: u64,
        /// How long it was waited for.
        waited_secs: u64,
    },
    /// It is still being loaded after all of the time that a request may wait.
    #[error("it was still being loaded after {waited_secs} s")]
    StillLoading {
        /// How long it was waited for.
        waited_secs: u64,
    },
    /// It is being removed from disk.
    #[error("it is being removed")]
    Gone,
}

/// Why a model stays where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    /// It is not in memory.
    #[error("{0} is not loaded")]
    NotLoaded(String),
    /// It is being loaded.
    #[error("{0} is being loaded: try again when it is there")]
    Loading(String),
    /// It is pinned.
    #[error("{0} is pinned: `omlxctl unpin {0}` first")]
    Pinned(String),
    /// Requests are on it.
    #[error("{id} is in use by {requests} requests: `omlxctl requests` shows them")]
    InUse {
        /// The model.
        id: String,
        /// How many hold or wait for it.
        requests: usize,
    },
    /// It came with the daemon.
    #[error("{0} came with omlxd and cannot be removed")]
    Bundled(String),
    /// Its files cannot be deleted.
    #[error("{id} cannot be removed: {what}")]
    Disk {
        /// The model.
        id: String,
        /// The system's reason.
        what: String,
    },
}

impl KeepError {
    pub(super) fn new(id: &str, refused: Refused) -> Self {
        let id = id.to_owned();
        match refused {
            Refused::NotLoaded => KeepError::NotLoaded(id),
            Refused::Loading => KeepError::Loading(id),
            Refused::Pinned => KeepError::Pinned(id),
            Refused::InUse(requests) => KeepError::InUse { id, requests },
        }
    }
}
