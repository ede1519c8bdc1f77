//! The thread that owns MLX: every array is created, evaluated and dropped on it.
//!
//! It takes decisions from the scheduler, carries them out, and reports the results to it. While
//! one step is in flight, the graph of the next one is built and the tokens of the previous one are
//! sent.

mod admission;
mod constrained;
mod steps;
mod supervision;
#[cfg(test)]
mod tests;

use crate::runtime::command::Command;
use crate::runtime::command::Job;
use crate::runtime::command::LoadReply;
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use kvstore::platform::{Intent, Pressure, set_intent};

use crate::error::{GenerateError, LoadError};
use crate::kv::{Donor, Reuse};
use crate::mlx::bridge;
use crate::panic_text;
use crate::runtime::batch::StepGraph;
use crate::runtime::command::UnloadNotifier;
use crate::runtime::config::EngineConfig;
use crate::runtime::files::ModelFiles;
use crate::runtime::loaded::{ClearCache, Loaded, WeightBudget};
use crate::runtime::memory::MemoryBudget;
use crate::runtime::reasoning_budget::ReasoningBudget;
use crate::runtime::report::GuardAction;
use crate::runtime::row::{DrainingRequest, Row, Sequence};
use crate::runtime::status::Status;
use crate::sched::{Decision, Limits, RowId, SchedRequest, Scheduler};
use crate::text::grammar::{MaskState, Masks};
use crate::types::ModelId;
use crate::types::{FinishReason, RowPhase};
use admission::{CommonPrefixes, Tenants};
pub(crate) use supervision::supervise;

/// Polling interval for a row whose reader is behind.
const BLOCKED_POLL: Duration = Duration::from_millis(1);
/// Polling interval for requests that wait for memory.
const WAITING_POLL: Duration = Duration::from_millis(20);
/// If a wait was shorter than this, the token was already computed.
const WAITED: Duration = Duration::from_micros(10);
/// The longest wait of an idle thread, so that it notices when its handles are dropped.
const IDLE_POLL: Duration = Duration::from_secs(1);
/// Number of failed steps shared with other rows after which a request itself fails.
const MAX_FAILED_STEPS: u32 = 3;
/// The longest pause after one step that the duty cycle adds.
const MAX_DUTY_PAUSE: Duration = Duration::from_secs(1);

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Worker {
    commands: Receiver<Command>,
    config: EngineConfig,
    status: Arc<Status>,
    models: HashMap<ModelId, Rc<Loaded>>,
    /// Waiting and running requests.
    rows: BTreeMap<RowId, Row>,
    /// Requests that are computed, but whose events are not all read.
    leaving: Vec<DrainingRequest>,
    scheduler: Scheduler,
    /// The step that MLX is computing.
    in_flight: Option<InFlightStep>,
    /// When the last step was complete, unless there was a pause since then.
    last_end: Option<Instant>,
    reuse: Reuse,
    /// Advances the rows' grammar constraints.
    masks: Masks,
    account: MemoryBudget,
    next_row: RowId,
    /// Common prefixes of waiting prompts with those being computed.
    common: CommonPrefixes,
    tenants: Tenants,
    started: Instant,
    /// Whether the next step is handed to MLX before the last tokens are read. On Metal this keeps
    /// the GPU busy. On the CPU backend the caches' buffers would still be shared when the next
    /// step writes into them, so MLX would copy them.
    overlap: bool,
    /// Whether the observer was notified of work since the last idle notification.
    at_work: bool,
}

/// A step that was handed to MLX.
#[derive(Debug)]
struct InFlightStep {
    built: StepGraph,
    handed_over: Instant,
}

impl Worker {
    pub(crate) fn new(
        commands: Receiver<Command>,
        config: EngineConfig,
        status: Arc<Status>,
    ) -> Self {
        let limits = Limits {
            max_batch: config.max_batch,
            prefill_chunk: config.prefill_chunk.max(1),
            decode_stall: config.decode_stall,
        };
        let account = MemoryBudget::new(&config);
        Self {
            reuse: Reuse::new(config.reuse.clone()),
            scheduler: Scheduler::new(limits, account.memory()),
            commands,
            config,
            status,
            models: HashMap::new(),
            rows: BTreeMap::new(),
            leaving: Vec::new(),
            masks: Masks::default(),
            in_flight: None,
            last_end: None,
            account,
            next_row: 0,
            common: CommonPrefixes::default(),
            tenants: Tenants::default(),
            started: Instant::now(),
            overlap: false,
            at_work: false,
        }
    }

