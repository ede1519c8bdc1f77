//! Where an answer stands in its grammar.

use std::sync::Arc;

use llguidance::Matcher;

use super::error::{GrammarError, run_error};

/// Where an answer stands in its grammar.
pub(crate) struct Constraint {
    pub(super) matcher: Matcher,
    pub(super) vocab: usize,
    pub(super) allowed: Allowed,
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Constraint({})", if self.is_at_end() { "at its end" } else { "open" })
    }
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
    pub(super) fn look(&mut self) -> Result<(), String> {
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

/// What may come next.
#[derive(Clone)]
pub(super) enum Allowed {
    /// The tokens at the places that are true; as many as the logits.
    Tokens(Arc<[bool]>),
    /// Nothing: the answer is complete.
    End,
}
