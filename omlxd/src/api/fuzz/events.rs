//! Streams: whatever an answer holds, a client that follows the standard reads it back, event by event.

use std::sync::LazyLock;

use engine::{Part, TokenLogprob, TokenLogprobs, TokenOutput, Tokenizer};
use serde_json::{Map, Value, json};

use super::super::anthropic;
use super::super::chat_reply::ChatReply;
use super::super::completions_reply::CompletionsReply;
use super::super::params::Params;
use super::super::read::{Fields, Path};
use super::super::reading::Reading;
use super::super::reply::{Choice, Ending, Identity, Reply, TotalUsage, Write};
use super::super::responses;
use super::Choices;
use crate::config::KeepaliveMode;
use crate::error::ApiError;

/// Most deltas of a choice.
const MOST_DELTAS: usize = 16;

/// Token 0 is plain; the others mean something in JSON or in a stream.
static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let vocab = json!({"a": 0, "\n\n": 1, "\"}\r\ndata: [DONE]\r\n\r\n": 2, "\u{1f980}\u{0}": 3});
    let model = json!({"type": "WordLevel", "vocab": vocab, "unk_token": "a"});
    let file = json!({"version": "1.0", "added_tokens": [], "model": model, "normalizer": null,
                      "pre_tokenizer": null, "post_processor": null, "decoder": null,
                      "truncation": null, "padding": null});
    Tokenizer::from_json(file.to_string().as_bytes()).expect("a tokenizer")
});

/// Makes an answer of the bytes, writes it as every endpoint does, and reads it back.
pub fn events(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let answer = Answer::of(&mut choices);
    let identity = Identity { id: "0".repeat(32), created: 1, fingerprint: "fp_0".to_owned() };
    let params = params(&answer.model);

    let reply = |object| Reply::new(&identity, object, &params);
    let new = || ChatReply::new(reply("chat.completion"), identity.clone(), TOKENIZER.clone());
    answer.check(new, chat);
    let new = || CompletionsReply::new(reply("text_completion"), TOKENIZER.clone());
    answer.only_text().check(new, completion);
    let new = || responses::writer(&identity, answer.echo(), TOKENIZER.clone());
    answer.check(new, response);
    answer.check(|| anthropic::writer(&identity, &answer.model), message);
}

fn params(model: &str) -> Params {
    let body = json!({"model": model, "stream": true, "stream_options": {"include_usage": true}});
    let path = Path::Root;
    let fields = Fields::of(&body, &path).expect("an object");
    Params::read(&fields, &Reading::new(false, 8, 4)).expect("a good request")
}

/// What is to be told.
struct Answer {
    model: String,
    deltas: Vec<(Vec<Part>, Vec<TokenOutput>)>,
    ending: Ending,
    /// What it ends with instead.
    error: Option<ApiError>,
}

/// What was told: thoughts, words, and calls by name and arguments.
#[derive(Debug, Default, PartialEq)]
struct Told {
    reasoning: String,
    text: String,
    calls: Vec<(String, String)>,
}

impl Answer {
    fn of(choices: &mut Choices<'_>) -> Self {
        let model = format!("m{:.20}", choices.text());
        let ending = match choices.next() % 4 {
            0 => Ending::Stop,
            1 => Ending::Length,
            2 => Ending::StopString(choices.text()),
            _ => Ending::ToolCalls,
        };
        let error = match choices.next() % 4 {
            0 => Some(ApiError::invalid_value(choices.text(), choices.text())),
            1 => Some(ApiError::internal()),
            _ => None,
        };
        let (mut deltas, mut calls) = (Vec::new(), 0);
        while !choices.is_empty() && deltas.len() < MOST_DELTAS {
            let mut parts = Vec::new();
            for _ in 0..choices.next() % 3 {
                part(choices, &mut calls, &mut parts);
            }
            let tokens = (0..choices.next() % 3).map(|_| token(choices)).collect();
            deltas.push((parts, tokens));
        }
        Answer { model, deltas, ending, error }
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.deltas.iter().flat_map(|(parts, _)| parts)
    }

    fn told(&self) -> Told {
        let mut told = Told::default();
        for part in self.parts() {
            match part {
                Part::Reasoning(more) => told.reasoning.push_str(more),
                Part::Text(more) => told.text.push_str(more),
                Part::CallStart { name, .. } => told.calls.push((name.clone(), String::new())),
                Part::CallArguments(more) => {
                    told.calls.last_mut().expect("a call").1.push_str(more);
                }
                Part::CallEnd => {}
            }
        }
        told
    }

