//! Which models there are, which of them are in memory, and who may use them.
//!
//! `discover` finds them on disk, `core` decides what is loaded and unloaded, `removal` deletes
//! them; this file carries the decisions out. A request holds a [`Lease`] for as long as it lives.

mod catalog;
mod core;
mod discover;
mod error;
mod removal;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use engine::{Engine, LoadError, LoadOptions, Model};
use tokio::runtime::Handle;
use tokio::sync::watch;

pub use self::catalog::Catalog;
pub use self::core::Room;
use self::core::{Action, Core, PATIENCE, State, Ticket, Turn};
pub use self::discover::{BUNDLED, ModelEntry, Source};
pub(crate) use self::discover::{PULLED_REF, other_purpose};
pub use self::error::{AcquireError, KeepError};
pub use self::removal::Removed;
use crate::config::{Config, ModelSettings};
use crate::error_chain::Chain;
use crate::memory;
use crate::metrics::Metrics;

/// Pause before a model whose room was taken is tried again.
const POSTPONED: Duration = Duration::from_millis(100);
/// How often a model with an idle time is looked at while it is in use.
const BUSY_POLL: Duration = Duration::from_millis(200);

/// A model as `omlxctl` and `/metrics` see it.
#[derive(Debug, Clone, Default)]
pub struct ModelStatus {
    /// `unloaded`, `loading`, `ready`, `draining` or `failed`.
    pub state: &'static str,
    /// Why it failed.
    pub error: Option<String>,
    /// Whether it stays in memory.
    pub pinned: bool,
    /// Requests that hold it.
    pub leases: usize,
    /// Requests that wait for it.
    pub waiting: usize,
    /// Since it was last used, when it is in memory.
    pub idle: Option<Duration>,
}

/// The models. Clones share them.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Engine,
    metrics: Metrics,
    catalog: Catalog,
    settings: BTreeMap<String, ModelSettings>,
    idle_ttl: Option<Duration>,
    /// Longest wait for a model.
    max_wait: Duration,
    budget_bytes: u64,
    /// Tokens of a block of KV, for the metrics.
    block_tokens: usize,
    started: Instant,
    inner: Mutex<Inner>,
    /// Counts up when a decision may come out differently.
    changed: watch::Sender<u64>,
    runtime: OnceLock<Handle>,
}

#[derive(Default)]
struct Inner {
    core: Core,
    /// The folders of those that were asked for.
    entries: BTreeMap<String, ModelEntry>,
    models: BTreeMap<String, Model>,
    /// The files' fingerprints of those that failed.
    failed: BTreeMap<String, u64>,
}

impl Registry {
    /// Looks for models where the configuration says, then for the bundled one.
    pub fn new(engine: Engine, metrics: Metrics, config: &Config) -> Self {
        let shared = Shared {
            catalog: Catalog::new(config, metrics.clone()),
            engine,
            metrics,
            settings: config.per_model.clone(),
            idle_ttl: config.models.idle_ttl,
            max_wait: config.models.max_wait,
            budget_bytes: memory::budget_bytes(config.memory.budget),
            block_tokens: config.cache.block_tokens,
            started: Instant::now(),
            inner: Mutex::default(),
            changed: watch::Sender::new(0),
            runtime: OnceLock::new(),
        };
        Registry { shared: Arc::new(shared) }
    }

    /// The models on disk.
    pub fn catalog(&self) -> &Catalog {
        &self.shared.catalog
    }

    /// What a model is doing.
    pub fn status(&self, id: &str) -> ModelStatus {
        let now = self.now();
        let inner = self.inner();
        let waiting = inner.core.waiting(id);
        let Some(entry) = inner.core.get(id) else {
            return ModelStatus { state: "unloaded", ..ModelStatus::default() };
        };
        let (state, error) = match &entry.state {
            State::Available | State::Removing => ("unloaded", None),
            State::Loading => ("loading", None),
            State::Ready => ("ready", None),
            State::Draining { .. } => ("draining", None),
            State::Failed { why, .. } => ("failed", Some(why.clone())),
        };
        let idle = matches!(entry.state, State::Ready | State::Draining { .. });
        ModelStatus {
            state,
            error,
            pinned: entry.pinned,
            leases: entry.leases,
            waiting,
            idle: idle.then(|| now.saturating_sub(entry.last_used)),
        }
    }

