//! Tracks the size of every file and folder that is not a published record, so that the quota
//! covers all bytes under the root.

use crate::state::ledger::Ledger;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Which part of the ledger a file's bytes belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The store itself: folders, the index, the lock.
    Store,
    /// Files that are not an indexed block: damaged files, or files that the store did not write.
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

    /// Adds a file or folder that was found on the medium.
    pub(crate) fn add(&mut self, ledger: &mut Ledger, path: &Path, bytes: u64, owner: Owner) {
        self.remove(ledger, path);
        ledger.found(None, bytes);
        if owner == Owner::Unindexed {
            ledger.found_unindexed(bytes);
        }
        self.files.insert(path.to_owned(), (bytes, owner));
    }

    /// Adds bytes that the ledger has counted already (by a settled reservation).
    pub(crate) fn add_settled(&mut self, path: &Path, bytes: u64) {
        let known = self.files.entry(path.to_owned()).or_insert((0, Owner::Store));
        known.0 += bytes;
    }

    /// Removes a file or folder that no longer exists.
    pub(crate) fn remove(&mut self, ledger: &mut Ledger, path: &Path) {
        if let Some((bytes, owner)) = self.files.remove(path) {
            ledger.gone(None, bytes);
            if owner == Owner::Unindexed {
                ledger.gone_unindexed(bytes);
            }
        }
    }

    /// Returns every path for which `keep` returns false.
    pub(crate) fn others(&self, keep: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
        self.files.keys().filter(|path| !keep(path)).cloned().collect()
    }
}
