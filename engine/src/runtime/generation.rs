//! A request and the stream of its answer.

use crate::runtime::events::PhaseCell;
use crate::runtime::events::RowEvent;
use crate::types::FinishReason;
use crate::types::Mark;
use crate::types::MarkedText;
use crate::types::RowPhase;
use crate::types::Timings;
use crate::types::TokenOutput;
use crate::types::Usage;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::error::GenerateError;
use crate::kv::ReuseReport;
use crate::runtime::sampling::SamplingParams;
use crate::text::detokenize::{Detokenizer, Piece};
use crate::text::grammar::Grammar;
use crate::text::output::{OutputParser, Part};
use crate::text::stop::{StopMatcher, Stopped};
use crate::text::tokenizer::Tokenizer;
use crate::types::ThinkingBudget;

/// A request to generate an answer.
#[derive(Debug, Clone, Default)]
pub struct GenerateRequest {
    /// Prompt token ids, as returned by the tokenizer.
    pub prompt: Vec<u32>,
    /// How each token is sampled.
    pub sampling: SamplingParams,
    /// Limit on the tokens to generate. It is reduced to what the context leaves.
    pub max_tokens: usize,
    /// Minimum number of tokens before an end-of-sequence token may be sampled.
    pub min_tokens: usize,
    /// Continue after an end-of-sequence token.
    pub ignore_eos: bool,
    /// A grammar that constrains the answer, compiled by the same model. The answer ends where the
    /// grammar ends, whatever `min_tokens` and `ignore_eos` say.
    pub grammar: Option<Grammar>,
    /// Texts that end the answer and never appear in it.
    pub stop: Vec<String>,
    /// `Some(n)`: report the log probability of each token and of the n likeliest tokens (0 to 20).
    pub logprobs: Option<usize>,
    /// Separates this request's KV cache from requests with another salt. Empty: shared.
    pub cache_salt: String,
    /// The owner of the request, such as an API key. The engine is shared evenly between tenants.
    pub tenant: String,
    /// The time at which the request fails if it has not ended.
    pub deadline: Option<Instant>,
    /// Splits the answer into parts; `None` returns all of it as text.
    pub parser: Option<OutputParser>,
    /// Limit on the reasoning tokens, if the parser knows the end marker; `None`: no limit.
    pub thinking_tokens: Option<usize>,
    /// The answer continues a text that the prompt began, so its first word keeps its leading
    /// space. An answer with a grammar keeps it as well, because the grammar covers every byte of a
    /// token.
    pub continues_prompt: bool,
}

impl GenerateRequest {
    /// The limit on the model's reasoning.
    pub(crate) fn thinking_budget(&self) -> Option<ThinkingBudget> {
        self.parser.as_ref()?.thinking_budget(self.thinking_tokens?)
    }
}

/// The next piece of an answer. Tokens whose text is held back come with the delta that releases
/// it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Delta {
    /// The text before parsing; may be empty (for instance for the first token of an emoji).
    pub text: String,
    /// The parts of reasoning, text and tool calls that are certain by now.
    pub parts: Vec<Part>,
    /// Whether the model was reasoning at the start or the end of this delta.
    pub is_thinking: bool,
    /// The tokens sampled since the last delta.
    pub tokens: Vec<TokenOutput>,
}

/// An event of a generation: any number of `Delta`, then exactly one `Done` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// More of the answer.
    Delta(Delta),
    /// The answer is complete.
    Done(Outcome),
    /// The request failed.
    Failed(GenerateError),
}

/// The result of a finished request.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Why it ended.
    pub finish: FinishReason,
    /// The stop string that ended it, if one did.
    pub stop: Option<String>,
    /// The parts that the parser held back until the end.
    pub parts: Vec<Part>,
    /// Whether it ended with complete tool calls, which a client can execute.
    pub has_calls: bool,
    /// Token counts.
    pub usage: Usage,
    /// The time spent in each phase.
    pub timings: Timings,
}

/// Reads a request's phase. It may outlive the generation.
#[derive(Debug, Clone)]
pub struct PhaseReader(Arc<PhaseCell>);

impl PhaseReader {
    /// The request's current phase.
    pub fn get(&self) -> RowPhase {
        self.0.get()
    }
}

/// The receiver of a request's answer. Dropping it cancels the request: its row leaves the batch at
/// the next step.
#[derive(Debug)]
pub struct Generation {
    receiver: mpsc::Receiver<RowEvent>,
    detokenizer: Detokenizer,
    parser: OutputParser,
    stop: StopMatcher,
    /// Tokens that end the answer; empty when the request ignores them.
    eos: Arc<[u32]>,
    /// Tokens whose text has not been released yet.
    pending: Vec<TokenOutput>,
    /// Markers whose text has not been released yet, counted from the start of that text.
    marks: Vec<Mark>,
    usage: Usage,
    timings: Timings,
    reuse: ReuseReport,
    first_token: Option<Instant>,
    /// Events that became ready together.
    ready: VecDeque<Event>,
    finished: bool,
    phase: Arc<PhaseCell>,
}

