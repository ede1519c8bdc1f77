//! The messages of a chat request, in all the forms in which clients send them.

use std::collections::HashSet;

use serde_json::Value;

use super::conversation::{Arguments, Message, Role, ToolCall};
use super::parts;
use super::read::{Fields, Path, not_one_of, wrong};
use super::reading::Reading;
use crate::error::ApiError;
use crate::limits::{MESSAGES, PARTS};

const ROLES: [&str; 6] = ["developer", "system", "user", "assistant", "tool", "function"];
/// Kinds of content parts that are no text, of this API and of others whose messages are sent here.
const NOT_TEXT: [&str; 11] = [
    "image_url",
    "input_audio",
    "file",
    "input_image",
    "audio",
    "video_url",
    "image",
    "video",
    "document",
    "input_file",
    "audio_url",
];
/// Fields of an assistant's message that hold its thoughts, by the names that servers have for them.
const THOUGHTS: [&str; 5] =
    ["reasoning_content", "reasoning", "thinking", "thinking_blocks", "reasoning_details"];

/// The fields of a message that mean something, or stand in what servers answer and clients send back.
const MESSAGE: &[&str] = &[
    "role",
    "content",
    "name",
    "tool_calls",
    "tool_call_id",
    "function_call",
    "refusal",
    "reasoning_content",
    "reasoning",
    "thinking",
    "thinking_blocks",
    "reasoning_details",
    "annotations",
    "audio",
    "id",
    "cache_control",
];
/// The same of a content part.
const PART: &[&str] = &[
    "type",
    "text",
    "refusal",
    "thinking",
    "reasoning",
    "summary",
    "signature",
    "data",
    "annotations",
    "logprobs",
    "id",
    "cache_control",
    "image_url",
    "input_audio",
    "file",
    "image",
    "audio",
    "video",
    "video_url",
    "audio_url",
    "source",
    "detail",
];
/// The same of a call.
const CALL: &[&str] = &["id", "type", "index", "function", "custom", "cache_control"];
/// The same of the function in it.
const FUNCTION: &[&str] = &["name", "arguments"];

/// Reads `messages`. E3, E4, E5, E9, E14, E15.
pub(super) fn read(fields: &Fields<'_, '_>, reading: &Reading) -> Result<Vec<Message>, ApiError> {
    fields.required("messages")?;
    let path = fields.path().field("messages");
    let list = fields.array("messages")?.expect("present");
    if list.is_empty() {
        return Err(ApiError::invalid_value(path, "at least one message is needed"));
    }
    reading.check_count(&path, list.len(), MESSAGES)?;
    let asked = list.iter().rposition(|message| message["role"] == "user");
    let mut calls = HashSet::new();
    list.iter()
        .enumerate()
        .map(|(index, message)| {
            let path = path.index(index);
            let fields = Fields::of(message, &path)?;
            read_message(&fields, reading, asked == Some(index), &mut calls)
        })
        .collect()
}

/// `is_asked`: it is the user's last message. `calls`: ids of the tool calls seen so far.
fn read_message<'a>(
    fields: &Fields<'a, '_>,
    reading: &Reading,
    is_asked: bool,
    calls: &mut HashSet<&'a str>,
) -> Result<Message, ApiError> {
    fields.required_string("role")?;
    let role = fields.choice("role", &ROLES)?.expect("present");
    reading.known(fields, MESSAGE)?;
    let said = content(fields, role, reading, is_asked)?;
    let mut message = Message::new(Role::of(role).expect("one of the roles"), said.text);
    message.name = fields.string("name")?.map(str::to_owned);
    match role {
        "assistant" => assistant(fields, reading, &said.thoughts, calls, &mut message)?,
        "tool" => {
            let id = fields.required_string("tool_call_id")?;
            if !calls.contains(id) {
                let what = format_args!("'{id:.64}' is no id of an earlier tool call");
                return Err(ApiError::invalid_value(fields.path().field("tool_call_id"), what));
            }
            message.call_id = Some(id.to_owned());
        }
        _ => {}
    }
    Ok(message)
}

/// What the content of a message holds.
#[derive(Default)]
struct Said {
    text: String,
    thoughts: String,
}

