//! Writing `chat.completion` and `chat.completion.chunk` objects.

use engine::{FinishReason, Model, TokenLogprob, TokenOutput};

use super::reply::{Choice, Reply, Write, chosen, finish_word, list, logprob, put, string};

/// Writes the answers to one chat request.
pub(super) struct ChatReply {
    reply: Reply,
    model: Model,
}

impl ChatReply {
    /// `model` names the tokens of log probabilities.
    pub(super) fn new(reply: Reply, model: Model) -> Self {
        ChatReply { reply, model }
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
        let bytes = self.model.tokenizer().token_bytes(entry.id);
        out.extend_from_slice(b"\"token\":");
        string(out, &String::from_utf8_lossy(&bytes));
        out.extend_from_slice(b",\"logprob\":");
        logprob(out, entry.logprob);
        out.extend_from_slice(b",\"bytes\":[");
        list(out, &bytes, |out, byte| put(out, format_args!("{byte}")));
        out.push(b']');
    }
}

impl Write for ChatReply {
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

    fn delta(&mut self, out: &mut Vec<u8>, index: usize, text: &str, tokens: &[TokenOutput]) {
        self.reply.chunk(out, |out| {
            put(out, format_args!("{{\"index\":{index},\"delta\":{{\"content\":"));
            string(out, text);
            out.extend_from_slice(b"},\"logprobs\":");
            self.logprobs(out, tokens);
            out.extend_from_slice(b",\"finish_reason\":null}");
        });
    }

    fn close(&mut self, out: &mut Vec<u8>, index: usize, finish: FinishReason) {
        let word = finish_word(finish);
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
        string(out, &choice.text);
        out.extend_from_slice(b",\"refusal\":null},\"logprobs\":");
        self.logprobs(out, &choice.tokens);
        let word = choice.finish.map_or("stop", finish_word);
        put(out, format_args!(",\"finish_reason\":\"{word}\"}}"));
    }
}
