//! What was answered can be sent back, over HTTP: one template that is as strict as those of common models,
//! one that knows no tools.

use std::fs;

use omlx_tests::fixtures::Case;
use serde_json::{Value, json};

use crate::support::{Server, chunks};

const STRICT: &str = "test/strict";
const NO_TOOLS: &str = "test/no-tools";
const MESSAGES: &str = "/v1/messages";
const RESPONSES: &str = "/v1/responses";

fn server() -> Server {
    Server::with(|config| {
        for (name, template) in [
            (STRICT, include_str!("../../../tests/fixtures/templates/strict/iterating.jinja")),
            (NO_TOOLS, include_str!("../../../tests/fixtures/templates/strict/silent.jinja")),
        ] {
            let dir = config.base_dir.join("models").join(name);
            let case = Case::any().with_config(json!({"max_position_embeddings": 4096}));
            case.write(&dir).unwrap();
            let path = dir.join("tokenizer_config.json");
            let mut file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            file["chat_template"] = json!(template);
            fs::write(path, file.to_string()).unwrap();
        }
    })
}

#[test]
fn a_cut_call_is_no_dead_end_in_any_api() {
    let server = server();
    let user = json!({"role": "user", "content": "Look."});
    for arguments in ["{\"path\": \"/a", "null"] {
        let function = json!({"name": "look", "arguments": arguments});
        let call = json!({"id": "c", "type": "function", "function": function});
        let messages = json!([user, {"role": "assistant", "content": null, "tool_calls": [call]},
                              {"role": "tool", "tool_call_id": "c", "content": null}, user]);
        server.chat(json!({"model": STRICT, "messages": messages, "max_tokens": 1})).ok();
        let input = json!([user,
            {"type": "function_call", "call_id": "c", "name": "look", "arguments": arguments},
            {"type": "function_call_output", "call_id": "c", "output": null}]);
        let body = json!({"model": STRICT, "input": input, "max_output_tokens": 16});
        let answer = server.post(RESPONSES, &body).ok();
        let body = json!({"model": STRICT, "input": [user], "max_output_tokens": 16,
                          "previous_response_id": answer["id"]});
        server.post(RESPONSES, &body).ok();
        let blocks = json!([{"type": "tool_use", "id": "c", "name": "look", "input": arguments}]);
        let results = json!([{"type": "tool_result", "tool_use_id": "c"},
                             {"type": "text", "text": "Well?"}]);
        let messages = json!([user, {"role": "assistant", "content": blocks},
                              {"role": "user", "content": results}]);
        let body = json!({"model": STRICT, "messages": messages, "max_tokens": 1});
        server.post(MESSAGES, &body).ok();
    }
}

#[test]
fn efforts_that_a_template_does_not_take_are_the_nearest_that_it_takes() {
    let server = server();
    let user = json!([{"role": "user", "content": "Look."}]);
    for effort in ["none", "minimal", "high", "max"] {
        let fields = json!({"model": STRICT, "max_tokens": 1, "reasoning_effort": effort});
        server.chat(fields).ok();
        let fields = json!({"model": STRICT, "max_tokens": 1, "reasoning": {"effort": effort}});
        server.chat(fields).ok();
        let body = json!({"model": STRICT, "input": user, "max_output_tokens": 16,
                          "reasoning": {"effort": effort}});
        server.post(RESPONSES, &body).ok();
        for kind in ["adaptive", "enabled", "disabled"] {
            let body = json!({"model": STRICT, "messages": user, "max_tokens": 1,
                              "thinking": {"type": kind}, "output_config": {"effort": effort}});
            server.post(MESSAGES, &body).ok();
        }
    }
    // What names the template's own variable goes to it as it is.
    let kwargs = json!({"reasoning_effort": "high"});
    let fields = json!({"model": STRICT, "max_tokens": 1, "chat_template_kwargs": kwargs});
    server.chat(fields).is_error(400, Some("invalid_prompt"), Some("messages"));
}

#[test]
fn tools_that_a_template_does_not_show_are_told_of() {
    let server = server();
    let ignored = || server.metric("omlx_request_ignored_fields_total", &[]);
    let schema = json!({"type": "object", "properties": {}});
    let function = json!({"name": "look", "parameters": schema});
    let tools = json!([{"type": "function", "function": function}]);
    let fields = json!({"model": NO_TOOLS, "max_tokens": 1, "tools": tools});
    let usage = &server.chat(fields.clone()).ok()["usage"];
    assert_eq!(usage["omlx"]["unshown_tools"], 1, "{usage}");
    assert_eq!(ignored(), 1.0);
    let mut streamed = fields.clone();
    streamed["stream_options"] = json!({"include_usage": true});
    let chunks = chunks(&server.chat_stream(streamed));
    assert_eq!(chunks.last().unwrap()["usage"]["omlx"]["unshown_tools"], 1);
    let flat = json!([{"type": "function", "name": "look", "parameters": schema}]);
    let body = json!({"model": NO_TOOLS, "input": "Look.", "max_output_tokens": 16, "tools": flat});
    assert_eq!(server.post(RESPONSES, &body).ok()["usage"]["omlx"]["unshown_tools"], 1);
    let own = json!([{"name": "look", "input_schema": schema}]);
    let body = json!({"model": NO_TOOLS, "messages": [{"role": "user", "content": "Look."}],
                      "max_tokens": 1, "tools": own});
    assert_eq!(server.post(MESSAGES, &body).ok()["usage"]["omlx"]["unshown_tools"], 1);
    assert_eq!(ignored(), 4.0);
    let mut forced = fields;
    forced["tool_choice"] = json!("required");
    server.chat(forced).is_error(400, Some("unsupported_value"), Some("tool_choice"));
    let none = json!({"model": NO_TOOLS, "max_tokens": 1});
    assert!(server.chat(none).ok()["usage"]["omlx"].get("unshown_tools").is_none());
}

#[test]
fn half_of_a_surrogate_pair_is_read_as_no_character() {
    let server = server();
    let body = |text: &str| {
        format!(
            r#"{{"model":"{STRICT}","max_tokens":1,"messages":[{{"role":"user","content":"{text}"}}]}}"#
        )
    };
    let tokens = |text: &str| {
        let reply = server.reply("POST", "/v1/chat/completions", &body(text));
        reply.ok()["usage"]["prompt_tokens"].clone()
    };
    assert_eq!(tokens(r"cut \ud83d"), tokens("cut \u{fffd}"));
}
