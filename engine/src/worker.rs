//! The thread that owns MLX: every array is made, evaluated and dropped here.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::error::Result;
use mlx_rs::error::Exception;
use mlx_rs::transforms::{async_eval, eval};
use mlx_rs::{Array, Dtype};
use tokio::sync::{mpsc, oneshot};

use crate::bridge;
use crate::cache::SequenceCache;
use crate::engine::{ComputeDtype, EngineConfig, ModelId, Phase, Status, StepReport};
use crate::error::{GenerateError, LoadError};
use crate::generation::{
    FinishReason, GenerateRequest, Raw, Timings, TokenLogprob, TokenLogprobs, TokenOutput, Usage,
};
use crate::inspect::will_convert;
use crate::model::{Folder, ModelInfo};
use crate::models::{self, Architecture};
use crate::reuse::{Begun, Layout, ModelReuse, Reuse, ReuseReport, Track};
use crate::sampling::{LazyLogprobs, Sampled, Sampler};
use crate::step::{Segment, Step, token_array};
use crate::weights::Weights;

/// How long a row whose reader is behind waits before it looks again.
const BLOCKED_POLL: Duration = Duration::from_millis(1);
/// A wait shorter than this found its token computed.
const WAITED: Duration = Duration::from_micros(10);
/// The longest wait of an idle thread, so that it notices the end of its handles.
const IDLE_POLL: Duration = Duration::from_secs(1);

/// What other threads ask of this one.
#[derive(Debug)]
pub(crate) enum Command {
    Load { id: ModelId, name: String, folder: Arc<Folder>, held: Held, reply: LoadReply },
    Submit(Box<Job>),
    Unload(ModelId),
    ClearLive,
    Wake,
}

type LoadReply = oneshot::Sender<Result<(Arc<Folder>, ModelInfo), LoadError>>;

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) model: ModelId,
    pub(crate) request: GenerateRequest,
    pub(crate) events: mpsc::Sender<Raw>,
    /// The place in the channel that is kept for how the request ends.
    pub(crate) last: mpsc::OwnedPermit<Raw>,
    pub(crate) submitted: Instant,
}

/// A model's weights and what the thread must know of it.
#[derive(Debug)]
struct Loaded {
    architecture: Box<dyn Architecture>,
    weights: Weights,
    eos: Arc<[u32]>,
    vocab: usize,
    reuse: Rc<ModelReuse>,
    // Dropped after the weights, in this order.
    _clear: ClearCache,
    _held: Held,
}

/// Weights are in memory for as long as this is: whoever has the other end learns when they are gone.
#[derive(Debug)]
pub(crate) struct Held {
    _end: oneshot::Sender<()>,
}

impl Held {
    /// And the end that completes when the weights are gone.
    pub(crate) fn new() -> (Self, oneshot::Receiver<()>) {
        let (held, gone) = oneshot::channel();
        (Self { _end: held }, gone)
    }
}

/// Gives memory that MLX keeps for reuse back to the system when it is dropped.
#[derive(Debug)]
struct ClearCache;

impl Drop for ClearCache {
    fn drop(&mut self) {
        // A hint: failing loses nothing.
        let _ = mlx_rs::memory::clear_cache();
    }
}

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Worker {
    commands: Receiver<Command>,
    config: EngineConfig,
    status: Arc<Status>,
    models: HashMap<ModelId, Rc<Loaded>>,
    queue: VecDeque<Box<Job>>,
    row: Option<Row>,
    reuse: Reuse,
    /// Whether the next step is handed to MLX before the last token is read. On Metal that keeps the
    /// GPU busy. On the CPU backend it would keep the caches' buffers shared while the next step
    /// wants to write into them, and MLX would copy them.
    overlap: bool,
}

impl Worker {
    pub(crate) fn new(
        commands: Receiver<Command>,
        config: EngineConfig,
        status: Arc<Status>,
    ) -> Self {
        Self {
            reuse: Reuse::new(config.reuse.clone()),
            commands,
            config,
            status,
            models: HashMap::new(),
            queue: VecDeque::new(),
            row: None,
            overlap: false,
        }
    }

