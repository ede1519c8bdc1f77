//! The messages of an Anthropic request.

use serde_json::Value;

use super::super::conversation::{Arguments, Conversation, Role, ToolCall};
use super::super::parts;
use super::super::read::{Fields, Path, not_one_of, wrong};
use super::super::reading::Reading;
use crate::error::ApiError;
use crate::limits::{MESSAGES, PARTS};

const ROLES: [&str; 3] = ["user", "assistant", "system"];
/// Kinds of content that exist in the API but are no text.
const NOT_TEXT: [&str; 4] = ["image", "document", "search_result", "container_upload"];
/// The fields of a message, and of blocks, that mean something or stand in what is answered.
const MESSAGE: &[&str] = &["role", "content", "id", "type", "model"];
const BLOCK: &[&str] = &[
    "type",
    "text",
    "cache_control",
    "citations",
    "thinking",
    "signature",
    "data",
    "id",
    "name",
    "input",
    "caller",
    "tool_use_id",
    "content",
    "is_error",
    "tool_name",
    "source",
    "title",
    "context",
];
/// A line that Claude Code sends about itself as the first system block: versions and checksums which
/// may differ from turn to turn, and are not meant for the model.
const BILLING: &str = "x-anthropic-billing-header:";

/// `system`: a string, or text blocks.
pub(super) fn system(
    fields: &Fields<'_, '_>,
    reading: &Reading,
) -> Result<Option<String>, ApiError> {
    let path = fields.path().field("system");
    let blocks = match fields.get("system") {
        None => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text.clone())),
        Some(Value::Array(blocks)) => blocks,
        Some(other) => return Err(wrong(&path, "a string or an array of blocks", other)),
    };
    let mut text = String::new();
    for (index, block) in blocks.iter().enumerate() {
        let path = path.index(index);
        let block = Fields::of(block, &path)?;
        let said = match block.required_string("type")? {
            "text" => block.required_string("text")?,
            kind => return Err(not_one_of(&path.field("type"), kind, &["text"])),
        };
        reading.known(&block, BLOCK)?;
        if !said.starts_with(BILLING) {
            text.push_str(said);
        }
    }
    Ok((!text.is_empty()).then_some(text))
}

/// Adds `messages` to a conversation. E3, E4, E5, E9, E14, E15.
pub(super) fn messages(
    fields: &Fields<'_, '_>,
    conversation: &mut Conversation,
    reading: &Reading,
) -> Result<(), ApiError> {
    fields.required("messages")?;
    let path = fields.path().field("messages");
    let list = fields.array("messages")?.expect("present");
    if list.is_empty() {
        return Err(ApiError::invalid_value(path, "at least one message is needed"));
    }
    reading.check_count(&path, list.len(), MESSAGES)?;
    let asked = list.iter().rposition(asks);
    for (index, message) in list.iter().enumerate() {
        let path = path.index(index);
        let message = Fields::of(message, &path)?;
        message.required_string("role")?;
        let role = message.choice("role", &ROLES)?.expect("present");
        reading.known(&message, MESSAGE)?;
        let content = path.field("content");
        match message.get("content") {
            Some(Value::String(text)) if role == "assistant" => conversation.say(text),
            Some(Value::String(text)) => conversation.push(role_of(role), text),
            Some(Value::Array(blocks)) if role == "assistant" => {
                turn(blocks, &content, conversation, reading)?;
            }
            Some(Value::Array(blocks)) => {
                let is_asked = asked == Some(index);
                others((role, is_asked), blocks, &content, conversation, reading)?;
            }
            Some(other) => return Err(wrong(&content, "a string or an array of blocks", other)),
            None if role == "assistant" => conversation.say(""),
            None => return Err(ApiError::missing(content)),
        }
    }
    if list.last().is_some_and(|last| last["role"] == "assistant") {
        let what =
            "the last message is the assistant's, and an answer cannot be begun for the model";
        return Err(ApiError::unsupported_value(path, what));
    }
    Ok(())
}

/// The role of one of [`ROLES`].
fn role_of(name: &str) -> Role {
    Role::of(name).expect("one of the roles")
}

/// Whether a message holds words of the user, rather than results of calls only.
fn asks(message: &Value) -> bool {
    let is_result = |block: &Value| block["type"] == "tool_result";
    let only_results =
        message["content"].as_array().is_some_and(|blocks| blocks.iter().all(is_result));
    message["role"] == "user" && !only_results
}

