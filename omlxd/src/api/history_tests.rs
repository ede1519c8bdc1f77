//! History is never a dead end: whatever was answered, here or by another server, can be sent back on every
//! template and every API, and nothing that was said falls out of the prompt.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::{CallIds, ChatTemplate};
use serde_json::{Value, json};

use super::anthropic;
use super::chat::ChatRequest;
use super::conversation::seal;
use super::error::ApiError;
use super::params::Reading;
use super::responses;
use crate::config::Config;
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
    let file: Value = match path.extension().is_some_and(|ext| ext == "json") {
        true => serde_json::from_str(&text).unwrap(),
        false => json!({"chat_template": text}),
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
        let ids = match template.mentions("[TOOL_CALLS]") {
            true => CallIds::Short,
            false => CallIds::Any,
        };
        Known { name: path.file_name().unwrap().to_string_lossy().into_owned(), template, ids }
    };
    paths.iter().map(known).collect()
}

/// What was answered once, and what followed; the texts that must stand in the prompt.
struct Shape {
    name: &'static str,
    messages: Vec<Value>,
    texts: Vec<&'static str>,
}

fn shape(name: &'static str, messages: Value, texts: &[&'static str]) -> Shape {
    let Value::Array(messages) = messages else { panic!("{name}: no list") };
    Shape { name, messages, texts: texts.to_vec() }
}

fn read(body: &Value) -> Result<ChatRequest, ApiError> {
    ChatRequest::read(body.as_object().unwrap(), &Reading::new(false, 8, 4))
}

/// A tool of an API; `wrap` puts name, description and schema into its shape.
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

/// Every shape in the ways that a conversation goes on.
fn check(
    shapes: Vec<Shape>,
    user: impl Fn(&str) -> Value,
    request: impl Fn(&[Value], bool, &str) -> Result<ChatRequest, ApiError>,
) {
    let mut wrong = Vec::new();
    for known in &templates() {
        for shape in &shapes {
            let asked = [vec![user("First-question.")], shape.messages.clone()].concat();
            let mut texts = vec!["First-question."];
            texts.extend(&shape.texts);
            let last_texts = [&texts[..], &["Last-question."]].concat();
            let gone_on = [&asked[..], &[user("Last-question.")]].concat();
            let twice =
                [&gone_on[..], &shape.messages[..], &[user("Then?"), user("Well?")]].concat();
            let twice_texts = [&last_texts[..], &shape.texts[..], &["Then?", "Well?"]].concat();
            let begun = [&shape.messages[..], &[user("Last-question.")]].concat();
            let begun_texts = [&shape.texts[..], &["Last-question."]].concat();
            for (way, messages, texts) in [
                ("answered", &asked, &texts),
                ("gone on", &gone_on, &last_texts),
                ("twice", &twice, &twice_texts),
                ("without a question", &begun, &begun_texts),
            ] {
                let says = messages.last().unwrap()["role"] != "assistant";
                for (with_tools, effort) in [(true, "high"), (true, "none"), (false, "minimal")] {
                    if !says && way == "answered" {
                        continue;
                    }
                    let read = request(messages, with_tools, effort);
                    if let Some(what) = complaint(read, known, texts) {
                        wrong.push(format!(
                            "{}, {}, {way}, {effort}: {what}",
                            known.name, shape.name
                        ));
                    }
                }
            }
        }
    }
    // One of each shape is enough to see what is wrong.
    let mut shown = wrong.clone();
    shown.dedup_by_key(|what| what.splitn(3, ", ").take(2).map(str::to_owned).collect::<Vec<_>>());
    shown.truncate(20);
    assert!(wrong.is_empty(), "{} failed:\n{}", wrong.len(), shown.join("\n\n"));
}

fn call(id: &str, name: &str, arguments: Value) -> Value {
    json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
}

