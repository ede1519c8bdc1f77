//! Calls for administration: list the blocks, verify them, remove them.

use crate::core::Core;
use crate::disk;
use crate::key::{BlockId, Key, Kind, Namespace};
use crate::read::{LoadError, verify};
use crate::state::State;
use crate::state::block::OnDisk;
use crate::state::eviction_log::Departure;
use crate::stats::{EvictReason, Op};
use crate::store::Store;
use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;

/// One block, as [`Store::list`] shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its key.
    pub key: Key,
    /// The key of the block before it in its chain.
    pub parent: Option<Key>,
    /// The kind of data in it.
    pub kind: Kind,
    /// It is in the RAM tier.
    pub in_ram: bool,
    /// It is waiting to be written, or being written.
    pub queued: bool,
    /// It is published on disk.
    pub on_disk: bool,
    /// Bytes on the medium.
    pub physical_bytes: u64,
    /// When it was last used, in seconds since 1970.
    pub used_secs: u64,
}

/// Where a block is, or why it is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockLocation {
    /// It is stored.
    Here(BlockInfo),
    /// It was stored, or handed to the store, recently and is missing for this reason.
    Gone(Departure),
    /// It was never stored, or the store no longer remembers it.
    Unknown,
}

/// The result of a removal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    /// Number of blocks removed, in any tier.
    pub blocks: u64,
    /// Bytes of their files, which will be free soon.
    pub physical_bytes: u64,
}

/// Progress and result of verifying all blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Number of blocks to verify.
    pub total: u64,
    /// Number of blocks verified so far.
    pub done: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Number of blocks that failed their checks and were set aside.
    pub damaged: u64,
    /// Number of blocks that could not be read. They were set aside too, unless the error was
    /// temporary.
    pub unreadable: u64,
}

impl Store {
    /// Lists every block, or every block of one namespace: first the blocks on disk, least recently
    /// used first, then those in memory only.
    pub fn list(&self, namespace: Option<&Namespace>) -> Vec<BlockInfo> {
        let state = self.core().state();
        let ids = ids(&state, namespace);
        ids.into_iter().filter_map(|id| info(&state, &id)).collect()
    }

    /// Reads and verifies every block on disk. Blocks that fail are set aside. `progress` is called
    /// after each block and may stop the run.
    pub fn verify(
        &self,
        mut progress: impl FnMut(&VerifyReport) -> ControlFlow<()>,
    ) -> VerifyReport {
        let core = self.core();
        let ids: Vec<_> = {
            let state = core.state();
            ids(&state, None).into_iter().filter(|id| state.blocks.is_stored(id)).collect()
        };
        let mut report = VerifyReport { total: ids.len() as u64, ..VerifyReport::default() };
        for id in ids {
            core.yield_to_restores();
            core.verify_one(&id, &mut report);
            report.done += 1;
            if progress(&report).is_break() {
                break;
            }
        }
        core.wake.notify_all();
        report
    }

    /// Returns where a block is, or why it is missing; meant to explain cache misses. The call
    /// reads no disk and does not count as a use of the block.
    pub fn locate(&self, namespace: &Namespace, key: &Key) -> BlockLocation {
        let state = self.core().state();
        let Some(id) = state.id(namespace, key) else { return BlockLocation::Unknown };
        match (info(&state, &id), state.departure(&id)) {
            (Some(info), _) => BlockLocation::Here(info),
            (None, Some(departure)) => BlockLocation::Gone(departure),
            (None, None) => BlockLocation::Unknown,
        }
    }

    /// Removes every block, in memory and on disk, and the damaged files; or only the blocks of one
    /// namespace. Live guards keep their bytes. Files are removed in the background;
    /// [`Store::flush`] waits for that.
    pub fn clear(&self, namespace: Option<&Namespace>) -> Cleared {
        let cleared = self.remove(namespace, EvictReason::Manual);
        if namespace.is_none() {
            let mut writer = self.core().writer.lock();
            // Damaged files that are waiting to be set aside are removed instead.
            self.core().state().deletes.set_nothing_aside();
            while writer.remove_damaged(self.core()) {}
        }
        cleared
    }

    /// Removes every block from the RAM tier that is neither in use nor pinned, and returns their
    /// number. Blocks that are not on disk or queued for it are lost.
    pub fn demote_all(&self) -> usize {
        let core = self.core();
        let now_secs = core.now_secs();
        let mut state = core.state();
        std::iter::from_fn(|| state.demote_one(now_secs, true).then_some(())).count()
    }

