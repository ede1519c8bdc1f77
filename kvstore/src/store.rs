//! The store's public interface.

use crate::buffer::MemoryShare;
use crate::config::{Clock, StoreConfig, SystemClock};
use crate::core::Core;
use crate::disk::Disk;
use crate::error::{Miss, OpenError};
use crate::guard::{Guard, Pin};
use crate::key::{BlockId, Key, Namespace};
use crate::layout::record::Layout;
use crate::platform::{Intent, set_intent};
use crate::real_disk::RealDisk;
use crate::record::{PutOutcome, Record, RecordShape, Resident, memory_len};
use crate::state::State;
use crate::stats::{DropReason, Stats};
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long an idle thread sleeps before it looks for work without being woken.
const IDLE: Duration = Duration::from_secs(1);

/// How long a thread pauses after a panic, so that repeated panics do not fill the log.
const PAUSE_AFTER_PANIC: Duration = Duration::from_secs(1);

/// Number of keys looked up before the lock is released for other threads.
const PROBE_BATCH: usize = 2048;

/// The stored part of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    /// Number of keys that are stored, from the first.
    pub blocks: usize,
    /// Number of those blocks that are in memory.
    pub in_ram: usize,
}

/// A store of blocks in memory and under one root folder.
#[derive(Debug)]
pub struct Store {
    core: Arc<Core>,
    threads: Vec<JoinHandle<()>>,
}

/// A block that was accepted, and the memory for it.
struct Admitted {
    id: BlockId,
    layout: Layout,
    share: MemoryShare,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("root", &self.disk.root()).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store at `config.root`, which is created if missing, and starts its threads.
    ///
    /// # Errors
    /// [`OpenError::Locked`] when another store holds the root; otherwise the problem with the
    /// folder, the key file or the limits. Damaged content is never an error.
    pub fn open(config: StoreConfig) -> Result<Store, OpenError> {
        let disk = Arc::new(RealDisk::open(&config.root)?);
        let mut store = Store::open_on(disk, Arc::new(SystemClock::default()), config)?;
        store.spawn("kvstore-write", Intent::Background, |core| {
            if !core.writer.lock().step(core) {
                let state = core.state();
                // Work that arrived since the first check is seen here.
                if !state.activity.is_stopping() && !state.writer_has_work() {
                    drop(core.wake.wait_for(state, IDLE));
                }
            }
        })?;
        for _ in 0..store.core.config.read_threads {
            store.spawn("kvstore-read", Intent::Restore, |core| {
                if !core.restore_next() {
                    let state = core.state();
                    if !state.activity.is_stopping() && state.reads.is_empty() {
                        drop(core.wake_reads.wait_for(state, IDLE));
                    }
                }
            })?;
        }
        Ok(store)
    }

