//! Bodies: they are read or refused, never anything else.

use std::sync::{Arc, LazyLock};

use hyper::header::HeaderMap;
use serde_json::{Map, Value, json};

use super::super::anthropic;
use super::super::chat::ChatCompletionRequest;
use super::super::completions::CompletionsRequest;
use super::super::embeddings;
use super::super::json;
use super::super::reading::Reading;
use super::super::responses;
use super::Choices;
use crate::config::Config;
use crate::error::ApiError;
use crate::response_store::ResponseStore;

/// What reads a body.
type Read = fn(&Map<String, Value>, &Reading) -> Result<(), ApiError>;

const ENDPOINTS: [(&str, Read); 5] = [
    ("/v1/chat/completions", |body, reading| ChatCompletionRequest::read(body, reading).map(drop)),
    ("/v1/completions", |body, reading| CompletionsRequest::read(body, reading).map(drop)),
    ("/v1/responses", |body, reading| responses::check(body, reading, &STORE)),
    ("/v1/messages", anthropic::check),
    ("/v1/embeddings", |body, _| embeddings::model(body).map(drop)),
];

/// Keeps nothing.
static STORE: LazyLock<Arc<ResponseStore>> = LazyLock::new(|| {
    let mut config = Config::default();
    config.server.store_responses = false;
    Arc::new(ResponseStore::open(&config))
});

/// Names that mean something somewhere.
const NAMES: &[&str] = &[
    "model",
    "messages",
    "prompt",
    "input",
    "role",
    "content",
    "type",
    "text",
    "tools",
    "function",
    "name",
    "parameters",
    "strict",
    "tool_choice",
    "allowed_tools",
    "mode",
    "tool_calls",
    "tool_call_id",
    "arguments",
    "id",
    "stream",
    "stream_options",
    "include_usage",
    "stop",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "seed",
    "temperature",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "response_format",
    "json_schema",
    "schema",
    "structured_outputs",
    "choice",
    "guided_grammar",
    "echo",
    "best_of",
    "reasoning",
    "reasoning_content",
    "thinking_blocks",
    "reasoning_details",
    "refusal",
    "tool_use",
    "effort",
    "thinking",
    "budget_tokens",
    "chat_template_kwargs",
    "cache_salt",
    "system",
    "tool_use_id",
    "input_schema",
    "output_config",
    "format",
    "call_id",
    "output",
    "include",
    "encrypted_content",
    "signature",
    "previous_response_id",
    "metadata",
];

const WORDS: &[&str] = &[
    "user",
    "assistant",
    "system",
    "tool",
    "developer",
    "function",
    "auto",
    "none",
    "any",
    "required",
    "json_object",
    "json_schema",
    "text",
    "input_text",
    "output_text",
    "tool_use",
    "tool_result",
    "thinking",
    "message",
    "function_call",
    "function_call_output",
    "item_reference",
    "namespace",
    "web_search",
    "image_url",
    "allowed_tools",
    "enabled",
    "c1",
    "f",
];

const NUMBERS: &[&str] = &["0", "1", "-1", "2.5", "21", "1e300", "9223372036854775808", "-0.0"];

/// Most places of a body that are changed.
const MOST_CHANGES: usize = 12;

/// Reads the bytes as they are, and the [`body`] that they make.
pub fn request(bytes: &[u8]) {
    for (_, read) in ENDPOINTS {
        check(read, bytes);
    }
    let (path, body) = body(bytes);
    for (_, read) in ENDPOINTS.into_iter().filter(|(known, _)| *known == path) {
        check(read, body.to_string().as_bytes());
    }
}

/// An endpoint's path and a good body for it, chosen and changed at some places as the bytes say.
pub fn body(bytes: &[u8]) -> (&'static str, Value) {
    let mut choices = Choices(bytes);
    let number = choices.next() % ENDPOINTS.len();
    let mut body = good(number);
    for _ in 0..MOST_CHANGES {
        if choices.is_empty() {
            break;
        }
        change(&mut body, &mut choices);
    }
    (ENDPOINTS[number].0, body)
}

/// Reads a body twice, strictly and not.
fn check(read: Read, bytes: &[u8]) {
    let outcome = |strict| {
        let reading = Reading::new(strict, 8, 4);
        json::parse(bytes, &|| true).and_then(|parsed| read(&parsed.map, &reading))
    };
    let (usual, strict) = (outcome(false), outcome(true));
    assert!(strict.is_err() || usual.is_ok(), "only strictly right: {usual:?}");
    for error in [usual, strict].into_iter().filter_map(Result::err) {
        refusal(&error);
    }
}

