//! The shape and meaning of answers.

use omlx_tests::http;
use serde_json::{Value, json};

use crate::support::{KEY, LONG, SMALL, Server, chunks};

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn a_chat_answer_has_every_key_that_clients_need() {
    let server = Server::start();
    let answer =
        server.chat(json!({"max_tokens": 5, "ignore_eos": true, "service_tier": "auto"})).ok();
    let expected = [
        "id",
        "object",
        "created",
        "model",
        "system_fingerprint",
        "service_tier",
        "choices",
        "usage",
    ];
    assert_eq!(keys(&answer), expected);
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(answer["object"], "chat.completion");
    assert!(answer["created"].as_u64().unwrap() > 1_600_000_000);
    assert_eq!(answer["model"], SMALL);
    assert!(answer["system_fingerprint"].as_str().unwrap().starts_with("fp_"));
    assert_eq!(answer["service_tier"], "default");
    let choice = &answer["choices"][0];
    assert_eq!(keys(choice), ["index", "message", "logprobs", "finish_reason"]);
    assert_eq!(keys(&choice["message"]), ["role", "content", "refusal"]);
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["message"]["refusal"], Value::Null);
    assert_eq!(choice["logprobs"], Value::Null);
    assert_eq!(choice["finish_reason"], "length");
    let usage = &answer["usage"];
    assert_eq!(usage["completion_tokens"], 5);
    let total = usage["prompt_tokens"].as_u64().unwrap() + 5;
    assert_eq!(usage["total_tokens"], total);
    let details = json!({"cached_tokens": 0, "cache_write_tokens": 0,
                         "text_tokens": usage["prompt_tokens"]});
    assert_eq!(usage["prompt_tokens_details"], details);
    let omlx = json!({"cached_tokens_ram": 0, "cached_tokens_ssd": 0, "restore_ms": 0});
    assert_eq!(usage["omlx"], omlx);
}

#[test]
fn a_text_answer_has_every_key_that_clients_need() {
    let server = Server::start();
    let answer = server.complete(json!({"ignore_eos": true})).ok();
    let expected = ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"];
    assert_eq!(keys(&answer), expected);
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(answer["object"], "text_completion");
    let choice = &answer["choices"][0];
    assert_eq!(keys(choice), ["text", "index", "logprobs", "finish_reason"]);
    // The API's default for max_tokens.
    assert_eq!(answer["usage"]["completion_tokens"], 16);
    let ids = server.complete(json!({"prompt": [1, 20, 30]})).ok();
    assert_eq!(ids["usage"]["prompt_tokens"], 3);
}

#[test]
fn several_prompts_and_choices_are_numbered_prompt_by_prompt() {
    let server = Server::start();
    let fields = json!({"prompt": ["one", "two"], "n": 2, "max_tokens": 3, "echo": true, "ignore_eos": true});
    let answer = server.complete(fields).ok();
    let choices = answer["choices"].as_array().unwrap();
    let texts: Vec<&str> = choices.iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!(
        choices.iter().map(|c| c["index"].as_u64().unwrap()).collect::<Vec<_>>(),
        [0, 1, 2, 3]
    );
    assert!(texts[0].starts_with("one") && texts[1].starts_with("one"), "{texts:?}");
    assert!(texts[2].starts_with("two") && texts[3].starts_with("two"), "{texts:?}");
    assert_eq!(answer["usage"]["completion_tokens"], 12);
    let one = server.complete(json!({"prompt": ["one", "two"], "max_tokens": 1})).ok();
    assert_eq!(answer["usage"]["prompt_tokens"], one["usage"]["prompt_tokens"]);
    // Ids are echoed as the text that they stand for.
    let again = server.complete(json!({"prompt": [[40, 41]], "echo": true, "max_tokens": 1})).ok();
    assert!(!again["choices"][0]["text"].as_str().unwrap().is_empty());
}

#[test]
fn a_seed_decides_and_n_does_not_change_the_first_choice() {
    let server = Server::start();
    let fields = |seed: i64, n: u32| json!({"temperature": 1, "seed": seed, "n": n, "max_tokens": 12, "ignore_eos": true});
    let texts = |seed, n| -> Vec<String> {
        let answer = server.chat(fields(seed, n)).ok();
        let choices = answer["choices"].as_array().unwrap().clone();
        choices.iter().map(|c| c["message"]["content"].as_str().unwrap().to_owned()).collect()
    };
    let one = texts(7, 1);
    let three = texts(7, 3);
    assert_eq!(one[0], three[0]);
    assert_eq!(three, texts(7, 3));
    assert!(three[1] != three[0] && three[2] != three[1], "{three:?}");
    assert_ne!(texts(-8, 1), one);
}

#[test]
fn a_stop_string_never_appears() {
    let server = Server::start();
    let fields = json!({"max_tokens": 40, "ignore_eos": true});
    let text = server.chat(fields.clone()).ok()["choices"][0]["message"]["content"].clone();
    let text = text.as_str().unwrap();
    let stop: String = text.chars().skip(6).take(3).collect();
    let expected = &text[..text.find(&stop).unwrap()];
    let mut fields = fields;
    fields["stop"] = json!([stop, "never there"]);
    let answer = server.chat(fields.clone()).ok();
    assert_eq!(answer["choices"][0]["message"]["content"], expected);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let streamed = chunks(&server.chat_stream(fields));
    let text: String =
        streamed.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, expected);
}

