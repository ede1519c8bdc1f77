//! Which blocks there are, in which tier, and in which order they leave each.

use super::block::{Block, OnDisk};
use super::chain::ChainLru;
use super::ram_tier::RamTier;
use crate::key::{BlockId, IdHash, Key};
use crate::layout::index::Stored;
use crate::record::{MappedBlock, Resident};
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// Every block that the store knows. Every method keeps these invariants:
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

    /// Makes room for this many more blocks on disk.
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

    /// Every block, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&BlockId, &Block)> {
        self.blocks.iter()
    }

    /// True for a block that is stored, or queued to be.
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

    /// True when no block that is queued or stored names this one as its parent.
    pub(crate) fn is_leaf(&self, id: &BlockId) -> bool {
        self.disk_order.is_leaf(id)
    }

    /// The uses on record, which let a block outlive others in the order of eviction.
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

    /// Adds a block whose file was found on disk; a copy in the RAM tier, put before the file was
    /// found, stays. False when the block is queued or stored already.
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

    /// Makes a block the most recently used in both tiers.
    pub(super) fn touch(&mut self, id: &BlockId, now_secs: u64) -> Option<&Block> {
        let block = self.blocks.get_mut(id)?;
        block.used_secs = now_secs;
        self.disk_order.touch(id, false);
        self.ram.touch(id);
        Some(block)
    }

    /// As [`BlockTable::touch`], for a reader, who does not have to be awaited any more. Also returns
    /// the seconds since the use before.
    pub(super) fn read(&mut self, id: &BlockId, now_secs: u64) -> Option<(u64, &Block)> {
        let block = self.blocks.get_mut(id)?;
        let gap_secs = block.idle_secs(now_secs);
        block.used_secs = now_secs;
        block.awaited_until = 0;
        self.disk_order.touch(id, false);
        self.ram.touch(id);
        Some((gap_secs, block))
    }

    /// How many of `keys`, from the first, are in the table as one chain, and how many of those are
    /// in memory. Counts a use of each.
    pub(super) fn use_chain(&mut self, space: u32, keys: &[Key], now_secs: u64) -> (usize, usize) {
        let (mut matched, mut in_memory) = (0, 0);
        let mut before: Option<Key> = None;
        for &key in keys {
            let id = BlockId { space, key };
            let Some(block) = self.blocks.get_mut(&id) else { break };
            if before.is_some() && block.parent != before {
                break;
            }
            block.used_secs = now_secs;
            in_memory += usize::from(block.resident.is_some());
            self.disk_order.touch(&id, true);
            self.ram.touch(&id);
            matched += 1;
            before = Some(key);
        }
        (matched, in_memory)
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

    /// Queues a block of the RAM tier to be written. False when it is queued or stored already.
    pub(super) fn queue(&mut self, id: &BlockId) -> bool {
        let Some(block) = self.blocks.get_mut(id).filter(|block| block.on_disk == OnDisk::No)
        else {
            return false;
        };
        block.on_disk = OnDisk::Queued;
        self.disk_order.insert(*id, block.parent, 0);
        true
    }

    /// A queued block was written. Its copy joins the RAM tier when there is `room` for it, and
    /// stays when it was there before.
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

    /// Takes a block out of the RAM tier. The copy goes, unless the block is queued, and so does
    /// the block if it is not for disk either.
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

    /// A block is no longer on disk, nor on its way there. It goes, unless it is in the RAM tier.
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

    // ---- choosing what goes ------------------------------------------------------------------

    /// The next block to leave the RAM tier that `may_go` does not refuse.
    pub(super) fn ram_victim(
        &mut self,
        may_go: impl Fn(&BlockId, &Block) -> bool,
    ) -> Option<BlockId> {
        let blocks = &self.blocks;
        self.ram.victim(|id| blocks.get(id).is_some_and(|block| may_go(id, block)))
    }

    /// The next stored block to be evicted that `may_go` does not refuse.
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
    use crate::key::{Kind, Namespace};
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
                    _ => drop(table.use_chain(0, &[id.key], 2)),
                }
                check(&table);
            }
        }
    }
}
