//! The parser of one answer.

use std::sync::Arc;

use serde_json::Value;

use super::emit::Emitter;
use super::format::{self, CallFormat, OutputFormat, Thinking};
use super::harmony::Harmony;
use super::input::{Input, Marker, Sought, Stands};
use super::json_calls::JsonCalls;
use super::part::{Part, Progress};
use super::reader::Reader;
use super::tools::Tools;
use super::trial::{self, Kind, Trial, Verdict, Wrapper};
use crate::limits::CALLS_TRIED_IN_THOUGHTS;
use crate::types::ThinkingBudget;
use crate::types::{FinishReason, MarkedText};

/// Splits one answer into parts as it arrives.
#[derive(Debug, Clone)]
pub struct OutputParser {
    format: Arc<format::Inner>,
    input: Input,
    out: Emitter,
    state: State,
    /// Markers that may begin something in text.
    openers: Vec<(Marker, Opener)>,
    /// Only space has arrived so far, or since the reasoning.
    at_start: bool,
    /// The answer may be a single object without an opening marker.
    may_be_whole: bool,
    /// A trial of possible calls. Its parts are held back meanwhile.
    trial: Option<Box<Trial<OutputParser>>>,
    /// Number of trials in reasoning so far.
    tries: usize,
}

#[derive(Debug, Clone)]
enum State {
    Thinking,
    /// `lead`: the treatment of space at the beginning.
    Text {
        lead: Lead,
    },
    Calls(Reader),
    /// After the end of reasoning, in a trial of calls inside it.
    Closed {
        /// Other text follows.
        followed: bool,
    },
    /// The gpt-oss format, which is not text with calls in it.
    Harmony(Box<Harmony>),
}

/// The treatment of space at the beginning of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lead {
    /// It is text.
    Keep,
    /// After reasoning: line breaks are dropped.
    AfterThoughts,
    /// After a call: it is text only if other text follows.
    AfterCall,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opener {
    Thinking,
    Calls,
    /// Calls without an opener, at the start of a line or anywhere if their marker is a token.
    BareCalls,
    /// The end of reasoning, in a trial of calls inside it.
    Close,
}

impl OutputParser {
    /// A parser that returns everything as text.
    pub fn plain() -> Self {
        OutputFormat::plain().parser("", &[], true)
    }

    /// `prompt` ends with the text with which the template opened the answer.
    fn new(format: Arc<format::Inner>, prompt: &str, tools: &[Value], parallel: bool) -> Self {
        let tools = Arc::new(Tools::new(tools));
        let mut openers = Vec::new();
        let mut state = State::Text { lead: Lead::Keep };
        if let Some(thinking) = &format.thinking {
            openers.push((thinking.open, Opener::Thinking));
            let end = prompt.trim_end();
            let end = end.strip_suffix(thinking.label.trim_end()).unwrap_or(end);
            if end.ends_with(thinking.open.text) {
                state = State::Thinking;
            }
        }
        if let Some(calls) = format.calls.as_ref().filter(|_| !tools.is_empty()) {
            openers.push((calls.opener(), Opener::Calls));
            openers.extend(calls.bare_opener().map(|marker| (marker, Opener::BareCalls)));
        }
        let may_be_whole = !tools.is_empty() && format.calls.is_some_and(|calls| calls.is_json());
        if let Some(markers) = format.harmony {
            state = State::Harmony(Box::new(Harmony::new(markers)));
        }
        let out = Emitter::new(tools, !parallel);
        Self {
            format,
            input: Input::default(),
            out,
            state,
            openers,
            at_start: true,
            may_be_whole,
            trial: None,
            tries: 0,
        }
    }

    /// The tokens that structure the answer, such as `<tool_call>`. The detokenizer marks them in
    /// the text.
    pub fn markers(&self) -> Arc<[u32]> {
        self.format.markers().into()
    }

    /// A budget that limits reasoning to `tokens` tokens, if the end marker is a token. Must be
    /// called before the answer begins.
    pub fn thinking_budget(&self, tokens: usize) -> Option<ThinkingBudget> {
        let Thinking { open, close, .. } = self.format.thinking?;
        let is_open = self.is_thinking();
        Some(ThinkingBudget { tokens, is_open, open: open.id, close: close.id? })
    }

    /// Adds the next piece of the answer. Returns the parts that are certain by now.
    pub fn push(&mut self, delta: &MarkedText) -> Vec<Part> {
        self.input.push(&delta.text, &delta.marks);
        if let Some(trial) = &mut self.trial {
            trial.push(delta);
        }
        self.run();
        self.out.take()
    }

