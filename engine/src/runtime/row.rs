//! A request on the engine thread, from its arrival to its last event.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::error::{GenerateError, Result};
use crate::kv::slots::SequenceCache;
use crate::kv::{CachedSequence, RestoredSequence, ReuseReport};
use crate::runtime::command::Job;
use crate::runtime::events::RowEvent;
use crate::runtime::loaded::Loaded;
use crate::runtime::reasoning_budget::ReasoningBudget;
use crate::runtime::sampling::{LazyLogprobs, Sampler};
use crate::text::grammar::MaskState;
use crate::types::{
    FinishReason, RowPhase, Timings, TokenLogprob, TokenLogprobs, TokenOutput, Usage,
};

/// A waiting or running request.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) job: Box<Job>,
    pub(crate) model: Rc<Loaded>,
    /// Created when the request first runs. It survives a preemption.
    pub(crate) sampler: Option<Sampler>,
    /// The grammar state of its answer.
    pub(crate) constraint: Option<MaskState>,
    /// The rest of its reasoning budget, if it has one.
    pub(crate) thoughts: Option<ReasoningBudget>,
    /// Set while it runs.
    pub(crate) sequence: Option<Sequence>,
    /// Generated tokens that are known on the host.
    pub(crate) generated: Vec<u32>,
    /// Number of failed steps that had this row and others in them.
    pub(crate) failed_steps: u32,
    started: Option<Started>,
    outbox: Outbox,
}

/// The caches of a running request.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) cache: SequenceCache,
    /// The known tokens in the caches, and how much of them is stored.
    pub(crate) track: CachedSequence,
    pub(crate) next: Next,
    /// The caches hold one more token than the track: the one that is still being computed.
    pub(crate) has_unread_token: bool,
}

/// A row's input to the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// More of its prompt.
    Prompt,
    /// The token that the step in flight computes at this output index.
    InFlight(usize),
    /// This token.
    Known(u32),
}

/// The start of the request, which is reported with its first token.
#[derive(Debug)]
struct Started {
    at: Instant,
    restore: Duration,
    report: ReuseReport,
}

/// Events of a request that its reader has not received yet.
#[derive(Debug, Default)]
struct Outbox {
    /// In order. If there are any, the first one did not fit in the channel.
    waiting: VecDeque<RowEvent>,
    blocked_since: Option<Instant>,
}

impl Row {
    pub(crate) fn new(mut job: Box<Job>, model: Rc<Loaded>) -> Self {
        Self {
            constraint: job.constraint.take().map(MaskState::Ready),
            thoughts: job.request.thinking_budget().map(ReasoningBudget::new),
            job,
            model,
            sampler: None,
            sequence: None,
            generated: Vec::new(),
            failed_steps: 0,
            started: None,
            outbox: Outbox::default(),
        }
    }

    /// All tokens to compute before the next one: the prompt and the generated tokens.
    pub(crate) fn tokens(&self) -> Vec<u32> {
        [&self.job.request.prompt[..], &self.generated].concat()
    }

    /// Starts the request with its restored prefix.
    pub(crate) fn start(&mut self, restored: RestoredSequence) -> Result<()> {
        let RestoredSequence { cache, track, report, took } = restored;
        if self.sampler.is_none() {
            let request = &self.job.request;
            let seen = (&request.prompt[..], &self.model.eos[..], self.model.vocab);
            let sampling = request.sampling.clone();
            // With a grammar, the grammar decides when the answer may end.
            let min_tokens = if self.constraint.is_some() { 0 } else { request.min_tokens };
            self.sampler = Some(Sampler::new(sampling, request.logprobs, min_tokens, seen)?);
        }
        let now = Instant::now();
        self.started.get_or_insert(Started {
            at: now.checked_sub(took).unwrap_or(now),
            restore: took,
            report,
        });
        self.sequence =
            Some(Sequence { cache, track, next: Next::Prompt, has_unread_token: false });
        self.job.phase.set(RowPhase::Prefill);
        Ok(())
    }

