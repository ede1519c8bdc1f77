//! Tests every limit of a tokenizer.json, and the bytes of a token for every kind of decoder.

use serde_json::{Value, json};

use super::*;
use crate::error::TokenizeError;
use crate::text::detokenize::Detokenizer;

/// A tokenizer.json of words, with some fields replaced.
fn file(fields: &Value) -> Value {
    let vocab = json!({"a": 0, "b": 1, "c": 2, "?": 3});
    let mut file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "?"},
    });
    for (name, value) in fields.as_object().expect("fields") {
        file[name] = value.clone();
    }
    file
}

fn read(fields: Value) -> Result<Tokenizer, String> {
    Tokenizer::from_json(file(&fields).to_string().as_bytes())
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(120)
}

#[track_caller]
fn check_limit(make: impl Fn(u64) -> Value, limit: u64, what: &str) {
    if let Err(error) = read(make(limit)) {
        panic!("at the limit: {error}");
    }
    let error = read(make(limit + 1)).expect_err("one past the limit");
    let expected = format!("{what} is {}, and at most {limit} is taken", limit + 1);
    assert_eq!(error, expected);
}

fn added(content: &str) -> Value {
    json!({"id": 9, "content": content, "special": false, "lstrip": false, "rstrip": false,
           "normalized": false, "single_word": false})
}

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
fn a_vocabulary_at_its_limits() {
    let words = |word: String| json!({"added_tokens": [added(&word)]});
    check_limit(
        |bytes| words("x".repeat(bytes as usize)),
        limits::TOKEN_BYTES,
        "the bytes of its longest token",
    );
    let id =
        |id: u64| json!({"model": {"type": "WordLevel", "vocab": {"?": id}, "unk_token": "?"}});
    check_limit(id, limits::TOKEN_ID, "the largest id of its tokens");
    let word = |chars: u64| {
        let mut model = json!({"type": "WordPiece", "vocab": {"?": 0}, "unk_token": "?"});
        model["continuing_subword_prefix"] = json!("##");
        model["max_input_chars_per_word"] = json!(chars);
        json!({ "model": model })
    };
    check_limit(word, limits::WORD_CHARS, "\"max_input_chars_per_word\"");

    // So many that the library would take minutes, so only the check counts them.
    let counted = |tokens: u64, merges: u64| {
        let vocab: Vec<String> = (0..tokens).map(|id| format!("\"{id}\":0")).collect();
        let merges = vec!["0"; merges as usize].join(",");
        let model = format!("{{\"vocab\":{{{}}},\"merges\":[{merges}]}}", vocab.join(","));
        checks::File::read(format!("{{\"model\":{model}}}").as_bytes()).unwrap().check()
    };
    assert_eq!(counted(limits::VOCABULARY_TOKENS, limits::VOCABULARY_MERGES), Ok(()));
    assert!(
        counted(limits::VOCABULARY_TOKENS + 1, 0).unwrap_err().contains("number of its tokens")
    );
    assert!(
        counted(0, limits::VOCABULARY_MERGES + 1).unwrap_err().contains("number of its merges")
    );
}

#[test]
fn the_added_tokens_at_their_limit() {
    let check = |more: usize| {
        let mut tokens = vec![added(&"x".repeat(4096)); (16 << 20) / 4096 / 16];
        tokens.extend((more > 0).then(|| added(&"x".repeat(more))));
        let content = "y".repeat(16);
        let replace = json!({"type": "Replace", "pattern": {"String": "x"}, "content": content});
        let text = file(&json!({"added_tokens": tokens, "normalizer": replace})).to_string();
        checks::File::read(text.as_bytes()).unwrap().check()
    };
    assert_eq!(check(0), Ok(()));
    assert!(check(1).unwrap_err().starts_with("the text of its added tokens"));
}