    /// Runs until the engine stops or its handles are gone.
    pub(crate) fn run(mut self) {
        while self.take_commands() && !self.status.stopping.load(Ordering::Relaxed) {
            self.admit();
            if let Some(row) = self.row.take() {
                self.row = self.advance(row);
            }
            self.status.alive();
            self.status.running.store(usize::from(self.row.is_some()), Ordering::Relaxed);
            if self.row.is_none() && self.queue.is_empty() {
                self.rest(false);
            }
        }
        if let Some(row) = self.row.take() {
            fail(*self.retire(row), GenerateError::ShuttingDown);
        }
        for job in self.queue.drain(..) {
            fail(*job, GenerateError::ShuttingDown);
        }
        self.rest(true);
    }

    /// Hands the ends of live sessions to the store.
    fn rest(&mut self, all: bool) {
        let reuse = &mut self.reuse;
        let rested = catch_unwind(AssertUnwindSafe(|| reuse.rest(all)));
        if let Err(panic) = rested {
            tracing::error!(panic = panic_text(&panic), "saving the live sessions panicked");
        }
        let (sessions, bytes) = self.reuse.live_use();
        self.status.live_sessions.store(sessions, Ordering::Relaxed);
        self.status.live_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Keeps a row's caches for the next turn.
    fn retire(&mut self, row: Row) -> Box<Job> {
        let Row { job, model, cache, track, .. } = row;
        let prompt_tokens = job.request.prompt.len();
        let reuse = &mut self.reuse;
        let retired = catch_unwind(AssertUnwindSafe(|| {
            reuse.retire(Rc::clone(&model.reuse), cache, track, prompt_tokens)
        }));
        match retired {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = error.what(), "a turn's KV was not kept"),
            Err(panic) => {
                tracing::error!(panic = panic_text(&panic), "keeping a turn's KV panicked")
            }
        }
        job
    }

