//! Every row of the error table in docs/api.md: status, all four keys, headers.

use std::fs;

use omlx_tests::fixtures::Damage;
use omlx_tests::http;
use serde_json::{Value, json};

use crate::support::{KEY, LONG, SMALL, Server, chat_body};

type Row = (Value, u16, &'static str, &'static str);

fn user(content: Value) -> Value {
    json!([{"role": "user", "content": content}])
}

#[test]
fn chat_refusals_name_code_and_path() {
    let server = Server::start();
    let tool = |name: &str| json!({"type": "function", "function": {"name": name}});
    let image = json!([{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]);
    let rows: Vec<Row> = vec![
        (json!({"model": null}), 400, "missing_required_parameter", "model"),
        (json!({"messages": null}), 400, "missing_required_parameter", "messages"),
        (
            json!({"messages": [{"role": "user"}]}),
            400,
            "missing_required_parameter",
            "messages[0].content",
        ),
        (json!({"model": 3}), 400, "invalid_type", "model"),
        (json!({"messages": "hi"}), 400, "invalid_type", "messages"),
        (json!({"temperature": "hot"}), 400, "invalid_type", "temperature"),
        (json!({"stream": "yes"}), 400, "invalid_type", "stream"),
        (json!({"metadata": 1}), 400, "invalid_type", "metadata"),
        (json!({"seed": 1.5}), 400, "invalid_type", "seed"),
        (json!({"stop": [1]}), 400, "invalid_type", "stop[0]"),
        (
            json!({"messages": [{"role": "bot", "content": ""}]}),
            400,
            "invalid_value",
            "messages[0].role",
        ),
        (json!({"response_format": {"type": "xml"}}), 400, "invalid_value", "response_format.type"),
        (json!({"reasoning_effort": "huge"}), 400, "invalid_value", "reasoning_effort"),
        (
            json!({"tool_choice": "maybe", "tools": [tool("a")]}),
            400,
            "invalid_value",
            "tool_choice",
        ),
        (json!({"temperature": 3}), 400, "invalid_value", "temperature"),
        (json!({"top_p": -0.1}), 400, "invalid_value", "top_p"),
        (json!({"n": 0}), 400, "invalid_value", "n"),
        (json!({"n": 129}), 400, "invalid_value", "n"),
        (json!({"top_logprobs": 21, "logprobs": true}), 400, "invalid_value", "top_logprobs"),
        (json!({"top_logprobs": 2}), 400, "invalid_value", "top_logprobs"),
        (json!({"logit_bias": {"5": 101}}), 400, "invalid_value", "logit_bias.5"),
        (json!({"logit_bias": {"x": 1}}), 400, "invalid_value", "logit_bias"),
        (json!({"logit_bias": {"384": 1}}), 400, "invalid_value", "logit_bias"),
        (json!({"presence_penalty": 2.5}), 400, "invalid_value", "presence_penalty"),
        (json!({"min_p": 2}), 400, "invalid_value", "min_p"),
        (json!({"stop": ["a", "b", "c", "d", "e"]}), 400, "invalid_value", "stop"),
        (json!({"stop": ""}), 400, "invalid_value", "stop"),
        (
            json!({"stream_options": {"include_usage": true}}),
            400,
            "invalid_value",
            "stream_options",
        ),
        (json!({"cache_salt": "short"}), 400, "invalid_value", "cache_salt"),
        (json!({"n": 9}), 400, "unsupported_value", "n"),
        (json!({"audio": {"voice": "x"}}), 400, "unsupported_parameter", "audio"),
        (json!({"modalities": ["audio"]}), 400, "unsupported_value", "modalities"),
        (json!({"prediction": {"type": "content"}}), 400, "unsupported_parameter", "prediction"),
        (json!({"web_search_options": {}}), 400, "unsupported_parameter", "web_search_options"),
        (json!({"functions": [{"name": "f"}]}), 400, "unsupported_parameter", "functions"),
        (
            json!({"tool_choice": "required", "tools": [tool("a")]}),
            400,
            "unsupported_value",
            "tool_choice",
        ),
        (json!({"messages": []}), 400, "invalid_value", "messages"),
        (json!({"max_tokens": 0}), 400, "invalid_value", "max_tokens"),
        (json!({"max_completion_tokens": -1}), 400, "invalid_value", "max_completion_tokens"),
        (
            json!({"messages": user(json!("x ".repeat(300)))}),
            400,
            "context_length_exceeded",
            "messages",
        ),
        (json!({"tools": [tool("a"), tool("a")]}), 400, "invalid_value", "tools[1].function.name"),
        (
            json!({"tools": [{"type": "function"}]}),
            400,
            "missing_required_parameter",
            "tools[0].function",
        ),
        (json!({"tool_choice": "auto"}), 400, "invalid_value", "tool_choice"),
        (
            json!({"messages": [{"role": "tool", "tool_call_id": "x", "content": ""}]}),
            400,
            "invalid_value",
            "messages[0].tool_call_id",
        ),
        (json!({"messages": user(image)}), 400, "unsupported_value", "messages[0].content[0].type"),
        (json!({"model": "no/such"}), 404, "model_not_found", "model"),
    ];
    for (fields, status, code, param) in rows {
        for stream in [false, true] {
            let mut fields = fields.clone();
            if stream && fields.get("stream").is_none() && fields.get("stream_options").is_none() {
                fields["stream"] = json!(true);
            }
            server.chat(fields).is_error(status, Some(code), Some(param));
        }
    }
    server.chat(json!({"max_tokens": 2})).ok();
}

#[test]
fn completion_refusals_name_code_and_path() {
    let server = Server::start();
    let rows: Vec<Row> = vec![
        (json!({"prompt": null}), 400, "missing_required_parameter", "prompt"),
        (json!({"prompt": [[1, "x"]]}), 400, "invalid_type", "prompt[0][1]"),
        (json!({"prompt": [384]}), 400, "invalid_value", "prompt"),
        (json!({"prompt": [vec![9; 256]]}), 400, "context_length_exceeded", "prompt"),
        (json!({"prompt": [[]]}), 400, "invalid_value", "prompt"),
        (json!({"logprobs": 6}), 400, "invalid_value", "logprobs"),
        (json!({"suffix": "x"}), 400, "unsupported_parameter", "suffix"),
        (json!({"best_of": 3}), 400, "unsupported_value", "best_of"),
        (json!({"model": "no/such"}), 404, "model_not_found", "model"),
    ];
    for (fields, status, code, param) in rows {
        server.complete(fields).is_error(status, Some(code), Some(param));
    }
}

#[test]
fn what_is_no_json_object_is_refused_with_its_place() {
    let server = Server::start();
    let send = |body: &str| server_post(&server, body.as_bytes());
    let nested = format!("{{\"a\":{}", "[".repeat(10_000));
    for (body, place) in [
        ("{", "at byte 0"),
        ("{\"model\":1,\"model\":2}", "duplicate key \"model\" at byte 17"),
        ("{\"model\":NaN}", "at byte 9"),
        ("{} {}", "trailing characters at byte 3"),
        (nested.as_str(), "recursion limit exceeded"),
    ] {
        let message = send(body).is_error(400, None, None);
        assert!(message.contains(place), "{message}");
    }
    let message = server_post(&server, b"{\"a\":\"\xff\"}").is_error(400, None, None);
    assert!(message.contains("invalid UTF-8 at byte 6"), "{message}");
    send("[]").is_error(400, Some("invalid_type"), None);
    send("\"x\"").is_error(400, Some("invalid_type"), None);
}

fn server_post(server: &Server, body: &[u8]) -> crate::support::Reply {
    let headers = [("x-api-key", KEY)];
    let path = "/v1/chat/completions";
    let response = http::request(server.address, "POST", path, &headers, body);
    crate::support::Reply::read(response.unwrap())
}

#[test]
fn context_errors_keep_every_signal_that_agents_look_for() {
    let server = Server::start();
    let fields = json!({"messages": user(json!("x ".repeat(300)))});
    let reply = server.chat(fields);
    let message = reply.is_error(400, Some("context_length_exceeded"), Some("messages"));
    let error = reply.json()["error"].clone();
    let tokens = error["n_prompt_tokens"].as_u64().unwrap();
    assert!(tokens > 256);
    assert_eq!(error["n_ctx"], 256);
    assert!(message.contains("maximum context length is 256 tokens"), "{message}");
    assert!(message.contains(&format!("your messages resulted in {tokens} tokens")), "{message}");
}

#[test]
fn an_answer_is_cut_at_the_end_of_the_context_unless_strict() {
    let fields = json!({"max_tokens": 32_000, "ignore_eos": true});
    let answer = Server::start().chat(fields.clone()).ok();
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["total_tokens"], 256);
    let strict = Server::with(|config| config.server.strict = true);
    strict.chat(fields).is_error(400, Some("context_length_exceeded"), Some("messages"));
}

