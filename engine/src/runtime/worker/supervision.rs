//! What happens when the thread ends by a panic.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Worker, guarded};
use crate::error::GenerateError;
use crate::panic_text;
use crate::runtime::command::Command;
use crate::runtime::status::Status;

/// The life of the thread. A panic outside of what is guarded ends it: `status` then says why, before
/// those who wait are told.
pub(crate) fn supervise(mut worker: Worker, status: &Status) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| worker.run())) else { return };
    let why = panic_text(&*panic);
    tracing::error!(
        panic = why,
        "the engine's thread ended by a panic; nothing is computed any more"
    );
    status.fail(why);
    guarded("telling those who wait for the engine", || worker.abandon());
    guarded("letting go of what the engine held", || drop(worker));
}

impl Worker {
    /// After a panic that nothing caught, nobody knows what state this is in: whoever waits for an answer
    /// has an error, and nothing else is done.
    fn abandon(&mut self) {
        for leaving in self.leaving.drain(..) {
            leaving.fail(GenerateError::Internal);
        }
        for (_, row) in std::mem::take(&mut self.rows) {
            row.fail(GenerateError::Internal);
        }
        while let Ok(command) = self.commands.try_recv() {
            // Dropped, a load says that the engine is gone.
            if let Command::Submit(job) = command {
                job.fail(GenerateError::Internal);
            }
        }
        self.in_flight = None;
    }
}
