//! The thread that owns MLX: every array is made, evaluated and dropped here.
//!
//! It asks the scheduler what to do, does it, and tells the scheduler what came of it. A step is
//! under way while the graph of the next one is made and while the tokens of the one before are sent.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use mlx_rs::transforms::{async_eval, eval};
use tokio::sync::{mpsc, oneshot};

use crate::batch::{Built, Part, build};
use crate::bridge;
use crate::engine::{CurrentStep, EngineConfig, ModelId, Phase, Status, StepReport};
use crate::error::{GenerateError, LoadError, Result};
use crate::generation::{GenerateRequest, PhaseCell, Raw, RowPhase};
use crate::loaded::{ClearCache, Held, Loaded};
use crate::memory::{Account, Pressure};
use crate::model::{Folder, ModelInfo};
use crate::reuse::{Donor, Reuse, common_prefix};
use crate::row::{Leaving, Next, Row, Sequence, read_logprobs};
use crate::schedule::{
    Asking, Decision, KvCost, Limits, RowId, Scheduler, StepCost, StepPlan, Tenant,
};

/// How long a row whose reader is behind waits before it looks again.
const BLOCKED_POLL: Duration = Duration::from_millis(1);
/// The same for requests that wait for memory.
const WAITING_POLL: Duration = Duration::from_millis(20);
/// A wait shorter than this found its token computed.
const WAITED: Duration = Duration::from_micros(10);
/// The longest wait of an idle thread, so that it notices the end of its handles.
const IDLE_POLL: Duration = Duration::from_secs(1);
/// A request whose steps failed so often beside others fails itself.
const MAX_FALLS: u32 = 3;
/// The longest pause that a duty cycle makes after one step.
const MAX_REST: Duration = Duration::from_secs(1);
/// Shared tokens that are worth waiting for.
const WORTH_WAITING: usize = 256;

/// What other threads ask of this one.
#[derive(Debug)]
pub(crate) enum Command {
    Load { id: ModelId, name: String, folder: Arc<Folder>, held: Held, reply: LoadReply },
    Submit(Box<Job>),
    Unload(ModelId),
    ClearLive,
    Wake,
}

type LoadReply = oneshot::Sender<Result<(Arc<Folder>, ModelInfo, KvCost), LoadError>>;

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) model: ModelId,
    pub(crate) request: GenerateRequest,
    pub(crate) events: mpsc::Sender<Raw>,
    /// The place in the channel that is kept for how the request ends.
    pub(crate) last: mpsc::OwnedPermit<Raw>,
    pub(crate) phase: Arc<PhaseCell>,
    pub(crate) submitted: Instant,
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Worker {
    commands: Receiver<Command>,
    config: EngineConfig,
    status: Arc<Status>,
    models: HashMap<ModelId, Rc<Loaded>>,
    /// Requests that wait or run.
    rows: BTreeMap<RowId, Row>,
    /// Requests that are computed, but not read to their end.
    leaving: Vec<Leaving>,
    scheduler: Scheduler,
    /// The step that MLX computes.
    under_way: Option<UnderWay>,
    /// When the last step was complete, unless there was a pause since.
    last_end: Option<Instant>,
    reuse: Reuse,
    account: Account,
    next_row: RowId,
    tenants: HashMap<String, Tenant>,
    started: Instant,
    /// Whether the next step is handed to MLX before the last tokens are read. On Metal that keeps
    /// the GPU busy. On the CPU backend it would keep the caches' buffers shared while the next step
    /// wants to write into them, and MLX would copy them.
    overlap: bool,
}

