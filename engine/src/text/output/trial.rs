//! Trials: parts of an answer that look like calls, which only the text after them can confirm.
//!
//! - A call inside reasoning that was never closed, because models forget the end marker. It is a
//!   call if it is complete and the answer ends without an end of reasoning that anything follows.
//! - An object without an opening marker, bare, fenced as code or between tags of another format,
//!   because models whose template shows calls as JSON write them so. It is a call if it is
//!   complete and is the whole answer.
//!
//! A separate parser reads the text ahead. Its parts are held back meanwhile.

use super::input::{Input, Stands};
use super::json_calls::fence;
use super::part::Part;
use crate::types::MarkedText;

/// Limit on a tag around an object. A longer one is ordinary text.
const MAX_TAG_BYTES: usize = 32;

/// A parser of possible calls.
pub(super) trait Parser {
    fn input(&self) -> &Input;
    fn input_mut(&mut self) -> &mut Input;
    /// Reads all available input. Returns the parts.
    fn read_on(&mut self) -> Vec<Part>;
    /// Whether reasoning has ended and something else follows.
    fn is_followed(&self) -> bool;
    /// Whether a started call was cut off.
    fn is_cut(&self) -> bool;
}

/// A trial in progress.
#[derive(Debug, Clone)]
pub(super) struct Trial<P> {
    /// Reads the possible calls.
    parser: Box<P>,
    /// The parts that it found.
    parts: Vec<Part>,
    said: String,
    kind: Kind,
    /// Where the answer continues if there are no calls: bytes of the input.
    pub(super) resume: usize,
}

/// The context of the possible calls.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    Thoughts,
    /// An object, and the text that must come after it.
    Whole {
        end: String,
    },
}

/// The result of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Open,
    Calls,
    NoCalls,
}

/// The text around an object.
pub(super) enum Wrapper {
    /// The length of the text before it, and the text after it.
    Begins(usize, String),
    Maybe,
    No,
}

impl<P: Parser> Trial<P> {
    /// Starts a trial with `parser`.
    pub(super) fn new(parser: P, kind: Kind, resume: usize) -> Self {
        Self { parser: Box::new(parser), parts: Vec::new(), said: String::new(), kind, resume }
    }

    /// Adds the next piece of the answer.
    pub(super) fn push(&mut self, delta: &MarkedText) {
        self.parser.input_mut().push(&delta.text, &delta.marks);
    }

    /// Ends the answer.
    pub(super) fn finish(&mut self, cut: bool) {
        let input = self.parser.input_mut();
        (input.ended, input.cut) = (true, cut);
    }

    /// Reads on and returns the result so far.
    pub(super) fn verdict(&mut self) -> Verdict {
        for part in self.parser.read_on() {
            if let Part::Text(text) = &part {
                self.said.push_str(text);
            }
            self.parts.push(part);
        }
        let &Input { ended, cut, .. } = self.parser.input();
        let has_call = match self.parts.first() {
            Some(Part::CallStart { .. }) => true,
            Some(_) => return Verdict::NoCalls,
            None => false,
        };
        let after = self.said.trim();
        let continues = match &self.kind {
            Kind::Thoughts => self.parser.is_followed(),
            Kind::Whole { end } => !end.starts_with(after),
        };
        let is_cut_after = cut
            && match &self.kind {
                Kind::Thoughts => !after.is_empty(),
                Kind::Whole { end } => end != after,
            };
        match (has_call, continues || self.parser.is_cut() || is_cut_after) {
            (_, true) => Verdict::NoCalls,
            (true, false) if ended => Verdict::Calls,
            (false, false) if ended => Verdict::NoCalls,
            _ => Verdict::Open,
        }
    }

    /// Returns the parser that continues after the calls, and the parts. The text around an object
    /// is dropped.
    pub(super) fn accept(self) -> (P, Vec<Part>) {
        let mut parts = self.parts;
        if matches!(self.kind, Kind::Whole { .. }) {
            parts.retain(|part| !matches!(part, Part::Text(_)));
        }
        (*self.parser, parts)
    }
}

/// The text around an object at the start of the answer.
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

/// The length and the word of a tag that contains nothing else.
fn tag(text: &str) -> Option<(usize, &str)> {
    let (word, _) = text.strip_prefix('<')?.split_once('>')?;
    may_be_tag(&text[..=word.len()]).then_some((word.len() + 2, word))
}

fn may_be_tag(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let word = text.strip_prefix('<');
    word.is_some_and(|word| word.len() <= MAX_TAG_BYTES && word.chars().all(is_part))
}
