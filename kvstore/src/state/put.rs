//! State changes of a block from `put` until it is saved or dropped.

use super::State;
use super::block::OnDisk;
use super::save_queue::Save;
use crate::buffer::MemoryShare;
use crate::key::{BlockId, Key};
use crate::record::{PutOutcome, Resident};
use crate::stats::DropReason;
use std::sync::Arc;
use std::time::Duration;

impl State {
    /// Checks that the parent of a block is stored or queued. A block is written only in that case,
    /// so that no chain on disk has a gap.
    pub(crate) fn check_parent(&self, id: &BlockId, parent: Option<Key>) -> Result<(), DropReason> {
        let Some(key) = parent else { return Ok(()) };
        let parent = BlockId { key, ..*id };
        if self.blocks.is_for_disk(&parent) {
            return Ok(());
        }
        Err(self.evictions.unsaved_reason(&parent).unwrap_or(DropReason::Admission))
    }

    /// Checks whether a block may be queued to be written.
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

    /// True when `id` has no parent, or its parent is in some tier.
    pub(crate) fn has_parent(&self, id: &BlockId, parent: Option<Key>) -> bool {
        parent.is_none_or(|key| self.blocks.contains(&BlockId { key, ..*id }))
    }

    /// Reserves memory for a block. Evicts blocks from the RAM tier if necessary.
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

    /// Counts a block as not saved, and remembers it so that its children are dropped too.
    pub(crate) fn drop_save(&mut self, id: BlockId, reason: DropReason) {
        self.counters.drop_block(reason);
        self.evictions.note_unsaved(id, reason);
    }

    /// Returns the outcome of a put whose block is already known, or `None` if it is new. A block
    /// that is in the RAM tier only is queued now if it may be saved.
    pub(crate) fn put_again(
        &mut self,
        id: &BlockId,
        now: Duration,
        now_secs: u64,
    ) -> Option<PutOutcome> {
        let block = self.blocks.touch(id, now_secs)?;
        let parent = block.parent;
        let resident = match &block.resident {
            Some(resident) if block.on_disk == OnDisk::No => Arc::clone(resident),
            _ => return Some(PutOutcome::AlreadyStored),
        };
        match self.may_save(id, parent, resident.memory_len(), now) {
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

    /// Adds a new block to the RAM tier only. Returns false when it does not fit.
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

    /// True while `save` is still valid: its block was neither removed nor replaced meanwhile.
    pub(crate) fn is_current(&self, save: &Save) -> bool {
        self.blocks.get(&save.id).is_some_and(|block| {
            block.on_disk == OnDisk::Queued
                && block.resident.as_ref().is_some_and(|own| Arc::ptr_eq(own, &save.resident))
        })
    }

    /// Ends a successful save: the block is on disk, and joins the RAM tier if there is space.
    pub(crate) fn saved(&mut self, save: &Save, physical: u64, now_secs: u64) {
        self.saves.finish(save);
        let Some(block) = self.blocks.get(&save.id) else { return };
        self.namespaces.count_write(save.id.space, block.kind, physical);
        let room = self.blocks.is_in_ram(&save.id)
            || self.make_ram_room(save.resident.memory_len(), now_secs);
        self.blocks.stored(&save.id, physical, room);
    }

    /// Ends a failed save: the block stays if it is in the RAM tier, and is forgotten otherwise.
    pub(crate) fn not_saved(&mut self, save: &Save, reason: DropReason) {
        self.saves.finish(save);
        if self.is_current(save) {
            self.drop_save(save.id, reason);
            self.blocks.leave_disk(&save.id);
        }
    }

    /// Marks the store as closing: no further block is saved.
    pub(crate) fn stop(&mut self) {
        self.activity.stop();
        while let Some(save) = self.saves.pop() {
            self.not_saved(&save, DropReason::Shutdown);
        }
    }
}
