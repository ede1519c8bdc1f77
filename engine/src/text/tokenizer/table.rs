//! The bytes that each token adds to a text. The decoder of a tokenizer.json runs over the
//! vocabulary once, at load. Streams, grammars, log probabilities and stop strings all use the same
//! table, so no code chosen by a model folder runs for a token.
//!
//! The table has the bytes of a token *within* a text. What a decoder does to the first token only
//! (it drops a space) is in [`Table::leading`].

use std::time::Instant;

use serde_json::Value;
use tokenizers::Decoder as _;
use tokenizers::normalizers::Replace;
use tokenizers::normalizers::replace::ReplacePattern;

use super::checks::File;
use crate::limits;

/// The bytes of each token id.
pub(super) struct Table {
    bytes: Vec<u8>,
    /// The start of each id's bytes, and the end of the last.
    starts: Vec<u32>,
    /// Whether each id exists: a token may have no bytes.
    known: Vec<bool>,
    /// The character that is dropped at the beginning of a text, and its maximum number.
    leading: Option<(char, usize)>,
    /// The separator before each token, which is not part of it.
    separator: &'static str,
}

impl Table {
    /// `piece` returns the vocabulary's text for an id; ids are below `ids`.
    ///
    /// # Errors
    /// Describes the problem, if the decoder is invalid, expands the vocabulary too much, or is not
    /// done by `deadline`.
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

    /// The bytes that `id` adds to a text; `None` for an id without a token.
    pub(super) fn bytes(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        let is_known = *self.known.get(id)?;
        is_known.then(|| &self.bytes[self.starts[id] as usize..self.starts[id + 1] as usize])
    }

    /// The same bytes without the separator from the token before.
    pub(super) fn own_bytes(&self, id: u32) -> Option<&[u8]> {
        let bytes = self.bytes(id)?;
        Some(bytes.strip_prefix(self.separator.as_bytes()).unwrap_or(bytes))
    }

    /// The number of ids.
    pub(super) fn ids(&self) -> usize {
        self.known.len()
    }

    /// The character that is dropped at the beginning of a text, and its maximum number.
    pub(super) fn leading(&self) -> Option<(char, usize)> {
        self.leading
    }
}

/// The steps of a decoder, as they apply to a token that is neither the first nor the last of a
/// text.
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

/// A token between two steps.
enum Piece {
    Text(String),
    /// A byte is not text, so text steps skip it.
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
                    // It applies to a whole text, whose end is unknown while it is streamed.
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
            // The last word of a text keeps its space, because it was returned before it was known
            // to be the last.
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
        // A WordPiece decoder adds its own spaces.
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
        // The library finds it at every position.
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

/// `text` without up to `start` times `content` at its beginning and up to `stop` times at its end.
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

/// The byte in `<0x0A>`, the form in which vocabularies with byte fallback write a byte.
fn byte_fallback(piece: &str) -> Option<u8> {
    let hex = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 2)
}

/// The byte of a character in a byte-level piece: printable Latin-1 characters stand for
/// themselves, and the characters from U+0100 on stand for the other bytes in order (the GPT-2
/// table).
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