#[test]
fn the_text_of_a_vocabulary_at_its_limit() {
    let bytes = |tokens: usize| {
        let decoder =
            json!({"type": "Replace", "pattern": {"String": "a"}, "content": "b".repeat(64)});
        let text = file(&json!({ "decoder": decoder })).to_string();
        let file = checks::File::read(text.as_bytes()).unwrap();
        // A token of the maximum size, as often as it fits.
        let piece = "a".repeat(limits::TOKEN_BYTES as usize);
        Table::new(&file, tokens as u32, |_| Some(piece.clone()), soon())
    };
    let fits = limits::VOCABULARY_BYTES / (limits::TOKEN_BYTES * limits::TOKEN_GROWTH);
    assert!(bytes(fits as usize).is_ok());
    let error = bytes(fits as usize + 1).err().expect("too much");
    assert!(error.contains(&limits::VOCABULARY_BYTES.to_string()), "{error}");
}

#[test]
fn the_steps_of_a_tokenizer_at_their_limits() {
    let lists = [("normalizer", "normalizers", "NFC"), ("decoder", "decoders", "Fuse")];
    for (name, list, step) in lists {
        let step = if step == "NFC" { json!({"type": "Nmt"}) } else { json!({"type": step}) };
        let many =
            |steps: u64| json!({name: {"type": "Sequence", list: vec![&step; steps as usize]}});
        check_limit(many, limits::TOKENIZER_STEPS, &format!("the number of steps of its {name}"));
        let nested = |depth: u64| {
            let wrap = |inner, _| json!({"type": "Sequence", list: [inner]});
            json!({ name: (0..depth).fold(step.clone(), wrap) })
        };
        check_limit(nested, limits::TOKENIZER_NESTING, &format!("the nesting of its {name}"));
    }
    let pattern = |bytes: u64| {
        let pattern = json!({"Regex": "x".repeat(bytes as usize)});
        json!({"pre_tokenizer": {"type": "Split", "pattern": pattern, "behavior": "Removed", "invert": false}})
    };
    check_limit(pattern, limits::PATTERN_BYTES, "the bytes of a pattern");
}

#[test]
fn nesting_beyond_any_stack_is_an_error() {
    for (name, list) in [
        ("normalizer", "normalizers"),
        ("pre_tokenizer", "pretokenizers"),
        ("post_processor", "processors"),
        ("decoder", "decoders"),
    ] {
        let open = format!("{{\"type\":\"Sequence\",\"{list}\":[").repeat(100_000);
        let close = "]}".repeat(100_000);
        let text = format!(
            "{{\"{name}\":{open}{close},\"model\":{{\"type\":\"BPE\",\"vocab\":{{}},\"merges\":[]}}}}"
        );
        let error = Tokenizer::from_json(text.as_bytes()).unwrap_err();
        assert!(error.contains("recursion limit"), "{name}: {error}");
    }
}

#[test]
fn the_growth_of_a_text_at_its_limit() {
    let what = "the growth of a text by its normalizer and pre_tokenizer";
    let one = |content: u64| {
        let content = "x".repeat(content as usize);
        json!({"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": content}})
    };
    check_limit(one, limits::TEXT_GROWTH, what);

    let twice = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
    let prepends = json!({"type": "Prepend", "prepend": "x"});
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true});
    let spaces =
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always"});
    let regex = json!({"type": "Replace", "pattern": {"Regex": ""}, "content": "x"});
    for (name, list, step) in [
        ("normalizer", "normalizers", &twice),
        ("normalizer", "normalizers", &prepends),
        ("normalizer", "normalizers", &regex),
        ("pre_tokenizer", "pretokenizers", &bytes),
        ("pre_tokenizer", "pretokenizers", &spaces),
    ] {
        let error = read(json!({name: {"type": "Sequence", list: vec![step; 34]}})).unwrap_err();
        assert!(error.starts_with(what), "{step}: {error}");
    }
}

