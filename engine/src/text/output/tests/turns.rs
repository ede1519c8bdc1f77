//! The second turn's prompt begins with the first one and the model's answer, byte for byte: the
//! template restores the text that the parser split. Runs with real templates, if they are present
//! (`../shared/templates`).

use std::path::Path;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::{FinishReason, MarkedText, OutputFormat, Part, tokenizer};
use crate::text::template::{ChatInputs, ChatTemplate};

/// A template, its call, and an answer as its model writes it.
struct Turn {
    template: &'static str,
    thinks: bool,
    answer: &'static str,
}

const HERMES_CALL: &str = "<tool_call>\n{\"name\": \"look\", \"arguments\": {\"city\": \"Rome\", \"days\": 2}}\n</tool_call>";

const TURNS: &[Turn] = &[
    Turn { template: "omlx-tiny", thinks: false, answer: HERMES_CALL },
    Turn {
        template: "omlx-tiny",
        thinks: true,
        answer: "<think>\nHm\n</think>\n\nI look.\n<tool_call>\n{\"name\": \"look\", \"arguments\": \
                 {\"city\": \"\u{e9}\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"stop\", \
                 \"arguments\": {}}\n</tool_call>",
    },
    Turn {
        template: "qwen3-tokenizer_config.json",
        thinks: true,
        answer: "<think>\nHm\n\nso\n</think>\n\nI look.\n<tool_call>\n{\"name\": \"look\", \
                 \"arguments\": {\"city\": \"Rome\", \"days\": 2}}\n</tool_call>",
    },
    Turn { template: "hermes2-pro-tool-use.jinja", thinks: false, answer: HERMES_CALL },
    Turn {
        template: "qwen3-coder.jinja",
        thinks: false,
        answer: "I look.\n\n<tool_call>\n<function=look>\n<parameter=city>\nRome\n</parameter>\n\
                 <parameter=days>\n2\n</parameter>\n</function>\n</tool_call>",
    },
    Turn {
        template: "qwen3.8.jinja",
        thinks: true,
        answer: "Hm\n</think>\n\nI look.\n\n<tool_call>\n<function=look>\n<parameter=city>\nRome\n\
                 </parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=stop>\n</function>\n\
                 </tool_call>",
    },
    Turn {
        template: "nemotron3-nano.jinja",
        thinks: true,
        answer: "Hm\n</think>\nI look.\n<tool_call>\n<function=look>\n<parameter=days>\n2\n\
                 </parameter>\n</function>\n</tool_call>\n",
    },
    Turn {
        template: "gemma4-31b.jinja",
        thinks: true,
        answer: "<|channel>thought\nHm\n<channel|><|tool_call>call:look{city:<|\"|>Rome<|\"|>,days:2}\
                 <tool_call|>",
    },
];

/// Tools that every template can show.
fn tools() -> Vec<Value> {
    let function = |name: &str, properties: Value| {
        let parameters = json!({"type": "object", "properties": properties});
        let function = json!({"name": name, "description": name, "parameters": parameters});
        json!({"type": "function", "function": function})
    };
    let properties = json!({
        "city": {"type": "string", "description": "where"},
        "days": {"type": "integer", "description": "how long"},
    });
    vec![function("look", properties), function("stop", json!({}))]
}

/// `None` if the real templates are missing.
fn load(name: &str) -> Option<ChatTemplate> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let source = match name {
        "omlx-tiny" => {
            std::fs::read_to_string(root.join("packaging/omlx-tiny/chat_template.jinja"))
        }
        name => std::fs::read_to_string(root.join("../shared/templates").join(name)),
    };
    let mut source = source.ok()?;
    if name.ends_with(".json") {
        let file: Value = serde_json::from_str(&source).expect("JSON");
        source = file["chat_template"].as_str().expect("a template").to_owned();
    }
    let named = vec![("default".to_owned(), source)];
    Some(ChatTemplate::new(named, Map::new()).expect("parses"))
}

fn render(template: &ChatTemplate, thinks: bool, messages: &[Value]) -> String {
    let mut kwargs = Map::new();
    kwargs.insert("enable_thinking".to_owned(), json!(thinks));
    let tools = tools();
    let inputs = ChatInputs {
        messages,
        tools: Some(&tools),
        add_generation_prompt: true,
        kwargs: &kwargs,
        now: SystemTime::UNIX_EPOCH,
    };
    template.render(&inputs).expect("renders")
}

/// The message that a client receives and sends back.
fn message(parts: &[Part]) -> Value {
    let (mut text, mut thoughts, mut calls) = (String::new(), String::new(), Vec::new());
    for part in parts {
        match part {
            Part::Text(more) => text.push_str(more),
            Part::Reasoning(more) => thoughts.push_str(more),
            Part::CallStart { index, name } => {
                calls.push((format!("call_{index}"), name, String::new()));
            }
            Part::CallArguments(more) => calls.last_mut().expect("a call").2.push_str(more),
            Part::CallEnd => {}
        }
    }
    let calls: Vec<Value> = calls
        .iter()
        .map(|(id, name, arguments)| {
            let arguments: Value = serde_json::from_str(arguments).expect("JSON");
            let function = json!({"name": name, "arguments": arguments});
            json!({"id": id, "type": "function", "function": function})
        })
        .collect();
    let mut message = json!({"role": "assistant", "content": text, "tool_calls": calls});
    if !thoughts.is_empty() {
        message["reasoning_content"] = json!(thoughts);
    }
    message
}

#[test]
#[expect(clippy::print_stderr, reason = "who runs the tests must see what did not run")]
fn the_next_prompt_repeats_the_answer() {
    for Turn { template: name, thinks, answer } in TURNS {
        let Some(template) = load(name) else {
            eprintln!("SKIPPED: ../shared/templates/{name} is not there");
            continue;
        };
        let mut messages = vec![
            json!({"role": "system", "content": "Be brief."}),
            json!({"role": "user", "content": "Weather?"}),
        ];
        let prompt = render(&template, *thinks, &messages);
        let format = OutputFormat::of(|text| template.mentions(text), &tokenizer(&[]));
        let mut parser = format.parser(&prompt, &tools(), true);
        let mut parts =
            parser.push(&MarkedText { text: (*answer).to_owned(), ..MarkedText::default() });
        parts.extend(parser.finish(FinishReason::Stop));
        messages.push(message(&parts));
        let calls = messages[2]["tool_calls"].as_array().expect("calls").clone();
        assert!(!calls.is_empty(), "{name}: {parts:?}");
        for call in calls {
            messages.push(json!({"role": "tool", "tool_call_id": call["id"], "content": "fine"}));
        }
        let next = render(&template, *thinks, &messages);
        let sent = prompt + answer;
        assert!(next.starts_with(&sent), "{name}:\n{sent}\n=====\n{next}");
    }
}
