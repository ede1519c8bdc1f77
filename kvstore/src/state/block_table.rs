//! The known blocks, the tiers they are in, and the order of eviction.

use super::block::{Block, OnDisk};
use super::chain::ChainLru;
use super::ram_tier::RamTier;
use crate::key::{BlockId, IdHash};
use crate::layout::index::Stored;
use crate::record::{MappedBlock, Resident};
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// Every block that the store knows. All methods keep these invariants:
///
/// - a block is in `disk_order` exactly while it is queued or stored;
/// - a block has a copy in memory exactly while it is queued or in the RAM tier;
/// - a block that is neither queued, stored nor in the RAM tier is not in the table;
/// - the RAM tier counts the memory of exactly the blocks in it.
#[derive(Debug)]
pub(crate) struct BlockTable {
    blocks: HashMap<BlockId, Block, IdHash>,
    /// Queued and stored blocks, in the order of eviction.
    disk_order: ChainLru,
    ram: RamTier,
}

impl BlockTable {
    pub(super) fn new(ram_budget: u64) -> BlockTable {
        BlockTable {
            blocks: HashMap::default(),
            disk_order: ChainLru::default(),
            ram: RamTier::new(ram_budget),
        }
    }

    /// Reserves space for `additional` more blocks on disk.
    pub(super) fn reserve(&mut self, additional: usize) {
        self.blocks.reserve(additional);
        self.disk_order.reserve(additional);
    }

    // ---- looking -----------------------------------------------------------------------------

    pub(crate) fn get(&self, id: &BlockId) -> Option<&Block> {
        self.blocks.get(id)
    }

    pub(crate) fn contains(&self, id: &BlockId) -> bool {
        self.blocks.contains_key(id)
    }

