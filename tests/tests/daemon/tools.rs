//! Tool calls and thoughts of the bundled model, through the running daemon. The model is small and
//! often wrong: what is looked at is not what it says, but that nothing of it is lost or mistaken, and
//! that a second turn repeats the first one byte for byte.

use omlx_tests::daemon::{Daemon, built_binary};
use omlx_tests::sse::{self, Event};
use serde_json::{Value, json};

/// What is asked, and whether the model is to think.
const REQUESTS: [(&str, bool); 4] = [
    ("What is the weather in Lisbon?", false),
    ("Read the file notes.txt.", false),
    ("Get the weather of Oslo.", true),
    ("Hello", false),
];

fn tools() -> Value {
    let function = |name: &str, description: &str, parameter: &str| {
        let properties = json!({parameter: {"type": "string"}});
        let parameters =
            json!({"type": "object", "properties": properties, "required": [parameter]});
        let function = json!({"name": name, "description": description, "parameters": parameters});
        json!({"type": "function", "function": function})
    };
    json!([
        function("get_weather", "Get the weather of a city", "city"),
        function("read_file", "Read a file", "path"),
    ])
}

fn body(messages: &[Value], thinks: bool) -> Value {
    json!({
        "model": "omlx-tiny", "messages": messages, "tools": tools(), "max_tokens": 48,
        "temperature": 0, "chat_template_kwargs": {"enable_thinking": thinks},
    })
}

fn ask(daemon: &Daemon, body: &Value) -> Value {
    let answer = daemon.request("POST", "/v1/chat/completions", &body.to_string());
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 200);
    serde_json::from_str(&answer.text().expect("text")).expect("JSON")
}

/// The message that a stream's chunks make, and how it ended.
fn streamed(daemon: &Daemon, body: &Value) -> (Value, Value) {
    let mut body = body.clone();
    body["stream"] = json!(true);
    let answer = daemon.request("POST", "/v1/chat/completions", &body.to_string());
    let (mut message, mut finish) = (json!({"content": ""}), Value::Null);
    sse::for_each(answer.expect("an answer").body, |event| {
        if let Event::Data(data) = event
            && data != "[DONE]"
        {
            let chunk: Value = serde_json::from_str(&data).expect("JSON");
            let choice = &chunk["choices"][0];
            add(&mut message, &choice["delta"]);
            finish = choice["finish_reason"].clone();
        }
        true
    })
    .expect("a stream");
    (message, finish)
}

fn add(message: &mut Value, delta: &Value) {
    let append = |to: &mut Value, more: &Value| {
        let joined = to.as_str().unwrap_or_default().to_owned() + more.as_str().expect("a string");
        *to = json!(joined);
    };
    for name in ["content", "reasoning_content"] {
        if let Some(more) = delta.get(name) {
            append(&mut message[name], more);
        }
    }
    for call in delta["tool_calls"].as_array().into_iter().flatten() {
        let index = call["index"].as_u64().expect("an index") as usize;
        if message.get("tool_calls").is_none() {
            message["tool_calls"] = json!([]);
        }
        let calls = message["tool_calls"].as_array_mut().expect("an array");
        if index == calls.len() {
            assert_eq!(call["function"]["arguments"], "", "the first chunk names the call only");
            let mut first = call.clone();
            first.as_object_mut().expect("an object").remove("index");
            calls.push(first);
        } else {
            let keys: Vec<&String> = call.as_object().expect("an object").keys().collect();
            assert_eq!(keys, ["index", "function"]);
            append(&mut calls[index]["function"]["arguments"], &call["function"]["arguments"]);
        }
    }
}

/// All that two answers to one request must share: ids are each answer's own.
fn without_ids(message: &Value) -> (Value, Value, Vec<Value>) {
    let calls = message["tool_calls"].as_array().into_iter().flatten();
    let calls = calls.map(|call| call["function"].clone()).collect();
    // A message of nothing but calls has no content, and a stream of it has an empty one.
    let content = json!(message["content"].as_str().unwrap_or_default());
    (content, message.get("reasoning_content").cloned().unwrap_or_default(), calls)
}

/// Checks an answer; its message if it calls a tool.
fn checked(daemon: &Daemon, body: &Value) -> Option<(Value, u64)> {
    let answer = ask(daemon, body);
    let choice = &answer["choices"][0];
    let message = &choice["message"];
    let (streamed, finish) = streamed(daemon, body);
    assert_eq!(without_ids(&streamed), without_ids(message));
    assert_eq!(finish, choice["finish_reason"]);
    let said = message["content"].as_str().unwrap_or_default();
    assert!(!said.contains("</think>"), "{message}");
    let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
    let is_object = |call: &Value| {
        let arguments = call["function"]["arguments"].as_str().expect("a string");
        serde_json::from_str(arguments).is_ok_and(|value: Value| value.is_object())
    };
    let tokens = answer["usage"]["total_tokens"].as_u64().expect("a count");
    let whole = calls.iter().all(is_object);
    assert_eq!(choice["finish_reason"] == "tool_calls", whole && !calls.is_empty(), "{choice}");
    for call in &calls {
        assert!(call["id"].as_str().is_some_and(|id| id.starts_with("call_") && id.len() == 29));
        assert!(
            tools()
                .as_array()?
                .iter()
                .any(|tool| { tool["function"]["name"] == call["function"]["name"] })
        );
    }
    (whole && !calls.is_empty()).then(|| (message.clone(), tokens))
}

#[test]
fn calls_are_whole_and_the_next_turn_repeats_them() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let base = dir.path().join("base");
    let daemon = Daemon::start(&built_binary(), &base, None, &[]).expect("omlxd starts");
    let mut called = 0;
    for (request, thinks) in REQUESTS {
        let mut messages = vec![json!({"role": "user", "content": request})];
        let Some((message, tokens)) = checked(&daemon, &body(&messages, thinks)) else { continue };
        called += 1;
        let ids: Vec<Value> = message["tool_calls"]
            .as_array()
            .expect("calls")
            .iter()
            .map(|call| call["id"].clone())
            .collect();
        messages.push(message);
        for id in ids {
            messages.push(json!({"role": "tool", "tool_call_id": id, "content": "It is fine."}));
        }
        let next = ask(&daemon, &body(&messages, thinks));
        let cached =
            next["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a count");
        // All of the first turn but its end of sequence, which nobody computed.
        assert!(cached + 1 >= tokens, "{request}: {cached} of {tokens} tokens were reused");
    }
    assert!(called > 0, "the model called no tool");
}
