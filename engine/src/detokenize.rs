//! Tokens to text, one by one, never splitting a UTF-8 sequence.

use std::sync::Arc;

use crate::tokenizer::Tokenizer;

/// The character that a decoder puts where bytes are no valid UTF-8 (yet).
const REPLACEMENT: char = '\u{fffd}';

/// Turns a stream of token ids into text.
///
/// A token's text depends on those before it (leading spaces, characters spread over tokens), so a
/// short window is decoded twice, without and with the new token; the difference is the new text. It
/// is held back while it ends inside a character.
///
/// Special tokens have no text, unless they are markers: those the request wants to see.
#[derive(Debug)]
pub(crate) struct Detokenizer {
    tokenizer: Tokenizer,
    markers: Arc<[u32]>,
    window: Vec<u32>,
    /// Tokens of the window whose text has been given out.
    given: usize,
    /// The text of those.
    given_text: String,
}

/// What a token adds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Text, the marker's own not included; empty while it ends inside a character.
    pub(crate) text: String,
    /// The token is a marker; this is its text, which follows the other.
    pub(crate) marker: Option<String>,
}

/// A character has at most four bytes; when so many tokens in a row gave no whole character, the
/// bytes are broken for good.
const MAX_HELD_TOKENS: usize = 16;

impl Detokenizer {
    pub(crate) fn new(tokenizer: Tokenizer, markers: Arc<[u32]>) -> Self {
        Self { tokenizer, markers, window: Vec::new(), given: 0, given_text: String::new() }
    }

    /// What `id` adds.
    pub(crate) fn push(&mut self, id: u32) -> Piece {
        if self.markers.contains(&id) {
            let text = self.finish();
            // It stays as the context of what follows, which is not the beginning of a text.
            self.window.push(id);
            self.given = 1;
            self.given_text = self.decode(&self.window);
            return Piece { text, marker: Some(self.given_text.clone()) };
        }
        if self.tokenizer.is_special(id) {
            return Piece::default();
        }
        self.window.push(id);
        let text = self.decode(&self.window);
        let held = self.window.len() - self.given;
        if text.ends_with(REPLACEMENT) && held < MAX_HELD_TOKENS {
            return Piece::default();
        }
        let new = self.new_text(&text);
        // Keep only the tokens just given as the context of the next ones.
        self.window.drain(..self.given);
        self.given = self.window.len();
        self.given_text = self.decode(&self.window);
        Piece { text: new, marker: None }
    }

    /// The text still held back, when no more tokens come.
    pub(crate) fn finish(&mut self) -> String {
        let text = self.decode(&self.window);
        let new = self.new_text(&text);
        self.window.clear();
        self.given = 0;
        self.given_text.clear();
        new
    }

    fn new_text(&self, text: &str) -> String {
        text.get(self.given_text.len()..).unwrap_or_default().to_owned()
    }

    fn decode(&self, ids: &[u32]) -> String {
        // Ids come from the model's own vocabulary; a decoder that fails on them has no text.
        self.tokenizer.decode(ids, false).unwrap_or_default()
    }
}
