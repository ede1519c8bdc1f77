//! Lookup of a block for a reader, and the end of the read.

use super::State;
use super::block::OnDisk;
use crate::buffer::MemoryShare;
use crate::key::{BlockId, Key, Namespace};
use crate::record::Bytes;
use crate::stats::Tier;

/// Seconds for which a block that was read ahead stays for its reader, unless a new block needs the
/// memory.
const AWAITED_SECS: u64 = 30;

/// The result of [`State::find`].
pub(crate) enum Found {
    /// The bytes are in memory, or mapped already.
    Here(Bytes, Tier),
    /// The block must be read from disk: into our own memory (`Some`), or by mapping its file
    /// (`None`).
    Cold(Option<MemoryShare>),
    /// Another thread is reading it.
    Busy,
    Missing,
}

impl State {
    /// Finds a block for a reader. If it is on disk, reserves the memory to read it into.
    pub(crate) fn find(&mut self, id: &BlockId, now_secs: u64) -> Found {
        let Some((gap, block)) = self.blocks.read(id, now_secs) else { return Found::Missing };
        let (file_len, bytes) = (block.file_len, block.bytes());
        if let Some((bytes, tier)) = bytes {
            self.counters.reused(id, tier, gap);
            return Found::Here(bytes, tier);
        }
        if !self.reads.claim(id) {
            return Found::Busy;
        }
        self.counters.reused(id, Tier::Disk, gap);
        let has_room = self.make_ram_room(file_len, now_secs);
        Found::Cold(if has_room { self.take_memory(file_len, now_secs) } else { None })
    }

    /// Ends a successful read: the block joins the RAM tier, or its mapping is shared while it
    /// lives.
    pub(crate) fn restored(&mut self, id: &BlockId, bytes: &Bytes, now_secs: u64) {
        self.reads.release(id);
        let Some(block) = self.blocks.get(id) else { return };
        if block.on_disk != OnDisk::Stored || block.resident.is_some() {
            return;
        }
        self.namespaces.count_read(id.space, block.kind, bytes.layout().payload_len);
        match bytes {
            Bytes::Mapped(mapped) => self.blocks.share_mapping(id, mapped),
            Bytes::Resident(resident) => {
                if self.make_ram_room(resident.memory_len(), now_secs) {
                    self.blocks.join_ram(id, resident);
                    self.counters.promote();
                }
            }
        }
    }

    /// Queues a read ahead of a block that is not in memory. Returns false when the queue is full.
    pub(crate) fn queue_read(&mut self, id: BlockId) -> bool {
        if self.reads.is_full() {
            return false;
        }
        if self.blocks.get(&id).is_some_and(|block| block.resident.is_none()) {
            self.reads.push(id);
        }
        true
    }

    /// Marks a block that was read ahead into the RAM tier as awaited by its reader.
    pub(crate) fn await_use(&mut self, id: &BlockId, now_secs: u64) {
        self.blocks.set_awaited_until(id, now_secs + AWAITED_SECS);
    }

    /// Returns how many of `keys`, from the first, are stored as one chain, and how many of those
    /// are in memory. Counts a use of each.
    pub(crate) fn longest_prefix(
        &mut self,
        namespace: &Namespace,
        keys: &[Key],
        now_secs: u64,
    ) -> (usize, usize) {
        let Some(space) = self.find_space(namespace) else { return (0, 0) };
        self.blocks.use_chain(space, keys, now_secs)
    }
}
