//! Errors in a grammar.

/// A grammar that cannot be enforced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// It is invalid, or has a part that cannot be enforced.
    #[error("{0}")]
    Invalid(String),
    /// It is larger than the limit for compiling in bounded time.
    #[error("more than {limit} {what}")]
    TooLarge {
        /// The name of the exceeded quantity.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A bug: llguidance panicked, or could not read the vocabulary.
    #[error("the grammar could not be compiled: {0}")]
    Internal(String),
}

/// llguidance's message without its state.
fn words(error: &str) -> &str {
    let end = error.find("\n<").unwrap_or(error.len());
    error[..end].trim()
}

pub(super) fn compile_error(error: &str) -> GrammarError {
    if error.starts_with("panic") {
        GrammarError::Internal(words(error).to_owned())
    } else {
        GrammarError::Invalid(words(error).to_owned())
    }
}

pub(super) fn run_error(error: &str) -> GrammarError {
    match words(error) {
        "NoExtensionBias" => {
            let what = "no token of this model's vocabulary continues the answer";
            GrammarError::Invalid(what.to_owned())
        }
        _ => compile_error(error),
    }
}
