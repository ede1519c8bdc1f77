//! Writing `message` objects and the events that build one.

use engine::{Part, TokenOutput};
use serde_json::{Value, json};

use super::super::conversation::seal;
use super::super::json;
use super::super::reply::{Choice, Ending, Identity, TotalUsage, Write, put, string};
use super::error;
use crate::config::KeepaliveMode;
use crate::error::ApiError;

/// Says that the answer is alive.
const PING: &[u8] = b"event: ping\ndata: {\"type\":\"ping\"}\n\n";
/// Thoughts that are shown need nothing to be found again by; the field must be there.
const SIGNATURE: &str = "omlx";

/// How an answer shows thoughts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thoughts {
    /// In full.
    Shown,
    /// Only sealed, for the next request.
    Sealed,
    /// Not at all: nobody asked for them.
    Dropped,
}

/// Writes the answer to one request.
pub(crate) struct MessagesReply {
    digits: String,
    model: String,
    thoughts: Thoughts,
    /// Blocks that are complete.
    content: Vec<Value>,
    /// The block that is open.
    open: Option<Block>,
    ending: Ending,
}

/// A block being written.
enum Block {
    Thinking(String),
    Text(String),
    Call { name: String, arguments: String },
}

impl MessagesReply {
    /// `model` is the name that the client used.
    pub(super) fn new(identity: &Identity, model: &str, thoughts: Thoughts) -> Self {
        MessagesReply {
            digits: identity.id.clone(),
            model: model.to_owned(),
            thoughts,
            content: Vec::new(),
            open: None,
            ending: Ending::Stop,
        }
    }

    fn message(&self, stop_reason: Value, usage: Value) -> Value {
        json!({
            "id": format!("msg_{}", self.digits),
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": self.content,
            "stop_reason": stop_reason,
            "stop_sequence": self.stop_sequence(),
            "usage": usage,
        })
    }

    fn stop_reason(&self) -> &'static str {
        match &self.ending {
            Ending::Length => "max_tokens",
            Ending::ToolCalls => "tool_use",
            Ending::Stop => "end_turn",
            Ending::StopString(_) => "stop_sequence",
        }
    }

    fn stop_sequence(&self) -> Option<&str> {
        match &self.ending {
            Ending::StopString(stop) => Some(stop),
            _ => None,
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>, block: Block) {
        self.end_block(out);
        let start = match &block {
            Block::Thinking(_) => json!({"type": "thinking", "thinking": "", "signature": ""}),
            Block::Text(_) => json!({"type": "text", "text": ""}),
            Block::Call { name, .. } => {
                json!({"type": "tool_use", "id": self.call_id(), "name": name, "input": {}})
            }
        };
        let index = self.content.len();
        event(out, "content_block_start", |out| {
            put(out, format_args!(",\"index\":{index},\"content_block\":{start}"));
        });
        self.open = Some(block);
    }

    fn call_id(&self) -> String {
        format!("toolu_{}_{}", self.digits, self.content.len())
    }

    fn more(&self, out: &mut Vec<u8>, kind: &str, field: &str, text: &str) {
        let index = self.content.len();
        event(out, "content_block_delta", |out| {
            put(
                out,
                format_args!(",\"index\":{index},\"delta\":{{\"type\":\"{kind}\",\"{field}\":"),
            );
            string(out, text);
            out.push(b'}');
        });
    }

    /// Ends the open block, if there is one.
    fn end_block(&mut self, out: &mut Vec<u8>) {
        let Some(block) = self.open.take() else { return };
        let block = match block {
            Block::Thinking(text) => {
                let (shown, signature) = match self.thoughts {
                    Thoughts::Sealed => (String::new(), seal(&text)),
                    _ => (text, SIGNATURE.to_owned()),
                };
                self.more(out, "signature_delta", "signature", &signature);
                json!({"type": "thinking", "thinking": shown, "signature": signature})
            }
            Block::Text(text) => json!({"type": "text", "text": text}),
            Block::Call { name, arguments } => {
                let read = serde_json::from_str(&arguments).ok();
                // What was cut off in the middle is no object.
                let input =
                    read.or_else(|| json::as_written(&arguments)).unwrap_or_else(|| json!({}));
                json!({"type": "tool_use", "id": self.call_id(), "name": name, "input": input})
            }
        };
        let index = self.content.len();
        event(out, "content_block_stop", |out| put(out, format_args!(",\"index\":{index}")));
        self.content.push(block);
    }

    fn part(&mut self, out: &mut Vec<u8>, part: &Part) {
        match part {
            Part::Reasoning(_) if self.thoughts == Thoughts::Dropped => {}
            Part::Reasoning(more) => {
                if !matches!(self.open, Some(Block::Thinking(_))) {
                    self.begin(out, Block::Thinking(String::new()));
                }
                if let Some(Block::Thinking(text)) = &mut self.open {
                    text.push_str(more);
                }
                if self.thoughts == Thoughts::Shown {
                    self.more(out, "thinking_delta", "thinking", more);
                }
            }
            Part::Text(more) => {
                if !matches!(self.open, Some(Block::Text(_))) {
                    self.begin(out, Block::Text(String::new()));
                }
                if let Some(Block::Text(text)) = &mut self.open {
                    text.push_str(more);
                }
                self.more(out, "text_delta", "text", more);
            }
            Part::CallStart { name, .. } => {
                self.begin(out, Block::Call { name: name.clone(), arguments: String::new() });
            }
            Part::CallArguments(more) => {
                if let Some(Block::Call { arguments, .. }) = &mut self.open {
                    arguments.push_str(more);
                }
                self.more(out, "input_json_delta", "partial_json", more);
            }
            Part::CallEnd => self.end_block(out),
        }
    }
}

