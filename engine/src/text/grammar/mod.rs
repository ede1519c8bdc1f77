//! Answers that keep to a grammar: which tokens may come next, by llguidance.
//!
//! A [`Pattern`] says what an answer must look like. [`Model::compile`](crate::Model::compile) makes
//! a [`Grammar`] of it, off the engine thread. A request with a grammar has a [`Constraint`]: its own
//! place in the grammar, and the tokens allowed there. After each of its tokens the constraint goes
//! to a thread of [`Masks`], which moves it on; meanwhile the row's next token cannot be sampled, so
//! such a row is not computed ahead.
//!
//! llguidance is given limits for everything that a grammar can make large, its panics are caught,
//! and it runs on stacks of [`STACK_BYTES`].

mod blame;
#[cfg(test)]
mod libraries_tests;
mod masks;
mod pattern;
mod schema;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::Matcher;

#[cfg(test)]
pub(crate) use masks::faults;
pub(crate) use masks::{Held, Masks, Moved};
pub use pattern::Pattern;
pub use schema::{FORMATS as SCHEMA_FORMATS, KEYWORDS as SCHEMA_KEYWORDS, Keyword, Treatment};
pub(crate) use vocabulary::Vocabulary;

/// Stack of the threads that run llguidance, which recurses as deeply as a grammar is nested. Only
/// what is used of it takes memory.
const STACK_BYTES: usize = 64 << 20;

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

/// A compiled grammar of one model; clones share it.
#[derive(Clone)]
pub struct Grammar {
    first: Arc<Mutex<Constraint>>,
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Grammar")
    }
}

impl Grammar {
    /// Compiles a pattern. Takes milliseconds, and for large schemas more.
    pub(crate) fn compile(
        vocabulary: &Vocabulary,
        pattern: &Pattern,
    ) -> Result<Self, GrammarError> {
        on_large_stack(|| Self::build(vocabulary, pattern))
    }

    /// The same on this thread, whose stack must be large.
    fn build(vocabulary: &Vocabulary, pattern: &Pattern) -> Result<Self, GrammarError> {
        pattern.check()?;
        let grammar = pattern.to_grammar(vocabulary)?;
        let matcher = Matcher::new(vocabulary.factory().create_parser(grammar));
        if let Some(error) = matcher.get_error() {
            return Err(blame::explain(vocabulary, pattern, &error));
        }
        let mut constraint =
            Constraint { matcher, vocab: vocabulary.vocab(), allowed: Allowed::End };
        constraint.look().map_err(|error| blame::explain(vocabulary, pattern, &error))?;
        Ok(Self { first: Arc::new(Mutex::new(constraint)) })
    }

    /// The constraint of an answer that has not begun.
    pub(crate) fn begin(&self) -> Constraint {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        Constraint {
            matcher: first.matcher.deep_clone(),
            vocab: first.vocab,
            allowed: first.allowed.clone(),
        }
    }
}

/// Where an answer stands in its grammar.
pub(crate) struct Constraint {
    matcher: Matcher,
    vocab: usize,
    allowed: Allowed,
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Constraint({})", if self.is_at_end() { "at its end" } else { "open" })
    }
}

/// What may come next.
#[derive(Clone)]
enum Allowed {
    /// The tokens at the places that are true; as many as the logits.
    Tokens(Arc<[bool]>),
    /// Nothing: the answer is complete.
    End,
}

impl Constraint {
    /// The tokens that may come next: one flag for each logit, at least one of them true. `None`: the
    /// answer is complete.
    pub(crate) fn allowed(&self) -> Option<&[bool]> {
        match &self.allowed {
            Allowed::Tokens(tokens) => Some(tokens),
            Allowed::End => None,
        }
    }

    /// Whether the answer is complete.
    pub(crate) fn is_at_end(&self) -> bool {
        matches!(self.allowed, Allowed::End)
    }

    /// The answer has this token next. Takes tens of microseconds, and now and then milliseconds.
    ///
    /// # Errors
    /// When the grammar does not allow the token, has become too complex, or leads nowhere. The
    /// constraint is of no use any more.
    pub(crate) fn push(&mut self, token: u32) -> Result<(), GrammarError> {
        self.matcher.consume_token(token).map_err(|error| run_error(&error.to_string()))?;
        self.look().map_err(|error| run_error(&error))
    }

    /// Finds what may come next.
    fn look(&mut self) -> Result<(), String> {
        if self.matcher.is_stopped() {
            self.allowed = Allowed::End;
            return self.matcher.get_error().map_or(Ok(()), Err);
        }
        let set = self.matcher.compute_mask().map_err(|error| error.to_string())?;
        let mut tokens = vec![false; self.vocab];
        set.iter_set_entries(|token| {
            if let Some(place) = tokens.get_mut(token) {
                *place = true;
            }
        });
        self.allowed = Allowed::Tokens(tokens.into());
        Ok(())
    }
}

/// llguidance's words without its state.
fn words(error: &str) -> &str {
    let end = error.find("\n<").unwrap_or(error.len());
    error[..end].trim()
}

fn compile_error(error: &str) -> GrammarError {
    match error.starts_with("panic") {
        true => GrammarError::Internal(words(error).to_owned()),
        false => GrammarError::Invalid(words(error).to_owned()),
    }
}

fn run_error(error: &str) -> GrammarError {
    match words(error) {
        "NoExtensionBias" => {
            let what = "no token of this model's vocabulary continues the answer";
            GrammarError::Invalid(what.to_owned())
        }
        _ => compile_error(error),
    }
}

/// Runs on a thread of its own, whose stack is large enough for whatever passes the limits.
fn on_large_stack<T: Send>(
    run: impl FnOnce() -> Result<T, GrammarError> + Send,
) -> Result<T, GrammarError> {
    let internal = |what: &str| GrammarError::Internal(what.to_owned());
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("grammar".into())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || catch_unwind(AssertUnwindSafe(run)));
        let thread = thread.map_err(|error| internal(&error.to_string()))?;
        let outcome = thread.join().unwrap_or_else(Err);
        outcome.unwrap_or_else(|_| Err(internal("a panic")))
    })
}
