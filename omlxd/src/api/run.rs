//! From a valid request to its answer: model, prompt, admission, then a document or a stream.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use engine::{GenerateRequest, Generation, Grammar, Model, OutputParser, SubmitError};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::answer::Answer;
use super::params::Params;
use super::reply::{Choice, Identity, KEEPALIVE, Write};
use super::session::{Admitted, Session, Tally, Turn};
use crate::app::App;
use crate::auth::ApiCaller;
use crate::config::KeepaliveMode;
use crate::error::ApiError;
use crate::http::{Call, EventSender, EventStream};
use crate::metrics::Rejection;
use crate::registry::{AcquireError, Lease, ModelEntry};
use crate::request_memory::Share;
use crate::requests::Ticket;

/// A prompt, ready for the engine.
pub(super) struct Prompt {
    /// Its token ids.
    pub tokens: Vec<u32>,
    /// What to repeat before the answer.
    pub echo: String,
    /// Takes each choice of its answer apart; `None`: it is all text.
    pub parser: Option<OutputParser>,
    /// What its answer is held to.
    pub grammar: Option<Grammar>,
    /// Tools of the request that the model is not shown, because its template knows none.
    pub unshown_tools: usize,
}

/// Says whether anybody still waits for a request's prompts.
pub(super) type Wanted<'a> = dyn Fn() -> bool + 'a;

/// A valid request of an endpoint that generates.
pub(super) trait ApiRequest: Send + Sync + Sized + 'static {
    /// The endpoint's name in metrics and in the table of requests.
    const NAME: &'static str;
    /// Whether reading the request reads files, which is not for an async thread.
    const READS_DISK: bool = false;
    /// The field that the prompt comes from, for errors.
    const PROMPT_FIELD: &'static str;
    /// Writes the answers.
    type Reply: Write;

    /// The shared fields.
    fn params(&self) -> &Params;
    /// Log probabilities asked for.
    fn logprobs(&self) -> Option<usize>;
    /// Most tokens to think, when the request says.
    fn thinking_budget(&self) -> Option<usize> {
        None
    }
    /// Tokens to generate when the request does not say.
    fn default_max_tokens(&self) -> usize;
    /// Whether an answer is the rest of the text that the prompt began.
    fn goes_on(&self) -> bool {
        false
    }
    /// Renders and tokenizes: slow, and not for an async thread. Ends early when `wanted` says no.
    fn prompts(&self, model: &Model, wanted: &Wanted) -> Result<Vec<Prompt>, ApiError>;
    /// What writes the answers.
    fn reply(&self, identity: Identity, model: &Model) -> Self::Reply;
}

/// Answers a request.
pub(crate) async fn answer<E: ApiRequest>(
    caller: ApiCaller,
    call: &Call,
    (request, ticket): (E, Ticket),
) -> Result<Answer, ApiError> {
    let app = call.app();
    let stream = request.params().stream;
    let entry = find(call, &request, &ticket).await?;
    let tally = Tally::new(call, ticket, app.metrics.add_model(&entry.id));
    // Two salts never run into each other: a key's has a fixed length.
    let cache_salt = request.params().cache_salt.as_deref().unwrap_or_default();
    let salt = caller.salt().unwrap_or_default() + cache_salt;
    let limit = app.config.limits.request_deadline;
    let about = About {
        id: call.id().to_owned(),
        salt,
        tenant: caller.tenant(),
        deadline: limit.and_then(|limit| call.started().checked_add(limit)),
        share: call.share(),
    };
    let admission = admit(Arc::clone(app), entry, request, tally, about);
    if stream.is_none() {
        let admitted = admission.await?;
        return collect(admitted).await.map(Answer::json_text);
    }
    stream_events(call, admission).await
}

/// Counts the tokens of a request's prompts, and does nothing else with it.
pub(crate) async fn count<E: ApiRequest>(
    call: &Call,
    (request, ticket): (E, Ticket),
) -> Result<usize, ApiError> {
    let app = call.app();
    let counting = async {
        let entry = find(call, &request, &ticket).await?;
        let lease = acquire(app, &entry, &request.params().model).await?;
        let (_, prompts) = prompts(&lease, request, call.share()).await?;
        Ok(prompts.iter().map(|prompt| prompt.tokens.len()).sum())
    };
    let cancelled = ticket.cancel_token();
    tokio::select! {
        biased;
        counted = counting => counted,
        () = cancelled.cancelled() => Err(app.requests.cancelled_error()),
    }
}

