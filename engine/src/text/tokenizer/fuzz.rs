//! Entry points for the fuzz target (`engine/fuzz`) and for the same test under proptest: a
//! tokenizer.json of arbitrary parts, an arbitrary text, and the conversion in both directions.
//! Loading must end, encoding must end or be rejected, and a stream must give the same text as the
//! whole.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::Tokenizer;
use crate::error::TokenizeError;
use crate::text::detokenize::Detokenizer;

/// Fragments of texts, tokens, patterns and replacements.
const FRAGMENTS: [&str; 40] = [
    "",
    " ",
    "  ",
    "        ",
    "\u{2581}",
    "\u{2581}\u{2581}",
    "\u{120}",
    "\u{10a}",
    "\n",
    "\r\n",
    "\t",
    "a",
    "b",
    "ab",
    "aa",
    "aaaaaaaaaaaaaaaaaaaaaaaa",
    "Hello",
    "##",
    "##b",
    "</w>",
    "<0x0A>",
    "<0xE4>",
    "<0xZZ>",
    "<|im_start|>",
    "<tool_call>",
    "[UNK]",
    "[",
    "(",
    ".*",
    "\\",
    "1 1 1",
    "\u{e9}",
    "e\u{301}",
    "\u{fdfa}",
    "\u{1d160}",
    "\u{4f60}",
    "\u{1f468}\u{200d}\u{1f469}",
    "\u{fffd}",
    "\0",
    "don't n't .",
];

/// Patterns of published models, and worse ones.
const PATTERNS: [&str; 14] = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"\p{N}",
    r"\s+",
    " ",
    "",
    ".",
    r"(?=a)",
    r"(a+)+$",
    r"(\s|\s\s)+\S",
    r"(?<=a)b",
    r"\b",
    r"^|$",
    r"(?:a{1000}){1000}",
    r"((((((((((a?)?)?)?)?)?)?)?)?)?)b",
];

/// Time limit for one of these short texts. A pattern may still be slow.
const LIMIT: Duration = Duration::from_secs(20);

/// Interprets bytes as choices.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first)
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.byte() % all.len()]
    }

    fn some<T>(&mut self, most: usize, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.byte() % (most + 1)).map(|_| one(self)).collect()
    }

    fn fragment(&mut self) -> &'static str {
        self.of(&FRAGMENTS)
    }

    fn number(&mut self) -> Value {
        self.of(&[0, 1, 2, 100, 1 << 31, u64::MAX, 0, 1]).into()
    }

    fn flag(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    fn text(&mut self) -> String {
        self.some(12, |choices| choices.fragment().repeat(choices.of(&[1, 1, 1, 2, 40]))).concat()
    }
}

/// Panics if any of the properties is violated.
pub fn tokenizer(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let file = file(&mut choices).to_string();
    let Ok(tokenizer) = Tokenizer::from_json(file.as_bytes()) else { return };
    let text = choices.text();
    let most = choices.of(&[1, 64, 1 << 20]);
    let deadline = Instant::now() + LIMIT;
    let encoded = tokenizer.encode_until(deadline, &text, choices.flag(), most, &|| true);
    let ids = match encoded {
        Ok(ids) => ids,
        Err(TokenizeError::TooSlow) => panic!("too slow: {text:?} by {file}"),
        Err(_) => choices.some(20, |choices| choices.byte() as u32),
    };
    check_stream(&tokenizer, &ids);
}

/// Checks that a stream gives the same text as decoding all tokens at once.
fn check_stream(tokenizer: &Tokenizer, ids: &[u32]) {
    let shown: Vec<u32> = ids.iter().copied().filter(|id| !tokenizer.is_special(*id)).collect();
    let mut stream = Detokenizer::continuing(tokenizer.clone(), Arc::new([]));
    let pieces: String = ids.iter().map(|id| stream.push(*id).text).collect();
    let bytes: Vec<u8> = shown.iter().flat_map(|id| tokenizer.token_bytes(*id)).collect();
    assert_eq!(pieces + &stream.finish(), String::from_utf8_lossy(&bytes));
    let whole = tokenizer.decode(ids, true);
    assert!(String::from_utf8_lossy(&bytes).ends_with(&whole));
}