#[test]
fn every_answer_of_the_chat_api_can_be_sent_back() {
    let call_1 = || call("call_1", "read_file", json!("{\"path\": \"/a\"}"));
    let call_2 = || call("call_2", "list_dir", json!("{\"path\":\"/b\"}"));
    let result =
        |id: &str, content: Value| json!({"role": "tool", "tool_call_id": id, "content": content});
    let called = |call: Value| json!({"role": "assistant", "content": null, "tool_calls": [call]});
    let image = json!({"type": "image_url", "image_url": {"url": "data:,"}});
    let mut shapes = vec![
        shape("text", json!([{"role": "assistant", "content": "An-answer."}]), &["An-answer."]),
        shape("empty", json!([{"role": "assistant", "content": ""}]), &[]),
        shape("null", json!([{"role": "assistant", "content": null}]), &[]),
        shape("list", json!([{"role": "assistant", "content": []}]), &[]),
        shape("absent", json!([{"role": "assistant"}]), &[]),
        shape(
            "all null",
            json!([{"role": "assistant", "content": null, "tool_calls": null,
            "function_call": null, "refusal": null, "reasoning_content": null, "audio": null}]),
            &[],
        ),
        shape(
            "parts",
            json!([{"role": "assistant", "content": [{"type": "text", "text": "One-part."},
            {"type": "output_text", "text": "Two-part."}, "Three-part."]}]),
            &["One-part.", "Two-part.", "Three-part."],
        ),
        shape(
            "refusal",
            json!([{"role": "assistant", "content": null, "refusal": "I-refuse."}]),
            &["I-refuse."],
        ),
        shape(
            "refusal part",
            json!([{"role": "assistant", "content": [{"type": "refusal", "refusal": "I-refuse."}]}]),
            &["I-refuse."],
        ),
        shape(
            "no calls",
            json!([{"role": "assistant", "content": "An-answer.", "tool_calls": []}]),
            &["An-answer."],
        ),
        shape(
            "two answers",
            json!([{"role": "assistant", "content": "One-answer."},
            {"role": "assistant", "content": "Two-answer."}]),
            &["One-answer.", "Two-answer."],
        ),
        shape(
            "thinking part",
            json!([{"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "x"}, {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "An-answer."}, {"type": "tool_use", "id": "call_1", "name": "f", "input": {}}],
            "tool_calls": [call_1()]}, result("call_1", json!("A-result."))]),
            &["An-answer.", "read_file", "A-result."],
        ),
        shape(
            "call and text",
            json!([{"role": "assistant", "content": "I-look.", "reasoning_content": "Hm.",
            "tool_calls": [call_1()]}, result("call_1", json!("A-result."))]),
            &["I-look.", "read_file", "/a", "A-result."],
        ),
        shape(
            "call, result, answer",
            json!([called(call_1()), result("call_1", json!("A-result.")),
            {"role": "assistant", "content": "An-answer."}]),
            &["read_file", "A-result.", "An-answer."],
        ),
        shape(
            "text, then call",
            json!([{"role": "assistant", "content": "I-look."}, called(call_1()),
            result("call_1", json!("A-result.")), {"role": "assistant", "content": "An-answer."}]),
            &["I-look.", "read_file", "A-result.", "An-answer."],
        ),
        shape(
            "calls",
            json!([{"role": "assistant", "content": "", "tool_calls": [call_1(), call_2()]},
            result("call_1", json!("A-result.")), result("call_2", json!("B-result."))]),
            &["read_file", "list_dir", "A-result.", "B-result."],
        ),
        shape(
            "results out of order",
            json!([{"role": "assistant", "content": "I-look.", "tool_calls": [call_1(), call_2()]},
            result("call_2", json!("B-result.")), result("call_1", json!("A-result."))]),
            &["I-look.", "read_file", "list_dir", "B-result.", "A-result."],
        ),
        shape("a call without a result", json!([called(call_1())]), &["read_file", "/a"]),
        shape(
            "function_call",
            json!([{"role": "assistant", "content": null,
            "function_call": {"name": "read_file", "arguments": "{}"}},
            {"role": "function", "name": "read_file", "content": "A-result."}]),
            &["read_file", "A-result."],
        ),
        shape(
            "system in the middle",
            json!([{"role": "assistant", "content": "An-answer."},
            {"role": "system", "content": "Mind-this."}, {"role": "user", "content": "A-question."},
            {"role": "assistant", "content": "B-answer."}]),
            &["An-answer.", "Mind-this.", "A-question.", "B-answer."],
        ),
        shape(
            "developer",
            json!([{"role": "developer", "content": "Mind-this."},
            {"role": "assistant", "content": "An-answer."}]),
            &["Mind-this.", "An-answer."],
        ),
        shape(
            "an image long ago",
            json!([{"role": "user", "content": [{"type": "text", "text": "See:"}, image]},
            {"role": "assistant", "content": "An-answer."}]),
            &["See:", "an image was left out", "An-answer."],
        ),
    ];
    for name in ["reasoning_content", "reasoning", "thinking"] {
        let mut message = json!({"role": "assistant", "content": null});
        message[name] = json!("Hm.");
        shapes.push(shape(name, json!([message]), &[]));
        message["tool_calls"] = json!([call_1()]);
        shapes.push(shape(
            name,
            json!([message, result("call_1", json!("A-result."))]),
            &["read_file", "A-result."],
        ));
    }
    shapes.push(shape("blocks", json!([{"role": "assistant", "content": "An-answer.",
        "thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "x"}, {"type": "redacted_thinking", "data": "x"}],
        "reasoning_details": [{"type": "reasoning.text", "text": "Hm.", "signature": null}]}]), &["An-answer."]));
    for arguments in
        ["{\"path\": \"/cut", "cut-short", "[\"/cut\"]", "\"/cut\"", "{\"path\": \"/cut\"} more"]
    {
        let text = if arguments.contains("/cut") { "/cut" } else { arguments };
        let messages = json!([
            called(call("call_1", "read_file", json!(arguments))),
            result("call_1", json!("A-result."))
        ]);
        shapes.push(shape("cut arguments", messages, &["read_file", text, "A-result."]));
    }
    for arguments in
        [json!(null), json!("null"), json!(""), json!([]), json!({}), json!(3), json!("true")]
    {
        let messages = json!([
            called(call("call_1", "read_file", arguments)),
            result("call_1", json!("A-result."))
        ]);
        shapes.push(shape("no arguments", messages, &["read_file", "A-result."]));
    }
    for (content, texts) in [
        (json!(null), vec!["read_file"]),
        (json!(""), vec!["read_file"]),
        (json!([]), vec!["read_file"]),
        (json!([{"type": "text", "text": null}]), vec!["read_file"]),
        (json!({"result": "A-result."}), vec!["A-result."]),
        (
            json!([{"type": "text", "text": "A-result."}, {"type": "text", "text": "B-result."}]),
            vec!["A-result.", "B-result."],
        ),
        (
            json!([{"type": "text", "text": "A-result."}, image]),
            vec!["A-result.", "an image was left out"],
        ),
        (json!([image, {"type": "hologram"}]), vec!["an image was left out"]),
    ] {
        shapes.push(shape(
            "a result",
            json!([called(call_1()), result("call_1", content)]),
            &texts,
        ));
    }
    shapes.push(shape(
        "no result",
        json!([called(call_1()), {"role": "tool", "tool_call_id": "call_1"}]),
        &["read_file"],
    ));
    let tools = tools(|name, schema| {
        json!({"type": "function", "function": {
        "name": name, "description": "Reads.", "parameters": schema}})
    });
    check(
        shapes,
        |text| json!({"role": "user", "content": text}),
        |messages, with_tools, effort| {
            let mut body = json!({"model": "m", "messages": messages, "reasoning_effort": effort});
            if with_tools {
                body["tools"] = tools.clone();
            }
            read(&body)
        },
    );
}