/// Finds the request's model, and enters it into the table of requests.
async fn find<E: ApiRequest>(
    call: &Call,
    request: &E,
    ticket: &Ticket,
) -> Result<ModelEntry, ApiError> {
    let params = request.params();
    let (app, name) = (Arc::clone(call.app()), params.model.clone());
    // Looking for a model reads directories.
    let found =
        tokio::task::spawn_blocking(move || app.registry.catalog().find_or_near(&name)).await;
    let found = found.map_err(|_| ApiError::internal())?;
    let entry = found.map_err(|near| ApiError::model_not_found(&params.model, &near))?;
    ticket.parsed(&entry.id, params.stream.is_some());
    Ok(entry)
}

/// Renders and tokenizes, on a thread where that may take its time, for as long as this future is waited
/// for.
async fn prompts<E: ApiRequest>(
    model: &Model,
    request: E,
    share: Option<Arc<Share>>,
) -> Result<(E, Vec<Prompt>), ApiError> {
    let model = model.clone();
    let abandoned = CancellationToken::new();
    let _waits = abandoned.clone().drop_guard();
    let made = tokio::task::spawn_blocking(move || {
        let prompts = request.prompts(&model, &|| !abandoned.is_cancelled());
        let tokens = prompts.as_ref().map_or(0, |all| all.iter().map(|one| one.tokens.len()).sum());
        if let Some(share) = share {
            share.prompted(tokens);
        }
        Ok((request, prompts?))
    });
    made.await.map_err(|_| ApiError::internal())?
}

/// Drops what is not needed any more. Of a large request that takes a while.
fn discard<E: ApiRequest>(request: E, share: Option<&Arc<Share>>) {
    if share.is_some_and(|share| share.is_large()) {
        tokio::task::spawn_blocking(move || drop(request));
    }
}

/// The model, loaded if need be. `name` is what the client calls it.
async fn acquire(app: &App, entry: &ModelEntry, name: &str) -> Result<Lease, ApiError> {
    app.registry.acquire(entry).await.map_err(|error| {
        let reason = match error {
            AcquireError::NoRoom { .. } | AcquireError::TooLarge { .. } => Rejection::Memory,
            _ => Rejection::Loading,
        };
        app.metrics.add_model(&entry.id).rejected(reason);
        ApiError::model_unavailable(name, &error)
    })
}

/// Loads the model if need be, makes the prompts, and puts them into the engine's queue. Whatever
/// can be refused is refused here.
async fn admit<E: ApiRequest>(
    app: Arc<App>,
    entry: ModelEntry,
    request: E,
    tally: Tally,
    about: About,
) -> Result<Admitted<E::Reply>, ApiError> {
    let mut tally = tally;
    let admitted = tally.until_cancelled(prepare(&app, &entry, request, &about)).await;
    match admitted {
        Ok(Ok(prepared)) => Ok(prepared.admitted(tally)),
        Ok(Err(error)) | Err(error) => {
            tally.refused(&error);
            Err(error)
        }
    }
}

/// What a request's handler tells those that prepare it.
struct About {
    /// The request's id.
    id: String,
    /// Keeps its cached prompts apart from those of other callers.
    salt: String,
    /// Whom it belongs to, for fairness.
    tenant: String,
    /// When it fails if it has not ended.
    deadline: Option<Instant>,
    /// Its share of memory.
    share: Option<Arc<Share>>,
}

/// What [`prepare`] puts together.
struct Prepared<W> {
    running: Vec<Generation>,
    choices_per_prompt: usize,
    echoes: Vec<String>,
    prompt_tokens: usize,
    unshown_tools: usize,
    writer: W,
    lease: Lease,
}

impl<W> Prepared<W> {
    fn admitted(self, mut tally: Tally) -> Admitted<W> {
        tally.unshown_tools(self.unshown_tools);
        tally.submitted(self.prompt_tokens, &self.running, self.choices_per_prompt);
        Admitted {
            session: Session::new(self.running, tally, self.lease),
            echoes: self.echoes,
            writer: self.writer,
        }
    }
}

async fn prepare<E: ApiRequest>(
    app: &App,
    entry: &ModelEntry,
    request: E,
    about: &About,
) -> Result<Prepared<E::Reply>, ApiError> {
    let lease = acquire(app, entry, &request.params().model).await?;
    let model = Model::clone(&lease);
    request.params().check_vocabulary(model.info().vocab_tokens)?;
    let (request, prompts) = prompts(&model, request, about.share.clone()).await?;
    let prompt_tokens = prompts.iter().map(|prompt| prompt.tokens.len()).sum();
    let unshown_tools = prompts.iter().map(|prompt| prompt.unshown_tools).sum();
    let params = request.params();
    if let Some(max_tokens) = params.max_tokens {
        app.metrics.add_model(&entry.id).max_tokens.observe(max_tokens as f64);
    }
    let (mut running, mut echoes) = (Vec::new(), Vec::new());
    for prompt in prompts {
        check_context::<E>(app, &model, params, prompt.tokens.len())?;
        for choice in 0..params.n {
            let cache_salt = about.salt.clone();
            let request = generate(&request, &model, &prompt, choice);
            let (tenant, deadline) = (about.tenant.clone(), about.deadline);
            let request = GenerateRequest { cache_salt, tenant, deadline, ..request };
            let submitted = model.generate(request);
            let generation = submitted.map_err(|error| refusal::<E>(app, entry, &error))?;
            running.push(generation);
            echoes.push(prompt.echo.clone());
        }
    }
    let (choices_per_prompt, identity) = (params.n, identity(app, &model, &about.id));
    let writer = request.reply(identity, &model);
    discard(request, about.share.as_ref());
    Ok(Prepared {
        running,
        choices_per_prompt,
        echoes,
        prompt_tokens,
        unshown_tools,
        writer,
        lease,
    })
}

