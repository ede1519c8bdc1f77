//! Conversations made into what a template takes. What it refuses or leaves out is folded into what it
//! knows, at its own place: nothing is lost, and nothing changes its order, so that a later turn still
//! begins with the same text.

use engine::{Takes, template_json};
use serde_json::{Map, Value, json};

/// Between two texts that become one.
const BETWEEN: &str = "\n\n";

/// The messages as this template takes them.
pub(super) fn fit(messages: Vec<Value>, takes: &Takes) -> Vec<Value> {
    let calls = messages.into_iter().flat_map(|message| fit_calls(message, takes)).collect();
    let turns = fit_turns(fit_system(calls, takes), takes);
    turns.into_iter().map(|message| fit_blank(message, takes)).collect()
}

/// Whether a message is an instruction rather than part of the conversation.
fn is_system(message: &Value) -> bool {
    message["role"] == "system" || message["role"] == "developer"
}

fn has_calls(message: &Value) -> bool {
    message.get("tool_calls").is_some()
}

fn text(message: &Value) -> &str {
    message["content"].as_str().unwrap_or_default()
}

fn is_blank(message: &Value) -> bool {
    text(message).trim().is_empty()
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

/// Calls and results: as text where the template knows none; the calls of a message, and the text beside
/// them, in messages of their own where it takes them only so.
fn fit_calls(mut message: Value, takes: &Takes) -> Vec<Value> {
    if message["role"] == "tool" && !takes.results {
        return vec![user(&format!("<tool_response>\n{}\n</tool_response>", text(&message)))];
    }
    let Some(fields) = message.as_object_mut().filter(|fields| fields.contains_key("tool_calls"))
    else {
        return vec![message];
    };
    if !takes.calls {
        let calls = fields.shift_remove("tool_calls").unwrap_or_default();
        for call in calls.as_array().into_iter().flatten() {
            append(fields, "content", &call_text(&call["function"]));
        }
        return vec![message];
    }
    let says = fields.get("content").and_then(Value::as_str).is_some_and(|t| !t.trim().is_empty());
    let mut made = Vec::new();
    if says && !takes.text_beside_calls {
        let calls = fields.shift_remove("tool_calls").unwrap_or_default();
        made.push(message);
        message = json!({"role": "assistant", "content": "", "tool_calls": calls});
    } else if says && !takes.thoughts_beside_both {
        fields.shift_remove("reasoning_content");
    }
    if takes.many_calls {
        made.push(message);
        return made;
    }
    let calls = message["tool_calls"].as_array_mut().map(std::mem::take).unwrap_or_default();
    for (index, call) in calls.into_iter().enumerate() {
        let mut one = match index {
            0 => message.take(),
            _ => json!({"role": "assistant", "content": ""}),
        };
        one["tool_calls"] = json!([call]);
        made.push(one);
    }
    made
}

/// A call as models write it that have no format of their own.
fn call_text(function: &Value) -> String {
    let arguments = match &function["arguments"] {
        Value::String(text) => text.clone(),
        object => template_json(object),
    };
    format!(
        "<tool_call>\n{{\"name\": {}, \"arguments\": {arguments}}}\n</tool_call>",
        function["name"]
    )
}

/// Makes system messages that the template does not take notes of the user.
fn fit_system(messages: Vec<Value>, takes: &Takes) -> Vec<Value> {
    let mut fitted: Vec<Value> = Vec::with_capacity(messages.len());
    // Whether the last message ends in a note, to which the user's next words are appended.
    let mut open_note = false;
    for (index, message) in messages.into_iter().enumerate() {
        let is_taken = if index == 0 { takes.system } else { takes.later_system };
        let is_note = is_system(&message) && !is_taken;
        let joins = is_note || (open_note && message["role"] == "user");
        let last = fitted.last_mut().filter(|last| joins && last["role"] == "user");
        match last.and_then(Value::as_object_mut) {
            Some(last) => append(last, "content", text(&message)),
            None if is_note => fitted.push(user(text(&message))),
            None => fitted.push(message),
        }
        open_note = is_note;
    }
    fitted
}

/// How a message follows the one before.
enum Step {
    AsItIs,
    Joined,
    /// After an empty message of the user.
    AfterUser,
    /// After an empty message of the assistant.
    AfterAssistant,
}

/// Makes the roles take turns as far as the template wants it: messages of the same role are joined, and
/// where a message is missing an empty one is put.
fn fit_turns(messages: Vec<Value>, takes: &Takes) -> Vec<Value> {
    let mut turns: Vec<Value> = Vec::with_capacity(messages.len());
    for mut message in messages {
        let step = step(turns.last().filter(|last| !is_system(last)), &message, takes);
        match (step, turns.last_mut()) {
            (Step::Joined, Some(last)) => {
                join(last, &mut message);
                continue;
            }
            (Step::AfterUser, _) => turns.push(user("")),
            (Step::AfterAssistant, _) => turns.push(json!({"role": "assistant", "content": ""})),
            _ => {}
        }
        turns.push(message);
    }
    turns
}

/// `last`: the message before, unless it is an instruction.
fn step(last: Option<&Value>, message: &Value, takes: &Takes) -> Step {
    let role = |message: &Value| message["role"].as_str().unwrap_or_default().to_owned();
    let Some(last) = last else {
        let begins = message["role"] == "assistant" && !takes.assistant_first;
        return if begins { Step::AfterUser } else { Step::AsItIs };
    };
    match (role(last).as_str(), role(message).as_str()) {
        ("user", "user") if !takes.users_in_a_row => Step::Joined,
        ("assistant", "assistant") if !takes.assistants_in_a_row => {
            if has_calls(message) && !is_blank(last) && !takes.text_beside_calls {
                Step::AfterUser
            } else if has_calls(last) {
                Step::AsItIs
            } else {
                Step::Joined
            }
        }
        ("assistant", "user") if !takes.user_after_call && has_calls(last) => Step::AfterAssistant,
        ("tool", "user") if !takes.user_after_result => Step::AfterAssistant,
        _ => Step::AsItIs,
    }
}

/// Gives an answer without words the shortest text that the template takes.
fn fit_blank(mut message: Value, takes: &Takes) -> Value {
    let is_answer = message["role"] == "assistant" && !has_calls(&message);
    if !takes.blank.is_empty() && is_answer && text(&message).is_empty() {
        message["content"] = json!(takes.blank);
    }
    message
}

/// Appends what a message says, and calls, to the one before.
fn join(last: &mut Value, message: &mut Value) {
    let Some(last) = last.as_object_mut() else { return };
    for name in ["reasoning_content", "content"] {
        append(last, name, message[name].as_str().unwrap_or_default());
    }
    if let Some(calls) = message.as_object_mut().and_then(|own| own.shift_remove("tool_calls")) {
        last.insert("tool_calls".to_owned(), calls);
    }
}

/// Appends a text to a field.
fn append(fields: &mut Map<String, Value>, name: &str, text: &str) {
    match fields.get_mut(name) {
        _ if text.is_empty() => {}
        Some(Value::String(before)) if !before.is_empty() => {
            before.push_str(BETWEEN);
            before.push_str(text);
        }
        _ => drop(fields.insert(name.to_owned(), json!(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes() -> Takes {
        Takes::anything()
    }

    fn message(role: &str, text: &str) -> Value {
        json!({"role": role, "content": text})
    }

    fn calling(text: &str, names: &[&str]) -> Value {
        let call = |name: &&str| json!({"function": {"name": name, "arguments": {"a": 1}}});
        let calls: Vec<Value> = names.iter().map(call).collect();
        json!({"role": "assistant", "content": text, "tool_calls": calls})
    }

    #[test]
    fn a_system_message_stays_at_its_place() {
        let messages = vec![
            message("system", "S"),
            message("user", "u1"),
            message("assistant", "a1"),
            message("system", "N"),
            message("user", "u2"),
            message("user", "u3"),
        ];
        assert_eq!(fit(messages.clone(), &takes()), messages);
        let later = Takes { later_system: false, ..takes() };
        let mut expected = messages[..3].to_vec();
        expected.extend([message("user", "N\n\nu2"), message("user", "u3")]);
        assert_eq!(fit(messages.clone(), &later), expected);
        let none = Takes { system: false, ..later.clone() };
        assert_eq!(fit(messages.clone(), &none)[0], message("user", "S\n\nu1"));
        let turns = Takes { users_in_a_row: false, ..none };
        let expected = [
            message("user", "S\n\nu1"),
            message("assistant", "a1"),
            message("user", "N\n\nu2\n\nu3"),
        ];
        assert_eq!(fit(messages, &turns), expected);
    }

    #[test]
    fn roles_take_turns_by_joining_and_by_empty_messages() {
        let messages = vec![
            message("assistant", "hello"),
            message("user", "u1"),
            message("assistant", "one"),
            calling("two", &["f"]),
            message("tool", "r"),
            message("user", "u2"),
            message("assistant", ""),
            message("user", "u3"),
            calling("", &["g"]),
            message("user", "u4"),
        ];
        let strict = Takes {
            assistants_in_a_row: false,
            assistant_first: false,
            user_after_call: false,
            user_after_result: false,
            blank: ".",
            ..takes()
        };
        let expected = [
            message("user", ""),
            message("assistant", "hello"),
            message("user", "u1"),
            calling("one\n\ntwo", &["f"]),
            message("tool", "r"),
            message("assistant", "."),
            message("user", "u2"),
            message("assistant", "."),
            message("user", "u3"),
            calling("", &["g"]),
            message("assistant", "."),
            message("user", "u4"),
        ];
        assert_eq!(fit(messages, &strict), expected);
    }

    #[test]
    fn calls_that_are_not_taken_as_they_are_become_several_messages_or_text() {
        let mut made = calling("text", &["f", "g"]);
        made["reasoning_content"] = json!("hm");
        let messages = vec![made.clone(), message("tool", "r")];
        let alone = Takes { text_beside_calls: false, many_calls: false, ..takes() };
        let mut text = message("assistant", "text");
        text["reasoning_content"] = json!("hm");
        let apart = [text, calling("", &["f"]), calling("", &["g"]), message("tool", "r")];
        assert_eq!(fit(messages.clone(), &alone), apart);
        let no_thoughts = Takes { thoughts_beside_both: false, ..takes() };
        assert_eq!(fit(messages.clone(), &no_thoughts)[0], calling("text", &["f", "g"]));
        let none = Takes { calls: false, results: false, ..takes() };
        let said = fit(messages, &none);
        let call = |name: &str| {
            format!(
                "<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {{\"a\": 1}}}}\n</tool_call>"
            )
        };
        assert_eq!(said[0]["content"], format!("text\n\n{}\n\n{}", call("f"), call("g")));
        assert_eq!(said[1], message("user", "<tool_response>\nr\n</tool_response>"));
    }
}
