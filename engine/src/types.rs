//! Plain data that several floors of the engine share.

use std::time::Duration;

use mlx_rs::Dtype;

/// A piece of an answer's text, with the tokens in it that structure the answer. It never ends inside a
/// UTF-8 sequence or inside what may become a stop string.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MarkedText {
    /// The text; may be empty.
    pub text: String,
    /// Where in `text` markers stand, in order. None is ever cut in two.
    pub marks: Vec<Mark>,
}

/// A marker in a text: a token that structures an answer, such as `<tool_call>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Its first byte.
    pub start: usize,
    /// After its last byte.
    pub end: usize,
    /// The token.
    pub id: u32,
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

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowPhase {
    /// It waits for its turn.
    Queued,
    /// Its prompt is being computed.
    Prefill,
    /// Its answer is being generated.
    Decode,
}

/// What a request allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThinkingBudget {
    /// Most tokens of thoughts; markers do not count.
    pub tokens: usize,
    /// Whether the answer begins in thoughts, which the prompt opened.
    pub is_open: bool,
    /// The token that opens thoughts.
    pub open: Option<u32>,
    /// The token that ends them.
    pub close: u32,
}

/// What a model computes in that is stored in bf16 or f16, packed or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ComputeDtype {
    /// The stored type on Metal; float32 on MLX's CPU backend, where it is far faster.
    #[default]
    Auto,
    /// The stored type.
    Stored,
}

/// Names a loaded model between the handle and the engine thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ModelId(pub(crate) u64);

/// What a model's keys and values are kept in, in memory and on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvDtype {
    /// The type that they are computed in.
    #[default]
    Computed,
    /// 16 bits, 11 of them precise; beyond 65504 there is nothing.
    Float16,
    /// 16 bits, 8 of them precise.
    Bfloat16,
    /// 32 bits.
    Float32,
}

impl KvDtype {
    pub(crate) fn dtype(self) -> Option<Dtype> {
        match self {
            KvDtype::Computed => None,
            KvDtype::Float16 => Some(Dtype::Float16),
            KvDtype::Bfloat16 => Some(Dtype::Bfloat16),
            KvDtype::Float32 => Some(Dtype::Float32),
        }
    }
}

/// What a model is and needs.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// `model_type` of config.json.
    pub architecture: String,
    /// Weights counted one by one, packed ones as what they unpack to.
    pub parameters: u64,
    /// Bytes of the weights in memory.
    pub weight_bytes: u64,
    /// The most tokens of a prompt and its answer together.
    pub context_tokens: usize,
    /// Token ids run from 0 to this, exclusive.
    pub vocab_tokens: usize,
    /// The model-wide packing, when there is one.
    pub quantization: Option<Quantization>,
    /// What the layers compute in, such as `float32`.
    pub dtype: String,
    /// What keys and values are kept in.
    pub kv_dtype: String,
    /// Hex digest over the config and the weight files' headers and sizes.
    pub digest: String,
    /// How long loading took.
    pub load_time: Duration,
}

/// How one matrix is packed: `bits` per weight, one scale and bias for each `group_size` weights of
/// a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quantization {
    /// 2, 3, 4, 5, 6 or 8.
    pub bits: i32,
    /// 32, 64 or 128.
    pub group_size: i32,
}

impl std::fmt::Display for Quantization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-bit, groups of {}", self.bits, self.group_size)
    }
}
