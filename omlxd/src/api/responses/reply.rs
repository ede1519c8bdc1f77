//! Writing `response` objects and the events that build one.

use std::collections::BTreeMap;

use engine::{Part, SamplingParams, TokenOutput, Tokenizer};
use serde_json::{Map, Value, json};

use super::super::conversation::seal;
use super::super::json;
use super::super::reply::{
    Choice, DONE, Ending, Identity, KEEPALIVE, TotalUsage, Write, chosen, put, string,
};
use super::archive::Archive;
use crate::config::KeepaliveMode;
use crate::error::ApiError;
use crate::response_store::Record;

/// What the answer repeats or depends on besides the generation.
#[derive(Debug, Clone, Default)]
pub(super) struct ResponseEcho {
    /// Fields of the request that the answer repeats, by name.
    pub echo: Map<String, Value>,
    /// Put thoughts also into `encrypted_content`.
    pub seal: bool,
    /// Which namespace a function was offered in, by its name.
    pub namespaces: BTreeMap<String, String>,
    /// What the client sent.
    pub input: Vec<Value>,
    /// The answer that this one continues.
    pub previous: Option<String>,
    /// Where to store the answer; `None` when it is not to be stored.
    pub archive: Option<Archive>,
}

/// Writes the answer to one request.
pub(crate) struct ResponsesReply {
    identity: Identity,
    /// Everything of the `response` object that does not change.
    head: Map<String, Value>,
    told: ResponseEcho,
    tokenizer: Tokenizer,
    /// Number of the next event.
    sequence: usize,
    /// Items that are complete.
    output: Vec<Value>,
    /// The item that is open.
    open: Option<Item>,
    ending: Ending,
    /// The complete answer, until it was stored.
    record: Option<Record>,
}

/// An item being written.
enum Item {
    Reasoning { text: String },
    Message { text: String, logprobs: Vec<Value> },
    Call { name: String, arguments: String },
}

impl Item {
    /// The prefix of its id.
    fn prefix(&self) -> &'static str {
        match self {
            Item::Reasoning { .. } => "rs",
            Item::Message { .. } => "msg",
            Item::Call { .. } => "fc",
        }
    }
}

impl ResponsesReply {
    /// `sampling` is what was in effect, which the answer tells.
    pub(super) fn new(
        identity: &Identity,
        told: ResponseEcho,
        sampling: &SamplingParams,
        tokenizer: Tokenizer,
    ) -> Self {
        let id = format!("resp_{}", identity.id);
        let start = json!({"id": id, "object": "response", "created_at": identity.created});
        let Value::Object(mut head) = start else { unreachable!("written as an object") };
        head.extend(told.echo.clone());
        for (name, value) in [("temperature", sampling.temperature), ("top_p", sampling.top_p)] {
            if head[name].is_null() {
                head.insert(name.to_owned(), decimal(value));
            }
        }
        ResponsesReply {
            identity: identity.clone(),
            head,
            told,
            tokenizer,
            sequence: 0,
            output: Vec::new(),
            open: None,
            ending: Ending::Stop,
            record: None,
        }
    }

    /// The `response` object as it is now.
    fn response(&self, status: &str, rest: Map<String, Value>) -> Value {
        let mut response = self.head.clone();
        response.insert("status".to_owned(), json!(status));
        for name in ["error", "incomplete_details"] {
            response.insert(name.to_owned(), Value::Null);
        }
        response.insert("output".to_owned(), Value::Array(self.output.clone()));
        response.extend(rest);
        Value::Object(response)
    }

    /// The complete `response` object.
    fn completed(&self, usage: &TotalUsage) -> Value {
        let mut rest = Map::new();
        rest.insert("usage".to_owned(), usage_of(usage));
        let status = match self.ending {
            Ending::Length => {
                let details = json!({"reason": "max_output_tokens"});
                rest.insert("incomplete_details".to_owned(), details);
                "incomplete"
            }
            _ => "completed",
        };
        self.response(status, rest)
    }

    /// One event. `fields` writes what comes after its type and number, each field with a comma before.
    fn event(&mut self, out: &mut Vec<u8>, kind: &str, fields: impl FnOnce(&Self, &mut Vec<u8>)) {
        let number = self.sequence;
        self.sequence += 1;
        let head =
            format_args!("event: {kind}\ndata: {{\"type\":\"{kind}\",\"sequence_number\":{number}");
        put(out, head);
        fields(self, out);
        out.extend_from_slice(b"}\n\n");
    }

    fn response_event(&mut self, out: &mut Vec<u8>, kind: &str, response: &Value) {
        self.event(out, kind, |_, out| put(out, format_args!(",\"response\":{response}")));
    }

