//! What models write when they err, through the running daemon: a scripted model writes the answers
//! of `tests/fixtures/slips.json`, and what clients get is compared with what is right.

use std::fs;
use std::path::{Path, PathBuf};

use engine::Tokenizer;
use omlx_tests::daemon::{Daemon, built_binary};
use omlx_tests::scripted::Scripted;
use omlx_tests::sse::{self, Event};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct File {
    tools: Value,
    families: Vec<Family>,
}

#[derive(Deserialize)]
struct Family {
    family: String,
    template: String,
    tokens: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    shape: String,
    #[serde(default)]
    prompt: String,
    #[serde(default)]
    length: bool,
    answer: String,
    parts: String,
}

/// The most answers of one family: each makes the model larger.
const ANSWERS: usize = 8;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn file() -> File {
    let path = workspace().join("tests/fixtures/slips.json");
    serde_json::from_str(&fs::read_to_string(path).expect("slips.json")).expect("JSON")
}

/// ChatML that says what tells the format, and ends as it is asked to.
fn template(says: &str) -> String {
    let says = says.replace('\'', "\\'");
    format!(
        "{{%- if says is defined -%}}{{{{- '{says}' -}}}}{{%- endif -%}}\
         {{%- for tool in tools or [] -%}}{{{{- tool | tojson + '\\n' -}}}}{{%- endfor -%}}\
         {{%- for message in messages -%}}\
         {{{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}}}\
         {{%- endfor -%}}\
         {{{{- '<|im_start|>assistant\\n' + (opened or '') -}}}}"
    )
}

/// What a model that was told to write `answers` has to be asked for each.
fn write_model(dir: &Path, template: &str, tokens: &[&str], answers: &[&str]) -> Vec<String> {
    let mut model = Scripted::new(template, tokens);
    let tokenizer = Tokenizer::from_json(model.tokenizer().as_bytes()).expect("a tokenizer");
    let ids = |answer: &&str| tokenizer.encode(answer, false).expect("tokens");
    let words = answers.iter().map(|answer| model.answer(&ids(answer))).collect();
    model.write(dir).expect("a model");
    words
}

/// The parts of a streamed answer in one line, as `slips.json` has them, and how it ended.
fn read(daemon: &Daemon, body: &Value) -> (String, Value) {
    let mut body = body.clone();
    body["stream"] = json!(true);
    let answer = daemon.request("POST", "/v1/chat/completions", &body.to_string());
    let answer = answer.expect("an answer");
    let status = answer.status;
    if status != 200 {
        panic!("{status}: {}", answer.text().expect("text"));
    }
    let (mut line, mut open, mut finish) = (String::new(), "", Value::Null);
    sse::for_each(answer.body, |event| {
        let Event::Data(data) = event else { return true };
        let Ok(chunk) = serde_json::from_str::<Value>(&data) else { return true };
        let choice = &chunk["choices"][0];
        assert!(choice.is_object(), "{chunk}");
        let delta = &choice["delta"];
        for (key, word) in [("reasoning_content", "think("), ("content", "text(")] {
            let text = delta[key].as_str().unwrap_or_default();
            if text.is_empty() {
                continue;
            }
            if open != word {
                line.push_str(if open.is_empty() { "" } else { ")" });
                line.push_str(word);
            }
            open = word;
            line.push_str(text);
        }
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let function = &call["function"];
            if let Some(name) = function["name"].as_str() {
                line.push_str(if open.is_empty() { "" } else { ")" });
                line.push_str(&format!("{name}("));
                open = "call(";
            }
            line.push_str(function["arguments"].as_str().unwrap_or_default());
        }
        finish = choice["finish_reason"].clone();
        true
    })
    .expect("a stream");
    line.push_str(if open.is_empty() { "" } else { ")" });
    (line, finish)
}

/// The same of an answer that comes whole: thoughts, text and calls.
fn whole(daemon: &Daemon, body: &Value) -> (String, String, Vec<Value>) {
    let answer = daemon.request("POST", "/v1/chat/completions", &body.to_string());
    let text = answer.expect("an answer").text().expect("text");
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    let message = &answer["choices"][0]["message"];
    let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
    let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
    (text("reasoning_content"), text("content"), calls)
}

/// Whether a line of parts has a call in it.
fn has_call(parts: &str) -> bool {
    ["look(", "stop("]
        .iter()
        .any(|name| parts.starts_with(name) || parts.contains(&format!("){name}")))
}

