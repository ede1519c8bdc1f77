//! The store's knowledge and decisions, without any I/O: which blocks exist and in which tier,
//! which blocks are evicted to free space, which work is waiting. One mutex guards it and is never
//! held during I/O.
//!
//! Each part (the table of blocks, the queues, the ledger, and so on) owns its data and documents
//! its invariants; only its own methods change it. Operations on several parts are methods of
//! [`State`] in `put.rs`, `find.rs`, `evict.rs` and `adopt.rs`.

pub(crate) mod activity;
mod adopt;
pub(crate) mod block;
pub(crate) mod block_table;
mod chain;
pub(crate) mod delete_queue;
mod evict;
pub(crate) mod eviction_log;
pub(crate) mod find;
pub(crate) mod ledger;
mod namespaces;
pub(crate) mod pins;
mod put;
mod ram_tier;
pub(crate) mod read_queue;
pub(crate) mod save_queue;

use self::activity::Activity;
use self::block::OnDisk;
use self::block_table::BlockTable;
use self::delete_queue::DeleteQueue;
use self::eviction_log::{Departure, EvictionLog};
use self::ledger::{DiskLimits, Ledger};
use self::namespaces::Namespaces;
use self::pins::Pins;
use self::read_queue::ReadQueue;
use self::save_queue::SaveQueue;
use crate::buffer::MemoryGauge;
use crate::config::StoreConfig;
use crate::key::{BlockId, Key, Namespace};
use crate::stats::{Counters, NamespaceStats};
use std::collections::BTreeSet;
use std::sync::Arc;

pub(crate) struct State {
    namespaces: Namespaces,
    pub(crate) blocks: BlockTable,
    pub(crate) ledger: Ledger,
    pub(crate) saves: SaveQueue,
    pub(crate) deletes: DeleteQueue,
    pub(crate) reads: ReadQueue,
    pub(crate) pins: Pins,
    evictions: EvictionLog,
    /// The memory of the RAM tier, of the write queue, and of bytes lent to callers.
    pub(crate) gauge: Arc<MemoryGauge>,
    pub(crate) counters: Counters,
    pub(crate) activity: Activity,
}

impl State {
    pub(crate) fn new(config: &StoreConfig) -> State {
        let limits =
            DiskLimits { quota: config.quota_bytes, writes_per_day: config.writes_per_day_bytes };
        State {
            namespaces: Namespaces::default(),
            blocks: BlockTable::new(config.ram_budget_bytes),
            ledger: Ledger::new(limits),
            saves: SaveQueue::new(config.queue_bytes),
            deletes: DeleteQueue::default(),
            reads: ReadQueue::default(),
            pins: Pins::default(),
            evictions: EvictionLog::default(),
            gauge: MemoryGauge::new(config.ram_budget_bytes.saturating_add(config.queue_bytes)),
            counters: Counters::default(),
            activity: Activity::default(),
        }
    }

    // ---- names -------------------------------------------------------------------------------

    /// Returns the number of a namespace if the store knows it.
    pub(crate) fn find_space(&self, namespace: &Namespace) -> Option<u32> {
        self.namespaces.number(namespace)
    }

    /// Returns the number of a namespace, which is added if it is new.
    pub(crate) fn space(&mut self, namespace: &Namespace) -> u32 {
        if let Some(space) = self.namespaces.number(namespace) {
            return space;
        }
        if self.namespaces.are_many() {
            self.forget_empty_spaces();
            self.namespaces.set_next_look();
        }
        self.namespaces.add(namespace)
    }

    /// Forgets the namespaces with no block in any tier or queue. Without this their number would
    /// have no limit, because clients choose them.
    pub(crate) fn forget_empty_spaces(&mut self) {
        let mut used: BTreeSet<u32> = self.blocks.iter().map(|(id, _)| id.space).collect();
        used.extend(self.pins.spaces());
        used.extend(self.saves.spaces());
        used.extend(self.deletes.spaces());
        used.extend(self.reads.ids().map(|id| id.space));
        let ledger = &self.ledger;
        self.namespaces.retain(|space| used.contains(&space) || ledger.space_physical(space) > 0);
        let namespaces = &self.namespaces;
        self.evictions.retain(|id| namespaces.knows(id.space));
    }

    /// Returns the namespace of a block, or `None` when namespace and block were forgotten.
    pub(crate) fn namespace(&self, id: &BlockId) -> Option<Namespace> {
        self.namespaces.name(id.space)
    }

    pub(crate) fn id(&self, namespace: &Namespace, key: &Key) -> Option<BlockId> {
        Some(BlockId { space: self.find_space(namespace)?, key: *key })
    }

    // ---- waiting work, and what happened to blocks ---------------------------------------------

    /// Returns why a block is missing, if the store remembers it.
    pub(crate) fn departure(&self, id: &BlockId) -> Option<Departure> {
        self.evictions.why(id)
    }

    /// True while the writer has work to do now.
    pub(crate) fn writer_has_work(&self) -> bool {
        let may_save = self.activity.has_scanned() && !self.saves.is_empty();
        may_save || self.activity.is_scanning() || !self.deletes.is_empty()
    }

    /// True when no work is queued or in progress.
    pub(crate) fn is_settled(&self) -> bool {
        let is_waiting = !self.saves.is_empty() || !self.reads.is_empty() || self.writer_has_work();
        let is_running =
            self.activity.is_writing() || self.reads.is_reading() || !self.activity.has_scanned();
        !is_waiting && !is_running
    }

    /// The number of waiting reads, removals and saves.
    pub(crate) fn queue_depth(&self) -> [u64; 3] {
        [self.reads.len() as u64, self.deletes.len() as u64, self.saves.len() as u64]
    }

    /// The bytes of waiting reads, removals and saves.
    pub(crate) fn queue_bytes(&self) -> [u64; 3] {
        let len = |id: &BlockId| self.blocks.get(id).map_or(0, |block| block.file_len);
        [self.reads.ids().map(len).sum(), self.deletes.bytes(), self.saves.bytes()]
    }

    /// Blocks by tier and kind.
    pub(crate) fn count_blocks(&self) -> [[u64; 3]; 2] {
        let mut counts = [[0; 3]; 2];
        for (_, block) in self.blocks.iter() {
            counts[0][block.kind.index()] += u64::from(block.resident.is_some());
            counts[1][block.kind.index()] += u64::from(block.on_disk == OnDisk::Stored);
        }
        counts
    }

    pub(crate) fn namespace_stats(&self) -> Vec<NamespaceStats> {
        self.namespaces.stats(|space| self.ledger.space_physical(space))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::DropReason;

    #[test]
    fn empty_namespaces_do_not_accumulate() {
        let mut state = State::new(&StoreConfig::new("/none", 1 << 30));
        let name = |n: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&n.to_le_bytes());
            Namespace(bytes)
        };
        let kept = BlockId { space: state.space(&name(0)), key: Key([1; 32]) };
        state.pins.add(kept);
        for n in 1..100_000 {
            let id = BlockId { space: state.space(&name(n)), key: Key([1; 32]) };
            state.drop_save(id, DropReason::Admission);
            assert!(state.namespaces.len() <= Namespaces::MAX_IDLE);
        }
        assert_eq!(state.find_space(&name(0)), Some(kept.space));
        state.pins.remove(&kept);
        state.forget_empty_spaces();
        assert!(state.namespaces.len() == 0 && state.evictions.is_empty());
        assert_eq!(state.namespace(&kept), None);
        assert_ne!(state.space(&name(0)), kept.space, "a number is not given twice");
    }
}