/// A step that was handed to MLX.
#[derive(Debug)]
struct UnderWay {
    built: Built,
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
        let account = Account::new(&config);
        Self {
            reuse: Reuse::new(config.reuse.clone()),
            scheduler: Scheduler::new(limits, account.memory()),
            commands,
            config,
            status,
            models: HashMap::new(),
            rows: BTreeMap::new(),
            leaving: Vec::new(),
            under_way: None,
            last_end: None,
            account,
            next_row: 0,
            tenants: HashMap::new(),
            started: Instant::now(),
            overlap: false,
        }
    }

    /// Runs until the engine stops or its handles are gone.
    pub(crate) fn run(mut self) {
        kvstore::set_intent(kvstore::Intent::Compute);
        while !self.status.stopping.load(Ordering::Relaxed) && self.take_commands() {
            self.look_after();
            let now = self.started.elapsed();
            let (scheduler, rows) = (&mut self.scheduler, &self.rows);
            let decision = scheduler.next(now, &mut |id| may_start(rows, id));
            match decision {
                Decision::Expire(id) => self.end_early(id, Some(GenerateError::Deadline)),
                Decision::Refuse(id) => self.end_early(id, Some(GenerateError::NoMemory)),
                Decision::Admit(id) => self.admit(id),
                Decision::Reclaim(bytes) => self.reclaim(bytes),
                Decision::Preempt(id) => self.preempt(id),
                Decision::Step(plan) => self.step(&plan),
                Decision::Wait if self.under_way.is_some() => self.drain(),
                Decision::Wait => {
                    // Nothing can be computed: that is no standstill.
                    self.status.alive();
                    self.last_end = None;
                    self.rest(false);
                    if !self.pause() {
                        break;
                    }
                }
            }
            self.tell_status();
        }
        self.shut_down();
    }

    fn shut_down(mut self) {
        self.drain();
        let ids: Vec<RowId> = self.rows.keys().copied().collect();
        for id in ids {
            self.end_early(id, Some(GenerateError::ShuttingDown));
        }
        for leaving in self.leaving.drain(..) {
            leaving.fail(GenerateError::ShuttingDown);
        }
        self.rest(true);
        self.tell_status();
    }

    fn tell_status(&self) {
        let (running, _) = self.scheduler.counts();
        self.status.running.store(running, Ordering::Relaxed);
        self.status.reserved_bytes.store(self.scheduler.reserved_bytes(), Ordering::Relaxed);
        self.status.used_bytes.store(self.account.used_bytes(), Ordering::Relaxed);
        self.status.step_bytes.store(self.account.step_bytes(), Ordering::Relaxed);
    }

    /// Hands the ends of live sessions to the store.
    fn rest(&mut self, all: bool) {
        let reuse = &mut self.reuse;
        guarded("saving the live sessions", || reuse.rest(all));
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

    /// Takes the commands that are there. False when no more can come.
    fn take_commands(&mut self) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            self.handle(command);
        }
        true
    }

    /// Waits for a command, for as long as nothing else can happen. False when none can come.
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
            Command::Load { id, name, folder, held, reply } => {
                self.drain();
                self.load(id, name, folder, held, reply);
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
        guarded("forgetting a model's KV", || reuse.forget(id));
        // A request that still runs keeps the weights until it ends.
        drop(model);
        self.note_live();
    }

    fn load(
        &mut self,
        id: ModelId,
        name: String,
        folder: Arc<Folder>,
        held: Held,
        reply: LoadReply,
    ) {
        if reply.is_closed() {
            return;
        }
        self.status.loading.store(true, Ordering::Relaxed);
        let limits = (self.room_for_weights(), self.account.budget_bytes());
        let loaded = catch_unwind(AssertUnwindSafe(|| {
            bridge::init().map_err(|error| LoadError::Mlx {
                path: folder.dir.clone(),
                what: error.what().to_owned(),
            })?;
            self.overlap = bridge::metal_is_available();
            Loaded::load(id, name, &folder, held, self.config.compute_dtype, limits)
        }));
        self.status.loading.store(false, Ordering::Relaxed);
        self.status.alive();
        let answer = match loaded {
            Ok(Ok((loaded, info, cost))) => {
                let namespace = loaded.reuse.namespace(self.config.reuse.block_tokens.max(1), "");
                self.status.note_namespace(&loaded.reuse.name, namespace);
                let loaded = Rc::new(loaded);
                self.account.model_here(&loaded, info.weight_bytes);
                self.models.insert(id, loaded);
                self.account_for_memory();
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
                Err(LoadError::Mlx { path: folder.dir.clone(), what: panic_text(&panic) })
            }
        };
        if let Err(Ok(_)) = reply.send(answer) {
            // Nobody waits any more, so nobody will ever unload it.
            self.unload(id);
        }
    }

    /// What the budget leaves for weights when all that is kept for later goes.
    fn room_for_weights(&self) -> u64 {
        let free = self.account.memory().free_bytes(self.scheduler.reserved_bytes());
        free + self.account.kept_bytes()
    }

    fn arrive(&mut self, job: Box<Job>) {
        let Some(model) = self.models.get(&job.model) else {
            self.status.waiting.fetch_sub(1, Ordering::Relaxed);
            return job.last_word(GenerateError::ShuttingDown);
        };
        let row = Row::new(job, Rc::clone(model));
        let id = self.next_row;
        self.next_row += 1;
        let asking = self.asking(&row, false);
        self.rows.insert(id, row);
        self.scheduler.arrive(id, asking);
    }

    fn asking(&mut self, row: &Row, solo: bool) -> Asking {
        let request = &row.job.request;
        let tenants = self.tenants.len() as Tenant;
        let tenant = match self.tenants.get(&request.tenant) {
            Some(tenant) => *tenant,
            None => *self.tenants.entry(request.tenant.clone()).or_insert(tenants),
        };
        let deadline = request.deadline;
        Asking {
            tenant,
            model: row.job.model.0,
            tokens: request.prompt.len() + row.generated.len(),
            left: request.max_tokens - row.generated.len(),
            deadline: deadline.map(|at| at.saturating_duration_since(self.started)),
            cost: row.model.cost.clone(),
            solo,
        }
    }

    /// Those whose clients are gone leave; those whose clients are behind are sent what they take.
    fn look_after(&mut self) {
        let gone = self.rows.iter().filter(|(_, row)| !row.is_wanted()).map(|(id, _)| *id);
        for id in gone.collect::<Vec<_>>() {
            self.end_early(id, None);
        }
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
        if let Some(pressure) = self.account.poll(&*self.config.sensor) {
            if pressure != Pressure::Normal {
                tracing::warn!(pressure = pressure.as_str(), "the system is short of memory");
            }
            self.account.adapt(self.scheduler.reserved_bytes());
            self.account_for_memory();
        }
    }

    /// Starts a request, or resumes one.
    fn admit(&mut self, id: RowId) {
        let Some(mut row) = self.rows.remove(&id) else { return self.scheduler.end(id) };
        self.status.waiting.fetch_sub(1, Ordering::Relaxed);
        let tokens = row.tokens();
        let reuse = &mut self.reuse;
        let others = self.rows.values().filter_map(|row| {
            let Sequence { cache, track, .. } = row.sequence.as_ref()?;
            Some(Donor { cache, track })
        });
        let others: Vec<Donor<'_>> = others.collect();
        let begun = catch_unwind(AssertUnwindSafe(|| {
            let begun =
                reuse.begin(&row.model.reuse, &tokens, &row.job.request.cache_salt, &others);
            let namespace = *begun.track.chain.namespace();
            let reused = begun.track.tokens.len();
            row.begin(begun).map(|()| (namespace, reused))
        }));
        let error = match begun {
            Ok(Ok((namespace, reused))) => {
                self.status.note_namespace(&row.model.reuse.name, namespace);
                self.rows.insert(id, row);
                self.scheduler.started(id, reused);
                return self.note_live();
            }
            Ok(Err(error)) => GenerateError::Mlx(error.what().to_owned()),
            Err(panic) => {
                tracing::error!(panic = panic_text(&panic), "restoring a prompt's KV panicked");
                GenerateError::Internal
            }
        };
        self.scheduler.end(id);
        row.fail(error);
    }

    /// Takes a request out; its caches are kept for the next turn.
    fn end_early(&mut self, id: RowId, error: Option<GenerateError>) {
        self.scheduler.end(id);
        let Some(mut row) = self.rows.remove(&id) else { return };
        if row.sequence.is_none() {
            self.status.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        self.keep(&mut row);
        if let Some(error) = error {
            row.fail(error);
        }
    }

    /// Keeps a row's caches for the next turn.
    fn keep(&mut self, row: &mut Row) {
        let Some(sequence) = row.sequence.take() else { return };
        let Sequence { cache, track, .. } = sequence;
        let (model, prompt_tokens) = (Rc::clone(&row.model.reuse), row.job.request.prompt.len());
        let reuse = &mut self.reuse;
        let kept =
            guarded("keeping a turn's KV", || reuse.retire(model, cache, track, prompt_tokens));
        if let Some(Err(error)) = kept {
            tracing::warn!(error = error.what(), "a turn's KV was not kept");
        }
        self.note_live();
    }

    /// Memory is short: what is kept for later goes first, then what idle models hold.
    fn reclaim(&mut self, bytes: u64) {
        self.drain();
        let before = self.account.used_bytes();
        let reuse = &mut self.reuse;
        guarded("giving back KV", || reuse.shrink(bytes));
        self.note_live();
        let mut given = before.saturating_sub(self.account.used_bytes());
        if given < bytes {
            given += self.account.shrink_ram_tier(bytes - given);
        }
        if given < bytes {
            self.account.set_short(true);
            self.config.observer.room_wanted(bytes - given);
        }
        let _ = mlx_rs::memory::clear_cache();
        self.account_for_memory();
    }

    /// Puts a row back into the queue; its KV goes to the store.
    fn preempt(&mut self, id: RowId) {
        self.drain();
        // Its last token may have ended it.
        let Some(mut row) = self.rows.remove(&id) else { return };
        if let Some(Sequence { cache, track, .. }) = row.sequence.take() {
            let (model, prompt_tokens) =
                (Rc::clone(&row.model.reuse), row.job.request.prompt.len());
            let reuse = &mut self.reuse;
            guarded("saving a preempted row's KV", || {
                reuse.put_away(model, cache, track, prompt_tokens)
            });
            self.status.preemptions.fetch_add(1, Ordering::Relaxed);
        }
        self.requeue(id, row, false);
    }

    fn requeue(&mut self, id: RowId, mut row: Row, solo: bool) {
        row.sequence = None;
        self.status.waiting.fetch_add(1, Ordering::Relaxed);
        row.job.phase.set(RowPhase::Queued);
        let asking = self.asking(&row, solo);
        self.rows.insert(id, row);
        self.scheduler.arrive(id, asking);
    }

    /// Computes a step, and sends what the one before it brought.
    fn step(&mut self, plan: &StepPlan) {
        self.seal(plan);
        let mut rows: Vec<(RowId, Row, Part)> = Vec::with_capacity(plan.decode.len() + 1);
        let prompt = plan.prefill.map(|(id, most)| (id, Part::Prompt { most }));
        for (id, part) in plan.decode.iter().map(|id| (*id, Part::Decode)).chain(prompt) {
            if let Some(row) = self.rows.remove(&id) {
                rows.push((id, row, part));
            }
        }
        let grid = self.config.prefill_chunk.max(1);
        let before = self.under_way.take();
        let same = before.as_ref().filter(|before| before.built.model == plan.model);
        let tokens = same.and_then(|before| Some(&before.built.sampled.as_ref()?.tokens));
        let built = attempt(|| build(plan.model, &mut rows, tokens, grid));
        let ids: Vec<RowId> = rows.iter().map(|(id, ..)| *id).collect();
        self.rows.extend(rows.into_iter().map(|(id, row, _)| (id, row)));
        match built {
            Ok(built) => self.compute(before, built),
            Err(error) => {
                if let Some(before) = before {
                    self.finish(before);
                }
                self.fell(&ids, error);
            }
        }
    }

    /// Hands finished blocks to the store, before the caches move on.
    fn seal(&mut self, plan: &StepPlan) {
        let prompt = plan.prefill.map(|(id, _)| id);
        for id in plan.decode.iter().copied().chain(prompt) {
            let Some(Row { sequence: Some(sequence), model, .. }) = self.rows.get_mut(&id) else {
                continue;
            };
            let Sequence { cache, track, .. } = sequence;
            if !self.reuse.wants_seal(track) {
                continue;
            }
            let reuse = &self.reuse;
            let sealed =
                guarded("storing a block of KV", || reuse.seal(&model.reuse, cache, track));
            // What cannot be stored is not worth failing for.
            if let Some(Err(error)) = sealed {
                tracing::warn!(error = error.what(), "a block of KV was not stored");
            }
        }
    }

    /// Waits for the step before, hands the new one over, then sends what the old one brought.
    fn compute(&mut self, before: Option<UnderWay>, mut built: Built) {
        self.note_step(&built);
        let mut before = before;
        if self.overlap {
            // The tokens before may still be computed: MLX has the next ones behind them in time.
            if let Err(error) = attempt(|| async_eval(built.arrays())) {
                before.into_iter().for_each(|before| self.finish(before));
                return self.fell(&built.rows, error);
            }
        }
        if let Some(before) = &mut before
            && let Err(error) = self.wait(before)
        {
            let mut ids = before.built.rows.clone();
            ids.extend(built.rows.iter().filter(|id| !before.built.rows.contains(id)));
            return self.fell(&ids, error);
        }
        for id in &built.rows {
            let prompt = built.prompt_tokens > 0 && built.rows.last() == Some(id);
            self.scheduler.computing(*id, if prompt { built.prompt_tokens } else { 1 });
        }
        let wait_now = built.sampled.is_none();
        let handed = attempt(|| match (wait_now, self.overlap) {
            // Without a token to come there is nothing to do meanwhile.
            (true, _) => eval(built.arrays()),
            (false, false) => async_eval(built.arrays()),
            (false, true) => Ok(()),
        });
        built.caches.clear();
        let rows = built.rows.clone();
        let next = UnderWay { built, handed_over: Instant::now() };
        match handed {
            Ok(()) if wait_now => {
                before.into_iter().for_each(|before| self.deliver(before));
                self.report(&next, next.built.begin.elapsed(), Duration::ZERO, next.built.build);
            }
            Ok(()) => {
                // The step is known before the old one's rows end in it.
                self.under_way = Some(next);
                before.into_iter().for_each(|before| self.deliver(before));
            }
            Err(error) => {
                before.into_iter().for_each(|before| self.deliver(before));
                self.fell(&rows, error);
            }
        }
    }

    /// Waits for a step's tokens. What was given to it goes first: the next step writes there.
    fn wait(&mut self, step: &mut UnderWay) -> Result<(), Fault> {
        step.built.caches.clear();
        let begin = Instant::now();
        attempt(|| eval(step.built.arrays()))?;
        let now = Instant::now();
        let waited = now - begin;
        // It was ready already, and nothing else was: since when is not known, at most since it was
        // handed over.
        let idle = match !self.overlap && waited < WAITED {
            true => step.handed_over.elapsed(),
            false => Duration::ZERO,
        };
        let since = self.last_end.unwrap_or(step.built.begin).max(step.built.begin);
        let duration = now.saturating_duration_since(since);
        self.report(step, duration, waited, idle);
        Ok(())
    }

    /// A step is complete.
    fn report(&mut self, step: &UnderWay, duration: Duration, waited: Duration, idle: Duration) {
        let Built { model, decoding, prompt_tokens, ref outputs, build, .. } = step.built;
        self.last_end = Some(Instant::now());
        self.status.step_done();
        self.status.alive();
        self.scheduler.observe(model, StepCost { decoding, prompt_tokens, duration });
        if prompt_tokens > 0 {
            self.account.note_staging();
        }
        let host = match waited.is_zero() {
            true => build,
            false => duration.saturating_sub(waited).min(duration),
        };
        self.config.observer.step(&StepReport {
            phase: if decoding > 0 { Phase::Decode } else { Phase::Prefill },
            rows: step.built.rows.len(),
            prompt_tokens,
            new_tokens: outputs.len(),
            duration,
            host,
            idle,
        });
        self.rest_a_while(duration);
    }

    /// Leaves the machine to others for the part of the time that the configuration says.
    fn rest_a_while(&mut self, computed: Duration) {
        let share = self.config.duty_cycle.clamp(0.05, 1.0);
        if share < 1.0 {
            std::thread::sleep(computed.mul_f64((1.0 - share) / share).min(MAX_REST));
            self.last_end = None;
        }
    }

    /// Waits for a step, and sends what it brought.
    fn finish(&mut self, mut step: UnderWay) {
        match self.wait(&mut step) {
            Ok(()) => self.deliver(step),
            Err(fault) => self.fell(&step.built.rows, fault),
        }
    }

    /// Lets the step under way come to its end.
    fn drain(&mut self) {
        if let Some(step) = self.under_way.take() {
            self.finish(step);
        }
    }

    /// Sends the tokens of an evaluated step.
    fn deliver(&mut self, step: UnderWay) {
        let Built { rows, outputs, sampled, .. } = step.built;
        let Some(sampled) = sampled else { return };
        let alone = rows.len() == 1;
        let tokens = sampled.tokens.as_slice::<u32>();
        let is_nan = sampled.is_nan.as_ref().map(|is_nan| is_nan.as_slice::<bool>());
        for (place, &id) in outputs.iter().enumerate() {
            let Some(row) = self.rows.get_mut(&id) else { continue };
            if is_nan.is_some_and(|is_nan| is_nan[place]) {
                self.not_a_number(id);
                continue;
            }
            let logprobs = sampled.logprobs[place].as_ref().map(read_logprobs).transpose();
            let logprobs = match logprobs {
                Ok(logprobs) => logprobs,
                Err(error) => {
                    self.fell(&[id], Fault::Mlx(error.what().to_owned()));
                    continue;
                }
            };
            if alone {
                self.scheduler.trust(id);
            }
            match row.take(tokens[place], logprobs) {
                Some(finish) => {
                    self.scheduler.end(id);
                    let Some(mut row) = self.rows.remove(&id) else { continue };
                    // Kept first: who reads the end of an answer may send the next turn at once.
                    self.keep(&mut row);
                    self.leaving.extend(row.leave(finish).send(self.config.slow_reader));
                }
                None => {
                    if !row.flush() {
                        self.scheduler.set_blocked(id, true);
                    }
                }
            }
        }
    }

    /// A request's logits were no numbers: it ends, and what it stored is not trusted.
    fn not_a_number(&mut self, id: RowId) {
        self.scheduler.end(id);
        let Some(row) = self.rows.remove(&id) else { return };
        if let Some(sequence) = &row.sequence {
            self.reuse.distrust(&sequence.track);
        }
        let found = row.model.weights.find_not_finite();
        let what = found.unwrap_or_else(|| "no weight holds one".to_owned());
        row.fail(GenerateError::NotANumber { what });
    }

    /// A step with these rows failed. One that was alone is at fault. Of several nobody knows which:
    /// each starts over from its known tokens, and computes alone until it has shown that it can.
    fn fell(&mut self, ids: &[RowId], fault: Fault) {
        let alone = ids.len() == 1;
        tracing::error!(rows = ids.len(), fault = fault.text(), "a step of the engine failed");
        let models: Vec<ModelId> =
            ids.iter().filter_map(|id| self.rows.get(id)).map(|row| row.job.model).collect();
        for &id in ids {
            let Some(mut row) = self.rows.remove(&id) else { continue };
            row.falls += 1;
            if alone || row.falls > MAX_FALLS {
                self.scheduler.end(id);
                row.fail(fault.error());
            } else {
                self.requeue(id, row, true);
            }
        }
        // A live session may hold arrays of the graph that failed.
        for model in models {
            self.reuse.drop_live(model);
        }
        self.note_live();
    }

    fn note_step(&self, built: &Built) {
        let name = self.rows.get(built.rows.first().unwrap_or(&0));
        self.status.step_begins(CurrentStep {
            model: name.map(|row| row.model.reuse.name.clone()).unwrap_or_default(),
            decoding: built.decoding,
            prompt_tokens: built.prompt_tokens,
            begin: Instant::now(),
        });
    }
}

