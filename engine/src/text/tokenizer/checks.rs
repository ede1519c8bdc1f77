//! Checks a tokenizer.json before the `tokenizers` library reads it: the library accepts any
//! content, and would spend its time and memory at load or with every text.

use std::fmt;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::limits;

/// The parts of a tokenizer.json that have limits.
#[derive(Deserialize)]
pub(super) struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    content: String,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    vocab: Vocab,
    #[serde(default)]
    merges: Merges,
    max_input_chars_per_word: Option<u64>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
}

/// The numbers of a vocabulary, whose tokens are not kept.
#[derive(Default)]
struct Vocab {
    tokens: usize,
    longest: usize,
    largest_id: u64,
}

#[derive(Default)]
struct Merges(usize);

impl File {
    /// Parses a tokenizer.json.
    ///
    /// # Errors
    /// If it is not one.
    pub(super) fn read(text: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(text).map_err(|error| error.to_string())
    }

    /// # Errors
    /// Names the part and the limit that it exceeds.
    pub(super) fn check(&self) -> Result<(), String> {
        self.check_model()?;
        let text = self.text_growth()?;
        within(
            "the growth of a text by its normalizer and pre_tokenizer",
            text,
            limits::TEXT_GROWTH,
        )?;
        let added: usize = self.added_tokens.iter().map(|added| added.content.len()).sum();
        let added = text.saturating_mul(added as u64);
        within("the text of its added tokens", added, limits::ADDED_TOKENS_BYTES)?;
        check_post_processor(&steps(
            self.post_processor.as_ref(),
            "post_processor",
            "processors",
        )?)?;
        let decoded = expansion(&self.decoder_steps()?)?;
        within("the growth of a token by its decoder", decoded, limits::TOKEN_GROWTH)
    }

    /// The maximum number of bytes that normalizer and pre_tokenizer make of one byte.
    pub(super) fn text_growth(&self) -> Result<u64, String> {
        let normalizer = steps(self.normalizer.as_ref(), "normalizer", "normalizers")?;
        let pre_tokenizer = steps(self.pre_tokenizer.as_ref(), "pre_tokenizer", "pretokenizers")?;
        Ok(expansion(&normalizer)?.saturating_mul(expansion(&pre_tokenizer)?))
    }

    /// The decoder's steps in order; empty if there is no decoder.
    pub(super) fn decoder_steps(&self) -> Result<Vec<&Value>, String> {
        steps(self.decoder.as_ref(), "decoder", "decoders")
    }

    /// An upper bound on the ids: those of the vocabulary, and of added tokens after it.
    pub(super) fn max_ids(&self) -> u32 {
        let Vocab { tokens, largest_id, .. } = self.model.vocab;
        (largest_id.max(tokens as u64) + self.added_tokens.len() as u64 + 1) as u32
    }

    /// Whether the file names a decoder.
    pub(super) fn has_decoder(&self) -> bool {
        self.decoder.is_some()
    }

    fn check_model(&self) -> Result<(), String> {
        let Model { vocab, merges, max_input_chars_per_word, .. } = &self.model;
        let tokens = vocab.tokens + self.added_tokens.len();
        within("the number of its tokens", tokens as u64, limits::VOCABULARY_TOKENS)?;
        within("the largest id of its tokens", vocab.largest_id, limits::TOKEN_ID)?;
        within("the number of its merges", merges.0 as u64, limits::VOCABULARY_MERGES)?;
        let word = max_input_chars_per_word.unwrap_or(0);
        within("\"max_input_chars_per_word\"", word, limits::WORD_CHARS)?;
        let affixes = [&self.model.continuing_subword_prefix, &self.model.end_of_word_suffix];
        let affixes = affixes.into_iter().flatten().map(String::len);
        let longest = self.added_tokens.iter().map(|added| added.content.len()).chain(affixes);
        let longest = longest.max().unwrap_or(0).max(vocab.longest);
        within("the bytes of its longest token", longest as u64, limits::TOKEN_BYTES)
    }
}

fn within(what: &str, value: u64, limit: u64) -> Result<(), String> {
    if value <= limit {
        Ok(())
    } else {
        Err(format!("{what} is {value}, and at most {limit} is taken"))
    }
}

/// The steps of a component in order, with nested sequences expanded.
fn steps<'a>(
    component: Option<&'a Value>,
    name: &str,
    list: &str,
) -> Result<Vec<&'a Value>, String> {
    let mut steps = Vec::new();
    let mut open: Vec<(&Value, u64)> = component.map(|value| (value, 0)).into_iter().collect();
    while let Some((step, depth)) = open.pop() {
        within(&format!("the nesting of its {name}"), depth, limits::TOKENIZER_NESTING)?;
        let kind = step.get("type").and_then(Value::as_str);
        let kind = kind.ok_or_else(|| format!("a step of its {name} has no \"type\""))?;
        if kind != "Sequence" {
            steps.push(step);
            within(
                &format!("the number of steps of its {name}"),
                steps.len() as u64,
                limits::TOKENIZER_STEPS,
            )?;
            continue;
        }
        let inner = step.get(list).and_then(Value::as_array);
        let inner = inner.ok_or_else(|| format!("a sequence of its {name} has no \"{list}\""))?;
        within(
            &format!("the number of steps of its {name}"),
            inner.len() as u64,
            limits::TOKENIZER_STEPS,
        )?;
        open.extend(inner.iter().rev().map(|step| (step, depth + 1)));
    }
    Ok(steps)
}

