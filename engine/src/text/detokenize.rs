//! Converts tokens to text one by one, without splitting a UTF-8 sequence.

use std::sync::Arc;

use crate::text::tokenizer::Tokenizer;

/// Converts a stream of token ids to text. The tokenizer's table has the bytes of each token. Bytes
/// are held back while they end inside a character, and bytes that cannot become a character any
/// more become U+FFFD.
///
/// Special tokens have no text, unless they are markers, which the request wants to see.
#[derive(Debug)]
pub(crate) struct Detokenizer {
    tokenizer: Tokenizer,
    markers: Arc<[u32]>,
    /// The bytes of an incomplete character.
    held: Vec<u8>,
    /// No text was returned yet; the first token of a text may lose a leading space.
    at_start: bool,
}

/// The text that a token adds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The text without the marker's; empty while it ends inside a character.
    pub(crate) text: String,
    /// The text of the token if it is a marker. It comes after `text`.
    pub(crate) marker: Option<String>,
}

impl Detokenizer {
    /// Detokenizes an independent text.
    pub(crate) fn new(tokenizer: Tokenizer, markers: Arc<[u32]>) -> Self {
        Self { tokenizer, markers, held: Vec::new(), at_start: true }
    }

    /// Detokenizes the continuation of another text.
    pub(crate) fn continuing(tokenizer: Tokenizer, markers: Arc<[u32]>) -> Self {
        Self { at_start: false, ..Self::new(tokenizer, markers) }
    }

    /// Returns the text that `id` adds.
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

    /// Returns the text that is still held back, at the end of the tokens.
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
            // Only the last invalid sequence can be the start of a character.
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