    /// Opens a store on the given disk and clock, without threads: the caller runs [`Store::step`].
    ///
    /// # Errors
    /// Like [`Store::open`], except that the disk is responsible for locking.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        config: StoreConfig,
    ) -> Result<Store, OpenError> {
        Ok(Store { core: Arc::new(Core::open(disk, clock, config)?), threads: Vec::new() })
    }

    /// Starts a thread that calls `work` until the store closes. `work` must wait when there is
    /// none.
    fn spawn(&mut self, name: &str, intent: Intent, work: fn(&Core)) -> Result<(), OpenError> {
        let core = Arc::clone(&self.core);
        let body = move || {
            set_intent(intent);
            while !core.state().activity.is_stopping() {
                // A panic ends this task only; the thread continues, because other threads wait for
                // it.
                if catch_unwind(AssertUnwindSafe(|| work(&core))).is_err() {
                    std::thread::sleep(PAUSE_AFTER_PANIC);
                }
            }
        };
        let failed = |source| OpenError::Io { path: self.core.disk.root().into(), source };
        let thread = thread::Builder::new().name(name.into()).spawn(body).map_err(failed)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Runs one background task on this thread, the most urgent first: restore, delete, scan, save.
    /// Returns false when there was none.
    pub fn step(&self) -> bool {
        self.core.step()
    }

    /// Stores a block. The call copies the bytes, which takes time, and queues them to be written.
    /// A block is not written if its parent is not on disk, and not kept if its parent is in no
    /// tier, so that no chain has a gap.
    pub fn put(&self, namespace: &Namespace, record: &Record<'_>) -> PutOutcome {
        let part_lens: Vec<usize> = record.parts.iter().map(|part| part.len()).collect();
        let shape = RecordShape {
            kind: record.kind,
            key: record.key,
            parent: record.parent,
            witness: record.witness,
            part_lens: &part_lens,
        };
        let copied = self.put_with(namespace, &shape, |parts| {
            parts.iter_mut().zip(record.parts).for_each(|(to, from)| to.copy_from_slice(from));
            Ok::<(), Infallible>(())
        });
        match copied {
            Ok(outcome) => outcome,
            Err(never) => match never {},
        }
    }

    /// Like [`Store::put`], but `fill` writes the bytes directly into the store's memory. It gets
    /// one zeroed slice for each part, of the part's length, starting at a multiple of 16 KiB.
    ///
    /// `fill` is called at most once, on this thread and without a lock, and only if the block is
    /// accepted and there is memory for it. Until it returns, no reader can see the block.
    ///
    /// # Errors
    /// The error of `fill`. The block is then not kept and its memory is freed, as also after a
    /// panic.
    pub fn put_with<E>(
        &self,
        namespace: &Namespace,
        shape: &RecordShape<'_>,
        fill: impl FnOnce(&mut [&mut [u8]]) -> Result<(), E>,
    ) -> Result<PutOutcome, E> {
        let now = self.core.now_secs();
        let admitted = match self.admit(namespace, shape, now) {
            Ok(admitted) => admitted,
            Err(outcome) => return Ok(outcome),
        };
        let (id, layout) = (admitted.id, admitted.layout.clone());
        let Some(mut resident) = Resident::blank(shape, admitted.layout, admitted.share) else {
            self.core.state().drop_save(id, DropReason::QueueFull);
            return Ok(PutOutcome::Dropped(DropReason::QueueFull));
        };
        fill(&mut resident.parts_mut())?;
        Ok(self.insert(namespace, shape, &layout, resident, now))
    }

    /// Decides whether to accept a block, and reserves memory for it.
    fn admit(
        &self,
        namespace: &Namespace,
        shape: &RecordShape<'_>,
        now: u64,
    ) -> Result<Admitted, PutOutcome> {
        let mut state = self.core.state();
        let id = BlockId { space: state.space(namespace), key: shape.key };
        let Some(layout) = shape.layout() else {
            state.drop_save(id, DropReason::Admission);
            return Err(PutOutcome::Dropped(DropReason::Admission));
        };
        let memory = memory_len(&layout, shape.witness.len());
        if let Some(outcome) = self.put_again(&mut state, &id, now) {
            return Err(outcome);
        }
        if let Err(reason) = self.may_save(&state, &id, shape, &layout)
            && !(state.has_parent(&id, shape.parent) && state.make_ram_room(memory, now))
        {
            state.drop_save(id, reason);
            return Err(PutOutcome::Dropped(reason));
        }
        match state.take_memory(memory, now) {
            Some(share) => Ok(Admitted { id, layout, share }),
            None => {
                state.drop_save(id, DropReason::QueueFull);
                Err(PutOutcome::Dropped(DropReason::QueueFull))
            }
        }
    }

    /// Adds a block whose bytes are complete. Another thread may have added it in the meantime.
    fn insert(
        &self,
        namespace: &Namespace,
        shape: &RecordShape<'_>,
        layout: &Layout,
        resident: Resident,
        now: u64,
    ) -> PutOutcome {
        let mut state = self.core.state();
        // The namespace may have been forgotten meanwhile and may have a new number now.
        let id = BlockId { space: state.space(namespace), key: shape.key };
        if let Some(outcome) = self.put_again(&mut state, &id, now) {
            return outcome;
        }
        let resident = Arc::new(resident);
        let outcome = match self.may_save(&state, &id, shape, layout) {
            Ok(()) => {
                state.add_queued(id, resident, now);
                PutOutcome::Queued
            }
            Err(reason) => {
                state.drop_save(id, reason);
                if state.has_parent(&id, shape.parent) && state.add_to_ram(id, &resident, now) {
                    PutOutcome::RamOnly(reason)
                } else {
                    PutOutcome::Dropped(reason)
                }
            }
        };
        drop(state);
        self.core.wake.notify_all();
        outcome
    }

    fn put_again(&self, state: &mut State, id: &BlockId, now_secs: u64) -> Option<PutOutcome> {
        let outcome = state.put_again(id, self.core.clock.monotonic(), now_secs);
        if outcome == Some(PutOutcome::Queued) {
            self.core.wake.notify_all();
        }
        outcome
    }

    /// Checks whether a new block may be written.
    fn may_save(
        &self,
        state: &State,
        id: &BlockId,
        shape: &RecordShape<'_>,
        layout: &Layout,
    ) -> Result<(), DropReason> {
        if layout.file_len() > state.ledger.quota() {
            return Err(DropReason::Admission);
        }
        let memory = memory_len(layout, shape.witness.len());
        state.may_save(id, shape.parent, memory, self.core.clock.monotonic())
    }

    /// Returns the block with that key if its witness equals `witness`.
    ///
    /// # Errors
    /// Why there is no block to return. Recompute the block in every case.
    pub fn get(&self, namespace: &Namespace, key: &Key, witness: &[u8]) -> Result<Guard, Miss> {
        let id = self.core.state().id(namespace, key);
        match id {
            Some(id) => self.core.get(&id, witness),
            None => {
                self.core.state().counters.miss();
                Err(Miss::NotStored)
            }
        }
    }

    /// Returns how many of `keys`, from the first, are stored, each the parent of the next. Uses
    /// the tables in memory and touches no disk.
    pub fn longest_prefix(&self, namespace: &Namespace, keys: &[Key]) -> Prefix {
        let now = self.core.now_secs();
        let (blocks, in_ram) = self.core.state().longest_prefix(namespace, keys, now);
        Prefix { blocks, in_ram }
    }

    /// Returns which of `keys` are stored in any tier. Touches no disk, and does not count as a
    /// use.
    pub fn contains(&self, namespace: &Namespace, keys: &[Key]) -> Vec<bool> {
        let mut found = Vec::with_capacity(keys.len());
        for batch in keys.chunks(PROBE_BATCH) {
            let state = self.core.state();
            let space = state.find_space(namespace);
            let is_here = |&key: &Key| {
                space.is_some_and(|space| state.blocks.contains(&BlockId { space, key }))
            };
            found.extend(batch.iter().map(is_here));
        }
        found
    }

    /// Returns the first of `keys` that is stored in any tier. Touches no disk, and does not count
    /// as a use. The store is not locked while `keys` computes the next ones; it computes a few
    /// more keys than are looked up.
    pub fn first_stored(
        &self,
        namespace: &Namespace,
        keys: impl IntoIterator<Item = Key>,
    ) -> Option<Key> {
        let mut keys = keys.into_iter();
        // The first batch is short, because a match is often near the start.
        let mut len = 16;
        loop {
            let batch: Vec<Key> = keys.by_ref().take(len).collect();
            let found = self.contains(namespace, &batch);
            if let Some(at) = found.iter().position(|here| *here) {
                return Some(batch[at]);
            }
            if batch.len() < len {
                return None;
            }
            len = (2 * len).min(PROBE_BATCH);
        }
    }

    /// Starts reading blocks into the RAM tier, in this order, until it is full; for the others the
    /// system is told to read the files ahead.
    pub fn prefetch(&self, namespace: &Namespace, keys: &[Key]) {
        let Some(space) = self.core.state().find_space(namespace) else { return };
        self.core.queue_restores(keys.iter().map(|&key| BlockId { space, key }));
    }

    /// Keeps blocks from being evicted to free space. They may be put later.
    pub fn pin(&self, namespace: &Namespace, keys: &[Key]) -> Pin {
        let mut state = self.core.state();
        let space = state.space(namespace);
        let ids: Vec<_> = keys.iter().map(|&key| BlockId { space, key }).collect();
        ids.iter().for_each(|id| state.pins.add(*id));
        Pin { ids, core: Arc::downgrade(&self.core) }
    }

    /// The budget of the RAM tier, in bytes.
    pub fn ram_budget_bytes(&self) -> u64 {
        self.core.state().blocks.ram().budget()
    }

    /// The bytes in the RAM tier.
    pub fn ram_used_bytes(&self) -> u64 {
        self.core.state().blocks.ram().bytes()
    }

    /// Changes the budget of the RAM tier, up to the configured one, and returns the new budget.
    /// Blocks beyond it are evicted at once, except those in use.
    pub fn set_ram_budget(&self, bytes: u64) -> u64 {
        let bytes = bytes.min(self.core.config.ram_budget_bytes);
        self.core.state().set_ram_budget(bytes, self.core.now_secs());
        bytes
    }

    /// Returns the current numbers.
    pub fn stats(&self) -> Stats {
        let free_disk_bytes = self.core.disk.free_bytes().ok();
        let now = self.core.now_secs();
        let config = &self.core.config;
        let state = self.core.state();
        // Below the minimum nothing can be saved, even if no save has been tried since.
        let below_floor = free_disk_bytes.is_some_and(|free| free < config.min_free_bytes);
        Stats {
            quota_bytes: config.quota_bytes,
            physical_bytes: state.ledger.physical(),
            unindexed_bytes: state.ledger.unindexed_bytes(),
            free_disk_bytes,
            write_budget_remaining_bytes: state.ledger.write_budget_left(now),
            saving_paused: state.saves.has_pause() || below_floor,
            ram_capacity_bytes: state.blocks.ram().budget(),
            ram_used_bytes: state.blocks.ram().bytes(),
            memory_bytes: state.gauge.live(),
            blocks: state.count_blocks(),
            queue_depth: state.queue_depth(),
            queue_bytes: state.queue_bytes(),
            namespaces: state.namespace_stats(),
            counters: state.counters.clone(),
        }
    }

    /// Waits until all queued work is done, for at most `limit`. Returns false when it is not done.
    pub fn flush(&self, limit: Duration) -> bool {
        let until = self.core.clock.monotonic() + limit;
        let mut state = self.core.state();
        while !state.is_settled() {
            let now = self.core.clock.monotonic();
            if now >= until {
                return false;
            }
            if self.threads.is_empty() {
                drop(state);
                if !self.step() {
                    return self.core.state().is_settled();
                }
                state = self.core.state();
            } else {
                state = self.core.done.wait_for(state, until - now);
            }
        }
        true
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// Writes the queued blocks, for at most [`StoreConfig::drain`], and closes.
    pub fn close(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        self.flush(self.core.config.drain);
        self.core.state().stop();
        self.core.wake.notify_all();
        self.core.wake_reads.notify_all();
        self.core.done.notify_all();
        for thread in self.threads.drain(..) {
            // The panic was already handled in the thread.
            let _ = thread.join();
        }
        self.core.writer.lock().finish(&self.core);
    }
}

impl Drop for Store {
    /// Closes the store like [`Store::close`] if it has threads. A store without threads is left as
    /// it is, as after a crash.
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.shut_down();
        }
    }
}