/// The blocks of a turn of the model; there may be none.
fn turn(
    blocks: &[Value],
    path: &Path<'_>,
    conversation: &mut Conversation,
    reading: &Reading,
) -> Result<(), ApiError> {
    reading.check_count(path, blocks.len(), PARTS)?;
    conversation.say("");
    for (index, value) in blocks.iter().enumerate() {
        let path = path.index(index);
        let block = Fields::of(value, &path)?;
        let kind = block.required_string("type")?;
        reading.known(&block, BLOCK)?;
        match kind {
            "text" => conversation.say(block.string("text")?.unwrap_or_default()),
            // What another server sealed only it can read.
            "thinking" | "redacted_thinking" => {
                for name in ["thinking", "signature"] {
                    block.string(name)?;
                }
                let thoughts = parts::thoughts(value);
                if !thoughts.is_empty() {
                    conversation.think(&thoughts);
                }
            }
            "tool_use" => {
                let (id, name) = (block.required_string("id")?, block.required_string("name")?);
                let arguments = match block.get("input") {
                    None => Arguments::none(),
                    // As languages write it that have one empty literal for lists and maps.
                    Some(Value::Array(list)) if list.is_empty() => Arguments::none(),
                    // As it was streamed, perhaps cut.
                    Some(Value::String(text)) => Arguments::text(text, reading)?,
                    Some(object @ Value::Object(_)) => Arguments::object(object.clone()),
                    Some(other) => return Err(wrong(&path.field("input"), "an object", other)),
                };
                let call = ToolCall { id: Some(id.to_owned()), name: name.to_owned(), arguments };
                conversation.call(&path, call, reading)?;
            }
            _ => reading.ignore(&path)?,
        }
    }
    Ok(())
}

/// The blocks of a message of the user (or of the system, in the middle of the conversation). Results
/// of calls become messages of their own, at their place. `is_asked`: the user asks about it now.
fn others(
    (role, is_asked): (&str, bool),
    blocks: &[Value],
    path: &Path<'_>,
    conversation: &mut Conversation,
    reading: &Reading,
) -> Result<(), ApiError> {
    reading.check_count(path, blocks.len(), PARTS)?;
    let mut text = String::new();
    let mut has_text = blocks.is_empty();
    for (index, block) in blocks.iter().enumerate() {
        let path = path.index(index);
        let block = Fields::of(block, &path)?;
        let kind = block.required_string("type")?;
        reading.known(&block, BLOCK)?;
        match kind {
            "text" => {
                has_text = true;
                text.push_str(block.required_string("text")?);
            }
            "tool_result" => {
                if std::mem::take(&mut has_text) {
                    conversation.push(role_of(role), &std::mem::take(&mut text));
                }
                result(&block, conversation, reading)?;
            }
            kind if NOT_TEXT.contains(&kind) => {
                has_text = true;
                parts::note(&mut text, kind, &path, is_asked)?;
            }
            _ => reading.ignore(&path)?,
        }
    }
    if has_text {
        conversation.push(role_of(role), &text);
    }
    Ok(())
}