    /// Removes the blocks of a namespace that is no longer used.
    pub fn remove_namespace(&self, namespace: &Namespace) -> Cleared {
        self.remove(Some(namespace), EvictReason::ModelRemoved)
    }

    /// Removes a block that its user rejects although it passed every check here, and all blocks
    /// below it in the tree of chains, of any kind. It may be put again at once.
    pub fn invalidate(&self, namespace: &Namespace, key: &Key) -> Cleared {
        let core = self.core();
        let (id, links) = {
            let state = core.state();
            let Some(id) = state.id(namespace, key) else { return Cleared::default() };
            let of_space = state.blocks.iter().filter(|(other, _)| other.space == id.space);
            let links: Vec<_> =
                of_space.filter_map(|(other, block)| Some((block.parent?, *other))).collect();
            (id, links)
        };
        let mut children: HashMap<Key, Vec<BlockId>> = HashMap::new();
        links.into_iter().for_each(|(above, id)| children.entry(above).or_default().push(id));
        // A block that names itself or a descendant as its parent cannot loop for ever: the
        // children are taken out of the map the first time.
        let mut ids = vec![id];
        let mut at = 0;
        while let Some(id) = ids.get(at) {
            ids.extend(children.remove(&id.key).unwrap_or_default());
            at += 1;
        }
        ids.reverse();
        let cleared = self.discard_all(&ids, EvictReason::Manual);
        core.state().counters.invalidate(cleared.blocks);
        cleared
    }

    fn remove(&self, namespace: Option<&Namespace>, reason: EvictReason) -> Cleared {
        let ids = ids(&self.core().state(), namespace);
        self.discard_all(&ids, reason)
    }

    fn discard_all(&self, ids: &[BlockId], reason: EvictReason) -> Cleared {
        let core = self.core();
        let now = core.now_secs();
        let mut cleared = Cleared::default();
        let mut state = core.state();
        for id in ids {
            let Some(block) = state.blocks.get(id) else { continue };
            cleared.blocks += 1;
            if block.on_disk == OnDisk::Stored {
                cleared.physical_bytes += block.physical;
            }
            state.discard(id, reason, now);
        }
        drop(state);
        core.wake.notify_all();
        cleared
    }
}

fn ids(state: &State, namespace: Option<&Namespace>) -> Vec<BlockId> {
    let mut ids = state.blocks.by_age();
    let on_disk = ids.len();
    let ids_of_ram = state.blocks.iter().map(|(id, _)| *id);
    ids.extend(ids_of_ram.filter(|id| !state.blocks.is_for_disk(id)));
    ids[on_disk..].sort_unstable();
    ids.retain(|id| namespace.is_none_or(|namespace| state.namespace(id) == Some(*namespace)));
    ids
}

fn info(state: &State, id: &BlockId) -> Option<BlockInfo> {
    let block = state.blocks.get(id)?;
    Some(BlockInfo {
        namespace: state.namespace(id)?,
        key: id.key,
        parent: block.parent,
        kind: block.kind,
        in_ram: block.resident.is_some(),
        queued: block.on_disk == OnDisk::Queued,
        on_disk: block.on_disk == OnDisk::Stored,
        physical_bytes: block.physical,
        used_secs: block.used_secs,
    })
}

impl Core {
    fn verify_one(&self, id: &BlockId, report: &mut VerifyReport) {
        // The block was evicted meanwhile, and its namespace with it, which is not a failure.
        let Some(namespace) = self.state().namespace(id) else { return };
        let result = verify(&*self.disk, namespace, id.key);
        let now = self.now_secs();
        let mut state = self.state();
        match result {
            Ok(bytes) => report.bytes += bytes,
            Err(LoadError::Damaged(damage)) => {
                report.damaged += u64::from(state.discard_damaged(id, damage, now));
            }
            Err(LoadError::Io(error)) => {
                // The block was evicted meanwhile, which is not a failure.
                if !state.blocks.is_stored(id) {
                    return;
                }
                state.counters.io_error(Op::Read, &error);
                report.unreadable += 1;
                if error.kind() == io::ErrorKind::NotFound {
                    state.lost(id);
                } else if !disk::is_transient(&error) {
                    // The file is missing or unreadable, so the block is dropped, as a read would
                    // do.
                    state.discard_stored(id, EvictReason::Corrupt, now);
                }
            }
            Err(_) => report.unreadable += 1,
        }
    }
}
