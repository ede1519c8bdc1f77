//! Writing `chat.completion` and `chat.completion.chunk` objects.

use engine::{Part, TokenLogprob, TokenOutput, Tokenizer};

use super::reply::{Choice, Chunks, Ending, Identity, Reply, chosen, list, logprob, put, string};

/// Writes the answers to one chat request.
pub(super) struct ChatReply {
    reply: Reply,
    identity: Identity,
    tokenizer: Tokenizer,
    /// For each choice, the call whose arguments are being written.
    calls: Vec<usize>,
}

impl ChatReply {
    /// `tokenizer` names the tokens of log probabilities.
    pub(super) fn new(reply: Reply, identity: Identity, tokenizer: Tokenizer) -> Self {
        ChatReply { reply, identity, tokenizer, calls: Vec::new() }
    }

    /// One chunk, with the fields of `delta` that `write` writes.
    fn chunk(
        &self,
        out: &mut Vec<u8>,
        index: usize,
        tokens: &[TokenOutput],
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        self.reply.chunk(out, |out| {
            put(out, format_args!("{{\"index\":{index},\"delta\":{{"));
            write(out);
            out.extend_from_slice(b"},\"logprobs\":");
            self.logprobs(out, tokens);
            out.extend_from_slice(b",\"finish_reason\":null}");
        });
    }

    /// Notes which call of a choice is being written.
    fn set_call(&mut self, choice: usize, call: usize) {
        if self.calls.len() <= choice {
            self.calls.resize(choice + 1, 0);
        }
        self.calls[choice] = call;
    }

    /// The start of a call with all that names it; its arguments follow.
    fn call_head(&self, out: &mut Vec<u8>, choice: usize, call: usize, name: &str) {
        let id = self.identity.call_id(choice, call);
        put(out, format_args!("\"id\":\"{id}\",\"type\":\"function\",\"function\":{{\"name\":"));
        string(out, name);
        out.extend_from_slice(b",\"arguments\":");
    }

    /// `null`, or the log probabilities of tokens.
    fn logprobs(&self, out: &mut Vec<u8>, tokens: &[TokenOutput]) {
        if !tokens.iter().any(|token| token.logprobs.is_some()) {
            return out.extend_from_slice(b"null");
        }
        out.extend_from_slice(b"{\"content\":[");
        list(out, tokens, |out, token| {
            let Some(entry) = chosen(token) else { return };
            out.push(b'{');
            self.entry(out, entry);
            out.extend_from_slice(b",\"top_logprobs\":[");
            let top = token.logprobs.iter().flat_map(|logprobs| &logprobs.top);
            list(out, top, |out, entry| {
                out.push(b'{');
                self.entry(out, *entry);
                out.push(b'}');
            });
            out.extend_from_slice(b"]}");
        });
        out.extend_from_slice(b"],\"refusal\":null}");
    }

    fn entry(&self, out: &mut Vec<u8>, entry: TokenLogprob) {
        let bytes = self.tokenizer.token_bytes(entry.id);
        out.extend_from_slice(b"\"token\":");
        string(out, &String::from_utf8_lossy(&bytes));
        out.extend_from_slice(b",\"logprob\":");
        logprob(out, entry.logprob);
        out.extend_from_slice(b",\"bytes\":[");
        list(out, &bytes, |out, byte| put(out, format_args!("{byte}")));
        out.push(b']');
    }
}

impl Chunks for ChatReply {
    fn reply(&self) -> &Reply {
        &self.reply
    }

    fn open(&mut self, out: &mut Vec<u8>, index: usize, _echo: &str) {
        self.reply.chunk(out, |out| {
            put(
                out,
                format_args!(
                    "{{\"index\":{index},\"delta\":{{\"role\":\"assistant\",\"content\":\"\"}},\
                     \"logprobs\":null,\"finish_reason\":null}}"
                ),
            );
        });
    }

    fn delta(&mut self, out: &mut Vec<u8>, index: usize, parts: &[Part], tokens: &[TokenOutput]) {
        let mut tokens = tokens;
        for part in parts {
            match part {
                Part::Text(text) => {
                    self.chunk(out, index, tokens, |out| field(out, "content", text))
                }
                Part::Reasoning(text) => {
                    self.chunk(out, index, tokens, |out| field(out, "reasoning_content", text));
                }
                Part::CallStart { index: call, name } => {
                    self.set_call(index, *call);
                    self.chunk(out, index, tokens, |out| {
                        put(out, format_args!("\"tool_calls\":[{{\"index\":{call},"));
                        self.call_head(out, index, *call, name);
                        out.extend_from_slice(b"\"\"}}]");
                    });
                }
                Part::CallArguments(text) => {
                    let call = self.calls.get(index).copied().unwrap_or_default();
                    self.chunk(out, index, tokens, |out| {
                        put(
                            out,
                            format_args!("\"tool_calls\":[{{\"index\":{call},\"function\":{{"),
                        );
                        field(out, "arguments", text);
                        out.extend_from_slice(b"}}]");
                    });
                }
                Part::CallEnd => continue,
            }
            tokens = &[];
        }
        if tokens.iter().any(|token| token.logprobs.is_some()) {
            self.chunk(out, index, tokens, |out| field(out, "content", ""));
        }
    }

    fn close(&mut self, out: &mut Vec<u8>, index: usize, ending: Ending) {
        let word = ending.word();
        self.reply.chunk(out, |out| {
            put(
                out,
                format_args!(
                    "{{\"index\":{index},\"delta\":{{}},\"logprobs\":null,\
                     \"finish_reason\":\"{word}\"}}"
                ),
            );
        });
    }

    fn choice(&mut self, out: &mut Vec<u8>, index: usize, choice: &Choice) {
        put(
            out,
            format_args!("{{\"index\":{index},\"message\":{{\"role\":\"assistant\",\"content\":"),
        );
        // A message that is nothing but calls has no content.
        if choice.text.is_empty() && !choice.calls.is_empty() {
            out.extend_from_slice(b"null");
        } else {
            string(out, &choice.text);
        }
        out.extend_from_slice(b",\"refusal\":null");
        if !choice.reasoning.is_empty() {
            out.push(b',');
            field(out, "reasoning_content", &choice.reasoning);
        }
        if !choice.calls.is_empty() {
            out.extend_from_slice(b",\"tool_calls\":[");
            list(out, choice.calls.iter().enumerate(), |out, (number, call)| {
                out.push(b'{');
                self.call_head(out, index, number, &call.name);
                string(out, &call.arguments);
                out.extend_from_slice(b"}}");
            });
            out.push(b']');
        }
        out.extend_from_slice(b"},\"logprobs\":");
        self.logprobs(out, &choice.tokens);
        let word = choice.ending.as_ref().map_or("stop", Ending::word);
        put(out, format_args!(",\"finish_reason\":\"{word}\"}}"));
    }
}

/// Appends a member whose value is a string.
fn field(out: &mut Vec<u8>, name: &str, text: &str) {
    put(out, format_args!("\"{name}\":"));
    string(out, text);
}
