//! The items of a Responses request.

use serde_json::{Value, json};

use super::super::conversation::{Arguments, Conversation, Role, ToolCall};
use super::super::parts;
use super::super::read::{Fields, Path, not_one_of, wrong};
use super::super::reading::Reading;
use crate::error::ApiError;
use crate::limits::PARTS;

const ROLES: [&str; 4] = ["developer", "system", "user", "assistant"];
/// Kinds of content that exist in the API but are no text.
const NOT_TEXT: [&str; 5] =
    ["input_image", "input_file", "input_audio", "output_audio", "computer_screenshot"];

/// The fields of an item, and of its parts, that mean something or stand in what is answered.
const ITEM: &[&str] = &[
    "type",
    "role",
    "content",
    "id",
    "status",
    "phase",
    "call_id",
    "name",
    "namespace",
    "arguments",
    "input",
    "output",
    "summary",
    "encrypted_content",
];
const PART: &[&str] = &[
    "type",
    "text",
    "refusal",
    "annotations",
    "logprobs",
    "image_url",
    "detail",
    "file_id",
    "file_url",
    "file_data",
    "filename",
    "input_audio",
    "prompt_cache_breakpoint",
];

/// Whether an item holds words of the user.
pub(super) fn asks(item: &Value) -> bool {
    item["role"] == "user"
}

/// Adds an item, which stands at `path`. `is_asked`: it is what the user asks about now. E3, E4, E5, E14, E15; an item of a kind that is not known, or
/// tells of a hosted tool, is ignored (E8 in strict mode).
pub(super) fn add(
    conversation: &mut Conversation,
    item: &Value,
    path: &Path<'_>,
    reading: &Reading,
    is_asked: bool,
) -> Result<(), ApiError> {
    let value = item;
    let item = Fields::of(item, path)?;
    let kind = match item.string("type")? {
        None if item.get("role").is_some() => Some("message"),
        kind => kind,
    };
    let is_ours = ["message", "reasoning", "function_call", "custom_tool_call"];
    let is_output = kind.is_some_and(|kind| kind.ends_with("tool_call_output"));
    if is_output || kind.is_some_and(|kind| is_ours.contains(&kind)) {
        reading.known(&item, ITEM)?;
    }
    match kind {
        Some("message") => message(conversation, &item, reading, is_asked),
        None => Err(ApiError::missing(path.field("type"))),
        Some("reasoning") => reasoning(conversation, value, &item),
        Some("function_call") => call(conversation, &item, arguments(&item, reading)?, reading),
        // A tool that takes any text: one parameter says the same to a template.
        Some("custom_tool_call") => {
            let arguments = json!({"input": item.required_string("input")?});
            call(conversation, &item, Arguments::object(arguments), reading)
        }
        Some("function_call_output" | "custom_tool_call_output") => {
            output(conversation, &item, reading)
        }
        Some(_) => reading.ignore(path),
    }
}

fn message(
    conversation: &mut Conversation,
    item: &Fields<'_, '_>,
    reading: &Reading,
    is_asked: bool,
) -> Result<(), ApiError> {
    item.required_string("role")?;
    let role = item.choice("role", &ROLES)?.expect("present");
    if role == "assistant" {
        conversation.say(&said(item, "content", reading)?);
        return Ok(());
    }
    item.required("content")?;
    let known = |kind: &str, path: &Path<'_>| Err(not_one_of(path, kind, &["input_text"]));
    conversation.push(
        Role::of(role).expect("one of the roles"),
        &text(item, "content", is_asked, reading, known)?,
    );
    Ok(())
}

/// Thoughts, in the clear or as we sealed them. Those of other servers stay unreadable.
fn reasoning(
    conversation: &mut Conversation,
    value: &Value,
    item: &Fields<'_, '_>,
) -> Result<(), ApiError> {
    item.string("encrypted_content")?;
    let thoughts = parts::thoughts(value);
    if !thoughts.is_empty() {
        conversation.think(&thoughts);
    }
    Ok(())
}

/// The arguments of a call; there may be none.
fn arguments(item: &Fields<'_, '_>, reading: &Reading) -> Result<Arguments, ApiError> {
    match item.get("arguments") {
        None => Ok(Arguments::none()),
        Some(Value::Array(list)) if list.is_empty() => Ok(Arguments::none()),
        Some(Value::String(text)) => Arguments::text(text, reading),
        Some(object @ Value::Object(_)) => Ok(Arguments::object(object.clone())),
        Some(other) => Err(wrong(&item.path().field("arguments"), "a string", other)),
    }
}

fn call(
    conversation: &mut Conversation,
    item: &Fields<'_, '_>,
    arguments: Arguments,
    reading: &Reading,
) -> Result<(), ApiError> {
    let (id, name) = (item.required_string("call_id")?, item.required_string("name")?);
    let call = ToolCall { id: Some(id.to_owned()), name: name.to_owned(), arguments };
    conversation.call(item.path(), call, reading)
}

fn output(
    conversation: &mut Conversation,
    item: &Fields<'_, '_>,
    reading: &Reading,
) -> Result<(), ApiError> {
    let id = item.required_string("call_id")?;
    if !conversation.called(id) {
        let what = format_args!("'{id:.64}' is no id of an earlier tool call");
        return Err(ApiError::invalid_value(item.path().field("call_id"), what));
    }
    let text = match item.get("output") {
        // JSON that nobody made a text of.
        Some(object @ Value::Object(_)) => engine::template_json(object),
        _ => said(item, "output", reading)?,
    };
    conversation.result(id, &text);
    Ok(())
}