    /// The model, when it is in memory. Holding it keeps its memory but is no [`Lease`].
    pub fn loaded_model(&self, id: &str) -> Option<Model> {
        self.inner().models.get(id).cloned()
    }

    /// The models in memory.
    pub fn loaded(&self) -> Vec<Model> {
        self.inner().models.values().cloned().collect()
    }

    /// How many models are loading, ready and failed.
    pub fn counts(&self) -> (usize, usize, usize) {
        let inner = self.inner();
        let count = |of: fn(&State) -> bool| {
            inner.core.iter().filter(|(_, entry)| of(&entry.state)).count()
        };
        let ready = |state: &State| matches!(state, State::Ready | State::Draining { .. });
        (
            count(|state| *state == State::Loading),
            count(ready),
            count(|state| matches!(state, State::Failed { .. })),
        )
    }

    /// Memory for models.
    pub fn room(&self) -> Room {
        self.room_of(&self.inner().core)
    }

    fn room_of(&self, core: &Core) -> Room {
        // Beside the weights, what runs; what is kept for later makes room for a model.
        let engine = self.shared.engine.memory();
        Room {
            budget_bytes: self.shared.budget_bytes.saturating_sub(engine.step_bytes),
            used_bytes: core.resident_bytes() + engine.running_bytes,
        }
    }

    /// Unloads idle models that are not pinned, least recently used first, until `bytes` are on
    /// their way out. Gives how many really are.
    pub fn make_room(&self, bytes: u64) -> u64 {
        let freed = self.inner().core.make_room(bytes);
        self.advance();
        freed
    }

