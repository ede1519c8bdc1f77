//! What can go wrong, by operation. An error says what happened, where, and what to do next; its
//! source is never repeated in its own text.

use std::path::PathBuf;

/// MLX's exception unless another error is named.
pub(crate) type Result<T, E = mlx_rs::error::Exception> = std::result::Result<T, E>;

/// A model folder that cannot be loaded. Nothing of it stays in memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file that every model needs is not there.
    #[error("{path} is missing: {hint}")]
    Missing {
        /// The file that was looked for.
        path: PathBuf,
        /// What the file is for and how to get it.
        hint: &'static str,
    },
    /// A file could not be read.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A file was read but its content is not what it must be.
    #[error("{path} is not usable: {what}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The field or tensor and what is wrong with it.
        what: String,
    },
    /// `model_type` names an architecture that this engine does not have.
    #[error(
        "{path}: model_type \"{model_type}\" is not supported; supported are: {}",
        supported.join(", ")
    )]
    UnknownArchitecture {
        /// The config.json.
        path: PathBuf,
        /// What it names.
        model_type: String,
        /// What the engine has.
        supported: Vec<&'static str>,
    },
    /// The whole memory budget does not hold it.
    #[error(
        "its weights, the shortest of prompts and what computing takes are {needed_bytes} bytes, and \
         the memory budget is {budget_bytes}"
    )]
    TooLarge {
        /// What is needed.
        needed_bytes: u64,
        /// The budget.
        budget_bytes: u64,
    },
    /// The weights do not fit beside what is in memory now.
    #[error("the weights take {needed_bytes} bytes and {free_bytes} are free")]
    NoRoom {
        /// What the weights take.
        needed_bytes: u64,
        /// What the budget leaves now.
        free_bytes: u64,
    },
    /// MLX refused an operation while the model was being built or tried out.
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

/// A request that was refused before it was queued.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The prompt has no token.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt leaves no room for one generated token.
    #[error("the prompt has {prompt_tokens} tokens and the context limit is {context_tokens}")]
    ContextExceeded {
        /// Tokens in the prompt.
        prompt_tokens: usize,
        /// The model's limit, prompt and answer together.
        context_tokens: usize,
    },
    /// A token id (in the prompt or in `logit_bias`) that the vocabulary does not have.
    #[error("token id {id} is outside the vocabulary of {vocab} tokens")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Ids run from 0 to this, exclusive.
        vocab: usize,
    },
    /// `max_queue` requests are waiting already.
    #[error("{waiting} requests are waiting, which is the limit")]
    QueueFull {
        /// Requests that wait.
        waiting: usize,
    },
    /// The engine is stopping.
    #[error("the engine is shutting down")]
    ShuttingDown,
}

/// A request that failed while it ran. The engine and the other requests go on.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The logits held a NaN: weights are damaged.
    #[error("the model computed NaN: {what}")]
    NotANumber {
        /// The tensor that holds a NaN, and its file, when the scan found one.
        what: String,
    },
    /// MLX refused an operation.
    #[error("MLX failed: {0}")]
    Mlx(String),
    /// The receiver did not read for longer than the limit.
    #[error("the client read nothing for {0} seconds")]
    SlowReader(u64),
    /// Its grammar became too complex to go on with, or leads nowhere.
    #[error("the answer cannot be held to its grammar: {0}")]
    Grammar(String),
    /// Its time was over before its answer was.
    #[error("the request's deadline passed")]
    Deadline,
    /// Nothing else ran, and its KV still did not fit.
    #[error("there is not enough memory for this request now")]
    NoMemory,
    /// A bug in the engine: the step panicked. The message is in the log.
    #[error("internal error in the engine")]
    Internal,
    /// The engine stopped before the request ended.
    #[error("the engine is shutting down")]
    ShuttingDown,
}

/// Text that cannot become tokens.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizeError {
    /// The tokenizer fails on this text.
    #[error("the model's tokenizer cannot encode this text: {0}")]
    Refused(String),
    /// The text has far more tokens than there is room for; the rest of it was not counted.
    #[error("the text has {tokens} tokens or more, and the context limit is {most_tokens}")]
    TooManyTokens {
        /// Tokens counted so far.
        tokens: usize,
        /// The context, prompt and answer together.
        most_tokens: usize,
    },
    /// The text has more bytes than are encoded for a model of this context.
    #[error(
        "the text has {bytes} bytes, and at most {most_bytes} are encoded for this model's context"
    )]
    TooManyBytes {
        /// Bytes of the text, as it came or as the tokenizer's normalizer leaves it.
        bytes: usize,
        /// The limit.
        most_bytes: usize,
        /// The context, prompt and answer together.
        most_tokens: usize,
    },
    /// It took too long, or a text before it has taken too long and is not done.
    #[error("the model's tokenizer takes too long; it is given no other text until it is done")]
    TooSlow,
    /// Nobody waits for it any more.
    #[error("the request was abandoned")]
    Unwanted,
    /// The system gave no thread.
    #[error("the system gave no thread to encode on: {0}")]
    NoThread(String),
}

/// A chat template that refused the conversation, or is itself wrong.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The template called `raise_exception`: the conversation is not one that it can render.
    #[error("{0}")]
    Raised(String),
    /// The template ran longer than its budget allows.
    #[error("the chat template ran for more than {0} instructions: it may loop for ever")]
    OutOfFuel(u64),
    /// The template ran for longer than these milliseconds.
    #[error("the chat template took more than {0} milliseconds")]
    TooSlow(u64),
    /// The template has an error.
    #[error("the chat template failed: {0}")]
    Failed(String),
}
