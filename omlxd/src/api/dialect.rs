//! What a model's template wants of the messages besides their common shape. All of it serves one
//! end: a later turn's prompt repeats what the model saw and wrote, byte for byte.

use std::collections::HashMap;

use engine::{CallIds, TakenArguments, Takes, template_json};
use serde_json::{Map, Value, json};

use super::conversation::WRITTEN;

/// Makes the parts of the messages what this template takes.
pub(super) fn adapt_to_template(messages: &mut [Value], takes: &Takes, ids: CallIds) {
    if !takes.developer {
        for message in messages.iter_mut().filter(|message| message["role"] == "developer") {
            message["role"] = json!("system");
        }
    }
    for call in calls(messages) {
        if let Some(function) = call.get_mut("function").and_then(Value::as_object_mut) {
            settle_arguments(function, takes.arguments);
        }
    }
    settle_ids(messages, ids);
}

/// The tools with every field that clients may leave out and some templates read unasked.
pub(super) fn filled(tools: &[Value]) -> Vec<Value> {
    let mut tools = tools.to_vec();
    let functions = tools.iter_mut().filter_map(|tool| tool.get_mut("function"));
    for function in functions.filter_map(Value::as_object_mut) {
        fill(function, "description", json!(""));
        fill(function, "parameters", json!({}));
        if let Some(parameters) = function.get_mut("parameters").and_then(Value::as_object_mut) {
            fill(parameters, "type", json!("object"));
            fill(parameters, "properties", json!({}));
        }
    }
    tools
}

/// Gives an object a member that it does not have.
fn fill(object: &mut Map<String, Value>, name: &str, value: Value) {
    let member = object.entry(name).or_insert(Value::Null);
    if member.is_null() {
        *member = value;
    }
}

fn calls(messages: &mut [Value]) -> impl Iterator<Item = &mut Map<String, Value>> {
    let lists = messages.iter_mut().filter_map(|message| message.get_mut("tool_calls"));
    lists.filter_map(Value::as_array_mut).flatten().filter_map(Value::as_object_mut)
}

/// The one member of the object that stands for arguments which are none.
const NO_OBJECT: &str = "arguments";

/// Gives templates that take arguments as text what the model itself wrote, and those that take objects
/// only an object, whatever the model wrote.
fn settle_arguments(function: &mut Map<String, Value>, taken: TakenArguments) {
    let written = function.shift_remove(WRITTEN);
    let Some(arguments) = function.get_mut("arguments") else { return };
    match (taken, written) {
        (TakenArguments::ObjectOrText | TakenArguments::Text, Some(text)) => *arguments = text,
        (TakenArguments::Text, None) if arguments.is_object() => {
            *arguments = json!(template_json(arguments));
        }
        (TakenArguments::Object, _) if !arguments.is_object() => {
            *arguments = json!({NO_OBJECT: arguments.take()});
        }
        _ => {}
    }
}

/// Gives calls the ids that the model knows.
fn settle_ids(messages: &mut [Value], ids: CallIds) {
    if ids == CallIds::Any {
        return;
    }
    let mut known: HashMap<String, String> = HashMap::new();
    let mut number = 0;
    for message in messages {
        for call in calls(std::slice::from_mut(message)) {
            let Some(id) = call.get("id").and_then(Value::as_str).map(str::to_owned) else {
                continue;
            };
            let name = call["function"]["name"].as_str().unwrap_or_default();
            let own = match ids {
                CallIds::Numbered => format!("functions.{name}:{number}"),
                CallIds::Any | CallIds::Short => short(&id),
            };
            number += 1;
            call.insert("id".to_owned(), json!(own));
            known.insert(id, own);
        }
        let answered = message.get("tool_call_id").and_then(Value::as_str);
        if let Some(own) = answered.and_then(|id| known.get(id)) {
            message["tool_call_id"] = json!(own);
        }
    }
}

/// Nine letters and digits, the same ones for the same id.
fn short(id: &str) -> String {
    if id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        id.to_owned()
    } else {
        format!("{:.9}", blake3::hash(id.as_bytes()).to_hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation() -> Vec<Value> {
        let call = |id: &str, name: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": {}}});
        vec![
            json!({"role": "assistant", "tool_calls": [call("call_1", "f"), call("call_2", "g")]}),
            json!({"role": "tool", "tool_call_id": "call_2", "content": "2"}),
            json!({"role": "tool", "tool_call_id": "call_1", "content": "1"}),
            json!({"role": "assistant", "tool_calls": [call("abcdefgh9", "f")]}),
        ]
    }

    fn ids(ids: CallIds) -> Vec<String> {
        let mut messages = conversation();
        settle_ids(&mut messages, ids);
        let mut found = Vec::new();
        for message in &mut messages {
            let answered = message.get("tool_call_id").and_then(Value::as_str).map(str::to_owned);
            found.extend(answered);
            let own = calls(std::slice::from_mut(message));
            found.extend(own.map(|call| call["id"].as_str().unwrap().to_owned()));
        }
        found
    }

    #[test]
    fn ids_are_those_that_the_model_knows() {
        let as_sent = ["call_1", "call_2", "call_2", "call_1", "abcdefgh9"];
        assert_eq!(ids(CallIds::Any), as_sent);
        let numbered =
            ["functions.f:0", "functions.g:1", "functions.g:1", "functions.f:0", "functions.f:2"];
        assert_eq!(ids(CallIds::Numbered), numbered);
        let short = ids(CallIds::Short);
        assert!(short.iter().all(|id| id.len() == 9), "{short:?}");
        assert_eq!((&short[0], &short[1]), (&short[3], &short[2]));
        assert_eq!(short[4], "abcdefgh9");
    }

    #[test]
    fn arguments_are_what_the_template_takes() {
        let settled = |function: Value, taken: TakenArguments| {
            let mut function = function.as_object().unwrap().clone();
            settle_arguments(&mut function, taken);
            assert_eq!(function.keys().collect::<Vec<_>>(), ["name", "arguments"]);
            function["arguments"].clone()
        };
        let own = json!({"name": "f", "arguments": {"a": 1}, WRITTEN: "{ \"a\":1}"});
        let usual = json!({"name": "f", "arguments": {"a": 1}});
        let cut = json!({"name": "f", "arguments": "{\"a"});
        use TakenArguments::{Object, ObjectOrQuoted, ObjectOrText, Text};
        for (taken, expected) in [
            (Object, [json!({"a": 1}), json!({"a": 1}), json!({"arguments": "{\"a"})]),
            (ObjectOrQuoted, [json!({"a": 1}), json!({"a": 1}), json!("{\"a")]),
            (ObjectOrText, [json!("{ \"a\":1}"), json!({"a": 1}), json!("{\"a")]),
            (Text, [json!("{ \"a\":1}"), json!("{\"a\": 1}"), json!("{\"a")]),
        ] {
            let got = [&own, &usual, &cut].map(|function| settled(function.clone(), taken));
            assert_eq!(got, expected, "{taken:?}");
        }
    }
}
