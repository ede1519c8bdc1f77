//! Hostile tokenizers, texts that no context holds, and what a token is to everything that looks at one.

use std::fs;

use omlx_tests::fixtures::Case;
use serde_json::{Value, json};

use crate::support::{Server, completion_body};

/// A model whose tokenizer.json has some of its fields replaced.
fn model(server: &Server, name: &str, fields: &Value) {
    let dir = server.models().join(name);
    Case::any().write(&dir).unwrap();
    let path = dir.join("tokenizer.json");
    let mut file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (field, value) in fields.as_object().unwrap() {
        file[field] = value.clone();
    }
    fs::write(&path, file.to_string()).unwrap();
}

fn replaces(list: &str) -> Value {
    let twice = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
    json!({"type": "Sequence", list: vec![twice; 34]})
}

#[test]
fn a_text_far_beyond_the_context_is_refused_whatever_its_shape() {
    let server = Server::start();
    for unit in ["1 ", "x", " ", "\n", "\u{4f60}", "\u{1f600}", "<|im_end|>", "a\u{301}"] {
        let text = format!("a{}b", unit.repeat((20 << 20) / unit.len()));
        let reply = server.chat(json!({"messages": [{"role": "user", "content": text}]}));
        let message = reply.is_error(400, Some("context_length_exceeded"), Some("messages"));
        assert!(message.contains("tokens or more"), "{unit}: {message}");
        let tokens = reply.json()["error"]["n_prompt_tokens"].as_u64();
        assert!(tokens.is_some_and(|tokens| tokens > 1000), "{unit}: {}", reply.text);
        server.complete(json!({ "prompt": text })).is_error(
            400,
            Some("context_length_exceeded"),
            Some("prompt"),
        );
    }
    server.chat(json!({"max_tokens": 1})).ok();
}

#[test]
fn a_tokenizer_that_expands_or_panics_is_named_and_costs_nobody_else_anything() {
    let server = Server::start();
    let precompiled = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"});
    for (name, fields, why) in [
        ("normalizer", json!({"normalizer": replaces("normalizers")}), "growth of a text"),
        ("decoder", json!({"decoder": replaces("decoders")}), "growth of a token"),
        ("panics", json!({ "normalizer": precompiled }), "library panicked"),
        ("object", json!({"decoder": 7}), "decoder"),
    ] {
        model(&server, name, &fields);
        let reply = server.chat(json!({"model": name}));
        let message = reply.is_error(503, Some("model_load_failed"), Some("model"));
        assert!(message.contains("tokenizer.json"), "{message}");
        assert!(message.contains(why), "{message}");
    }
    server.chat(json!({"max_tokens": 1})).ok();
}

#[test]
fn a_pattern_that_gives_up_refuses_its_text_only() {
    let server = Server::start();
    let pattern = json!({"Regex": r"(\s|\s\s)+\S"});
    let split =
        json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false});
    let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let steps = json!({"type": "Sequence", "pretokenizers": [split, level]});
    model(&server, "pattern", &json!({ "pre_tokenizer": steps }));
    let say =
        |text: &str| server.complete(json!({"model": "pattern", "prompt": text, "max_tokens": 1}));
    say("a b c").ok();
    let message = say(&" ".repeat(60)).is_error(400, Some("invalid_value"), Some("prompt"));
    assert!(message.contains("retry-limit"), "{message}");
    say("a b c").ok();
}

/// The id of the first of [`RUNS`].
const FIRST_RUN: u32 = 292;
const RUNS: [usize; 5] = [2, 3, 4, 5, 6];

/// As Gemma's: bytes, letters, and runs of spaces that are added tokens written with U+2581.
fn with_runs_of_spaces(server: &Server) {
    let special = [
        "<|endoftext|>",
        "<|begin_of_text|>",
        "<|im_start|>",
        "<|im_end|>",
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
    ];
    let pieces = special.iter().map(|piece| (*piece).to_owned());
    let pieces = pieces.chain((0..256).map(|byte| format!("<0x{byte:02X}>")));
    let pieces = pieces
        .chain(('a'..='z').map(String::from))
        .chain(["\u{2581}", "\u{2581}a"].map(String::from));
    let vocab: serde_json::Map<String, Value> = pieces.zip((0..).map(Value::from)).collect();
    let run = |length: usize| {
        json!({"id": 0, "content": "\u{2581}".repeat(length), "special": false, "lstrip": false,
               "rstrip": false, "normalized": false, "single_word": false})
    };
    let runs: Vec<Value> = RUNS.iter().map(|length| run(*length)).collect();
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let decoders = json!([replace("\u{2581}", " "), {"type": "ByteFallback"}, {"type": "Fuse"}]);
    let model_fields = json!({"type": "BPE", "vocab": vocab, "merges": [["\u{2581}", "a"]], "unk_token": "<0x00>",
                              "dropout": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                              "fuse_unk": true, "byte_fallback": true, "ignore_merges": false});
    model(
        server,
        "runs",
        &json!({
            "normalizer": replace(" ", "\u{2581}"), "pre_tokenizer": null, "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": decoders}, "added_tokens": runs, "model": model_fields,
        }),
    );
}

#[test]
fn a_token_is_to_grammars_and_stop_strings_and_log_probabilities_what_it_adds() {
    let server = Server::start();
    with_runs_of_spaces(&server);
    let bias: Value = (0..RUNS.len() as u32)
        .map(|run| ((FIRST_RUN + run).to_string(), json!(100)))
        .collect::<serde_json::Map<String, Value>>()
        .into();
    let ask = |fields: &Value| {
        let mut body = completion_body(
            json!({"model": "runs", "prompt": "ab", "logit_bias": bias, "max_tokens": 8}),
        );
        for (name, value) in fields.as_object().unwrap() {
            body[name] = value.clone();
        }
        server.post("/v1/completions", &body).ok()["choices"][0].clone()
    };
    // Nothing but spaces is what it wants to say.
    let free = ask(&json!({"logprobs": 1, "ignore_eos": true}));
    let text = free["text"].as_str().unwrap();
    assert!(text.len() >= 16 && text.bytes().all(|byte| byte == b' '), "{text:?}");
    let tokens = free["logprobs"]["tokens"].as_array().unwrap();
    assert_eq!(tokens.iter().filter_map(Value::as_str).collect::<String>(), text);

    let held = ask(&json!({"structured_outputs": {"regex": "[^ ]{6}"}, "max_tokens": 40}));
    let text = held["text"].as_str().unwrap();
    assert!(text.chars().count() == 6 && !text.contains(' '), "{held}");
    let spaces = ask(&json!({"structured_outputs": {"regex": " {7}"}, "max_tokens": 40}));
    assert_eq!(spaces["text"], " ".repeat(7), "{spaces}");
    let stopped = ask(&json!({"stop": ["  "], "ignore_eos": true}));
    assert_eq!((&stopped["text"], &stopped["finish_reason"]), (&json!(""), &json!("stop")));
}