/// E11: an answer that would pass the end of the context is cut there, unless `strict` (E10).
fn check_context<E: ApiRequest>(
    app: &App,
    model: &Model,
    params: &Params,
    prompt_tokens: usize,
) -> Result<(), ApiError> {
    let context = model.info().context_tokens;
    let wanted = prompt_tokens.saturating_add(params.max_tokens.unwrap_or(0));
    if app.config.server.strict && wanted > context {
        return Err(ApiError::context_length(E::PROMPT_FIELD, prompt_tokens, context));
    }
    Ok(())
}

fn generate<E: ApiRequest>(
    request: &E,
    model: &Model,
    prompt: &Prompt,
    choice: usize,
) -> GenerateRequest {
    let params = request.params();
    GenerateRequest {
        prompt: prompt.tokens.clone(),
        sampling: params.sampling(model.sampling_defaults(), choice),
        max_tokens: params.max_tokens.unwrap_or(request.default_max_tokens()),
        min_tokens: params.min_tokens,
        ignore_eos: params.ignore_eos,
        stop: params.stop.clone(),
        logprobs: request.logprobs(),
        cache_salt: String::new(),
        tenant: String::new(),
        deadline: None,
        parser: prompt.parser.clone(),
        thinking_tokens: request.thinking_budget(),
        grammar: prompt.grammar.clone(),
        continues_prompt: request.goes_on(),
    }
}

fn refusal<E: ApiRequest>(app: &App, entry: &ModelEntry, error: &SubmitError) -> ApiError {
    let series = app.metrics.add_model(&entry.id);
    let mut busy_secs = 1;
    if let SubmitError::QueueFull { waiting } = error {
        series.rejected(Rejection::QueueFull);
        // As many as fit into a batch are done in the time of one.
        let rounds = *waiting as f64 / app.config.scheduler.max_batch as f64;
        let estimate = series.mean_request_seconds() * rounds;
        busy_secs = (estimate.ceil() as u64).clamp(1, 30);
    }
    ApiError::submit(error, E::PROMPT_FIELD, busy_secs)
}

fn identity(app: &App, model: &Model, id: &str) -> Identity {
    let mut hash = blake3::Hasher::new();
    for part in [app.version, model.info().digest.as_str(), model.info().dtype.as_str()] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Identity {
        id: id.trim_start_matches("req_").to_owned(),
        created: created.as_secs(),
        fingerprint: format!("fp_{:.10}", hash.finalize().to_hex()),
    }
}

/// The whole answer as one document.
async fn collect<W: Write>(admitted: Admitted<W>) -> Result<Vec<u8>, ApiError> {
    let Admitted { mut session, echoes, mut writer, .. } = admitted;
    let mut choices: Vec<Choice> =
        echoes.into_iter().map(|echo| Choice { text: echo, ..Choice::default() }).collect();
    loop {
        match session.next().await {
            Turn::Delta(index, parts, tokens) => {
                choices[index].take(parts);
                if tokens.iter().any(|token| token.logprobs.is_some()) {
                    choices[index].tokens.extend(tokens);
                }
            }
            Turn::Finished(index, parts, ending) => {
                choices[index].take(parts);
                choices[index].ending = Some(ending);
            }
            Turn::Complete(usage) => {
                let document = writer.whole(&choices, &usage);
                keep(&mut writer).await;
                return Ok(document);
            }
            Turn::Failed(error) => return Err(error),
        }
    }
}

