//! A compiled grammar.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::Matcher;

use super::constraint::{Allowed, Constraint};
use super::error::GrammarError;
use super::pattern::Pattern;
use super::vocabulary::TokenTrie;

/// Stack size of the threads that run llguidance, which recurses as deeply as a grammar is nested.
/// Only the used part takes memory.
pub(super) const STACK_BYTES: usize = 64 << 20;

/// A grammar compiled for one model; clones share it.
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
    /// Compiles a pattern. Takes milliseconds, and longer for large schemas.
    pub(crate) fn compile(vocabulary: &TokenTrie, pattern: &Pattern) -> Result<Self, GrammarError> {
        on_large_stack(|| Self::build(vocabulary, pattern))
    }

    /// Compiles a pattern on this thread, which must have a large stack.
    pub(super) fn build(vocabulary: &TokenTrie, pattern: &Pattern) -> Result<Self, GrammarError> {
        pattern.check()?;
        let grammar = pattern.to_grammar(vocabulary)?;
        let matcher = Matcher::new(vocabulary.factory().create_parser(grammar));
        if let Some(error) = matcher.get_error() {
            return Err(super::blame::explain(vocabulary, pattern, &error));
        }
        let mut constraint =
            Constraint { matcher, vocab: vocabulary.vocab(), allowed: Allowed::End };
        constraint.look().map_err(|error| super::blame::explain(vocabulary, pattern, &error))?;
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

/// Runs `run` on a new thread, whose stack is large enough for everything within the limits.
pub(super) fn on_large_stack<T: Send>(
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
