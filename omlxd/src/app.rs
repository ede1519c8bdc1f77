//! What every request needs: the daemon's parts, put together once.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use engine::{Engine, EngineConfig, GuardAction, Observer, StepReport};
use kvstore::platform::StayAwake;
use tokio_util::sync::CancellationToken;

use crate::auth::Keys;
use crate::cache::Cache;
use crate::config::Config;
use crate::crash::StepFile;
use crate::memory;
use crate::metrics::{Endpoint, Metrics, Snapshot};
use crate::pull::Pulls;
use crate::registry::Registry;
use crate::request_memory::RequestMemory;
use crate::requests::{Phase, Requests};
use crate::response_store::ResponseStore;

/// Most different names of ignored fields that are logged; a client may send any.
const MAX_IGNORED_NAMES: usize = 256;

/// A step of a model whose name begins so panics where nothing catches it.
#[cfg(test)]
pub(crate) const PANICKING_MODEL: &str = "panics-on-demand";

/// The daemon's parts.
pub struct App {
    /// The settings in effect since the start.
    pub config: Arc<Config>,
    /// Who may call.
    pub keys: Keys,
    /// The thread that runs models.
    pub engine: Engine,
    /// Which models there are.
    pub registry: Registry,
    /// Models being downloaded.
    pub pulls: Pulls,
    /// The KV cache.
    pub cache: Cache,
    /// Answers that requests can go on from.
    pub responses: Arc<ResponseStore>,
    /// What is counted.
    pub metrics: Metrics,
    /// The requests being answered.
    pub requests: Requests,
    /// The memory that they share.
    pub request_memory: RequestMemory,
    /// Cancelled once: no new requests, and those that run get `server.drain` to finish.
    pub shutdown: CancellationToken,
    /// Keeps the machine from sleeping while there is something to compute.
    pub awake: Arc<Awake>,
    /// When the daemon started.
    pub started: Instant,
    /// The daemon's version.
    pub version: &'static str,
    ignored: Mutex<BTreeSet<String>>,
}

/// What the engine thread tells of its steps, and asks for.
struct EngineObserver {
    metrics: Metrics,
    registry: OnceLock<Registry>,
    steps: StepFile,
    awake: Arc<Awake>,
}

/// Holds the machine awake from the first step or load until nothing is left to compute, unless
/// `server.keep_awake` is off.
#[derive(Debug)]
pub struct Awake {
    wanted: bool,
    held: Mutex<Option<StayAwake>>,
}

impl Awake {
    fn new(wanted: bool) -> Self {
        Awake { wanted, held: Mutex::default() }
    }

    /// Whether the machine is held awake now.
    pub fn is_held(&self) -> bool {
        self.held().as_ref().is_some_and(StayAwake::is_granted)
    }

    fn hold(&self) {
        if self.wanted {
            self.held().get_or_insert_with(StayAwake::now);
        }
    }

    fn let_go(&self) {
        *self.held() = None;
    }

    fn held(&self) -> MutexGuard<'_, Option<StayAwake>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for EngineObserver {
    fn step(&self, model: &str, report: &StepReport) {
        self.metrics.step(model, report);
    }

    fn begins(&self, model: &str, decoding: usize, prompt_tokens: usize) {
        self.awake.hold();
        self.steps.step(model, decoding, prompt_tokens);
        #[cfg(test)]
        assert!(!model.starts_with(PANICKING_MODEL), "a panic on demand");
    }

    fn loads(&self, model: &str) {
        self.awake.hold();
        self.steps.loading(model);
    }

    fn idle(&self) {
        self.awake.let_go();
        self.steps.idle();
    }

    fn room_wanted(&self, bytes: u64) {
        if let Some(registry) = self.registry.get() {
            let freed = registry.make_room(bytes);
            if freed > 0 {
                self.metrics.models_evicted();
            }
            tracing::info!(wanted = bytes, freed, "memory is short: idle models are unloaded");
        }
    }

    fn guarded(&self, action: GuardAction) {
        self.metrics.guarded(action);
    }

    fn masked(&self, model: &str, took: Duration) {
        self.metrics.add_model(model).constrained_mask.observe(took.as_secs_f64());
    }