/// What a model or a tool said, which may be nothing.
fn said(item: &Fields<'_, '_>, name: &str, reading: &Reading) -> Result<String, ApiError> {
    text(item, name, false, reading, |_, path| reading.ignore(path))
}

/// A field's text: a string, or parts put together with nothing between them. `is_asked`: the user asks
/// about it now. `unknown` handles parts of an unknown kind.
fn text(
    item: &Fields<'_, '_>,
    name: &str,
    is_asked: bool,
    reading: &Reading,
    unknown: impl Fn(&str, &Path<'_>) -> Result<(), ApiError>,
) -> Result<String, ApiError> {
    let path = item.path().field(name);
    let list = match item.get(name) {
        None => return Ok(String::new()),
        Some(Value::String(text)) => return Ok(text.clone()),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong(&path, "a string or an array of parts", other)),
    };
    reading.check_count(&path, list.len(), PARTS)?;
    let mut text = String::new();
    for (index, part) in list.iter().enumerate() {
        let path = path.index(index);
        let part = Fields::of(part, &path)?;
        let kind = part.required_string("type")?;
        reading.known(&part, PART)?;
        match kind {
            "input_text" | "text" => text.push_str(part.required_string("text")?),
            // What a model wrote may be nothing.
            "output_text" | "reasoning_text" | "summary_text" => {
                text.push_str(part.string("text")?.unwrap_or_default());
            }
            "refusal" => text.push_str(part.required_string("refusal")?),
            kind if NOT_TEXT.contains(&kind) => parts::note(&mut text, kind, &path, is_asked)?,
            kind => unknown(kind, &path.field("type"))?,
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::super::conversation::{Message, seal};
    use super::*;

    fn messages(items: Value) -> Result<Vec<Value>, ApiError> {
        let reading = Reading::new(false, 8, 4);
        let mut conversation = Conversation::with(Some("Be brief."));
        let path = Path::Root.field("input");
        for (index, item) in items.as_array().unwrap().iter().enumerate() {
            add(&mut conversation, item, &path.index(index), &reading, asks(item))?;
        }
        Ok(conversation.into_messages().iter().map(Message::for_template).collect())
    }

    #[test]
    fn the_items_of_a_turn_are_one_message() {
        let made = messages(json!([
            {"type": "message", "id": "msg_1", "role": "developer",
             "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            {"role": "user", "content": "hello"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": seal("hm, 7")},
            {"type": "message", "role": "assistant", "status": "completed",
             "content": [{"type": "output_text", "text": "I look.", "annotations": []}]},
            {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "custom_tool_call", "call_id": "c2", "name": "g", "input": "x \"y\""},
            {"type": "function_call_output", "call_id": "c2",
             "output": [{"type": "input_text", "text": "two"}]},
            {"type": "function_call_output", "id": "fco_1", "call_id": "c1", "output": "one"},
            {"type": "web_search_call", "id": "ws_1", "status": "completed"},
            {"type": "reasoning", "summary": [], "encrypted_content": "someone else's"},
            {"type": "reasoning", "summary": [],
             "content": [{"type": "reasoning_text", "text": "so"}], "encrypted_content": seal("no")},
            {"type": "message", "role": "assistant", "content": "Done."}
        ]))
        .unwrap();
        let call = |id: &str, name: &str, arguments: Value| {
            let function = json!({"name": name, "arguments": arguments});
            json!({"id": id, "type": "function", "function": function})
        };
        let expected = [
            json!({"role": "system", "content": "Be brief."}),
            json!({"role": "developer", "content": "ab"}),
            json!({"role": "user", "content": "hello"}),
            json!({"role": "assistant", "content": "I look.", "reasoning_content": "hm, 7",
                   "tool_calls": [call("c1", "f", json!({})), call("c2", "g", json!({"input": "x \"y\""}))]}),
            json!({"role": "tool", "tool_call_id": "c2", "content": "two"}),
            json!({"role": "tool", "tool_call_id": "c1", "content": "one"}),
            json!({"role": "assistant", "content": "Done.", "reasoning_content": "so"}),
        ];
        assert_eq!(made, expected);
    }

    #[test]
    fn each_refusal_names_its_path() {
        let cases = [
            (json!([3]), "invalid_type", "input[0]"),
            (json!([{"content": "x"}]), "missing_required_parameter", "input[0].type"),
            (json!([{"role": "bot", "content": "x"}]), "invalid_value", "input[0].role"),
            (json!([{"role": "user"}]), "missing_required_parameter", "input[0].content"),
            (json!([{"role": "user", "content": 1}]), "invalid_type", "input[0].content"),
            (
                json!([{"role": "user", "content": [{"type": "input_image"}]}]),
                "unsupported_value",
                "input[0].content[0].type",
            ),
            (
                json!([{"type": "function_call", "call_id": "c", "arguments": "{}"}]),
                "missing_required_parameter",
                "input[0].name",
            ),
            (
                json!([{"type": "function_call_output", "call_id": "c", "output": "x"}]),
                "invalid_value",
                "input[0].call_id",
            ),
        ];
        for (items, code, param) in cases {
            let error = messages(items).unwrap_err();
            assert_eq!((error.label(), error.param()), (code, Some(param)));
        }
    }
}
