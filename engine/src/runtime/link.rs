//! The way to the engine thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::mpsc;

use crate::error::SubmitError;
use crate::runtime::command::{Command, Job};
use crate::runtime::events::PhaseCell;
use crate::runtime::generation::{GenerateRequest, Generation};
use crate::runtime::status::{AdmissionPermit, Status};
use crate::text::grammar::Grammar;
use crate::text::tokenizer::Tokenizer;
use crate::types::ModelId;

/// Tokens that may wait for a slow reader before its row pauses.
const TOKEN_CHANNEL: usize = 64;

/// What handles of the engine and of its models share: the way to its thread, and its status.
#[derive(Debug)]
pub(crate) struct EngineLink {
    pub(crate) commands: SyncSender<Command>,
    pub(crate) status: Arc<Status>,
    pub(crate) thread: Mutex<Option<JoinHandle<()>>>,
    pub(crate) max_batch: usize,
    pub(crate) max_queue: usize,
    pub(crate) next_model: AtomicU64,
}

impl EngineLink {
    /// What the budget leaves beside so many bytes of weights and the memory of steps; `None`: no
    /// limit.
    pub(crate) fn room_beside(&self, weights: u64) -> Option<u64> {
        match self.status.budget_bytes.load(Ordering::Relaxed) {
            u64::MAX => None,
            budget => {
                let step = self.status.step_bytes.load(Ordering::Relaxed);
                Some(budget.saturating_sub(weights).saturating_sub(step))
            }
        }
    }

    pub(crate) fn submit(
        &self,
        model: ModelId,
        request: GenerateRequest,
        tokenizer: Tokenizer,
        eos: Arc<[u32]>,
    ) -> Result<Generation, SubmitError> {
        let EngineLink { status, commands, max_batch, max_queue, .. } = self;
        let full = SubmitError::QueueFull { waiting: *max_queue };
        let Some(place) = AdmissionPermit::take(status, max_batch + max_queue) else {
            return Err(full);
        };
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
        let _ = self.commands.send(Command::Unload(model));
    }

    pub(crate) fn stop(&self) {
        self.status.stopping.store(true, Ordering::Relaxed);
        // Wakes an idle thread. A full channel means that it is not idle.
        let _ = self.commands.try_send(Command::Wake);
    }

    pub(crate) fn join(&self) {
        let thread = self.thread.lock().ok().and_then(|mut thread| thread.take());
        if let Some(thread) = thread {
            // How it ended is told by its status.
            let _ = thread.join();
        }
    }
}

impl Drop for EngineLink {
    /// Waits for the thread: a process that ends while MLX computes would crash in MLX's own
    /// clean-up.
    fn drop(&mut self) {
        self.stop();
        self.join();
    }
}