fn file(choices: &mut Choices<'_>) -> Value {
    let component = |choices: &mut Choices<'_>, list: &str, step: fn(&mut Choices<'_>) -> Value| {
        match choices.byte() % 4 {
            0 => Value::Null,
            1 => step(choices),
            2 => json!({"type": "Sequence", list: choices.some(6, step)}),
            _ => {
                json!({"type": "Sequence", list: [step(choices), {"type": "Sequence", list: choices.some(3, step)}]})
            }
        }
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "normalizer": component(choices, "normalizers", normalizer),
        "pre_tokenizer": component(choices, "pretokenizers", pre_tokenizer),
        "decoder": component(choices, "decoders", decoder),
        "post_processor": component(choices, "processors", post_processor),
        "added_tokens": choices.some(6, added_token),
        "model": model(choices),
    })
}

fn pattern(choices: &mut Choices<'_>) -> Value {
    if choices.flag() {
        json!({"Regex": choices.of(&PATTERNS)})
    } else {
        json!({"String": choices.fragment()})
    }
}

fn replace(choices: &mut Choices<'_>) -> Value {
    json!({"type": "Replace", "pattern": pattern(choices), "content": choices.fragment()})
}

fn normalizer(choices: &mut Choices<'_>) -> Value {
    match choices.byte() % 9 {
        0 => replace(choices),
        1 => json!({"type": "Prepend", "prepend": choices.fragment()}),
        2 => json!({"type": "Strip", "strip_left": choices.flag(), "strip_right": choices.flag()}),
        3 => {
            json!({"type": "BertNormalizer", "clean_text": choices.flag(), "handle_chinese_chars": choices.flag(),
                    "strip_accents": choices.flag(), "lowercase": choices.flag()})
        }
        4 => {
            json!({"type": "Precompiled", "precompiled_charsmap": choices.of(&["", "AAAA", "AAAAAAAAAAAA", "CAAAAAAAAAAAAAAAYQBi"])})
        }
        _ => {
            json!({"type": choices.of(&["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel"])})
        }
    }
}

fn pre_tokenizer(choices: &mut Choices<'_>) -> Value {
    let behavior = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"];
    match choices.byte() % 8 {
        0 => byte_level(choices),
        1 => metaspace(choices),
        2 => {
            json!({"type": "Split", "pattern": pattern(choices), "behavior": choices.of(&behavior),
                    "invert": choices.flag()})
        }
        3 => json!({"type": "Punctuation", "behavior": choices.of(&behavior)}),
        4 => json!({"type": "Digits", "individual_digits": choices.flag()}),
        5 => {
            json!({"type": "CharDelimiterSplit", "delimiter": choices.of(&["a", " ", "\u{2581}"])})
        }
        6 => json!({"type": "FixedLength", "length": choices.number()}),
        _ => {
            json!({"type": choices.of(&["Whitespace", "WhitespaceSplit", "BertPreTokenizer", "UnicodeScripts"])})
        }
    }
}

fn decoder(choices: &mut Choices<'_>) -> Value {
    match choices.byte() % 9 {
        0 => byte_level(choices),
        1 => metaspace(choices),
        2 => replace(choices),
        3 => {
            json!({"type": "Strip", "content": choices.of(&[" ", "a", "\u{2581}"]), "start": choices.number(),
                    "stop": choices.number()})
        }
        4 => json!({"type": "WordPiece", "prefix": choices.fragment(), "cleanup": choices.flag()}),
        5 => json!({"type": "BPEDecoder", "suffix": choices.fragment()}),
        6 => {
            json!({"type": "CTC", "pad_token": choices.fragment(), "word_delimiter_token": choices.fragment(),
                    "cleanup": choices.flag()})
        }
        _ => json!({"type": choices.of(&["Fuse", "ByteFallback"])}),
    }
}

