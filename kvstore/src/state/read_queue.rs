//! Blocks that are waiting to be read into the RAM tier, and blocks being read.

use crate::key::BlockId;
use std::collections::{HashSet, VecDeque};

/// Limit on the reads that wait for a read thread. Further reads are not queued; a later `get`
/// reads the block itself.
const MAX_WAITING: usize = 4096;

/// The queue of reads. Exactly one thread reads a block in `reading`, and other threads that want
/// the block wait for it. A waiting block is read by no thread yet, or by a thread that called
/// `get`.
#[derive(Debug, Default)]
pub(crate) struct ReadQueue {
    waiting: VecDeque<BlockId>,
    reading: HashSet<BlockId>,
}

impl ReadQueue {
    /// True when no further read may be queued.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_WAITING
    }

    /// Queues a read, unless a thread is reading the block.
    pub(super) fn push(&mut self, id: BlockId) {
        if !self.reading.contains(&id) {
            self.waiting.push_back(id);
        }
    }

    /// Takes the next block to read ahead.
    pub(crate) fn pop(&mut self) -> Option<BlockId> {
        self.waiting.pop_front()
    }

    /// Marks this block as being read by the calling thread until [`ReadQueue::release`]. Returns
    /// false when another thread is reading it.
    pub(super) fn claim(&mut self, id: &BlockId) -> bool {
        self.reading.insert(*id)
    }

    pub(crate) fn release(&mut self, id: &BlockId) {
        self.reading.remove(id);
    }

    /// True while any thread reads a block.
    pub(crate) fn is_reading(&self) -> bool {
        !self.reading.is_empty()
    }

    /// True while no block waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Blocks that are waiting or being read.
    pub(super) fn ids(&self) -> impl Iterator<Item = &BlockId> {
        self.waiting.iter().chain(&self.reading)
    }

    /// The number of blocks that are waiting or being read.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.reading.len()
    }
}
