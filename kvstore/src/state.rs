//! What the store knows and decides, without any I/O: which blocks there are and in which tier,
//! what goes when room is needed, what waits to be done. One mutex guards it; it is never held
//! during I/O.
//!
//! Each part owns its data and says which invariants it keeps. What concerns one part only, callers
//! ask of that part; a step that concerns several is a method of [`State`].

pub(crate) mod activity;
pub(crate) mod block;
pub(crate) mod block_table;
mod chain;
pub(crate) mod delete_queue;
pub(crate) mod eviction_log;
pub(crate) mod ledger;
mod namespaces;
pub(crate) mod pins;
mod ram_tier;
pub(crate) mod read_queue;
pub(crate) mod save_queue;

use self::activity::Activity;
use self::block::{Block, OnDisk};
use self::block_table::BlockTable;
use self::delete_queue::{Delete, DeleteQueue};
use self::eviction_log::{Departure, EvictionLog};
use self::ledger::{DiskLimits, Ledger};
use self::namespaces::Namespaces;
use self::pins::Pins;
use self::read_queue::ReadQueue;
use self::save_queue::{Save, SaveQueue};
use crate::buffer::{MemoryGauge, MemoryShare};
use crate::config::StoreConfig;
use crate::key::{BlockId, Key, Namespace};
use crate::layout::Damage;
use crate::layout::index::Stored;
use crate::record::{Bytes, PutOutcome, Resident};
use crate::stats::{Counters, DropReason, EvictReason, NamespaceStats, Tier};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// A block that was read ahead stays for its reader at least this long, unless memory for a new
/// block is needed.
const AWAITED_SECS: u64 = 30;

/// What [`State::find`] has for a reader.
pub(crate) enum Found {
    /// The bytes are in memory, or mapped already.
    Here(Bytes, Tier),
    /// The block is to be read from disk: into memory of our own (`Some`), or by mapping it
    /// (`None`).
    Cold(Option<MemoryShare>),
    /// Another thread is reading it.
    Busy,
    Missing,
}

pub(crate) struct State {
    namespaces: Namespaces,
    pub(crate) blocks: BlockTable,
    pub(crate) ledger: Ledger,
    pub(crate) saves: SaveQueue,
    pub(crate) deletes: DeleteQueue,
    pub(crate) reads: ReadQueue,
    pub(crate) pins: Pins,
    evictions: EvictionLog,
    /// The memory of the RAM tier, of the queue of saves, and of bytes lent to callers.
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

    /// The number of a namespace, if the store knows it.
    pub(crate) fn find_space(&self, namespace: &Namespace) -> Option<u32> {
        self.namespaces.number(namespace)
    }

    /// The number of a namespace, which it gets now if it has none.
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

    /// Forgets the namespaces that hold nothing in any tier or queue. Clients invent namespaces, so
    /// their number has no limit.
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

    /// The namespace of a block; `None` when it was forgotten, and the block with it.
    pub(crate) fn namespace(&self, id: &BlockId) -> Option<Namespace> {
        self.namespaces.name(id.space)
    }

    pub(crate) fn id(&self, namespace: &Namespace, key: &Key) -> Option<BlockId> {
        Some(BlockId { space: self.find_space(namespace)?, key: *key })
    }

    // ---- putting -----------------------------------------------------------------------------

    /// Whether the parent of a block is on disk or on its way there. A block is written only if it
    /// is, so that no chain on disk has a hole.
    pub(crate) fn check_parent(&self, id: &BlockId, parent: Option<Key>) -> Result<(), DropReason> {
        let Some(key) = parent else { return Ok(()) };
        let parent = BlockId { key, ..*id };
        if self.blocks.is_for_disk(&parent) {
            return Ok(());
        }
        Err(self.evictions.unsaved_reason(&parent).unwrap_or(DropReason::Admission))
    }

    /// Whether a block may be queued to be written.
    pub(crate) fn may_save(
        &self,
        id: &BlockId,
        parent: Option<Key>,
        memory_len: u64,
        now: Duration,
    ) -> Result<(), DropReason> {
        self.check_parent(id, parent)?;
        if self.activity.is_stopping() {
            return Err(DropReason::Shutdown);
        }
        self.saves.admits(memory_len, now)
    }

    /// True when the parent of `id` is in some tier, or it has none.
    pub(crate) fn has_parent(&self, id: &BlockId, parent: Option<Key>) -> bool {
        parent.is_none_or(|key| self.blocks.contains(&BlockId { key, ..*id }))
    }

    /// Takes memory for a block, out of the RAM tier if need be.
    pub(crate) fn take_memory(&mut self, bytes: u64, now_secs: u64) -> Option<MemoryShare> {
        loop {
            if let Some(share) = self.gauge.reserve(bytes) {
                return Some(share);
            }
            if !self.demote_one(now_secs, true) {
                return None;
            }
        }
    }