fn byte_level(choices: &mut Choices<'_>) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": choices.flag(), "trim_offsets": choices.flag(),
           "use_regex": choices.flag()})
}

fn metaspace(choices: &mut Choices<'_>) -> Value {
    json!({"type": "Metaspace", "replacement": choices.of(&["\u{2581}", " ", "a", "\u{1f600}"]),
           "prepend_scheme": choices.of(&["first", "never", "always"]), "split": choices.flag()})
}

fn post_processor(choices: &mut Choices<'_>) -> Value {
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let special = json!({"SpecialToken": {"id": "[UNK]", "type_id": 0}});
    match choices.byte() % 3 {
        0 => byte_level(choices),
        1 => {
            json!({"type": "BertProcessing", "sep": ["a", choices.byte()], "cls": ["b", choices.byte()]})
        }
        _ => {
            let ids = choices.some(3, Choices::byte);
            let tokens = vec!["[UNK]"; ids.len()];
            let single = choices
                .some(4, |choices| if choices.flag() { text.clone() } else { special.clone() });
            json!({"type": "TemplateProcessing", "single": single, "pair": [&text],
                   "special_tokens": {"[UNK]": {"id": "[UNK]", "ids": ids, "tokens": tokens}}})
        }
    }
}

fn added_token(choices: &mut Choices<'_>) -> Value {
    json!({"id": choices.number(), "content": choices.fragment(), "special": choices.flag(), "lstrip": choices.flag(),
           "rstrip": choices.flag(), "normalized": choices.flag(), "single_word": choices.flag()})
}

fn model(choices: &mut Choices<'_>) -> Value {
    let words = choices.some(40, Choices::fragment);
    let step = choices.of(&[1u32, 1, 1, 3, 1 << 20, 1 << 28]);
    let vocab = |choices: &mut Choices<'_>| -> Map<String, Value> {
        let id = |(id, word): (usize, &&str)| {
            (
                (*word).to_owned(),
                json!((id as u32).wrapping_mul(step).wrapping_add(choices.byte() as u32 % 2)),
            )
        };
        words.iter().enumerate().map(id).collect()
    };
    let affix = |choices: &mut Choices<'_>| {
        if choices.flag() { json!(choices.fragment()) } else { Value::Null }
    };
    let unknown =
        if choices.flag() { json!(choices.of(&["[UNK]", "a", "missing"])) } else { Value::Null };
    match choices.byte() % 4 {
        0 => {
            let merge = |choices: &mut Choices<'_>| [choices.fragment(), choices.fragment()];
            json!({"type": "BPE", "vocab": vocab(choices), "merges": choices.some(6, merge), "unk_token": unknown,
                   "dropout": null, "continuing_subword_prefix": affix(choices), "end_of_word_suffix": affix(choices),
                   "fuse_unk": choices.flag(), "byte_fallback": choices.flag(), "ignore_merges": choices.flag()})
        }
        1 => json!({"type": "WordPiece", "vocab": vocab(choices), "unk_token": "[UNK]",
                    "continuing_subword_prefix": choices.fragment(), "max_input_chars_per_word": choices.number()}),
        2 => {
            json!({"type": "WordLevel", "vocab": vocab(choices), "unk_token": choices.of(&["[UNK]", "a", "missing"])})
        }
        _ => {
            let score = |choices: &mut Choices<'_>| choices.of(&[0.0, -1.0, 1e300, -1e300]);
            let pieces: Vec<Value> =
                words.iter().map(|word| json!([word, score(choices)])).collect();
            json!({"type": "Unigram", "vocab": pieces, "unk_id": choices.number(), "byte_fallback": choices.flag()})
        }
    }
}
