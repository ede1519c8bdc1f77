//! One request and the stream of what it generates.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::detokenize::Detokenizer;
use crate::error::GenerateError;
use crate::sampling::SamplingParams;
use crate::stop::StopMatcher;
use crate::tokenizer::Tokenizer;

/// What to generate from.
#[derive(Debug, Clone, Default)]
pub struct GenerateRequest {
    /// Prompt token ids, as the tokenizer gave them.
    pub prompt: Vec<u32>,
    /// How each token is chosen.
    pub sampling: SamplingParams,
    /// The most tokens to generate; clamped to what the context leaves.
    pub max_tokens: usize,
    /// No end-of-sequence token is chosen before this many tokens.
    pub min_tokens: usize,
    /// Go on after an end-of-sequence token.
    pub ignore_eos: bool,
    /// Texts that end the answer; none of them ever appears in it.
    pub stop: Vec<String>,
    /// `Some(n)`: report the log probability of each token and of the n likeliest (0 to 20).
    pub logprobs: Option<usize>,
    /// Keep special tokens (such as `<tool_call>`) in the text. End-of-sequence tokens never are.
    pub keep_special_tokens: bool,
}

/// A step of a generation, in order: any number of `Delta`, then exactly one `Done` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// More of the answer.
    Delta(Delta),
    /// The answer is complete.
    Done(Outcome),
    /// The request failed.
    Failed(GenerateError),
}

/// More of the answer. `text` never ends inside a UTF-8 sequence or inside what may become a stop
/// string; tokens whose text is still held back come with the delta that releases it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Delta {
    /// Text to append; may be empty (the first token of an emoji, for one).
    pub text: String,
    /// The tokens sampled since the last delta.
    pub tokens: Vec<TokenOutput>,
}

/// One sampled token.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenOutput {
    /// Its id.
    pub id: u32,
    /// Present when the request asked for log probabilities.
    pub logprobs: Option<TokenLogprobs>,
}

/// Natural log probabilities from the unmodified logits (before penalties, bias and temperature).
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// Of the sampled token.
    pub chosen: f32,
    /// The likeliest tokens, likeliest first.
    pub top: Vec<TokenLogprob>,
}

/// A token and its natural log probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogprob {
    /// Token id.
    pub id: u32,
    /// Natural log probability.
    pub logprob: f32,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-sequence token or a stop string.
    Stop,
    /// `max_tokens` or the end of the context.
    Length,
}

/// How a finished request ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Why it ended.
    pub finish: FinishReason,
    /// Token counts.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
}

/// Token counts of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens in the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, the end-of-sequence token included.
    pub completion_tokens: usize,
    /// Prompt tokens whose KV came from unified memory.
    pub cached_tokens_ram: usize,
    /// Prompt tokens whose KV came from SSD.
    pub cached_tokens_ssd: usize,
}

/// Where the time of one request went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Submitted to first scheduled.
    pub queue: Duration,
    /// KV restored from the cache.
    pub restore: Duration,
    /// First scheduled to the first token sampled.
    pub prefill: Duration,
    /// First token to last.
    pub decode: Duration,
}

/// What the engine thread sends for one request.
#[derive(Debug)]
pub(crate) enum Raw {
    Token(TokenOutput),
    Done(Outcome),
    Failed(GenerateError),
}

/// The receiving end of a request. Dropping it cancels the request: its row leaves the batch at the
/// next step.
#[derive(Debug)]
pub struct Generation {
    receiver: mpsc::Receiver<Raw>,
    detokenizer: Detokenizer,
    stop: StopMatcher,
    eos: Arc<[u32]>,
    ignore_eos: bool,
    /// Tokens whose text has not been released yet.
    pending: Vec<TokenOutput>,
    usage: Usage,
    finished: bool,
}