    /// The open item's id and place.
    fn place(&self, out: &mut Vec<u8>) {
        let (id, index) = (self.item_id(), self.output.len());
        put(out, format_args!(",\"item_id\":\"{id}\",\"output_index\":{index}"));
    }

    fn item_id(&self) -> String {
        let prefix = self.open.as_ref().map_or("msg", Item::prefix);
        format!("{prefix}_{}_{}", self.identity.id, self.output.len())
    }

    /// The open item as an object.
    fn item(&self, item: &Item, status: &str) -> Value {
        let id = self.item_id();
        match item {
            Item::Reasoning { text } => {
                let content = if text.is_empty() {
                    json!([])
                } else {
                    json!([{"type": "reasoning_text", "text": text}])
                };
                let mut item = json!({"id": id, "type": "reasoning", "status": status,
                                      "summary": [], "content": content});
                if self.told.seal {
                    item["encrypted_content"] = json!(seal(text));
                }
                item
            }
            Item::Message { text, logprobs } => {
                let content = match status {
                    "in_progress" => json!([]),
                    _ => json!([text_part(text, logprobs)]),
                };
                json!({"id": id, "type": "message", "status": status, "role": "assistant",
                       "content": content})
            }
            Item::Call { name, arguments } => {
                let call_id = self.identity.call_id(0, self.output.len());
                let mut item = json!({"id": id, "type": "function_call", "status": status,
                                      "call_id": call_id, "name": name, "arguments": arguments});
                if let Some(namespace) = self.told.namespaces.get(name) {
                    item["namespace"] = json!(namespace);
                }
                item
            }
        }
    }

    /// Begins an item, after ending the one before it.
    fn begin(&mut self, out: &mut Vec<u8>, item: Item) {
        let status = if self.is_cut() { "incomplete" } else { "completed" };
        self.end_item(out, status);
        self.open = Some(item);
        let item = self.open.as_ref().expect("just set");
        let (added, part) = (self.item(item, "in_progress"), empty_part(item));
        let index = self.output.len();
        self.event(out, "response.output_item.added", |_, out| {
            put(out, format_args!(",\"output_index\":{index},\"item\":{added}"));
        });
        if let Some(part) = part {
            self.event(out, "response.content_part.added", |reply, out| {
                reply.place(out);
                put(out, format_args!(",\"content_index\":0,\"part\":{part}"));
            });
        }
    }

    /// Whether the open item is a call that broke off.
    fn is_cut(&self) -> bool {
        matches!(&self.open, Some(Item::Call { arguments, .. }) if !json::is_whole(arguments))
    }

    /// Ends the open item, if there is one.
    fn end_item(&mut self, out: &mut Vec<u8>, status: &str) {
        let Some(item) = &self.open else { return };
        let done = self.item(item, status);
        match item {
            Item::Reasoning { text } => {
                let (text, part) = (json!(text), json!({"type": "reasoning_text", "text": text}));
                self.text_done(out, "response.reasoning_text.done", &text, "", &part);
            }
            Item::Message { text, logprobs } => {
                let (part, text) = (text_part(text, logprobs), json!(text));
                let logprobs = format!(",\"logprobs\":{}", part["logprobs"]);
                self.text_done(out, "response.output_text.done", &text, &logprobs, &part);
            }
            Item::Call { name, arguments } => {
                let (name, arguments) = (json!(name), json!(arguments));
                self.event(out, "response.function_call_arguments.done", |reply, out| {
                    reply.place(out);
                    put(out, format_args!(",\"name\":{name},\"arguments\":{arguments}"));
                });
            }
        }
        let index = self.output.len();
        self.event(out, "response.output_item.done", |_, out| {
            put(out, format_args!(",\"output_index\":{index},\"item\":{done}"));
        });
        self.output.push(done);
        self.open = None;
    }

    fn text_done(&mut self, out: &mut Vec<u8>, kind: &str, text: &Value, more: &str, part: &Value) {
        self.event(out, kind, |reply, out| {
            reply.place(out);
            put(out, format_args!(",\"content_index\":0,\"text\":{text}{more}"));
        });
        self.event(out, "response.content_part.done", |reply, out| {
            reply.place(out);
            put(out, format_args!(",\"content_index\":0,\"part\":{part}"));
        });
    }

