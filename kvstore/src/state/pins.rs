//! Blocks that may not be evicted to free space.

use crate::key::{BlockId, IdHash};
use std::collections::HashMap;

/// The number of pins on each pinned block; no count is zero. A block may be pinned before it is
/// put.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    counts: HashMap<BlockId, u32, IdHash>,
}

impl Pins {
    pub(crate) fn add(&mut self, id: BlockId) {
        *self.counts.entry(id).or_default() += 1;
    }

    pub(crate) fn remove(&mut self, id: &BlockId) {
        if let Some(count) = self.counts.get_mut(id) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(id);
            }
        }
    }

    pub(super) fn contains(&self, id: &BlockId) -> bool {
        self.counts.contains_key(id)
    }

    /// The namespaces of pinned blocks.
    pub(super) fn spaces(&self) -> impl Iterator<Item = u32> {
        self.counts.keys().map(|id| id.space)
    }
}
