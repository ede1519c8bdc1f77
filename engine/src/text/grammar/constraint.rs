//! The state of an answer in its grammar.

use std::sync::Arc;

use llguidance::Matcher;

use super::error::{GrammarError, run_error};

/// The state of an answer in its grammar.
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
    /// The allowed next tokens: one flag for each logit, at least one of them true. `None`: the
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

    /// Advances by the answer's next token. Takes tens of microseconds, and occasionally
    /// milliseconds.
    ///
    /// # Errors
    /// If the grammar does not allow the token, has become too complex, or allows no further token.
    /// The constraint is then unusable.
    pub(crate) fn push(&mut self, token: u32) -> Result<(), GrammarError> {
        self.matcher.consume_token(token).map_err(|error| run_error(&error.to_string()))?;
        self.look().map_err(|error| run_error(&error))
    }

    /// Computes the allowed next tokens.
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

/// The allowed next tokens.
#[derive(Clone)]
pub(super) enum Allowed {
    /// The tokens whose flag is true. There is one flag per logit.
    Tokens(Arc<[bool]>),
    /// No token is allowed, because the answer is complete.
    End,
}
