//! Memory of requests on their way to the engine. A request takes its share as its body is read, gives back what it turns out not to need, and the rest at its end. What all of them hold counts in
//! `memory.budget`; who finds no room waits for a moment, and is then told to come back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engine::Engine;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::limits::{JSON_VALUES, REQUEST_MEMORY_WAIT_SECS};

/// The part of `memory.budget` that requests may take together.
const SHARE: u64 = 8;
/// What they may take however small the budget is: one large request.
const LEAST_BYTES: u64 = 256 << 20;
/// What is counted at a time.
const UNIT_BYTES: u64 = 4096;
/// After a request that needed more than this, what was freed goes back to the system.
const LARGE_BYTES: u64 = 16 << 20;
/// Copies of a body's text that a request makes at most: the body, its fields, the messages as the
/// template wants them, the template's own, and the prompt.
const TEXT_COPIES: u64 = 5;
/// What a value of JSON takes at most, beside its text: that of an object with one key.
const VALUE_BYTES: u64 = 300;

/// The memory that requests share. Clones share it.
#[derive(Debug, Clone)]
pub struct RequestMemory {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    free: Arc<Semaphore>,
    total_units: u32,
    held_bytes: AtomicU64,
    engine: Engine,
    /// How long a request waits for others to give back.
    patience: Duration,
}

/// There was no room, although it was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

/// A request's share. Dropping it gives it back.
#[derive(Debug)]
pub struct Share {
    shared: Arc<Shared>,
    held: Mutex<OwnedSemaphorePermit>,
    body_bytes: AtomicU64,
    /// What the body and all that is made of it take at most.
    made_bytes: AtomicU64,
}

impl RequestMemory {
    /// A share of a budget.
    pub fn new(engine: Engine, budget_bytes: u64) -> Self {
        Self::with(engine, budget_bytes, Duration::from_secs(REQUEST_MEMORY_WAIT_SECS))
    }

    fn with(engine: Engine, budget_bytes: u64, patience: Duration) -> Self {
        let bytes = (budget_bytes / SHARE).max(LEAST_BYTES);
        let total_units = units(bytes).min(u32::MAX >> 4);
        let free = Arc::new(Semaphore::new(total_units as usize));
        let held_bytes = AtomicU64::new(0);
        let shared = Shared { free, total_units, held_bytes, engine, patience };
        RequestMemory { shared: Arc::new(shared) }
    }

    /// A share that holds nothing yet.
    pub fn share(&self) -> Share {
        let nothing = Arc::clone(&self.shared.free).try_acquire_many_owned(0);
        Share {
            shared: Arc::clone(&self.shared),
            held: Mutex::new(nothing.expect("nothing is always there")),
            body_bytes: AtomicU64::new(0),
            made_bytes: AtomicU64::new(0),
        }
    }

    /// What requests hold now.
    pub fn held_bytes(&self) -> u64 {
        self.shared.held_bytes.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn tell(&self) {
        self.engine.set_request_bytes(self.held_bytes.load(Ordering::Relaxed));
    }
}

impl Share {
    /// So many bytes of a body are about to be read. Waits for others to give back; who comes first is
    /// served first.
    ///
    /// # Errors
    /// When there was no room in time.
    pub async fn cover(&self, body_bytes: u64) -> Result<(), NoRoom> {
        self.grow(body_bytes).await
    }

    /// The body is here: takes what it may need before it is known what it holds. Waits as
    /// [`Share::cover`] does.
    ///
    /// # Errors
    /// When there was no room in time.
    pub async fn read(&self, body_bytes: u64) -> Result<(), NoRoom> {
        self.body_bytes.store(body_bytes, Ordering::Relaxed);
        self.made_bytes.store(needed(body_bytes, 0), Ordering::Relaxed);
        // The smallest value is a digit and a comma.
        self.grow(needed(body_bytes, (body_bytes / 2).min(JSON_VALUES as u64))).await
    }

