//! Why blocks are missing that were put or stored not long ago.

use crate::key::{BlockId, IdHash};
use crate::layout::Damage;
use crate::stats::{DropReason, EvictReason};
use std::collections::{HashMap, VecDeque};

/// Why a block is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Departure {
    /// It was put but not written, and is in no tier (any more).
    NotSaved(DropReason),
    /// It was removed.
    Evicted(EvictReason),
    /// It failed its checks and was set aside.
    Damaged(Damage),
    /// Its file disappeared.
    Lost,
}

/// The most blocks remembered as not saved; beyond it all of them are forgotten.
const MAX_UNSAVED: usize = 4096;
/// The most blocks remembered as gone.
const MAX_GONE: usize = 16_384;

/// The last blocks that were not saved, and the last that went.
#[derive(Debug, Default)]
pub(crate) struct EvictionLog {
    /// A block put later whose parent is in here is dropped for the same reason.
    unsaved: HashMap<BlockId, DropReason>,
    gone: HashMap<BlockId, Departure, IdHash>,
    /// Oldest first; a block that went twice is in it twice.
    order: VecDeque<BlockId>,
}

impl EvictionLog {
    /// Notes a block that went.
    pub(super) fn note(&mut self, id: BlockId, why: Departure) {
        self.gone.insert(id, why);
        self.order.push_back(id);
        if self.order.len() > MAX_GONE
            && let Some(oldest) = self.order.pop_front()
        {
            self.gone.remove(&oldest);
        }
    }

    /// Notes a block that was not saved.
    pub(super) fn note_unsaved(&mut self, id: BlockId, reason: DropReason) {
        if self.unsaved.len() >= MAX_UNSAVED {
            self.unsaved.clear();
        }
        self.unsaved.insert(id, reason);
        // The newest reason is the one to tell.
        self.gone.remove(&id);
    }

    /// A block is queued to be saved after all.
    pub(super) fn forget_unsaved(&mut self, id: &BlockId) {
        self.unsaved.remove(id);
    }

    /// Why a block was not saved.
    pub(super) fn unsaved_reason(&self, id: &BlockId) -> Option<DropReason> {
        self.unsaved.get(id).copied()
    }

    /// Forgets the blocks that `keep` refuses.
    pub(super) fn retain(&mut self, keep: impl Fn(&BlockId) -> bool) {
        self.unsaved.retain(|id, _| keep(id));
        self.gone.retain(|id, _| keep(id));
        self.order.retain(|id| keep(id));
    }

    /// Why a block is not here, as far as that is remembered.
    pub(super) fn why(&self, id: &BlockId) -> Option<Departure> {
        let unsaved = || self.unsaved_reason(id).map(Departure::NotSaved);
        self.gone.get(id).copied().or_else(unsaved)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.unsaved.is_empty() && self.gone.is_empty() && self.order.is_empty()
    }
}
