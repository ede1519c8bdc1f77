//! What each token adds to a text. The decoder of a tokenizer.json is run over the vocabulary once, at load, and
//! never again: a stream, a grammar, log probabilities and stop strings all read the same table, and nothing
//! that a model folder says is run for a token.
//!
//! The table says what a token adds *within* a text. What a decoder does to the first token alone (it leaves out
//! a space) is [`Table::leading`].

use std::time::Instant;

use serde_json::Value;
use tokenizers::Decoder as _;
use tokenizers::normalizers::Replace;
use tokenizers::normalizers::replace::ReplacePattern;

use super::checks::File;
use crate::limits;

/// Bytes for each token id.
pub(super) struct Table {
    bytes: Vec<u8>,
    /// For each id, where its bytes begin; and the end of the last.
    starts: Vec<u32>,
    /// Ids that there are, one bit each: a token may have no bytes.
    known: Vec<bool>,
    /// The character that the beginning of a text loses, and how often at most.
    leading: Option<(char, usize)>,
    /// What stands before each token, and is no part of it.
    separator: &'static str,
}

impl Table {
    /// `piece` gives what the vocabulary writes for an id; ids run from 0 to `ids`, exclusive.
    ///
    /// # Errors
    /// In words, when the decoder is none, makes too much of the vocabulary, or is not done by `deadline`.
    pub(super) fn new(
        file: &File,
        ids: u32,
        piece: impl Fn(u32) -> Option<String>,
        deadline: Instant,
    ) -> Result<Self, String> {
        let decoder = Decoder::new(file)?;
        let (leading, separator) = (decoder.leading, decoder.separator);
        let mut table =
            Self { bytes: Vec::new(), starts: vec![0], known: Vec::new(), leading, separator };
        for id in 0..ids {
            if id % 256 == 0 && Instant::now() > deadline {
                return Err("its decoder takes too long".to_owned());
            }
            let piece = piece(id);
            table.known.push(piece.is_some());
            if let Some(piece) = piece {
                table.bytes.extend(decoder.bytes(piece)?);
            }
            if table.bytes.len() as u64 > limits::VOCABULARY_BYTES {
                return Err(format!(
                    "its tokens stand for more than {} bytes together",
                    limits::VOCABULARY_BYTES
                ));
            }
            table.starts.push(table.bytes.len() as u32);
        }
        let used = table.known.iter().rposition(|known| *known).map_or(0, |last| last + 1);
        table.known.truncate(used);
        table.starts.truncate(used + 1);
        Ok(table)
    }

    /// What `id` adds to a text; `None` for an id that is no token's.
    pub(super) fn bytes(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        let is_known = *self.known.get(id)?;
        is_known.then(|| &self.bytes[self.starts[id] as usize..self.starts[id + 1] as usize])
    }

    /// The same without what only separates it from the token before.
    pub(super) fn own_bytes(&self, id: u32) -> Option<&[u8]> {
        let bytes = self.bytes(id)?;
        Some(bytes.strip_prefix(self.separator.as_bytes()).unwrap_or(bytes))
    }

    /// Ids run from 0 to this, exclusive.
    pub(super) fn ids(&self) -> usize {
        self.known.len()
    }

    /// The character that the beginning of a text loses, and how often at most.
    pub(super) fn leading(&self) -> Option<(char, usize)> {
        self.leading
    }
}

/// The steps of a decoder, each as it is for a token that is neither the first of a text nor the last.
struct Decoder {
    steps: Vec<Step>,
    leading: Option<(char, usize)>,
    separator: &'static str,
}

enum Step {
    ByteLevel,
    ByteFallback,
    Replace { pattern: String, content: String },
    ReplaceRegex(Box<Replace>),
    Strip { content: char, start: usize, stop: usize },
    Metaspace(char),
    WordPiece { prefix: String, cleanup: bool },
    Ctc { pad: String, delimiter: String, cleanup: bool },
}

/// A token on its way through the steps.
enum Piece {
    Text(String),
    /// A byte is no text, and text steps pass it over.
    Bytes(Vec<u8>),
}

impl Decoder {
    fn new(file: &File) -> Result<Self, String> {
        // Without a decoder tokens are joined by spaces.
        let separator = if file.has_decoder() { "" } else { " " };
        let leading = (!separator.is_empty()).then_some((' ', 1));
        let mut decoder = Self { steps: Vec::new(), leading, separator };
        let mut is_one_text = false;
        for step in file.decoder_steps()? {
            decoder.add(step, &mut is_one_text)?;
        }
        Ok(decoder)
    }

