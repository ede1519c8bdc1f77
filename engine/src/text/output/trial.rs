//! Parts of an answer that look like calls, and of which only what follows tells whether they are.
//!
//! - A call inside thoughts that were never closed: models forget the end of their thoughts. It is a
//!   call if it is whole and the answer ends without an end of the thoughts that anything follows.
//! - An object that no marker opens, bare, fenced as code or between tags of another format: models
//!   whose template shows calls as JSON write them so. It is a call if it is whole and all of the answer.
//!
//! What is tried is read ahead by a parser of its own; nothing is given out meanwhile.

use super::input::{Input, Stands};
use super::json_calls::fence;
use super::part::Part;
use crate::types::MarkedText;

/// A tag around an object that is longer is none.
const MAX_TAG_BYTES: usize = 32;

/// A parser of what would be calls.
pub(super) trait Parser {
    fn input(&self) -> &Input;
    fn input_mut(&mut self) -> &mut Input;
    /// Reads as far as the input goes; returns what came out.
    fn read_on(&mut self) -> Vec<Part>;
    /// Whether it stands where thoughts have ended, and something else follows.
    fn is_followed(&self) -> bool;
    /// Whether a call was announced and broke off.
    fn is_cut(&self) -> bool;
}

/// What is tried.
#[derive(Debug, Clone)]
pub(super) struct Trial<P> {
    /// Reads what would be calls.
    parser: Box<P>,
    /// What it found, and the text among it.
    parts: Vec<Part>,
    said: String,
    kind: Kind,
    /// Where the answer goes on if there are no calls: bytes of the input.
    pub(super) resume: usize,
}

/// What the calls would stand in.
#[derive(Debug, Clone)]
pub(super) enum Kind {
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

impl<P: Parser> Trial<P> {
    /// Tries what `parser` reads.
    pub(super) fn new(parser: P, kind: Kind, resume: usize) -> Self {
        Self { parser: Box::new(parser), parts: Vec::new(), said: String::new(), kind, resume }
    }

    /// More of the answer came.
    pub(super) fn push(&mut self, delta: &MarkedText) {
        self.parser.input_mut().push(&delta.text, &delta.marks);
    }

    /// The answer is complete.
    pub(super) fn finish(&mut self, cut: bool) {
        let input = self.parser.input_mut();
        (input.ended, input.cut) = (true, cut);
    }

    /// Reads on and says what is known by now.
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
        let goes_on = match &self.kind {
            Kind::Thoughts => self.parser.is_followed(),
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
    pub(super) fn accept(self) -> (P, Vec<Part>) {
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
