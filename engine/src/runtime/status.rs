//! The engine thread's status, which other threads read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kvstore::Namespace;
use tokio::sync::watch;

use crate::mlx::bridge;

/// Limit on the namespaces remembered for each model name. Further ones are not reported.
const MAX_NAMESPACES: usize = 4096;

/// The engine thread's status.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) started: Instant,
    /// Milliseconds from `started` to the last progress.
    pub(crate) last_step_ms: AtomicU64,
    pub(crate) loading: AtomicBool,
    pub(crate) stopping: AtomicBool,
    pub(crate) running: AtomicUsize,
    /// Number of requests that were submitted and have not ended: see [`AdmissionPermit`].
    permits: AtomicUsize,
    pub(crate) live_sessions: AtomicUsize,
    pub(crate) live_bytes: AtomicUsize,
    /// Incremented by the submitter and decremented by the engine thread.
    pub(crate) waiting: AtomicUsize,
    pub(crate) preemptions: AtomicU64,
    pub(crate) reserved_bytes: AtomicU64,
    pub(crate) used_bytes: AtomicU64,
    pub(crate) step_bytes: AtomicU64,
    pub(crate) peak_bytes: AtomicU64,
    pub(crate) request_bytes: AtomicU64,
    pub(crate) wired_limit_bytes: AtomicU64,
    pub(crate) pressure: AtomicU8,
    pub(crate) budget_bytes: AtomicU64,
    /// Why the thread ended, unless it was stopped.
    pub(crate) failure: watch::Sender<Option<String>>,
    pub(crate) step: Mutex<Option<CurrentStep>>,
    /// The store's namespaces used for each model name.
    namespaces: Mutex<BTreeMap<String, BTreeSet<Namespace>>>,
}

impl Status {
    /// The status of a new thread. `memory_budget` is in bytes; `None`: no limit.
    pub(crate) fn new(memory_budget: Option<u64>) -> Self {
        Self {
            started: Instant::now(),
            last_step_ms: AtomicU64::new(0),
            loading: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            running: AtomicUsize::new(0),
            live_sessions: AtomicUsize::new(0),
            live_bytes: AtomicUsize::new(0),
            permits: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            preemptions: AtomicU64::new(0),
            reserved_bytes: AtomicU64::new(0),
            used_bytes: AtomicU64::new(0),
            step_bytes: AtomicU64::new(bridge::cache_limit_bytes()),
            peak_bytes: AtomicU64::new(0),
            request_bytes: AtomicU64::new(0),
            wired_limit_bytes: AtomicU64::new(0),
            pressure: AtomicU8::new(0),
            budget_bytes: AtomicU64::new(memory_budget.unwrap_or(u64::MAX)),
            failure: watch::Sender::new(None),
            step: Mutex::default(),
            namespaces: Mutex::default(),
        }
    }

    /// Records that the thread is ending by a panic.
    pub(crate) fn fail(&self, why: String) {
        self.failure.send_replace(Some(why));
    }

    pub(crate) fn step_begins(&self, step: CurrentStep) {
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = Some(step);
    }

    pub(crate) fn step_done(&self) {
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Records progress.
    pub(crate) fn alive(&self) {
        let now = self.started.elapsed().as_millis() as u64;
        self.last_step_ms.store(now, Ordering::Relaxed);
    }

    /// Records that a model's KV cache uses this namespace.
    pub(crate) fn note_namespace(&self, model: &str, namespace: Namespace) {
        let mut namespaces = self.namespaces();
        if let Some(known) = namespaces.get_mut(model) {
            if known.len() < MAX_NAMESPACES {
                known.insert(namespace);
            }
        } else {
            namespaces.insert(model.to_owned(), BTreeSet::from([namespace]));
        }
    }

    pub(crate) fn namespaces(&self) -> MutexGuard<'_, BTreeMap<String, BTreeSet<Namespace>>> {
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The step that MLX is computing.
#[derive(Debug, Clone)]
pub(crate) struct CurrentStep {
    pub(crate) model: String,
    pub(crate) decoding: usize,
    pub(crate) prompt_tokens: usize,
    pub(crate) begin: Instant,
}

/// A permit to run or wait, held from a request's submission to the end of its computation. It also
/// covers requests on their way to the engine thread, so that requests which arrive together are
/// not rejected while there is space.
#[derive(Debug)]
pub(crate) struct AdmissionPermit(Arc<Status>);

impl AdmissionPermit {
    /// Returns `None` when `limit` permits are taken.
    pub(crate) fn take(status: &Arc<Status>, limit: usize) -> Option<Self> {
        let one_more = |permits: usize| (permits < limit).then_some(permits + 1);
        status.permits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Self(Arc::clone(status)))
    }
}

impl Drop for AdmissionPermit {
    fn drop(&mut self) {
        self.0.permits.fetch_sub(1, Ordering::Relaxed);
    }
}
