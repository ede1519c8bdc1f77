//! Remembers why recently stored blocks are missing.

use crate::key::{BlockId, IdHash};
use crate::layout::Damage;
use crate::stats::{DropReason, EvictReason};
use std::collections::{HashMap, VecDeque};

/// Why a block is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Departure {
    /// It was put but not written, and is no longer in any tier.
    NotSaved(DropReason),
    /// It was removed.
    Evicted(EvictReason),
    /// It failed its checks and was set aside.
    Damaged(Damage),
    /// Its file was missing.
    Lost,
}

/// Limit on the blocks remembered as not saved. When it is reached, all of them are forgotten.
const MAX_UNSAVED: usize = 4096;
/// Limit on the blocks remembered as removed.
const MAX_GONE: usize = 16_384;

/// The blocks that were recently not saved or removed.
#[derive(Debug, Default)]
pub(crate) struct EvictionLog {
    /// Reason by block. A block that is put later with one of these as parent is dropped for the
    /// same reason.
    unsaved: HashMap<BlockId, DropReason>,
    gone: HashMap<BlockId, Departure, IdHash>,
    /// Removed blocks, oldest first. A block that was removed twice appears twice.
    order: VecDeque<BlockId>,
}

impl EvictionLog {
    /// Records a removed block.
    pub(super) fn note(&mut self, id: BlockId, why: Departure) {
        self.gone.insert(id, why);
        self.order.push_back(id);
        if self.order.len() > MAX_GONE
            && let Some(oldest) = self.order.pop_front()
        {
            self.gone.remove(&oldest);
        }
    }

    /// Records a block that was not saved.
    pub(super) fn note_unsaved(&mut self, id: BlockId, reason: DropReason) {
        if self.unsaved.len() >= MAX_UNSAVED {
            self.unsaved.clear();
        }
        self.unsaved.insert(id, reason);
        // Only the newest reason is reported.
        self.gone.remove(&id);
    }

    /// Forgets that a block was not saved, because it is queued now.
    pub(super) fn forget_unsaved(&mut self, id: &BlockId) {
        self.unsaved.remove(id);
    }

    /// Returns why a block was not saved.
    pub(super) fn unsaved_reason(&self, id: &BlockId) -> Option<DropReason> {
        self.unsaved.get(id).copied()
    }

    /// Keeps only the blocks for which `keep` returns true.
    pub(super) fn retain(&mut self, keep: impl Fn(&BlockId) -> bool) {
        self.unsaved.retain(|id, _| keep(id));
        self.gone.retain(|id, _| keep(id));
        self.order.retain(|id| keep(id));
    }

    /// Returns why a block is missing, if the log still has it.
    pub(super) fn why(&self, id: &BlockId) -> Option<Departure> {
        let unsaved = || self.unsaved_reason(id).map(Departure::NotSaved);
        self.gone.get(id).copied().or_else(unsaved)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.unsaved.is_empty() && self.gone.is_empty() && self.order.is_empty()
    }
}