impl Generation {
    pub(crate) fn new(
        receiver: mpsc::Receiver<RowEvent>,
        request: &GenerateRequest,
        tokenizer: Tokenizer,
        eos: Arc<[u32]>,
        phase: Arc<PhaseCell>,
    ) -> Self {
        let parser = request.parser.clone().unwrap_or_else(OutputParser::plain);
        let detokenizer = if request.continues_prompt || request.grammar.is_some() {
            Detokenizer::continuing(tokenizer, parser.markers())
        } else {
            Detokenizer::new(tokenizer, parser.markers())
        };
        Self {
            receiver,
            detokenizer,
            parser,
            stop: StopMatcher::new(request.stop.clone()),
            eos: if request.ignore_eos { Arc::new([]) } else { eos },
            pending: Vec::new(),
            marks: Vec::new(),
            usage: Usage { prompt_tokens: request.prompt.len(), ..Usage::default() },
            timings: Timings::default(),
            reuse: ReuseReport::default(),
            first_token: None,
            ready: VecDeque::new(),
            finished: false,
            phase,
        }
    }

    /// Returns the next event: any number of deltas, then one `Done` or `Failed`, then `None`. This
    /// is cancel-safe: no event is lost when the future is dropped early.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.finished {
                return None;
            }
            match self.receiver.recv().await {
                Some(raw) => self.take(raw),
                None => self.end(Event::Failed(GenerateError::ShuttingDown)),
            }
        }
    }

    /// The reused part of the prompt, and why it is not longer; known with the first token.
    pub fn reuse(&self) -> &ReuseReport {
        &self.reuse
    }

    /// A reader of the request's phase.
    pub fn phase(&self) -> PhaseReader {
        PhaseReader(Arc::clone(&self.phase))
    }

    /// Token counts so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    fn take(&mut self, raw: RowEvent) {
        match raw {
            RowEvent::Started(usage, timings, reuse) => {
                (self.usage, self.timings, self.reuse) = (usage, timings, *reuse);
            }
            RowEvent::Token(token) => self.take_token(token),
            RowEvent::Done(finish) => self.finish(finish),
            RowEvent::Failed(error) => self.end(Event::Failed(error)),
        }
    }

    fn take_token(&mut self, token: TokenOutput) {
        self.first_token.get_or_insert_with(Instant::now);
        self.usage.completion_tokens += 1;
        let id = token.id;
        self.pending.push(token);
        if self.eos.contains(&id) {
            return;
        }
        let Piece { mut text, marker } = self.detokenizer.push(id);
        if let Some(marker) = marker {
            let start = self.stop.held() + text.len();
            text.push_str(&marker);
            self.marks.push(Mark { start, end: start + marker.len(), id });
        }
        let marks: Vec<(usize, usize)> = self.marks.iter().map(|m| (m.start, m.end)).collect();
        match self.stop.push(&text, &marks) {
            Stopped::Send(text) if text.is_empty() => {}
            Stopped::Send(text) => self.release(text),
            Stopped::Stop(text) => {
                self.release(text);
                self.done(FinishReason::Stop);
            }
        }
    }

    /// Releases the held-back text when the engine has finished.
    fn finish(&mut self, finish: FinishReason) {
        let text = self.detokenizer.finish();
        let (text, finish) = match self.stop.push(&text, &[]) {
            Stopped::Send(text) => (text + &self.stop.finish(), finish),
            Stopped::Stop(text) => (text, FinishReason::Stop),
        };
        if !text.is_empty() || !self.pending.is_empty() {
            self.release(text);
        }
        self.done(finish);
    }

    fn release(&mut self, text: String) {
        let tokens = std::mem::take(&mut self.pending);
        let later = self.marks.iter().position(|mark| mark.end > text.len());
        let mut later = self.marks.split_off(later.unwrap_or(self.marks.len()));
        later.iter_mut().for_each(|mark| {
            // The text that a stop string removed is not needed again.
            mark.start = mark.start.saturating_sub(text.len());
            mark.end -= text.len();
        });
        let marks = std::mem::replace(&mut self.marks, later);
        let was_thinking = self.parser.is_thinking();
        let piece = MarkedText { text, marks };
        let parts = self.parser.push(&piece);
        let is_thinking = was_thinking || self.parser.is_thinking();
        self.ready.push_back(Event::Delta(Delta { text: piece.text, parts, is_thinking, tokens }));
    }

    fn done(&mut self, finish: FinishReason) {
        let decode = self.first_token.map_or(Duration::ZERO, |first| first.elapsed());
        let timings = Timings { decode, ..self.timings };
        let stop = self.stop.found().map(str::to_owned);
        let parts = self.parser.finish(finish);
        let has_calls = self.parser.calls() > 0 && !self.parser.is_cut();
        let usage = self.usage;
        self.end(Event::Done(Outcome { finish, stop, parts, has_calls, usage, timings }));
    }

    fn end(&mut self, event: Event) {
        self.finished = true;
        // The engine sees the closed channel at its next step, unless the request has ended
        // already.
        self.receiver.close();
        self.ready.push_back(event);
    }
}
