//! Messages from the engine thread about a request.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::error::GenerateError;
use crate::kv::ReuseReport;
use crate::types::{FinishReason, RowPhase, Timings, TokenOutput, Usage};

/// A request's phase, set by the engine thread and read by others.
#[derive(Debug, Default)]
pub(crate) struct PhaseCell(AtomicU8);

impl PhaseCell {
    pub(crate) fn set(&self, phase: RowPhase) {
        self.0.store(phase as u8, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> RowPhase {
        match self.0.load(Ordering::Relaxed) {
            0 => RowPhase::Queued,
            1 => RowPhase::Prefill,
            _ => RowPhase::Decode,
        }
    }
}

/// A message from the engine thread about one request.
#[derive(Debug)]
pub(crate) enum RowEvent {
    /// The prompt is computed, and the first token follows.
    Started(Usage, Timings, Box<ReuseReport>),
    Token(TokenOutput),
    Done(FinishReason),
    Failed(GenerateError),
}
