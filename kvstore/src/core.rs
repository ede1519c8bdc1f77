//! State and methods that the store's threads share.

use crate::config::{Clock, StoreConfig};
use crate::crypt::Cipher;
use crate::disk::Disk;
use crate::key::BlockId;
use crate::state::State;
use crate::stats::Op;
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::writer::Writer;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Between two chunks of a write, the writer waits at most this long for reads in progress.
const YIELD_LIMIT: Duration = Duration::from_millis(100);

pub(crate) struct Core {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: StoreConfig,
    pub(crate) cipher: Option<Cipher>,
    state: Mutex<State>,
    /// Wakes the writer: there is work, or the store is closing.
    pub(crate) wake: Condvar,
    /// Wakes the read threads for the same two reasons.
    pub(crate) wake_reads: Condvar,
    /// Wakes threads that wait for work to finish.
    pub(crate) done: Condvar,
    /// Held by the one thread that saves, deletes or scans.
    pub(crate) writer: Mutex<Writer>,
}

impl Core {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        config: StoreConfig,
        cipher: Option<Cipher>,
        state: State,
        writer: Writer,
    ) -> Core {
        Core {
            disk,
            clock,
            config,
            cipher,
            state: Mutex::new(state),
            wake: Condvar::new(),
            wake_reads: Condvar::new(),
            done: Condvar::new(),
            writer: Mutex::new(writer),
        }
    }

    /// Locks the store's state. Never hold the lock during I/O.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(crate) fn now_secs(&self) -> u64 {
        self.clock.unix_secs()
    }

    pub(crate) fn count_error(&self, op: Op, error: &io::Error) {
        self.state().counters.io_error(op, error);
    }

    /// Removes a file. Returns true when the file no longer exists.
    pub(crate) fn unlink(&self, path: &Path) -> bool {
        match self.disk.unlink(path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => {
                self.count_error(Op::Unlink, &error);
                false
            }
        }
    }

    /// Lets reads in progress finish before the next chunk is written.
    pub(crate) fn yield_to_restores(&self) {
        let until = self.clock.monotonic() + YIELD_LIMIT;
        let mut state = self.state();
        while state.reads.is_reading() && !state.activity.is_stopping() {
            let now = self.clock.monotonic();
            if now >= until {
                return;
            }
            state = self.done.wait_for(state, until - now);
        }
    }

    /// Runs the most urgent piece of background work: restore, then delete, then save.
    pub(crate) fn step(&self) -> bool {
        self.restore_next() || self.writer.lock().step(self)
    }

    /// Reads ahead the next block in the read queue.
    pub(crate) fn restore_next(&self) -> bool {
        let Some(id) = self.state().reads.pop() else { return false };
        self.restore_ahead(&id);
        true
    }

    /// Queues reads until the queue is full.
    pub(crate) fn queue_restores(&self, ids: impl Iterator<Item = BlockId>) {
        let mut state = self.state();
        for id in ids {
            if !state.queue_read(id) {
                break;
            }
        }
        drop(state);
        self.wake_reads.notify_all();
    }
}