/// A refusal blames the request, in both shapes that there are.
fn refusal(error: &ApiError) {
    assert!(error.status().is_client_error(), "{error:?}");
    error.headers(&mut HeaderMap::new());
    let body: Value = serde_json::from_slice(&error.body()).expect("JSON");
    let object = &body["error"];
    assert!(object["message"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    assert_eq!(object["type"], "invalid_request_error");
    for name in ["param", "code"] {
        let value = object.get(name).expect("all four keys");
        assert!(value.is_null() || value.is_string(), "{body}");
    }
    let body: Value = serde_json::from_slice(&anthropic::error_body(error, "req_1")).expect("JSON");
    assert_eq!(body["type"], "error");
}

/// A body that an endpoint takes, with something of everything.
fn good(endpoint: usize) -> Value {
    let parameters = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    let function = json!({"name": "f", "description": "d", "parameters": parameters});
    let inner = json!({"type": "function", "name": "g", "parameters": parameters});
    let call = json!({"id": "c1", "type": "function",
                      "function": {"name": "f", "arguments": "{\"a\":1}"}});
    let schema = json!({"name": "s", "schema": {"type": "object"}, "strict": true});
    match endpoint {
        0 => json!({
            "model": "m",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
                {"role": "assistant", "content": null, "reasoning_content": "Hm",
                 "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c1", "content": "1"}],
            "tools": [{"type": "function", "function": function}], "tool_choice": "auto",
            "stream": true, "stream_options": {"include_usage": true}, "stop": ["x"],
            "logprobs": true, "top_logprobs": 2, "n": 2, "logit_bias": {"5": 1},
            "temperature": 1, "seed": 1, "reasoning_effort": "low", "metadata": {"a": "b"},
            "response_format": {"type": "json_schema", "json_schema": schema},
        }),
        1 => json!({
            "model": "m", "prompt": ["Hello", [1, 2]], "echo": true, "stop": "x", "n": 2,
            "best_of": 2, "logit_bias": {"5": 1}, "temperature": 1, "seed": 1, "user": "u",
            "structured_outputs": {"regex": "a+"},
        }),
        2 => json!({
            "model": "m", "instructions": "Be brief.",
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
                {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "SG0="},
                {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c1", "output": "1"}],
            "tools": [{"type": "function", "name": "f", "parameters": parameters},
                      {"type": "namespace", "name": "ns", "description": "d", "tools": [inner]}],
            "tool_choice": "auto", "text": {"format": {"type": "text"}, "verbosity": "low"},
            "reasoning": {"effort": "low", "summary": "auto"}, "store": false,
            "include": ["reasoning.encrypted_content"], "max_output_tokens": 16, "stream": true,
        }),
        3 => json!({
            "model": "m", "max_tokens": 16, "system": [{"type": "text", "text": "Be brief."}],
            "messages": [
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "Hm", "signature": "omlx"},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "1"}]}],
            "tools": [{"name": "f", "input_schema": parameters}], "tool_choice": {"type": "auto"},
            "thinking": {"type": "enabled", "budget_tokens": 1024}, "stop_sequences": ["x"],
            "output_config": {"effort": "low"}, "stream": true,
        }),
        _ => json!({"model": "m", "input": ["Hello"], "encoding_format": "float"}),
    }
}

/// Does something to a body at one of its places.
fn change(body: &mut Value, choices: &mut Choices<'_>) {
    let mut places = Vec::new();
    find_places(body, "", &mut places);
    // More places than a byte can tell apart are none of these bodies.
    let Some(place) = places.get(choices.next() % places.len().max(1)).cloned() else { return };
    let (parent, name) = place.rsplit_once('/').expect("a pointer");
    match choices.next() % 5 {
        0 => match body.pointer_mut(parent) {
            Some(Value::Object(map)) => drop(map.shift_remove(name)),
            Some(Value::Array(list)) => drop(list.pop()),
            _ => {}
        },
        1 => {
            let (name, value) = (*choices.one(NAMES), value(choices));
            match body.pointer_mut(&place) {
                Some(Value::Object(map)) => drop(map.insert(name.to_owned(), value)),
                Some(Value::Array(list)) => list.push(value),
                _ => drop(body.as_object_mut().map(|map| map.insert(name.to_owned(), value))),
            }
        }
        2 => {
            let twice = body.pointer(&place).cloned();
            if let (Some(Value::Array(list)), Some(twice)) = (body.pointer_mut(parent), twice) {
                list.push(twice);
            }
        }
        _ => {
            if let Some(there) = body.pointer_mut(&place) {
                *there = value(choices);
            }
        }
    }
}

/// Pointers to every place in a value but the whole.
fn find_places(value: &Value, at: &str, found: &mut Vec<String>) {
    let named = |name: &str| format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
    let inner: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(name, one)| (named(name), one)).collect(),
        Value::Array(list) => {
            list.iter().enumerate().map(|(index, one)| (format!("{at}/{index}"), one)).collect()
        }
        _ => Vec::new(),
    };
    for (place, one) in inner {
        find_places(one, &place, found);
        found.push(place);
    }
}

fn value(choices: &mut Choices<'_>) -> Value {
    match choices.next() % 10 {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(false),
        3 | 4 => serde_json::from_str(choices.one::<&str>(NUMBERS)).expect("a number"),
        5 | 6 => json!(choices.one(WORDS)),
        7 => json!(choices.text()),
        8 => json!([value(choices)]),
        _ => json!({*choices.one(NAMES): value(choices)}),
    }
}