#[test]
fn every_answer_of_the_messages_api_can_be_sent_back() {
    let turn = |blocks: Value| json!({"role": "assistant", "content": blocks});
    let results = |blocks: Value| json!({"role": "user", "content": blocks});
    let text = |text: &str| json!({"type": "text", "text": text});
    let tool = |id: &str, name: &str, input: Value| json!({"type": "tool_use", "id": id, "name": name, "input": input});
    let result = |id: &str, content: Value| json!({"type": "tool_result", "tool_use_id": id, "content": content});
    let image = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}});
    let path = json!({"path": "/a"});
    let mut shapes = vec![
        shape("text", json!([turn(json!("An-answer."))]), &["An-answer."]),
        shape("empty", json!([turn(json!(""))]), &[]),
        shape("list", json!([turn(json!([]))]), &[]),
        shape("null", json!([turn(json!(null))]), &[]),
        shape("absent", json!([{"role": "assistant"}]), &[]),
        shape(
            "thoughts",
            json!([turn(json!([{"type": "thinking", "thinking": "Hm.", "signature": "omlx"}]))]),
            &[],
        ),
        shape(
            "sealed",
            json!([turn(
                json!([{"type": "thinking", "thinking": "", "signature": seal("Hm.")}, text("An-answer.")])
            )]),
            &["An-answer."],
        ),
        shape(
            "another's",
            json!([turn(json!([{"type": "redacted_thinking", "data": "x"},
            {"type": "thinking", "thinking": "Hm."}, text("An-answer.")]))]),
            &["An-answer."],
        ),
        shape(
            "two answers",
            json!([turn(json!("One-answer.")), turn(json!([text("Two-answer.")]))]),
            &["One-answer.", "Two-answer."],
        ),
        shape(
            "everything",
            json!([
                turn(
                    json!([{"type": "thinking", "thinking": "Hm.", "signature": "x"}, text("I-look."),
            tool("t1", "read_file", path.clone()), tool("t2", "list_dir", json!({}))])
                ),
                results(json!([
                    result("t2", json!("B-result.")),
                    result("t1", json!([text("A-result.")])),
                    text("And-this.")
                ]))
            ]),
            &["I-look.", "read_file", "list_dir", "B-result.", "A-result.", "And-this."],
        ),
        shape(
            "a call without a result",
            json!([turn(json!([tool("t1", "read_file", path.clone())]))]),
            &["read_file"],
        ),
        shape(
            "system in the middle",
            json!([turn(json!("An-answer.")), {"role": "system", "content": "Mind-this."}]),
            &["An-answer.", "Mind-this."],
        ),
        shape(
            "an image long ago",
            json!([results(json!([text("See:"), image])), turn(json!("An-answer."))]),
            &["See:", "an image was left out", "An-answer."],
        ),
        shape(
            "a server's tool",
            json!([turn(
                json!([{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}, text("An-answer.")])
            )]),
            &["An-answer."],
        ),
    ];
    for input in [json!(null), json!({}), json!(""), json!("{\"path\": \"/cut")] {
        let messages = json!([
            turn(json!([tool("t1", "read_file", input)])),
            results(json!([result("t1", json!("A-result."))]))
        ]);
        shapes.push(shape("input", messages, &["read_file", "A-result."]));
    }
    for content in
        [json!(null), json!(""), json!([]), json!([image]), json!([text("A-result."), image])]
    {
        let messages = json!([
            turn(json!([text("I-look."), tool("t1", "read_file", path.clone())])),
            results(json!([result("t1", content)]))
        ]);
        shapes.push(shape("a result", messages, &["I-look.", "read_file"]));
    }
    let tools = tools(
        |name, schema| json!({"name": name, "description": "Reads.", "input_schema": schema}),
    );
    check(
        shapes,
        |text| json!({"role": "user", "content": text}),
        |messages, with_tools, effort| {
            let mut body = json!({"model": "m", "max_tokens": 9, "messages": messages,
            "thinking": {"type": "adaptive"}, "output_config": {"effort": effort}});
            if with_tools {
                body["tools"] = tools.clone();
            }
            anthropic::chat(body.as_object().unwrap(), &Reading::new(false, 8, 4))
        },
    );
}

