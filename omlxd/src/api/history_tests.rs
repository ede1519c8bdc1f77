//! History is never a dead end: whatever was answered, here or by another server, can be sent back on every
//! template and every API, and nothing that was said falls out of the prompt.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use engine::{CallIds, ChatTemplate};
use serde_json::{Value, json};

use super::anthropic;
use super::chat::ChatCompletionRequest;
use super::chat_request::ChatRequest;
use super::reading::Reading;
use super::responses;
use crate::config::Config;
use crate::error::ApiError;
use crate::response_store::{Record, ResponseStore};

/// A template of a model, or of ours.
struct Known {
    name: String,
    template: ChatTemplate,
    ids: CallIds,
}

/// The folder of one template file, as a model has it.
fn load(path: &Path) -> ChatTemplate {
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(path).unwrap();
    let file: Value = if path.extension().is_some_and(|ext| ext == "json") {
        serde_json::from_str(&text).unwrap()
    } else {
        json!({"chat_template": text})
    };
    let config =
        json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": file["chat_template"]});
    fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    ChatTemplate::load(dir.path()).unwrap().unwrap()
}

/// Ours, and the published ones that lie beside the checkout.
#[expect(clippy::print_stderr, reason = "who runs the tests must see what did not run")]
fn templates() -> Vec<Known> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let files = |folder: PathBuf| {
        let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|ext| ext != "md")).collect::<Vec<_>>()
    };
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let published = beside.map(|dir| dir.join("shared/templates")).find(|dir| dir.is_dir());
    let mut paths = files(root.join("tests/fixtures/templates/strict"));
    assert!(paths.len() >= 7, "{paths:?}");
    paths.push(root.join("packaging/omlx-tiny/chat_template.jinja"));
    match published {
        Some(folder) => paths.extend(files(folder)),
        None => eprintln!("SKIPPED: there are no published templates in ../shared/templates"),
    }
    paths.sort();
    let known = |path: &PathBuf| {
        let template = load(path);
        let ids = if template.mentions("[TOOL_CALLS]") { CallIds::Short } else { CallIds::Any };
        Known { name: path.file_name().unwrap().to_string_lossy().into_owned(), template, ids }
    };
    paths.iter().map(known).collect()
}

/// What was answered once, and what followed; the texts that must stand in the prompt.
struct Shape {
    name: String,
    messages: Vec<Value>,
    texts: Vec<String>,
}

/// The shapes of one API: `tests/fixtures/history`.
fn shapes(api: &str) -> Vec<Shape> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/history");
    let text = fs::read_to_string(folder.join(format!("{api}.json"))).unwrap();
    let list: Vec<Value> = serde_json::from_str(&text).unwrap();
    let shape = |shape: Value| Shape {
        name: shape["name"].as_str().unwrap().to_owned(),
        messages: shape["messages"].as_array().unwrap().clone(),
        texts: serde_json::from_value(shape["texts"].clone()).unwrap(),
    };
    list.into_iter().map(shape).collect()
}

/// The tools of a request; `wrap` puts name, description and schema into its shape.
fn tools(wrap: impl Fn(&str, Value) -> Value) -> Value {
    let schema = json!({"type": "object", "properties": {"path": {"type": "string", "description": "A path."}}});
    json!(["read_file", "list_dir"].map(|name| wrap(name, schema.clone())))
}

/// Renders what was read, and says what is wrong with it.
fn complaint(
    request: Result<ChatRequest, ApiError>,
    known: &Known,
    texts: &[&str],
) -> Option<String> {
    let request = match request {
        Ok(request) => request,
        Err(error) => return Some(format!("refused: {}", error.message())),
    };
    let rendered = match request.render(&known.template, known.ids) {
        Ok(rendered) => rendered,
        Err(error) => return Some(format!("not rendered: {}", error.message())),
    };
    let mut rest = rendered.as_str();
    for text in texts {
        // Templates that write JSON escape what a text holds.
        let escaped = json!(text).to_string();
        let escaped = &escaped[1..escaped.len() - 1];
        match (rest.find(text), rest.find(escaped)) {
            (Some(at), _) | (None, Some(at)) => rest = &rest[at..],
            // Gemma 4's writes the text of an answer after its calls and their results.
            (None, None) if known.name.starts_with("gemma4") && rendered.contains(text) => {}
            (None, None) if rendered.contains(text) || rendered.contains(escaped) => {
                return Some(format!("{text:?} is out of order in:\n{rendered}"));
            }
            (None, None) => return Some(format!("{text:?} is lost in:\n{rendered}")),
        }
    }
    None
}

