//! The items of a Responses request, made into chat messages.

use serde_json::{Value, json};

use super::super::conversation::{Conversation, unseal};
use super::super::error::ApiError;
use super::super::params::Reading;
use super::super::read::{Fields, Path, not_one_of, wrong};
use crate::limits::PARTS;

const ROLES: [&str; 4] = ["developer", "system", "user", "assistant"];
/// Kinds of content that exist in the API but are no text.
const NOT_TEXT: [&str; 5] =
    ["input_image", "input_file", "input_audio", "output_audio", "computer_screenshot"];

/// Adds an item, which stands at `path`. E3, E4, E5, E14, E15; an item of a kind that is not known, or
/// tells of a hosted tool, is ignored (E8 in strict mode).
pub(super) fn add(
    conversation: &mut Conversation,
    item: &Value,
    path: &Path<'_>,
    reading: &Reading,
) -> Result<(), ApiError> {
    let item = Fields::of(item, path)?;
    match item.string("type")? {
        Some("message") => message(conversation, &item, reading),
        None if item.get("role").is_some() => message(conversation, &item, reading),
        None => Err(ApiError::missing(path.field("type"))),
        Some("reasoning") => reasoning(conversation, &item, reading),
        Some("function_call") => call(conversation, &item, item.required_string("arguments")?),
        // A tool that takes any text: one parameter says the same to a template.
        Some("custom_tool_call") => {
            let arguments = json!({"input": item.required_string("input")?});
            call(conversation, &item, &arguments.to_string())
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
) -> Result<(), ApiError> {
    item.required_string("role")?;
    let role = item.choice("role", &ROLES)?.expect("present");
    let text = text(item, "content", reading)?;
    match role {
        "assistant" => conversation.say(&text),
        _ => conversation.push(role, &text),
    }
    Ok(())
}

/// Thoughts, in the clear or as we sealed them. Those of other servers stay unreadable.
fn reasoning(
    conversation: &mut Conversation,
    item: &Fields<'_, '_>,
    reading: &Reading,
) -> Result<(), ApiError> {
    let mut thoughts = match item.get("content") {
        Some(_) => text(item, "content", reading)?,
        None => String::new(),
    };
    if thoughts.is_empty() {
        let sealed = item.string("encrypted_content")?;
        thoughts = sealed.and_then(unseal).unwrap_or_default();
    }
    if !thoughts.is_empty() {
        conversation.think(&thoughts);
    }
    Ok(())
}

fn call(
    conversation: &mut Conversation,
    item: &Fields<'_, '_>,
    arguments: &str,
) -> Result<(), ApiError> {
    let (id, name) = (item.required_string("call_id")?, item.required_string("name")?);
    conversation.call(id, name, arguments);
    Ok(())
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
    conversation.result(id, &text(item, "output", reading)?);
    Ok(())
}

/// A field's text: a string, or parts put together with nothing between them.
fn text(item: &Fields<'_, '_>, name: &str, reading: &Reading) -> Result<String, ApiError> {
    let path = item.path().field(name);
    let parts = match item.required(name)? {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        other => return Err(wrong(&path, "a string or an array of parts", other)),
    };
    reading.check_count(&path, parts.len(), PARTS)?;
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        let path = path.index(index);
        let part = Fields::of(part, &path)?;
        match part.required_string("type")? {
            "input_text" | "output_text" | "text" | "reasoning_text" | "summary_text" => {
                text.push_str(part.required_string("text")?);
            }
            "refusal" => text.push_str(part.required_string("refusal")?),
            kind if NOT_TEXT.contains(&kind) => {
                let what = format_args!("'{kind}': this model takes text only");
                return Err(ApiError::unsupported_value(path.field("type"), what));
            }
            kind => return Err(not_one_of(&path.field("type"), kind, &["input_text"])),
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::super::conversation::seal;
    use super::*;

    fn messages(items: Value) -> Result<Vec<Value>, ApiError> {
        let reading = Reading::new(false, 8, 4);
        let mut conversation = Conversation::with(Some("Be brief."));
        let path = Path::Root.field("input");
        for (index, item) in items.as_array().unwrap().iter().enumerate() {
            add(&mut conversation, item, &path.index(index), &reading)?;
        }
        Ok(conversation.into_messages())
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
        let call = |id: &str, name: &str, arguments: &str| {
            let function = json!({"name": name, "arguments": arguments});
            json!({"id": id, "type": "function", "function": function})
        };
        let expected = [
            json!({"role": "system", "content": "Be brief."}),
            json!({"role": "developer", "content": "ab"}),
            json!({"role": "user", "content": "hello"}),
            json!({"role": "assistant", "content": "I look.", "reasoning_content": "hm, 7",
                   "tool_calls": [call("c1", "f", "{}"), call("c2", "g", r#"{"input":"x \"y\""}"#)]}),
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
