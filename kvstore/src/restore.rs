//! The path of a hit: memory is tried first, then the disk. Every failure is a miss and leaves the
//! store consistent.

use crate::core::Core;
use crate::disk;
use crate::error::Miss;
use crate::guard::Guard;
use crate::key::BlockId;
use crate::paths;
use crate::read::{LoadError, Wanted, read_copy, read_mapped};
use crate::record::Bytes;
use crate::state::State;
use crate::state::find::Found;
use crate::stats::{EvictReason, Op, Tier};
use std::io;
use std::sync::Arc;

impl Core {
    /// Finds a block and compares its witness. Waits for the disk only if the block is stored
    /// there.
    pub(crate) fn get(self: &Arc<Self>, id: &BlockId, witness: &[u8]) -> Result<Guard, Miss> {
        let mut state = self.state();
        let (bytes, tier) = loop {
            match state.find(id, self.now_secs()) {
                Found::Here(bytes, tier) => {
                    drop(state);
                    break (self.checked(id, bytes, witness)?, tier);
                }
                Found::Cold(share) => {
                    drop(state);
                    let _claim = Claim { core: self, id };
                    break (self.restore(id, share, Some(witness))?, Tier::Disk);
                }
                Found::Busy => state = self.done.wait(state),
                Found::Missing => {
                    state.counters.miss();
                    return Err(Miss::NotStored);
                }
            }
        };
        self.state().counters.hit(tier);
        Ok(Guard { bytes, tier, id: *id, core: Arc::downgrade(self) })
    }

    /// Compares the witness of a block in memory. The block itself was verified when it was read.
    fn checked(&self, id: &BlockId, bytes: Bytes, witness: &[u8]) -> Result<Bytes, Miss> {
        if bytes.witness() != witness {
            self.state().counters.fail_witness();
            return Err(Miss::WitnessDiffers);
        }
        if !bytes.is_intact() {
            self.distrust(id, &bytes);
            return Err(Miss::Damaged(crate::layout::Damage::ShortRead));
        }
        Ok(bytes)
    }

    /// Reads a block into the RAM tier if it is stored, fits, and is not there yet.
    pub(crate) fn restore_ahead(&self, id: &BlockId) {
        let found = {
            let mut state = self.state();
            match state.blocks.get(id) {
                Some(block) if block.resident.is_none() && block.mapped.strong_count() == 0 => {
                    state.find(id, self.now_secs())
                }
                _ => return,
            }
        };
        let _claim = matches!(found, Found::Cold(_)).then_some(Claim { core: self, id });
        match found {
            Found::Cold(Some(share)) => {
                if self.restore(id, Some(share), None).is_ok() {
                    self.state().await_use(id, self.now_secs());
                }
            }
            Found::Cold(None) => {
                // A mapping that is not in use would be dropped at once. The system's cache may
                // keep the pages for the next reader, which will also see any failure.
                let namespace = self.state().namespace(id);
                if let Some(namespace) = namespace {
                    let _ = self.disk.read_ahead(&paths::block(&namespace, &id.key));
                }
                self.end_restore(id);
            }
            Found::Here(..) | Found::Busy | Found::Missing => {}
        }
    }

    fn end_restore(&self, id: &BlockId) {
        self.state().reads.release(id);
        self.done.notify_all();
    }

    /// Reads a block that this thread has claimed.
    fn restore(
        &self,
        id: &BlockId,
        share: Option<crate::buffer::MemoryShare>,
        witness: Option<&[u8]>,
    ) -> Result<Bytes, Miss> {
        let namespace = self.state().namespace(id);
        let Some(namespace) = namespace else {
            self.end_restore(id);
            return Err(Miss::NotStored);
        };
        let wanted = Wanted { namespace, key: id.key, witness };
        let started = self.clock.monotonic();
        let cipher = self.cipher.as_ref();
        let loaded = match share {
            Some(share) => read_copy(&*self.disk, cipher, &wanted, share).map(Bytes::Resident),
            None => match read_mapped(&*self.disk, cipher, &wanted) {
                Err(LoadError::NotMappable) => self.read_lent(id, &wanted),
                mapped => mapped.map(Bytes::Mapped),
            },
        };
        let now = self.now_secs();
        let mut state = self.state();
        let result = match loaded {
            Ok(bytes) => {
                let took = self.clock.monotonic() - started;
                state.counters.read(bytes.layout().file_len(), took);
                state.restored(id, &bytes, now);
                Ok(bytes)
            }
            Err(error) => {
                state.reads.release(id);
                Err(self.failed(&mut state, id, error, now))
            }
        };
        drop(state);
        self.done.notify_all();
        self.wake.notify_all();
        result
    }

    /// Reads a block that does not fit in the RAM tier into memory left over by the write queue.
    /// The memory belongs to the guard and is freed with it.
    fn read_lent(&self, id: &BlockId, wanted: &Wanted<'_>) -> Result<Bytes, LoadError> {
        let share = {
            let mut state = self.state();
            let len = state.blocks.get(id).map_or(0, |block| block.file_len);
            state.take_memory(len, self.now_secs()).ok_or(LoadError::NoMemory)?
        };
        read_copy(&*self.disk, self.cipher.as_ref(), wanted, share).map(Bytes::Resident)
    }

    /// Drops a block that failed to load, so that it cannot fail forever, unless the cause was a
    /// temporary shortage on our side.
    fn failed(&self, state: &mut State, id: &BlockId, error: LoadError, now_secs: u64) -> Miss {
        match error {
            LoadError::Damaged(damage) => {
                state.discard_damaged(id, damage, now_secs);
                Miss::Damaged(damage)
            }
            LoadError::WitnessDiffers => {
                state.counters.fail_witness();
                Miss::WitnessDiffers
            }
            LoadError::OtherSecrecy => {
                state.discard_stored(id, EvictReason::Manual, now_secs);
                Miss::NotStored
            }
            LoadError::NoMemory | LoadError::NotMappable => Miss::NoMemory,
            LoadError::Io(error) if disk::is_transient(&error) || disk::is_full(&error) => {
                state.counters.io_error(Op::Read, &error);
                Miss::NoMemory
            }
            LoadError::Io(error) => {
                if !state.discard_stored(id, EvictReason::Corrupt, now_secs)
                    && error.kind() == io::ErrorKind::NotFound
                {
                    // The block was evicted between the lookup and the read.
                    return Miss::NotStored;
                }
                state.counters.io_error(Op::Read, &error);
                Miss::Io
            }
        }
    }
}

/// Marks a block as being read by this thread while others wait. Dropping it, even in a panic, ends
/// their wait.
struct Claim<'a> {
    core: &'a Core,
    id: &'a BlockId,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.core.end_restore(self.id);
        }
    }
}
