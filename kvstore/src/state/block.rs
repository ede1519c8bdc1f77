//! One block in the store's tables.

use crate::key::{Key, Kind};
use crate::layout::index::Stored;
use crate::record::{Bytes, MappedBlock, Resident};
use crate::stats::Tier;
use std::sync::{Arc, Weak};

/// A block's state on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnDisk {
    /// It is in the RAM tier only.
    No,
    /// It is waiting to be written, or being written.
    Queued,
    /// It is published.
    Stored,
}

/// A block. Only [`BlockTable`](super::block_table::BlockTable) changes one.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) kind: Kind,
    pub(crate) parent: Option<Key>,
    pub(crate) file_len: u64,
    /// The bytes that its file takes on the medium, once it is stored.
    pub(crate) physical: u64,
    pub(crate) on_disk: OnDisk,
    /// The copy in memory, which a block has while it is queued or in the RAM tier.
    pub(crate) resident: Option<Arc<Resident>>,
    /// The mapping of its file, which lives while a guard uses it.
    pub(crate) mapped: Weak<MappedBlock>,
    pub(crate) created_secs: u64,
    pub(crate) used_secs: u64,
    /// The block was read ahead, and its reader is expected to use it before this time.
    pub(crate) awaited_until: u64,
}

impl Block {
    /// Makes a new block that is in memory only.
    pub(super) fn new(resident: &Arc<Resident>, now_secs: u64) -> Block {
        Block {
            kind: resident.kind,
            parent: resident.parent,
            file_len: resident.layout.file_len(),
            physical: 0,
            on_disk: OnDisk::No,
            resident: Some(Arc::clone(resident)),
            mapped: Weak::new(),
            created_secs: now_secs,
            used_secs: now_secs,
            awaited_until: 0,
        }
    }

    /// Makes a block whose file was found on disk.
    pub(super) fn found(stored: &Stored) -> Block {
        Block {
            kind: stored.kind,
            parent: stored.parent,
            file_len: stored.file_len,
            physical: stored.physical,
            on_disk: OnDisk::Stored,
            resident: None,
            mapped: Weak::new(),
            created_secs: stored.used_secs,
            used_secs: stored.used_secs,
            awaited_until: 0,
        }
    }

    /// Returns the block's bytes if they can be had without reading the disk.
    pub(crate) fn bytes(&self) -> Option<(Bytes, Tier)> {
        if let Some(resident) = &self.resident {
            return Some((Bytes::Resident(Arc::clone(resident)), Tier::Ram));
        }
        Some((Bytes::Mapped(self.mapped.upgrade()?), Tier::Disk))
    }

    /// True when no guard uses the copy in memory, so that dropping the copy frees its memory.
    pub(crate) fn has_unused_copy(&self) -> bool {
        self.resident.as_ref().is_some_and(|copy| Arc::strong_count(copy) == 1)
    }

    pub(crate) fn lifetime_secs(&self, now_secs: u64) -> u64 {
        now_secs.saturating_sub(self.created_secs)
    }

    /// Seconds since the block was last used.
    pub(crate) fn idle_secs(&self, now_secs: u64) -> u64 {
        now_secs.saturating_sub(self.used_secs)
    }
}