#[test]
fn a_table_of_replacements_is_measured() {
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    let growth = |longest: usize| {
        let texts = format!("short\0{}\0", "x".repeat(longest));
        let table = [&8u32.to_le_bytes()[..], &[0; 8], texts.as_bytes()].concat();
        let step =
            json!({"type": "Precompiled", "precompiled_charsmap": BASE64_STANDARD.encode(table)});
        let text = file(&json!({ "normalizer": step })).to_string();
        checks::File::read(text.as_bytes()).unwrap().text_growth()
    };
    assert_eq!(growth(33), Ok(33));
    assert_eq!(growth(700_000), Ok(700_000));
}

#[test]
fn the_growth_of_a_token_at_its_limit() {
    let content = |bytes: u64| {
        let content = "x".repeat(bytes as usize);
        json!({"decoder": {"type": "Replace", "pattern": {"String": "a"}, "content": content}})
    };
    check_limit(content, limits::TOKEN_GROWTH, "the growth of a token by its decoder");
    let twice = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
    let decoder = json!({"type": "Sequence", "decoders": vec![twice; 34]});
    assert!(read(json!({ "decoder": decoder })).unwrap_err().contains("growth of a token"));
}

#[test]
fn the_tokens_around_a_text_at_their_limit() {
    let template = |ids: u64| {
        let special = json!({"id": "?", "ids": vec![3; ids as usize / 2], "tokens": vec!["?"; ids as usize / 2]});
        let single = json!([{"SpecialToken": {"id": "?", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]);
        json!({"post_processor": {"type": "TemplateProcessing", "single": single, "pair": [],
               "special_tokens": {"?": special}}})
    };
    assert!(read(template(limits::TOKENS_AROUND_TEXT)).is_ok());
    assert!(read(template(limits::TOKENS_AROUND_TEXT + 2)).unwrap_err().contains("around a text"));
    let mut repeats = template(2);
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    repeats["post_processor"]["single"] = json!([text, text]);
    assert!(read(repeats).unwrap_err().contains("repeats the text"));
}

/// Tokens of every kind that decoders treat differently.
const PIECES: [&str; 27] = [
    "a",
    "b",
    "\u{120}a",
    "\u{2581}a",
    "\u{2581}",
    "\u{2581}\u{2581}\u{2581}",
    "a\u{2581}b",
    "##a",
    "a</w>",
    "</w>",
    "<0x0A>",
    "<0xE4>",
    "<0x41>",
    "<0xZZ>",
    "\u{e4}",
    "\u{10a}\u{10a}",
    "\u{143}",
    "|",
    "<pad>",
    "n't",
    ".",
    " ",
    "  x ",
    "\u{1f600}",
    "don\u{2019}t",
    "x",
    "y",
];

fn with_decoder(decoder: &Value, normalizer: &Value) -> Tokenizer {
    let vocab: serde_json::Map<String, Value> =
        PIECES.iter().enumerate().map(|(id, piece)| ((*piece).to_owned(), json!(id))).collect();
    let tokens = [
        "<|im_start|>",
        "<tool_call>",
        "\u{2581}\u{2581}\u{2581}\u{2581}",
        "\u{e9} t",
        "\u{e9}",
        "\n\n",
        "<h1>",
    ];
    let normalized = |content: &&str| {
        let mut token = added(content);
        token["normalized"] = json!(true);
        token["special"] = json!(content.starts_with("<|"));
        token
    };
    let model = json!({"type": "WordLevel", "vocab": vocab, "unk_token": "a"});
    let added: Vec<Value> = tokens.iter().map(normalized).collect();
    read(json!({"decoder": decoder, "model": model, "added_tokens": added, "normalizer": normalizer})).unwrap()
}

/// Checks that every token's bytes equal the library's decoding in the middle of a text.
fn check_every_token(tokenizer: &Tokenizer, before: u32, after: u32) {
    let library = &tokenizer.inner.library;
    let mut known = 0;
    for id in 0..tokenizer.vocab_tokens() as u32 {
        if library.id_to_token(id).is_none() || id == before || id == after {
            continue;
        }
        known += 1;
        let ids = [before, id, after];
        let expected = library.decode(&ids, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, false), expected, "{id}: {:?}", library.id_to_token(id));
        // A stream gives the same bytes.
        let markers: Arc<[u32]> = [id].into();
        let stream = |markers: Arc<[u32]>| {
            let mut stream = Detokenizer::continuing(tokenizer.clone(), markers);
            let first = stream.push(id);
            (first.text + &stream.finish(), first.marker)
        };
        let bytes = tokenizer.token_bytes(id);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let shown = if tokenizer.is_special(id) { String::new() } else { text.clone() };
        assert_eq!(stream(Arc::from([])), (shown, None));
        assert_eq!(stream(markers).1, Some(tokenizer.own_text(id)));
        let entry = tokenizer.entry(id).unwrap();
        assert!(entry.bytes == bytes || entry.is_marker, "{id}");
    }
    assert!(known > 10);
}

#[test]
fn every_token_has_the_bytes_that_the_library_decodes() {
    let replace = json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "});
    let regex = json!({"type": "Replace", "pattern": {"Regex": "\u{2581}+|x"}, "content": "-"});
    let (fallback, fuse) = (json!({"type": "ByteFallback"}), json!({"type": "Fuse"}));
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    let ends = json!({"type": "Strip", "content": " ", "start": 0, "stop": 1});
    let level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let space =
        |scheme| json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme});
    let sequence = |steps: &[&Value]| json!({"type": "Sequence", "decoders": steps});
    let byte_level = json!({"type": "ByteLevel"});
    for decoder in [
        Value::Null,
        level,
        sequence(&[&replace, &fallback, &fuse, &strip]),
        sequence(&[&replace, &fallback, &fuse]),
        sequence(&[&fallback, &fuse, &replace]),
        sequence(&[&regex, &fuse]),
        // The library panics when it strips the end of an empty token.
        sequence(&[
            &json!({"type": "Replace", "pattern": {"String": "</w>"}, "content": "w"}),
            &ends,
            &fuse,
        ]),
        sequence(&[&space("first")]),
        space("always"),
        space("never"),
        fuse.clone(),
        fallback.clone(),
        json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        json!({"type": "WordPiece", "prefix": "", "cleanup": false}),
        json!({"type": "BPEDecoder", "suffix": "</w>"}),
        json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": true}),
        json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": false}),
    ] {
        for normalizer in [&Value::Null, &byte_level] {
            // The last two pieces are plain text in every decoder.
            check_every_token(&with_decoder(&decoder, normalizer), 25, 26);
        }
    }
}

