//! Writing answers. A stream can carry more than a thousand chunks a second, so what is the same in
//! every chunk is written once, and each chunk is that head, a few bytes of its own, and a tail.

use std::io::Write as _;

use engine::{Part, TokenLogprob, TokenOutput, Tokenizer};

use super::params::Params;
use crate::config::KeepaliveMode;
use crate::error::ApiError;

/// The end of a stream that succeeded.
pub(super) const DONE: &[u8] = b"data: [DONE]\n\n";
/// A comment, which clients skip.
pub(super) const KEEPALIVE: &[u8] = b": keepalive\n\n";
/// JSON has no minus infinity; the API writes this for a probability of 0.
const LOWEST_LOGPROB: f32 = -9999.0;

/// What names an answer.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    /// The request's id in hexadecimal, without a prefix.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// Changes with whatever can change the output of the same seed: build and weights.
    pub fingerprint: String,
}

impl Identity {
    /// The id of a tool call: unguessable, and never the same twice.
    pub(super) fn call_id(&self, choice: usize, call: usize) -> String {
        let name = format!("{}/{choice}/{call}", self.id);
        format!("call_{:.24}", blake3::hash(name.as_bytes()).to_hex())
    }
}

/// Token counts of a whole answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TotalUsage {
    /// Tokens of all prompts, each counted once.
    pub prompt_tokens: usize,
    /// Tokens of all choices.
    pub completion_tokens: usize,
    /// Those among them that were thoughts.
    pub reasoning_tokens: usize,
    /// Prompt tokens whose KV came from memory.
    pub cached_tokens_ram: usize,
    /// Prompt tokens whose KV came from SSD.
    pub cached_tokens_ssd: usize,
    /// Time to restore that KV.
    pub restore_ms: u64,
    /// Tools of the request that the model was not shown.
    pub unshown_tools: usize,
}

/// Why a choice ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// The model ended it.
    Stop,
    /// This stop string did.
    StopString(String),
    /// No more tokens were left, or a tool call broke off.
    Length,
    /// It calls tools.
    ToolCalls,
}

impl Ending {
    /// The API's word for it.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Ending::Stop | Ending::StopString(_) => "stop",
            Ending::Length => "length",
            Ending::ToolCalls => "tool_calls",
        }
    }
}

/// One finished choice of an answer that is not streamed.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// The prompt, when it is to be echoed, and what the model said.
    pub text: String,
    /// What the model thought.
    pub reasoning: String,
    /// The tools that it calls.
    pub calls: Vec<ToolCall>,
    /// The answer's tokens, when their log probabilities were asked for.
    pub tokens: Vec<TokenOutput>,
    /// Why it ended.
    pub ending: Option<Ending>,
}

/// A call of a tool.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ToolCall {
    /// The function's name.
    pub name: String,
    /// A JSON object as text.
    pub arguments: String,
}

impl Choice {
    /// Appends what came.
    pub(super) fn take(&mut self, parts: Vec<Part>) {
        for part in parts {
            match part {
                Part::Reasoning(text) => self.reasoning.push_str(&text),
                Part::Text(text) => self.text.push_str(&text),
                Part::CallStart { name, .. } => {
                    self.calls.push(ToolCall { name, ..ToolCall::default() });
                }
                Part::CallArguments(text) => {
                    if let Some(call) = self.calls.last_mut() {
                        call.arguments.push_str(&text);
                    }
                }
                Part::CallEnd => {}
            }
        }
    }

    /// The choice as parts again: thoughts, then words, then calls.
    pub(super) fn parts(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        if !self.reasoning.is_empty() {
            parts.push(Part::Reasoning(self.reasoning.clone()));
        }
        if !self.text.is_empty() {
            parts.push(Part::Text(self.text.clone()));
        }
        for (index, call) in self.calls.iter().enumerate() {
            parts.push(Part::CallStart { index, name: call.name.clone() });
            parts.push(Part::CallArguments(call.arguments.clone()));
            parts.push(Part::CallEnd);
        }
        parts
    }
}

