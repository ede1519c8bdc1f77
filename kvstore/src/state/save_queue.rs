//! Blocks that wait to be written.

use crate::key::BlockId;
use crate::record::Resident;
use crate::stats::DropReason;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// A block waiting to be written.
#[derive(Debug)]
pub(crate) struct Save {
    pub(crate) id: BlockId,
    pub(crate) resident: Arc<Resident>,
}

/// The queue of saves, first come, first served. `bytes` is the memory of every save that was
/// pushed and is not finished: the waiting saves and the one in progress.
#[derive(Debug)]
pub(crate) struct SaveQueue {
    waiting: VecDeque<Save>,
    bytes: u64,
    limit: u64,
    /// Saving is paused until this moment of the monotonic clock.
    paused_until: Option<Duration>,
}

impl SaveQueue {
    pub(super) fn new(limit: u64) -> SaveQueue {
        SaveQueue { waiting: VecDeque::new(), bytes: 0, limit, paused_until: None }
    }

    /// Checks whether a block of this size may be queued now.
    pub(super) fn admits(&self, memory_len: u64, now: Duration) -> Result<(), DropReason> {
        if self.is_paused(now) {
            return Err(DropReason::DiskFull);
        }
        if self.bytes.saturating_add(memory_len) > self.limit {
            return Err(DropReason::QueueFull);
        }
        Ok(())
    }

    pub(super) fn push(&mut self, save: Save) {
        self.bytes += save.resident.memory_len();
        self.waiting.push_back(save);
    }

    /// Takes the next block to write. The caller must then call [`SaveQueue::finish`].
    pub(crate) fn pop(&mut self) -> Option<Save> {
        self.waiting.pop_front()
    }

    /// Records that a save has ended, whether or not it succeeded.
    pub(super) fn finish(&mut self, save: &Save) {
        self.bytes -= save.resident.memory_len();
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The namespaces of waiting blocks.
    pub(super) fn spaces(&self) -> impl Iterator<Item = u32> {
        self.waiting.iter().map(|save| save.id.space)
    }

    pub(crate) fn is_paused(&self, now: Duration) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }

    /// True from the start of a pause until saving is tried again.
    pub(crate) fn has_pause(&self) -> bool {
        self.paused_until.is_some()
    }

    /// Pauses saving, unless it is already paused.
    pub(crate) fn pause(&mut self, until: Duration) {
        self.paused_until.get_or_insert(until);
    }

    pub(crate) fn end_pause(&mut self) {
        self.paused_until = None;
    }
}
