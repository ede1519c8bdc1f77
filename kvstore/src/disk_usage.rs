//! What every file and folder that is no published record occupies, so that the quota is true of
//! all bytes under the root.

use crate::state::ledger::Ledger;
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
pub(crate) struct DiskUsage {
    files: BTreeMap<PathBuf, (u64, Owner)>,
}

impl DiskUsage {
    pub(crate) fn bytes(&self, path: &Path) -> u64 {
        self.files.get(path).map_or(0, |(bytes, _)| *bytes)
    }

    pub(crate) fn contains(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    /// Enters what was found on the medium.
    pub(crate) fn add(&mut self, ledger: &mut Ledger, path: &Path, bytes: u64, owner: Owner) {
        self.remove(ledger, path);
        ledger.found(None, bytes);
        if owner == Owner::Unindexed {
            ledger.found_unindexed(bytes);
        }
        self.files.insert(path.to_owned(), (bytes, owner));
    }

    /// Enters bytes that the ledger has already (by a settled reservation).
    pub(crate) fn add_settled(&mut self, path: &Path, bytes: u64) {
        let known = self.files.entry(path.to_owned()).or_insert((0, Owner::Store));
        known.0 += bytes;
    }

    /// The file or folder is gone.
    pub(crate) fn remove(&mut self, ledger: &mut Ledger, path: &Path) {
        if let Some((bytes, owner)) = self.files.remove(path) {
            ledger.gone(None, bytes);
            if owner == Owner::Unindexed {
                ledger.gone_unindexed(bytes);
            }
        }
    }

    /// Every path that `keep` refuses.
    pub(crate) fn others(&self, keep: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
        self.files.keys().filter(|path| !keep(path)).cloned().collect()
    }
}
