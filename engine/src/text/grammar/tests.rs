use std::sync::LazyLock;
use std::time::{Duration, Instant};

use omlx_tests::fixtures::{Case, EOS_TOKENS, VOCAB_TOKENS};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::compiled::on_large_stack;
use super::{Constraint, Grammar, GrammarError, Pattern, TokenTrie};
use crate::limits::{GRAMMAR_BYTES, GRAMMAR_CHOICES, GRAMMAR_LEVELS, SCHEMA_BYTES, SCHEMA_LEVELS};
use crate::text::tokenizer::Tokenizer;

/// A small generator, whose results for a given seed never change.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// The fixture models' vocabulary: single bytes, a few words, and markers.
pub(super) static SMALL: LazyLock<TokenTrie> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    Case::any().write(dir.path()).unwrap();
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    TokenTrie::new(&tokenizer, &EOS_TOKENS, VOCAB_TOKENS as usize).unwrap()
});

/// A vocabulary like those of real models: 151,936 ids, of which 151,646 exist.
static LARGE: LazyLock<TokenTrie> = LazyLock::new(|| {
    let tokenizer = large_tokenizer();
    TokenTrie::new(&tokenizer, &[151_645, 151_643], 151_936).unwrap()
});

/// Single bytes, JSON punctuation, numbers, spaces, words of many syllables with and without a
/// leading space, and characters of other scripts.
fn large_tokenizer() -> Tokenizer {
    let level = |byte: u8| -> char {
        let table: Vec<char> = (0..=0x143u32).filter_map(char::from_u32).collect();
        *table.iter().find(|c| crate::text::tokenizer::byte_of_level(**c) == Some(byte)).unwrap()
    };
    let levels: Vec<char> = (0..=u8::MAX).map(level).collect();
    let piece = |text: &str| text.bytes().map(|byte| levels[byte as usize]).collect::<String>();
    let mut pieces: Vec<String> = levels.iter().map(char::to_string).collect();
    let marks = ["\"", "\":", "\",", "{\"", "\"}", "[\"", "\"]", "},", "],", "{}", "[]", "\": \""];
    for mark in marks {
        for end in ["", " ", "\n", "\n  ", "\n    "] {
            pieces.push(piece(&format!("{mark}{end}")));
        }
    }
    pieces.extend((2..64).map(|n| piece(&" ".repeat(n))));
    pieces.extend((0..1000).map(|n| piece(&n.to_string())));
    pieces.extend((0x4E00..0x9000u32).filter_map(char::from_u32).map(|c| piece(&c.to_string())));
    let syllables: Vec<String> = ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "st"]
        .iter()
        .flat_map(|c| ["a", "e", "i", "o", "u", "an", "er"].map(|v| format!("{c}{v}")))
        .collect();
    let mut random = Random(7);
    let mut seen: std::collections::HashSet<String> = pieces.iter().cloned().collect();
    pieces.retain(|p| seen.remove(p));
    seen.extend(pieces.iter().cloned());
    while pieces.len() < 151_643 {
        let count = 1 + random.below(4);
        let word: String = (0..count).map(|_| &*syllables[random.below(91)]).collect();
        let word = match random.below(4) {
            0 => word,
            1 => word.to_uppercase(),
            _ => format!(" {word}"),
        };
        if seen.insert(piece(&word)) {
            pieces.push(piece(&word));
        }
    }
    let vocab: serde_json::Map<String, Value> =
        pieces.into_iter().zip(0..).map(|(piece, id)| (piece, json!(id))).collect();
    let marker = |(content, id): (&str, u32)| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false, "special": true})
    };
    let markers = [("<|end|>", 151_643), ("</think>", 151_644), ("<|im_end|>", 151_645)];
    let file = json!({
        "version": "1.0", "added_tokens": markers.map(marker),
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
                          "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
                    "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
    Tokenizer::load(dir.path()).unwrap()
}

pub(super) fn schema(schema: Value) -> Pattern {
    Pattern::Json { schema, exactly: true }
}

fn compile(pattern: &Pattern) -> Result<Grammar, GrammarError> {
    Grammar::compile(&SMALL, pattern)
}

/// Tokenizes a text with as few tokens as possible; markers become their tokens.
fn tokens_of(vocabulary: &TokenTrie, text: &str) -> Vec<u32> {
    vocabulary.factory().tok_env().tok_trie().greedy_tokenize(text.as_bytes())
}

pub(super) fn text_of(vocabulary: &TokenTrie, tokens: &[u32]) -> String {
    let trie = vocabulary.factory().tok_env().tok_trie();
    String::from_utf8(trie.decode(tokens)).unwrap()
}

/// Whether the grammar accepts the complete text.
fn accepts(vocabulary: &TokenTrie, grammar: &Grammar, text: &str) -> bool {
    let mut constraint = grammar.begin();
    for token in tokens_of(vocabulary, text) {
        let allowed = constraint.allowed().is_some_and(|allowed| allowed[token as usize]);
        if !allowed || constraint.push(token).is_err() {
            return false;
        }
    }
    let Some(allowed) = constraint.allowed() else { return true };
    vocabulary.factory().tok_env().tok_trie().eos_tokens().iter().any(|&id| allowed[id as usize])
}

/// Walks through a grammar at random until it ends, for at most `most` tokens. Ends of strings and
/// brackets are chosen more often than others. `None`: it did not end.
pub(super) fn walk(
    vocabulary: &TokenTrie,
    mut constraint: Constraint,
    random: &mut Random,
    (most, times): (usize, &mut Vec<Duration>),
) -> Option<Vec<u32>> {
    let trie = vocabulary.factory().tok_env().tok_trie();
    let closing: Vec<u32> = ["\"", "}", "]"].iter().map(|c| tokens_of(vocabulary, c)[0]).collect();
    let mut tokens = Vec::new();
    while tokens.len() < most {
        let Some(allowed) = constraint.allowed() else { return Some(tokens) };
        let eos = trie.eos_tokens().iter().find(|id| allowed[**id as usize]);
        if eos.is_some() && random.below(2) == 0 {
            return Some(tokens);
        }
        let close = closing.iter().find(|id| allowed[**id as usize]);
        let token = match close.filter(|_| random.below(3) == 0) {
            Some(close) => *close,
            None => {
                let from = random.below(allowed.len());
                let around = (from..allowed.len()).chain(0..from);
                let mut open = around.filter(|id| allowed[*id]).map(|id| id as u32);
                open.find(|id| !trie.eos_tokens().contains(id)).or(eos.copied()).unwrap()
            }
        };
        if trie.eos_tokens().contains(&token) {
            return Some(tokens);
        }
        let begin = Instant::now();
        constraint.push(token).unwrap();
        times.push(begin.elapsed());
        tokens.push(token);
    }
    None
}

#[test]
fn each_kind_of_pattern_takes_its_texts_and_no_others() {
    for (pattern, good, bad) in [
        (Pattern::json_object(), vec!["{}", "{ \"a\": [1, null] }"], vec!["[]", "1", "{}}"]),
        (
            schema(json!({"type": "object", "properties": {"n": {"type": "integer"}},
                          "required": ["n"], "additionalProperties": false})),
            vec!["{\"n\":-12}", "{\n  \"n\": 3\n}"],
            vec!["{}", "{\"n\":1.5}", "{\"n\":1,\"m\":2}"],
        ),
        (schema(json!(true)), vec!["[1]", "\"x\"", "null"], vec!["nul", "\"x"]),
        (Pattern::Regex("[ab]{2,3}|/x\n".into()), vec!["ab", "bab", "/x\n"], vec!["a", "abab"]),
        (
            Pattern::Choice(vec!["yes".into(), "no (never)".into(), "\u{7f}é\n".into()]),
            vec!["yes", "no (never)", "\u{7f}é\n"],
            vec!["ye", "no", "no never", ""],
        ),
        (
            Pattern::Lark("start: item (\",\" item)*\nitem: /[0-9]+/ | \"<end>\"\n".into()),
            vec!["1", "12,3", "<end>,4"],
            vec![",", "1,", "end"],
        ),
        (
            Pattern::All(vec![
                Pattern::Maybe(Box::new(Pattern::All(vec![
                    Pattern::text("<a>"),
                    Pattern::Until("</a>".into()),
                ]))),
                Pattern::Space,
                Pattern::Many(Box::new(Pattern::text("x"))),
                Pattern::Any(vec![schema(json!({"const": 1})), Pattern::text("end")]),
            ]),
            vec!["1", "<a></a>xxend", "<a>any < thing</a>\n1", "xend"],
            vec!["<a>1", "x", "<a></a>", "x1x"],
        ),
    ] {
        let grammar = compile(&pattern).unwrap();
        for text in good {
            assert!(accepts(&SMALL, &grammar, text), "{pattern:?} refuses {text:?}");
        }
        for text in bad {
            assert!(!accepts(&SMALL, &grammar, text), "{pattern:?} takes {text:?}");
        }
    }
}

#[test]
fn a_marker_is_a_token_of_its_own_and_no_text() {
    let trie = LARGE.factory().tok_env().tok_trie();
    let free = Grammar::compile(&LARGE, &Pattern::All(vec![Pattern::Free])).unwrap().begin();
    assert!(!free.allowed().unwrap()[151_644], "free text holds no marker");
    let until = Pattern::All(vec![Pattern::Until("</think>".into()), Pattern::text("ok")]);
    let mut constraint = Grammar::compile(&LARGE, &until).unwrap().begin();
    for token in tokens_of(&LARGE, "I </think wonder ") {
        assert!(constraint.allowed().unwrap()[token as usize]);
        assert!(!constraint.allowed().unwrap()[151_645], "an end before the answer");
        constraint.push(token).unwrap();
    }
    assert!(trie.is_special_token(151_644));
    constraint.push(151_644).unwrap();
    let allowed = constraint.allowed().unwrap();
    let begins: Vec<usize> = (0..allowed.len()).filter(|id| allowed[*id]).collect();
    assert!(begins.iter().all(|id| b"ok".starts_with(trie.token(*id as u32))), "{begins:?}");
}

#[test]
fn an_end_of_sequence_may_come_only_where_the_answer_may_end() {
    let grammar = compile(&schema(json!({"type": "array", "items": {"type": "boolean"}}))).unwrap();
    let mut constraint = grammar.begin();
    for token in tokens_of(&SMALL, "[true]") {
        let allowed = constraint.allowed().unwrap();
        assert!(EOS_TOKENS.iter().all(|id| !allowed[*id as usize]));
        constraint.push(token).unwrap();
    }
    assert!(constraint.is_at_end(), "nothing can follow");
    let grammar = compile(&Pattern::Regex("a+".into())).unwrap();
    let mut constraint = grammar.begin();
    constraint.push(tokens_of(&SMALL, "a")[0]).unwrap();
    assert!(EOS_TOKENS.iter().all(|id| constraint.allowed().unwrap()[*id as usize]));
}

#[test]
fn a_token_that_is_not_allowed_is_an_error() {
    let mut constraint = compile(&Pattern::Regex("a+".into())).unwrap().begin();
    assert!(constraint.push(tokens_of(&SMALL, "b")[0]).is_err());
}

#[test]
fn unenforceable_keywords_are_rejected_with_a_reason() {
    for (pattern, words) in [
        (schema(json!({"type": "array", "uniqueItems": true})), "uniqueItems"),
        (schema(json!({"not": {"required": ["a"]}})), "not"),
        (schema(json!({"type": "strin"})), "strin"),
        (schema(json!({"type": "string", "pattern": "("})), "("),
        (schema(json!({"$ref": "#/$defs/none"})), "none"),
        (schema(json!({"$ref": "https://example.com/schema"})), "example.com"),
        (schema(json!({"type": "integer", "minimum": 3, "maximum": 1})), "minimum"),
        (schema(json!(false)), "allows nothing"),
        (schema(json!([])), "object or a boolean"),
        (Pattern::Regex("[".into()), "["),
        (Pattern::Lark("start: nothing".into()), "nothing"),
        (Pattern::Lark("root ::= \"a\"".into()), "expected token"),
        (Pattern::Choice(vec![]), "nothing to choose"),
    ] {
        match compile(&pattern) {
            Err(GrammarError::Invalid(what)) => {
                assert!(what.to_lowercase().contains(&words.to_lowercase()), "{pattern:?}: {what}");
                assert!(!what.contains("<state>") && !what.contains("backtrace"), "{what}");
            }
            other => panic!("{pattern:?}: {other:?}"),
        }
    }
    let overlooked = json!({"type": "array", "uniqueItems": true, "items": {"if": {"type": "null"}, "then": false}});
    assert!(compile(&Pattern::Json { schema: overlooked, exactly: false }).is_ok());
}

#[test]
fn compile_options_of_a_client_are_ignored() {
    let guidance = json!({"x-guidance": {"whitespace_pattern": "x*"}, "type": "null"});
    let grammar = compile(&schema(guidance)).unwrap();
    assert!(accepts(&SMALL, &grammar, "null") && !accepts(&SMALL, &grammar, "xnull"));
}

/// Checks that the first pattern is compiled and the second one is rejected as too large.
fn is_at_its_limit(at: &Pattern, past: &Pattern) {
    if let Err(error) = compile(at) {
        assert!(!matches!(error, GrammarError::TooLarge { .. }), "{error}");
    }
    let error = compile(past).unwrap_err();
    assert!(matches!(error, GrammarError::TooLarge { .. }), "{error}");
}

#[test]
fn a_schema_at_its_limits() {
    let deep = |levels: usize| (1..levels).fold(json!({}), |inner, _| json!({"items": inner}));
    assert!(compile(&schema(deep(SCHEMA_LEVELS))).is_ok());
    is_at_its_limit(&schema(deep(SCHEMA_LEVELS)), &schema(deep(SCHEMA_LEVELS + 1)));
    is_at_its_limit(
        &Pattern::All(vec![schema(deep(SCHEMA_LEVELS))]),
        &Pattern::All(vec![schema(deep(SCHEMA_LEVELS + 1))]),
    );
    let around = json!({"title": ""}).to_string().len();
    let long = |bytes: usize| schema(json!({"title": "x".repeat(bytes - around)}));
    assert!(compile(&long(SCHEMA_BYTES)).is_ok());
    is_at_its_limit(&long(SCHEMA_BYTES), &long(SCHEMA_BYTES + 1));
}

#[test]
fn a_grammar_at_its_limits() {
    let long = |bytes: usize| "a".repeat(bytes);
    let nested = |levels: usize| format!("{}a{}", "(".repeat(levels), ")".repeat(levels));
    for pattern in [Pattern::Regex, Pattern::Lark] {
        is_at_its_limit(&pattern(long(GRAMMAR_BYTES)), &pattern(long(GRAMMAR_BYTES + 1)));
        is_at_its_limit(&pattern(nested(GRAMMAR_LEVELS)), &pattern(nested(GRAMMAR_LEVELS + 1)));
    }
    assert!(compile(&Pattern::Regex(nested(GRAMMAR_LEVELS))).is_ok());
    let choices = |count: usize| Pattern::Choice((0..count).map(|n| n.to_string()).collect());
    assert!(compile(&choices(GRAMMAR_CHOICES)).is_ok());
    is_at_its_limit(&choices(GRAMMAR_CHOICES), &choices(GRAMMAR_CHOICES + 1));
    let choice = |bytes: usize| Pattern::Choice(vec![long(bytes)]);
    is_at_its_limit(&choice(GRAMMAR_BYTES), &choice(GRAMMAR_BYTES + 1));
}

#[test]
fn divisors_that_cannot_be_counted_are_refused() {
    let is_refused = |wanted: Value| match compile(&schema(wanted)) {
        Err(GrammarError::Invalid(what)) => what.contains("what can be enforced"),
        Err(error) => panic!("{error}"),
        Ok(_) => false,
    };
    let multiple = |n: Value| json!({"type": "number", "multipleOf": n});
    for n in [json!(0), json!(-3), json!(-0.5), json!(100_001), json!(1e16), json!(1.234_567)] {
        assert!(is_refused(multiple(n.clone())), "{n}");
    }
    for n in [json!(1), json!(1000.0), json!(0.25), json!(0.01), json!(1e-7), json!(86_400)] {
        assert!(!is_refused(multiple(n.clone())), "{n}");
    }
    // Each divisor alone, and both for the same number.
    let (one, other) = (multiple(json!(9973)), multiple(json!(9967)));
    assert!(!is_refused(json!({"type": "object", "properties": {"a": one, "b": other}})));
    assert!(is_refused(json!({"allOf": [one, other]})));
    assert!(!is_refused(json!({"allOf": [multiple(json!(0.5)), multiple(json!(15))]})));
    // Data is not interpreted as keywords.
    assert!(!is_refused(json!({"enum": [{"multipleOf": -1}]})));
}

/// The CPU time of this thread, which does not depend on the machine's load.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Compiles like [`compile`] and measures the time.
fn timed_compile(pattern: &Pattern) -> (Result<Grammar, GrammarError>, Duration) {
    let timed = on_large_stack(|| {
        let begin = cpu_time();
        Ok((Grammar::build(&SMALL, pattern), cpu_time() - begin))
    });
    timed.unwrap_or_else(|error| (Err(error), Duration::ZERO))
}

/// Small but expensive patterns are compiled or rejected quickly.
#[test]
fn hostile_grammars_take_bounded_time() {
    let any_of = |n: usize, tag: &str| {
        let option = |i: usize| json!({"type": "object", "properties": {format!("{tag}{i}"): {}}});
        json!({"anyOf": (0..n).map(option).collect::<Vec<_>>()})
    };
    let doubling: serde_json::Map<String, Value> = (0..60)
        .map(|n| {
            let next = json!({"$ref": format!("#/$defs/d{}", n + 1)});
            (format!("d{n}"), json!({"allOf": [next, next]}))
        })
        .chain([("d60".to_owned(), json!({"type": "object", "properties": {"x": {}}}))])
        .collect();
    let wide: serde_json::Map<String, Value> =
        (0..5000).map(|n| (format!("p{n}"), json!({"type": "string"}))).collect();
    let hostile = [
        schema(json!({"allOf": (0..12).map(|n| any_of(9, &format!("t{n}_"))).collect::<Vec<_>>()})),
        schema(json!({"$defs": doubling, "$ref": "#/$defs/d0"})),
        schema(json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
                      "$ref": "#/$defs/a"})),
        schema(json!({"type": "string", "minLength": 1_000_000_000})),
        schema(json!({"type": "string", "maxLength": 1_000_000_000})),
        schema(json!({"type": "array", "minItems": 1_000_000_000})),
        schema(json!({"type": "array", "maxItems": 1_000_000_000u64, "items": {"enum": [1, 2]}})),
        schema(json!({"type": "object", "minProperties": 1_000_000, "maxProperties": 2_000_000})),
        schema(json!({"type": "integer", "minimum": -1e300, "maximum": 1e300})),
        schema(json!({"type": "number", "multipleOf": 1e-300})),
        schema(json!({"type": "integer", "multipleOf": 999_999_937})),
        schema(json!({"type": "integer", "multipleOf": -103_302_571})),
        schema(json!({"type": "integer", "multipleOf": 99_991})),
        schema(json!({"type": "number", "multipleOf": 12_345.678_9})),
        schema(json!({"allOf": [{"type": "integer", "multipleOf": 9973}, {"multipleOf": 9967}]})),
        schema(json!({"type": "string", "pattern": "(a{1,1000}){1,1000}"})),
        schema(json!({"type": "string", "pattern": "(.*a){64}.{1000}"})),
        schema(json!({"type": "string", "pattern": "^(((((a?){9}){9}){9}){9}){9}$"})),
        schema(json!({"type": "object", "properties": wide.clone()})),
        schema(json!({"type": "object", "properties": wide.clone(), "maxProperties": 2500})),
        schema(
            json!({"type": "object", "patternProperties": (0..200).map(|n| (format!("^(a|b)*{n}.*$"), json!({}))).collect::<serde_json::Map<_, _>>()}),
        ),
        schema(json!({"enum": (0..20_000).map(|n| format!("value {n}")).collect::<Vec<_>>()})),
        schema(
            json!({"oneOf": (0..400).map(|n| json!({"type": "object", "properties": {"a": {"maximum": n}}})).collect::<Vec<_>>()}),
        ),
        Pattern::Regex("(?:a|b|ab){1000}{1000}".into()),
        Pattern::Regex(r"\p{L}{1,5000}\p{N}{1,5000}".into()),
        Pattern::Regex("(x+x+)+y".into()),
        Pattern::Lark("start: start start | \"a\" | \"\"".into()),
        Pattern::Lark(format!("start: {}", "\"a\" ".repeat(15_000))),
        Pattern::Lark("start: \"a\"{1000000000}".into()),
        Pattern::Lark("start: /a/~1000000".into()),
        Pattern::Lark("start: %json {\"type\": \"string\", \"minLength\": 100000000}".into()),
    ];
    for (n, pattern) in hostile.iter().enumerate() {
        let (compiled, took) = timed_compile(pattern);
        let mut times = Vec::new();
        let outcome = compiled.map(|grammar| {
            let mut constraint = grammar.begin();
            let mut random = Random(n as u64);
            for _ in 0..200 {
                let Some(allowed) = constraint.allowed() else { break };
                let from = random.below(allowed.len());
                let token = (from..allowed.len()).chain(0..from).find(|id| allowed[*id]).unwrap();
                let begin = cpu_time();
                let pushed = constraint.push(token as u32);
                times.push(cpu_time() - begin);
                if pushed.is_err() {
                    break;
                }
            }
        });
        let longest = times.iter().max().copied().unwrap_or_default();
        assert!(took < Duration::from_secs(10), "{n} took {took:?}");
        assert!(longest < Duration::from_secs(1), "{n}: a mask took {longest:?}");
        assert!(!matches!(outcome, Err(GrammarError::Internal(_))), "{n}: {outcome:?}");
    }
}