    /// Takes the commands that are there; waits for one when there is nothing to do. False when no
    /// more can come.
    fn take_commands(&mut self) -> bool {
        let idle = self.row.is_none() && self.queue.is_empty();
        let blocked = self.row.as_ref().is_some_and(|row| row.outbox.is_some());
        if idle || blocked {
            let wait = if idle { IDLE_POLL } else { BLOCKED_POLL };
            match self.commands.recv_timeout(wait) {
                Ok(command) => self.handle(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        while let Ok(command) = self.commands.try_recv() {
            self.handle(command);
        }
        true
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Load { id, name, folder, held, reply } => {
                self.load(id, name, folder, held, reply);
            }
            Command::Submit(job) => self.queue.push_back(job),
            Command::Unload(id) => self.unload(id),
            Command::ClearLive => self.reuse.clear_live(),
            Command::Wake => {}
        }
    }

    fn unload(&mut self, id: ModelId) {
        if let Some(model) = self.models.remove(&id) {
            let reuse = &mut self.reuse;
            let forgotten = catch_unwind(AssertUnwindSafe(|| reuse.forget(id)));
            if let Err(panic) = forgotten {
                tracing::error!(panic = panic_text(&panic), "forgetting a model's KV panicked");
            }
            // A request that still runs keeps the weights until it ends.
            drop(model);
        }
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
        let loaded = catch_unwind(AssertUnwindSafe(|| {
            bridge::init().map_err(|error| LoadError::Mlx {
                path: folder.dir.clone(),
                what: error.what().to_owned(),
            })?;
            self.overlap = bridge::metal_is_available();
            Loaded::load(id, name, &folder, held, self.config.compute_dtype)
        }));
        self.status.loading.store(false, Ordering::Relaxed);
        self.status.alive();
        let answer = match loaded {
            Ok(Ok((loaded, info))) => {
                let namespace = loaded.reuse.namespace(self.config.reuse.block_tokens.max(1), "");
                self.status.note_namespace(&loaded.reuse.name, namespace);
                self.models.insert(id, Rc::new(loaded));
                Ok((folder, info))
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
            self.models.remove(&id);
        }
    }

    /// Starts the next request, when none runs.
    fn admit(&mut self) {
        self.queue.retain(|job| {
            let wanted = !job.events.is_closed();
            if !wanted {
                self.status.waiting.fetch_sub(1, Ordering::Relaxed);
            }
            wanted
        });
        if self.row.is_some() {
            return;
        }
        let Some(job) = self.queue.pop_front() else { return };
        self.status.waiting.fetch_sub(1, Ordering::Relaxed);
        let Some(model) = self.models.get(&job.model) else {
            return fail(*job, GenerateError::ShuttingDown);
        };
        let model = Rc::clone(model);
        let sampler = {
            let request = &job.request;
            let seen = (&request.prompt[..], &model.eos[..], model.vocab);
            Sampler::new(request.sampling.clone(), request.logprobs, request.min_tokens, seen)
        };
        let reuse = &mut self.reuse;
        let begun = catch_unwind(AssertUnwindSafe(|| {
            reuse.begin(&model.reuse, &job.request.prompt, &job.request.cache_salt)
        }));
        match (sampler, begun) {
            (Ok(sampler), Ok(begun)) => {
                self.status.note_namespace(&model.reuse.name, *begun.track.chain.namespace());
                self.row = Some(Row::new(job, model, sampler, begun));
            }
            (Err(error), _) => fail(*job, GenerateError::Mlx(error.what().to_owned())),
            (_, Err(panic)) => {
                tracing::error!(panic = panic_text(&panic), "restoring a prompt's KV panicked");
                fail(*job, GenerateError::Internal);
            }
        }
    }

    /// One step of a row; `None` when it has ended.
    fn advance(&mut self, mut row: Row) -> Option<Row> {
        if row.job.events.is_closed() {
            // Cancelled, or the reader met a stop string: what was computed is kept.
            drop(self.retire(row));
            return None;
        }
        if row.outbox.is_some() {
            return self.settle(row);
        }
        let chunk = self.config.prefill_chunk.max(1);
        let overlap = self.overlap;
        let reuse = &self.reuse;
        let stepped = catch_unwind(AssertUnwindSafe(|| row.step(chunk, overlap, reuse)));
        let error = match stepped {
            Ok(Ok(report)) => {
                self.config.observer.step(&report);
                return self.settle(row);
            }
            Ok(Err(StepError::Mlx(error))) => GenerateError::Mlx(error.what().to_owned()),
            Ok(Err(StepError::NotANumber)) => {
                // Its KV may be what is wrong.
                self.reuse.distrust(&row.track);
                let found = row.model.weights.find_not_finite();
                let what = found.unwrap_or_else(|| "no weight holds one".to_owned());
                GenerateError::NotANumber { what }
            }
            Err(panic) => {
                tracing::error!(panic = panic_text(&panic), "a step of the engine panicked");
                GenerateError::Internal
            }
        };
        fail(*row.job, error);
        None
    }

    /// Sends what a row has to say. `None` when all is said, or when nobody listens for too long.
    fn settle(&mut self, mut row: Row) -> Option<Row> {
        if !row.flush() {
            let limit = self.config.slow_reader;
            if row.blocked_since.is_some_and(|since| since.elapsed() > limit) {
                fail(*self.retire(row), GenerateError::SlowReader(limit.as_secs()));
                return None;
            }
            return Some(row);
        }
        match row.finished {
            None => Some(row),
            Some(finish) => {
                // Kept first: who reads the end of an answer may send the next turn at once.
                self.retire(row).last.send(Raw::Done(finish));
                None
            }
        }
    }
}

/// Tells a request that it failed.
fn fail(job: Job, error: GenerateError) {
    job.last.send(Raw::Failed(error));
}

fn panic_text(panic: &Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("unknown panic").to_owned()
}

impl Loaded {
    fn load(
        id: ModelId,
        name: String,
        folder: &Folder,
        held: Held,
        compute: ComputeDtype,
    ) -> Result<(Self, ModelInfo), LoadError> {
        let config = folder.config_file();
        let mut weights = Weights::open(&folder.dir, folder.quantization.clone())?;
        let stored = weights.dtype_of(&format!("{}.embed_tokens.weight", models::root(&weights)));
        if will_convert(&weights, stored, compute) {
            weights.convert_to(Dtype::Float32);
        }
        let architecture = models::load(&config, &mut weights)?;
        for name in weights.unused() {
            tracing::debug!(tensor = name, "not used by this architecture");
        }
        let mut digest = blake3::Hasher::new();
        digest.update(weights.digest().as_bytes());
        digest.update(serde_json::to_string(&folder.config).unwrap_or_default().as_bytes());
        let (dtype, layout) = try_out(architecture.as_ref(), &weights, folder)?;
        // The KV of one model computed in two types is not the same.
        digest.update(dtype.as_bytes());
        let digest = digest.finalize().to_hex().to_string();
        let reuse = Rc::new(ModelReuse {
            id,
            name,
            digest: digest.clone(),
            layout_text: format!("{layout:?}"),
            layout,
            kinds: architecture.layers(),
            message_ends: Arc::clone(&folder.eos),
        });
        let loaded = Self {
            architecture,
            eos: Arc::clone(&folder.eos),
            vocab: folder.vocab_tokens,
            weights,
            reuse,
            _clear: ClearCache,
            _held: held,
        };
        let info = ModelInfo {
            architecture: config.architecture()?.to_owned(),
            parameters: loaded.weights.parameters(),
            weight_bytes: loaded.weights.memory_bytes(),
            context_tokens: folder.context_tokens,
            vocab_tokens: folder.vocab_tokens,
            quantization: loaded.weights.quantization(),
            dtype,
            digest,
            load_time: Duration::ZERO,
        };
        Ok((loaded, info))
    }

    fn forward(
        &self,
        cache: &mut SequenceCache,
        tokens: &Array,
        wants_logits: bool,
    ) -> Result<Option<Array>> {
        forward(self.architecture.as_ref(), cache, tokens, wants_logits)
    }
}

/// One segment of one sequence. tokens: [1, T]; returns logits [1, 1, vocab] if wanted.
fn forward(
    architecture: &dyn Architecture,
    cache: &mut SequenceCache,
    tokens: &Array,
    wants_logits: bool,
) -> Result<Option<Array>> {
    let segment = Segment { cache, length: tokens.shape()[1], wants_logits };
    architecture.forward(tokens, &mut Step { segments: vec![segment] })
}

/// Computes one token: finds what only a run can find, before anyone waits for an answer. Returns
/// the name of the dtype that came out, and what the layers keep.
fn try_out(
    architecture: &dyn Architecture,
    weights: &Weights,
    folder: &Folder,
) -> Result<(String, Layout), LoadError> {
    let run = || -> Result<(bool, Dtype, Layout)> {
        let mut cache = SequenceCache::new(&architecture.layers(), 1);
        let logits = forward(architecture, &mut cache, &token_array(&[0]), true)?;
        let logits = logits.ok_or_else(|| Exception::custom("no logits came out"))?;
        if logits.shape() != [1, 1, folder.vocab_tokens as i32] {
            return Err(Exception::custom(format!("logits of shape {:?}", logits.shape())));
        }
        let is_nan = logits.is_nan()?.any(None)?.item_exact::<bool>();
        Ok((is_nan, logits.dtype(), Layout::of(&cache)?))
    };
    let (is_nan, dtype, layout) = run().map_err(|error| LoadError::Mlx {
        path: folder.dir.clone(),
        what: error.what().to_owned(),
    })?;
    if is_nan {
        let found = weights.find_not_finite();
        let what = found.unwrap_or_else(|| "no tensor holds one, so config.json is wrong".into());
        let what = format!("the model computes NaN: {what}");
        return Err(LoadError::Invalid { path: folder.dir.clone(), what });
    }
    Ok((format!("{dtype:?}").to_lowercase(), layout))
}

/// A running request.
#[derive(Debug)]
struct Row {
    job: Box<Job>,
    model: Rc<Loaded>,
    cache: SequenceCache,
    /// The tokens in the caches, and what of them is stored.
    track: Track,
    /// What was reused, until it is told.
    report: ReuseReport,
    restore: Duration,
    sampler: Sampler,
    /// The token to come, handed to MLX; there is one from the end of the prefill on.
    current: Option<Sampled>,
    /// Tokens generated.
    generated: usize,
    /// What the reader has had no room for.
    outbox: Option<Raw>,
    /// What follows the outbox.
    then: VecDeque<Raw>,
    blocked_since: Option<Instant>,
    started: Instant,
    /// When the last step was handed to MLX.
    handed_over: Instant,
    finished: Option<FinishReason>,
}

#[derive(Debug)]
enum StepError {
    Mlx(Exception),
    NotANumber,
}

impl From<Exception> for StepError {
    fn from(error: Exception) -> Self {
        Self::Mlx(error)
    }
}

impl Row {
    fn new(job: Box<Job>, model: Rc<Loaded>, sampler: Sampler, begun: Begun) -> Self {
        let Begun { cache, track, report, took } = begun;
        let now = Instant::now();
        Self {
            cache,
            track,
            report,
            restore: took,
            model,
            sampler,
            current: None,
            generated: 0,
            outbox: None,
            then: VecDeque::new(),
            blocked_since: None,
            started: now.checked_sub(took).unwrap_or(now),
            handed_over: now,
            finished: None,
            job,
        }
    }

    fn step(
        &mut self,
        chunk: usize,
        overlap: bool,
        reuse: &Reuse,
    ) -> Result<StepReport, StepError> {
        match self.current.take() {
            None => self.prefill(chunk, reuse),
            Some(current) => {
                if reuse.wants_seal(&self.track) {
                    self.seal(reuse);
                }
                self.decode(current, overlap)
            }
        }
    }

    /// Hands finished blocks to the store. What cannot be stored is not worth failing for.
    fn seal(&mut self, reuse: &Reuse) {
        if let Err(error) = reuse.seal(&self.model.reuse, &self.cache, &mut self.track) {
            tracing::warn!(error = error.what(), "a block of KV was not stored");
        }
    }

    /// Computes the next chunk of the prompt; with the last one, the first token is under way.
    fn prefill(&mut self, chunk: usize, reuse: &Reuse) -> Result<StepReport, StepError> {
        let begin = Instant::now();
        let prompt = &self.job.request.prompt;
        let from = self.track.tokens.len();
        // Chunks end where every sequence's do, whatever was restored, and where a state is kept.
        let end = prompt.len().min((from / chunk + 1) * chunk);
        let end = self.track.next_stop(from).map_or(end, |stop| end.min(stop));
        let tokens = &prompt[from..end];
        let is_last = end == prompt.len();
        let length = tokens.len();
        let logits = self.model.forward(&mut self.cache, &token_array(tokens), is_last)?;
        let sampled = logits.map(|logits| self.sampler.sample(&logits)).transpose()?;
        let built = begin.elapsed();
        match &sampled {
            Some(sampled) => eval(sampled.arrays())?,
            None => eval(self.cache.arrays())?,
        }
        self.track.tokens.extend_from_slice(&self.job.request.prompt[from..end]);
        self.seal(reuse);
        self.handed_over = Instant::now();
        self.current = sampled;
        Ok(StepReport {
            phase: Phase::Prefill,
            tokens: length,
            rows: 1,
            duration: begin.elapsed(),
            host: built,
            idle: built,
        })
    }

    /// Queues the next token and gives out the current one.
    fn decode(&mut self, current: Sampled, overlap: bool) -> Result<StepReport, StepError> {
        let begin = Instant::now();
        let mut evaluating = Duration::ZERO;
        let mut idle = Duration::ZERO;
        let next = match self.generated + 1 < self.job.request.max_tokens {
            true => Some(self.build_next(&current)?),
            false => None,
        };
        let mut timed = |evaluate: &mut dyn FnMut() -> Result<()>| {
            let start = Instant::now();
            let result = evaluate();
            let took = start.elapsed();
            evaluating += took;
            result.map(|()| took)
        };
        let mut hand_over = || match &next {
            Some(next) => async_eval(next.arrays()),
            None => Ok(()),
        };
        let mut wait = || eval(current.arrays());
        if overlap {
            // The token before may still be computed: MLX has the next one behind it in time.
            timed(&mut hand_over)?;
            timed(&mut wait)?;
        } else {
            if timed(&mut wait)? < WAITED {
                // It was ready already, and nothing else was: since when is not known, at most since
                // it was handed over.
                idle = self.handed_over.elapsed();
            }
            timed(&mut hand_over)?;
        }
        self.handed_over = Instant::now();
        let id = self.give_out(&current)?;
        if next.is_some() {
            // The next step has fed it.
            self.track.tokens.push(id);
        }
        self.current = next;
        let duration = begin.elapsed();
        Ok(StepReport {
            phase: Phase::Decode,
            tokens: 1,
            rows: 1,
            duration,
            host: duration.saturating_sub(evaluating),
            idle,
        })
    }

    fn build_next(&mut self, current: &Sampled) -> Result<Sampled> {
        let token = current.token.reshape(&[1, 1])?;
        let logits = self.model.forward(&mut self.cache, &token, true)?;
        self.sampler.sample(&logits.ok_or_else(|| Exception::custom("no logits came out"))?)
    }

    /// Reads an evaluated token and puts it on its way.
    fn give_out(&mut self, sampled: &Sampled) -> Result<u32, StepError> {
        if sampled.is_nan.as_ref().is_some_and(|is_nan| is_nan.item_exact::<bool>()) {
            return Err(StepError::NotANumber);
        }
        let id = sampled.token.item_exact::<u32>();
        let logprobs = sampled.logprobs.as_ref().map(read_logprobs).transpose()?;
        if self.generated == 0 {
            let timings = Timings {
                queue: self.started.duration_since(self.job.submitted),
                restore: if self.report.reused_tokens() > 0 {
                    self.restore
                } else {
                    Duration::ZERO
                },
                prefill: self.started.elapsed(),
                ..Timings::default()
            };
            let prompt_tokens = self.job.request.prompt.len();
            let usage = Usage {
                prompt_tokens,
                cached_tokens_ram: self.report.ram_tokens,
                cached_tokens_ssd: self.report.ssd_tokens,
                ..Usage::default()
            };
            let report = Box::new(std::mem::take(&mut self.report));
            self.then.push_back(Raw::Started(usage, timings, report));
        }
        self.generated += 1;
        self.then.push_back(Raw::Token(TokenOutput { id, logprobs }));
        let request = &self.job.request;
        let ended = !request.ignore_eos && self.model.eos.contains(&id);
        if ended || self.generated >= request.max_tokens {
            self.finished = Some(if ended { FinishReason::Stop } else { FinishReason::Length });
        }
        Ok(id)
    }

    /// Sends what waits to be sent; false when the reader has no room for all of it.
    fn flush(&mut self) -> bool {
        while let Some(raw) = self.outbox.take().or_else(|| self.then.pop_front()) {
            match self.job.events.try_send(raw) {
                Ok(()) => self.blocked_since = None,
                Err(mpsc::error::TrySendError::Full(raw)) => {
                    self.outbox = Some(raw);
                    self.blocked_since.get_or_insert_with(Instant::now);
                    return false;
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return true,
            }
        }
        true
    }
}

fn read_logprobs(lazy: &LazyLogprobs) -> Result<TokenLogprobs> {
    let mut top = Vec::new();
    if let Some((ids, values)) = &lazy.top {
        let pairs = ids.as_slice::<u32>().iter().zip(values.as_slice::<f32>());
        top.extend(pairs.map(|(&id, &logprob)| TokenLogprob { id, logprob }));
        top.sort_by(|a, b| b.logprob.total_cmp(&a.logprob).then(a.id.cmp(&b.id)));
    }
    Ok(TokenLogprobs { chosen: lazy.chosen.item_exact::<f32>(), top })
}
