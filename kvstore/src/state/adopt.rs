//! What is found on disk, in the index or by a scan.

use super::State;
use super::block::OnDisk;
use super::eviction_log::Departure;
use crate::key::BlockId;
use crate::layout::index::Stored;

impl State {
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
}