    async fn grow(&self, bytes: u64) -> Result<(), NoRoom> {
        // One request can always be read, however little there is.
        let wanted = units(bytes).min(self.shared.total_units);
        let more =
            wanted.saturating_sub(u32::try_from(self.held().num_permits()).unwrap_or(wanted));
        let waiting = Arc::clone(&self.shared.free).acquire_many_owned(more);
        let permit = timeout(self.shared.patience, waiting).await.map_err(|_| NoRoom)?;
        let permit = permit.expect("it is never closed");
        self.shared.held_bytes.fetch_add(bytes_of(&permit), Ordering::Relaxed);
        self.held().merge(permit);
        self.shared.tell();
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, OwnedSemaphorePermit> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body was parsed: `bytes` bytes with `values` JSON values.
    pub fn parsed(&self, body_bytes: usize, values: usize) {
        let made_bytes = needed(body_bytes as u64, values as u64);
        self.body_bytes.store(body_bytes as u64, Ordering::Relaxed);
        self.made_bytes.store(made_bytes, Ordering::Relaxed);
        self.keep(made_bytes);
    }

    /// The prompts are made, and have so many tokens: beside them the request's own text is left, for
    /// its answer.
    pub fn prompted(&self, prompt_tokens: usize) {
        let body_bytes = self.body_bytes.load(Ordering::Relaxed);
        self.keep(body_bytes + (prompt_tokens * size_of::<u32>()) as u64);
    }

    /// Whether so much was made of the body that it goes back to the system.
    pub fn is_large(&self) -> bool {
        self.made_bytes.load(Ordering::Relaxed) > LARGE_BYTES
    }

    /// Gives back all but `bytes` bytes.
    fn keep(&self, bytes: u64) {
        let mut held = self.held();
        let more = held.num_permits().saturating_sub(units(bytes) as usize);
        if let Some(given) = held.split(more) {
            self.shared.held_bytes.fetch_sub(bytes_of(&given), Ordering::Relaxed);
            self.shared.tell();
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.keep(0);
        // Without a runtime the process ends.
        if self.is_large()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn_blocking(kvstore::platform::give_back_memory);
        }
    }
}

fn needed(body_bytes: u64, values: u64) -> u64 {
    body_bytes.saturating_mul(TEXT_COPIES).saturating_add(values * VALUE_BYTES)
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

fn bytes_of(permit: &OwnedSemaphorePermit) -> u64 {
    permit.num_permits() as u64 * UNIT_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::EngineConfig;

    fn memory(patience: Duration) -> RequestMemory {
        let engine = Engine::start(EngineConfig::default()).unwrap();
        RequestMemory::with(engine, 0, patience)
    }

    async fn take(memory: &RequestMemory, body_bytes: u64) -> Result<Share, NoRoom> {
        let share = memory.share();
        share.read(body_bytes).await.map(|()| share)
    }

    #[tokio::test]
    async fn who_finds_no_room_waits_and_is_then_refused() {
        let memory = memory(Duration::from_millis(20));
        let large = take(&memory, 64 << 20).await.unwrap();
        assert!(memory.held_bytes() <= LEAST_BYTES);
        assert_eq!(take(&memory, 1 << 20).await.unwrap_err(), NoRoom);
        large.parsed(64 << 20, 10);
        large.prompted(1000);
        assert!(memory.held_bytes() < 66 << 20, "{}", memory.held_bytes());
        let second = take(&memory, 1 << 20).await.unwrap();
        drop((large, second));
        assert_eq!(memory.held_bytes(), 0);
    }

    #[tokio::test]
    async fn a_body_that_comes_slowly_holds_what_has_come() {
        let memory = memory(Duration::from_millis(20));
        let slow = memory.share();
        slow.cover(1 << 20).await.unwrap();
        slow.cover(2 << 20).await.unwrap();
        assert_eq!(memory.held_bytes(), 2 << 20);
        drop(take(&memory, 10 << 20).await.unwrap());
        slow.read(2 << 20).await.unwrap();
        assert!(memory.held_bytes() > 10 << 20);
        drop(slow);
        assert_eq!(memory.held_bytes(), 0);
    }

    #[tokio::test]
    async fn small_requests_do_not_overtake_a_large_one_for_ever() {
        let memory = memory(Duration::from_secs(60));
        let first = take(&memory, 64 << 20).await.unwrap();
        let other = memory.clone();
        let large = tokio::spawn(async move { take(&other, 64 << 20).await });
        // A task of this runtime runs until it waits.
        tokio::task::yield_now().await;
        let other = memory.clone();
        let small = tokio::spawn(async move { take(&other, 10).await });
        tokio::task::yield_now().await;
        drop(first);
        let large = large.await.unwrap().unwrap();
        assert!(!small.is_finished());
        drop(large);
        assert!(small.await.unwrap().is_ok());
    }
}
