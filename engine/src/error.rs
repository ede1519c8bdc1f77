//! Error types, by operation. An error says what happened, where, and what to do next. Its text
//! never repeats the text of its source.

use std::path::PathBuf;

/// `Result` with MLX's exception as the default error.
pub(crate) type Result<T, E = mlx_rs::error::Exception> = std::result::Result<T, E>;

/// A model folder that cannot be loaded. Nothing of it stays in memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file that every model needs is missing.
    #[error("{path} is missing: {hint}")]
    Missing {
        /// The path of the missing file.
        path: PathBuf,
        /// The purpose of the file and how to get it.
        hint: &'static str,
    },
    /// A file could not be read.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
    /// A file was read, but its content is invalid.
    #[error("{path} is not usable: {what}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The field or tensor, and the problem with it.
        what: String,
    },
    /// `model_type` names an architecture that this engine does not support.
    #[error(
        "{path}: model_type \"{model_type}\" is not supported; supported are: {}",
        supported.join(", ")
    )]
    UnknownArchitecture {
        /// The path of config.json.
        path: PathBuf,
        /// The `model_type` in that file.
        model_type: String,
        /// The supported values of `model_type`.
        supported: Vec<&'static str>,
    },
    /// The model does not fit in the memory budget, even when nothing else is loaded.
    #[error(
        "its weights, the shortest of prompts and what computing takes are {needed_bytes} bytes, and \
         the memory budget is {budget_bytes}"
    )]
    TooLarge {
        /// Bytes that the model needs.
        needed_bytes: u64,
        /// The memory budget in bytes.
        budget_bytes: u64,
    },
    /// The weights do not fit beside the models and caches that are in memory now.
    #[error("the weights take {needed_bytes} bytes and {free_bytes} are free")]
    NoRoom {
        /// Bytes of the weights.
        needed_bytes: u64,
        /// Free bytes of the memory budget.
        free_bytes: u64,
    },
    /// An MLX operation failed while the model was being built or warmed up.
    #[error("MLX failed while loading {path}: {what}")]
    Mlx {
        /// The model folder.
        path: PathBuf,
        /// MLX's message.
        what: String,
    },
    /// The engine is stopping.
    #[error("the engine is shutting down")]
    ShuttingDown,
}

/// A request that was rejected before it was queued.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The prompt has no token.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt leaves no space in the context for a generated token.
    #[error("the prompt has {prompt_tokens} tokens and the context limit is {context_tokens}")]
    ContextExceeded {
        /// Tokens in the prompt.
        prompt_tokens: usize,
        /// The model's limit on prompt and answer together.
        context_tokens: usize,
    },
    /// A token id (in the prompt or in `logit_bias`) that is not in the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocab} tokens")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Size of the vocabulary: valid ids are smaller.
        vocab: usize,
    },
    /// `max_queue` requests are already waiting.
    #[error("{waiting} requests are waiting, which is the limit")]
    QueueFull {
        /// Number of waiting requests.
        waiting: usize,
    },
    /// The engine is stopping.
    #[error("the engine is shutting down")]
    ShuttingDown,
}

/// A request that failed while it ran. The engine and the other requests continue.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The logits contain a NaN, so the weights are damaged.
    #[error("the model computed NaN: {what}")]
    NotANumber {
        /// The tensor that contains a NaN, and its file, if the scan found one.
        what: String,
    },
    /// An MLX operation failed.
    #[error("MLX failed: {0}")]
    Mlx(String),
    /// The receiver did not read for longer than the limit.
    #[error("the client read nothing for {0} seconds")]
    SlowReader(u64),
    /// The request's grammar became too complex to continue, or allows no further token.
    #[error("the answer cannot be held to its grammar: {0}")]
    Grammar(String),
    /// The request's deadline passed before its answer was complete.
    #[error("the request's deadline passed")]
    Deadline,
    /// The request's KV cache does not fit in memory, although no other request runs.
    #[error("there is not enough memory for this request now")]
    NoMemory,
    /// A bug in the engine: the step panicked. The message is in the log.
    #[error("internal error in the engine")]
    Internal,
    /// The engine stopped before the request ended.
    #[error("the engine is shutting down")]
    ShuttingDown,
}

/// A text that cannot be tokenized.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizeError {
    /// The tokenizer fails on this text.
    #[error("the model's tokenizer cannot encode this text: {0}")]
    Refused(String),
    /// The text has far more tokens than the context holds. Counting stopped early.
    #[error("the text has {tokens} tokens or more, and the context limit is {most_tokens}")]
    TooManyTokens {
        /// Number of tokens counted before that.
        tokens: usize,
        /// The model's limit on prompt and answer together.
        most_tokens: usize,
    },
    /// The text has more bytes than the limit for a model with this context.
    #[error(
        "the text has {bytes} bytes, and at most {most_bytes} are encoded for this model's context"
    )]
    TooManyBytes {
        /// Bytes of the text, either as received or after the tokenizer's normalizer.
        bytes: usize,
        /// The limit.
        most_bytes: usize,
        /// The model's limit on prompt and answer together.
        most_tokens: usize,
    },
    /// Tokenizing took too long, or an earlier text that took too long is still being tokenized.
    #[error("the model's tokenizer takes too long; it is given no other text until it is done")]
    TooSlow,
    /// No request waits for the result any more.
    #[error("the request was abandoned")]
    Unwanted,
    /// The system could not start a thread.
    #[error("the system gave no thread to encode on: {0}")]
    NoThread(String),
}

/// A chat template that rejected the conversation, or that is itself invalid.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The template called `raise_exception` because it cannot render the conversation.
    #[error("{0}")]
    Raised(String),
    /// The template executed more instructions than its budget allows.
    #[error("the chat template ran for more than {0} instructions: it may loop for ever")]
    OutOfFuel(u64),
    /// The template ran for longer than this number of milliseconds.
    #[error("the chat template took more than {0} milliseconds")]
    TooSlow(u64),
    /// The template has an error.
    #[error("the chat template failed: {0}")]
    Failed(String),
}
