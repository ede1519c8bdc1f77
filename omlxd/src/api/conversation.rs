//! A conversation, as the requests of every API are read into it. What belongs to one turn of the
//! model (its thoughts, its words, its calls) is one message, even where an API sends it in pieces.

use std::collections::HashSet;

use base64::prelude::{BASE64_STANDARD_NO_PAD, Engine as _};
use serde_json::{Map, Value, json};

use super::json::as_written;
use super::read::Path;
use super::reading::Reading;
use crate::error::ApiError;
use crate::limits::PARTS;

/// Marks thoughts that we handed out.
const SEAL: &str = "omlx1.";

/// The member of a call for templates that keeps its arguments as they were written. It is removed
/// before a template is rendered.
pub(super) const WRITTEN: &str = "written";

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Developer,
    System,
    User,
    Assistant,
    Tool,
}

impl Role {
    /// The role of this name. The deprecated `function` is `tool` under its old name.
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "developer" => Role::Developer,
            "system" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "tool" | "function" => Role::Tool,
            _ => return None,
        })
    }

    fn as_str(self) -> &'static str {
        match self {
            Role::Developer => "developer",
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// A message. Only what can matter to the prompt is kept, so that ids and cache markers which change
/// from turn to turn do not change the prompt.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Message {
    pub role: Role,
    pub text: String,
    /// The participant's name.
    pub name: Option<String>,
    /// What the model thought; empty for none.
    pub thoughts: String,
    /// The calls that the model made.
    pub calls: Vec<ToolCall>,
    /// The id of the call that a tool answers.
    pub call_id: Option<String>,
}

/// A call that a model made.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ToolCall {
    /// `None` for the deprecated `function_call`.
    pub id: Option<String>,
    pub name: String,
    pub arguments: Arguments,
}

/// The arguments of a call.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Arguments {
    /// An object where they are one or none. What a model wrote that is no JSON object stays a text.
    value: Value,
    /// The text that the model wrote, where it is not one that clients write.
    written: Option<String>,
}

impl Message {
    /// A message of this text.
    pub(super) fn new(role: Role, text: impl Into<String>) -> Self {
        Message {
            role,
            text: text.into(),
            name: None,
            thoughts: String::new(),
            calls: Vec::new(),
            call_id: None,
        }
    }

    /// The message as chat templates expect it: `content` is a text, the arguments of calls are
    /// objects. [`WRITTEN`] is still in it.
    pub(super) fn for_template(&self) -> Value {
        let mut message = Map::new();
        let mut put = |name: &str, value: Value| drop(message.insert(name.to_owned(), value));
        put("role", json!(self.role.as_str()));
        put("content", json!(self.text));
        if let Some(name) = &self.name {
            put("name", json!(name));
        }
        if !self.thoughts.is_empty() {
            put("reasoning_content", json!(self.thoughts));
        }
        if !self.calls.is_empty() {
            put("tool_calls", self.calls.iter().map(ToolCall::for_template).collect());
        }
        if let Some(id) = &self.call_id {
            put("tool_call_id", json!(id));
        }
        Value::Object(message)
    }
}

impl ToolCall {
    fn for_template(&self) -> Value {
        let mut function = json!({"name": self.name, "arguments": self.arguments.value});
        if let Some(written) = &self.arguments.written {
            function[WRITTEN] = json!(written);
        }
        match &self.id {
            Some(id) => json!({"id": id, "type": "function", "function": function}),
            None => json!({"type": "function", "function": function}),
        }
    }
}

impl Arguments {
    /// Those of a call without arguments.
    pub(super) fn none() -> Self {
        Self::object(json!({}))
    }

    /// Those that a client wrote as an object.
    pub(super) fn object(value: Value) -> Self {
        Arguments { value, written: None }
    }

