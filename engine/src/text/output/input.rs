//! Text that no reader has taken yet, and the markers in it.

use std::collections::VecDeque;

use crate::text::stop::overlap;
use crate::text::tokenizer::Tokenizer;
use crate::types::Mark;

/// A text with a meaning, such as `<tool_call>`.
///
/// Where the vocabulary has a token of its own for it, only that token is the marker: the same
/// characters spelled by ordinary tokens are prose about the marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) text: &'static str,
    pub(super) id: Option<u32>,
}

impl Marker {
    pub(super) fn new(text: &'static str, tokenizer: &Tokenizer) -> Self {
        Self { text, id: tokenizer.added_token(text) }
    }

    /// One that is only ever spelled out.
    pub(super) const fn spelled(text: &'static str) -> Self {
        Self { text, id: None }
    }
}

/// What the model wrote, from the first byte that is not taken. A reader looks ahead with
/// [`Input::peek`] and [`Input::seek`], and takes what it has understood.
#[derive(Debug, Clone, Default)]
pub(super) struct Input {
    text: String,
    marks: VecDeque<Mark>,
    /// The byte up to which a reader has looked.
    at: usize,
    /// Nothing will follow.
    pub(super) ended: bool,
    /// It ended because it became too long, not where the model ended it.
    pub(super) cut: bool,
}

/// Where [`Input::seek`] stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sought {
    /// Before the marker with this number. Its text has this many bytes.
    Marker(usize, usize),
    /// Before what may become a marker, or at the end.
    Nothing,
}

impl Input {
    /// Appends text; `marks` are the tokens of their own in it.
    pub(super) fn push(&mut self, text: &str, marks: &[Mark]) {
        let base = self.text.len();
        self.text.push_str(text);
        let moved = |mark: &Mark| Mark { start: mark.start + base, end: mark.end + base, ..*mark };
        self.marks.extend(marks.iter().map(moved));
    }

    /// What lies ahead of the reader.
    pub(super) fn ahead(&self) -> &str {
        &self.text[self.at..]
    }

    /// What the reader has looked at and not taken.
    pub(super) fn seen(&self) -> &str {
        &self.text[..self.at]
    }

    /// The next character ahead.
    pub(super) fn peek(&self) -> Option<char> {
        self.ahead().chars().next()
    }

    /// The character after `bytes` more.
    pub(super) fn peek_after(&self, bytes: usize) -> Option<char> {
        self.ahead()[bytes..].chars().next()
    }

    /// Looks from a byte of what is not taken.
    pub(super) fn go_to(&mut self, at: usize) {
        self.at = at;
    }

    /// Looks past `bytes` more.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.at += bytes;
        debug_assert!(self.text.is_char_boundary(self.at));
    }

    /// Looks past whitespace. False when the text ends there and may go on.
    pub(super) fn skip_whitespace(&mut self) -> bool {
        let rest = self.ahead().trim_start().len();
        self.at = self.text.len() - rest;
        rest > 0 || self.ended
    }

    /// Takes what was looked at.
    pub(super) fn take(&mut self) -> String {
        self.take_to(self.at)
    }

    /// Takes the first `end` bytes of what was looked at.
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

    /// Takes the first marker or character, whatever was looked at.
    pub(super) fn take_first(&mut self) -> String {
        let marked = self.marks.front().filter(|mark| mark.start == 0).map(|mark| mark.end);
        let length = marked.or_else(|| self.text.chars().next().map(char::len_utf8));
        self.at = length.unwrap_or_default();
        self.take()
    }

    /// Goes back to the first byte that is not taken.
    pub(super) fn rewind(&mut self) {
        self.at = 0;
    }

    /// Looks up to the first of `markers`; of several at one place, the first in the list.
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

    /// Whether a marker stands right ahead.
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

    /// Whether a marker that is a token stands right ahead and ends the answer, so that it is no part
    /// of a string: nothing but space and `ends` follow it.
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

    /// Whether the answer's length cut it in a tag, which is all that is ahead.
    pub(super) fn is_tag_cut(&self) -> bool {
        let rest = self.ahead().trim_start();
        self.ended && self.cut && rest.starts_with('<') && !rest.contains(['>', '\n'])
    }

    /// Place and length of the next such marker.
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

/// The answer of [`Input::stands`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stands {
    Yes(usize),
    Maybe,
    No,
}

impl Stands {
    /// Whether one or the other does.
    pub(super) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Yes(length), _) | (_, Self::Yes(length)) => Self::Yes(length),
            (Self::Maybe, _) | (_, Self::Maybe) => Self::Maybe,
            _ => Self::No,
        }
    }
}
