//! The running part of a request: its generations, and what is counted about them.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use engine::{
    Delta, Event, FinishReason, GenerateError, Generation, Model, Outcome, Part, TokenOutput,
};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::reply::{Ending, TotalUsage};
use crate::app::App;
use crate::error::ApiError;
use crate::error_code::Code;
use crate::http::Call;
use crate::metrics::{Endpoint, Finish, ModelMetrics};
use crate::registry::Lease;
use crate::request_memory::Share;
use crate::requests::Ticket;

/// A request that the engine has taken.
pub(crate) struct Admitted<W> {
    /// Its generations.
    pub(crate) session: Session,
    /// For each choice, what to repeat before it.
    pub(crate) echoes: Vec<String>,
    /// Writes its answer.
    pub(crate) writer: W,
}

/// What happens next in an answer.
pub(crate) enum Turn {
    /// More of a choice.
    Delta(usize, Vec<Part>, Vec<TokenOutput>),
    /// A choice is complete; these parts were held back till then.
    Finished(usize, Vec<Part>, Ending),
    /// All choices are.
    Complete(TotalUsage),
    /// The request failed; nothing follows.
    Failed(ApiError),
}

/// The generations of a request, one for each choice. Dropping it cancels them.
pub(crate) struct Session {
    /// `None` where a choice is complete.
    running: Vec<Option<Generation>>,
    tally: Tally,
    /// After the generations: the model stays until the last one is gone.
    lease: Lease,
}

impl Session {
    pub(crate) fn new(running: Vec<Generation>, tally: Tally, lease: Lease) -> Self {
        let running = running.into_iter().map(Some).collect();
        Session { running, tally, lease }
    }

    /// What happens next. Losing this future to a `select!` loses nothing: events are only taken at
    /// the moment that it completes.
    pub(crate) async fn next(&mut self) -> Turn {
        if self.running.iter().all(Option::is_none) {
            return Turn::Complete(self.tally.complete());
        }
        let (index, event) = match poll_fn(|cx| self.poll_event(cx)).await {
            Ok(event) => event,
            Err(error) => return self.fail(error),
        };
        match event {
            Some(Event::Delta(delta)) => {
                let Some(generation) = &self.running[index] else {
                    return self.fail(ApiError::internal());
                };
                self.tally.delta(index, &delta, generation, &self.lease);
                Turn::Delta(index, delta.parts, delta.tokens)
            }
            Some(Event::Done(mut outcome)) => {
                self.running[index] = None;
                self.tally.choice_done(index, &outcome);
                let parts = std::mem::take(&mut outcome.parts);
                Turn::Finished(index, parts, ending(outcome))
            }
            Some(Event::Failed(GenerateError::ShuttingDown)) => {
                self.fail(ApiError::shutting_down())
            }
            Some(Event::Failed(error)) => {
                tracing::error!(request = self.tally.id, %error, "a generation failed");
                self.fail(ApiError::generate(&error))
            }
            None => self.fail(ApiError::internal()),
        }
    }

    fn fail(&mut self, error: ApiError) -> Turn {
        self.running.fill_with(|| None);
        self.tally.refused(&error);
        Turn::Failed(error)
    }

    /// The next event of any choice.
    fn poll_event(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(usize, Option<Event>), ApiError>> {
        if let Poll::Ready(error) = self.tally.poll_cancelled(cx) {
            return Poll::Ready(Err(error));
        }
        for (index, running) in self.running.iter_mut().enumerate() {
            let Some(running) = running else { continue };
            if let Poll::Ready(event) = pin!(running.next()).poll(cx) {
                return Poll::Ready(Ok((index, event)));
            }
        }
        Poll::Pending
    }
}

/// Why a choice ended, as the API tells it. A call that broke off is no call that a client could
/// answer; the answer ended all the same as it did.
fn ending(outcome: Outcome) -> Ending {
    match outcome.finish {
        FinishReason::Length => Ending::Length,
        FinishReason::Stop if outcome.has_calls => Ending::ToolCalls,
        FinishReason::Stop => outcome.stop.map_or(Ending::Stop, Ending::StopString),
    }
}

/// Counts one request from its start to whatever ends it. Dropped before an end was noted, it counts
/// a client that went away.
pub(crate) struct Tally {
    app: Arc<App>,
    id: String,
    endpoint: Endpoint,
    route: &'static str,
    series: Arc<ModelMetrics>,
    ticket: Ticket,
    _share: Option<Arc<Share>>,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    started: Instant,
    choices: Vec<ChoiceTally>,
    /// Choices of the same prompt stand together.
    choices_per_prompt: usize,
    usage: TotalUsage,
    has_first_token: bool,
    finish: Finish,
    ended: bool,
}

#[derive(Clone, Default)]
struct ChoiceTally {
    last_token: Option<Instant>,
    tokens: usize,
}

impl Tally {
    pub(crate) fn new(call: &Call, ticket: Ticket, series: Arc<ModelMetrics>) -> Self {
        Tally {
            app: Arc::clone(call.app()),
            id: call.id().to_owned(),
            endpoint: call.route().endpoint,
            route: call.route().template,
            cancelled: Box::pin(ticket.cancel_token().cancelled_owned()),
            started: call.started(),
            choices: Vec::new(),
            choices_per_prompt: 1,
            usage: TotalUsage::default(),
            has_first_token: false,
            finish: Finish::Stop,
            ended: false,
            _share: call.share(),
            series,
            ticket,
        }
    }