/// Writes the answer to one request: as a stream of events, or as one document.
pub(super) trait Write: Send + 'static {
    /// The first events of a choice. `echo` is the prompt when it is to be repeated.
    fn open(&mut self, out: &mut Vec<u8>, index: usize, echo: &str);
    /// More of a choice: parts, of which there may be none, and the tokens that came since the last
    /// time. Not every part has tokens: they come when they are known, parts when they are certain.
    fn delta(&mut self, out: &mut Vec<u8>, index: usize, parts: &[Part], tokens: &[TokenOutput]);
    /// The last events of a choice.
    fn close(&mut self, out: &mut Vec<u8>, index: usize, ending: Ending);
    /// The end of a stream that succeeded.
    fn end(&mut self, out: &mut Vec<u8>, usage: &TotalUsage);
    /// The end of one that failed.
    fn fail(&mut self, out: &mut Vec<u8>, error: &ApiError);
    /// The end of one that failed before there was a writer.
    fn fail_early(error: &ApiError) -> Vec<u8>;
    /// A sign of life.
    fn keepalive(&self, out: &mut Vec<u8>, mode: KeepaliveMode);
    /// The whole answer as a document.
    fn whole(&mut self, choices: &[Choice], usage: &TotalUsage) -> Vec<u8>;
    /// What is to be done with a complete answer before the client learns that it is complete. It may
    /// block.
    fn keep(&mut self) -> Option<Box<dyn FnOnce() + Send>> {
        None
    }
}

/// What an endpoint whose answers are chunks with `choices` adds to the shared writing.
pub(super) trait Chunks: Send + 'static {
    /// The shared parts.
    fn reply(&self) -> &Reply;
    /// As [`Write::open`].
    fn open(&mut self, out: &mut Vec<u8>, index: usize, echo: &str);
    /// As [`Write::delta`].
    fn delta(&mut self, out: &mut Vec<u8>, index: usize, parts: &[Part], tokens: &[TokenOutput]);
    /// As [`Write::close`].
    fn close(&mut self, out: &mut Vec<u8>, index: usize, ending: Ending);
    /// A choice of an answer that is not streamed.
    fn choice(&mut self, out: &mut Vec<u8>, index: usize, choice: &Choice);
}

impl<C: Chunks> Write for C {
    fn open(&mut self, out: &mut Vec<u8>, index: usize, echo: &str) {
        Chunks::open(self, out, index, echo);
    }

    fn delta(&mut self, out: &mut Vec<u8>, index: usize, parts: &[Part], tokens: &[TokenOutput]) {
        Chunks::delta(self, out, index, parts, tokens);
    }

    fn close(&mut self, out: &mut Vec<u8>, index: usize, ending: Ending) {
        Chunks::close(self, out, index, ending);
    }

    fn end(&mut self, out: &mut Vec<u8>, usage: &TotalUsage) {
        self.reply().usage(out, usage);
        out.extend_from_slice(DONE);
    }

    fn fail(&mut self, out: &mut Vec<u8>, error: &ApiError) {
        out.extend_from_slice(&error_event(error));
    }

    fn fail_early(error: &ApiError) -> Vec<u8> {
        error_event(error)
    }

    fn keepalive(&self, out: &mut Vec<u8>, mode: KeepaliveMode) {
        match mode {
            KeepaliveMode::Chunk => self.reply().chunk(out, |_| {}),
            _ => out.extend_from_slice(KEEPALIVE),
        }
    }

    fn whole(&mut self, choices: &[Choice], usage: &TotalUsage) -> Vec<u8> {
        let mut out = self.reply().whole_head.clone();
        for (index, choice) in choices.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            self.choice(&mut out, index, choice);
        }
        out.extend_from_slice(b"],\"usage\":");
        write_usage(&mut out, usage);
        out.push(b'}');
        out
    }
}

/// The parts of an answer that do not change from chunk to chunk.
#[derive(Debug)]
pub(super) struct Reply {
    /// `data: {"id":...,"choices":[`
    chunk_head: Vec<u8>,
    /// `]}` with `usage: null` where usage was asked for, and the end of the event.
    chunk_tail: &'static [u8],
    /// `{"id":...,"choices":[`
    whole_head: Vec<u8>,
    include_usage: bool,
}

