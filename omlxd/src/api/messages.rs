//! Chat messages as clients send them, made into what chat templates expect: `content` is a string,
//! the arguments of tool calls are objects, and only what can matter to the prompt is kept, so that
//! ids and cache markers which change from turn to turn do not change the prompt.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::params::Reading;
use super::read::{Fields, not_one_of, wrong};
use crate::limits::{MESSAGES, PARTS};

const ROLES: [&str; 6] = ["developer", "system", "user", "assistant", "tool", "function"];
/// Kinds of content parts that exist in the API but are no text.
const NOT_TEXT: [&str; 6] =
    ["image_url", "input_audio", "file", "input_image", "audio", "video_url"];

/// Reads `messages`. E3, E4, E5, E9, E14, E15.
pub(super) fn read(fields: &Fields<'_, '_>, reading: &Reading) -> Result<Vec<Value>, ApiError> {
    fields.required("messages")?;
    let path = fields.path().field("messages");
    let list = fields.array("messages")?.expect("present");
    if list.is_empty() {
        return Err(ApiError::invalid_value(path, "at least one message is needed"));
    }
    reading.check_count(&path, list.len(), MESSAGES)?;
    let mut calls = HashSet::new();
    list.iter()
        .enumerate()
        .map(|(index, message)| {
            let path = path.index(index);
            let fields = Fields::of(message, &path)?;
            read_message(&fields, reading, &mut calls)
        })
        .collect()
}

/// `calls`: ids of the tool calls seen so far.
fn read_message<'a>(
    fields: &Fields<'a, '_>,
    reading: &Reading,
    calls: &mut HashSet<&'a str>,
) -> Result<Value, ApiError> {
    fields.required_string("role")?;
    let role = fields.choice("role", &ROLES)?.expect("present");
    let mut message = Map::new();
    // The deprecated role is the same thing under its old name.
    message.insert("role".to_owned(), json!(if role == "function" { "tool" } else { role }));
    message.insert("content".to_owned(), json!(content(fields, role, reading)?));
    if let Some(name) = fields.string("name")? {
        message.insert("name".to_owned(), json!(name));
    }
    match role {
        "assistant" => assistant(fields, reading, calls, &mut message)?,
        "tool" => {
            let id = fields.required_string("tool_call_id")?;
            if !calls.contains(id) {
                let what = format_args!("'{id:.64}' is no id of an earlier tool call");
                return Err(ApiError::invalid_value(fields.path().field("tool_call_id"), what));
            }
            message.insert("tool_call_id".to_owned(), json!(id));
        }
        _ => {}
    }
    Ok(Value::Object(message))
}

/// A message's text; parts are put together with nothing between them.
fn content(fields: &Fields<'_, '_>, role: &str, reading: &Reading) -> Result<String, ApiError> {
    let path = fields.path().field("content");
    let parts = match fields.get("content") {
        Some(Value::String(text)) => return Ok(text.clone()),
        Some(Value::Array(parts)) => parts,
        Some(other) => return Err(wrong(&path, "a string or an array of parts", other)),
        None => {
            let stands_alone = ["tool_calls", "function_call", "reasoning_content", "refusal"];
            if role == "assistant" && stands_alone.iter().any(|name| fields.get(name).is_some()) {
                return Ok(fields.string("refusal")?.unwrap_or_default().to_owned());
            }
            return Err(ApiError::missing(path));
        }
    };
    if parts.is_empty() {
        return Err(ApiError::invalid_value(path, "at least one part is needed"));
    }
    reading.check_count(&path, parts.len(), PARTS)?;
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        let path = path.index(index);
        let part = Fields::of(part, &path)?;
        let kind = part.required_string("type")?;
        match kind {
            "text" => text.push_str(part.required_string("text")?),
            "refusal" if role == "assistant" => text.push_str(part.required_string("refusal")?),
            _ if NOT_TEXT.contains(&kind) => {
                let what = format_args!("'{kind}': this model takes text only");
                return Err(ApiError::unsupported_value(path.field("type"), what));
            }
            _ => return Err(not_one_of(&path.field("type"), kind, &["text"])),
        }
    }
    Ok(text)
}