#[test]
fn chat_logprobs_are_complete_and_sorted() {
    let server = Server::uncached();
    let fields = json!({"logprobs": true, "top_logprobs": 3, "max_tokens": 6, "ignore_eos": true});
    let answer = server.chat(fields.clone()).ok();
    let logprobs = &answer["choices"][0]["logprobs"];
    assert_eq!(keys(logprobs), ["content", "refusal"]);
    let entries = logprobs["content"].as_array().unwrap();
    assert_eq!(entries.len(), 6);
    for entry in entries {
        assert_eq!(keys(entry), ["token", "logprob", "bytes", "top_logprobs"]);
        assert!(entry["logprob"].as_f64().unwrap() <= 0.0);
        let top = entry["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        assert!(top.windows(2).all(|w| w[0]["logprob"].as_f64() >= w[1]["logprob"].as_f64()));
        // Greedy: the chosen token is the likeliest.
        assert_eq!(top[0]["bytes"], entry["bytes"]);
        assert_eq!(keys(&top[0]), ["token", "logprob", "bytes"]);
    }
    let streamed = chunks(&server.chat_stream(fields));
    let told: Vec<Value> = streamed
        .iter()
        .flat_map(|c| {
            c["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default()
        })
        .collect();
    assert_eq!(&told, entries);
}

#[test]
fn text_logprobs_are_four_lists_of_one_length() {
    let server = Server::start();
    let answer = server.complete(json!({"logprobs": 2, "max_tokens": 5, "ignore_eos": true})).ok();
    let logprobs = &answer["choices"][0]["logprobs"];
    let expected = ["tokens", "token_logprobs", "top_logprobs", "text_offset"];
    assert_eq!(keys(logprobs), expected);
    for list in expected {
        assert_eq!(logprobs[list].as_array().unwrap().len(), 5, "{list}");
    }
    assert_eq!(logprobs["text_offset"][0], 0);
    assert_eq!(logprobs["top_logprobs"][0].as_object().unwrap().len(), 2);
    let none = server.complete(json!({"logprobs": 0, "max_tokens": 2, "ignore_eos": true})).ok();
    assert_eq!(none["choices"][0]["logprobs"]["top_logprobs"][0], json!({}));
}

#[test]
fn logit_bias_and_penalties_reach_the_sampler() {
    let server = Server::start();
    let biased =
        json!({"logit_bias": {"50": 100}, "max_tokens": 4, "ignore_eos": true, "logprobs": true});
    let answer = server.chat(biased).ok();
    let entries = answer["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    assert!(entries.iter().all(|entry| entry["bytes"] == entries[0]["bytes"]));
    let penalised = json!({"logit_bias": {"50": 100}, "repetition_penalty": 100,
                           "frequency_penalty": 2, "max_tokens": 8, "ignore_eos": true,
                           "logprobs": true});
    let answer = server.chat(penalised).ok();
    let entries = answer["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    assert!(entries.iter().any(|entry| entry["bytes"] != entries[0]["bytes"]));
}

#[test]
fn what_does_not_reach_the_model_does_not_change_the_prompt() {
    let server = Server::uncached();
    let tokens = |content: Value, extra: Value| {
        let mut message = json!({"role": "user", "content": content});
        message.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let fields = json!({"messages": [message], "max_tokens": 8, "ignore_eos": true,
                            "metadata": {"a": "b"}, "user": "u", "store": true, "n": null});
        let answer = server.chat(fields).ok();
        (answer["usage"].clone(), answer["choices"].clone())
    };
    let marked = json!([{"type": "text", "text": "hi ", "cache_control": {"type": "ephemeral"}},
                        {"type": "text", "text": "you"}]);
    let plain = tokens(json!("hi you"), json!({}));
    assert_eq!(tokens(marked, json!({"id": "m1", "cache_control": {}})), plain);
}

#[test]
fn models_are_listed_and_found_by_either_spelling() {
    let server = Server::start();
    let list = server.get("/v1/models").ok();
    assert_eq!(list["object"], "list");
    let models = list["data"].as_array().unwrap();
    let ids: Vec<&str> = models.iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert!(ids.contains(&SMALL) && ids.contains(&LONG), "{ids:?}");
    for model in models {
        assert_eq!(model["object"], "model");
        assert!(model["created"].is_u64());
        assert!(model["owned_by"].is_string());
    }
    for path in ["/v1/models/test/small", "/v1/models/test%2Fsmall"] {
        assert_eq!(server.get(path).ok()["id"], SMALL);
    }
    server.get("/v1/models/test/none").is_error(404, Some("model_not_found"), Some("model"));
    server.chat(json!({"max_tokens": 1})).ok();
    assert_eq!(server.get("/v1/models/test/small").ok()["max_model_len"], 256);
}

#[test]
fn probes_answer_without_a_key_and_name_no_model() {
    let server = Server::start();
    let get = |path: &str| {
        let response = http::request(server.address, "GET", path, &[], b"").unwrap();
        (response.status, response.text().unwrap())
    };
    assert_eq!(get("/healthz"), (200, "{\"status\":\"ok\"}".to_owned()));
    server.chat(json!({"max_tokens": 1})).ok();
    let (status, text) = get("/readyz");
    assert_eq!(status, 200);
    assert!(text.contains("\"ready\":1") && !text.contains("test"), "{text}");
    assert_eq!(server.get("/version").ok()["version"], "0.0.0-test");
    let head = format!("HEAD /v1/models HTTP/1.1\r\nhost: localhost\r\nx-api-key: {KEY}\r\n");
    let request = format!("{head}connection: close\r\n\r\n");
    let mut stream = server.connect();
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("\r\n\r\n"), "{text}");
}
