//! Text that no reader has consumed yet, and the markers in it.

use std::collections::VecDeque;

use crate::text::stop::overlap;
use crate::text::tokenizer::Tokenizer;
use crate::types::Mark;

/// A text with a special meaning, such as `<tool_call>`.
///
/// If the vocabulary has a token for it, only that token is the marker: the same characters in
/// ordinary tokens are prose about the marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) text: &'static str,
    pub(super) id: Option<u32>,
}

impl Marker {
    pub(super) fn new(text: &'static str, tokenizer: &Tokenizer) -> Self {
        Self { text, id: tokenizer.added_token(text) }
    }

    /// A marker that is never a token.
    pub(super) const fn spelled(text: &'static str) -> Self {
        Self { text, id: None }
    }
}

/// The model's text from the first byte that is not consumed. A reader looks ahead with
/// [`Input::peek`] and [`Input::seek`], and takes the part that it has understood.
#[derive(Debug, Clone, Default)]
pub(super) struct Input {
    text: String,
    marks: VecDeque<Mark>,
    /// The position up to which a reader has looked.
    at: usize,
    /// The answer has ended.
    pub(super) ended: bool,
    /// It ended at its length limit and not where the model ended it.
    pub(super) cut: bool,
}

/// Where [`Input::seek`] stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sought {
    /// Before the marker with this index, whose text has this many bytes.
    Marker(usize, usize),
    /// Before text that may become a marker, or at the end.
    Nothing,
}

impl Input {
    /// Appends text; `marks` are the positions of tokens in it.
    pub(super) fn push(&mut self, text: &str, marks: &[Mark]) {
        let base = self.text.len();
        self.text.push_str(text);
        let moved = |mark: &Mark| Mark { start: mark.start + base, end: mark.end + base, ..*mark };
        self.marks.extend(marks.iter().map(moved));
    }

    /// The text after the current position.
    pub(super) fn ahead(&self) -> &str {
        &self.text[self.at..]
    }

    /// The text that the reader has looked at and not taken.
    pub(super) fn seen(&self) -> &str {
        &self.text[..self.at]
    }

    /// The next character ahead.
    pub(super) fn peek(&self) -> Option<char> {
        self.ahead().chars().next()
    }

    /// The character `bytes` bytes ahead.
    pub(super) fn peek_after(&self, bytes: usize) -> Option<char> {
        self.ahead()[bytes..].chars().next()
    }

    /// Moves to a byte of the text that is not taken.
    pub(super) fn go_to(&mut self, at: usize) {
        self.at = at;
    }

    /// Moves past `bytes` bytes.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.at += bytes;
        debug_assert!(self.text.is_char_boundary(self.at));
    }

    /// Moves past whitespace. Returns false when the text ends there but may continue.
    pub(super) fn skip_whitespace(&mut self) -> bool {
        let rest = self.ahead().trim_start().len();
        self.at = self.text.len() - rest;
        rest > 0 || self.ended
    }

    /// Takes the seen text.
    pub(super) fn take(&mut self) -> String {
        self.take_to(self.at)
    }

    /// Takes the first `end` bytes of the seen text.
    pub(super) fn take_to(&mut self, end: usize) -> String {
        let rest = self.text.split_off(end);
        self.at -= end;
        self.marks.retain_mut(|mark| {
            let whole = mark.start >= end;
            if whole {
                (mark.start, mark.end) = (mark.start - end, mark.end - end);
            }
            whole
        });
        std::mem::replace(&mut self.text, rest)
    }

    /// Takes the first marker or character, independent of the current position.
    pub(super) fn take_first(&mut self) -> String {
        let marked = self.marks.front().filter(|mark| mark.start == 0).map(|mark| mark.end);
        let length = marked.or_else(|| self.text.chars().next().map(char::len_utf8));
        self.at = length.unwrap_or_default();
        self.take()
    }

    /// Moves back to the first byte that is not taken.
    pub(super) fn rewind(&mut self) {
        self.at = 0;
    }

    /// Moves to the first of `markers`. At the same position the first in the list wins.
    pub(super) fn seek(&mut self, markers: &[Marker]) -> Sought {
        let found = markers.iter().enumerate().filter_map(|(number, marker)| {
            let (at, length) = self.find(marker)?;
            Some((at, number, length))
        });
        if let Some((at, number, length)) = found.min() {
            self.at = at;
            return Sought::Marker(number, length);
        }
        let spelled = markers.iter().filter(|marker| marker.id.is_none() && !self.ended);
        let held = spelled.map(|marker| overlap(self.ahead(), marker.text)).max().unwrap_or(0);
        self.at = self.text.len() - held;
        Sought::Nothing
    }

    /// Whether a marker is at the current position.
    pub(super) fn stands(&self, marker: &Marker) -> Stands {
        match marker.id {
            Some(_) => match self.find(marker) {
                Some((at, length)) if at == self.at => Stands::Yes(length),
                _ if self.ahead().is_empty() && !self.ended => Stands::Maybe,
                _ => Stands::No,
            },
            None if self.ahead().starts_with(marker.text) => Stands::Yes(marker.text.len()),
            None if !self.ended && marker.text.starts_with(self.ahead()) => Stands::Maybe,
            None => Stands::No,
        }
    }

    /// Whether a marker token at the current position ends the answer, so that it is not part of a
    /// string: only space and `ends` follow it.
    pub(super) fn stands_last(&self, marker: &Marker, ends: &[Marker]) -> Stands {
        let (Some(_), Stands::Yes(length)) = (marker.id, self.stands(marker)) else {
            return Stands::No;
        };
        let mut rest = self.ahead()[length..].trim_start();
        while let Some(after) = ends.iter().find_map(|end| rest.strip_prefix(end.text)) {
            rest = after.trim_start();
        }
        match rest.is_empty() {
            true if self.ended => Stands::Yes(length),
            false if self.ended || ends.iter().all(|end| !end.text.starts_with(rest)) => Stands::No,
            _ => Stands::Maybe,
        }
    }

    /// Whether the answer's length limit cut it inside a tag, which is all the text ahead.
    pub(super) fn is_tag_cut(&self) -> bool {
        let rest = self.ahead().trim_start();
        self.ended && self.cut && rest.starts_with('<') && !rest.contains(['>', '\n'])
    }

    /// Position and length of the next such marker.
    fn find(&self, marker: &Marker) -> Option<(usize, usize)> {
        match marker.id {
            Some(id) => {
                let mut ahead = self.marks.iter().filter(|mark| mark.start >= self.at);
                ahead.find(|mark| mark.id == id).map(|mark| (mark.start, mark.end - mark.start))
            }
            None => {
                let at = self.ahead().find(marker.text)?;
                Some((self.at + at, marker.text.len()))
            }
        }
    }
}

/// The result of [`Input::stands`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stands {
    Yes(usize),
    Maybe,
    No,
}

impl Stands {
    /// Combines two results: whether either marker is there.
    pub(super) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Yes(length), _) | (_, Self::Yes(length)) => Self::Yes(length),
            (Self::Maybe, _) | (_, Self::Maybe) => Self::Maybe,
            _ => Self::No,
        }
    }
}
