//! What a model's template wants of the messages besides their common shape. All of it serves one
//! end: a later turn's prompt repeats what the model saw and wrote, byte for byte.

use std::collections::HashMap;

use engine::{CallIds, ChatTemplate};
use serde_json::{Map, Value, json};

use super::messages::WRITTEN;

/// Makes the messages what this template wants.
pub(super) fn settle(messages: &mut [Value], template: &ChatTemplate, ids: CallIds) {
    if !template.mentions("developer") {
        for message in messages.iter_mut().filter(|message| message["role"] == "developer") {
            message["role"] = json!("system");
        }
    }
    if template.mentions("message.thinking") && !template.mentions("reasoning_content") {
        messages.iter_mut().filter_map(Value::as_object_mut).for_each(thinking);
    }
    settle_arguments(messages, template.mentions("arguments is string"));
    settle_ids(messages, ids);
}

/// The thoughts of an earlier turn under the name that gpt-oss has for them. Its template refuses
/// them beside both text and calls.
fn thinking(message: &mut Map<String, Value>) {
    let said = message.get("content").and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    if said && message.contains_key("tool_calls") {
        return;
    }
    if let Some(thoughts) = message.get("reasoning_content").cloned() {
        message.insert("thinking".to_owned(), thoughts);
    }
}

fn calls(messages: &mut [Value]) -> impl Iterator<Item = &mut Map<String, Value>> {
    let lists = messages.iter_mut().filter_map(|message| message.get_mut("tool_calls"));
    lists.filter_map(Value::as_array_mut).flatten().filter_map(Value::as_object_mut)
}

/// Gives templates that take arguments as text what the model itself wrote, and takes that text away
/// from all others.
fn settle_arguments(messages: &mut [Value], takes_text: bool) {
    for call in calls(messages) {
        let Some(function) = call.get_mut("function").and_then(Value::as_object_mut) else {
            continue;
        };
        if let Some(text) = function.shift_remove(WRITTEN).filter(|_| takes_text) {
            function.insert("arguments".to_owned(), text);
        }
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
    match id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        true => id.to_owned(),
        false => format!("{:.9}", blake3::hash(id.as_bytes()).to_hex()),
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
    fn arguments_are_text_only_where_that_is_wanted() {
        let settled = |takes_text: bool| {
            let function = json!({"name": "f", "arguments": {"a": 1}, WRITTEN: "{ \"a\":1}"});
            let mut messages = [json!({"tool_calls": [{"id": "c", "function": function}]})];
            settle_arguments(&mut messages, takes_text);
            messages[0]["tool_calls"][0]["function"].clone()
        };
        assert_eq!(settled(true), json!({"name": "f", "arguments": "{ \"a\":1}"}));
        assert_eq!(settled(false), json!({"name": "f", "arguments": {"a": 1}}));
    }

    #[test]
    fn thoughts_are_not_named_beside_text_and_calls() {
        let named = |mut message: Value| {
            thinking(message.as_object_mut().unwrap());
            message.get("thinking").is_some()
        };
        assert!(named(json!({"content": "", "reasoning_content": "Hm", "tool_calls": []})));
        assert!(named(json!({"content": "Hi", "reasoning_content": "Hm"})));
        assert!(!named(json!({"content": "Hi", "reasoning_content": "Hm", "tool_calls": []})));
        assert!(!named(json!({"content": ""})));
    }
}