    /// A lease on a model; loads it if it is not in memory. However many ask at once, it is loaded
    /// once, and a load continues when the callers are gone.
    ///
    /// # Errors
    /// See [`AcquireError`].
    pub async fn acquire(&self, entry: &ModelEntry) -> Result<Lease, AcquireError> {
        let _ = self.shared.runtime.set(Handle::current());
        if let Some(lease) = self.lease_now(&entry.id) {
            return Ok(lease);
        }
        let needed_bytes = self.needed_bytes(entry).await?;
        let place = Place::take(self, entry, needed_bytes);
        let asked = tokio::time::Instant::now();
        let mut changed = self.shared.changed.subscribe();
        loop {
            changed.borrow_and_update();
            self.advance();
            if let Some(turn) = self.turn(&place, entry, needed_bytes) {
                return turn;
            }
            let waited = asked.elapsed();
            if waited >= self.shared.max_wait {
                return Err(self.too_late(&entry.id, needed_bytes, waited));
            }
            // Patience ends without anything happening.
            let next = if waited < PATIENCE { PATIENCE } else { waited + PATIENCE };
            let next = asked + next.min(self.shared.max_wait);
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    fn lease_now(&self, id: &str) -> Option<Lease> {
        let now = self.now();
        let mut inner = self.inner();
        let model = inner.models.get(id).cloned()?;
        let leased = inner.core.lease(id, now);
        leased.then(|| Lease { registry: self.clone(), model: Some(model) })
    }

    /// The memory that the model needs. A model that cannot be loaded fails here, without the engine.
    async fn needed_bytes(&self, entry: &ModelEntry) -> Result<u64, AcquireError> {
        let (registry, entry) = (self.clone(), entry.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let print = discover::fingerprint(&entry.dir);
            if registry.inner().failed.get(&entry.id).is_some_and(|failed| *failed != print) {
                registry.inner().core.files_changed(&entry.id);
            }
            let facts = registry.catalog().facts(&entry);
            facts.map(|facts| facts.weight_bytes).map_err(|why| {
                if !discover::is_model(&entry.dir) {
                    return AcquireError::Gone;
                }
                registry.failed(&entry, &why);
                AcquireError::Failed(why)
            })
        });
        let interrupted = || AcquireError::Failed("reading its files was interrupted".to_owned());
        reading.await.unwrap_or_else(|_| Err(interrupted()))
    }

    fn turn(
        &self,
        place: &Place,
        entry: &ModelEntry,
        needed_bytes: u64,
    ) -> Option<Result<Lease, AcquireError>> {
        let now = self.now();
        let mut inner = self.inner();
        let room = self.room_of(&inner.core);
        Some(match inner.core.turn(place.ticket, room, now) {
            Turn::Wait => return None,
            Turn::Granted => match inner.models.get(&entry.id).cloned() {
                Some(model) => Ok(Lease { registry: self.clone(), model: Some(model) }),
                None => Err(AcquireError::Gone),
            },
            Turn::Failed(why) => Err(AcquireError::Failed(why)),
            Turn::Gone => Err(AcquireError::Gone),
            Turn::TooLarge => {
                Err(AcquireError::TooLarge { needed_bytes, budget_bytes: room.budget_bytes })
            }
        })
    }

    fn too_late(&self, id: &str, needed_bytes: u64, waited: Duration) -> AcquireError {
        let waited_secs = waited.as_secs();
        if self.status(id).state == "loading" {
            return AcquireError::StillLoading { waited_secs };
        }
        let Room { budget_bytes, used_bytes } = self.room();
        let free_bytes = budget_bytes.saturating_sub(used_bytes);
        AcquireError::NoRoom { needed_bytes, free_bytes, budget_bytes, waited_secs }
    }

    /// Does what is to be done now.
    fn advance(&self) {
        // Without a runtime there was no request yet, so nothing to do.
        let Some(runtime) = self.shared.runtime.get() else { return };
        let now = self.now();
        let actions = {
            let mut inner = self.inner();
            let room = self.room_of(&inner.core);
            inner.core.plan(room, now)
        };
        for action in actions {
            match action {
                Action::Load(id) => drop(runtime.spawn(self.clone().load_now(id))),
                Action::Unload(id) => drop(runtime.spawn(self.clone().unload_now(id))),
            }
        }
    }

    async fn load_now(self, id: String) {
        let Some(entry) = self.inner().entries.get(&id).cloned() else { return };
        let settings = self.shared.settings.get(&id);
        let options = settings.map_or_else(LoadOptions::default, ModelSettings::load_options);
        match self.shared.engine.load_with(&entry.dir, &id, options).await {
            Ok(model) => self.loaded_now(&id, model),
            // Requests took the room since it was counted.
            Err(LoadError::NoRoom { needed_bytes, free_bytes }) => {
                tracing::info!(model = id, needed_bytes, free_bytes, "a load waits for room");
                self.make_room(needed_bytes.saturating_sub(free_bytes));
                tokio::time::sleep(POSTPONED).await;
                self.inner().core.load_postponed(&id);
            }
            Err(error) => {
                let (registry, why) = (self.clone(), Chain(&error).to_string());
                // Looks at the folder.
                let noting = tokio::task::spawn_blocking(move || registry.failed(&entry, &why));
                let _ = noting.await;
            }
        }
        self.notify();
        self.watch_idle_ttl(&id).await;
    }

    fn loaded_now(&self, id: &str, model: Model) {
        let info = model.info().clone();
        self.shared.metrics.model_loaded(id, &info, self.shared.block_tokens);
        {
            let mut inner = self.inner();
            inner.failed.remove(id);
            inner.models.insert(id.to_owned(), model);
            inner.core.loaded(id, info.weight_bytes, self.now());
        }
        tracing::info!(
            model = id,
            architecture = info.architecture,
            weight_bytes = info.weight_bytes,
            load_ms = info.load_time.as_millis() as u64,
            "model loaded"
        );
    }

    fn failed(&self, entry: &ModelEntry, why: &str) {
        tracing::warn!(model = entry.id, why, "model cannot be loaded");
        let print = discover::fingerprint(&entry.dir);
        let mut inner = self.inner();
        inner.failed.insert(entry.id.clone(), print);
        inner.core.load_failed(&entry.id, why.to_owned(), self.now());
    }

    async fn unload_now(self, id: String) {
        let model = self.inner().models.remove(&id);
        if let Some(model) = model {
            let bytes = model.info().weight_bytes;
            model.unload().await;
            tracing::info!(model = id, weight_bytes = bytes, "model unloaded");
        }
        self.inner().core.unloaded(&id);
        self.shared.metrics.model_unloaded(&id);
        self.notify();
        self.advance();
    }

    /// Unloads the model once it is idle for too long.
    async fn watch_idle_ttl(&self, id: &str) {
        loop {
            let Some(at) = self.inner().core.expires_at(id) else { return };
            let left = at.saturating_sub(self.now());
            tokio::time::sleep(if left.is_zero() { BUSY_POLL } else { left }).await;
            self.advance();
        }
    }

    fn notify(&self) {
        self.shared.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Takes a model out of memory once the requests on it have ended, and waits for that.
    ///
    /// # Errors
    /// See [`KeepError`].
    pub async fn unload(&self, id: &str) -> Result<(), KeepError> {
        let _ = self.shared.runtime.set(Handle::current());
        self.inner().core.unload(id).map_err(|refused| KeepError::new(id, refused))?;
        self.advance();
        self.drained(id).await;
        Ok(())
    }

    async fn drained(&self, id: &str) {
        let mut changed = self.shared.changed.subscribe();
        let draining = |registry: &Registry| registry.status(id).state == "draining";
        while draining(self) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Keeps a model in memory once it is there, until the daemon ends, or no longer. False when it
    /// was so already.
    pub fn pin(&self, id: &str, pinned: bool) -> bool {
        let mut inner = self.inner();
        self.introduce(&mut inner.core, id);
        let changed = inner.core.pin(id, pinned);
        drop(inner);
        self.advance();
        changed
    }

    /// Loads the models that the configuration pins. What cannot be loaded is in the log.
    pub async fn preload(&self) {
        let pinned = self.shared.settings.iter().filter(|(_, settings)| settings.pin);
        for (id, _) in pinned {
            let (registry, name) = (self.clone(), id.clone());
            // Looking for a model reads directories.
            let found = tokio::task::spawn_blocking(move || registry.catalog().find(&name)).await;
            match found.unwrap_or_default() {
                Some(entry) => {
                    if let Err(error) = self.acquire(&entry).await {
                        tracing::warn!(model = id, why = %error, "a pinned model was not loaded");
                    }
                }
                None => tracing::warn!(model = id, "a pinned model is not on disk"),
            }
        }
    }

    /// Tells the core of a model's settings, when it does not know the model yet.
    fn introduce(&self, core: &mut Core, id: &str) {
        if core.get(id).is_none() {
            let settings = self.shared.settings.get(id);
            let idle_ttl = settings.and_then(|own| own.idle_ttl);
            let idle_ttl = idle_ttl.unwrap_or(self.shared.idle_ttl);
            core.set(id, settings.is_some_and(|own| own.pin), idle_ttl);
        }
    }

    fn now(&self) -> Duration {
        self.shared.started.elapsed()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.shared.inner)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A model in memory, which stays there for as long as this is held.
pub struct Lease {
    registry: Registry,
    /// `None` only while it is dropped.
    model: Option<Model>,
}

impl std::ops::Deref for Lease {
    type Target = Model;

    fn deref(&self) -> &Model {
        self.model.as_ref().expect("it is there until the drop")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(model) = self.model.take() else { return };
        let id = model.name().to_owned();
        // Before the lease is given back: what is unloaded then must be held by nobody.
        drop(model);
        let now = self.registry.now();
        self.registry.inner().core.release(&id, now);
        self.registry.notify();
        self.registry.advance();
    }
}

/// A place in the line, left when this is dropped.
struct Place {
    registry: Registry,
    ticket: Ticket,
}

impl Place {
    fn take(registry: &Registry, entry: &ModelEntry, bytes: u64) -> Self {
        let id = &entry.id;
        let mut inner = registry.inner();
        inner.entries.insert(id.clone(), entry.clone());
        registry.introduce(&mut inner.core, id);
        let ticket = inner.core.ask(id, bytes, registry.now());
        drop(inner);
        Place { registry: registry.clone(), ticket }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.registry.inner().core.give_up(self.ticket);
        // Those behind move up.
        self.registry.notify();
    }
}