    /// Those that a client wrote as a text. Null and an empty text are none.
    pub(super) fn text(text: &str, reading: &Reading) -> Result<Self, ApiError> {
        if text.trim().is_empty() {
            return Ok(Self::none());
        }
        reading.check_json(text)?;
        let written = Some(text.to_owned());
        Ok(match as_written(text) {
            Some(object @ Value::Object(_)) if is_usual(text, &object) => Self::object(object),
            Some(value @ Value::Object(_)) => Arguments { value, written },
            Some(Value::Null) => Arguments { value: json!({}), written },
            _ => Arguments { value: json!(text), written: None },
        })
    }

    /// A JSON value that is neither: the text of it.
    pub(super) fn other(value: &Value) -> Self {
        Arguments { value: json!(value.to_string()), written: None }
    }
}

/// Whether a client may have written this text anew from what it read. Clients write JSON in one of
/// two ways; then what the model wrote is most likely what its template writes. Any other text is the
/// model's own.
fn is_usual(text: &str, object: &Value) -> bool {
    let compact = object.to_string();
    text == engine::template_json(object) || text == compact
}

/// Messages in the making.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    messages: Vec<Message>,
    /// Ids of the calls so far.
    calls: HashSet<String>,
}

impl Conversation {
    /// One that begins with instructions, if there are any.
    pub(super) fn with(instructions: Option<&str>) -> Self {
        let system = instructions.map(|text| Message::new(Role::System, text));
        Conversation { messages: system.into_iter().collect(), calls: HashSet::new() }
    }

    /// The messages.
    pub(super) fn into_messages(self) -> Vec<Message> {
        self.messages
    }

    /// A message that is not of the model.
    pub(super) fn push(&mut self, role: Role, text: &str) {
        self.messages.push(Message::new(role, text));
    }

    /// Words of the model; they may be none.
    pub(super) fn say(&mut self, text: &str) {
        append(&mut self.turn().text, text);
    }

    /// Thoughts of the model.
    pub(super) fn think(&mut self, text: &str) {
        append(&mut self.turn().thoughts, text);
    }

    /// A call that the model made, which stands at `path`.
    pub(super) fn call(
        &mut self,
        path: &Path<'_>,
        call: ToolCall,
        reading: &Reading,
    ) -> Result<(), ApiError> {
        self.calls.extend(call.id.clone());
        let turn = self.turn();
        reading.check_count(path, turn.calls.len() + 1, PARTS)?;
        turn.calls.push(call);
        Ok(())
    }

    /// Whether the model made a call of this id.
    pub(super) fn called(&self, id: &str) -> bool {
        self.calls.contains(id)
    }

    /// What a call gave.
    pub(super) fn result(&mut self, id: &str, text: &str) {
        let call_id = Some(id.to_owned());
        self.messages.push(Message { call_id, ..Message::new(Role::Tool, text) });
    }

    /// The model's turn, if the last message is one, or a new turn.
    fn turn(&mut self) -> &mut Message {
        if self.messages.last().is_none_or(|last| last.role != Role::Assistant) {
            self.messages.push(Message::new(Role::Assistant, ""));
        }
        self.messages.last_mut().expect("a message was added")
    }
}

/// Appends a piece to what a turn said or thought before.
fn append(before: &mut String, text: &str) {
    if !before.is_empty() && !text.is_empty() {
        before.push_str("\n\n");
    }
    before.push_str(text);
}

/// Thoughts in a form that clients keep without showing it and hand back with the next turn, which
/// then begins with the same prompt. Nothing is secret here; the seal says that it is ours.
pub(super) fn seal(thoughts: &str) -> String {
    format!("{SEAL}{}", BASE64_STANDARD_NO_PAD.encode(thoughts))
}

/// What [`seal`] was given. `None` for what other servers made.
pub(super) fn unseal(sealed: &str) -> Option<String> {
    let bytes = BASE64_STANDARD_NO_PAD.decode(sealed.strip_prefix(SEAL)?).ok()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_seal_opens() {
        for thoughts in ["", "h\u{e4} \u{1f600}", &"long ".repeat(999)] {
            assert_eq!(unseal(&seal(thoughts)).as_deref(), Some(thoughts));
        }
        for sealed in ["", "gAAAAAB", "omlx1.!", "omlx1._w"] {
            assert_eq!(unseal(sealed), None, "{sealed}");
        }
    }
}
