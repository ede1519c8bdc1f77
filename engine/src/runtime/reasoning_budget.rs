//! Limits a model's reasoning: after a number of tokens the end marker is forced.

use crate::types::ThinkingBudget;

/// The rest of a request's budget.
#[derive(Debug)]
pub(crate) struct ReasoningBudget {
    budget: ThinkingBudget,
    is_open: bool,
    left: usize,
}

impl ReasoningBudget {
    pub(crate) fn new(budget: ThinkingBudget) -> Self {
        Self { budget, is_open: budget.is_open, left: budget.tokens }
    }

    /// Counts the answer's next token.
    pub(crate) fn take(&mut self, id: u32) {
        if id == self.budget.close {
            self.is_open = false;
        } else if Some(id) == self.budget.open {
            self.is_open = true;
        } else if self.is_open {
            self.left = self.left.saturating_sub(1);
        }
    }

    /// The next token, if it is forced.
    pub(crate) fn forced(&self) -> Option<u32> {
        (self.is_open && self.left == 0).then_some(self.budget.close)
    }

    /// Whether the token after the next one depends on the next one. Such a row cannot be computed
    /// ahead. (Reasoning that is opened again after the budget is used up may have one token.)
    pub(crate) fn is_near_end(&self) -> bool {
        self.is_open && self.left <= 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: ThinkingBudget =
        ThinkingBudget { tokens: 2, is_open: false, open: Some(1), close: 2 };

    #[test]
    fn reasoning_ends_after_its_budget() {
        let mut thoughts = ReasoningBudget::new(BUDGET);
        assert_eq!(thoughts.forced(), None);
        let seen: Vec<_> = [9, 1, 9, 9, 2, 9, 1, 2]
            .map(|id| {
                thoughts.take(id);
                (thoughts.is_near_end(), thoughts.forced())
            })
            .to_vec();
        let expected = [
            (false, None),
            (false, None),
            (true, None),
            (true, Some(2)),
            (false, None),
            (false, None),
            (true, Some(2)),
            (false, None),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_zero_budget_ends_reasoning_at_once() {
        let thoughts = ReasoningBudget::new(ThinkingBudget { tokens: 0, is_open: true, ..BUDGET });
        assert_eq!(thoughts.forced(), Some(2));
        let closed = ReasoningBudget::new(ThinkingBudget { is_open: true, open: None, ..BUDGET });
        assert!(!closed.is_near_end());
    }
}
