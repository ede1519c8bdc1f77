//! `/v1/messages`, Anthropic's API.

use omlx_tests::http;
use serde_json::{Value, json};

use crate::support::{KEY, LONG, Reply, SCRIPT, SMALL, Server, tools, typed_events};

fn body(messages: Value) -> Value {
    let tool = |(name, schema): (&str, Value)| json!({"name": name, "input_schema": schema});
    json!({"model": SCRIPT, "max_tokens": 100, "messages": messages, "tools": tools().map(tool),
           "temperature": 0, "thinking": {"type": "enabled", "budget_tokens": 1024}})
}

fn question() -> Value {
    json!([{"role": "user", "content": "What is up there?"}])
}

/// The message that the events of a stream build, as Anthropic's own client builds it.
fn built(events: &[Value]) -> Value {
    let mut message = Value::Null;
    let mut arguments = String::new();
    for event in events {
        let index = event["index"].as_u64().unwrap_or_default() as usize;
        match event["type"].as_str().unwrap() {
            "message_start" => message = event["message"].clone(),
            "content_block_start" => {
                assert_eq!(message["content"].as_array().unwrap().len(), index);
                message["content"].as_array_mut().unwrap().push(event["content_block"].clone());
                arguments.clear();
            }
            "content_block_delta" => {
                let (delta, block) = (&event["delta"], &mut message["content"][index]);
                for field in ["text", "thinking", "signature"] {
                    if let Some(more) = delta[field].as_str() {
                        block[field] = json!(block[field].as_str().unwrap().to_owned() + more);
                    }
                }
                arguments += delta["partial_json"].as_str().unwrap_or_default();
            }
            "content_block_stop" => {
                if message["content"][index]["type"] == "tool_use" {
                    message["content"][index]["input"] = serde_json::from_str(&arguments).unwrap();
                }
            }
            "message_delta" => {
                for (name, value) in event["delta"].as_object().unwrap() {
                    message[name] = value.clone();
                }
                message["usage"] = event["usage"].clone();
            }
            "message_stop" | "ping" => {}
            other => panic!("{other}"),
        }
    }
    message
}

#[test]
fn a_stream_builds_what_the_document_says() {
    let server = Server::scripted();
    let whole = server.post("/v1/messages?beta=true", &body(question())).ok();
    let events = server.typed_stream("/v1/messages?beta=true", &body(question()));
    let mut order: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    order.dedup();
    let block = ["content_block_start", "content_block_delta", "content_block_stop"];
    let mut expected = vec!["message_start", "ping"];
    expected.extend(block.repeat(4));
    expected.extend(["message_delta", "message_stop"]);
    assert_eq!(order, expected);

    let message = built(&events);
    let content = message["content"].as_array().unwrap();
    assert_eq!(content[0]["thinking"], "I should look.");
    assert_eq!(content[1], json!({"type": "text", "text": "Let me see."}));
    assert_eq!(content[2]["name"], "look");
    assert_eq!(content[2]["input"], json!({"at": "the sky", "how": {"long": 3}}));
    assert_eq!((&content[3]["name"], &content[3]["input"]), (&json!("count"), &json!({})));
    assert!(content[2]["id"].as_str().unwrap().starts_with("toolu_"));
    assert_ne!(content[2]["id"], content[3]["id"]);
    assert_eq!(message["stop_reason"], "tool_use");

    let same = |message: &Value| {
        let mut message = message.clone();
        for name in ["id", "usage"] {
            message.as_object_mut().unwrap().remove(name);
        }
        for block in message["content"].as_array_mut().unwrap() {
            block.as_object_mut().unwrap().remove("id");
        }
        message
    };
    assert_eq!(same(&message), same(&whole));
    // Input tokens are those that were not read from the cache.
    let (first, second) = (&whole["usage"], &message["usage"]);
    assert_eq!(first["cache_read_input_tokens"], 0);
    let cached = second["cache_read_input_tokens"].as_u64().unwrap();
    assert!(cached > 0);
    assert_eq!(
        second["input_tokens"].as_u64().unwrap() + cached,
        first["input_tokens"].as_u64().unwrap()
    );
}

#[test]
fn a_conversation_goes_on_where_it_was_whatever_moves_in_it() {
    let server = Server::scripted();
    for thinking in [
        json!({"type": "enabled", "budget_tokens": 1024}),
        json!({"type": "adaptive", "display": "omitted"}),
    ] {
        let mut first = body(json!([{"role": "user", "content": [
            {"type": "text", "text": "What is up there? ".repeat(40), "cache_control": {"type": "ephemeral"}}]}]));
        first["thinking"] = thinking.clone();
        first["system"] = json!([
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=1; cch=1;"},
            {"type": "text", "text": format!("Mind {thinking}.")}]);
        let answer = server.post("/v1/messages", &first).ok();
        let shown = answer["content"][0]["thinking"].as_str().unwrap();
        assert_eq!(shown.is_empty(), thinking["display"] == "omitted");
        let mut second = first.clone();
        second["system"][0]["text"] = json!("x-anthropic-billing-header: cc_version=2; cch=7;");
        second["messages"][0]["content"] = json!("What is up there? ".repeat(40));
        let results: Vec<Value> = answer["content"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|block| block["type"] == "tool_use")
            .map(|call| {
                json!({"type": "tool_result", "tool_use_id": call["id"], "content": "ok",
                               "cache_control": {"type": "ephemeral"}})
            })
            .collect();
        let messages = second["messages"].as_array_mut().unwrap();
        messages.push(json!({"role": "assistant", "content": answer["content"]}));
        messages.push(json!({"role": "user", "content": results}));
        let answer_2 = server.post("/v1/messages", &second).ok();
        assert_eq!(answer_2["content"], json!([{"type": "text", "text": "The sky is blue."}]));
        assert_eq!(answer_2["stop_reason"], "end_turn");
        let tokens = |usage: &Value, name: &str| usage[name].as_u64().unwrap();
        let whole_turn = tokens(&answer["usage"], "input_tokens")
            + tokens(&answer["usage"], "cache_read_input_tokens")
            + tokens(&answer["usage"], "output_tokens");
        let cached = tokens(&answer_2["usage"], "cache_read_input_tokens");
        assert!(cached + 2 >= whole_turn, "{cached} of {whole_turn}");
    }
}

