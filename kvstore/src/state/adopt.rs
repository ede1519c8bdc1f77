//! Adds and corrects blocks that are found on disk, in the index or by a scan.

use super::State;
use super::block::OnDisk;
use super::eviction_log::Departure;
use crate::key::BlockId;
use crate::layout::index::Stored;

impl State {
    /// Reserves space in the tables for `additional` more blocks on disk.
    pub(crate) fn reserve(&mut self, additional: usize) {
        self.blocks.reserve(additional);
    }

    /// Adds a block found on disk, in the index or by a scan. Returns false when it is already
    /// stored or queued.
    pub(crate) fn adopt(&mut self, stored: &Stored) -> bool {
        let id = BlockId { space: self.space(&stored.namespace), key: stored.key };
        let is_new = self.blocks.add_found(id, stored);
        if is_new {
            self.ledger.found(Some(id.space), stored.physical);
        }
        is_new
    }

    /// Undoes [`State::adopt`].
    pub(crate) fn forget_stored(&mut self, id: &BlockId) {
        if let Some(block) = self.blocks.get(id) {
            self.ledger.gone(Some(id.space), block.physical);
            self.blocks.leave_disk(id);
        }
    }

    /// Forgets a stored block whose file is missing.
    pub(crate) fn lost(&mut self, id: &BlockId) {
        let block = self.blocks.get(id).filter(|block| block.on_disk == OnDisk::Stored);
        let Some(block) = block else { return };
        self.ledger.gone(Some(id.space), block.physical);
        self.counters.discard_block();
        self.evictions.note(*id, Departure::Lost);
        self.blocks.leave_disk(id);
    }

    /// Corrects the physical size of a stored block. Returns the block's state on disk.
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

    /// Returns a stored block as it is written to the index.
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