fn assistant<'a>(
    fields: &Fields<'a, '_>,
    reading: &Reading,
    seen: &mut HashSet<&'a str>,
    message: &mut Map<String, Value>,
) -> Result<(), ApiError> {
    // Both names are in use for the thoughts of an earlier turn; templates know the first.
    let reasoning = match fields.string("reasoning_content")? {
        Some(text) => Some(text),
        None => fields.get("reasoning").and_then(Value::as_str),
    };
    if let Some(text) = reasoning {
        message.insert("reasoning_content".to_owned(), json!(text));
    }
    let mut calls = Vec::new();
    let path = fields.path().field("tool_calls");
    let list = fields.array("tool_calls")?.map_or(&[][..], Vec::as_slice);
    reading.check_count(&path, list.len(), PARTS)?;
    for (index, call) in list.iter().enumerate() {
        let path = path.index(index);
        let call = Fields::of(call, &path)?;
        if let Some(kind) = call.string("type")?.filter(|kind| *kind != "function") {
            // A call of a kind that is not run here; its result is still answered to below.
            seen.insert(call.required_string("id")?);
            if !["custom"].contains(&kind) {
                return Err(not_one_of(&path.field("type"), kind, &["function", "custom"]));
            }
            reading.ignore(&path)?;
            continue;
        }
        let id = call.required_string("id")?;
        seen.insert(id);
        call.required("function")?;
        let path = path.field("function");
        let function = called(&Fields::of(call.required("function")?, &path)?)?;
        calls.push(json!({"id": id, "type": "function", "function": function}));
    }
    if let Some(call) = fields.get("function_call") {
        let path = fields.path().field("function_call");
        let function = called(&Fields::of(call, &path)?)?;
        calls.push(json!({"type": "function", "function": function}));
    }
    if !calls.is_empty() {
        message.insert("tool_calls".to_owned(), Value::Array(calls));
    }
    Ok(())
}

/// The member of a call that keeps its arguments as they were written; no template sees it.
pub(super) const WRITTEN: &str = "written";

/// `{name, arguments}` with the arguments as an object where their text is one. What a model wrote
/// that is no JSON object stays as it is: it did write it.
fn called(function: &Fields<'_, '_>) -> Result<Value, ApiError> {
    let name = function.required_string("name")?;
    let arguments = match function.required("arguments")? {
        Value::String(text) if text.trim().is_empty() => json!({}),
        Value::String(text) => match serde_json::from_str::<Value>(text) {
            Ok(object @ Value::Object(_)) if is_usual(text, &object) => object,
            Ok(object @ Value::Object(_)) => {
                return Ok(json!({"name": name, "arguments": object, WRITTEN: text}));
            }
            _ => json!(text),
        },
        object @ Value::Object(_) => object.clone(),
        other => return Err(wrong(&function.path().field("arguments"), "a string", other)),
    };
    Ok(json!({"name": name, "arguments": arguments}))
}

/// Whether a client may have written this text anew from what it read. Clients write JSON in one of
/// two ways; then what the model wrote is most likely what its template writes. Any other text is the
/// model's own.
fn is_usual(text: &str, object: &Value) -> bool {
    let compact = object.to_string();
    text == engine::template_json(object) || text == compact
}

/// Which system messages to hand to the template as notes of the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fold {
    /// Those after the first message.
    Later,
    /// All of them.
    All,
    /// All of them, and messages of the user that follow each other become one: for templates that
    /// want user and assistant to take turns.
    Turns,
}

/// Puts system messages into the user's messages, each at its own place: a template that knows no
/// system message, or none in the middle, can then render the conversation, and a later turn still
/// begins with the same text.
pub(super) fn fold_system(messages: &[Value], fold: Fold) -> Vec<Value> {
    let mut folded: Vec<Value> = Vec::with_capacity(messages.len());
    // Whether the last message ends in a note, to which the user's next words are appended.
    let mut open_note = false;
    for (index, message) in messages.iter().enumerate() {
        let is_system = is_system(message) && (fold != Fold::Later || index > 0);
        let is_user = message["role"] == "user";
        let joins = folded.last().is_some_and(|last| last["role"] == "user")
            && (is_system || (is_user && (open_note || fold == Fold::Turns)));
        if joins {
            let last = folded.last_mut().expect("not empty");
            if let Value::String(text) = &mut last["content"] {
                text.push_str("\n\n");
                text.push_str(message["content"].as_str().unwrap_or_default());
            }
        } else if is_system {
            folded.push(json!({"role": "user", "content": message["content"]}));
        } else {
            folded.push(message.clone());
        }
        open_note = is_system;
    }
    folded
}

/// Whether a message is an instruction rather than part of the conversation.
pub(super) fn is_system(message: &Value) -> bool {
    message["role"] == "system" || message["role"] == "developer"
}

#[cfg(test)]
mod tests {
    use super::super::read::Path;
    use super::*;

    fn normalised(messages: Value) -> Result<Vec<Value>, ApiError> {
        let body = json!({ "messages": messages });
        let path = Path::Root;
        read(&Fields::of(&body, &path).unwrap(), &Reading::new(false, 8, 4))
    }

