//! Handles a panic that ends the engine thread.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Worker, guarded};
use crate::error::GenerateError;
use crate::panic_text;
use crate::runtime::command::Command;
use crate::runtime::status::Status;

/// The thread's main function. A panic outside guarded code ends the thread. `status` then gets the
/// reason before waiting callers are notified.
pub(crate) fn supervise(mut worker: Worker, status: &Status) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| worker.run())) else { return };
    let why = panic_text(&*panic);
    tracing::error!(
        panic = why,
        "the engine's thread ended by a panic; no further request is computed"
    );
    status.fail(why);
    guarded("failing the pending requests", || worker.abandon());
    guarded("dropping the engine's state", || drop(worker));
}

impl Worker {
    /// Fails every pending request and does nothing else, because the state is unknown after an
    /// uncaught panic.
    fn abandon(&mut self) {
        for leaving in self.leaving.drain(..) {
            leaving.fail(GenerateError::Internal);
        }
        for (_, row) in std::mem::take(&mut self.rows) {
            row.fail(GenerateError::Internal);
        }
        while let Ok(command) = self.commands.try_recv() {
            // Dropping a load command tells its caller that the engine has ended.
            if let Command::Submit(job) = command {
                job.fail(GenerateError::Internal);
            }
        }
        self.in_flight = None;
    }
}
