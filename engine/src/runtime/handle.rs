//! The engine's handle: what other threads hold of the one that owns MLX.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvstore::Namespace;
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::{LoadError, Result, SubmitError};
use crate::kv::ReuseConfig;
use crate::mlx::bridge;
use crate::panic_text;
use crate::runtime::generation::{GenerateRequest, Generation, PhaseCell};
use crate::runtime::loaded::Held;
use crate::runtime::memory::{MemorySensor, Pressure, SystemSensor};
use crate::runtime::model::{Folder, LoadOptions, Model, ModelInfo};
use crate::runtime::worker::{self, Command, Job, Worker};
use crate::text::grammar::Grammar;
use crate::text::tokenizer::Tokenizer;

pub use crate::runtime::report::{
    GuardAction, MemoryUse, NoObserver, Observer, Phase, Progress, StepName, StepReport,
};

/// Tokens that may wait for a slow reader before its row pauses.
const TOKEN_CHANNEL: usize = 64;
/// Room in the command channel for what is not a request: loads, unloads, wake-ups.
const CONTROL_COMMANDS: usize = 64;

/// Namespaces remembered for each model name; one more is not told of.
const MAX_NAMESPACES: usize = 4096;

/// How the engine runs.
#[derive(Clone)]
pub struct EngineConfig {
    /// The most prompt tokens computed in one step. Cancellation is noticed between steps.
    pub prefill_chunk: usize,
    /// Requests computed at once.
    pub max_batch: usize,
    /// How long a step with a part of a prompt may take while others decode; `None`: twice what it
    /// takes without.
    pub decode_stall: Option<Duration>,
    /// The part of the time that the engine computes, when it has something to: less than 1 leaves
    /// the rest to other programs.
    pub duty_cycle: f64,
    /// What weights, KV, caches and steps may take together, in bytes; `None`: no limit.
    pub memory_budget: Option<u64>,
    /// Says how the system's memory does.
    pub sensor: Arc<dyn MemorySensor>,
    /// Requests beyond `max_batch` that may wait; more are refused.
    pub max_queue: usize,
    /// How long a request may stand still because nobody reads its tokens.
    pub slow_reader: Duration,
    /// What models compute in that are stored in 16 bits.
    pub compute_dtype: ComputeDtype,
    /// How prefixes are reused.
    pub reuse: ReuseConfig,
    /// Told about every step.
    pub observer: Arc<dyn Observer>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            prefill_chunk: 256,
            max_batch: 8,
            decode_stall: None,
            duty_cycle: 1.0,
            memory_budget: None,
            sensor: Arc::new(SystemSensor),
            max_queue: 256,
            slow_reader: Duration::from_secs(30),
            compute_dtype: ComputeDtype::Auto,
            reuse: ReuseConfig::default(),
            observer: Arc::new(NoObserver),
        }
    }
}

impl std::fmt::Debug for EngineConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineConfig")
            .field("prefill_chunk", &self.prefill_chunk)
            .field("max_batch", &self.max_batch)
            .field("decode_stall", &self.decode_stall)
            .field("duty_cycle", &self.duty_cycle)
            .field("memory_budget", &self.memory_budget)
            .field("max_queue", &self.max_queue)
            .field("slow_reader", &self.slow_reader)
            .field("compute_dtype", &self.compute_dtype)
            .field("reuse", &self.reuse)
            .finish_non_exhaustive()
    }
}

/// What a model computes in that is stored in bf16 or f16, packed or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ComputeDtype {
    /// The stored type on Metal; float32 on MLX's CPU backend, where it is far faster.
    #[default]
    Auto,
    /// The stored type.
    Stored,
}

/// Names a loaded model between the handle and the engine thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ModelId(pub(crate) u64);

/// A handle to the engine thread. Clones share it; the thread ends at [`Engine::stop`], or when the
/// last handle is gone.
#[derive(Debug, Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    commands: SyncSender<Command>,
    status: Arc<Status>,
    thread: Mutex<Option<JoinHandle<()>>>,
    max_batch: usize,
    max_queue: usize,
    next_model: AtomicU64,
}

