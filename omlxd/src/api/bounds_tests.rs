//! What a request may hold of everything, in all three APIs: up to its limit, and in time that grows with
//! its size.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::anthropic;
use super::chat::ChatCompletionRequest;
use super::completions::CompletionsRequest;
use super::reading::Reading;
use super::responses;
use crate::config::Config;
use crate::error::ApiError;
use crate::limits::{
    CHOICES, ERROR_MESSAGE_CHARS, JSON_VALUES, LOGIT_BIAS, MESSAGES, MODEL_NAME_BYTES, PARTS, TOOLS,
};
use crate::response_store::ResponseStore;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Api {
    Chat,
    Anthropic,
    Responses,
}

const APIS: [Api; 3] = [Api::Chat, Api::Anthropic, Api::Responses];

impl Api {
    fn read(self, fields: Value) -> Result<(), ApiError> {
        let mut body = Map::from_iter([("model".to_owned(), json!("m"))]);
        if self == Api::Anthropic {
            body.insert("max_tokens".to_owned(), json!(1));
        }
        let Value::Object(fields) = fields else { panic!("fields are an object") };
        body.extend(fields);
        let reading = Reading::new(false, 8, 4);
        match self {
            Api::Chat => ChatCompletionRequest::read(&body, &reading).map(drop),
            Api::Anthropic => anthropic::check(&body, &reading),
            Api::Responses => {
                let mut config = Config::default();
                config.server.store_responses = false;
                responses::check(&body, &reading, &Arc::new(ResponseStore::open(&config)))
            }
        }
    }

    fn with_messages(self, messages: Vec<Value>, fields: Value) -> Result<(), ApiError> {
        let name = if self == Api::Responses { "input" } else { "messages" };
        let mut body = fields;
        body[name] = Value::Array(messages);
        self.read(body)
    }

    fn tool(self, name: &str) -> Value {
        match self {
            Api::Chat => json!({"type": "function", "function": {"name": name}}),
            Api::Anthropic => json!({"name": name, "input_schema": {"type": "object"}}),
            Api::Responses => json!({"type": "function", "name": name}),
        }
    }

    fn tools(self, count: usize) -> Value {
        (0..count).map(|index| self.tool(&format!("tool_{index}"))).collect()
    }