    /// Counts a block as not saved, and remembers it so that its children follow.
    pub(crate) fn drop_save(&mut self, id: BlockId, reason: DropReason) {
        self.counters.drop_block(reason);
        self.evictions.note_unsaved(id, reason);
    }

    /// Why a block is not here, as far as that is remembered.
    pub(crate) fn departure(&self, id: &BlockId) -> Option<Departure> {
        self.evictions.why(id)
    }

    /// What becomes of a put whose block is here already; `None` when it is not. A block that is in
    /// the RAM tier only is queued now if it may be.
    pub(crate) fn put_again(
        &mut self,
        id: &BlockId,
        now: Duration,
        now_secs: u64,
    ) -> Option<PutOutcome> {
        self.blocks.get(id)?;
        self.blocks.touch(id, now_secs, false);
        let block = self.blocks.get(id)?;
        let resident = match &block.resident {
            Some(resident) if block.on_disk == OnDisk::No => Arc::clone(resident),
            _ => return Some(PutOutcome::AlreadyStored),
        };
        match self.may_save(id, block.parent, resident.memory_len(), now) {
            Ok(()) => {
                if self.blocks.queue(id) {
                    self.queue_save(*id, resident);
                }
                Some(PutOutcome::Queued)
            }
            Err(reason) => {
                self.drop_save(*id, reason);
                Some(PutOutcome::RamOnly(reason))
            }
        }
    }

    /// Adds a new block that is to be saved.
    pub(crate) fn add_queued(&mut self, id: BlockId, resident: Arc<Resident>, now_secs: u64) {
        self.blocks.add_queued(id, &resident, now_secs);
        self.queue_save(id, resident);
    }

    /// Adds a new block for the RAM tier only. False when it does not fit there.
    pub(crate) fn add_to_ram(
        &mut self,
        id: BlockId,
        resident: &Arc<Resident>,
        now_secs: u64,
    ) -> bool {
        if !self.make_ram_room(resident.memory_len(), now_secs) {
            return false;
        }
        self.blocks.add_to_ram(id, resident, now_secs);
        true
    }

    fn queue_save(&mut self, id: BlockId, resident: Arc<Resident>) {
        self.saves.push(Save { id, resident });
        self.evictions.forget_unsaved(&id);
    }

    /// True while `save` is still wanted: its block was not removed or replaced meanwhile.
    pub(crate) fn is_current(&self, save: &Save) -> bool {
        self.blocks.get(&save.id).is_some_and(|block| {
            block.on_disk == OnDisk::Queued
                && block.resident.as_ref().is_some_and(|own| Arc::ptr_eq(own, &save.resident))
        })
    }

    /// Ends a current save well: the block is on disk, and joins the RAM tier if there is room.
    pub(crate) fn saved(&mut self, save: &Save, physical: u64, now_secs: u64) {
        self.saves.finish(save);
        let Some(block) = self.blocks.get(&save.id) else { return };
        self.namespaces.count_write(save.id.space, block.kind, physical);
        let room = self.blocks.is_in_ram(&save.id)
            || self.make_ram_room(save.resident.memory_len(), now_secs);
        self.blocks.stored(&save.id, physical, room);
    }

    /// Ends a save badly: the block stays in the RAM tier if it is there, else it is forgotten.
    pub(crate) fn not_saved(&mut self, save: &Save, reason: DropReason) {
        self.saves.finish(save);
        if self.is_current(save) {
            self.drop_save(save.id, reason);
            self.blocks.leave_disk(&save.id);
        }
    }

    /// The store is closing: no block is saved any more.
    pub(crate) fn stop(&mut self) {
        self.activity.stop();
        while let Some(save) = self.saves.pop() {
            self.not_saved(&save, DropReason::Shutdown);
        }
    }

    // ---- getting -----------------------------------------------------------------------------