    /// Takes one part. `tokens` are those of a text whose probabilities were asked for.
    fn part(&mut self, out: &mut Vec<u8>, part: &Part, tokens: &[TokenOutput]) {
        match part {
            Part::Reasoning(more) => {
                if !matches!(self.open, Some(Item::Reasoning { .. })) {
                    self.begin(out, Item::Reasoning { text: String::new() });
                }
                if let Some(Item::Reasoning { text }) = &mut self.open {
                    text.push_str(more);
                }
                self.more(out, "response.reasoning_text.delta", ",\"content_index\":0", more, "");
            }
            Part::Text(more) => {
                if !matches!(self.open, Some(Item::Message { .. })) {
                    self.begin(out, Item::Message { text: String::new(), logprobs: Vec::new() });
                }
                let added: Vec<Value> =
                    tokens.iter().filter_map(|token| self.logprob(token)).collect();
                let written = format!(",\"logprobs\":{}", Value::Array(added.clone()));
                if let Some(Item::Message { text, logprobs }) = &mut self.open {
                    text.push_str(more);
                    logprobs.extend(added);
                }
                let place = ",\"content_index\":0";
                self.more(out, "response.output_text.delta", place, more, &written);
            }
            Part::CallStart { name, .. } => {
                self.begin(out, Item::Call { name: name.clone(), arguments: String::new() });
            }
            Part::CallArguments(more) => {
                if let Some(Item::Call { arguments, .. }) = &mut self.open {
                    arguments.push_str(more);
                }
                self.more(out, "response.function_call_arguments.delta", "", more, "");
            }
            // Whether it is complete shows when something follows, or the answer ends.
            Part::CallEnd => {}
        }
    }

    fn more(&mut self, out: &mut Vec<u8>, kind: &str, place: &str, delta: &str, more: &str) {
        self.event(out, kind, |reply, out| {
            reply.place(out);
            put(out, format_args!("{place},\"delta\":"));
            string(out, delta);
            out.extend_from_slice(more.as_bytes());
        });
    }

    fn logprob(&self, token: &TokenOutput) -> Option<Value> {
        let entry = |id: u32, logprob: f32| {
            let bytes = self.tokenizer.token_bytes(id);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            json!({"token": text, "logprob": decimal(logprob.max(-9999.0)), "bytes": bytes})
        };
        let own = chosen(token)?;
        let mut written = entry(own.id, own.logprob);
        let top = token.logprobs.iter().flat_map(|logprobs| &logprobs.top);
        written["top_logprobs"] = top.map(|one| entry(one.id, one.logprob)).collect();
        Some(written)
    }

    /// The last item ends. An answer of nothing is an empty message.
    fn end_output(&mut self, out: &mut Vec<u8>, ending: Ending) {
        if self.open.is_none() && self.output.is_empty() {
            self.begin(out, Item::Message { text: String::new(), logprobs: Vec::new() });
        }
        let is_call = matches!(self.open, Some(Item::Call { .. }));
        let is_cut = self.is_cut() || (ending == Ending::Length && !is_call);
        let status = if is_cut { "incomplete" } else { "completed" };
        self.end_item(out, status);
        self.ending = ending;
    }

    /// Remembers the complete answer until [`Write::keep`] takes it.
    fn remember(&mut self, response: &Value) {
        if self.told.archive.is_some() {
            let input = std::mem::take(&mut self.told.input);
            let previous = self.told.previous.take();
            self.record = Some(Record::new(previous, input, response.clone()));
        }
    }
}

impl Write for ResponsesReply {
    fn open(&mut self, out: &mut Vec<u8>, _index: usize, _echo: &str) {
        let response = self.response("in_progress", Map::new());
        self.response_event(out, "response.created", &response);
        self.response_event(out, "response.in_progress", &response);
    }

    fn delta(&mut self, out: &mut Vec<u8>, _index: usize, parts: &[Part], tokens: &[TokenOutput]) {
        for part in parts {
            self.part(out, part, tokens);
        }
    }

    fn close(&mut self, out: &mut Vec<u8>, _index: usize, ending: Ending) {
        self.end_output(out, ending);
    }

    fn end(&mut self, out: &mut Vec<u8>, usage: &TotalUsage) {
        let response = self.completed(usage);
        self.remember(&response);
        let kind = match self.ending {
            Ending::Length => "response.incomplete",
            _ => "response.completed",
        };
        self.response_event(out, kind, &response);
        out.extend_from_slice(DONE);
    }

    fn fail(&mut self, out: &mut Vec<u8>, error: &ApiError) {
        error_event(out, self.sequence, error);
        self.sequence += 1;
        let details = json!({"code": failure(error), "message": error.message()});
        let response =
            self.response("failed", [("error".to_owned(), details)].into_iter().collect());
        self.response_event(out, "response.failed", &response);
    }

    fn fail_early(error: &ApiError) -> Vec<u8> {
        let mut out = Vec::new();
        error_event(&mut out, 0, error);
        out
    }

    fn keepalive(&self, out: &mut Vec<u8>, _mode: KeepaliveMode) {
        out.extend_from_slice(KEEPALIVE);
    }