impl Job {
    /// Ends the request before it began.
    fn last_word(self: Box<Self>, error: GenerateError) {
        self.last.send(Raw::Failed(error));
    }
}

/// Whether a waiting request may start. One that begins like a prompt being computed waits until
/// what they share is there, instead of computing it a second time.
fn may_start(rows: &BTreeMap<RowId, Row>, id: RowId) -> bool {
    let Some(row) = rows.get(&id) else { return true };
    let prompt = &row.job.request.prompt;
    let leads = |leader: &Row| {
        let Some(sequence) = &leader.sequence else { return false };
        let alike = leader.job.model == row.job.model
            && leader.job.request.cache_salt == row.job.request.cache_salt;
        if sequence.next != Next::Prompt || !alike {
            return false;
        }
        let shared = common_prefix(&leader.job.request.prompt, prompt);
        shared >= WORTH_WAITING && shared > sequence.track.tokens.len()
    };
    !rows.values().any(leads)
}

/// Why a step failed.
#[derive(Debug, Clone)]
enum Fault {
    Mlx(String),
    Panic(String),
}

impl Fault {
    fn text(&self) -> &str {
        match self {
            Self::Mlx(text) | Self::Panic(text) => text,
        }
    }

    fn error(&self) -> GenerateError {
        match self {
            Self::Mlx(what) => GenerateError::Mlx(what.clone()),
            Self::Panic(_) => GenerateError::Internal,
        }
    }
}

/// Runs a part of a step.
fn attempt<T>(run: impl FnOnce() -> Result<T>) -> Result<T, Fault> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Fault::Mlx(error.what().to_owned())),
        Err(panic) => Err(Fault::Panic(panic_text(&panic))),
    }
}

/// Runs what no request may fail for. `None` after a panic, which is logged.
fn guarded<T>(what: &'static str, run: impl FnOnce() -> T) -> Option<T> {
    let outcome = catch_unwind(AssertUnwindSafe(run));
    outcome.inspect_err(|panic| tracing::error!(panic = panic_text(panic), what, "a panic")).ok()
}

fn panic_text(panic: &Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("unknown panic").to_owned()
}