#[test]
fn unknown_fields_are_ignored_counted_and_refused_when_strict() {
    let fields = json!({"max_tokens": 1, "vendor_field": {"a": 1}, "extra": null});
    let server = Server::start();
    server.chat(fields.clone()).ok();
    let ignored = "omlx_request_ignored_fields_total";
    assert_eq!(server.metric(ignored, &["chat.completions"]), 1.0);
    let strict = Server::with(|config| config.server.strict = true);
    strict.chat(fields).is_error(400, Some("unknown_parameter"), Some("vendor_field"));
    strict.chat(json!({"tools": [{"type": "web_search"}]})).is_error(
        400,
        Some("unknown_parameter"),
        Some("tools[0]"),
    );
}

/// Clients send a body after its head, and use a connection again that nobody said would close.
#[test]
fn a_refusal_that_leaves_the_body_unread_says_that_the_connection_closes() {
    let server = Server::start();
    for (what, status) in [("POST /v1/messages", 401), ("POST /v1/nothing", 404)] {
        let head = format!("{what} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n");
        let reply = server.raw(head.as_bytes());
        assert_eq!((reply.status, reply.header("connection")), (status, Some("close")), "{what}");
    }
}

#[test]
fn keys_are_asked_for_before_anything_else() {
    let server = Server::start();
    let body = chat_body(json!({"max_tokens": 1})).to_string();
    let send = |headers: &[(&str, &str)]| {
        let path = "/v1/chat/completions";
        let response = http::request(server.address, "POST", path, headers, body.as_bytes());
        crate::support::Reply::read(response.unwrap())
    };
    let missing = send(&[]);
    missing.is_error(401, None, None);
    assert_eq!(missing.header("www-authenticate"), Some("Bearer realm=\"omlxd\""));
    let wrong = send(&[("authorization", "Bearer sk-omlx-not-the-key-abcd")]);
    let message = wrong.is_error(401, Some("invalid_api_key"), None);
    assert!(message.contains("abcd") && !message.contains("the-key"), "{message}");
    assert_eq!(
        wrong.header("www-authenticate"),
        Some("Bearer realm=\"omlxd\", error=\"invalid_token\"")
    );
    send(&[("x-api-key", KEY)]).ok();
    send(&[("authorization", &format!("Bearer {KEY}"))]).ok();
    for path in ["/v1/models", "/v1/models/x", "/version"] {
        let response = http::request(server.address, "GET", path, &[], b"").unwrap();
        assert_eq!(response.status, 401, "{path}");
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        let response = http::request(server.address, "GET", path, &[], b"").unwrap();
        assert_eq!(response.status, 200, "{path}");
    }
    assert_eq!(server.metric("omlx_auth_failures_total", &["missing"]), 4.0);
    assert_eq!(server.metric("omlx_auth_failures_total", &["invalid"]), 1.0);
}

