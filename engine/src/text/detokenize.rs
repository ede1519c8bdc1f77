//! Tokens to text, one by one, never splitting a UTF-8 sequence.

use std::sync::Arc;

use crate::text::tokenizer::Tokenizer;

/// Turns a stream of token ids into text: what each adds stands in the tokenizer's table, and is held back while
/// it ends inside a character. Bytes that can be no character any more become U+FFFD.
///
/// Special tokens have no text, unless they are markers: those the request wants to see.
#[derive(Debug)]
pub(crate) struct Detokenizer {
    tokenizer: Tokenizer,
    markers: Arc<[u32]>,
    /// The beginning of a character.
    held: Vec<u8>,
    /// Nothing was given out yet: the beginning of a text may lose a space.
    at_start: bool,
}

/// What a token adds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Text, the marker's own not included; empty while it ends inside a character.
    pub(crate) text: String,
    /// The token is a marker; this is its text, which follows the other.
    pub(crate) marker: Option<String>,
}

impl Detokenizer {
    /// For a text of its own.
    pub(crate) fn new(tokenizer: Tokenizer, markers: Arc<[u32]>) -> Self {
        Self { tokenizer, markers, held: Vec::new(), at_start: true }
    }

    /// For a text that goes on from another one.
    pub(crate) fn going_on(tokenizer: Tokenizer, markers: Arc<[u32]>) -> Self {
        Self { at_start: false, ..Self::new(tokenizer, markers) }
    }

    /// What `id` adds.
    pub(crate) fn push(&mut self, id: u32) -> Piece {
        if self.markers.contains(&id) {
            let text = self.finish();
            self.at_start = false;
            return Piece { text, marker: Some(self.tokenizer.own_text(id)) };
        }
        if self.tokenizer.is_special(id) {
            return Piece::default();
        }
        let bytes = self.tokenizer.bytes(id);
        let lost = if self.at_start { self.tokenizer.leading_bytes(bytes) } else { 0 };
        self.at_start &= bytes.is_empty();
        self.held.extend(&bytes[lost..]);
        Piece { text: self.whole_characters(), marker: None }
    }

    /// The text still held back, when no more tokens come.
    pub(crate) fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.held).into_owned();
        self.held.clear();
        text
    }

    fn whole_characters(&mut self) -> String {
        let mut text = String::new();
        let mut begun = 0;
        for chunk in self.held.utf8_chunks() {
            text.push_str(chunk.valid());
            begun = chunk.invalid().len();
            // Only the last can be a character that has begun.
            let is_last = chunk.invalid().as_ptr_range().end == self.held.as_ptr_range().end;
            let can_go_on = is_last
                && std::str::from_utf8(chunk.invalid()).is_err_and(|e| e.error_len().is_none());
            if begun > 0 && !can_go_on {
                text.push(char::REPLACEMENT_CHARACTER);
                begun = 0;
            }
        }
        self.held.drain(..self.held.len() - begun);
        text
    }
}
