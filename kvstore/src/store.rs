//! The public interface of the store.

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

/// The time after which an idle thread looks for work even if nobody woke it.
const IDLE: Duration = Duration::from_secs(1);

/// The pause after work that panicked, so that a panic that repeats does not fill the log.
const PAUSE_AFTER_PANIC: Duration = Duration::from_secs(1);

/// The keys looked up before the lock is released for other threads.
const PROBE_BATCH: usize = 2048;

/// The part of a chain that is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    /// The number of stored blocks, from the first key on.
    pub blocks: usize,
    /// The number of those blocks that are in memory.
    pub in_ram: usize,
}

/// A store of blocks in memory and in one root folder.
#[derive(Debug)]
pub struct Store {
    core: Arc<Core>,
    threads: Vec<JoinHandle<()>>,
}

/// A block that will be kept, and the memory for it.
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
    /// Opens the store at `config.root`, made if it is missing, and starts its threads.
    ///
    /// # Errors
    /// [`OpenError::Locked`] when another store uses the root; otherwise an error of the folder, the key
    /// file or the limits. Damaged content is never an error.
    pub fn open(config: StoreConfig) -> Result<Store, OpenError> {
        let disk = Arc::new(RealDisk::open(&config.root)?);
        let mut store = Store::open_on(disk, Arc::new(SystemClock::default()), config)?;
        store.spawn("kvstore-write", Intent::Background, |core| {
            if !core.writer.lock().step(core) {
                let state = core.state();
                // Work may have arrived since the step above.
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

    /// Opens a store on any disk and clock, without threads: the caller runs [`Store::step`].
    ///
    /// # Errors
    /// As [`Store::open`], except that the disk is responsible for locking.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        config: StoreConfig,
    ) -> Result<Store, OpenError> {
        Ok(Store { core: Arc::new(Core::open(disk, clock, config)?), threads: Vec::new() })
    }

    /// Starts a thread that calls `work` until the store closes. `work` waits when there is nothing to do.
    fn spawn(&mut self, name: &str, intent: Intent, work: fn(&Core)) -> Result<(), OpenError> {
        let core = Arc::clone(&self.core);
        let body = move || {
            set_intent(intent);
            while !core.state().activity.is_stopping() {
                // A panic ends one piece of work, but not the thread, for which others wait.
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

    /// Runs the most urgent piece of background work on this thread: a read, then a removal, a scan or
    /// a save. False when there was none.
    pub fn step(&self) -> bool {
        self.core.step()
    }

    /// Puts a block into the store. This takes as long as copying its bytes; the block is written later.
    /// No chain may have a hole: a block whose parent is not on disk is not written, and a block
    /// whose parent is in no tier is not kept.
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

    /// As [`Store::put`], but `fill` writes the bytes directly into the memory of the store. It gets one
    /// zeroed slice for each part, of its length, that starts at a multiple of 16 KiB.
    ///
    /// `fill` is called at most once, on this thread and without a lock, and only if the block will be
    /// kept and there is memory for it. Until it has returned, no other thread can see the block.
    ///
    /// # Errors
    /// The error of `fill`. The block is then not kept, and its memory is free again. The same happens
    /// when `fill` panics.
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

    /// Decides whether a block will be kept, and takes memory for it.
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

    /// Adds a block whose bytes are complete. Another thread may have put it while they were made.
    fn insert(
        &self,
        namespace: &Namespace,
        shape: &RecordShape<'_>,
        layout: &Layout,
        resident: Resident,
        now: u64,
    ) -> PutOutcome {
        let mut state = self.core.state();
        // The namespace may have been forgotten meanwhile, and then has another number now.
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

    /// Whether a block that is not known yet may be written.
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

    /// The block of that key, if its witness is the same.
    ///
    /// # Errors
    /// The reason of the miss. Recompute the block in every case.
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

    /// How many of `keys`, from the first, are stored, each the parent of the next. This reads no
    /// disk.
    pub fn longest_prefix(&self, namespace: &Namespace, keys: &[Key]) -> Prefix {
        let now = self.core.now_secs();
        let (blocks, in_ram) = self.core.state().longest_prefix(namespace, keys, now);
        Prefix { blocks, in_ram }
    }

    /// Which of `keys` are stored, in any tier. This reads no disk, and does not count as a use.
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

    /// The first of `keys` that is stored, in any tier. This reads no disk, and does not count as a
    /// use. The store is not locked while `keys` computes the next keys, of which a few more are computed
    /// than looked up.
    pub fn first_stored(
        &self,
        namespace: &Namespace,
        keys: impl IntoIterator<Item = Key>,
    ) -> Option<Key> {
        let mut keys = keys.into_iter();
        // Short at first, because the key is often near the start.
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

    /// Starts reading blocks into the RAM tier, in this order, as far as they fit. The system is asked to
    /// read the files of the others ahead.
    pub fn prefetch(&self, namespace: &Namespace, keys: &[Key]) {
        let Some(space) = self.core.state().find_space(namespace) else { return };
        self.core.queue_restores(keys.iter().map(|&key| BlockId { space, key }));
    }

    /// Keeps blocks from being evicted to make room, including blocks that are put later.
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

    /// The size of the RAM tier, in bytes.
    pub fn ram_used_bytes(&self) -> u64 {
        self.core.state().blocks.ram().bytes()
    }

    /// Changes the budget of the RAM tier, at most to that of the configuration, and returns the new one.
    /// Blocks beyond it leave at once, except those in use.
    pub fn set_ram_budget(&self, bytes: u64) -> u64 {
        let bytes = bytes.min(self.core.config.ram_budget_bytes);
        self.core.state().set_ram_budget(bytes, self.core.now_secs());
        bytes
    }

    /// The numbers of this moment.
    pub fn stats(&self) -> Stats {
        let free_disk_bytes = self.core.disk.free_bytes().ok();
        let now = self.core.now_secs();
        let config = &self.core.config;
        let state = self.core.state();
        // Below the floor no block is saved, even if no save has been tried since.
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

    /// Waits until all queued work is done, at most for `limit`. False when it is not done then.
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

    /// Writes the queued blocks, for at most [`StoreConfig::drain`], and closes the store.
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
            // A thread that panicked has logged it already.
            let _ = thread.join();
        }
        self.core.writer.lock().finish(&self.core);
    }
}

impl Drop for Store {
    /// Closes the store as [`Store::close`] does, if it has threads. A store without threads is left as
    /// after a crash.
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.shut_down();
        }
    }
}