    /// Runs until the engine stops or its handles are gone.
    fn run(&mut self) {
        set_intent(Intent::Compute);
        while !self.status.stopping.load(Ordering::Relaxed) && self.take_commands() {
            self.end_unread_rows();
            self.flush_readers();
            self.adapt_to_pressure();
            self.drain_before_reasoning_ends();
            self.advance_constraints();
            let now = self.started.elapsed();
            let (scheduler, rows, common) = (&mut self.scheduler, &self.rows, &mut self.common);
            let decision = scheduler.next(now, &mut |id| common.may_start(rows, id));
            match decision {
                Decision::Expire(id) => self.end_early(id, Some(GenerateError::Deadline)),
                Decision::Refuse(id) => {
                    self.config.observer.guarded(GuardAction::Abort);
                    self.end_early(id, Some(GenerateError::NoMemory));
                }
                Decision::Admit(id) => self.admit(id),
                Decision::Reclaim(bytes) => self.reclaim(bytes),
                Decision::Preempt(id) => self.preempt(id),
                Decision::Step(plan) => self.step(&plan),
                Decision::Wait if self.in_flight.is_some() => self.drain(),
                Decision::Wait if self.masks.is_waiting() => self.await_mask(),
                Decision::Wait => {
                    // A thread without work is not stalled.
                    self.status.alive();
                    self.last_end = None;
                    self.flush_idle_sessions(false);
                    if self.rows.is_empty() && self.leaving.is_empty() {
                        self.notify_idle();
                    }
                    if !self.pause() {
                        break;
                    }
                }
            }
            self.tell_status();
        }
        self.shut_down();
    }

    fn shut_down(&mut self) {
        self.drain();
        let ids: Vec<RowId> = self.rows.keys().copied().collect();
        for id in ids {
            self.end_early(id, Some(GenerateError::ShuttingDown));
        }
        for leaving in self.leaving.drain(..) {
            leaving.fail(GenerateError::ShuttingDown);
        }
        self.flush_idle_sessions(true);
        self.notify_idle();
        self.tell_status();
    }

    fn notify_idle(&mut self) {
        if std::mem::take(&mut self.at_work) {
            self.config.observer.idle();
        }
    }

    fn tell_status(&mut self) {
        self.account.request_bytes = self.status.request_bytes.load(Ordering::Relaxed);
        let (running, _) = self.scheduler.counts();
        self.status.running.store(running, Ordering::Relaxed);
        self.status.reserved_bytes.store(self.scheduler.reserved_bytes(), Ordering::Relaxed);
        self.status.used_bytes.store(self.account.used_bytes(), Ordering::Relaxed);
        self.status.step_bytes.store(self.account.step_bytes(), Ordering::Relaxed);
        self.status.peak_bytes.store(self.account.peak_bytes(), Ordering::Relaxed);
        self.status.pressure.store(self.account.pressure() as u8, Ordering::Relaxed);
    }

    /// Stores the ends of idle live sessions or, with `all`, of every session.
    fn flush_idle_sessions(&mut self, all: bool) {
        let reuse = &mut self.reuse;
        guarded("saving the live sessions", || reuse.flush_idle_sessions(all));
        self.note_live();
    }

    fn note_live(&mut self) {
        let (sessions, bytes) = self.reuse.live_use();
        self.status.live_sessions.store(sessions, Ordering::Relaxed);
        self.status.live_bytes.store(bytes, Ordering::Relaxed);
        self.account.live_bytes = bytes as u64;
        self.account_for_memory();
    }

    fn account_for_memory(&mut self) {
        self.scheduler.set_memory(self.account.memory());
    }