    /// Runs a future unless the request is cancelled first.
    pub(crate) async fn until_cancelled<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, ApiError> {
        let mut work = pin!(work);
        poll_fn(|cx| match self.poll_cancelled(cx) {
            Poll::Ready(error) => Poll::Ready(Err(error)),
            Poll::Pending => work.as_mut().poll(cx).map(Ok),
        })
        .await
    }

    fn poll_cancelled(&mut self, cx: &mut Context<'_>) -> Poll<ApiError> {
        self.cancelled.as_mut().poll(cx).map(|()| self.app.requests.cancelled_error())
    }

    /// The engine has all generations, `choices_per_prompt` for each prompt.
    pub(crate) fn submitted(
        &mut self,
        prompt_tokens: usize,
        choices: &[Generation],
        choices_per_prompt: usize,
    ) {
        self.usage.prompt_tokens = prompt_tokens;
        self.choices = vec![ChoiceTally::default(); choices.len()];
        self.choices_per_prompt = choices_per_prompt;
        self.ticket.submitted(prompt_tokens, choices.iter().map(Generation::phase).collect());
    }

    /// Notes how many of the request's tools the template does not show to the model.
    pub(crate) fn unshown_tools(&mut self, tools: usize) {
        self.usage.unshown_tools = tools;
        self.app.note_unshown_tools(self.endpoint, self.ticket.model(), tools);
    }

    /// A choice has more tokens.
    fn delta(&mut self, index: usize, delta: &Delta, generation: &Generation, model: &Model) {
        let tokens = delta.tokens.len();
        if tokens == 0 {
            return;
        }
        let now = Instant::now();
        if !self.has_first_token {
            self.has_first_token = true;
            let secs = (now - self.started).as_secs_f64();
            let so_far = generation.usage();
            self.series.first_token(secs, so_far.cached_tokens_ram, so_far.cached_tokens_ssd);
            self.series.prompt_tokens.inc_by(self.usage.prompt_tokens as u64);
        }
        let is_first = self.choices[index].tokens == 0;
        if is_first && index.is_multiple_of(self.choices_per_prompt) {
            let report = generation.reuse();
            self.series.reused(report);
            self.app.cache.note(&self.id, model, report);
        }
        if delta.is_thinking {
            self.usage.reasoning_tokens += tokens;
        }
        let choice = &mut self.choices[index];
        choice.tokens += tokens;
        if let Some(last) = choice.last_token.replace(now) {
            let each = (now - last).as_secs_f64() / tokens as f64;
            (0..tokens).for_each(|_| self.series.inter_token.observe(each));
        }
        self.count_generated(tokens);
    }

    fn count_generated(&self, tokens: usize) {
        self.ticket.generated(tokens);
        self.series.generation_tokens.inc_by(tokens as u64);
    }

    fn choice_done(&mut self, index: usize, outcome: &Outcome) {
        let (series, timings, usage) = (&self.series, &outcome.timings, outcome.usage);
        series.queue_time.observe(timings.queue.as_secs_f64());
        series.prefill_time.observe(timings.prefill.as_secs_f64());
        series.decode_time.observe(timings.decode.as_secs_f64());
        series.restore_time.observe(timings.restore.as_secs_f64());
        series.request_prompt_tokens.observe(usage.prompt_tokens as f64);
        series.request_generation_tokens.observe(usage.completion_tokens as f64);
        series.cached(usage.cached_tokens_ram, usage.cached_tokens_ssd);
        // An end of sequence is a token without a delta.
        self.count_generated(usage.completion_tokens.saturating_sub(self.choices[index].tokens));
        self.usage.completion_tokens += usage.completion_tokens;
        if index.is_multiple_of(self.choices_per_prompt) {
            self.usage.cached_tokens_ram += usage.cached_tokens_ram;
            self.usage.cached_tokens_ssd += usage.cached_tokens_ssd;
            self.usage.restore_ms += timings.restore.as_millis() as u64;
        }
        if outcome.finish == FinishReason::Length {
            self.finish = Finish::Length;
        }
    }

    /// Every choice is complete.
    fn complete(&mut self) -> TotalUsage {
        if !self.has_first_token {
            self.series.prompt_tokens.inc_by(self.usage.prompt_tokens as u64);
        }
        self.end(self.finish);
        self.usage
    }

    /// The request was refused, failed, or was cancelled.
    pub(crate) fn refused(&mut self, error: &ApiError) {
        match error.code() {
            Some(Code::RequestCancelled) => self.end(Finish::Cancelled),
            // Counted as a rejection: it never was a request of the engine.
            Some(Code::ServerOverloaded) => self.ended = true,
            _ if error.status().is_server_error() => self.end(Finish::Error),
            _ => self.ended = true,
        }
    }

    fn end(&mut self, finish: Finish) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let took = self.started.elapsed();
        self.series.finished(self.endpoint, finish);
        self.series.end_to_end.observe(took.as_secs_f64());
        tracing::info!(
            request = self.id,
            model = self.ticket.model(),
            finish = finish.as_str(),
            prompt_tokens = self.usage.prompt_tokens,
            generated_tokens = self.choices.iter().map(|choice| choice.tokens).sum::<usize>(),
            ms = took.as_millis() as u64,
            "request ended"
        );
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        if !self.ended {
            let phase = self.ticket.phase();
            self.app.metrics.http().disconnected(self.route, phase.as_str());
            self.end(Finish::Cancelled);
        }
    }
}