/// Any JSON, and JSON that resembles a schema.
fn schema_like() -> impl Strategy<Value = Value> {
    let words = [
        "type",
        "properties",
        "items",
        "anyOf",
        "allOf",
        "oneOf",
        "enum",
        "const",
        "$ref",
        "required",
        "additionalProperties",
        "minLength",
        "maxLength",
        "minimum",
        "maximum",
        "multipleOf",
        "pattern",
        "format",
        "prefixItems",
        "minItems",
        "maxItems",
        "patternProperties",
        "$defs",
        "minProperties",
        "maxProperties",
        "x-guidance",
        "not",
        "$schema",
        "$id",
        "a",
        "",
    ];
    let values = [
        "object",
        "array",
        "string",
        "integer",
        "number",
        "null",
        "#",
        "#/$defs/a",
        "#/properties/a",
        "date",
        "^a*$",
        "(",
        "\u{0}",
        "é",
        "http://json-schema.org/draft-07/schema#",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0..20i32).prop_map(Value::from),
        proptest::sample::select(values.to_vec()).prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 60, 6, move |inner| {
        let key = prop_oneof![
            8 => proptest::sample::select(words.to_vec()).prop_map(str::to_owned),
            1 => ".{0,4}",
        ];
        prop_oneof![
            1 => proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            4 => proptest::collection::vec((key, inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_schema_panics_or_hangs(value in schema_like(), exactly: bool, seed: u64) {
        let begin = cpu_time();
        let pattern = Pattern::Json { schema: value, exactly };
        let (compiled, took) = timed_compile(&pattern);
        match compiled {
            Ok(grammar) => {
                let mut times = Vec::new();
                walk(&SMALL, grammar.begin(), &mut Random(seed), (60, &mut times));
            }
            // A panic in llguidance is an error too; only the known ones may occur.
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
        prop_assert!(took + (cpu_time() - begin) < Duration::from_secs(10));
    }

    #[test]
    fn no_text_panics_or_hangs_as_a_grammar(text in "\\PC{0,40}|start: [a-z\"/()\\[\\]|*+? {}0-9~%@<>]{0,40}") {
        let _ = compile(&Pattern::Lark(text.clone()));
        let _ = compile(&Pattern::Regex(text));
    }
}

fn corpus() -> Vec<Value> {
    let text = include_str!("../../../../tests/schemas/corpus.jsonl");
    let line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["schema"].take();
    text.lines().map(line).collect()
}

/// Measures the time of a mask over a vocabulary of 151,936 tokens for the schemas of the corpus.
/// The answers are random, which reaches rarer states than sensible text.
#[test]
#[expect(clippy::print_stderr, reason = "the figures are for who runs it")]
fn a_mask_takes_microseconds() {
    let (mut times, mut compiling, mut ended) = (Vec::new(), Vec::new(), 0);
    let mut random = Random(1);
    // On a busy machine the time includes other programs, so the targets only apply on a quiet one.
    let is_measured = std::env::var_os("OMLX_MASK_TIMES").is_some();
    let begin = Instant::now();
    LazyLock::force(&LARGE);
    let vocabulary = begin.elapsed();
    for schema in corpus().into_iter().step_by(if is_measured { 1 } else { 6 }) {
        let begin = Instant::now();
        let grammar = Grammar::compile(&LARGE, &self::schema(schema)).unwrap();
        compiling.push(begin.elapsed());
        let tokens = walk(&LARGE, grammar.begin(), &mut random, (300, &mut times));
        if let Some(tokens) = tokens {
            let text = text_of(&LARGE, &tokens);
            serde_json::from_str::<Value>(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
            ended += 1;
        }
    }
    times.sort_unstable();
    compiling.sort_unstable();
    let at = |times: &[Duration], share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let (median, p99) = (at(&times, 0.5), at(&times, 0.99));
    eprintln!(
        "masks over 151,936 tokens: {} of {} schemas, {ended} ended; median {median:?}, p90 {:?}, \
         p99 {p99:?}, longest {:?}; compiling: median {:?}, longest {:?}; vocabulary {vocabulary:?}",
        times.len(),
        compiling.len(),
        at(&times, 0.9),
        at(&times, 1.0),
        at(&compiling, 0.5),
        at(&compiling, 1.0),
    );
    let (most, most_p99) = if is_measured {
        (Duration::from_micros(50), Duration::from_millis(1))
    } else {
        (Duration::from_millis(1), Duration::from_millis(200))
    };
    assert!(median <= most, "median {median:?}");
    assert!(p99 <= most_p99, "p99 {p99:?}");
}