    /// Processes the waiting commands. Returns false when no more can arrive.
    fn take_commands(&mut self) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            self.handle(command);
        }
        true
    }

    /// Waits for a command until other work is due. Returns false when no more commands can arrive.
    fn pause(&mut self) -> bool {
        let blocked = !self.leaving.is_empty() || self.rows.values().any(Row::is_blocked);
        let wait = match (blocked, self.rows.is_empty()) {
            (true, _) => BLOCKED_POLL,
            (false, false) => WAITING_POLL,
            (false, true) => IDLE_POLL,
        };
        match self.commands.recv_timeout(wait) {
            Ok(command) => self.handle(command),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        true
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Load { id, name, folder, notifier, reply } => {
                self.drain();
                self.load(id, name, folder, notifier, reply);
            }
            Command::Submit(job) => self.arrive(job),
            Command::Unload(id) => {
                self.drain();
                self.unload(id);
            }
            Command::ClearLive => {
                self.reuse.clear_live();
                self.note_live();
            }
            Command::Wake => {}
        }
    }

    fn unload(&mut self, id: ModelId) {
        let Some(model) = self.models.remove(&id) else { return };
        let reuse = &mut self.reuse;
        guarded("dropping a model's KV caches", || reuse.forget(id));
        // A request that still runs keeps the weights until it ends.
        drop(model);
        self.forget_costs();
        self.note_live();
        self.wire();
    }

    /// Drops the costs of unloaded models. Every load has a new id.
    fn forget_costs(&mut self) {
        let models = &self.models;
        self.scheduler.keep_costs(|model| models.contains_key(&ModelId(model)));
    }

    /// Keeps memory up to the budget wired while models are loaded.
    fn wire(&self) {
        let wanted = if self.models.is_empty() { 0 } else { self.account.budget_bytes() };
        let set = bridge::set_wired_limit(wanted);
        self.status.wired_limit_bytes.store(set, Ordering::Relaxed);
    }

    fn load(
        &mut self,
        id: ModelId,
        name: String,
        folder: Arc<ModelFiles>,
        notifier: UnloadNotifier,
        reply: LoadReply,
    ) {
        if reply.is_closed() {
            return;
        }
        self.status.loading.store(true, Ordering::Relaxed);
        self.at_work = true;
        self.config.observer.loads(&name);
        let room = WeightBudget {
            free_bytes: self.room_for_weights(),
            budget_bytes: self.account.budget_bytes(),
            step_bytes: self.account.step_bytes(),
        };
        let loaded = catch_unwind(AssertUnwindSafe(|| {
            bridge::init().map_err(|error| LoadError::Mlx {
                path: folder.dir.clone(),
                what: error.what().to_owned(),
            })?;
            self.overlap = bridge::metal_is_available();
            Loaded::load(id, name, &folder, notifier, self.config.compute_dtype, room)
        }));
        self.status.loading.store(false, Ordering::Relaxed);
        self.status.alive();
        let answer = match loaded {
            Ok(Ok((loaded, info, cost))) => {
                let namespace = loaded.reuse.namespace(self.config.reuse.block_tokens.max(1), "");
                self.status.note_namespace(&loaded.reuse.name, namespace);
                let loaded = Rc::new(loaded);
                self.account.add_model(&loaded, info.weight_bytes);
                self.models.insert(id, loaded);
                self.forget_costs();
                self.account_for_memory();
                self.wire();
                let over = self.account.over_bytes(self.scheduler.reserved_bytes());
                if over > 0 {
                    self.reclaim(over);
                }
                Ok((folder, info, cost))
            }
            Ok(Err(error)) => {
                drop(ClearCache);
                Err(error)
            }
            Err(panic) => {
                Err(LoadError::Mlx { path: folder.dir.clone(), what: panic_text(&*panic) })
            }
        };
        if let Err(Ok(_)) = reply.send(answer) {
            // The caller is gone, so it will never unload the model.
            self.unload(id);
        }
    }

    /// Bytes that the budget leaves for weights after everything kept for later is dropped.
    fn room_for_weights(&self) -> u64 {
        let free = self.account.memory().free_bytes(self.scheduler.reserved_bytes(), true);
        free + self.account.kept_bytes()
    }

    fn arrive(&mut self, job: Box<Job>) {
        let Some(model) = self.models.get(&job.model) else {
            self.status.waiting.fetch_sub(1, Ordering::Relaxed);
            return job.fail(GenerateError::ShuttingDown);
        };
        let row = Row::new(job, Rc::clone(model));
        let id = self.next_row;
        self.next_row += 1;
        let request = self.sched_request(&row, false);
        self.rows.insert(id, row);
        self.scheduler.arrive(id, request);
    }

    fn sched_request(&mut self, row: &Row, solo: bool) -> SchedRequest {
        let request = &row.job.request;
        let others = self.rows.values().map(|row| row.job.request.tenant.as_str());
        let tenant = self.tenants.number(&request.tenant, others);
        let deadline = request.deadline;
        SchedRequest {
            tenant,
            model: row.job.model.0,
            tokens: request.prompt.len() + row.generated.len(),
            left: request.max_tokens - row.generated.len(),
            deadline: deadline.map(|at| at.saturating_duration_since(self.started)),
            cost: row.model.cost.clone(),
            solo,
        }
    }

    /// Finishes the step in flight if a row's reasoning is about to be ended: the row cannot be
    /// computed ahead, because its next token depends on the one in flight.
    fn drain_before_reasoning_ends(&mut self) {
        let near = |id| {
            let thoughts = self.rows.get(id).and_then(|row| row.thoughts.as_ref());
            thoughts.is_some_and(ReasoningBudget::is_near_end)
        };
        if self.in_flight.as_ref().is_some_and(|step| step.built.outputs.iter().any(near)) {
            self.drain();
        }
    }

    /// Ends the rows whose clients are gone.
    fn end_unread_rows(&mut self) {
        let gone = self.rows.iter().filter(|(_, row)| !row.is_wanted()).map(|(id, _)| *id);
        for id in gone.collect::<Vec<_>>() {
            self.end_early(id, None);
        }
    }

    /// Sends waiting events to slow clients. Ends requests whose clients receive nothing for too
    /// long.
    fn flush_readers(&mut self) {
        let limit = self.config.slow_reader;
        let leaving = std::mem::take(&mut self.leaving);
        self.leaving = leaving.into_iter().filter_map(|leaving| leaving.send(limit)).collect();
        let mut stuck = Vec::new();
        for (&id, row) in self.rows.iter_mut().filter(|(_, row)| row.is_blocked()) {
            if row.flush() {
                self.scheduler.set_blocked(id, false);
            } else if row.blocked_for() > limit {
                stuck.push(id);
            }
        }
        for id in stuck {
            self.end_early(id, Some(GenerateError::SlowReader(limit.as_secs())));
        }
    }

    /// Polls the system's memory pressure and frees memory if necessary.
    fn adapt_to_pressure(&mut self) {
        if let Some(pressure) = self.account.poll(&*self.config.sensor) {
            if pressure != Pressure::Normal {
                tracing::warn!(pressure = pressure.as_str(), "the system is short of memory");
                self.config.observer.guarded(GuardAction::Pause);
            }
            let too_much = self.account.adapt(self.scheduler.reserved_bytes());
            self.account_for_memory();
            if too_much > 0 {
                self.reclaim(too_much);
            }
        }
    }

    /// Starts or resumes a request.
    fn admit(&mut self, id: RowId) {
        let Some(mut row) = self.rows.remove(&id) else { return self.scheduler.end(id) };
        self.status.waiting.fetch_sub(1, Ordering::Relaxed);
        // The request counts as running from here on: a disk that hangs during its restore is a
        // stall.
        self.tell_status();
        let tokens = row.tokens();
        let reuse = &mut self.reuse;
        let others = self.rows.values().filter_map(|row| {
            let Sequence { cache, track, .. } = row.sequence.as_ref()?;
            Some(Donor { cache, track })
        });
        let others: Vec<Donor<'_>> = others.collect();
        let begun = catch_unwind(AssertUnwindSafe(|| {
            let begun = reuse.restore_prefix(
                &row.model.reuse,
                &tokens,
                &row.job.request.cache_salt,
                &others,
            );
            let namespace = *begun.track.chain.namespace();
            let reused = begun.track.tokens.len();
            row.start(begun).map(|()| (namespace, reused))
        }));
        let error = match begun {
            Ok(Ok((namespace, reused))) => {
                self.status.note_namespace(&row.model.reuse.name, namespace);
                let awaits = matches!(row.constraint, Some(MaskState::Pending));
                self.rows.insert(id, row);
                self.scheduler.started(id, reused);
                self.scheduler.set_awaits_mask(id, awaits);
                return self.note_live();
            }
            Ok(Err(error)) => GenerateError::Mlx(error.what().to_owned()),
            Err(panic) => {
                tracing::error!(
                    panic = panic_text(&*panic),
                    "restoring a prompt's KV cache panicked"
                );
                GenerateError::Internal
            }
        };
        self.scheduler.end(id);
        row.fail(error);
    }

    /// Ends a request early. Its caches are kept for the next turn.
    fn end_early(&mut self, id: RowId, error: Option<GenerateError>) {
        self.scheduler.end(id);
        let Some(mut row) = self.rows.remove(&id) else { return };
        if row.sequence.is_none() {
            self.status.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        self.park(&mut row);
        if let Some(error) = error {
            row.fail(error);
        }
    }

    /// Ends a request whose answer is complete.
    fn complete(&mut self, id: RowId, finish: FinishReason) {
        self.scheduler.end(id);
        let Some(mut row) = self.rows.remove(&id) else { return };
        if row.sequence.is_none() {
            self.status.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        // Park the caches first: a client that reads the end may send the next turn at once.
        self.park(&mut row);
        self.leaving.extend(row.leave(finish).send(self.config.slow_reader));
    }

    /// Keeps a row's caches for the next turn.
    fn park(&mut self, row: &mut Row) {
        let Some(sequence) = row.sequence.take() else { return };
        let Sequence { cache, track, .. } = sequence;
        let (model, prompt_tokens) = (Rc::clone(&row.model.reuse), row.job.request.prompt.len());
        let reuse = &mut self.reuse;
        let kept = guarded("keeping a finished turn's KV cache", || {
            reuse.park(model, cache, track, prompt_tokens)
        });
        if let Some(Err(error)) = kept {
            tracing::warn!(error = error.what(), "a finished turn's KV cache was not kept");
        }
        self.note_live();
    }

    /// Frees memory: first caches kept for later, then idle models.
    fn reclaim(&mut self, bytes: u64) {
        self.drain();
        let before = self.account.used_bytes();
        let reuse = &mut self.reuse;
        guarded("freeing kept KV caches", || reuse.shrink(bytes));
        self.note_live();
        let mut given = before.saturating_sub(self.account.used_bytes());
        if given < bytes {
            given += self.account.shrink_ram_tier(bytes - given);
        }
        if given > 0 {
            self.config.observer.guarded(GuardAction::ShrinkCache);
        }
        if given < bytes {
            self.account.set_short(true);
            self.config.observer.room_wanted(bytes - given);
        }
        let _ = mlx_rs::memory::clear_cache();
        self.account_for_memory();
    }

    /// Puts a row back into the queue. Its KV cache goes to the store.
    fn preempt(&mut self, id: RowId) {
        self.drain();
        // The row's last token may have ended it.
        let Some(mut row) = self.rows.remove(&id) else { return };
        if let Some(Sequence { cache, track, .. }) = row.sequence.take() {
            let (model, prompt_tokens) =
                (Rc::clone(&row.model.reuse), row.job.request.prompt.len());
            let reuse = &mut self.reuse;
            guarded("saving a preempted row's KV cache", || {
                reuse.swap_out(model, cache, track, prompt_tokens)
            });
            self.status.preemptions.fetch_add(1, Ordering::Relaxed);
            self.config.observer.preempted(&row.model.reuse.name);
        }
        self.requeue(id, row, false);
    }

    fn requeue(&mut self, id: RowId, mut row: Row, solo: bool) {
        row.sequence = None;
        self.status.waiting.fetch_add(1, Ordering::Relaxed);
        row.job.phase.set(RowPhase::Queued);
        let request = self.sched_request(&row, solo);
        self.rows.insert(id, row);
        self.scheduler.arrive(id, request);
    }
}

/// Runs code whose panic must not fail a request. Returns `None` after a panic, which is logged.
fn guarded<T>(what: &'static str, run: impl FnOnce() -> T) -> Option<T> {
    let outcome = catch_unwind(AssertUnwindSafe(run));
    outcome.inspect_err(|panic| tracing::error!(panic = panic_text(&**panic), what, "a panic")).ok()
}