fn result(
    block: &Fields<'_, '_>,
    conversation: &mut Conversation,
    reading: &Reading,
) -> Result<(), ApiError> {
    let id = block.required_string("tool_use_id")?;
    if !conversation.called(id) {
        let what = format_args!("'{id:.64}' is no id of an earlier tool_use block");
        return Err(ApiError::invalid_value(block.path().field("tool_use_id"), what));
    }
    let path = block.path().field("content");
    let mut text = String::new();
    // Templates have no field for it.
    if block.boolean("is_error")? == Some(true) {
        text.push_str("Error: ");
    }
    match block.get("content") {
        None => {}
        Some(Value::String(said)) => text.push_str(said),
        Some(Value::Array(parts)) => {
            for (index, part) in parts.iter().enumerate() {
                let path = path.index(index);
                let part = Fields::of(part, &path)?;
                let kind = part.required_string("type")?;
                reading.known(&part, BLOCK)?;
                match kind {
                    "text" => text.push_str(part.string("text")?.unwrap_or_default()),
                    // What a search for tools found: all tools are offered from the start.
                    "tool_reference" => {
                        let name = part.required_string("tool_name")?;
                        text.push_str(&format!("The tool {name} can be called.\n"));
                    }
                    kind if NOT_TEXT.contains(&kind) => {
                        parts::note(&mut text, kind, &path, false)?;
                    }
                    _ => reading.ignore(&path)?,
                }
            }
        }
        Some(other) => return Err(wrong(&path, "a string or an array of blocks", other)),
    }
    conversation.result(id, &text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::conversation::{Message, seal};
    use super::*;
    use serde_json::json;

    fn read(body: Value) -> Result<Vec<Value>, ApiError> {
        let path = Path::Root;
        let fields = Fields::of(&body, &path)?;
        let reading = Reading::new(false, 8, 4);
        let mut conversation = Conversation::with(system(&fields, &reading)?.as_deref());
        messages(&fields, &mut conversation, &reading)?;
        Ok(conversation.into_messages().iter().map(Message::for_template).collect())
    }

    #[test]
    fn blocks_become_messages_and_what_is_not_for_the_model_is_dropped() {
        let cached = json!({"type": "ephemeral"});
        let made = read(json!({
            "system": [
                {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=12;"},
                {"type": "text", "text": "You are X.", "cache_control": cached},
                {"type": "text", "text": "\nBe brief."}],
            "messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": "<note/>"},
                    {"type": "text", "text": "hello", "cache_control": cached}]},
                {"role": "system", "content": "Mind the time."},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "", "signature": seal("hm")},
                    {"type": "redacted_thinking", "data": "zzz"},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"z": 1, "a": "b"}},
                    {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
                    {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t2", "is_error": true, "content": "no"},
                    {"type": "tool_result", "tool_use_id": "t1", "is_error": false,
                     "content": [{"type": "text", "text": "one"}], "cache_control": cached},
                    {"type": "text", "text": "go on"}]},
                {"role": "assistant", "content": "Done."},
                {"role": "user", "content": "thanks"}]
        }))
        .unwrap();
        let call = |id: &str, name: &str, arguments: Value| {
            let function = json!({"name": name, "arguments": arguments});
            json!({"id": id, "type": "function", "function": function})
        };
        let expected = [
            json!({"role": "system", "content": "You are X.\nBe brief."}),
            json!({"role": "user", "content": "<note/>hello"}),
            json!({"role": "system", "content": "Mind the time."}),
            json!({"role": "assistant", "content": "I look.", "reasoning_content": "hm",
                   "tool_calls": [call("t1", "f", json!({"z": 1, "a": "b"})), call("t2", "g", json!({}))]}),
            json!({"role": "tool", "tool_call_id": "t2", "content": "Error: no"}),
            json!({"role": "tool", "tool_call_id": "t1", "content": "one"}),
            json!({"role": "user", "content": "go on"}),
            json!({"role": "assistant", "content": "Done."}),
            json!({"role": "user", "content": "thanks"}),
        ];
        assert_eq!(made, expected);
    }

    #[test]
    fn a_call_with_nothing_as_its_input_has_no_arguments() {
        for input in [json!([]), json!(null), json!(""), json!({})] {
            let call = json!({"type": "tool_use", "id": "t", "name": "f", "input": input});
            let made = read(json!({"messages": [
                {"role": "assistant", "content": [call]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]}]}))
            .unwrap();
            let arguments = &made[0]["tool_calls"][0]["function"]["arguments"];
            assert_eq!(*arguments, json!({}), "{input}");
        }
    }

    #[test]
    fn each_refusal_names_its_path() {
        let user = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
        let cases = [
            (json!({}), "missing_required_parameter", "messages"),
            (json!({"messages": []}), "invalid_value", "messages"),
            (
                json!({"messages": [{"role": "tool", "content": "x"}]}),
                "invalid_value",
                "messages[0].role",
            ),
            (
                json!({"messages": [{"role": "user"}]}),
                "missing_required_parameter",
                "messages[0].content",
            ),
            (user(json!(3)), "invalid_type", "messages[0].content"),
            (user(json!([{"type": "image"}])), "unsupported_value", "messages[0].content[0].type"),
            (
                user(json!([{"type": "tool_result", "tool_use_id": "t", "content": "x"}])),
                "invalid_value",
                "messages[0].content[0].tool_use_id",
            ),
            (
                json!({"messages": [{"role": "assistant", "content": "I begin"}]}),
                "unsupported_value",
                "messages",
            ),
            (json!({"system": 3, "messages": []}), "invalid_type", "system"),
            (
                json!({"system": [{"type": "image"}], "messages": []}),
                "invalid_value",
                "system[0].type",
            ),
        ];
        for (body, code, param) in cases {
            let error = read(body).unwrap_err();
            assert_eq!((error.label(), error.param()), (code, Some(param)));
        }
    }
}
