//! A conversation of another API, put together as chat messages. What belongs to one turn of the
//! model (its thoughts, its words, its calls) comes in pieces there and is one message here.

use std::collections::HashSet;

use base64::prelude::{BASE64_STANDARD_NO_PAD, Engine as _};
use serde_json::{Map, Value, json};

/// Marks thoughts that we handed out.
const SEAL: &str = "omlx1.";

/// Messages in the shape of a chat request.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    messages: Vec<Value>,
    /// Ids of the calls so far.
    calls: HashSet<String>,
}

impl Conversation {
    /// One that begins with instructions, if there are any.
    pub(super) fn with(instructions: Option<&str>) -> Self {
        let system = instructions.map(|text| json!({"role": "system", "content": text}));
        Conversation { messages: system.into_iter().collect(), calls: HashSet::new() }
    }

    /// The messages.
    pub(super) fn into_messages(self) -> Vec<Value> {
        self.messages
    }

    /// A message of anyone but the model.
    pub(super) fn push(&mut self, role: &str, text: &str) {
        self.messages.push(json!({"role": role, "content": text}));
    }

    /// Words of the model; they may be none.
    pub(super) fn say(&mut self, text: &str) {
        self.add("content", text);
    }

    /// Thoughts of the model.
    pub(super) fn think(&mut self, text: &str) {
        self.add("reasoning_content", text);
    }

    /// A call that the model made. `arguments` is JSON, as a rule: the model wrote it.
    pub(super) fn call(&mut self, id: &str, name: &str, arguments: &str) {
        let function = json!({"name": name, "arguments": arguments});
        let call = json!({"id": id, "type": "function", "function": function});
        self.calls.insert(id.to_owned());
        let message = self.turn();
        match message.get_mut("tool_calls").and_then(Value::as_array_mut) {
            Some(calls) => calls.push(call),
            None => {
                message.insert("tool_calls".to_owned(), json!([call]));
            }
        }
    }

    /// Whether the model made a call of this id.
    pub(super) fn called(&self, id: &str) -> bool {
        self.calls.contains(id)
    }

    /// What a call gave.
    pub(super) fn result(&mut self, id: &str, text: &str) {
        self.messages.push(json!({"role": "tool", "tool_call_id": id, "content": text}));
    }

    fn add(&mut self, field: &str, text: &str) {
        let message = self.turn();
        match message.get_mut(field) {
            Some(Value::String(before)) if !before.is_empty() => {
                if !text.is_empty() {
                    before.push_str("\n\n");
                    before.push_str(text);
                }
            }
            _ => drop(message.insert(field.to_owned(), json!(text))),
        }
    }

    /// The model's turn that goes on, or a new one.
    fn turn(&mut self) -> &mut Map<String, Value> {
        if self.messages.last().is_none_or(|last| last["role"] != "assistant") {
            self.messages.push(json!({"role": "assistant", "content": ""}));
        }
        self.messages.last_mut().and_then(Value::as_object_mut).expect("a message was added")
    }
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