#[test]
fn a_text_loses_what_its_first_token_does() {
    let steps = json!([{"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
                       {"type": "ByteFallback"}, {"type": "Fuse"},
                       {"type": "Strip", "content": " ", "start": 1, "stop": 0}]);
    let tokenizer = with_decoder(&json!({"type": "Sequence", "decoders": steps}), &Value::Null);
    let text = |mut stream: Detokenizer| {
        let pieces = [3, 3].map(|id| stream.push(id).text);
        pieces.concat() + &stream.finish()
    };
    assert_eq!(text(Detokenizer::new(tokenizer.clone(), Arc::new([]))), "a a");
    assert_eq!(text(Detokenizer::continuing(tokenizer.clone(), Arc::new([]))), " a a");
    // Only one of three spaces is dropped, as in the library.
    assert_eq!(tokenizer.decode(&[5, 0], false), "  a");
    assert_eq!(tokenizer.inner.library.decode(&[5, 0], false).unwrap(), "  a");
}

/// `OMLX_TOKENIZERS`: a folder of published tokenizers, at any depth. Without it the test does
/// nothing.
#[test]
fn tokens_of_published_tokenizers_have_the_bytes_that_the_library_decodes() {
    let Some(folder) = std::env::var_os("OMLX_TOKENIZERS") else { return };
    let mut open = vec![PathBuf::from(folder)];
    let mut found = 0;
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.file_name().is_some_and(|name| name == "tokenizer.json") {
            found += 1;
            let tokenizer = Tokenizer::load(path.parent().unwrap()).unwrap();
            let one = |text: &str| *tokenizer.encode(text, false).unwrap().last().unwrap();
            check_every_token(&tokenizer, one("x"), one("y"));
            check_texts(&tokenizer);
        }
    }
    assert!(found > 0, "no tokenizer.json in OMLX_TOKENIZERS");
}

