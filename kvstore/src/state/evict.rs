//! Eviction: from the RAM tier, from disk, or from both.

use super::State;
use super::block::{Block, OnDisk};
use super::delete_queue::Delete;
use super::eviction_log::Departure;
use crate::key::BlockId;
use crate::layout::Damage;
use crate::stats::{EvictReason, Tier};

impl State {
    /// Shrinks the RAM tier until `bytes` more fit its budget. Blocks that were read ahead and not
    /// used yet stay: otherwise a chain longer than the tier would evict its own blocks before
    /// their use.
    pub(crate) fn make_ram_room(&mut self, bytes: u64, now_secs: u64) -> bool {
        while !self.blocks.ram().has_room(bytes) {
            if bytes > self.blocks.ram().budget() || !self.demote_one(now_secs, false) {
                return false;
            }
        }
        true
    }

    /// Changes the budget of the RAM tier. Blocks in use stay until they are released.
    pub(crate) fn set_ram_budget(&mut self, bytes: u64, now_secs: u64) {
        self.blocks.set_ram_budget(bytes);
        while !self.blocks.ram().has_room(0) && self.demote_one(now_secs, true) {}
    }

    /// Removes the least useful block from the RAM tier. Pinned blocks and blocks in use stay:
    /// evicting a block that a guard uses would free no memory.
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

    /// Drops the copy in the RAM tier, and forgets the block if it is in no other tier.
    fn leave_ram(&mut self, id: &BlockId, now_secs: u64) {
        if let Some(block) = self.blocks.get(id).filter(|_| self.blocks.is_in_ram(id)) {
            let (lifetime, idle) = (block.lifetime_secs(now_secs), block.idle_secs(now_secs));
            self.counters.left(id, Tier::Ram, lifetime, idle);
            self.blocks.leave_ram(id);
        }
    }

    /// Chooses the next block to evict from disk and forgets its file.
    pub(crate) fn evict_one(&mut self, now_secs: u64) -> Option<Delete> {
        let pins = &self.pins;
        let id = self.blocks.disk_victim(|id| !pins.contains(id))?;
        self.evict(&id, EvictReason::Quota, now_secs)
    }

    /// Forgets the file of a stored block; the caller must remove the file. If the reason is the
    /// quota, a copy in the RAM tier may stay; for any other reason the copy is dropped too.
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

    /// Forgets a stored block and queues the removal of its file. Returns false if it is not
    /// stored.
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

    /// Counts and forgets a stored block that failed its checks, and queues its file to be set
    /// aside.
    pub(crate) fn discard_damaged(&mut self, id: &BlockId, damage: Damage, now_secs: u64) -> bool {
        let was_stored = self.discard_stored(id, EvictReason::Corrupt, now_secs);
        if was_stored {
            self.counters.verify_failure(damage);
            self.evictions.note(*id, Departure::Damaged(damage));
        }
        was_stored
    }

    /// Forgets a block in every tier. A queued save of it is no longer current.
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
}