impl Write for MessagesReply {
    fn open(&mut self, out: &mut Vec<u8>, _index: usize, _echo: &str) {
        // What of the prompt was cached is known with the first token, and told at the end.
        let message = self.message(Value::Null, usage_of(&TotalUsage::default()));
        event(out, "message_start", |out| put(out, format_args!(",\"message\":{message}")));
        out.extend_from_slice(PING);
    }

    fn delta(&mut self, out: &mut Vec<u8>, _index: usize, parts: &[Part], _tokens: &[TokenOutput]) {
        for part in parts {
            self.part(out, part);
        }
    }

    fn close(&mut self, out: &mut Vec<u8>, _index: usize, ending: Ending) {
        self.ending = ending;
        self.end_block(out);
    }

    fn end(&mut self, out: &mut Vec<u8>, usage: &TotalUsage) {
        let (reason, usage) = (self.stop_reason(), usage_of(usage));
        event(out, "message_delta", |out| {
            let delta = json!({"stop_reason": reason, "stop_sequence": self.stop_sequence()});
            put(out, format_args!(",\"delta\":{delta},\"usage\":{usage}"));
        });
        event(out, "message_stop", |_| {});
    }

    fn fail(&mut self, out: &mut Vec<u8>, error: &ApiError) {
        out.extend_from_slice(&error::event(error));
    }

    fn fail_early(error: &ApiError) -> Vec<u8> {
        error::event(error)
    }

    fn keepalive(&self, out: &mut Vec<u8>, _mode: KeepaliveMode) {
        out.extend_from_slice(PING);
    }

    fn whole(&mut self, choices: &[Choice], usage: &TotalUsage) -> Vec<u8> {
        let choice = &choices[0];
        // The events that a stream would have had lead to the same object.
        let unsent = &mut Vec::new();
        for part in choice.parts() {
            self.part(unsent, &part);
            unsent.clear();
        }
        self.end_block(unsent);
        self.ending = choice.ending.clone().unwrap_or(Ending::Stop);
        self.message(json!(self.stop_reason()), usage_of(usage)).to_string().into_bytes()
    }
}

/// One event. `fields` writes what comes after its type, each field with a comma before.
fn event(out: &mut Vec<u8>, kind: &str, fields: impl FnOnce(&mut Vec<u8>)) {
    put(out, format_args!("event: {kind}\ndata: {{\"type\":\"{kind}\""));
    fields(out);
    out.extend_from_slice(b"}\n\n");
}

/// As this API counts: `input_tokens` are those of the prompt that were not read from the cache.
fn usage_of(usage: &TotalUsage) -> Value {
    let cached = usage.cached_tokens_ram + usage.cached_tokens_ssd;
    let mut told = json!({
        "input_tokens": usage.prompt_tokens.saturating_sub(cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
        "service_tier": "standard",
    });
    if usage.unshown_tools > 0 {
        told["omlx"] = json!({"unshown_tools": usage.unshown_tools});
    }
    told
}

#[cfg(test)]
mod tests {
    use super::super::super::reply::ToolCall;
    use super::*;

    #[test]
    fn the_input_of_a_whole_call_is_never_lost() {
        let identity = Identity { id: "1".into(), created: 0, fingerprint: String::new() };
        for (arguments, input) in [
            ("{\"x\": 1e999}", json!({"x": "1e999"})),
            ("{\"x\": \"\\ud83d\", \"y\": NaN}", json!({"x": "\u{fffd}", "y": null})),
            ("{\"x\": 1}", json!({"x": 1})),
            ("{\"x\": ", json!({})),
        ] {
            let call = ToolCall { name: "f".to_owned(), arguments: arguments.to_owned() };
            let choice = Choice { calls: vec![call], ..Choice::default() };
            let mut reply = MessagesReply::new(&identity, "m", Thoughts::Shown);
            let whole = reply.whole(&[choice], &TotalUsage::default());
            let message: Value = serde_json::from_slice(&whole).unwrap();
            assert_eq!(message["content"][0]["input"], input, "{arguments}");
        }
    }
}
