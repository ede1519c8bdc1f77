//! Rows whose answers are constrained by a grammar.
//!
//! The allowed next tokens of such a row depend on its last token, so the row is not computed
//! ahead: a step that contains it is read before the next step is built. The engine waits up to
//! [`PATIENCE`] for a mask while other rows have work. A row whose mask takes longer is left out of
//! steps until its mask is ready.

use std::time::Duration;

use super::{BLOCKED_POLL, Worker};
use crate::error::GenerateError;
use crate::sched::RowId;
use crate::text::grammar::{Advanced, MaskState};
use crate::types::FinishReason;

/// How long other rows wait for a row's mask, so that all of them share a step.
const PATIENCE: Duration = Duration::from_millis(1);

impl Worker {
    /// Applies finished masks before the next decision.
    pub(super) fn advance_constraints(&mut self) {
        let rows = &self.rows;
        let constrained = |id| rows.get(id).is_some_and(|row| row.constraint.is_some());
        let in_flight = self.in_flight.as_ref();
        if in_flight.is_some_and(|step| step.built.outputs.iter().any(constrained)) {
            self.drain();
        }
        while let Some(advanced) = self.masks.next(PATIENCE) {
            self.advanced(advanced);
        }
    }

    /// Waits for a mask when no row can continue without one.
    pub(super) fn await_mask(&mut self) {
        self.status.alive();
        // A command that arrives meanwhile waits no longer than this.
        if let Some(advanced) = self.masks.wait(BLOCKED_POLL) {
            self.advanced(advanced);
        }
    }

    /// Advances the row's grammar by a token of its answer that does not end it.
    pub(super) fn constrain(&mut self, id: RowId, token: u32) {
        let Some(state) = self.rows.get_mut(&id).and_then(|row| row.constraint.as_mut()) else {
            return;
        };
        let MaskState::Ready(constraint) = std::mem::replace(state, MaskState::Pending) else {
            return;
        };
        self.scheduler.set_awaits_mask(id, true);
        if let Err(error) = self.masks.push(id, constraint, token) {
            self.end_early(id, Some(GenerateError::Grammar(error.to_string())));
        }
    }

    fn advanced(&mut self, Advanced { row: id, outcome, took }: Advanced) {
        // The row may have ended meanwhile.
        let Some(row) = self.rows.get_mut(&id) else { return };
        self.config.observer.masked(&row.model.reuse.name, took);
        match outcome {
            Ok(constraint) if constraint.is_at_end() => self.complete(id, FinishReason::Stop),
            Ok(constraint) => {
                row.constraint = Some(MaskState::Ready(constraint));
                self.scheduler.set_awaits_mask(id, false);
            }
            Err(error) => self.end_early(id, Some(GenerateError::Grammar(error.to_string()))),
        }
    }
}