    fn whole(&mut self, choices: &[Choice], usage: &TotalUsage) -> Vec<u8> {
        let choice = &choices[0];
        // The events that a stream would have had lead to the same object.
        let unsent = &mut Vec::new();
        for part in choice.parts() {
            self.part(unsent, &part, &choice.tokens);
            unsent.clear();
        }
        self.end_output(unsent, choice.ending.clone().unwrap_or(Ending::Stop));
        let response = self.completed(usage);
        self.remember(&response);
        response.to_string().into_bytes()
    }

    fn keep(&mut self) -> Option<Box<dyn FnOnce() + Send>> {
        let (record, archive) = (self.record.take()?, self.told.archive.take()?);
        let id = format!("resp_{}", self.identity.id);
        Some(Box::new(move || archive.save(&id, &record)))
    }
}

/// The error event is flat.
fn error_event(out: &mut Vec<u8>, number: usize, error: &ApiError) {
    let (code, message, param) = (error.label(), json!(error.message()), json!(error.param()));
    put(
        out,
        format_args!(
            "event: error\ndata: {{\"type\":\"error\",\"sequence_number\":{number},\
             \"code\":\"{code}\",\"message\":{message},\"param\":{param}}}\n\n"
        ),
    );
}

/// The word for an error in a `response` object, which knows fewer than there are codes.
fn failure(error: &ApiError) -> &'static str {
    if error.status().is_client_error() { "invalid_prompt" } else { "server_error" }
}

/// The content part that an item begins with.
fn empty_part(item: &Item) -> Option<Value> {
    match item {
        Item::Reasoning { .. } => Some(json!({"type": "reasoning_text", "text": ""})),
        Item::Message { .. } => Some(text_part("", &[])),
        Item::Call { .. } => None,
    }
}

fn text_part(text: &str, logprobs: &[Value]) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs})
}

fn usage_of(usage: &TotalUsage) -> Value {
    let cached = usage.cached_tokens_ram + usage.cached_tokens_ssd;
    let mut told = json!({
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "omlx": {
            "cached_tokens_ram": usage.cached_tokens_ram,
            "cached_tokens_ssd": usage.cached_tokens_ssd,
            "restore_ms": usage.restore_ms,
        },
    });
    if usage.unshown_tools > 0 {
        told["omlx"]["unshown_tools"] = json!(usage.unshown_tools);
    }
    told
}

/// A float as people write it: 0.7, not the double next to it.
fn decimal(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, |value| json!(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        let model = json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"});
        let file = json!({"version": "1.0", "added_tokens": [], "model": model, "normalizer": null,
                          "pre_tokenizer": null, "post_processor": null, "decoder": null,
                          "truncation": null, "padding": null});
        Tokenizer::from_json(file.to_string().as_bytes()).unwrap()
    }

    /// The statuses of the items of an answer, as its stream and as its document have them.
    fn statuses(parts: &[Part]) -> [Vec<String>; 2] {
        let identity = Identity { id: "1".into(), created: 0, fingerprint: String::new() };
        let new = || {
            let mut told = ResponseEcho::default();
            for name in ["temperature", "top_p"] {
                told.echo.insert(name.to_owned(), json!(1));
            }
            ResponsesReply::new(&identity, told, &SamplingParams::default(), tokenizer())
        };
        let read = |output: &[Value]| {
            let statuses = output.iter().map(|item| item["status"].as_str().unwrap().to_owned());
            statuses.collect::<Vec<_>>()
        };
        let (mut streamed, out) = (new(), &mut Vec::new());
        streamed.delta(out, 0, parts, &[]);
        streamed.close(out, 0, Ending::Length);
        let mut choice = Choice { ending: Some(Ending::Length), ..Choice::default() };
        choice.take(parts.to_vec());
        let mut whole = new();
        whole.whole(&[choice], &TotalUsage::default());
        [read(&streamed.output), read(&whole.output)]
    }

    #[test]
    fn a_call_that_broke_off_is_incomplete_wherever_it_stands() {
        let call = |arguments: &str| {
            let name = "f".to_owned();
            let more = Part::CallArguments(arguments.to_owned());
            [Part::CallStart { index: 0, name }, more, Part::CallEnd]
        };
        let text = [Part::Text("so".to_owned())];
        let cut = call("{\"a\": \"b");
        for (rest, more) in [(&[][..], &[][..]), (&text, &["incomplete"]), (&cut, &["incomplete"])]
        {
            let [streamed, _] = statuses(&[&cut[..], rest].concat());
            assert_eq!(streamed, [&["incomplete"][..], more].concat());
        }
        let [_, whole] = statuses(&[&cut[..], &text].concat());
        assert_eq!(whole, ["completed", "incomplete"]);
        for number in ["1", "1e999", "123456789012345678901234567890"] {
            let both = statuses(&call(&format!("{{\"a\": {number}}}")));
            assert_eq!(both, [["completed"], ["completed"]], "{number}");
        }
    }
}