#[test]
fn a_rotated_key_is_refused_at_once() {
    let server = Server::start();
    server.get("/v1/models").ok();
    fs::write(server.base().join("api-key"), "another-key\n").unwrap();
    server.app.keys.reload().unwrap();
    server.get("/v1/models").is_error(401, Some("invalid_api_key"), None);
}

#[test]
fn unknown_urls_and_methods() {
    let server = Server::start();
    for path in ["/", "/v1", "/v1/files", "/admin/v1/status", "/v1/chat/completions/"] {
        let message = server.post(path, &json!({})).is_error(404, Some("unknown_url"), None);
        assert_eq!(message, format!("Invalid URL (POST {path})"));
    }
    let reply = server.get("/v1/chat/completions");
    reply.is_error(405, Some("method_not_allowed"), None);
    assert_eq!(reply.header("allow"), Some("POST"));
    let reply = server.post("/v1/models", &json!({}));
    reply.is_error(405, Some("method_not_allowed"), None);
    assert_eq!(reply.header("allow"), Some("GET, HEAD"));
}

#[test]
fn foreign_hosts_and_origins_are_refused_and_listed_ones_served() {
    let server =
        Server::with(|config| config.server.cors_origins = vec!["https://ok.example".into()]);
    let send = |method: &str, headers: &str| {
        let request =
            format!("{method} /v1/models HTTP/1.1\r\nconnection: close\r\nx-api-key: {KEY}\r\n");
        server.raw(format!("{request}{headers}\r\n").as_bytes())
    };
    let code = Some("insufficient_permissions");
    send("GET", "host: evil.example\r\n").is_error(403, code, None);
    send("GET", "host: localhost\r\norigin: https://evil.example\r\n").is_error(403, code, None);
    let listed = send("GET", "host: localhost\r\norigin: https://ok.example\r\n");
    assert_eq!(listed.status, 200);
    assert_eq!(listed.header("access-control-allow-origin"), Some("https://ok.example"));
    let preflight = send("OPTIONS", "host: localhost\r\norigin: https://ok.example\r\n");
    assert_eq!(preflight.status, 204);
    assert!(preflight.header("access-control-allow-headers").unwrap().contains("authorization"));
    send("OPTIONS", "host: localhost\r\n").is_error(405, Some("method_not_allowed"), None);
    assert_eq!(server.metric("omlx_auth_failures_total", &["forbidden"]), 2.0);
}