    /// Ends the answer and returns the parts that were held back. Whether they are a call may
    /// depend on whether the model or the length limit ended the answer.
    pub fn finish(&mut self, finish: FinishReason) -> Vec<Part> {
        (self.input.ended, self.input.cut) = (true, finish == FinishReason::Length);
        if let Some(trial) = &mut self.trial {
            trial.finish(self.input.cut);
        }
        self.run();
        self.out.take()
    }

    /// Whether the answer is currently inside reasoning.
    pub fn is_thinking(&self) -> bool {
        match &self.state {
            State::Thinking => true,
            State::Harmony(harmony) => harmony.is_thinking(),
            State::Text { .. } | State::Calls(_) | State::Closed { .. } => false,
        }
    }

    /// Number of calls started so far.
    pub fn calls(&self) -> usize {
        self.out.calls()
    }

    /// Whether a started call was cut off, so that its arguments are incomplete.
    pub fn is_cut(&self) -> bool {
        self.out.is_cut()
    }

    fn run(&mut self) {
        while self.tried()
            && match &mut self.state {
                State::Thinking => self.thinking(),
                State::Text { lead } => {
                    let lead = *lead;
                    self.text(lead)
                }
                State::Calls(calls) => {
                    let progress = calls.read(&mut self.input, &mut self.out);
                    self.called(progress)
                }
                State::Closed { .. } => {
                    self.input.skip_whitespace();
                    self.state = State::Closed { followed: !self.input.ahead().is_empty() };
                    self.input.rewind();
                    false
                }
                State::Harmony(harmony) => {
                    harmony.read(&mut self.input, &mut self.out);
                    false
                }
            }
        {}
    }

    /// Reads reasoning up to its end. Returns true when something else follows.
    fn thinking(&mut self) -> bool {
        let Some(Thinking { close, label, .. }) = self.format.thinking else { return false };
        if self.at_start && !self.thoughts_begin(label) {
            return false;
        }
        let mut ends = vec![close];
        let openers = self.call_openers();
        ends.extend(openers.iter().map(|(marker, _)| *marker));
        if self.tries >= CALLS_TRIED_IN_THOUGHTS {
            ends.truncate(1);
        }
        let mut sought = self.input.seek(&ends);
        while let Sought::Marker(number @ 1.., length) = sought
            && !self.may_begin(openers[number - 1])
        {
            self.input.skip(length);
            sought = self.input.seek(&ends);
        }
        // Line breaks at the end belong to the marker, if one follows.
        let kept = if self.input.ended && sought == Sought::Nothing {
            self.input.seen().len()
        } else {
            self.input.seen().trim_end_matches('\n').len()
        };
        let thoughts = self.input.take_to(kept);
        self.out.reasoning(&thoughts);
        let Sought::Marker(number, length) = sought else {
            self.input.rewind();
            return false;
        };
        if number > 0 {
            self.tries += 1;
            self.trial = Some(Box::new(self.try_thoughts(length)));
            return true;
        }
        self.input.skip(length);
        self.input.take();
        self.at_start = true;
        self.state = State::Text { lead: Lead::AfterThoughts };
        true
    }

    /// Starts a trial of calls inside reasoning. The opening marker has `length` bytes.
    fn try_thoughts(&self, length: usize) -> Trial<Self> {
        let mut openers = self.call_openers();
        openers.extend(self.format.thinking.map(|thinking| (thinking.close, Opener::Close)));
        let resume = self.input.seen().len() + length;
        let parser = self.within(openers, State::Text { lead: Lead::Keep });
        Trial::new(parser, Kind::Thoughts, resume)
    }

    /// Starts a trial of the object after `length` bytes; `end` must come after it.
    fn try_whole(&self, length: usize, end: String) -> Trial<Self> {
        let key = match self.format.calls {
            Some(CallFormat::Llama { .. }) => "parameters",
            _ => "arguments",
        };
        let state = State::Calls(Reader::Json(JsonCalls::strict(key)));
        let mut parser = self.within(Vec::new(), state);
        parser.input.skip(length);
        parser.input.take();
        Trial::new(parser, Kind::Whole { end }, 0)
    }

    /// A parser for a trial, in which no other trial is started.
    fn within(&self, openers: Vec<(Marker, Opener)>, state: State) -> Self {
        let mut parser = self.clone();
        parser.out.take();
        parser.input.take();
        (parser.openers, parser.state, parser.at_start) = (openers, state, true);
        parser.may_be_whole = false;
        parser
    }

    /// Continues the trial. Returns false while its result is unknown.
    fn tried(&mut self) -> bool {
        let Some(trial) = &mut self.trial else { return true };
        let verdict = trial.verdict();
        if verdict == Verdict::Open {
            return false;
        }
        let Some(trial) = self.trial.take() else { return true };
        match verdict {
            Verdict::Calls => {
                let mut parts = self.out.take();
                let (parser, tried) = trial.accept();
                parts.extend(tried);
                *self = parser;
                self.out.give_back(parts);
            }
            _ => self.input.go_to(trial.resume),
        }
        true
    }