    #[test]
    fn parts_become_text_and_markers_are_dropped() {
        let messages = normalised(json!([
            {"role": "user", "id": "m1", "content": [
                {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
                {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"z\":1,\"a\":2}"}},
                {"id": "c2", "function": {"name": "g", "arguments": "not json"}},
                {"id": "c3", "function": {"name": "h", "arguments": ""}}]},
            {"role": "tool", "tool_call_id": "c2", "content": "r"}
        ]))
        .unwrap();
        assert_eq!(
            Value::Array(messages).to_string(),
            json!([
                {"role": "user", "content": "ab"},
                {"role": "assistant", "content": "", "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"z": 1, "a": 2}}},
                    {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "not json"}},
                    {"id": "c3", "type": "function", "function": {"name": "h", "arguments": {}}}]},
                {"role": "tool", "content": "r", "tool_call_id": "c2"}
            ])
            .to_string()
        );
    }

    #[test]
    fn arguments_stay_as_the_model_wrote_them() {
        let called = |arguments: &str| {
            let function = json!({"name": "f", "arguments": arguments});
            let calls = json!([{"id": "c", "function": function}]);
            let messages = normalised(json!([{"role": "assistant", "tool_calls": calls}])).unwrap();
            messages[0]["tool_calls"][0]["function"].clone()
        };
        let object = json!({"name": "f", "arguments": {"a": 1, "b": [2]}});
        for usual in ["{\"a\": 1, \"b\": [2]}", "{\"a\":1,\"b\":[2]}"] {
            assert_eq!(called(usual), object);
        }
        let odd = "{ \"a\": 1, \"b\": [2]}";
        assert_eq!(called(odd)[WRITTEN], odd);
        assert_eq!(called(odd)["arguments"], object["arguments"]);
    }

    #[test]
    fn each_refusal_names_its_path() {
        let cases = [
            (json!([]), "invalid_value", "messages"),
            (json!([3]), "invalid_type", "messages[0]"),
            (json!([{"content": "x"}]), "missing_required_parameter", "messages[0].role"),
            (json!([{"role": "bot", "content": "x"}]), "invalid_value", "messages[0].role"),
            (json!([{"role": "user"}]), "missing_required_parameter", "messages[0].content"),
            (json!([{"role": "user", "content": 3}]), "invalid_type", "messages[0].content"),
            (json!([{"role": "user", "content": []}]), "invalid_value", "messages[0].content"),
            (
                json!([{"role": "user", "content": [{"type": "text"}]}]),
                "missing_required_parameter",
                "messages[0].content[0].text",
            ),
            (
                json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
                "unsupported_value",
                "messages[0].content[0].type",
            ),
            (
                json!([{"role": "user", "content": [{"type": "hologram"}]}]),
                "invalid_value",
                "messages[0].content[0].type",
            ),
            (json!([{"role": "assistant"}]), "missing_required_parameter", "messages[0].content"),
            (
                json!([{"role": "user", "content": "x"}, {"role": "tool", "content": "x"}]),
                "missing_required_parameter",
                "messages[1].tool_call_id",
            ),
            (
                json!([{"role": "tool", "tool_call_id": "nope", "content": "x"}]),
                "invalid_value",
                "messages[0].tool_call_id",
            ),
            (
                json!([{"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f"}}]}]),
                "missing_required_parameter",
                "messages[0].tool_calls[0].function.arguments",
            ),
        ];
        for (messages, code, param) in cases {
            let error = normalised(messages).unwrap_err();
            assert_eq!((error.label(), error.param()), (code, Some(param)));
        }
    }

    #[test]
    fn a_folded_system_message_stays_at_its_place() {
        let messages = [
            json!({"role": "system", "content": "S"}),
            json!({"role": "user", "content": "u1"}),
            json!({"role": "assistant", "content": "a1"}),
            json!({"role": "system", "content": "N"}),
            json!({"role": "user", "content": "u2"}),
        ];
        assert_eq!(
            fold_system(&messages, Fold::Later),
            [
                json!({"role": "system", "content": "S"}),
                json!({"role": "user", "content": "u1"}),
                json!({"role": "assistant", "content": "a1"}),
                json!({"role": "user", "content": "N\n\nu2"}),
            ]
        );
        assert_eq!(
            fold_system(&messages, Fold::All)[0],
            json!({"role": "user", "content": "S\n\nu1"})
        );
        let more = [&messages[..], &[json!({"role": "user", "content": "u3"})]].concat();
        assert_eq!(fold_system(&more, Fold::All).len(), 4);
        assert_eq!(
            fold_system(&more, Fold::Turns),
            [
                json!({"role": "user", "content": "S\n\nu1"}),
                json!({"role": "assistant", "content": "a1"}),
                json!({"role": "user", "content": "N\n\nu2\n\nu3"}),
            ]
        );
    }
}
