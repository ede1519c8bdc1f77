//! What every file and folder that is no published record occupies, so that the quota is true of
//! all bytes under the root.

use crate::state::State;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Whose bytes they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Ours: folders, the index, the lock.
    Store,
    /// No indexed block: set aside, or never ours.
    Unindexed,
}

#[derive(Debug, Default)]
pub(crate) struct Books {
    entries: BTreeMap<PathBuf, (u64, Owner)>,
}

impl Books {
    pub(crate) fn bytes(&self, path: &Path) -> u64 {
        self.entries.get(path).map_or(0, |(bytes, _)| *bytes)
    }

    pub(crate) fn contains(&self, path: &Path) -> bool {
        self.entries.contains_key(path)
    }

    /// Enters what was found on the medium.
    pub(crate) fn enter(&mut self, state: &mut State, path: &Path, bytes: u64, owner: Owner) {
        self.strike(state, path);
        state.ledger.found(None, bytes);
        if owner == Owner::Unindexed {
            state.unindexed_bytes += bytes;
        }
        self.entries.insert(path.to_owned(), (bytes, owner));
    }

    /// Enters bytes that the ledger has already (by a settled reservation).
    pub(crate) fn enter_settled(&mut self, path: &Path, bytes: u64) {
        let entry = self.entries.entry(path.to_owned()).or_insert((0, Owner::Store));
        entry.0 += bytes;
    }

    /// The file or folder is gone.
    pub(crate) fn strike(&mut self, state: &mut State, path: &Path) {
        if let Some((bytes, owner)) = self.entries.remove(path) {
            state.ledger.gone(None, bytes);
            if owner == Owner::Unindexed {
                state.unindexed_bytes -= bytes;
            }
        }
    }

    /// Every path that `keep` refuses.
    pub(crate) fn others(&self, keep: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
        self.entries.keys().filter(|path| !keep(path)).cloned().collect()
    }
}
