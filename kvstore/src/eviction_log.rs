//! Why blocks went that were here not long ago, for whoever asks where one is.

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

/// Blocks remembered.
const MAX_REMEMBERED: usize = 16_384;

/// The last blocks that went.
#[derive(Debug, Default)]
pub(crate) struct EvictionLog {
    why: HashMap<BlockId, Departure, IdHash>,
    /// Oldest first; a block that went twice is here twice.
    order: VecDeque<BlockId>,
}

impl EvictionLog {
    pub(crate) fn note(&mut self, id: BlockId, why: Departure) {
        self.why.insert(id, why);
        self.order.push_back(id);
        if self.order.len() > MAX_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.why.remove(&oldest);
        }
    }

    pub(crate) fn forget(&mut self, id: &BlockId) {
        self.why.remove(id);
    }

    /// Forgets the blocks that `keep` refuses.
    pub(crate) fn retain(&mut self, keep: impl Fn(&BlockId) -> bool) {
        self.why.retain(|id, _| keep(id));
        self.order.retain(|id| keep(id));
    }

    pub(crate) fn why(&self, id: &BlockId) -> Option<Departure> {
        self.why.get(id).copied()
    }
}