#[test]
fn what_models_write_when_they_err_is_read_as_it_was_meant() {
    let File { tools, families } = file();
    let place = tempfile::tempdir().expect("a folder");
    let models = place.path().join("models");
    let mut asked = Vec::new();
    for (number, family) in families.iter().enumerate() {
        let tokens: Vec<&str> = family.tokens.iter().map(String::as_str).collect();
        let cases = family.cases.iter().filter(|case| !case.length).take(ANSWERS);
        let cases: Vec<&Case> = cases.collect();
        let answers: Vec<&str> = cases.iter().map(|case| case.answer.as_str()).collect();
        let model = format!("slips/m{number}");
        let words =
            write_model(&models.join(&model), &template(&family.template), &tokens, &answers);
        asked.extend(
            cases.into_iter().zip(words).map(|(case, word)| (family, model.clone(), case, word)),
        );
    }
    let daemon = Daemon::start(&built_binary(), &place.path().join("base"), Some(&models), &[]);
    let daemon = daemon.expect("omlxd starts");
    for (family, model, case, word) in asked {
        let body = json!({
            "model": model, "messages": [{"role": "user", "content": format!("Write {word}.")}],
            "tools": tools, "temperature": 0, "max_tokens": 1000,
            "chat_template_kwargs": {"opened": case.prompt},
        });
        let what = format!("{}: {}: {}", family.family, case.shape, case.answer);
        let (line, finish) = read(&daemon, &body);
        let is_whole = !case.parts.ends_with("...");
        assert_eq!(line, case.parts.trim_end_matches("..."), "{what}");
        let ended = if has_call(&case.parts) && is_whole { "tool_calls" } else { "stop" };
        assert_eq!(finish, ended, "{what}");
        let (thoughts, text, calls) = whole(&daemon, &body);
        for part in [thoughts, text] {
            assert!(line.contains(&part), "{part}: {what}");
        }
        assert_eq!(!calls.is_empty(), has_call(&case.parts), "{what}");
    }
}

/// A published template, where it is.
fn published(name: &str) -> Option<String> {
    fs::read_to_string(workspace().join("../shared/templates").join(name)).ok()
}

#[test]
fn published_templates_and_the_slips_of_their_models() {
    const THINK: [&str; 4] = ["<think>", "</think>", "<tool_call>", "</tool_call>"];
    const GEMMA: [&str; 5] = ["<|tool_call>", "<tool_call|>", "<|\"|>", "<|channel>", "<channel|>"];
    let coder = "<tool_call>\n<function=look>\n<parameter=city>\nRome\n<parameter=days>\n2\n\
                 </parameter>\n</function>\n</tool_call>";
    let thought = format!("I look.\n{coder}");
    let gemma = "<|tool_call>call:look{list:[\"one, two\"],city:\"Rome\"}<tool_call|>";
    let fenced = "```json\n{\"name\": \"look\", \"arguments\": {\"city\": \"Rome\"}}\n```";
    let hermes =
        "<tool_call>\n{\"name\": \"look\", \"arguments\": {\"city\": \"Rome\"}\n</tool_call>";
    let both = r#"look({"city": "Rome", "days": 2})"#;
    let one = r#"look({"city": "Rome"})"#;
    let cases: [(&str, &[&str], &str, String); 5] = [
        ("qwen3.8.jinja", &THINK, &thought, format!("think(I look.){both}")),
        ("qwen3-coder.jinja", &THINK, coder, both.to_owned()),
        (
            "gemma4-31b.jinja",
            &GEMMA,
            gemma,
            r#"look({"list": ["one, two"], "city": "Rome"})"#.to_owned(),
        ),
        ("hermes2-pro-tool-use.jinja", &[], fenced, one.to_owned()),
        ("hermes2-pro-tool-use.jinja", &[], hermes, one.to_owned()),
    ];
    let place = tempfile::tempdir().expect("a folder");
    let models = place.path().join("models");
    let mut asked = Vec::new();
    for (number, (name, tokens, answer, parts)) in cases.into_iter().enumerate() {
        let Some(template) = published(name) else { continue };
        let model = format!("slips/p{number}");
        let words = write_model(&models.join(&model), &template, tokens, &[answer]);
        asked.push((model, words[0].clone(), parts));
    }
    if asked.is_empty() {
        return;
    }
    // Of plain types: Hermes' template knows no others.
    let tool = json!({"type": "function", "function": {"name": "look", "description": "Looks",
        "parameters": {"type": "object", "properties": {
            "city": {"type": "string", "description": "The city"},
            "days": {"type": "integer", "description": "How many"},
            "list": {"type": "array", "items": {"type": "string"}, "description": "Any"}}}}});
    let daemon = Daemon::start(&built_binary(), &place.path().join("base"), Some(&models), &[]);
    let daemon = daemon.expect("omlxd starts");
    for (model, word, parts) in asked {
        let body = json!({
            "model": model, "messages": [{"role": "user", "content": format!("Write {word}.")}],
            "tools": [tool], "temperature": 0, "max_tokens": 1000,
        });
        assert_eq!(read(&daemon, &body), (parts, json!("tool_calls")), "{model}");
    }
}
