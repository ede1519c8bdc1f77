//! Parts of an answer that look like calls, and of which only what follows tells whether they are.
//!
//! - A call inside thoughts that were never closed: models forget the end of their thoughts. It is a
//!   call if it is whole and the answer ends without an end of the thoughts that anything follows.
//! - An object that no marker opens, bare, fenced as code or between tags of another format: models
//!   whose template shows calls as JSON write them so. It is a call if it is whole and all of the answer.
//!
//! What is tried is read ahead by a parser of its own; nothing is given out meanwhile.

use super::format::CallFormat;
use super::input::{Input, Stands};
use super::json_calls::{JsonCalls, fence};
use super::reader::Reader;
use super::{Lead, Opener, OutputParser, Part, State};
use crate::types::Delta;

/// A tag around an object that is longer is none.
const MAX_TAG_BYTES: usize = 32;

/// What is tried.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    /// Reads what would be calls.
    parser: Box<OutputParser>,
    /// What it found, and the text among it.
    parts: Vec<Part>,
    said: String,
    kind: Kind,
    /// Where the answer goes on if there are no calls: bytes of the input.
    pub(super) resume: usize,
}

#[derive(Debug, Clone)]
enum Kind {
    Thoughts,
    /// An object, and what must stand after it.
    Whole {
        end: String,
    },
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Open,
    Calls,
    NoCalls,
}

/// What an object may stand in.
pub(super) enum Wrapper {
    /// Its length, and its end.
    Begins(usize, String),
    Maybe,
    No,
}

impl Trial {
    /// Tries the calls that begin where `parser`, which is thinking, looks; the opening marker has
    /// `length` bytes.
    pub(super) fn thoughts(parser: &OutputParser, length: usize) -> Self {
        let mut openers = parser.call_openers();
        openers.extend(parser.format.thinking.map(|thinking| (thinking.close, Opener::Close)));
        let state = State::Text { lead: Lead::Keep };
        let resume = parser.input.seen().len() + length;
        Self::new(parser, openers, state, Kind::Thoughts, resume)
    }

    /// Tries the object that begins after `length` bytes.
    pub(super) fn whole(parser: &OutputParser, length: usize, end: String) -> Self {
        let key = match parser.format.calls {
            Some(CallFormat::Llama { .. }) => "parameters",
            _ => "arguments",
        };
        let state = State::Calls(Reader::Json(JsonCalls::strict(key)));
        let mut trial = Self::new(parser, Vec::new(), state, Kind::Whole { end }, 0);
        trial.parser.input.skip(length);
        trial.parser.input.take();
        trial
    }

    fn new(
        parser: &OutputParser,
        openers: Vec<(super::Marker, Opener)>,
        state: State,
        kind: Kind,
        resume: usize,
    ) -> Self {
        let mut parser = Box::new(parser.clone());
        parser.out.take();
        parser.input.take();
        (parser.openers, parser.state, parser.at_start) = (openers, state, true);
        // Nothing is tried within what is tried.
        parser.may_be_whole = false;
        Self { parser, parts: Vec::new(), said: String::new(), kind, resume }
    }

    /// More of the answer came.
    pub(super) fn push(&mut self, delta: &Delta) {
        self.parser.input.push(&delta.text, &delta.marks);
    }

    /// The answer is complete.
    pub(super) fn finish(&mut self, cut: bool) {
        (self.parser.input.ended, self.parser.input.cut) = (true, cut);
    }

    /// Reads on and says what is known by now.
    pub(super) fn verdict(&mut self) -> Verdict {
        self.parser.run();
        for part in self.parser.out.take() {
            if let Part::Text(text) = &part {
                self.said.push_str(text);
            }
            self.parts.push(part);
        }
        let Input { ended, cut, .. } = self.parser.input;
        let has_call = match self.parts.first() {
            Some(Part::CallStart { .. }) => true,
            Some(_) => return Verdict::NoCalls,
            None => false,
        };
        let after = self.said.trim();
        let goes_on = match &self.kind {
            Kind::Thoughts => matches!(self.parser.state, State::Closed { followed: true }),
            Kind::Whole { end } => !end.starts_with(after),
        };
        let is_cut_after = cut
            && match &self.kind {
                Kind::Thoughts => !after.is_empty(),
                Kind::Whole { end } => end != after,
            };
        match (has_call, goes_on || self.parser.is_cut() || is_cut_after) {
            (_, true) => Verdict::NoCalls,
            (true, false) if ended => Verdict::Calls,
            (false, false) if ended => Verdict::NoCalls,
            _ => Verdict::Open,
        }
    }

    /// The parser that goes on after the calls, and what to give out. What stands around an object
    /// is no text.
    pub(super) fn accept(self) -> (OutputParser, Vec<Part>) {
        let mut parts = self.parts;
        if matches!(self.kind, Kind::Whole { .. }) {
            parts.retain(|part| !matches!(part, Part::Text(_)));
        }
        (*self.parser, parts)
    }
}

/// What stands around an object that the answer begins with.
pub(super) fn wrapper(input: &Input) -> Wrapper {
    let ahead = input.ahead();
    let blank = ahead.len() - ahead.trim_start().len();
    let mut rest = Input::default();
    rest.push(&ahead[blank..], &[]);
    rest.ended = input.ended;
    let (length, end) = match fence(&rest) {
        Stands::Yes(length) => (length, "```".to_owned()),
        Stands::Maybe => return Wrapper::Maybe,
        Stands::No => match tag(rest.ahead()) {
            Some((length, word)) => (length, format!("</{word}>")),
            None if !input.ended && may_be_tag(rest.ahead()) => return Wrapper::Maybe,
            None => (0, String::new()),
        },
    };
    let inner = rest.ahead()[length..].trim_start();
    match inner.chars().next() {
        Some('{' | '[') => Wrapper::Begins(ahead.len() - inner.len(), end),
        None if !input.ended => Wrapper::Maybe,
        _ => Wrapper::No,
    }
}

/// The length and the word of a tag without anything else in it.
fn tag(text: &str) -> Option<(usize, &str)> {
    let (word, _) = text.strip_prefix('<')?.split_once('>')?;
    may_be_tag(&text[..=word.len()]).then_some((word.len() + 2, word))
}

fn may_be_tag(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let word = text.strip_prefix('<');
    word.is_some_and(|word| word.len() <= MAX_TAG_BYTES && word.chars().all(is_part))
}