/// The ways in which a conversation goes on around a shape: a name, the messages, the texts.
fn ways<'a>(
    shape: &'a Shape,
    user: &impl Fn(&str) -> Value,
) -> Vec<(&'static str, Vec<Value>, Vec<&'a str>)> {
    let texts: Vec<&str> = shape.texts.iter().map(String::as_str).collect();
    let (first, last) = ("First-question.", "Last-question.");
    let asked = [&[user(first)], &shape.messages[..]].concat();
    let asked_texts = [&[first], &texts[..]].concat();
    let gone_on = [&asked[..], &[user(last)]].concat();
    let gone_on_texts = [&asked_texts[..], &[last]].concat();
    let again = [&gone_on[..], &shape.messages, &[user("Then?"), user("Well?")]].concat();
    let again_texts = [&gone_on_texts[..], &texts, &["Then?", "Well?"]].concat();
    let begun = [&shape.messages[..], &[user(last)]].concat();
    let begun_texts = [&texts[..], &[last]].concat();
    let mut ways = vec![
        ("gone on", gone_on, gone_on_texts),
        ("again", again, again_texts),
        ("without a question", begun, begun_texts),
    ];
    // Nobody asks for an answer to an answer.
    if asked.last().is_some_and(|last| last["role"] != "assistant") {
        ways.push(("answered", asked, asked_texts));
    }
    ways
}

/// Every shape in every way on every template.
fn check(
    api: &str,
    user: impl Fn(&str) -> Value,
    request: impl Fn(&[Value], bool, &str) -> Result<ChatRequest, ApiError>,
) {
    let (templates, shapes) = (templates(), shapes(api));
    let (mut wrong, mut shown) = (0, Vec::new());
    for (known, shape) in templates.iter().flat_map(|t| shapes.iter().map(move |s| (t, s))) {
        let mut complaints = Vec::new();
        for (way, messages, texts) in ways(shape, &user) {
            for (with_tools, effort) in [(true, "high"), (true, "none"), (false, "minimal")] {
                let read = request(&messages, with_tools, effort);
                let complaint = complaint(read, known, &texts);
                complaints.extend(complaint.map(|what| format!("{way}, {effort}: {what}")));
            }
        }
        wrong += complaints.len();
        // One of each shape is enough to see what is wrong.
        let first = complaints.first().filter(|_| shown.len() < 20);
        shown.extend(first.map(|what| format!("{}, {}, {what}", known.name, shape.name)));
    }
    assert!(wrong == 0, "{wrong} failed:\n{}", shown.join("\n\n"));
}

#[test]
fn every_answer_of_the_chat_api_can_be_sent_back() {
    let tools = tools(|name, schema| {
        let function = json!({"name": name, "description": "Reads.", "parameters": schema});
        json!({"type": "function", "function": function})
    });
    let user = |text: &str| json!({"role": "user", "content": text});
    check("chat", user, |messages, with_tools, effort| {
        let mut body = json!({"model": "m", "messages": messages, "reasoning_effort": effort});
        if with_tools {
            body["tools"] = tools.clone();
        }
        ChatCompletionRequest::read(body.as_object().unwrap(), &Reading::new(false, 8, 4))
            .map(|request| request.0)
    });
}

#[test]
fn every_answer_of_the_messages_api_can_be_sent_back() {
    let tools = tools(
        |name, schema| json!({"name": name, "description": "Reads.", "input_schema": schema}),
    );
    let user = |text: &str| json!({"role": "user", "content": text});
    check("messages", user, |messages, with_tools, effort| {
        let mut body = json!({"model": "m", "max_tokens": 9, "messages": messages,
            "thinking": {"type": "adaptive"}, "output_config": {"effort": effort}});
        if with_tools {
            body["tools"] = tools.clone();
        }
        anthropic::chat(body.as_object().unwrap(), &Reading::new(false, 8, 4))
    });
}

/// The body of a Responses request.
fn response_body(input: &[Value], with_tools: bool, effort: &str) -> Value {
    let mut body = json!({"model": "m", "input": input, "reasoning": {"effort": effort}});
    if with_tools {
        body["tools"] = tools(
            |name, schema| json!({"type": "function", "name": name, "description": "Reads.", "parameters": schema}),
        );
    }
    body
}

#[test]
fn every_answer_of_the_responses_api_can_be_sent_back() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { base_dir: dir.path().to_owned(), ..Config::default() };
    let store = Arc::new(ResponseStore::open(&config));
    let user = |text: &str| json!({"type": "message", "role": "user", "content": text});
    let read = |body: Value| {
        responses::chat(body.as_object().unwrap(), &Reading::new(false, 8, 4), &store)
    };
    check("responses", user, |input, with_tools, effort| {
        read(response_body(input, with_tools, effort))
    });
    // The last item as the new input, what was before it as a stored answer.
    check("responses", user, |input, with_tools, effort| {
        let (last, before) = input.split_last().unwrap();
        let (question, output) = before.split_at(before.len().min(1));
        let id = format!("resp_{}", "0".repeat(32));
        let response = json!({"id": id, "output": output});
        let record = Record::new(None, question.to_vec(), response);
        store.save("", &id, &record, SystemTime::now());
        let mut body = response_body(std::slice::from_ref(last), with_tools, effort);
        body["previous_response_id"] = json!(id);
        read(body)
    });
}
