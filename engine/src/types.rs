//! Plain data types that several layers of the engine share.

use std::time::Duration;

use mlx_rs::Dtype;

/// A piece of an answer's text, with the positions of its marker tokens. It never ends inside a
/// UTF-8 sequence or inside a possible stop string.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MarkedText {
    /// The text; may be empty.
    pub text: String,
    /// Positions of the markers in `text`, in order. A marker is never split between pieces.
    pub marks: Vec<Mark>,
}

/// A marker in a text: a token that structures an answer, such as `<tool_call>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Offset of its first byte.
    pub start: usize,
    /// Offset after its last byte.
    pub end: usize,
    /// The token.
    pub id: u32,
}

/// One sampled token.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenOutput {
    /// Its id.
    pub id: u32,
    /// Set when the request asked for log probabilities.
    pub logprobs: Option<TokenLogprobs>,
}

/// Natural log probabilities from the unmodified logits (before penalties, bias and temperature).
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// That of the sampled token.
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

/// The time that one request spent in each phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// From submission to the first scheduling.
    pub queue: Duration,
    /// Restoring the KV cache.
    pub restore: Duration,
    /// From the first scheduling to the first sampled token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

/// The phase of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowPhase {
    /// It is waiting.
    Queued,
    /// Its prompt is being computed.
    Prefill,
    /// Its answer is being generated.
    Decode,
}

/// The limit on a request's reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThinkingBudget {
    /// Maximum number of reasoning tokens. Markers do not count.
    pub tokens: usize,
    /// Whether the answer starts inside reasoning that the prompt opened.
    pub is_open: bool,
    /// The token that opens reasoning.
    pub open: Option<u32>,
    /// The token that ends reasoning.
    pub close: u32,
}

/// The compute dtype of models whose weights are stored in bf16 or f16, packed or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ComputeDtype {
    /// The stored dtype on Metal; float32 on MLX's CPU backend, where it is much faster.
    #[default]
    Auto,
    /// The stored dtype.
    Stored,
}

/// Identifies a loaded model between the handle and the engine thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ModelId(pub(crate) u64);

/// The dtype in which a model's keys and values are cached, in memory and on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvDtype {
    /// The compute dtype.
    #[default]
    Computed,
    /// 16 bits with 11 bits of precision; the largest value is 65504.
    Float16,
    /// 16 bits with 8 bits of precision.
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

/// Facts about a loaded model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// `model_type` of config.json.
    pub architecture: String,
    /// Number of weights; packed weights are counted unpacked.
    pub parameters: u64,
    /// Bytes of the weights in memory.
    pub weight_bytes: u64,
    /// Limit on prompt and answer together, in tokens.
    pub context_tokens: usize,
    /// Size of the vocabulary: valid token ids are smaller.
    pub vocab_tokens: usize,
    /// The model-wide quantization, if there is one.
    pub quantization: Option<Quantization>,
    /// The compute dtype of the layers, such as `float32`.
    pub dtype: String,
    /// The dtype of cached keys and values.
    pub kv_dtype: String,
    /// Hex digest over the config and the weight files' headers and sizes.
    pub digest: String,
    /// Time taken to load it.
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
