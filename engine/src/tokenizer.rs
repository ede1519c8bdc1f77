//! Text to token ids and back, by the model's tokenizer.json.

use std::path::Path;
use std::sync::Arc;

use crate::error::{LoadError, TokenizeError};
use crate::{limits, small_file};

/// A model's tokenizer. Clones share it.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} tokens)", self.vocab_tokens())
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder.
    pub(crate) fn load(dir: &Path) -> Result<Self, LoadError> {
        let path = dir.join("tokenizer.json");
        let Some(text) = small_file::read(&path, limits::TOKENIZER_FILE_BYTES)? else {
            let hint = "the model's tokenizer; a model without one cannot run here";
            return Err(LoadError::Missing { path, hint });
        };
        Self::from_json(&text).map_err(|what| LoadError::Invalid { path, what })
    }

    /// From the text of a tokenizer.json.
    ///
    /// # Errors
    /// In words, when it is none.
    pub fn from_json(text: &[u8]) -> Result<Self, String> {
        let mut inner =
            tokenizers::Tokenizer::from_bytes(text).map_err(|error| error.to_string())?;
        // A file saved for training may cut or pad every text; a prompt is taken as it is.
        let _ = inner.with_truncation(None);
        inner.with_padding(None);
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Token ids of `text`. `add_special_tokens` adds what the model puts around a text (a
    /// beginning of sequence, for one); a rendered chat template holds it already.
    ///
    /// Slow for long texts: not to be called on an async thread.
    ///
    /// # Errors
    /// When the tokenizer refuses the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizeError> {
        let encoding = self.inner.encode_fast(text, add_special_tokens);
        encoding.map(|e| e.get_ids().to_vec()).map_err(|error| TokenizeError(error.to_string()))
    }

    /// The text of `ids`. Ids outside the vocabulary have none.
    ///
    /// # Errors
    /// When the decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TokenizeError> {
        self.inner
            .decode(ids, skip_special_tokens)
            .map_err(|error| TokenizeError(error.to_string()))
    }

    /// The bytes that a token stands for: those of its piece for a byte-level vocabulary, else those
    /// of its text. Empty for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.entry(id).map(|entry| entry.bytes).unwrap_or_default()
    }

    /// A token; `None` for an id outside the vocabulary.
    pub(crate) fn entry(&self, id: u32) -> Option<Entry> {
        let piece = self.inner.id_to_token(id)?;
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder().get(&id);
        if let Some(added) = added {
            let is_marker = added.special || looks_like_a_marker(&piece);
            return Some(Entry { bytes: piece.into_bytes(), is_marker });
        }
        if let Some(byte) = byte_fallback(&piece) {
            return Some(Entry { bytes: vec![byte], is_marker: false });
        }
        let is_byte_level =
            matches!(self.inner.get_decoder(), Some(tokenizers::DecoderWrapper::ByteLevel(_)));
        let bytes: Option<Vec<u8>> = match is_byte_level {
            true => piece.chars().map(byte_of_level).collect(),
            false => None,
        };
        let bytes = bytes.unwrap_or_else(|| piece.replace('\u{2581}', " ").into_bytes());
        Some(Entry { bytes, is_marker: false })
    }

    /// Ids run from 0 to this, exclusive, added tokens included.
    pub fn vocab_tokens(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of the added token with exactly this content. Such a token is never made of a text's
    /// ordinary pieces.
    pub(crate) fn added_token(&self, content: &str) -> Option<u32> {
        self.inner.get_added_vocabulary().get_vocab().get(content).copied()
    }

    /// Whether a token is one of those that structure a text and are none of it.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        added.get(&id).is_some_and(|token| token.special)
    }

    /// Whether a token is no piece of a text but has a content of its own, special or not.
    pub(crate) fn is_added(&self, id: u32) -> bool {
        self.inner.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id)
    }

    /// The id of a token by its content.
    pub(crate) fn token_id(&self, content: &str) -> Option<u32> {
        self.inner.token_to_id(content)
    }
}

/// What a token is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// What it stands for in a text.
    pub(crate) bytes: Vec<u8>,
    /// It structures a conversation (`<|im_end|>`, `<tool_call>`) and is no part of a text.
    pub(crate) is_marker: bool,
}

/// Some vocabularies do not call their markers special, and add runs of spaces as tokens, which are
/// text.
fn looks_like_a_marker(piece: &str) -> bool {
    let within = |open, close| piece.starts_with(open) && piece.ends_with(close);
    within('<', '>') || within('[', ']')
}

/// `<0x0A>` as vocabularies with byte fallback write a byte.
fn byte_fallback(piece: &str) -> Option<u8> {
    let hex = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 2)
}

/// The byte that a character of a byte-level piece stands for: printable Latin-1 stands for itself,
/// the other bytes, in order, for the characters from U+0100 on (the GPT-2 table).
pub(crate) fn byte_of_level(c: char) -> Option<u8> {
    let plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match u32::from(c) {
        code @ 0..=0xFF => Some(code as u8).filter(|&byte| plain(byte)),
        code => (0..=u8::MAX).filter(|&byte| !plain(byte)).nth((code - 0x100) as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokenizer_file_at_its_limit() {
        let temp = tempfile::tempdir().expect("a folder");
        let file = std::fs::File::create(temp.path().join("tokenizer.json")).expect("a file");
        let refusal = |bytes: u64| {
            file.set_len(bytes).expect("a hole");
            Tokenizer::load(temp.path()).expect_err("no tokenizer").to_string()
        };
        let too_large = format!("more than {} bytes", limits::TOKENIZER_FILE_BYTES);
        assert!(!refusal(limits::TOKENIZER_FILE_BYTES).contains(&too_large));
        assert!(refusal(limits::TOKENIZER_FILE_BYTES + 1).contains(&too_large));
    }

    #[test]
    fn the_byte_level_table() {
        assert_eq!(byte_of_level('A'), Some(b'A'));
        assert_eq!(byte_of_level('\u{120}'), Some(b' '));
        assert_eq!(byte_of_level('\u{10a}'), Some(b'\n'));
        assert_eq!(byte_of_level('\u{143}'), Some(0xAD));
        assert_eq!(byte_of_level(' '), None);
        assert_eq!(byte_of_level('\u{2581}'), None);
    }

    #[test]
    fn byte_fallback_pieces() {
        assert_eq!(byte_fallback("<0x0A>"), Some(b'\n'));
        assert_eq!(byte_fallback("<0xZZ>"), None);
        assert_eq!(byte_fallback("word"), None);
    }
}