/// What the engine thread tells of itself.
#[derive(Debug)]
pub(crate) struct Status {
    started: Instant,
    /// Milliseconds from `started` to the last sign of life.
    last_step_ms: AtomicU64,
    pub(crate) loading: AtomicBool,
    pub(crate) stopping: AtomicBool,
    pub(crate) running: AtomicUsize,
    /// Requests that were submitted and have not ended: see [`Place`].
    places: AtomicUsize,
    pub(crate) live_sessions: AtomicUsize,
    pub(crate) live_bytes: AtomicUsize,
    /// Counted up by the submitter and down by the engine thread.
    pub(crate) waiting: AtomicUsize,
    pub(crate) preemptions: AtomicU64,
    pub(crate) reserved_bytes: AtomicU64,
    pub(crate) used_bytes: AtomicU64,
    pub(crate) step_bytes: AtomicU64,
    pub(crate) peak_bytes: AtomicU64,
    pub(crate) request_bytes: AtomicU64,
    pub(crate) wired_limit_bytes: AtomicU64,
    pub(crate) pressure: AtomicU8,
    pub(crate) budget_bytes: AtomicU64,
    /// Why the thread ended, when it was not told to.
    failure: watch::Sender<Option<String>>,
    step: Mutex<Option<CurrentStep>>,
    /// Where the KV of each model name was looked for.
    namespaces: Mutex<BTreeMap<String, BTreeSet<Namespace>>>,
}

/// The step that MLX computes.
#[derive(Debug, Clone)]
pub(crate) struct CurrentStep {
    pub(crate) model: String,
    pub(crate) decoding: usize,
    pub(crate) prompt_tokens: usize,
    pub(crate) begin: Instant,
}

impl Status {
    /// The thread ends by a panic.
    pub(crate) fn fail(&self, why: String) {
        self.failure.send_replace(Some(why));
    }

    pub(crate) fn step_begins(&self, step: CurrentStep) {
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = Some(step);
    }