    /// The markers that begin calls.
    fn call_openers(&self) -> Vec<(Marker, Opener)> {
        let begins = |opener: Opener| matches!(opener, Opener::Calls | Opener::BareCalls);
        self.openers.iter().filter(|(_, opener)| begins(*opener)).copied().collect()
    }

    /// Whether the marker ahead may begin calls here.
    fn may_begin(&self, (marker, opener): (Marker, Opener)) -> bool {
        opener != Opener::BareCalls || marker.id.is_some() || self.is_line_start()
    }

    /// Drops the label and line breaks before reasoning. Returns false while more may arrive.
    fn thoughts_begin(&mut self, label: &str) -> bool {
        let ahead = self.input.ahead();
        if !self.input.ended && !label.is_empty() && label.starts_with(ahead) {
            return false;
        }
        let labelled = ahead.strip_prefix(label).filter(|_| !label.is_empty());
        let rest = labelled.unwrap_or_else(|| ahead.trim_start_matches('\n')).len();
        self.at_start = labelled.is_none() && rest == 0;
        self.input.skip(ahead.len() - rest);
        self.input.take();
        true
    }

    /// Reads text up to the next marker. Returns true when something began there.
    fn text(&mut self, lead: Lead) -> bool {
        let Some(lead) = self.lead(lead) else { return false };
        self.state = State::Text { lead };
        if self.begins_bare() {
            return true;
        }
        match self.begins_whole() {
            Some(true) => return true,
            Some(false) => {}
            None => return false,
        }
        let markers: Vec<Marker> = self.openers.iter().map(|(marker, _)| *marker).collect();
        loop {
            match self.input.seek(&markers) {
                Sought::Nothing => {
                    let kept = if self.input.ended {
                        self.input.seen().len()
                    } else if self.may_be_before_thoughts() {
                        0
                    } else {
                        self.before_call()
                    };
                    self.say(kept);
                    self.input.rewind();
                    return false;
                }
                Sought::Marker(number, length) => {
                    if self.begins(number, length) {
                        return true;
                    }
                    self.input.skip(length);
                }
            }
        }
    }

    /// Handles space before a text. Returns `None` while only space has arrived.
    fn lead(&mut self, lead: Lead) -> Option<Lead> {
        let ahead = self.input.ahead();
        match lead {
            Lead::Keep => {}
            Lead::AfterThoughts => {
                let rest = ahead.trim_start_matches('\n').len();
                self.input.skip(ahead.len() - rest);
                self.input.take();
                if rest == 0 {
                    return None;
                }
            }
            Lead::AfterCall => {
                if ahead.trim_start().is_empty() || self.is_marker_cut(ahead.trim()) {
                    if self.input.ended {
                        self.input.skip(self.input.ahead().len());
                        self.input.take();
                    }
                    return None;
                }
                return Some(lead);
            }
        }
        Some(Lead::Keep)
    }

    /// Whether the answer's length limit cut it inside a marker of its calls; `rest` is the text
    /// left.
    fn is_marker_cut(&self, rest: &str) -> bool {
        let begins =
            |marker: &Marker| marker.text.len() > rest.len() && marker.text.starts_with(rest);
        let mut markers = self.format.calls.iter().flat_map(CallFormat::markers);
        self.input.ended && self.input.cut && markers.any(|marker| begins(&marker))
    }

    /// Whether the answer begins with a call without an opening marker.
    fn begins_bare(&mut self) -> bool {
        let Some(calls) = self.format.calls.as_ref().filter(|calls| calls.is_bare()) else {
            return false;
        };
        if !self.at_start || self.out.tools().is_empty() || !self.input.skip_whitespace() {
            self.input.rewind();
            return false;
        }
        let begins = matches!(self.input.peek(), Some('{' | '['));
        if begins {
            self.state = State::Calls(calls.reader());
            self.at_start = false;
        } else {
            self.input.rewind();
        }
        begins
    }

    /// Whether the answer begins with an object that may be all of it. `None`: unknown yet.
    fn begins_whole(&mut self) -> Option<bool> {
        if !self.may_be_whole || !self.at_start || !self.input.seen().is_empty() {
            return Some(false);
        }
        self.input.skip_whitespace();
        let marked = self.openers.iter().any(|(marker, _)| self.input.stands(marker) != Stands::No);
        self.input.rewind();
        let wrapper = if marked { Wrapper::No } else { trial::wrapper(&self.input) };
        match wrapper {
            Wrapper::Maybe => return None,
            // A bare object begins a call in Llama's format in any case.
            Wrapper::Begins(length, end) if !(self.is_bare() && end.is_empty()) => {
                self.trial = Some(Box::new(self.try_whole(length, end)));
            }
            Wrapper::No if marked => return Some(false),
            _ => {}
        }
        self.may_be_whole = false;
        Some(self.trial.is_some())
    }