/// The maximum number of bytes that the steps make of one byte.
fn expansion(steps: &[&Value]) -> Result<u64, String> {
    let mut growth = 1u64;
    for step in steps {
        growth = growth.saturating_mul(growth_of(step)?);
    }
    Ok(growth)
}

fn growth_of(step: &Value) -> Result<u64, String> {
    let bytes = |field: &str| step[field].as_str().map_or(0, str::len) as u64;
    Ok(match step["type"].as_str().unwrap_or_default() {
        "Replace" => return growth_of_replace(step),
        // The normalizer has `prepend`, and a piece of text has at least one byte.
        "Prepend" => 1 + bytes("prepend"),
        // The largest growth of UTF-8 in Unicode's tables.
        "NFC" | "NFD" => 3,
        "NFKC" | "NFKD" => 11,
        "Lowercase" => 2,
        "BertNormalizer" => 8,
        // Two bytes for each byte, and a space before each piece.
        "ByteLevel" => 4,
        "Metaspace" => 2 * bytes("replacement").max(1),
        "Precompiled" => longest_replacement(step)?,
        "Split" => {
            check_pattern(step)?;
            1
        }
        // A separator before each piece, or in the place of an affix that may be empty.
        "WordPiece" | "BPEDecoder" | "CTC" => 2,
        _ => 1,
    })
}

fn growth_of_replace(step: &Value) -> Result<u64, String> {
    check_pattern(step)?;
    let content = step["content"].as_str().map_or(0, str::len) as u64;
    Ok(match step["pattern"]["String"].as_str() {
        Some(pattern) if !pattern.is_empty() => content.div_ceil(pattern.len() as u64).max(1),
        // It may match before every byte.
        _ => 1 + content,
    })
}

fn check_pattern(step: &Value) -> Result<(), String> {
    let pattern = &step["pattern"];
    let text = pattern["Regex"].as_str().or(pattern["String"].as_str()).unwrap_or_default();
    within("the bytes of a pattern", text.len() as u64, limits::PATTERN_BYTES)
}

/// The longest replacement text of a SentencePiece normalizer. They are at the end of its table,
/// each closed by a zero.
fn longest_replacement(step: &Value) -> Result<u64, String> {
    let table = step["precompiled_charsmap"].as_str().unwrap_or_default();
    let table = BASE64_STANDARD.decode(table).map_err(|error| format!("its charsmap: {error}"))?;
    let size = table.first_chunk().map_or(0, |size| u32::from_le_bytes(*size) as usize);
    let texts = table.get(4..).and_then(|rest| rest.get(size..)).unwrap_or_default();
    let longest = texts.split(|&byte| byte == 0).map(<[u8]>::len).max();
    Ok(longest.unwrap_or(0).max(1) as u64)
}

/// A template that repeats the text multiplies its tokens.
fn check_post_processor(steps: &[&Value]) -> Result<(), String> {
    for step in steps {
        let pieces = step["single"].as_array().map_or(&[][..], Vec::as_slice);
        let texts = pieces.iter().filter(|piece| piece.get("Sequence").is_some()).count();
        if texts > 1 {
            return Err("its post_processor repeats the text".to_owned());
        }
        let special = step["special_tokens"].as_object();
        let special = special.into_iter().flat_map(|tokens| tokens.values());
        let most = special.filter_map(|token| token["ids"].as_array()).map(Vec::len).max();
        let around = (pieces.len() * most.unwrap_or(0).max(1)) as u64;
        within("the number of tokens around a text", around, limits::TOKENS_AROUND_TEXT)?;
    }
    Ok(())
}

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Count;
        impl<'de> Visitor<'de> for Count {
            type Value = Vocab;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
                let mut vocab = Vocab::default();
                while let Some((token, id)) = map.next_entry::<String, u64>()? {
                    vocab.tokens += 1;
                    vocab.longest = vocab.longest.max(token.len());
                    vocab.largest_id = vocab.largest_id.max(id);
                }
                Ok(vocab)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vocab, A::Error> {
                let mut vocab = Vocab::default();
                while let Some((token, _score)) = list.next_element::<(String, IgnoredAny)>()? {
                    vocab.largest_id = vocab.tokens as u64;
                    vocab.tokens += 1;
                    vocab.longest = vocab.longest.max(token.len());
                }
                Ok(vocab)
            }
        }
        deserializer.deserialize_any(Count)
    }
}

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Count;
        impl<'de> Visitor<'de> for Count {
            type Value = Merges;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of merges")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merges, A::Error> {
                let mut merges = 0;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    merges += 1;
                }
                Ok(Merges(merges))
            }
        }
        deserializer.deserialize_seq(Count)
    }
}