    pub(crate) fn step_done(&self) {
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A sign of life.
    pub(crate) fn alive(&self) {
        let now = self.started.elapsed().as_millis() as u64;
        self.last_step_ms.store(now, Ordering::Relaxed);
    }

    /// A model's KV is looked for, and stored, under this namespace.
    pub(crate) fn note_namespace(&self, model: &str, namespace: Namespace) {
        let mut namespaces = self.namespaces();
        if let Some(known) = namespaces.get_mut(model) {
            if known.len() < MAX_NAMESPACES {
                known.insert(namespace);
            }
        } else {
            namespaces.insert(model.to_owned(), BTreeSet::from([namespace]));
        }
    }

    fn namespaces(&self) -> MutexGuard<'_, BTreeMap<String, BTreeSet<Namespace>>> {
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request's place among those that may run or wait, from its submission to the end of its
/// computation. What is on its way to the engine thread has one as well, so that requests which come
/// together are not refused while there is room.
#[derive(Debug)]
pub(crate) struct Place(Arc<Status>);

impl Place {
    /// `None` when `limit` others have one.
    fn take(status: &Arc<Status>, limit: usize) -> Option<Self> {
        let one_more = |places: usize| (places < limit).then_some(places + 1);
        status.places.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Self(Arc::clone(status)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.places.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Engine {
    /// Starts the thread. MLX is not touched before the first load.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(config: EngineConfig) -> std::io::Result<Self> {
        let (commands, receiver) =
            sync_channel(config.max_batch + config.max_queue + CONTROL_COMMANDS);
        let status = Arc::new(Status {
            started: Instant::now(),
            last_step_ms: AtomicU64::new(0),
            loading: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            running: AtomicUsize::new(0),
            live_sessions: AtomicUsize::new(0),
            live_bytes: AtomicUsize::new(0),
            places: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            preemptions: AtomicU64::new(0),
            reserved_bytes: AtomicU64::new(0),
            used_bytes: AtomicU64::new(0),
            step_bytes: AtomicU64::new(bridge::cache_limit_bytes()),
            peak_bytes: AtomicU64::new(0),
            request_bytes: AtomicU64::new(0),
            wired_limit_bytes: AtomicU64::new(0),
            pressure: AtomicU8::new(0),
            budget_bytes: AtomicU64::new(config.memory_budget.unwrap_or(u64::MAX)),
            failure: watch::Sender::new(None),
            step: Mutex::default(),
            namespaces: Mutex::default(),
        });
        let (max_batch, max_queue) = (config.max_batch, config.max_queue);
        let thread = std::thread::Builder::new().name("engine".into()).spawn({
            let status = Arc::clone(&status);
            // Made on its own thread: arrays never leave it.
            move || worker::supervise(Worker::new(receiver, config, Arc::clone(&status)), &status)
        })?;
        let shared = Shared {
            commands,
            status,
            thread: Mutex::new(Some(thread)),
            max_batch,
            max_queue,
            next_model: AtomicU64::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Loads the model folder `dir` under `name`, which is for people only. Running requests stand
    /// still while weights are read.
    ///
    /// # Errors
    /// When the folder is not a model that runs here; nothing of it stays in memory.
    pub async fn load(&self, dir: &Path, name: &str) -> Result<Model, LoadError> {
        self.load_with(dir, name, LoadOptions::default()).await
    }

    /// The same, with settings of one's own over those of the folder.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub async fn load_with(
        &self,
        dir: &Path,
        name: &str,
        options: LoadOptions,
    ) -> Result<Model, LoadError> {
        let started = Instant::now();
        let (reply, outcome) = oneshot::channel();
        let (held, gone) = Held::new();
        let id = ModelId(self.shared.next_model.fetch_add(1, Ordering::Relaxed));
        let (dir, name) = (dir.to_owned(), name.to_owned());
        let label = name.clone();
        let commands = self.shared.commands.clone();
        // Tokenizers take a while to parse: not on an async thread, and not on the engine's.
        let read = move || {
            // A tokenizer or a template may panic in a library's hands.
            let read = catch_unwind(AssertUnwindSafe(|| Folder::read(&dir)));
            let read = read.unwrap_or_else(|panic| {
                let what = format!("reading it panicked: {}", panic_text(&*panic));
                Err(LoadError::Invalid { path: dir, what })
            });
            let folder = match read {
                Ok(folder) => Arc::new(folder.with(options)),
                Err(error) => return drop(reply.send(Err(error))),
            };
            // The reply is dropped, and so answered, when the engine is gone.
            let _ = commands.send(Command::Load { id, name: label, folder, held, reply });
        };
        std::thread::Builder::new()
            .name("load".into())
            .spawn(read)
            .map_err(|source| LoadError::Io { path: "a thread".into(), source })?;
        let abandoned = UnloadOnDrop { engine: self, id };
        let (folder, info, cost) = outcome.await.unwrap_or(Err(LoadError::ShuttingDown))?;
        std::mem::forget(abandoned);
        let folder = Arc::try_unwrap(folder).map_err(|_| LoadError::ShuttingDown)?;
        let info = ModelInfo { load_time: started.elapsed(), ..info };
        Ok(Model::new(self.clone(), id, name, (info, cost), folder, gone))
    }

    /// Completes when the thread has ended by a panic, and says which. Nothing is computed any more then:
    /// what ran has failed, and what is asked for is refused.
    pub async fn failed(&self) -> String {
        let mut failure = self.shared.status.failure.subscribe();
        let why =
            failure.wait_for(Option::is_some).await.map(|why| why.clone().unwrap_or_default());
        match why {
            Ok(why) => why,
            // The sender is `self`'s own.
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether the engine gets on.
    pub fn progress(&self) -> Progress {
        let status = &self.shared.status;
        let now = status.started.elapsed();
        let last = Duration::from_millis(status.last_step_ms.load(Ordering::Relaxed));
        let running = status.running.load(Ordering::Relaxed);
        Progress {
            failed: status.failure.borrow().is_some(),
            busy: running > 0,
            loading: status.loading.load(Ordering::Relaxed),
            since_last_step: now.saturating_sub(last),
            running,
            waiting: status.waiting.load(Ordering::Relaxed),
            step: status.step.lock().unwrap_or_else(PoisonError::into_inner).clone().map(|step| {
                StepName {
                    model: step.model,
                    decoding: step.decoding,
                    prompt_tokens: step.prompt_tokens,
                    age: step.begin.elapsed(),
                }
            }),
            preemptions: status.preemptions.load(Ordering::Relaxed),
        }
    }

    /// Finished turns whose caches are in memory, and the bytes that these hold.
    pub fn live_sessions(&self) -> (usize, u64) {
        let status = &self.shared.status;
        let bytes = status.live_bytes.load(Ordering::Relaxed) as u64;
        (status.live_sessions.load(Ordering::Relaxed), bytes)
    }

    /// For each model loaded since the start: the namespaces of the store that its KV lies in, one
    /// for each salt met so far and the one without a salt. Namespaces follow from content: two
    /// names of one model share them.
    pub fn namespaces(&self) -> BTreeMap<String, BTreeSet<Namespace>> {
        self.shared.status.namespaces().clone()
    }

    /// Drops the caches of finished turns.
    pub fn clear_live_sessions(&self) {
        // An engine that is gone has dropped them itself.
        let _ = self.shared.commands.send(Command::ClearLive);
    }

    /// MLX's memory.
    pub fn memory(&self) -> MemoryUse {
        let bytes = |read: Result<usize>| read.map_or(0, |bytes| bytes as u64);
        MemoryUse {
            active_bytes: bytes(mlx_rs::memory::active_memory()),
            cache_bytes: bytes(mlx_rs::memory::cache_memory()),
            peak_bytes: bytes(mlx_rs::memory::peak_memory())
                .max(self.shared.status.peak_bytes.load(Ordering::Relaxed)),
            budget_bytes: match self.shared.status.budget_bytes.load(Ordering::Relaxed) {
                u64::MAX => 0,
                budget => budget,
            },
            running_bytes: self.shared.status.reserved_bytes.load(Ordering::Relaxed),
            step_bytes: self.shared.status.step_bytes.load(Ordering::Relaxed),
            used_bytes: self.shared.status.used_bytes.load(Ordering::Relaxed),
            wired_limit_bytes: self.shared.status.wired_limit_bytes.load(Ordering::Relaxed),
            pressure: match self.shared.status.pressure.load(Ordering::Relaxed) {
                0 => Pressure::Normal,
                1 => Pressure::Warning,
                _ => Pressure::Critical,
            },
        }
    }

    /// Counts bytes of the budget that requests take outside this crate: their bodies, and what
    /// is made of them. Replaces what was said before.
    pub fn set_request_bytes(&self, bytes: u64) {
        self.shared.status.request_bytes.store(bytes, Ordering::Relaxed);
    }

    /// What the budget leaves beside so many bytes of weights and the memory of steps; `None`: no
    /// limit.
    pub(crate) fn room_beside(&self, weights: u64) -> Option<u64> {
        match self.shared.status.budget_bytes.load(Ordering::Relaxed) {
            u64::MAX => None,
            budget => {
                let step = self.shared.status.step_bytes.load(Ordering::Relaxed);
                Some(budget.saturating_sub(weights).saturating_sub(step))
            }
        }
    }

    /// Ends the thread after the step under way: running and waiting requests fail with
    /// `ShuttingDown`. Calling it again changes nothing.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// Waits until the thread has ended. Blocks: not for an async thread.
    pub fn join(&self) {
        self.shared.join();
    }

    pub(crate) fn submit(
        &self,
        model: ModelId,
        request: GenerateRequest,
        tokenizer: Tokenizer,
        eos: Arc<[u32]>,
    ) -> Result<Generation, SubmitError> {
        let Shared { status, commands, max_batch, max_queue, .. } = &*self.shared;
        let full = SubmitError::QueueFull { waiting: *max_queue };
        let Some(place) = Place::take(status, max_batch + max_queue) else { return Err(full) };
        let (events, receiver) = mpsc::channel(TOKEN_CHANNEL);
        let Ok(last) = events.clone().try_reserve_owned() else {
            return Err(SubmitError::ShuttingDown);
        };
        let phase = Arc::new(PhaseCell::default());
        let generation = Generation::new(receiver, &request, tokenizer, eos, Arc::clone(&phase));
        let constraint = request.grammar.as_ref().map(Grammar::begin).map(Box::new);
        let submitted = Instant::now();
        let job = Job { model, request, constraint, events, last, phase, submitted, place };
        status.waiting.fetch_add(1, Ordering::Relaxed);
        let refused = match commands.try_send(Command::Submit(Box::new(job))) {
            Ok(()) => return Ok(generation),
            Err(TrySendError::Full(_)) => full,
            Err(TrySendError::Disconnected(_)) => SubmitError::ShuttingDown,
        };
        status.waiting.fetch_sub(1, Ordering::Relaxed);
        Err(refused)
    }

    pub(crate) fn unload(&self, model: ModelId) {
        // An engine that is gone has freed the weights itself.
        let _ = self.shared.commands.send(Command::Unload(model));
    }
}

/// Frees a model that nobody will hold: its load failed, or its caller went away meanwhile.
struct UnloadOnDrop<'a> {
    engine: &'a Engine,
    id: ModelId,
}

impl Drop for UnloadOnDrop<'_> {
    fn drop(&mut self) {
        self.engine.unload(self.id);
    }
}

impl Shared {
    fn stop(&self) {
        self.status.stopping.store(true, Ordering::Relaxed);
        // Wakes an idle thread. A full channel means that it is not idle.
        let _ = self.commands.try_send(Command::Wake);
    }

    fn join(&self) {
        let thread = self.thread.lock().ok().and_then(|mut thread| thread.take());
        if let Some(thread) = thread {
            // How it ended is told by its status.
            let _ = thread.join();
        }
    }
}

impl Drop for Shared {
    /// Waits for the thread: a process that ends while MLX computes would crash in MLX's own
    /// clean-up.
    fn drop(&mut self) {
        self.stop();
        self.join();
    }
}