    fn is_bare(&self) -> bool {
        self.format.calls.is_some_and(|calls| calls.is_bare())
    }

    /// Handles the marker ahead. Returns false when it has no meaning here.
    fn begins(&mut self, number: usize, length: usize) -> bool {
        let (marker, opener) = self.openers[number];
        match opener {
            Opener::Thinking => {
                let before = self.input.seen();
                // If it is not a token, prose may mention it.
                let first = self.at_start && before.trim_start().is_empty();
                if marker.id.is_none() && !first {
                    return false;
                }
                let before = if first { 0 } else { before.len() };
                self.say(before);
                self.input.skip(length);
                self.input.take();
                self.at_start = true;
                self.state = State::Thinking;
            }
            Opener::Calls | Opener::BareCalls => {
                let bare = opener == Opener::BareCalls;
                if !self.may_begin((marker, opener)) {
                    return false;
                }
                let Some(calls) = &self.format.calls else { return false };
                let reader = calls.reader();
                let kept = self.before_call();
                self.say(kept);
                self.input.skip(if bare { 0 } else { length });
                self.at_start = false;
                self.state = State::Calls(reader);
            }
            Opener::Close => {
                // Space before it is dropped.
                let before = self.input.seen().trim_end().len();
                self.say(before);
                self.input.skip(length);
                self.input.take();
                self.state = State::Closed { followed: false };
            }
        }
        true
    }

    /// Whether only space was seen, which is not text if reasoning follows.
    fn may_be_before_thoughts(&self) -> bool {
        let is_space = self.input.seen().trim_start().is_empty();
        self.format.thinking.is_some() && self.at_start && is_space
    }

    /// Whether the current position is at the start of a line.
    fn is_line_start(&self) -> bool {
        let seen = self.input.seen();
        let begins = self.at_start || matches!(self.state, State::Text { lead: Lead::AfterCall });
        seen.ends_with('\n') || (begins && seen.trim_start().is_empty())
    }

    /// Number of bytes of the seen text to return before a call: without the line breaks that a
    /// template writes there, and without space that only separates two calls.
    fn before_call(&self) -> usize {
        let seen = self.input.seen();
        if self.openers.iter().all(|(_, opener)| *opener == Opener::Thinking) {
            return seen.len();
        }
        match self.state {
            State::Text { lead: Lead::AfterCall } if seen.trim_start().is_empty() => 0,
            _ => {
                let gap = self.format.calls.as_ref().map_or("\n", CallFormat::gap);
                let before = seen.strip_suffix(gap).or_else(|| seen.strip_suffix('\n'));
                before.unwrap_or(seen).len()
            }
        }
    }

    /// Returns the first `bytes` bytes of the seen text as text.
    fn say(&mut self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let text = self.input.take_to(bytes);
        self.at_start &= text.trim_start().is_empty();
        self.out.text(&text);
        self.state = State::Text { lead: Lead::Keep };
    }

    /// Continues after calls, or when there are none.
    fn called(&mut self, progress: Progress) -> bool {
        match progress {
            Progress::More => return false,
            Progress::Done => {
                self.input.rewind();
                self.state = State::Text { lead: Lead::AfterCall };
            }
            Progress::NotACall | Progress::Functions => {
                let text = self.input.take();
                self.out.text(&text);
                self.state = State::Text { lead: Lead::Keep };
            }
        }
        true
    }
}

impl OutputFormat {
    /// A parser for the answer to `prompt`. The end of the prompt matters, because a template may
    /// open reasoning there. Only functions in `tools` are called. Without `parallel` only the
    /// first call is returned.
    pub fn parser(&self, prompt: &str, tools: &[Value], parallel: bool) -> OutputParser {
        OutputParser::new(Arc::clone(&self.inner), prompt, tools, parallel)
    }
}

impl trial::Parser for OutputParser {
    fn input(&self) -> &Input {
        &self.input
    }

    fn input_mut(&mut self) -> &mut Input {
        &mut self.input
    }

    fn read_on(&mut self) -> Vec<Part> {
        self.run();
        self.out.take()
    }

    fn is_followed(&self) -> bool {
        matches!(self.state, State::Closed { followed: true })
    }

    fn is_cut(&self) -> bool {
        self.is_cut()
    }
}
