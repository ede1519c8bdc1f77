//! Commands from other threads to the engine thread.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use crate::error::{GenerateError, LoadError};
use crate::runtime::events::{PhaseCell, RowEvent};
use crate::runtime::files::ModelFiles;
use crate::runtime::generation::GenerateRequest;
use crate::runtime::status::AdmissionPermit;
use crate::sched::KvCost;
use crate::text::grammar::Constraint;
use crate::types::{ModelId, ModelInfo};

/// A command to the engine thread.
#[derive(Debug)]
pub(crate) enum Command {
    Load {
        id: ModelId,
        name: String,
        folder: Arc<ModelFiles>,
        notifier: UnloadNotifier,
        reply: LoadReply,
    },
    Submit(Box<Job>),
    Unload(ModelId),
    ClearLive,
    Wake,
}

pub(crate) type LoadReply =
    oneshot::Sender<Result<(Arc<ModelFiles>, ModelInfo, KvCost), LoadError>>;

/// A submitted request.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) model: ModelId,
    pub(crate) request: GenerateRequest,
    /// The grammar constraint of its answer, until the row takes it.
    pub(crate) constraint: Option<Box<Constraint>>,
    pub(crate) events: mpsc::Sender<RowEvent>,
    /// A reserved slot in the channel for the request's last event.
    pub(crate) last: mpsc::OwnedPermit<RowEvent>,
    pub(crate) phase: Arc<PhaseCell>,
    pub(crate) submitted: Instant,
    pub(crate) permit: AdmissionPermit,
}

impl Job {
    /// Ends the request with an error.
    pub(crate) fn fail(self: Box<Self>, error: GenerateError) {
        let Self { last, permit, .. } = *self;
        // Free the permit first, because the reader of the error may submit again at once.
        drop(permit);
        last.send(RowEvent::Failed(error));
    }
}

/// Lives as long as the weights are in memory. Dropping it notifies the receiver that they are
/// gone.
#[derive(Debug)]
pub(crate) struct UnloadNotifier {
    _end: oneshot::Sender<()>,
}

impl UnloadNotifier {
    /// Also returns the receiver, which completes when the weights are gone.
    pub(crate) fn new() -> (Self, oneshot::Receiver<()>) {
        let (notifier, gone) = oneshot::channel();
        (Self { _end: notifier }, gone)
    }
}
