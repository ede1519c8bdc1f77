//! The size of every file and folder that is not a published record. With it the quota covers all bytes
//! under the root.

use crate::state::ledger::Ledger;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The owner of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The store: its folders, its index, its lock.
    Store,
    /// No indexed block: the file was set aside, or is not the store's.
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

    /// Counts a file or folder that was found on the medium, in place of its former size.
    pub(crate) fn add(&mut self, ledger: &mut Ledger, path: &Path, bytes: u64, owner: Owner) {
        self.remove(ledger, path);
        ledger.found(None, bytes);
        if owner == Owner::Unindexed {
            ledger.found_unindexed(bytes);
        }
        self.files.insert(path.to_owned(), (bytes, owner));
    }

    /// Counts bytes that the ledger has already, by a reservation that was settled.
    pub(crate) fn add_settled(&mut self, path: &Path, bytes: u64) {
        let known = self.files.entry(path.to_owned()).or_insert((0, Owner::Store));
        known.0 += bytes;
    }

    /// Takes a file or folder that is gone out of the count.
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