/// Checks that texts are restored from their tokens, as a whole and as a stream.
fn check_texts(tokenizer: &Tokenizer) {
    for text in [
        "Hello world",
        "a  b   c\n\n\n  d\t",
        "\u{4f60}\u{597d} \u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}!",
        "fn main() {\n    x\n}",
    ] {
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, false), text);
        let mut stream = Detokenizer::new(tokenizer.clone(), Arc::new([]));
        let pieces: String = ids.iter().map(|id| stream.push(*id).text).collect();
        assert_eq!(pieces + &stream.finish(), text);
    }
}

#[test]
fn a_panic_at_load_names_the_library_and_the_file() {
    let temp = tempfile::tempdir().unwrap();
    // The library reads beyond the end of this table.
    let precompiled = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"});
    let bad = file(&json!({ "normalizer": precompiled })).to_string();
    std::fs::write(temp.path().join("tokenizer.json"), bad).unwrap();
    let error = Tokenizer::load(temp.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json is not usable"), "{error}");
    assert!(error.contains("the tokenizers library panicked"), "{error}");
}

#[test]
fn a_file_that_is_still_read_is_not_read_again() {
    let (slow, other) = (Path::new("slow/tokenizer.json"), Path::new("other/tokenizer.json"));
    let running = Arc::new(());
    assert!(abandoned(slow, Some(Arc::downgrade(&running))));
    let error =
        Tokenizer::guarded(slow.to_owned(), file(&json!({})).to_string().into()).unwrap_err();
    assert!(error.contains("has not ended since"), "{error}");
    assert!(!abandoned(other, None));
    drop(running);
    assert!(!abandoned(slow, None));

    let text = file(&json!({"decoder": {"type": "Fuse"}})).to_string();
    let checked = checks::File::read(text.as_bytes()).unwrap();
    let past = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
    let error = Table::new(&checked, 1, |_| Some("a".to_owned()), past).err();
    assert_eq!(error.as_deref(), Some("its decoder takes too long"));
}

#[test]
fn an_added_token_that_a_normalizer_empties_is_refused() {
    let mut token = added("\u{1}");
    token["normalized"] = json!(true);
    for normalizer in [
        json!({"type": "Nmt"}),
        json!({"type": "Replace", "pattern": {"String": "\u{1}"}, "content": ""}),
        json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
               "strip_accents": true, "lowercase": false}),
    ] {
        let error = read(json!({"normalizer": normalizer, "added_tokens": [token]})).unwrap_err();
        assert!(error.contains("leaves nothing of the added token 4"), "{error}");
    }
    token["normalized"] = json!(false);
    let kept = read(json!({"normalizer": {"type": "Nmt"}, "added_tokens": [token]})).unwrap();
    assert_eq!(kept.encode("a", false), Ok(vec![0]));
}

fn split(pattern: &str) -> Tokenizer {
    let pattern = json!({"Regex": pattern});
    read(json!({"pre_tokenizer": {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false}}))
        .unwrap()
}

#[test]
fn a_pattern_that_gives_up_is_a_refusal() {
    for (pattern, text) in [
        (r"(a+)+$", "a".repeat(40) + "b"),
        (r"(\s|\s\s)+\S", " ".repeat(60)),
        (r"(a|aa)+c", "a".repeat(60)),
    ] {
        let error = split(pattern).encode(&text, false).unwrap_err();
        assert!(
            matches!(&error, TokenizeError::Refused(what) if what.contains("retry-limit")),
            "{pattern}: {error}"
        );
    }
}

