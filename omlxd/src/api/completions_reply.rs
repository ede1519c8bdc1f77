//! Writing `text_completion` objects.

use engine::{Part, TokenOutput, Tokenizer};

use super::reply::{Choice, Chunks, Ending, Reply, chosen, list, logprob, put, string, token_key};

/// Writes the answers to one completion request.
pub(super) struct CompletionsReply {
    reply: Reply,
    tokenizer: Tokenizer,
    /// For each choice, how many characters its tokens have made so far.
    offsets: Vec<usize>,
}

impl CompletionsReply {
    /// `tokenizer` names the tokens of log probabilities.
    pub(super) fn new(reply: Reply, tokenizer: Tokenizer) -> Self {
        CompletionsReply { reply, tokenizer, offsets: Vec::new() }
    }

    fn write(
        &mut self,
        out: &mut Vec<u8>,
        index: usize,
        text: &str,
        tokens: &[TokenOutput],
        ending: Option<&Ending>,
    ) {
        out.extend_from_slice(b"{\"text\":");
        string(out, text);
        put(out, format_args!(",\"index\":{index},\"logprobs\":"));
        self.logprobs(out, index, tokens);
        match ending.map(Ending::word) {
            Some(word) => put(out, format_args!(",\"finish_reason\":\"{word}\"}}")),
            None => out.extend_from_slice(b",\"finish_reason\":null}"),
        }
    }

    /// `null`, or four lists of equal length.
    fn logprobs(&mut self, out: &mut Vec<u8>, index: usize, tokens: &[TokenOutput]) {
        if !tokens.iter().any(|token| token.logprobs.is_some()) {
            return out.extend_from_slice(b"null");
        }
        let tokenizer = &self.tokenizer;
        let entries: Vec<_> = tokens.iter().filter_map(chosen).collect();
        let keys: Vec<_> = entries.iter().map(|entry| token_key(tokenizer, entry.id)).collect();
        out.extend_from_slice(b"{\"tokens\":[");
        list(out, &keys, |out, key| string(out, key));
        out.extend_from_slice(b"],\"token_logprobs\":[");
        list(out, &entries, |out, entry| logprob(out, entry.logprob));
        out.extend_from_slice(b"],\"top_logprobs\":[");
        list(out, tokens, |out, token| {
            out.push(b'{');
            let top = token.logprobs.iter().flat_map(|logprobs| &logprobs.top);
            list(out, top, |out, entry| {
                string(out, &token_key(tokenizer, entry.id));
                out.push(b':');
                logprob(out, entry.logprob);
            });
            out.push(b'}');
        });
        out.extend_from_slice(b"],\"text_offset\":[");
        if self.offsets.len() <= index {
            self.offsets.resize(index + 1, 0);
        }
        let offset = &mut self.offsets[index];
        list(out, &keys, |out, key| {
            put(out, format_args!("{offset}"));
            *offset += key.chars().count();
        });
        out.extend_from_slice(b"]}");
    }

    fn event(
        &mut self,
        out: &mut Vec<u8>,
        index: usize,
        text: &str,
        tokens: &[TokenOutput],
        ending: Option<&Ending>,
    ) {
        let mut choice = Vec::with_capacity(128);
        self.write(&mut choice, index, text, tokens, ending);
        self.reply.chunk(out, |out| out.extend_from_slice(&choice));
    }
}

impl Chunks for CompletionsReply {
    fn reply(&self) -> &Reply {
        &self.reply
    }

    fn open(&mut self, out: &mut Vec<u8>, index: usize, echo: &str) {
        if !echo.is_empty() {
            self.event(out, index, echo, &[], None);
        }
    }

    fn delta(&mut self, out: &mut Vec<u8>, index: usize, parts: &[Part], tokens: &[TokenOutput]) {
        // A completion is text and nothing else: its parser takes nothing apart.
        let text: String = parts
            .iter()
            .filter_map(|part| match part {
                Part::Text(text) => Some(text.as_str()),
                _ => None,
            })
            .collect();
        self.event(out, index, &text, tokens, None);
    }

    fn close(&mut self, out: &mut Vec<u8>, index: usize, ending: Ending) {
        self.event(out, index, "", &[], Some(&ending));
    }

    fn choice(&mut self, out: &mut Vec<u8>, index: usize, choice: &Choice) {
        let ending = choice.ending.as_ref().unwrap_or(&Ending::Stop);
        self.write(out, index, &choice.text, &choice.tokens, Some(ending));
    }
}