#[test]
fn near_names_are_told() {
    let server = Server::start();
    let fields = json!({"model": "test/smal"});
    let message = server.chat(fields).is_error(404, Some("model_not_found"), Some("model"));
    assert!(message.contains(SMALL), "{message}");
}

#[test]
fn templates_that_refuse_loop_or_are_absent() {
    let server = Server::start();
    let with_template = |name: &str, template: Value| {
        let dir = server.models().join(name);
        omlx_tests::fixtures::Case::any().write(&dir).unwrap();
        let path = dir.join("tokenizer_config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["chat_template"] = template;
        fs::write(&path, config.to_string()).unwrap();
    };
    let raises = "{{ raise_exception('roles must alternate') }}";
    let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}x\
                 {% endfor %}{% endfor %}{% endfor %}";
    with_template("raises", json!(raises));
    with_template("loops", json!(loops));
    with_template("base", Value::Null);
    for (model, words) in
        [("raises", "roles must alternate"), ("loops", "loop"), ("base", "no chat template")]
    {
        let fields = json!({"model": model});
        let message = server.chat(fields).is_error(400, Some("invalid_prompt"), Some("messages"));
        assert!(message.contains(words), "{message}");
        server.complete(json!({"model": model, "max_tokens": 1})).ok();
    }
}

#[test]
fn system_messages_that_a_template_refuses_or_drops_are_folded_in() {
    let server = Server::start();
    let with_template = |name: &str, template: &str| {
        let dir = server.models().join(name);
        omlx_tests::fixtures::Case::any().write(&dir).unwrap();
        let path = dir.join("tokenizer_config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["chat_template"] = json!(template);
        fs::write(&path, config.to_string()).unwrap();
    };
    let refuses = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}\
                   {% endif %}{{ m.content }}|{% endfor %}";
    let drops = "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}|{% endif %}\
                 {% endfor %}";
    with_template("refuses", refuses);
    with_template("drops", drops);
    let messages = json!([
        {"role": "system", "content": "one"},
        {"role": "user", "content": "two"},
        {"role": "developer", "content": "three"},
        {"role": "user", "content": "four"},
    ]);
    for model in ["refuses", "drops"] {
        let fields = json!({"model": model, "messages": messages, "max_tokens": 1});
        let folded = server.chat(fields).ok()["usage"]["prompt_tokens"].as_u64();
        let plain = json!([{"role": "user", "content": "one\n\ntwo\n\nthree\n\nfour"}]);
        let fields = json!({"model": model, "messages": plain, "max_tokens": 1});
        assert_eq!(server.chat(fields).ok()["usage"]["prompt_tokens"].as_u64(), folded);
    }
}

#[test]
fn a_model_that_cannot_be_loaded_is_named_and_the_next_request_works() {
    let server = Server::start();
    Damage::NoTokenizer.write(&server.models().join("broken")).unwrap();
    for _ in 0..2 {
        let reply = server.chat(json!({"model": "broken"}));
        let message = reply.is_error(503, Some("model_load_failed"), Some("model"));
        assert!(message.contains("tokenizer.json"), "{message}");
        assert_eq!(reply.header("x-should-retry"), Some("false"));
    }
    assert_eq!(server.metric("omlx_model_state", &["\"broken\"", "\"failed\""]), 1.0);
    server.chat(json!({"max_tokens": 1})).ok();
}

#[test]
fn weights_that_compute_nan_fail_the_request_only() {
    let server = Server::start();
    Damage::NanWeights.write(&server.models().join("nan")).unwrap();
    let reply = server.chat(json!({"model": "nan"}));
    // Found while loading or while generating, but told.
    assert!(matches!(reply.status, 500 | 503), "{}", reply.text);
    assert!(reply.json()["error"]["message"].as_str().unwrap().contains("NaN"), "{}", reply.text);
    server.chat(json!({"model": LONG, "max_tokens": 1})).ok();
}
