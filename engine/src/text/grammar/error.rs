//! What is wrong with a grammar.

/// A grammar that no model can be held to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// It has an error, or asks for what cannot be enforced.
    #[error("{0}")]
    Invalid(String),
    /// It is larger than what is compiled in bounded time.
    #[error("more than {limit} {what}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The most that is allowed.
        limit: usize,
    },
    /// A bug: llguidance panicked, or could not read the vocabulary.
    #[error("the grammar could not be compiled: {0}")]
    Internal(String),
}

/// llguidance's words without its state.
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