    /// Adds a new token of this row. Returns why the request ends, if it does.
    pub(crate) fn take(
        &mut self,
        id: u32,
        logprobs: Option<TokenLogprobs>,
    ) -> Option<FinishReason> {
        if let Some(started) = self.started.take().filter(|_| self.generated.is_empty()) {
            self.tell_start(started);
        }
        self.generated.push(id);
        if let Some(thoughts) = &mut self.thoughts {
            thoughts.take(id);
        }
        if let Some(sequence) = &mut self.sequence {
            if std::mem::take(&mut sequence.has_unread_token) {
                sequence.track.tokens.push(id);
            } else {
                sequence.next = Next::Known(id);
            }
        }
        self.outbox.waiting.push_back(RowEvent::Token(TokenOutput { id, logprobs }));
        let request = &self.job.request;
        let ended = !request.ignore_eos && self.model.eos.contains(&id);
        if ended {
            Some(FinishReason::Stop)
        } else {
            (self.generated.len() >= request.max_tokens).then_some(FinishReason::Length)
        }
    }

    fn tell_start(&mut self, Started { at, restore, report }: Started) {
        self.job.phase.set(RowPhase::Decode);
        let timings = Timings {
            queue: at.duration_since(self.job.submitted),
            restore: if report.reused_tokens() > 0 { restore } else { Duration::ZERO },
            prefill: at.elapsed(),
            ..Timings::default()
        };
        let usage = Usage {
            prompt_tokens: self.job.request.prompt.len(),
            cached_tokens_ram: report.ram_tokens,
            cached_tokens_ssd: report.ssd_tokens,
            ..Usage::default()
        };
        self.outbox.waiting.push_back(RowEvent::Started(usage, timings, Box::new(report)));
    }

    /// Sends the waiting events. Returns false when the channel is full.
    pub(crate) fn flush(&mut self) -> bool {
        self.outbox.flush(&self.job.events)
    }

    /// Whether an event could not be sent yet.
    pub(crate) fn is_blocked(&self) -> bool {
        self.outbox.blocked_since.is_some()
    }

    /// How long the reader has received nothing.
    pub(crate) fn blocked_for(&self) -> Duration {
        self.outbox.blocked_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether the client still listens.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.job.events.is_closed()
    }

    /// Ends the request with an error.
    pub(crate) fn fail(self, error: GenerateError) {
        self.job.fail(error);
    }

    /// Ends the computation of the request. Events may still have to be sent.
    pub(crate) fn leave(self, finish: FinishReason) -> DrainingRequest {
        let Job { events, last, .. } = *self.job;
        DrainingRequest { events, last, outbox: self.outbox, finish }
    }
}

impl Outbox {
    fn flush(&mut self, events: &mpsc::Sender<RowEvent>) -> bool {
        while let Some(raw) = self.waiting.pop_front() {
            match events.try_send(raw) {
                Ok(()) => self.blocked_since = None,
                Err(mpsc::error::TrySendError::Full(raw)) => {
                    self.waiting.push_front(raw);
                    self.blocked_since.get_or_insert_with(Instant::now);
                    return false;
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return true,
            }
        }
        true
    }
}

/// A request that is computed, but whose reader has not received all events.
#[derive(Debug)]
pub(crate) struct DrainingRequest {
    events: mpsc::Sender<RowEvent>,
    last: mpsc::OwnedPermit<RowEvent>,
    outbox: Outbox,
    finish: FinishReason,
}

impl DrainingRequest {
    /// Sends the remaining events. Returns itself when the channel is full. A request whose reader
    /// receives nothing for `limit` fails.
    pub(crate) fn send(mut self, limit: Duration) -> Option<Self> {
        if self.outbox.flush(&self.events) {
            self.last.send(RowEvent::Done(self.finish));
            return None;
        }
        if self.outbox.blocked_since.is_some_and(|since| since.elapsed() > limit) {
            self.last.send(RowEvent::Failed(GenerateError::SlowReader(limit.as_secs())));
            return None;
        }
        Some(self)
    }

    /// Ends the request with an error.
    pub(crate) fn fail(self, error: GenerateError) {
        self.last.send(RowEvent::Failed(error));
    }
}

/// Reads the evaluated log probabilities of a token.
pub(crate) fn read_logprobs(lazy: &LazyLogprobs) -> Result<TokenLogprobs> {
    let mut top = Vec::new();
    if let Some((ids, values)) = &lazy.top {
        let pairs = ids.as_slice::<u32>().iter().zip(values.as_slice::<f32>());
        top.extend(pairs.map(|(&id, &logprob)| TokenLogprob { id, logprob }));
        top.sort_by(|a, b| b.logprob.total_cmp(&a.logprob).then(a.id.cmp(&b.id)));
    }
    Ok(TokenLogprobs { chosen: lazy.chosen.item_exact::<f32>(), top })
}