impl Reply {
    /// `object` is the answer's own kind; the chunks of a chat have a kind of their own.
    pub(super) fn new(identity: &Identity, object: &str, params: &Params) -> Self {
        let chat = object == "chat.completion";
        let prefix = if chat { "chatcmpl-" } else { "cmpl-" };
        let chunk_object = if chat { "chat.completion.chunk" } else { object };
        let include_usage = params.stream.is_some_and(|stream| stream.include_usage);
        let head = |start: &str, object: &str| {
            let mut out = Vec::with_capacity(256);
            out.extend_from_slice(start.as_bytes());
            put(&mut out, format_args!("{{\"id\":\"{prefix}{}\",", identity.id));
            put(
                &mut out,
                format_args!("\"object\":\"{object}\",\"created\":{},", identity.created),
            );
            out.extend_from_slice(b"\"model\":");
            string(&mut out, &params.model);
            put(&mut out, format_args!(",\"system_fingerprint\":\"{}\",", identity.fingerprint));
            if params.service_tier {
                out.extend_from_slice(b"\"service_tier\":\"default\",");
            }
            out.extend_from_slice(b"\"choices\":[");
            out
        };
        Reply {
            chunk_head: head("data: ", chunk_object),
            chunk_tail: if include_usage { b"],\"usage\":null}\n\n" } else { b"]}\n\n" },
            whole_head: head("", object),
            include_usage,
        }
    }

    /// One event with the choice that `choice` writes.
    pub(super) fn chunk(&self, out: &mut Vec<u8>, choice: impl FnOnce(&mut Vec<u8>)) {
        out.extend_from_slice(&self.chunk_head);
        choice(out);
        out.extend_from_slice(self.chunk_tail);
    }

    /// The event with the token counts, where they were asked for.
    fn usage(&self, out: &mut Vec<u8>, usage: &TotalUsage) {
        if !self.include_usage {
            return;
        }
        out.extend_from_slice(&self.chunk_head);
        out.extend_from_slice(b"],\"usage\":");
        write_usage(out, usage);
        out.extend_from_slice(b"}\n\n");
    }
}

/// An event that ends a stream which failed. Official clients raise on any event that holds `error`.
fn error_event(error: &ApiError) -> Vec<u8> {
    [b"data: ".as_slice(), &error.body(), b"\n\n"].concat()
}

fn write_usage(out: &mut Vec<u8>, usage: &TotalUsage) {
    let TotalUsage { prompt_tokens, completion_tokens, .. } = usage;
    let total = prompt_tokens + completion_tokens;
    let cached = usage.cached_tokens_ram + usage.cached_tokens_ssd;
    put(
        out,
        format_args!(
            "{{\"prompt_tokens\":{prompt_tokens},\"completion_tokens\":{completion_tokens},\
             \"total_tokens\":{total},\"prompt_tokens_details\":{{\"cached_tokens\":{cached},\
             \"cache_write_tokens\":0,\"text_tokens\":{prompt_tokens}}},"
        ),
    );
    put(
        out,
        format_args!(
            "\"completion_tokens_details\":{{\"reasoning_tokens\":{}}},",
            usage.reasoning_tokens
        ),
    );
    put(
        out,
        format_args!(
            "\"omlx\":{{\"cached_tokens_ram\":{},\"cached_tokens_ssd\":{},\"restore_ms\":{}",
            usage.cached_tokens_ram, usage.cached_tokens_ssd, usage.restore_ms
        ),
    );
    if usage.unshown_tools > 0 {
        put(out, format_args!(",\"unshown_tools\":{}", usage.unshown_tools));
    }
    out.extend_from_slice(b"}}");
}

/// Appends formatted text.
pub(super) fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to memory does not fail");
}

/// Appends a JSON string.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a string is always JSON");
}

/// Appends a log probability as a JSON number.
pub(super) fn logprob(out: &mut Vec<u8>, value: f32) {
    // `max` also turns NaN into the lowest value.
    put(out, format_args!("{}", value.max(LOWEST_LOGPROB)));
}

/// Appends items with commas between them.
pub(super) fn list<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T),
) {
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item);
    }
}

/// The sampled token and its probability as one entry.
pub(super) fn chosen(token: &TokenOutput) -> Option<TokenLogprob> {
    let logprobs = token.logprobs.as_ref()?;
    Some(TokenLogprob { id: token.id, logprob: logprobs.chosen })
}

/// A token's text for the completions format, where it is a key: bytes that are no text on their
/// own are written as the API does, `bytes:\xf0\x9f`.
pub(super) fn token_key(tokenizer: &Tokenizer, id: u32) -> String {
    match String::from_utf8(tokenizer.token_bytes(id)) {
        Ok(text) => text,
        Err(error) => error.as_bytes().iter().fold("bytes:".to_owned(), |mut key, byte| {
            key.push_str(&format!("\\x{byte:02x}"));
            key
        }),
    }
}