/// Headers go out when the request was admitted, so that a refusal has a status; only when a model
/// loads for longer than the time of the first sign of life do they go out before.
async fn stream_events<W: Write>(
    call: &Call,
    admission: impl Future<Output = Result<Admitted<W>, ApiError>> + Send + 'static,
) -> Result<Answer, ApiError> {
    let mut keepalive = Keepalive::new(call.app());
    let (metrics, endpoint) = (call.app().metrics.clone(), call.route().endpoint);
    let mut admission = Box::pin(admission);
    let early = tokio::select! {
        biased;
        admitted = &mut admission => Some(admitted?),
        () = keepalive.due() => None,
    };
    let on_panic = Bytes::from(W::fail_early(&ApiError::internal()));
    Ok(Answer::Events(EventStream::new(on_panic, move |mut out| async move {
        let admitted = match early {
            Some(admitted) => Ok(admitted),
            None => {
                out.send(Bytes::from_static(KEEPALIVE)).await;
                wait_for(admission, &mut keepalive, &mut out).await
            }
        };
        let failed = match admitted {
            Ok(admitted) => write_events(admitted, &mut keepalive, &mut out).await.err(),
            Err(error) => Some((W::fail_early(&error), error)),
        };
        if let Some((event, error)) = failed {
            metrics.error(endpoint, error.label());
            out.send(Bytes::from(event)).await;
        }
    })))
}

/// Does what a writer wants done with its complete answer.
async fn keep(writer: &mut impl Write) {
    if let Some(keep) = writer.keep() {
        // A panic in there is in the log, and costs only what was to be kept.
        let _ = tokio::task::spawn_blocking(keep).await;
    }
}

/// Signs of life until the request is admitted. There is nothing yet to make a chunk of.
async fn wait_for<T>(
    admission: impl Future<Output = T>,
    keepalive: &mut Keepalive,
    out: &mut EventSender,
) -> T {
    let mut admission = pin!(admission);
    loop {
        tokio::select! {
            biased;
            admitted = &mut admission => return admitted,
            () = keepalive.due() => out.send(Bytes::from_static(KEEPALIVE)).await,
        }
    }
}

/// Writes an answer to its end. Fails with the event that tells of it, which is still to be sent.
async fn write_events<W: Write>(
    admitted: Admitted<W>,
    keepalive: &mut Keepalive,
    out: &mut EventSender,
) -> Result<(), (Vec<u8>, ApiError)> {
    let Admitted { mut session, echoes, mut writer } = admitted;
    let mut event = Vec::with_capacity(1024);
    for (index, echo) in echoes.iter().enumerate() {
        writer.open(&mut event, index, echo);
    }
    if !event.is_empty() {
        out.send(Bytes::from(event)).await;
    }
    loop {
        let turn = tokio::select! {
            biased;
            turn = session.next() => turn,
            () = keepalive.due() => {
                out.send(keepalive.event(&writer)).await;
                continue;
            }
        };
        let mut event = Vec::with_capacity(512);
        match turn {
            Turn::Delta(index, parts, tokens) => {
                let has_logprobs = tokens.iter().any(|token| token.logprobs.is_some());
                // A token that completes no part yet says nothing to the client.
                if parts.is_empty() && !has_logprobs {
                    continue;
                }
                writer.delta(&mut event, index, &parts, &tokens);
            }
            Turn::Finished(index, parts, ending) => {
                if !parts.is_empty() {
                    writer.delta(&mut event, index, &parts, &[]);
                }
                writer.close(&mut event, index, ending);
            }
            Turn::Complete(usage) => {
                writer.end(&mut event, &usage);
                keep(&mut writer).await;
                out.send(Bytes::from(event)).await;
                return Ok(());
            }
            Turn::Failed(error) => {
                writer.fail(&mut event, &error);
                return Err((event, error));
            }
        }
        if event.is_empty() {
            continue;
        }
        keepalive.sent();
        out.send(Bytes::from(event)).await;
    }
}

/// Signs of life on the wall clock, counted from the start of the request.
struct Keepalive {
    mode: KeepaliveMode,
    /// `None`: never.
    interval: Option<Interval>,
    /// Something was sent since the last tick.
    sent: bool,
}

impl Keepalive {
    fn new(app: &App) -> Self {
        let mode = app.config.server.keepalive_mode;
        let period = app.config.server.keepalive.filter(|_| mode != KeepaliveMode::Off);
        let interval = period.map(|period: Duration| {
            let first = tokio::time::Instant::now() + period;
            let mut interval = tokio::time::interval_at(first, period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
            interval
        });
        Keepalive { mode, interval, sent: false }
    }

    /// Completes when a sign of life is due.
    async fn due(&mut self) {
        loop {
            match &mut self.interval {
                Some(interval) => interval.tick().await,
                None => std::future::pending().await,
            };
            if !std::mem::take(&mut self.sent) {
                return;
            }
        }
    }

    fn sent(&mut self) {
        self.sent = true;
    }

    fn event(&self, writer: &impl Write) -> Bytes {
        let mut event = Vec::with_capacity(256);
        writer.keepalive(&mut event, self.mode);
        Bytes::from(event)
    }
}