    fn preempted(&self, model: &str) {
        self.metrics.add_model(model).preemptions.inc();
    }
}

impl App {
    /// Starts the engine's thread. No model is loaded yet.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(config: Arc<Config>, keys: Keys, version: &'static str) -> io::Result<Self> {
        Self::noting_steps(config, keys, version, StepFile::none())
    }

    /// The same; what the engine does is noted in a file.
    pub(crate) fn noting_steps(
        config: Arc<Config>,
        keys: Keys,
        version: &'static str,
        steps: StepFile,
    ) -> io::Result<Self> {
        let metrics = Metrics::new();
        let cache = Cache::open(&config);
        let awake = Arc::new(Awake::new(config.server.keep_awake));
        let observer = Arc::new(EngineObserver {
            metrics: metrics.clone(),
            registry: OnceLock::new(),
            steps,
            awake: awake.clone(),
        });
        let engine = Engine::start(EngineConfig {
            prefill_chunk: config.scheduler.prefill_chunk,
            max_queue: config.scheduler.max_queue,
            slow_reader: config.server.write_timeout,
            compute_dtype: config.models.compute_dtype.into(),
            reuse: cache.reuse.clone(),
            observer: observer.clone(),
            max_batch: config.scheduler.max_batch,
            decode_stall: config.scheduler.decode_stall.0,
            duty_cycle: config.scheduler.duty_percent as f64 / 100.0,
            memory_budget: Some(memory::budget_bytes(config.memory.budget)),
            ..EngineConfig::default()
        })?;
        let registry = Registry::new(engine.clone(), metrics.clone(), &config);
        // Nothing is wanted before there is a model, so before this.
        let _ = observer.registry.set(registry.clone());
        let budget = memory::budget_bytes(config.memory.budget);
        Ok(App {
            request_memory: RequestMemory::new(engine.clone(), budget),
            pulls: Pulls::new(registry.clone()),
            registry,
            requests: Requests::default(),
            shutdown: CancellationToken::new(),
            awake,
            started: Instant::now(),
            ignored: Mutex::default(),
            responses: Arc::new(ResponseStore::open(&config)),
            cache,
            config,
            keys,
            engine,
            metrics,
            version,
        })
    }

    /// Counts fields that were ignored, and logs each of their names once.
    pub(crate) fn note_ignored(&self, endpoint: Endpoint, count: usize, names: &BTreeSet<String>) {
        if count == 0 {
            return;
        }
        self.metrics.ignored(endpoint, count);
        let mut seen = self.ignored.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            if seen.len() < MAX_IGNORED_NAMES && seen.insert(name.clone()) {
                tracing::info!(endpoint = endpoint.as_str(), field = name, "ignored, not known");
            }
        }
    }

    /// Counts tools that a model's template does not show to it, and says so once for each model.
    pub(crate) fn note_unshown_tools(&self, endpoint: Endpoint, model: &str, tools: usize) {
        if tools == 0 {
            return;
        }
        self.metrics.ignored(endpoint, tools);
        let mut seen = self.ignored.lock().unwrap_or_else(PoisonError::into_inner);
        // No field of a request has such a name.
        if seen.len() < MAX_IGNORED_NAMES && seen.insert(format!("tools for {model}")) {
            let what =
                "the model's chat template knows no tools: it is not told of those in requests";
            tracing::warn!(model, "{what}");
        }
    }

    /// All metrics as text.
    pub(crate) fn render_metrics(&self) -> Vec<u8> {
        let progress = self.engine.progress();
        let mut snapshot = Snapshot {
            since_progress: progress.since_last_step,
            memory: self.engine.memory(),
            cache: self.cache.snapshot(self.engine.live_sessions()),
            ..Snapshot::default()
        };
        for entry in self.registry.catalog().list() {
            let state = self.registry.status(&entry.id).state;
            snapshot.states.push((entry.id, state));
        }
        for request in self.requests.list() {
            let (running, waiting) = snapshot.requests.entry(request.model).or_default();
            match request.phase {
                Phase::Prefill | Phase::Decode => *running += 1,
                Phase::Prepare | Phase::Queue => *waiting += 1,
            }
        }
        self.metrics.render(&snapshot, SystemTime::now())
    }
}