    fn add(&mut self, step: &Value, is_one_text: &mut bool) -> Result<(), String> {
        let text = |field: &str| step[field].as_str().unwrap_or_default().to_owned();
        let number = |field: &str| step[field].as_u64().unwrap_or(0) as usize;
        let character = |field: &str| step[field].as_str().and_then(|text| text.chars().next());
        let cleanup = step["cleanup"].as_bool().unwrap_or(true);
        self.steps.push(match step["type"].as_str().unwrap_or_default() {
            "ByteLevel" => {
                *is_one_text = true;
                Step::ByteLevel
            }
            "ByteFallback" => Step::ByteFallback,
            "Fuse" => {
                *is_one_text = true;
                return Ok(());
            }
            "Replace" => replace(step)?,
            "Strip" => {
                let content = character("content").ok_or("a Strip has no \"content\"")?;
                let (start, stop) = (number("start"), number("stop"));
                if *is_one_text {
                    // Of a whole text, whose end is not known while it is written.
                    self.leading = (start > 0).then_some((content, start)).or(self.leading);
                    return Ok(());
                }
                Step::Strip { content, start, stop }
            }
            "Metaspace" => {
                let never = step["prepend_scheme"] == "never" || step["add_prefix_space"] == false;
                self.leading = (!never).then_some((' ', 1)).or(self.leading);
                Step::Metaspace(character("replacement").unwrap_or('\u{2581}'))
            }
            "WordPiece" => {
                (self.leading, self.separator) = (Some((' ', 1)), " ");
                Step::WordPiece { prefix: text("prefix"), cleanup }
            }
            // The last word of a text keeps its space: it was written before it was known to be the last.
            "BPEDecoder" => Step::Replace { pattern: text("suffix"), content: " ".to_owned() },
            "CTC" => Step::Ctc {
                pad: text("pad_token"),
                delimiter: text("word_delimiter_token"),
                cleanup,
            },
            other => return Err(format!("its decoder has a step \"{other}\", which is not known")),
        });
        Ok(())
    }

    fn bytes(&self, piece: String) -> Result<Vec<u8>, String> {
        let mut piece = Piece::Text(piece);
        for step in &self.steps {
            if let Piece::Text(text) = piece {
                piece = step.apply(text)?;
            }
        }
        let bytes = match piece {
            Piece::Text(text) => text.into_bytes(),
            Piece::Bytes(bytes) => bytes,
        };
        // A WordPiece puts its own spaces.
        let joins = self.steps.is_empty() && !self.separator.is_empty();
        Ok(if joins { [self.separator.as_bytes(), &bytes].concat() } else { bytes })
    }
}

fn replace(step: &Value) -> Result<Step, String> {
    let content = step["content"].as_str().unwrap_or_default().to_owned();
    if let Some(pattern) = step["pattern"]["Regex"].as_str() {
        let regex = Replace::new(ReplacePattern::Regex(pattern.to_owned()), content);
        return regex.map(Box::new).map(Step::ReplaceRegex).map_err(|error| error.to_string());
    }
    let pattern = step["pattern"]["String"].as_str().unwrap_or_default().to_owned();
    if pattern.is_empty() {
        // The library finds it everywhere.
        let everywhere = Replace::new(ReplacePattern::String(pattern), content);
        return everywhere.map(Box::new).map(Step::ReplaceRegex).map_err(|error| error.to_string());
    }
    Ok(Step::Replace { pattern, content })
}

impl Step {
    fn apply(&self, text: String) -> Result<Piece, String> {
        Ok(Piece::Text(match self {
            Self::ByteLevel => {
                let bytes: Option<Vec<u8>> = text.chars().map(byte_of_level).collect();
                return Ok(Piece::Bytes(bytes.unwrap_or_else(|| text.into_bytes())));
            }
            Self::ByteFallback => match byte_fallback(&text) {
                Some(byte) => return Ok(Piece::Bytes(vec![byte])),
                None => text,
            },
            Self::Replace { pattern, content } => text.replace(pattern, content),
            Self::ReplaceRegex(replace) => {
                let pieces = replace.decode_chain(vec![text]).map_err(|error| error.to_string())?;
                pieces.concat()
            }
            Self::Strip { content, start, stop } => {
                strip(&text, *content, *start, *stop).to_owned()
            }
            Self::Metaspace(replacement) => text.replace(*replacement, " "),
            Self::WordPiece { prefix, cleanup } => {
                let text = match text.strip_prefix(prefix.as_str()) {
                    Some(rest) => rest.to_owned(),
                    None => format!(" {text}"),
                };
                if *cleanup { tokenizers::decoders::wordpiece::cleanup(&text) } else { text }
            }
            Self::Ctc { pad, delimiter, cleanup } => {
                let text = if pad.is_empty() { text } else { text.replace(pad.as_str(), "") };
                match cleanup {
                    true if delimiter.is_empty() => tokenizers::decoders::wordpiece::cleanup(&text),
                    true => tokenizers::decoders::wordpiece::cleanup(&text)
                        .replace(delimiter.as_str(), " "),
                    false => text,
                }
            }
        }))
    }
}

/// `text` without up to `start` of `content` at its beginning and up to `stop` at its end.
fn strip(text: &str, content: char, start: usize, stop: usize) -> &str {
    let mut rest = text;
    for _ in 0..start.min(text.len()) {
        rest = rest.strip_prefix(content).unwrap_or(rest);
    }
    for _ in 0..stop.min(text.len()) {
        rest = rest.strip_suffix(content).unwrap_or(rest);
    }
    rest
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