    /// Finds a block for a reader, and takes memory to read it into if it is on disk.
    pub(crate) fn find(&mut self, id: &BlockId, now_secs: u64) -> Found {
        let Some(block) = self.blocks.get(id) else { return Found::Missing };
        let (gap, file_len, bytes) = (block.idle_secs(now_secs), block.file_len, block.bytes());
        self.blocks.touch(id, now_secs, false);
        self.blocks.set_awaited_until(id, 0);
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

    /// Ends a read well: the block joins the RAM tier, or its mapping is shared while it lives.
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

    /// Queues a read ahead of a block that is not in memory. False when the queue is full.
    pub(crate) fn queue_read(&mut self, id: BlockId) -> bool {
        if self.reads.is_full() {
            return false;
        }
        if self.blocks.get(&id).is_some_and(|block| block.resident.is_none()) {
            self.reads.push(id);
        }
        true
    }

    /// A block that was read ahead is in the RAM tier.
    pub(crate) fn await_use(&mut self, id: &BlockId, now_secs: u64) {
        self.blocks.set_awaited_until(id, now_secs + AWAITED_SECS);
    }

    /// How many of `keys`, from the first, are stored as one chain; and how many of those are in
    /// memory. Counts a use of each.
    pub(crate) fn longest_prefix(
        &mut self,
        namespace: &Namespace,
        keys: &[Key],
        now_secs: u64,
    ) -> (usize, usize) {
        let Some(space) = self.find_space(namespace) else { return (0, 0) };
        let (mut matched, mut in_ram) = (0, 0);
        let mut before: Option<Key> = None;
        for &key in keys {
            let id = BlockId { space, key };
            let Some(block) = self.blocks.get(&id) else { break };
            if before.is_some() && block.parent != before {
                break;
            }
            in_ram += usize::from(block.resident.is_some());
            self.blocks.touch(&id, now_secs, true);
            matched += 1;
            before = Some(key);
        }
        (matched, in_ram)
    }

    // ---- making room -------------------------------------------------------------------------

    /// Shrinks the RAM tier until `bytes` more fit its budget. A block that was read ahead and not
    /// yet asked for does not go: a chain longer than the tier would push out its own blocks before
    /// their use.
    pub(crate) fn make_ram_room(&mut self, bytes: u64, now_secs: u64) -> bool {
        while !self.blocks.ram().has_room(bytes) {
            if bytes > self.blocks.ram().budget() || !self.demote_one(now_secs, false) {
                return false;
            }
        }
        true
    }

    /// Changes what the RAM tier may hold. A block in use stays until it is not.
    pub(crate) fn set_ram_budget(&mut self, bytes: u64, now_secs: u64) {
        self.blocks.set_ram_budget(bytes);
        while !self.blocks.ram().has_room(0) && self.demote_one(now_secs, true) {}
    }

    /// Takes the least useful block out of the RAM tier, unless all are pinned or in use: a block
    /// that a guard uses would not give its memory back.
    pub(crate) fn demote_one(&mut self, now_secs: u64, even_awaited: bool) -> bool {
        let pins = &self.pins;
        let may_go = |id: &BlockId, block: &Block| {
            block.has_unused_copy()
                && !pins.contains(id)
                && (even_awaited || block.awaited_until <= now_secs)
        };
        let Some(id) = self.blocks.ram_victim(may_go) else { return false };
        self.leave_ram(&id, now_secs);
        self.counters.demote();
        true
    }

    /// Drops the RAM tier's copy, and the block itself if it was nowhere else.
    fn leave_ram(&mut self, id: &BlockId, now_secs: u64) {
        if let Some(block) = self.blocks.get(id).filter(|_| self.blocks.is_in_ram(id)) {
            let (lifetime, idle) = (block.lifetime_secs(now_secs), block.idle_secs(now_secs));
            self.counters.left(id, Tier::Ram, lifetime, idle);
            self.blocks.leave_ram(id);
        }
    }

    /// Chooses the block on disk to go next, and forgets that it is there.
    pub(crate) fn evict_one(&mut self, now_secs: u64) -> Option<Delete> {
        let pins = &self.pins;
        let id = self.blocks.disk_victim(|id| !pins.contains(id))?;
        self.evict(&id, EvictReason::Quota, now_secs)
    }

    /// Forgets that a stored block is on disk. The caller must see to the file. For room, a copy
    /// in the RAM tier may stay; for any other reason it goes as well.
    fn evict(&mut self, id: &BlockId, reason: EvictReason, now_secs: u64) -> Option<Delete> {
        let block = self.blocks.get(id).filter(|block| block.on_disk == OnDisk::Stored)?;
        let physical = block.physical;
        let (lifetime, idle) = (block.lifetime_secs(now_secs), block.idle_secs(now_secs));
        self.counters.left(id, Tier::Disk, lifetime, idle);
        self.counters.evict(reason, physical);
        self.evictions.note(*id, Departure::Evicted(reason));
        self.blocks.leave_disk(id);
        if reason != EvictReason::Quota {
            self.leave_ram(id, now_secs);
        }
        Some(Delete { id: *id, physical, reason })
    }

    /// Forgets a stored block and queues the removal of its file; false if it is not stored.
    pub(crate) fn discard_stored(
        &mut self,
        id: &BlockId,
        reason: EvictReason,
        now_secs: u64,
    ) -> bool {
        let Some(delete) = self.evict(id, reason, now_secs) else { return false };
        self.deletes.push(delete);
        true
    }

    /// A stored block failed its checks: it is counted, forgotten, and its file set aside.
    pub(crate) fn discard_damaged(&mut self, id: &BlockId, damage: Damage, now_secs: u64) -> bool {
        let was_stored = self.discard_stored(id, EvictReason::Corrupt, now_secs);
        if was_stored {
            self.counters.verify_failure(damage);
            self.evictions.note(*id, Departure::Damaged(damage));
        }
        was_stored
    }

    /// Forgets a block in every tier. Its save, if it is queued, is then not current any more.
    pub(crate) fn discard(&mut self, id: &BlockId, reason: EvictReason, now_secs: u64) {
        if self.discard_stored(id, reason, now_secs) {
            return;
        }
        if self.blocks.contains(id) {
            self.evictions.note(*id, Departure::Evicted(reason));
        }
        self.blocks.leave_disk(id);
        self.leave_ram(id, now_secs);
    }

    /// Queues the removal of blocks last used before `limit_secs`, ends of chains first.
    pub(crate) fn expire(&mut self, limit_secs: u64, now_secs: u64) {
        loop {
            let is_old = |id: &BlockId| {
                let block = self.blocks.get(id);
                block.is_some_and(|b| b.on_disk == OnDisk::Stored && b.used_secs < limit_secs)
            };
            let ids = self.blocks.by_age();
            let expired: Vec<_> =
                ids.into_iter().filter(|id| self.blocks.is_leaf(id) && is_old(id)).collect();
            if expired.is_empty() {
                return;
            }
            expired.iter().for_each(|id| self.discard(id, EvictReason::Ttl, now_secs));
        }
    }

    // ---- what is found on disk ---------------------------------------------------------------

    /// Makes room in the tables for this many more blocks on disk.
    pub(crate) fn reserve(&mut self, additional: usize) {
        self.blocks.reserve(additional);
    }

    /// Takes in a block found on disk, in the index or by a scan. False when it is stored already,
    /// or queued to be.
    pub(crate) fn adopt(&mut self, stored: &Stored) -> bool {
        let id = BlockId { space: self.space(&stored.namespace), key: stored.key };
        let is_new = self.blocks.add_found(id, stored);
        if is_new {
            self.ledger.found(Some(id.space), stored.physical);
        }
        is_new
    }

    /// Takes back what [`State::adopt`] took in.
    pub(crate) fn forget_stored(&mut self, id: &BlockId) {
        if let Some(block) = self.blocks.get(id) {
            self.ledger.gone(Some(id.space), block.physical);
            self.blocks.leave_disk(id);
        }
    }

    /// A stored block's file turned out not to be there.
    pub(crate) fn lost(&mut self, id: &BlockId) {
        let block = self.blocks.get(id).filter(|block| block.on_disk == OnDisk::Stored);
        let Some(block) = block else { return };
        self.ledger.gone(Some(id.space), block.physical);
        self.counters.discard_block();
        self.evictions.note(*id, Departure::Lost);
        self.blocks.leave_disk(id);
    }

    /// Corrects what a stored block occupies; returns how far the block is on its way to disk.
    pub(crate) fn recount(&mut self, id: &BlockId, physical: u64) -> Option<OnDisk> {
        let block = self.blocks.get(id)?;
        let (on_disk, before) = (block.on_disk, block.physical);
        if on_disk == OnDisk::Stored && physical != before {
            self.ledger.gone(Some(id.space), before);
            self.ledger.found(Some(id.space), physical);
            self.blocks.set_physical(id, physical);
        }
        Some(on_disk)
    }

    /// What the index says of a stored block.
    pub(crate) fn stored(&self, id: &BlockId) -> Option<Stored> {
        let block = self.blocks.get(id).filter(|block| block.on_disk == OnDisk::Stored)?;
        Some(Stored {
            namespace: self.namespace(id)?,
            key: id.key,
            parent: block.parent,
            kind: block.kind,
            uses: self.blocks.uses(id),
            file_len: block.file_len,
            physical: block.physical,
            used_secs: block.used_secs,
        })
    }

    // ---- what there is to do, and to tell ----------------------------------------------------

    /// True while the writer has something to do now.
    pub(crate) fn writer_has_work(&self) -> bool {
        let may_save = self.activity.has_scanned() && !self.saves.is_empty();
        may_save || self.activity.is_scanning() || !self.deletes.is_empty()
    }

    /// True when nothing is queued or under way.
    pub(crate) fn is_settled(&self) -> bool {
        let is_waiting = !self.saves.is_empty() || !self.reads.is_empty() || self.writer_has_work();
        let is_running =
            self.activity.is_writing() || self.reads.is_reading() || !self.activity.has_scanned();
        !is_waiting && !is_running
    }

    /// The number of pieces of waiting work: reads, removals, saves.
    pub(crate) fn queue_depth(&self) -> [u64; 3] {
        [self.reads.len() as u64, self.deletes.len() as u64, self.saves.len() as u64]
    }

    /// Bytes of the waiting work: reads, removals, saves.
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

    #[test]
    fn namespaces_that_hold_nothing_do_not_add_up() {
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