#[test]
fn thoughts_that_nobody_asked_for_are_not_told() {
    let server = Server::scripted();
    let mut body = body(question());
    body.as_object_mut().unwrap().remove("thinking");
    let answer = server.post("/v1/messages", &body).ok();
    assert_eq!(answer["content"][0]["type"], "text");
}

#[test]
fn ends_have_their_reasons() {
    let server = Server::start();
    let cut = json!({"model": SMALL, "max_tokens": 3, "ignore_eos": true,
                     "messages": [{"role": "user", "content": "x"}]});
    let answer = server.post("/v1/messages", &cut).ok();
    assert_eq!(
        (&answer["stop_reason"], &answer["usage"]["output_tokens"]),
        (&json!("max_tokens"), &json!(3))
    );

    let server = Server::scripted();
    let mut body = body(question());
    body["stop_sequences"] = json!(["zz", " see"]);
    let answer = server.post("/v1/messages", &body).ok();
    assert_eq!(
        (&answer["stop_reason"], &answer["stop_sequence"]),
        (&json!("stop_sequence"), &json!(" see"))
    );
    assert_eq!(answer["content"][1]["text"], "Let me");
    let message = built(&server.typed_stream("/v1/messages", &body));
    assert_eq!(
        (&message["stop_reason"], &message["stop_sequence"]),
        (&json!("stop_sequence"), &json!(" see"))
    );
}

#[test]
fn the_length_of_a_prompt_can_be_asked_for() {
    let server = Server::scripted();
    let mut body = body(question());
    let whole = server.post("/v1/messages", &body).ok();
    body.as_object_mut().unwrap().remove("max_tokens");
    let answer = server.post("/v1/messages/count_tokens", &body).ok();
    assert_eq!(answer, json!({"input_tokens": whole["usage"]["input_tokens"]}));
}

#[track_caller]
fn is_error(reply: &Reply, status: u16, kind: &str) -> String {
    assert_eq!(reply.status, status, "{}", reply.text);
    let body = reply.json();
    assert_eq!((&body["type"], &body["error"]["type"]), (&json!("error"), &json!(kind)));
    let id = reply.header("request-id").expect("an id");
    assert_eq!(body["request_id"], id);
    assert_eq!(reply.header("x-request-id"), Some(id));
    body["error"]["message"].as_str().expect("a message").to_owned()
}

#[test]
fn refusals_have_anthropic_s_shape() {
    let server = Server::with(|config| config.limits.max_body = 4096);
    let question = json!({"model": SMALL, "max_tokens": 5, "messages": question()});
    let with = |name: &str, value: Value| {
        let mut body = question.clone();
        body[name] = value;
        server.post("/v1/messages", &body)
    };
    let message = is_error(&with("max_tokens", Value::Null), 400, "invalid_request_error");
    assert!(message.contains("'max_tokens'"));
    is_error(&with("model", json!("nobody")), 404, "not_found_error");
    is_error(&with("system", json!("x".repeat(5000))), 413, "request_too_large");
    let message = is_error(&with("system", json!("x ".repeat(300))), 400, "invalid_request_error");
    assert!(
        message.starts_with("prompt is too long: ") && message.ends_with(" > 256 maximum"),
        "{message}"
    );
    let keyless = http::request(server.address, "POST", "/v1/messages", &[], b"{}").unwrap();
    is_error(&Reply::read(keyless), 401, "authentication_error");
    is_error(&server.get("/v1/messages"), 405, "invalid_request_error");
    let headers = [("x-api-key", KEY), ("anthropic-version", "2023-06-01")];
    let body = question.to_string();
    let reply = http::request(server.address, "POST", "/v1/messages", &headers, body.as_bytes());
    assert_eq!(Reply::read(reply.unwrap()).status, 200);
}

#[test]
fn a_stream_that_fails_says_so_in_an_error_event() {
    let server = Server::start();
    let body = json!({"model": LONG, "max_tokens": 100_000, "stream": true, "ignore_eos": true,
                      "messages": question()});
    let response = server.open("POST", "/v1/messages", &body.to_string());
    let id = response.header("x-request-id").unwrap().to_owned();
    assert!(server.app.requests.cancel(&id));
    let events = typed_events("/v1/messages", response);
    let error = events.last().unwrap();
    assert_eq!(
        (&error["type"], &error["error"]["type"]),
        (&json!("error"), &json!("overloaded_error"))
    );
}
