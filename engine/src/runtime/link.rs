//! The connection to the engine thread.

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

/// Number of tokens that may wait for a slow reader before its row pauses.
const TOKEN_CHANNEL: usize = 64;

/// Shared by the handles of the engine and of its models: the command channel and the status.
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
    /// The bytes that the budget leaves besides `weights` bytes and step memory; `None`: no limit.
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
        let Some(permit) = AdmissionPermit::take(status, max_batch + max_queue) else {
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
        let job = Job { model, request, constraint, events, last, phase, submitted, permit };
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
        // An engine that has ended has freed the weights already.
        let _ = self.commands.send(Command::Unload(model));
    }

    pub(crate) fn stop(&self) {
        self.status.stopping.store(true, Ordering::Relaxed);
        // This wakes an idle thread. If the channel is full, the thread is not idle.
        let _ = self.commands.try_send(Command::Wake);
    }

    pub(crate) fn join(&self) {
        let thread = self.thread.lock().ok().and_then(|mut thread| thread.take());
        if let Some(thread) = thread {
            // The status tells how the thread ended.
            let _ = thread.join();
        }
    }
}

impl Drop for EngineLink {
    /// Waits for the thread, because a process that ends while MLX computes would crash in MLX's
    /// clean-up.
    fn drop(&mut self) {
        self.stop();
        self.join();
    }
}
