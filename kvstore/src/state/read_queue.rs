//! Blocks that wait to be read into the RAM tier, and those being read.

use crate::key::BlockId;
use std::collections::{HashSet, VecDeque};

/// The most reads that wait for a read thread. Further ones are not queued: the `get` that comes
/// later reads for itself.
const MAX_WAITING: usize = 4096;

/// The queue of reads. A block in `reading` is being read by exactly one thread, for which the
/// others that want it wait; a waiting block is read by nobody yet, or by a thread that asked for
/// it meanwhile.
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

    /// Queues a read, unless some thread reads the block.
    pub(super) fn push(&mut self, id: BlockId) {
        if !self.reading.contains(&id) {
            self.waiting.push_back(id);
        }
    }

    /// Takes the next block to read ahead.
    pub(crate) fn pop(&mut self) -> Option<BlockId> {
        self.waiting.pop_front()
    }

    /// The calling thread reads this block from now on, until [`ReadQueue::release`]. False when
    /// another thread does.
    pub(super) fn claim(&mut self, id: &BlockId) -> bool {
        self.reading.insert(*id)
    }

    pub(crate) fn release(&mut self, id: &BlockId) {
        self.reading.remove(id);
    }

    /// True while some thread reads a block.
    pub(crate) fn is_reading(&self) -> bool {
        !self.reading.is_empty()
    }

    /// True while no block waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Blocks waiting and being read.
    pub(super) fn ids(&self) -> impl Iterator<Item = &BlockId> {
        self.waiting.iter().chain(&self.reading)
    }

    /// The number of blocks waiting and being read.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.reading.len()
    }
}
