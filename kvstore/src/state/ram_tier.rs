//! The RAM tier's budget, and the order in which blocks leave it.

use super::chain::ChainLru;
use crate::key::{BlockId, Key};

/// The RAM tier. `bytes` is the memory of exactly the blocks in `order`. It exceeds `budget` only
/// when the budget was reduced below the memory in use.
#[derive(Debug)]
pub(crate) struct RamTier {
    order: ChainLru,
    bytes: u64,
    budget: u64,
}

impl RamTier {
    pub(super) fn new(budget: u64) -> RamTier {
        RamTier { order: ChainLru::default(), bytes: 0, budget }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn budget(&self) -> u64 {
        self.budget
    }

    pub(super) fn set_budget(&mut self, bytes: u64) {
        self.budget = bytes;
    }

    /// True when `bytes` more fit in the budget now.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.bytes.saturating_add(bytes) <= self.budget
    }

    pub(super) fn contains(&self, id: &BlockId) -> bool {
        self.order.contains(id)
    }

    pub(super) fn insert(&mut self, id: BlockId, parent: Option<Key>, memory_len: u64) {
        self.order.insert(id, parent, 0);
        self.bytes += memory_len;
    }

    pub(super) fn remove(&mut self, id: &BlockId, memory_len: u64) {
        self.order.remove(id);
        self.bytes -= memory_len;
    }

    pub(super) fn touch(&mut self, id: &BlockId) {
        self.order.touch(id, false);
    }

    /// Returns the next block to leave among those for which `may_go` is true.
    pub(super) fn victim(&mut self, may_go: impl Fn(&BlockId) -> bool) -> Option<BlockId> {
        self.order.victim(may_go)
    }
}