    /// A call and its result.
    fn turn(self, id: &str) -> [Value; 2] {
        match self {
            Api::Chat => [
                json!({"role": "assistant", "tool_calls": [
                    {"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}}]}),
                json!({"role": "tool", "tool_call_id": id, "content": "1"}),
            ],
            Api::Anthropic => [
                json!({"role": "assistant", "content": [
                    {"type": "tool_use", "id": id, "name": "f", "input": {}}]}),
                json!({"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": id, "content": "1"}]}),
            ],
            Api::Responses => [
                json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"}),
                json!({"type": "function_call_output", "call_id": id, "output": "1"}),
            ],
        }
    }

    fn turns(self, count: usize) -> Vec<Value> {
        (0..count).flat_map(|index| self.turn(&format!("call_{index}"))).collect()
    }
}

fn user(text: impl Into<Value>) -> Value {
    json!({"role": "user", "content": text.into()})
}

/// JSON inside a string of the body makes as many values as JSON in the body itself.
#[test]
fn the_arguments_of_calls_count_as_values_of_the_body() {
    let call = |api: Api, arguments: &str| match api {
        Api::Chat => {
            json!({"role": "assistant", "tool_calls": [{"id": "call_0", "type": "function",
                            "function": {"name": "f", "arguments": arguments}}]})
        }
        Api::Anthropic => json!({"role": "assistant", "content": [
            {"type": "tool_use", "id": "call_0", "name": "f", "input": arguments}]}),
        Api::Responses => {
            json!({"type": "function_call", "call_id": "call_0", "name": "f", "arguments": arguments})
        }
    };
    // The object counts as three, its key and its list as one each.
    let arguments = |values: usize| format!("{{\"a\":[{}1]}}", "1,".repeat(values - 6));
    for api in APIS {
        let read = |count: usize, arguments: &str| {
            let calls = vec![call(api, arguments); count];
            api.with_messages([calls, vec![user("x")]].concat(), json!({}))
        };
        read(1, &arguments(JSON_VALUES)).unwrap();
        for too_many in [read(1, &arguments(JSON_VALUES + 1)), read(2, &arguments(JSON_VALUES))] {
            assert_eq!(too_many.unwrap_err().status().as_u16(), 413, "{api:?}");
        }
    }
}

#[test]
fn lists_are_read_up_to_their_limits() {
    let refused = |api: Api, outcome: Result<(), ApiError>, param: &str| {
        let error = outcome.unwrap_err();
        assert_eq!((error.status().as_u16(), error.label()), (400, "invalid_value"), "{api:?}");
        assert_eq!(error.param(), Some(param), "{api:?}");
    };
    for api in APIS {
        let list = if api == Api::Responses { "input" } else { "messages" };
        let text = if api == Api::Responses { "input_text" } else { "text" };
        let parts = |count: usize| vec![user(vec![json!({"type": text, "text": ""}); count])];
        api.with_messages(vec![user("x"); MESSAGES], json!({})).unwrap();
        refused(api, api.with_messages(vec![user("x"); MESSAGES + 1], json!({})), list);
        api.with_messages(parts(PARTS), json!({})).unwrap();
        let param = format!("{list}[0].content");
        refused(api, api.with_messages(parts(PARTS + 1), json!({})), &param);
        let with_tools =
            |count: usize| api.with_messages(vec![user("x")], json!({"tools": api.tools(count)}));
        with_tools(TOOLS).unwrap();
        refused(api, with_tools(TOOLS + 1), "tools");
    }
    let bias = |count: usize| {
        let bias: Map<String, Value> = (0..count).map(|id| (id.to_string(), json!(1))).collect();
        Api::Chat.with_messages(vec![user("x")], json!({"logit_bias": bias}))
    };
    bias(LOGIT_BIAS).unwrap();
    refused(Api::Chat, bias(LOGIT_BIAS + 1), "logit_bias");
    let choices = |prompts: usize| {
        let body = json!({"model": "m", "n": 2, "prompt": vec!["x"; prompts]});
        CompletionsRequest::read(body.as_object().unwrap(), &Reading::new(false, 8, 4)).map(drop)
    };
    choices(CHOICES / 2).unwrap();
    assert_eq!(choices(CHOICES / 2 + 1).unwrap_err().param(), Some("prompt"));
}

#[test]
fn a_model_name_at_its_limit() {
    let named = |bytes: usize| {
        let messages = [user("x")];
        Api::Chat.read(json!({"model": "m".repeat(bytes), "messages": messages}))
    };
    named(MODEL_NAME_BYTES).unwrap();
    for bytes in [0, MODEL_NAME_BYTES + 1] {
        let error = named(bytes).unwrap_err();
        assert_eq!((error.label(), error.param()), ("invalid_value", Some("model")));
    }
}

/// The shortest of three, so that a busy machine does not decide.
fn time(mut work: impl FnMut()) -> Duration {
    let once = |work: &mut dyn FnMut()| {
        let began = Instant::now();
        work();
        began.elapsed()
    };
    (0..3).map(|_| once(&mut work)).min().expect("three times")
}

#[test]
fn time_grows_with_the_size_of_a_request() {
    type Make = fn(Api, usize) -> (Vec<Value>, Value);
    let shapes: [(&str, Make); 4] = [
        ("tools", |api, n| (vec![user("x")], json!({"tools": api.tools(n)}))),
        ("turns", |api, n| (api.turns(n), json!({}))),
        ("results of the last call", |api, n| {
            let turns = api.turns(n / 2);
            let result = turns.last().expect("some").clone();
            let more = std::iter::repeat_n(result, n / 2);
            (turns.into_iter().chain(more).collect(), json!({}))
        }),
        ("texts of one turn", |_, n| {
            let said = json!({"role": "assistant", "content": "x".repeat(300)});
            let mut messages = vec![said; n];
            messages.push(user("x"));
            (messages, json!({}))
        }),
    ];
    for (name, make) in shapes {
        for api in APIS {
            let took = |n: usize| {
                let (messages, fields) = make(api, n);
                time(|| api.with_messages(messages.clone(), fields.clone()).unwrap())
            };
            let (small, large) = (took(1000), took(8000));
            // Eight times as much: sixty-four times as long where something is quadratic.
            let most = small * 30 + Duration::from_millis(500);
            assert!(large < most, "{name} in {api:?}: {small:?} for 1000, {large:?} for 8000");
        }
    }
}

#[test]
fn an_error_repeats_a_bounded_part_of_a_request() {
    let long = "\u{e4}".repeat(ERROR_MESSAGE_CHARS + 1);
    assert_eq!(ApiError::unknown_parameter("x").message(), "Unknown parameter: 'x'.");
    let fitting = "x".repeat(ERROR_MESSAGE_CHARS - "Unknown parameter: ''.".len());
    let error = ApiError::unknown_parameter(&fitting);
    assert_eq!(error.message().len(), ERROR_MESSAGE_CHARS);
    let error = ApiError::unknown_parameter(&long);
    assert_eq!(error.message().chars().count(), ERROR_MESSAGE_CHARS + 3);
    assert_eq!(error.param().unwrap().chars().count(), ERROR_MESSAGE_CHARS + 3);
}

#[test]
fn a_cancelled_request_is_read_no_further() {
    let cancelled = tokio_util::sync::CancellationToken::new();
    let reading = Reading::new(false, 8, 4).until(cancelled.clone());
    let body = json!({"model": "m", "messages": [user("x")]});
    let body = body.as_object().unwrap();
    ChatCompletionRequest::read(body, &reading).unwrap();
    cancelled.cancel();
    let error = ChatCompletionRequest::read(body, &reading).unwrap_err();
    assert_eq!(error.label(), "request_cancelled");
}