#[test]
fn an_abandoned_call_blocks_others_until_it_ends() {
    let tokenizer = read(json!({})).unwrap();
    let running = Arc::new(AtomicBool::new(false));
    tokenizer.inner.abandoned.lock().unwrap().push(Arc::downgrade(&running));
    assert_eq!(tokenizer.encode("a", false), Err(TokenizeError::TooSlow));
    drop(running);
    assert_eq!(tokenizer.encode("a", false), Ok(vec![0]));
}

#[test]
fn a_text_at_its_limit() {
    let tokenizer = split(" ");
    // One unknown word of any length is one token.
    let encode = |bytes: usize| tokenizer.encode_within(&"x".repeat(bytes), false, 100, &|| true);
    assert_eq!(encode(limits::PROMPT_TEXT_BYTES), Ok(vec![3]));
    let (bytes, most_bytes) = (limits::PROMPT_TEXT_BYTES + 1, limits::PROMPT_TEXT_BYTES);
    assert_eq!(
        encode(bytes),
        Err(TokenizeError::TooManyBytes { bytes, most_bytes, most_tokens: 100 })
    );
}

#[test]
fn a_text_is_counted_past_its_limit() {
    let tokenizer = read(json!({})).unwrap();
    let encode = |bytes: usize| {
        let text: String = "a ".chars().cycle().take(bytes).collect();
        tokenizer.encode_within(&text, false, 1000, &|| true)
    };
    assert_eq!(
        encode(limits::UNCOUNTED_TEXT_BYTES).unwrap().len(),
        limits::UNCOUNTED_TEXT_BYTES / 2
    );
    let error = encode(limits::UNCOUNTED_TEXT_BYTES + 1).unwrap_err();
    assert!(
        matches!(error, TokenizeError::TooManyTokens { tokens: 4001.., most_tokens: 1000 }),
        "{error}"
    );
}

#[test]
fn a_text_that_grows_at_its_limit() {
    let content = "x".repeat(16);
    let replace = json!({"type": "Replace", "pattern": {"String": "a"}, "content": content});
    let tokenizer = read(json!({ "normalizer": replace })).unwrap();
    let encode = |bytes: usize| tokenizer.encode_within(&"a".repeat(bytes), false, 100, &|| true);
    let fits = limits::NORMALIZED_TEXT_BYTES / 16;
    assert_eq!(encode(fits), Ok(vec![3]));
    let error = encode(fits + 1).unwrap_err();
    let most_bytes = limits::NORMALIZED_TEXT_BYTES;
    let bytes = most_bytes + 16;
    assert_eq!(error, TokenizeError::TooManyBytes { bytes, most_bytes, most_tokens: 100 });
}

#[test]
fn an_abandoned_text_ends() {
    let tokenizer = split(r"\s+");
    let text = "a ".repeat(limits::PROMPT_TEXT_BYTES / 2);
    let ended = tokenizer.encode_within(&text, false, usize::MAX >> 8, &|| false);
    assert_eq!(ended, Err(TokenizeError::Unwanted));
}

/// `OMLX_FUZZ_SECS`: the time to run, instead of a thousand cases.
#[test]
fn any_tokenizer_and_any_text_end_well() {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
    let secs = std::env::var("OMLX_FUZZ_SECS").ok().and_then(|secs| secs.parse().ok());
    let end = secs.map(|secs| Instant::now() + Duration::from_secs(secs));
    let mut case =
        std::env::var("OMLX_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    let last = case + 1000;
    while end.map_or(case < last, |end| Instant::now() < end) {
        let mut bytes = [0; 400];
        ChaCha8Rng::seed_from_u64(case).fill_bytes(&mut bytes);
        let outcome = std::panic::catch_unwind(|| fuzz::tokenizer(&bytes));
        assert!(outcome.is_ok(), "OMLX_FUZZ_SEED={case}");
        case += 1;
    }
}