    /// As an endpoint has it that takes nothing apart.
    fn only_text(&self) -> Answer {
        let deltas = self.deltas.iter().map(|(parts, tokens)| {
            let text = parts.iter().filter(|part| matches!(part, Part::Text(_)));
            (text.cloned().collect(), tokens.clone())
        });
        Answer {
            model: self.model.clone(),
            deltas: deltas.collect(),
            ending: match self.ending {
                Ending::ToolCalls => Ending::Stop,
                _ => self.ending.clone(),
            },
            error: self.error.clone(),
        }
    }

    /// What a response repeats of its request.
    fn echo(&self) -> Map<String, Value> {
        let names = ["model", "instructions", "user"];
        let fields = names.map(|name| (name.to_owned(), json!(self.model)));
        let mut echo: Map<String, Value> = fields.into_iter().collect();
        for name in ["temperature", "top_p"] {
            echo.insert(name.to_owned(), Value::Null);
        }
        echo
    }

    /// Writes the answer as a stream and as a document, and asserts that both tell it.
    fn check<W: Write>(&self, new: impl Fn() -> W, read: fn(&[Event], &mut Told)) {
        let usage = TotalUsage { prompt_tokens: 3, completion_tokens: 2, ..TotalUsage::default() };
        let mut writer = new();
        let mut all = written(|out| writer.open(out, 0, ""));
        for (parts, tokens) in &self.deltas {
            all.extend(written(|out| writer.delta(out, 0, parts, tokens)));
            all.extend(written(|out| writer.keepalive(out, KeepaliveMode::Comment)));
        }
        if let Some(error) = &self.error {
            all.extend(written(|out| writer.fail(out, error)));
            let told = all.iter().filter_map(|event| event.data.as_ref());
            let mut told = told.flat_map(|data| [&data["error"], data]);
            assert!(told.any(|data| data["message"] == *error.message()), "{all:?}");
            assert!(all.iter().all(|event| event.data.is_some()), "{all:?}");
        } else {
            all.extend(written(|out| writer.close(out, 0, self.ending.clone())));
            all.extend(written(|out| writer.end(out, &usage)));
        }
        let mut told = Told::default();
        read(&all, &mut told);
        assert_eq!(told, self.told(), "{all:?}");

        let mut choice = Choice { ending: Some(self.ending.clone()), ..Choice::default() };
        for (parts, tokens) in &self.deltas {
            choice.take(parts.clone());
            choice.tokens.extend(tokens.iter().cloned());
        }
        let whole = new().whole(&[choice], &usage);
        serde_json::from_slice::<Value>(&whole).expect("JSON");
    }
}

/// The events that are written at once: whole ones.
fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<Event> {
    let mut out = Vec::new();
    write(&mut out);
    parse(std::str::from_utf8(&out).expect("UTF-8"))
}

/// Adds one part, or a whole call.
fn part(choices: &mut Choices<'_>, calls: &mut usize, parts: &mut Vec<Part>) {
    match choices.next() % 3 {
        0 => parts.push(Part::Text(choices.text())),
        1 => parts.push(Part::Reasoning(choices.text())),
        _ => {
            parts.push(Part::CallStart { index: *calls, name: choices.text() });
            for _ in 0..choices.next() % 3 {
                parts.push(Part::CallArguments(choices.text()));
            }
            parts.push(Part::CallEnd);
            *calls += 1;
        }
    }
}

fn token(choices: &mut Choices<'_>) -> TokenOutput {
    let logprobs = [0.0, -0.25, -1e-30, f32::MIN, f32::NEG_INFINITY, f32::NAN];
    let mut entry =
        || TokenLogprob { id: choices.next() as u32 % 5, logprob: *choices.one(&logprobs) };
    let own = entry();
    let top = vec![entry(), entry()];
    TokenOutput { id: own.id, logprobs: Some(TokenLogprobs { chosen: own.logprob, top }) }
}

/// An event as a client sees it. `data` is `None` for `[DONE]`.
#[derive(Debug)]
struct Event {
    name: String,
    data: Option<Value>,
}

