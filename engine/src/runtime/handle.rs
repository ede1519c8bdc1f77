//! The engine's handle, which other threads use to reach the thread that owns MLX.

use crate::runtime::config::EngineConfig;
use crate::runtime::link::EngineLink;
use crate::runtime::report::MemoryUse;
use crate::runtime::report::Progress;
use crate::runtime::report::StepName;
use crate::runtime::status::Status;
use crate::types::ModelId;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kvstore::Namespace;
use kvstore::platform::Pressure;
use tokio::sync::oneshot;

use crate::error::{LoadError, Result};
use crate::panic_text;
use crate::runtime::command::Command;
use crate::runtime::command::UnloadNotifier;
use crate::runtime::files::{LoadOptions, ModelFiles};
use crate::runtime::model::Model;
use crate::runtime::worker::{self, Worker};
use crate::types::ModelInfo;

/// Capacity of the command channel for commands that are not requests: loads, unloads, wake-ups.
const CONTROL_COMMANDS: usize = 64;

/// A handle to the engine thread. Clones share it. The thread ends at [`Engine::stop`], or when the
/// last handle is dropped.
#[derive(Debug, Clone)]
pub struct Engine {
    link: Arc<EngineLink>,
}

impl Engine {
    /// Starts the thread. MLX is not used before the first load.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub fn start(config: EngineConfig) -> std::io::Result<Self> {
        let (commands, receiver) =
            sync_channel(config.max_batch + config.max_queue + CONTROL_COMMANDS);
        let status = Arc::new(Status::new(config.memory_budget));
        let (max_batch, max_queue) = (config.max_batch, config.max_queue);
        let thread = std::thread::Builder::new().name("engine".into()).spawn({
            let status = Arc::clone(&status);
            // The worker is created on its own thread, because arrays never leave it.
            move || worker::supervise(Worker::new(receiver, config, Arc::clone(&status)), &status)
        })?;
        let link = EngineLink {
            commands,
            status,
            thread: Mutex::new(Some(thread)),
            max_batch,
            max_queue,
            next_model: AtomicU64::new(0),
        };
        Ok(Self { link: Arc::new(link) })
    }

    /// Loads the model folder `dir` under `name`, which is only used for display. Running requests
    /// pause while weights are read.
    ///
    /// # Errors
    /// If the folder is not a supported model. Nothing of it then stays in memory.
    pub async fn load(&self, dir: &Path, name: &str) -> Result<Model, LoadError> {
        self.load_with(dir, name, LoadOptions::default()).await
    }

    /// Like [`Engine::load`], with the user's settings over those of the folder.
    ///
    /// # Errors
    /// The same as [`Engine::load`].
    pub async fn load_with(
        &self,
        dir: &Path,
        name: &str,
        options: LoadOptions,
    ) -> Result<Model, LoadError> {
        let started = Instant::now();
        let (reply, outcome) = oneshot::channel();
        let (notifier, gone) = UnloadNotifier::new();
        let id = ModelId(self.link.next_model.fetch_add(1, Ordering::Relaxed));
        let (dir, name) = (dir.to_owned(), name.to_owned());
        let label = name.clone();
        let commands = self.link.commands.clone();
        // Parsing a tokenizer takes long, so neither an async thread nor the engine thread does it.
        let read = move || {
            // A library may panic on a tokenizer or a template.
            let read = catch_unwind(AssertUnwindSafe(|| ModelFiles::read(&dir)));
            let read = read.unwrap_or_else(|panic| {
                let what = format!("reading it panicked: {}", panic_text(&*panic));
                Err(LoadError::Invalid { path: dir, what })
            });
            let folder = match read {
                Ok(folder) => Arc::new(folder.with(options)),
                Err(error) => return drop(reply.send(Err(error))),
            };
            // If the engine has ended, dropping the reply answers the call.
            let _ = commands.send(Command::Load { id, name: label, folder, notifier, reply });
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
        Ok(Model::new(Arc::clone(&self.link), id, name, (info, cost), folder, gone))
    }

    /// Completes when the thread has ended by a panic, and returns the panic's text. From then on
    /// running requests have failed and new ones are rejected.
    pub async fn failed(&self) -> String {
        let mut failure = self.link.status.failure.subscribe();
        let why =
            failure.wait_for(Option::is_some).await.map(|why| why.clone().unwrap_or_default());
        match why {
            Ok(why) => why,
            // `self` owns the sender.
            Err(_) => std::future::pending().await,
        }
    }

    /// Reports whether the engine makes progress.
    pub fn progress(&self) -> Progress {
        let status = &self.link.status;
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

    /// The number of finished turns whose caches are in memory, and their bytes.
    pub fn live_sessions(&self) -> (usize, u64) {
        let status = &self.link.status;
        let bytes = status.live_bytes.load(Ordering::Relaxed) as u64;
        (status.live_sessions.load(Ordering::Relaxed), bytes)
    }

    /// The store's namespaces of each model loaded since the start: one for each salt used so far
    /// and one without a salt. Namespaces depend on content only, so two names of one model share
    /// them.
    pub fn namespaces(&self) -> BTreeMap<String, BTreeSet<Namespace>> {
        self.link.status.namespaces().clone()
    }

    /// Drops the caches of finished turns.
    pub fn clear_live_sessions(&self) {
        // An engine that has ended has dropped them already.
        let _ = self.link.commands.send(Command::ClearLive);
    }

    /// Memory use of MLX and of the engine.
    pub fn memory(&self) -> MemoryUse {
        let bytes = |read: Result<usize>| read.map_or(0, |bytes| bytes as u64);
        MemoryUse {
            active_bytes: bytes(mlx_rs::memory::active_memory()),
            cache_bytes: bytes(mlx_rs::memory::cache_memory()),
            peak_bytes: bytes(mlx_rs::memory::peak_memory())
                .max(self.link.status.peak_bytes.load(Ordering::Relaxed)),
            budget_bytes: match self.link.status.budget_bytes.load(Ordering::Relaxed) {
                u64::MAX => 0,
                budget => budget,
            },
            running_bytes: self.link.status.reserved_bytes.load(Ordering::Relaxed),
            step_bytes: self.link.status.step_bytes.load(Ordering::Relaxed),
            used_bytes: self.link.status.used_bytes.load(Ordering::Relaxed),
            wired_limit_bytes: self.link.status.wired_limit_bytes.load(Ordering::Relaxed),
            pressure: match self.link.status.pressure.load(Ordering::Relaxed) {
                0 => Pressure::Normal,
                1 => Pressure::Warning,
                _ => Pressure::Critical,
            },
        }
    }

    /// Sets the bytes of the memory budget that requests use outside this crate: their bodies and
    /// the data built from them. Replaces the previous value.
    pub fn set_request_bytes(&self, bytes: u64) {
        self.link.status.request_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Ends the thread after the step in flight. Running and waiting requests fail with
    /// `ShuttingDown`. Calling it again has no effect.
    pub fn stop(&self) {
        self.link.stop();
    }

    /// Waits until the thread has ended. Blocks, so do not call it on an async thread.
    pub fn join(&self) {
        self.link.join();
    }
}

/// Frees a model that has no handle, because its load failed or its caller went away meanwhile.
struct UnloadOnDrop<'a> {
    engine: &'a Engine,
    id: ModelId,
}

impl Drop for UnloadOnDrop<'_> {
    fn drop(&mut self) {
        self.engine.link.unload(self.id);
    }
}