    /// Every block, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&BlockId, &Block)> {
        self.blocks.iter()
    }

    /// True for a block that is stored or queued.
    pub(crate) fn is_for_disk(&self, id: &BlockId) -> bool {
        self.disk_order.contains(id)
    }

    pub(crate) fn is_stored(&self, id: &BlockId) -> bool {
        self.blocks.get(id).is_some_and(|block| block.on_disk == OnDisk::Stored)
    }

    pub(crate) fn is_in_ram(&self, id: &BlockId) -> bool {
        self.ram.contains(id)
    }

    /// Queued and stored blocks, least recently used first.
    pub(crate) fn by_age(&self) -> Vec<BlockId> {
        self.disk_order.by_age()
    }

    /// True when no queued or stored block names this one as its parent.
    pub(crate) fn is_leaf(&self, id: &BlockId) -> bool {
        self.disk_order.is_leaf(id)
    }

    /// Number of recorded uses, which keep a block longer in the order of eviction.
    pub(crate) fn uses(&self, id: &BlockId) -> u8 {
        self.disk_order.uses(id)
    }

    pub(crate) fn ram(&self) -> &RamTier {
        &self.ram
    }

    // ---- adding ------------------------------------------------------------------------------

    /// Adds a new block that waits to be written.
    pub(super) fn add_queued(&mut self, id: BlockId, resident: &Arc<Resident>, now_secs: u64) {
        let block = Block { on_disk: OnDisk::Queued, ..Block::new(resident, now_secs) };
        self.disk_order.insert(id, block.parent, 0);
        self.blocks.insert(id, block);
    }

    /// Adds a new block to the RAM tier only.
    pub(super) fn add_to_ram(&mut self, id: BlockId, resident: &Arc<Resident>, now_secs: u64) {
        self.ram.insert(id, resident.parent, resident.memory_len());
        self.blocks.insert(id, Block::new(resident, now_secs));
    }

    /// Adds a block whose file was found on disk. A copy that is already in the RAM tier stays.
    /// Returns false when the block is already queued or stored.
    pub(super) fn add_found(&mut self, id: BlockId, stored: &Stored) -> bool {
        if self.is_for_disk(&id) {
            return false;
        }
        let mut block = Block::found(stored);
        block.resident = self.blocks.get(&id).and_then(|known| known.resident.clone());
        self.disk_order.insert(id, block.parent, stored.uses);
        self.blocks.insert(id, block);
        true
    }

    // ---- using -------------------------------------------------------------------------------

    /// Makes a block the most recently used in both tiers. With `used`, also counts a use on disk.
    pub(super) fn touch(&mut self, id: &BlockId, now_secs: u64, used: bool) {
        if let Some(block) = self.blocks.get_mut(id) {
            block.used_secs = now_secs;
            self.disk_order.touch(id, used);
            self.ram.touch(id);
        }
    }

    pub(super) fn set_awaited_until(&mut self, id: &BlockId, secs: u64) {
        if let Some(block) = self.blocks.get_mut(id) {
            block.awaited_until = secs;
        }
    }

    /// Lets later readers share the mapping of a stored block.
    pub(super) fn share_mapping(&mut self, id: &BlockId, mapped: &Arc<MappedBlock>) {
        if let Some(block) = self.blocks.get_mut(id) {
            block.mapped = Arc::downgrade(mapped);
        }
    }

    // ---- moving between the tiers ------------------------------------------------------------

    /// Queues a block of the RAM tier to be written. Returns false when it is already queued or
    /// stored.
    pub(super) fn queue(&mut self, id: &BlockId) -> bool {
        let Some(block) = self.blocks.get_mut(id).filter(|block| block.on_disk == OnDisk::No)
        else {
            return false;
        };
        block.on_disk = OnDisk::Queued;
        self.disk_order.insert(*id, block.parent, 0);
        true
    }

    /// Records that a queued block was written. Its copy stays in the RAM tier if it was there
    /// before, and joins it if there is `room`.
    pub(super) fn stored(&mut self, id: &BlockId, physical: u64, room: bool) {
        let Some(block) = self.blocks.get_mut(id) else { return };
        block.on_disk = OnDisk::Stored;
        block.physical = physical;
        if self.ram.contains(id) {
            return;
        }
        match &block.resident {
            Some(copy) if room => self.ram.insert(*id, block.parent, copy.memory_len()),
            _ => block.resident = None,
        }
    }

    /// Puts a copy of a stored block into the RAM tier.
    pub(super) fn join_ram(&mut self, id: &BlockId, copy: &Arc<Resident>) {
        let Some(block) = self.blocks.get_mut(id).filter(|block| block.resident.is_none()) else {
            return;
        };
        block.resident = Some(Arc::clone(copy));
        self.ram.insert(*id, block.parent, copy.memory_len());
    }

    /// Removes a block from the RAM tier. Its copy is dropped unless the block is queued. A block
    /// that is neither queued nor stored is forgotten.
    pub(super) fn leave_ram(&mut self, id: &BlockId) {
        if !self.ram.contains(id) {
            return;
        }
        let Some(block) = self.blocks.get_mut(id) else { return };
        self.ram.remove(id, block.resident.as_ref().map_or(0, |copy| copy.memory_len()));
        match block.on_disk {
            OnDisk::No => drop(self.blocks.remove(id)),
            OnDisk::Queued => {}
            OnDisk::Stored => block.resident = None,
        }
    }

    /// Records that a block is neither on disk nor queued. It is forgotten unless it is in the RAM
    /// tier.
    pub(super) fn leave_disk(&mut self, id: &BlockId) {
        self.disk_order.remove(id);
        if !self.ram.contains(id) {
            self.blocks.remove(id);
        } else if let Some(block) = self.blocks.get_mut(id) {
            block.on_disk = OnDisk::No;
            block.mapped = Weak::new();
        }
    }

    pub(super) fn set_physical(&mut self, id: &BlockId, physical: u64) {
        if let Some(block) = self.blocks.get_mut(id) {
            block.physical = physical;
        }
    }

    pub(super) fn set_ram_budget(&mut self, bytes: u64) {
        self.ram.set_budget(bytes);
    }

    // ---- choosing what to evict ----------------------------------------------------------------

    /// Returns the next block to leave the RAM tier among those for which `may_go` is true.
    pub(super) fn ram_victim(
        &mut self,
        may_go: impl Fn(&BlockId, &Block) -> bool,
    ) -> Option<BlockId> {
        let blocks = &self.blocks;
        self.ram.victim(|id| blocks.get(id).is_some_and(|block| may_go(id, block)))
    }

    /// Returns the next stored block to evict among those for which `may_go` is true.
    pub(super) fn disk_victim(&mut self, may_go: impl Fn(&BlockId) -> bool) -> Option<BlockId> {
        let blocks = &self.blocks;
        self.disk_order.victim(|id| {
            let stored = blocks.get(id).is_some_and(|block| block.on_disk == OnDisk::Stored);
            stored && may_go(id)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::MemoryGauge;
    use crate::key::{Key, Kind, Namespace};
    use crate::record::RecordShape;
    use proptest::prelude::*;

    fn id(n: u8) -> BlockId {
        BlockId { space: 0, key: Key([n; 32]) }
    }

    fn parent(n: u8) -> Option<Key> {
        n.checked_sub(1).map(|n| Key([n; 32]))
    }

    fn resident(n: u8) -> Arc<Resident> {
        let len = usize::from(n) + 1;
        let shape = RecordShape {
            kind: Kind::Kv,
            key: id(n).key,
            parent: parent(n),
            witness: &[],
            part_lens: &[len],
        };
        let share = MemoryGauge::new(1 << 20).reserve(len as u64).expect("within the limit");
        let layout = shape.layout().expect("within the limits");
        Arc::new(Resident::blank(&shape, layout, share).expect("memory"))
    }

    fn found(n: u8) -> Stored {
        Stored {
            namespace: Namespace([0; 32]),
            key: id(n).key,
            parent: parent(n),
            kind: Kind::Kv,
            uses: n % 3,
            file_len: 100,
            physical: 4096,
            used_secs: 0,
        }
    }

    fn check(table: &BlockTable) {
        let mut ram_bytes = 0;
        for (id, block) in table.iter() {
            let in_ram = table.is_in_ram(id);
            assert_eq!(table.is_for_disk(id), block.on_disk != OnDisk::No);
            assert_eq!(block.resident.is_some(), in_ram || block.on_disk == OnDisk::Queued);
            assert!(in_ram || table.is_for_disk(id));
            let copy = block.resident.as_ref().filter(|_| in_ram);
            ram_bytes += copy.map_or(0, |copy| copy.memory_len());
        }
        assert_eq!(table.ram().bytes(), ram_bytes);
        assert!(table.by_age().iter().all(|id| table.contains(id)));
    }

    proptest! {
        #[test]
        fn the_invariants_hold_whatever_happens(
            ops in prop::collection::vec((0u8..9, 0u8..6), 0..120),
        ) {
            let mut table = BlockTable::new(1 << 20);
            for (op, n) in ops {
                let id = id(n);
                match op {
                    0 if !table.contains(&id) => table.add_queued(id, &resident(n), 1),
                    1 if !table.contains(&id) => table.add_to_ram(id, &resident(n), 1),
                    2 => drop(table.add_found(id, &found(n))),
                    3 => drop(table.queue(&id)),
                    4 if table.is_for_disk(&id) && !table.is_stored(&id) => {
                        table.stored(&id, 4096, n.is_multiple_of(2));
                    }
                    5 if table.is_stored(&id) => table.join_ram(&id, &resident(n)),
                    6 => table.leave_ram(&id),
                    7 => table.leave_disk(&id),
                    _ => table.touch(&id, 2, true),
                }
                check(&table);
            }
        }
    }
}