/// Reads events as the HTML standard says: a line ends with LF, CR or both.
fn parse(text: &str) -> Vec<Event> {
    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
    let Some(lines) = lines.strip_suffix('\n') else {
        assert!(lines.is_empty(), "a line that does not end: {lines:?}");
        return Vec::new();
    };
    let (mut events, mut name, mut data) = (Vec::new(), String::new(), None::<String>);
    let mut is_between = true;
    for line in lines.split('\n') {
        is_between = line.is_empty();
        if is_between {
            let name = std::mem::take(&mut name);
            // Without data it is no event: what is left are comments.
            if let Some(data) = data.take() {
                let data = (data != "[DONE]").then(|| serde_json::from_str(&data).expect("JSON"));
                events.push(Event { name, data });
            }
        } else if !line.starts_with(':') {
            let (field, value) = line.split_once(": ").expect("a field");
            match (field, &mut data) {
                ("event", _) => name = value.to_owned(),
                ("data", None) => data = Some(value.to_owned()),
                _ => panic!("{line:?} in {text:?}"),
            }
        }
    }
    assert!(is_between, "an event that does not end: {text:?}");
    events
}

/// The objects of a stream that ends with `[DONE]` unless it failed.
fn data(events: &[Event]) -> impl Iterator<Item = &Value> {
    let done = events.iter().position(|event| event.data.is_none());
    assert!(done.is_none_or(|place| place + 1 == events.len()), "{events:?}");
    events.iter().filter_map(|event| event.data.as_ref())
}

fn push(to: &mut String, text: &Value) {
    to.push_str(text.as_str().unwrap_or_default());
}

fn chat(events: &[Event], told: &mut Told) {
    for chunk in data(events).filter(|chunk| chunk.get("error").is_none()) {
        for choice in chunk["choices"].as_array().expect("choices") {
            let delta = &choice["delta"];
            push(&mut told.text, &delta["content"]);
            push(&mut told.reasoning, &delta["reasoning_content"]);
            for call in delta["tool_calls"].as_array().into_iter().flatten() {
                let function = &call["function"];
                if let Some(name) = function["name"].as_str() {
                    assert_eq!(call["index"], told.calls.len());
                    told.calls.push((name.to_owned(), String::new()));
                }
                let (_, arguments) = told.calls.last_mut().expect("a call");
                push(arguments, &function["arguments"]);
            }
        }
    }
}

fn completion(events: &[Event], told: &mut Told) {
    for chunk in data(events).filter(|chunk| chunk.get("error").is_none()) {
        for choice in chunk["choices"].as_array().expect("choices") {
            push(&mut told.text, &choice["text"]);
        }
    }
}

/// Asserts that each event is named as its data says.
fn typed(events: &[Event]) -> impl Iterator<Item = (&str, &Value)> {
    for event in events {
        let kind = event.data.as_ref().map_or("", |data| data["type"].as_str().expect("a type"));
        assert_eq!(event.name, kind);
    }
    data(events).map(|data| (data["type"].as_str().unwrap_or_default(), data))
}

fn response(events: &[Event], told: &mut Told) {
    for (number, (kind, event)) in typed(events).enumerate() {
        assert_eq!(event["sequence_number"], number);
        match kind {
            "response.reasoning_text.delta" => push(&mut told.reasoning, &event["delta"]),
            "response.output_text.delta" => push(&mut told.text, &event["delta"]),
            "response.output_item.added" if event["item"]["type"] == "function_call" => {
                let name = event["item"]["name"].as_str().expect("a name");
                told.calls.push((name.to_owned(), String::new()));
            }
            "response.function_call_arguments.delta" => {
                push(&mut told.calls.last_mut().expect("a call").1, &event["delta"]);
            }
            "response.completed" | "response.incomplete" => whole_response(event, told),
            _ => {}
        }
    }
}

/// The last event has everything once more.
fn whole_response(event: &Value, told: &Told) {
    let mut whole = Told::default();
    for item in event["response"]["output"].as_array().expect("items") {
        let text = &item["content"][0]["text"];
        match item["type"].as_str() {
            Some("reasoning") => push(&mut whole.reasoning, text),
            Some("message") => push(&mut whole.text, text),
            _ => {
                let of = |name: &str| item[name].as_str().expect("a string").to_owned();
                whole.calls.push((of("name"), of("arguments")));
            }
        }
    }
    assert_eq!(whole, *told);
}

fn message(events: &[Event], told: &mut Told) {
    for (kind, event) in typed(events) {
        match kind {
            "content_block_start" if event["content_block"]["type"] == "tool_use" => {
                let name = event["content_block"]["name"].as_str().expect("a name");
                told.calls.push((name.to_owned(), String::new()));
            }
            "content_block_delta" => {
                let delta = &event["delta"];
                push(&mut told.text, &delta["text"]);
                push(&mut told.reasoning, &delta["thinking"]);
                if let Some((_, arguments)) = told.calls.last_mut() {
                    push(arguments, &delta["partial_json"]);
                }
            }
            _ => {}
        }
    }
}