#[test]
fn every_answer_of_the_responses_api_can_be_sent_back() {
    let said = |parts: Value| json!({"type": "message", "role": "assistant", "status": "completed", "content": parts});
    let text = |text: &str| json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []});
    let called = |id: &str, name: &str, arguments: Value| json!({"type": "function_call", "call_id": id, "name": name, "arguments": arguments});
    let output = |id: &str, output: Value| json!({"type": "function_call_output", "call_id": id, "output": output});
    let thought = |content: Value| json!({"type": "reasoning", "id": "rs_1", "summary": [], "content": content});
    let image = json!({"type": "input_image", "image_url": "data:,"});
    let path = json!("{\"path\": \"/a\"}");
    let mut shapes = vec![
        shape("text", json!([said(json!([text("An-answer.")]))]), &["An-answer."]),
        shape("list", json!([said(json!([]))]), &[]),
        shape("null", json!([said(json!(null))]), &[]),
        shape("absent", json!([{"role": "assistant"}]), &[]),
        shape(
            "refusal",
            json!([said(json!([{"type": "refusal", "refusal": "I-refuse."}]))]),
            &["I-refuse."],
        ),
        shape(
            "thoughts",
            json!([thought(json!([{"type": "reasoning_text", "text": "Hm."}]))]),
            &[],
        ),
        shape(
            "sealed",
            json!([{"type": "reasoning", "summary": [], "content": null, "encrypted_content": seal("Hm.")}, said(json!([text("An-answer.")]))]),
            &["An-answer."],
        ),
        shape(
            "another's",
            json!([{"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}], "encrypted_content": "x"}, said(json!("An-answer."))]),
            &["An-answer."],
        ),
        shape(
            "everything",
            json!([thought(json!([{"type": "reasoning_text", "text": "Hm."}])), said(json!([text("I-look.")])),
            called("c1", "read_file", path.clone()), called("c2", "list_dir", json!("{}")),
            output("c2", json!("B-result.")), output("c1", json!([{"type": "input_text", "text": "A-result."}])),
            {"type": "message", "role": "user", "content": "And-this."}]),
            &["I-look.", "read_file", "list_dir", "B-result.", "A-result.", "And-this."],
        ),
        shape(
            "a call without an output",
            json!([called("c1", "read_file", path.clone())]),
            &["read_file"],
        ),
        shape(
            "developer in the middle",
            json!([said(json!("An-answer.")), {"role": "developer", "content": "Mind-this."}]),
            &["An-answer.", "Mind-this."],
        ),
        shape(
            "an image long ago",
            json!([{"role": "user", "content": [{"type": "input_text", "text": "See:"}, image]}, said(json!("An-answer."))]),
            &["See:", "an image was left out", "An-answer."],
        ),
    ];
    for arguments in
        [json!(null), json!(""), json!("null"), json!("{\"path\": \"/cut"), json!({"path": "/cut"})]
    {
        shapes.push(shape(
            "arguments",
            json!([called("c1", "read_file", arguments), output("c1", json!("A-result."))]),
            &["read_file", "A-result."],
        ));
    }
    for content in [
        json!(null),
        json!(""),
        json!([]),
        json!([image]),
        json!([{"type": "input_text", "text": "A-result."}, image]),
    ] {
        shapes.push(shape(
            "output",
            json!([called("c1", "read_file", path.clone()), output("c1", content)]),
            &["read_file"],
        ));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.base_dir = dir.path().to_owned();
    let store = Arc::new(ResponseStore::open(&config));
    let tools = tools(
        |name, schema| json!({"type": "function", "name": name, "description": "Reads.", "parameters": schema}),
    );
    let user = |text: &str| json!({"type": "message", "role": "user", "content": text});
    let body = |input: &[Value], with_tools: bool, effort: &str| {
        let mut body = json!({"model": "m", "input": input, "reasoning": {"effort": effort}});
        if with_tools {
            body["tools"] = tools.clone();
        }
        body
    };
    let read = |body: Value| {
        responses::chat(body.as_object().unwrap(), &Reading::new(false, 8, 4), &store)
    };
    // The last item as the new input, what was before it as a stored answer.
    let stored = |input: &[Value], with_tools: bool, effort: &str| {
        let (last, before) = input.split_last().unwrap();
        let (question, output) = before.split_at(before.len().min(1));
        let id = format!("resp_{}", "0".repeat(32));
        let response = json!({"id": id, "output": output});
        let record = Record::new(None, question.to_vec(), response);
        store.save("", &id, &record, std::time::SystemTime::now());
        let mut body = body(std::slice::from_ref(last), with_tools, effort);
        body["previous_response_id"] = json!(id);
        read(body)
    };
    let again = |shapes: &[Shape]| -> Vec<Shape> {
        shapes
            .iter()
            .map(|s| Shape { name: s.name, messages: s.messages.clone(), texts: s.texts.clone() })
            .collect()
    };
    check(again(&shapes), user, |input, with_tools, effort| read(body(input, with_tools, effort)));
    check(shapes, user, stored);
}