/// A message's text; parts are put together with nothing between them. What a model or a tool said may
/// be nothing at all: other servers write that as null, as an empty list, or leave the field out.
fn content(
    fields: &Fields<'_, '_>,
    role: &str,
    reading: &Reading,
    is_asked: bool,
) -> Result<Said, ApiError> {
    let path = fields.path().field("content");
    let may_be_nothing = matches!(role, "assistant" | "tool" | "function");
    let mut said = Said::default();
    match fields.get("content") {
        Some(Value::String(text)) => said.text.clone_from(text),
        Some(Value::Array(parts)) if parts.is_empty() && !may_be_nothing => {
            return Err(ApiError::invalid_value(path, "at least one part is needed"));
        }
        Some(Value::Array(parts)) => {
            reading.check_count(&path, parts.len(), PARTS)?;
            for (index, part) in parts.iter().enumerate() {
                let path = path.index(index);
                match part {
                    Value::String(text) if may_be_nothing => said.text.push_str(text),
                    part => said.take(part, &path, role, reading, is_asked)?,
                }
            }
        }
        // What a tool gave, as JSON that nobody made a text of.
        Some(value) if role == "tool" || role == "function" => {
            said.text = engine::template_json(value);
        }
        Some(other) => return Err(wrong(&path, "a string or an array of parts", other)),
        None if may_be_nothing => {}
        None => return Err(ApiError::missing(path)),
    }
    let refusal = fields.string("refusal")?.filter(|_| role == "assistant").unwrap_or_default();
    if !refusal.is_empty() && said.text != refusal {
        said.text.push_str(if said.text.is_empty() { "" } else { "\n\n" });
        said.text.push_str(refusal);
    }
    Ok(said)
}

impl Said {
    /// Adds a part.
    fn take(
        &mut self,
        value: &Value,
        path: &Path<'_>,
        role: &str,
        reading: &Reading,
        is_asked: bool,
    ) -> Result<(), ApiError> {
        let part = Fields::of(value, path)?;
        let kind = part.required_string("type")?;
        reading.known(&part, PART)?;
        match kind {
            "text" | "input_text" | "output_text" => match part.string("text")? {
                None if matches!(role, "user" | "system" | "developer") => {
                    return Err(ApiError::missing(path.field("text")));
                }
                text => self.text.push_str(text.unwrap_or_default()),
            },
            "refusal" if role == "assistant" => {
                self.text.push_str(part.required_string("refusal")?)
            }
            "thinking" | "redacted_thinking" | "reasoning" if role == "assistant" => {
                let thoughts = parts::thoughts(value);
                if !thoughts.is_empty() && !self.thoughts.is_empty() {
                    self.thoughts.push_str("\n\n");
                }
                self.thoughts.push_str(&thoughts);
            }
            _ if NOT_TEXT.contains(&kind) => {
                parts::note(&mut self.text, kind, path, is_asked)?;
            }
            _ if matches!(role, "user" | "system" | "developer") => {
                return Err(not_one_of(&path.field("type"), kind, &["text"]));
            }
            // Such as a call that stands in 'tool_calls' as well.
            _ => reading.ignore(path)?,
        }
        Ok(())
    }
}

/// `in_parts`: thoughts that stood in the content.
fn assistant<'a>(
    fields: &Fields<'a, '_>,
    reading: &Reading,
    in_parts: &str,
    seen: &mut HashSet<&'a str>,
    message: &mut Message,
) -> Result<(), ApiError> {
    let mut thoughts = in_parts.to_owned();
    for name in THOUGHTS.iter().rev() {
        match fields.get(name) {
            Some(value @ (Value::String(_) | Value::Array(_) | Value::Object(_))) => {
                let found = parts::thoughts(value);
                thoughts = if found.is_empty() { thoughts } else { found };
            }
            Some(other) => {
                let path = fields.path().field(name);
                return Err(wrong(&path, "a string or an array of blocks", other));
            }
            None => {}
        }
    }
    message.thoughts = thoughts;
    let path = fields.path().field("tool_calls");
    let list = fields.array("tool_calls")?.map_or(&[][..], Vec::as_slice);
    reading.check_count(&path, list.len(), PARTS)?;
    for (index, call) in list.iter().enumerate() {
        let path = path.index(index);
        let call = Fields::of(call, &path)?;
        reading.known(&call, CALL)?;
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
        let path = path.field("function");
        let function = called(&Fields::of(call.required("function")?, &path)?, reading)?;
        message.calls.push(ToolCall { id: Some(id.to_owned()), ..function });
    }
    if let Some(call) = fields.get("function_call") {
        let path = fields.path().field("function_call");
        let function = called(&Fields::of(call, &path)?, reading)?;
        message.calls.push(function);
    }
    Ok(())
}

