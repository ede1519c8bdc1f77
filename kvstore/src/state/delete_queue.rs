//! Files that wait to be removed.

use crate::key::BlockId;
use crate::stats::EvictReason;
use std::collections::{HashSet, VecDeque};

/// A file to be removed. Its block is already forgotten.
#[derive(Debug)]
pub(crate) struct Delete {
    pub(crate) id: BlockId,
    pub(crate) physical: u64,
    /// A file that is removed for damage is set aside instead.
    pub(crate) reason: EvictReason,
}

/// The queue of removals. `leaving` has the id of every file that was pushed and is not finished
/// yet: the waiting files and the one that the writer is removing.
#[derive(Debug, Default)]
pub(crate) struct DeleteQueue {
    waiting: VecDeque<Delete>,
    leaving: HashSet<BlockId>,
}

impl DeleteQueue {
    pub(super) fn push(&mut self, delete: Delete) {
        self.leaving.insert(delete.id);
        self.waiting.push_back(delete);
    }

    /// Takes the next file to remove. The caller must then call [`DeleteQueue::finish`].
    pub(crate) fn pop(&mut self) -> Option<Delete> {
        self.waiting.pop_front()
    }

    /// Records that the removal of a block's file has ended.
    pub(crate) fn finish(&mut self, id: &BlockId) {
        self.leaving.remove(id);
    }

    /// True while a block's file is waiting to be removed or being removed.
    pub(crate) fn is_leaving(&self, id: &BlockId) -> bool {
        self.leaving.contains(id)
    }

    /// Changes waiting removals of damaged files so that the files are not set aside.
    pub(crate) fn set_nothing_aside(&mut self) {
        self.waiting.iter_mut().for_each(|delete| delete.reason = EvictReason::Manual);
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes of the waiting files on the medium.
    pub(super) fn bytes(&self) -> u64 {
        self.waiting.iter().map(|delete| delete.physical).sum()
    }

    /// The namespaces of files that are waiting to be removed or being removed.
    pub(super) fn spaces(&self) -> impl Iterator<Item = u32> {
        self.waiting
            .iter()
            .map(|delete| delete.id.space)
            .chain(self.leaving.iter().map(|id| id.space))
    }
}
