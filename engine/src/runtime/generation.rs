//! One request and the stream of what it generates.

use crate::runtime::events::PhaseCell;
use crate::runtime::events::RowEvent;
use crate::types::Delta;
use crate::types::FinishReason;
use crate::types::Mark;
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
use crate::text::stop::{StopMatcher, Stopped};
use crate::text::tokenizer::Tokenizer;
use crate::types::ThinkingBudget;

/// What to generate from.
#[derive(Debug, Clone, Default)]
pub struct GenerateRequest {
    /// Prompt token ids, as the tokenizer gave them.
    pub prompt: Vec<u32>,
    /// How each token is chosen.
    pub sampling: SamplingParams,
    /// The most tokens to generate; clamped to what the context leaves.
    pub max_tokens: usize,
    /// No end-of-sequence token is chosen before this many tokens.
    pub min_tokens: usize,
    /// Go on after an end-of-sequence token.
    pub ignore_eos: bool,
    /// What the answer must look like; compiled by the same model. The answer ends where the grammar
    /// does, whatever `min_tokens` and `ignore_eos` say.
    pub grammar: Option<Grammar>,
    /// Texts that end the answer; none of them ever appears in it.
    pub stop: Vec<String>,
    /// `Some(n)`: report the log probability of each token and of the n likeliest (0 to 20).
    pub logprobs: Option<usize>,
    /// Keeps this request's KV apart from that of requests with another salt. Empty: shared.
    pub cache_salt: String,
    /// Whom the request belongs to, an API key for one: tenants share the engine evenly.
    pub tenant: String,
    /// When it fails if it has not ended.
    pub deadline: Option<Instant>,
    /// How long the model may think; `None`: as long as it likes.
    pub thinking: Option<ThinkingBudget>,
    /// Tokens that structure the answer, such as `<tool_call>`: their text is kept and marked, while
    /// other special tokens have none. See [`crate::OutputParser::markers`].
    pub markers: Arc<[u32]>,
    /// The answer is the rest of a text that the prompt began, so that its first word keeps its space. An answer
    /// with a grammar keeps it as well: a grammar allows what a token adds.
    pub goes_on: bool,
}

/// A step of a generation, in order: any number of `Delta`, then exactly one `Done` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// More of the answer.
    Delta(Delta),
    /// The answer is complete.
    Done(Outcome),
    /// The request failed.
    Failed(GenerateError),
}

/// How a finished request ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Why it ended.
    pub finish: FinishReason,
    /// The stop string that ended it, if one did.
    pub stop: Option<String>,
    /// Token counts.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
}

/// Reads a request's phase for as long as somebody wants to, wherever its generation is.
#[derive(Debug, Clone)]
pub struct PhaseReader(Arc<PhaseCell>);

impl PhaseReader {
    /// How far the request is.
    pub fn get(&self) -> RowPhase {
        self.0.get()
    }
}

/// The receiving end of a request. Dropping it cancels the request: its row leaves the batch at the
/// next step.
#[derive(Debug)]
pub struct Generation {
    receiver: mpsc::Receiver<RowEvent>,
    detokenizer: Detokenizer,
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
    /// Events that came out together.
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
        let markers = Arc::clone(&request.markers);
        let detokenizer = if request.goes_on || request.grammar.is_some() {
            Detokenizer::going_on(tokenizer, markers)
        } else {
            Detokenizer::new(tokenizer, markers)
        };
        Self {
            receiver,
            detokenizer,
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

    /// The next event: any number of deltas, then one `Done` or `Failed`, then `None`. Nothing is
    /// lost when the future is dropped before it is ready.
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

    /// What was reused of the prompt, and why not more; known with the first token.
    pub fn reuse(&self) -> &ReuseReport {
        &self.reuse
    }

    /// How far it is, for others to read.
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

    /// The engine is done: what was held back comes out.
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
            // What a stop string cut away is not needed again.
            mark.start = mark.start.saturating_sub(text.len());
            mark.end -= text.len();
        });
        let marks = std::mem::replace(&mut self.marks, later);
        self.ready.push_back(Event::Delta(Delta { text, marks, tokens }));
    }

    fn done(&mut self, finish: FinishReason) {
        let decode = self.first_token.map_or(Duration::ZERO, |first| first.elapsed());
        let timings = Timings { decode, ..self.timings };
        let stop = self.stop.found().map(str::to_owned);
        self.end(Event::Done(Outcome { finish, stop, usage: self.usage, timings }));
    }

    fn end(&mut self, event: Event) {
        self.finished = true;
        // The engine sees the closed channel at its next step, if it has not ended itself.
        self.receiver.close();
        self.ready.push_back(event);
    }
}