/// A call, without its id. Its arguments may be an object, the text of one, or nothing: null, an empty
/// text or an empty list.
fn called(function: &Fields<'_, '_>, reading: &Reading) -> Result<ToolCall, ApiError> {
    let name = function.required_string("name")?.to_owned();
    reading.known(function, FUNCTION)?;
    let arguments = match function.get("arguments") {
        None => Arguments::none(),
        Some(Value::Array(list)) if list.is_empty() => Arguments::none(),
        Some(Value::String(text)) => Arguments::text(text, reading)?,
        Some(object @ Value::Object(_)) => Arguments::object(object.clone()),
        Some(other) => Arguments::other(other),
    };
    Ok(ToolCall { id: None, name, arguments })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::conversation::WRITTEN;
    use super::*;

    fn normalised(messages: Value) -> Result<Vec<Value>, ApiError> {
        let body = json!({ "messages": messages });
        let path = Path::Root;
        let read = read(&Fields::of(&body, &path).unwrap(), &Reading::new(false, 8, 4))?;
        Ok(read.iter().map(Message::for_template).collect())
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
        for (odd, arguments) in [
            (r#"{"path": "\ud83d"}"#, json!({"path": "\u{fffd}"})),
            ("{\"a\":NaN}", json!({"a": null})),
            ("{\"a\": \"b\n\tc\"}", json!({"a": "b\n\tc"})),
            ("{\"a\": 1e999}", json!({"a": "1e999"})),
        ] {
            assert_eq!(called(odd)[WRITTEN], odd);
            assert_eq!(called(odd)["arguments"], arguments);
        }
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
            (
                json!([{"role": "assistant", "reasoning_content": 3}]),
                "invalid_type",
                "messages[0].reasoning_content",
            ),
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
                json!([{"role": "assistant", "tool_calls": [{"id": "c", "function": {}}]}]),
                "missing_required_parameter",
                "messages[0].tool_calls[0].function.name",
            ),
        ];
        for (messages, code, param) in cases {
            let error = normalised(messages).unwrap_err();
            assert_eq!((error.label(), error.param()), (code, Some(param)));
        }
    }
    #[test]
    fn arguments_that_are_none_are_an_empty_object() {
        for nothing in
            [json!(null), json!(""), json!(" "), json!([]), json!({}), json!("{}"), json!("null")]
        {
            let function = json!({"name": "f", "arguments": nothing});
            let calls = json!([{"id": "c", "function": function}]);
            let messages = normalised(json!([{"role": "assistant", "tool_calls": calls}])).unwrap();
            assert_eq!(
                messages[0]["tool_calls"][0]["function"]["arguments"],
                json!({}),
                "{nothing}"
            );
        }
        let function = json!({"name": "f"});
        let call = json!([{"role": "assistant", "function_call": function}]);
        let messages = normalised(call).unwrap();
        assert_eq!(messages[0]["tool_calls"][0]["function"]["arguments"], json!({}));
    }

    #[test]
    fn what_is_no_text_is_noted_unless_the_user_asks_about_it_now() {
        let image = json!({"type": "image_url", "image_url": {"url": "data:,"}});
        let text = json!({"type": "text", "text": "look"});
        let call = json!({"id": "c", "function": {"name": "f", "arguments": "{}"}});
        let history = [
            json!({"role": "user", "content": [text, image]}),
            json!({"role": "assistant", "content": null, "tool_calls": [call]}),
            json!({"role": "tool", "tool_call_id": "c", "content": [image]}),
        ];
        let asked = normalised(json!(history)).unwrap_err();
        assert_eq!(asked.param(), Some("messages[0].content[1].type"));
        let later = [&history[..], &[json!({"role": "user", "content": "and now?"})]].concat();
        let messages = normalised(json!(later)).unwrap();
        let note = "[an image was left out: this model reads text only]\n";
        assert_eq!(messages[0]["content"], format!("look\n{note}"));
        assert_eq!(messages[2]["content"], note);
    }

    #[test]
    fn unknown_fields_of_messages_are_counted() {
        let body =
            json!({"messages": [{"role": "user", "content": "x", "vendor": 1, "other": null}]});
        let path = Path::Root;
        let lenient = Reading::new(false, 8, 4);
        read(&Fields::of(&body, &path).unwrap(), &lenient).unwrap();
        assert!(lenient.into_ignored().names.iter().eq(["messages[].?"]));
        let strict = Reading::new(true, 8, 4);
        let error = read(&Fields::of(&body, &path).unwrap(), &strict).unwrap_err();
        assert_eq!(error.param(), Some("messages[0].vendor"));
    }
}
