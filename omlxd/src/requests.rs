//! The requests that are being answered: who asked for what, how far it is, and how to end it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use engine::{PhaseReader, RowPhase};
use tokio_util::sync::CancellationToken;

use crate::auth::KeyId;
use crate::error::ApiError;

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Its body is being parsed, its model loaded, or its prompt made.
    Prepare,
    /// It waits for its turn.
    Queue,
    /// Its prompt is being computed.
    Prefill,
    /// Its answer is being generated.
    Decode,
}

impl Phase {
    /// The word for metrics, logs and the admin protocol.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Prepare => "prepare",
            Phase::Queue => "queue",
            Phase::Prefill => "prefill",
            Phase::Decode => "decode",
        }
    }
}

/// A request that comes.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// As in the `x-request-id` header.
    pub id: &'a str,
    /// Such as `chat.completions`.
    pub endpoint: &'static str,
    /// The caller's key; `None` when keys are switched off.
    pub key: Option<KeyId>,
}

/// A request as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestInfo {
    /// As in the `x-request-id` header.
    pub id: String,
    /// Such as `chat.completions`.
    pub endpoint: &'static str,
    /// The model's id; empty until the body was parsed.
    pub model: String,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// How far it is.
    pub phase: Phase,
    /// Tokens in its prompts; 0 until they are known.
    pub prompt_tokens: usize,
    /// Tokens generated so far.
    pub generated_tokens: usize,
    /// Since it came.
    pub age: Duration,
}

/// The table. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Requests {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// By order of arrival.
    live: Mutex<BTreeMap<u64, Arc<Entry>>>,
    next: std::sync::atomic::AtomicU64,
    /// Ends every request, for a shutdown whose drain is over.
    stop: CancellationToken,
}

#[derive(Debug)]
struct Entry {
    id: String,
    endpoint: &'static str,
    /// Once the body was parsed: the model's id, and whether the answer is streamed.
    wanted: OnceLock<(String, bool)>,
    started: Instant,
    /// The caller's key; `None` when keys are switched off.
    key: Option<KeyId>,
    /// Of each choice, once the engine has them.
    phases: OnceLock<Vec<PhaseReader>>,
    prompt_tokens: AtomicUsize,
    generated_tokens: AtomicUsize,
    cancel: CancellationToken,
}

/// A request's own place in the table, which it leaves when this is dropped.
#[derive(Debug)]
pub struct Ticket {
    shared: Arc<Shared>,
    place: u64,
    entry: Arc<Entry>,
}

impl Requests {
    /// Enters a request, unless its key has `limit` of them already.
    ///
    /// # Errors
    /// How many the key has.
    pub fn begin(&self, about: About<'_>, limit: usize) -> Result<Ticket, usize> {
        let About { id, endpoint, key } = about;
        let entry = Arc::new(Entry {
            id: id.to_owned(),
            endpoint,
            wanted: OnceLock::new(),
            started: Instant::now(),
            key,
            phases: OnceLock::new(),
            prompt_tokens: AtomicUsize::new(0),
            generated_tokens: AtomicUsize::new(0),
            cancel: self.shared.stop.child_token(),
        });
        let mut live = self.shared.live();
        let own = live.values().filter(|other| other.key == key).count();
        if own >= limit {
            return Err(own);
        }
        let place = self.shared.next.fetch_add(1, Ordering::Relaxed);
        live.insert(place, Arc::clone(&entry));
        Ok(Ticket { shared: Arc::clone(&self.shared), place, entry })
    }

    /// All requests, oldest first.
    pub fn list(&self) -> Vec<RequestInfo> {
        let live: Vec<Arc<Entry>> = self.shared.live().values().cloned().collect();
        live.iter().map(|entry| entry.info()).collect()
    }

    /// Ends a request. False when there is none with this id.
    pub fn cancel(&self, id: &str) -> bool {
        let live = self.shared.live();
        let found = live.values().find(|entry| entry.id == id);
        if let Some(entry) = found {
            entry.cancel.cancel();
        }
        found.is_some()
    }

    /// Ends every request, those to come included: the daemon is stopping.
    pub fn stop(&self) {
        self.shared.stop.cancel();
    }

    /// The error of a request that was cancelled.
    pub(crate) fn cancelled_error(&self) -> ApiError {
        if self.shared.stop.is_cancelled() {
            ApiError::shutting_down()
        } else {
            ApiError::cancelled()
        }
    }
}

impl Shared {
    fn live(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Entry>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// As far as the choice that is furthest.
    fn phase(&self) -> Phase {
        let Some(phases) = self.phases.get() else { return Phase::Prepare };
        let phases = phases.iter().map(|phase| match phase.get() {
            RowPhase::Queued => Phase::Queue,
            RowPhase::Prefill => Phase::Prefill,
            RowPhase::Decode => Phase::Decode,
        });
        phases.max().unwrap_or(Phase::Queue)
    }

    fn info(&self) -> RequestInfo {
        let (model, stream) = self.wanted.get().cloned().unwrap_or_default();
        RequestInfo {
            id: self.id.clone(),
            endpoint: self.endpoint,
            model,
            stream,
            phase: self.phase(),
            prompt_tokens: self.prompt_tokens.load(Ordering::Relaxed),
            generated_tokens: self.generated_tokens.load(Ordering::Relaxed),
            age: self.started.elapsed(),
        }
    }
}

impl Ticket {
    /// Completes when the request is to end early.
    pub fn cancel_token(&self) -> CancellationToken {
        self.entry.cancel.clone()
    }

    /// The body was parsed.
    pub fn parsed(&self, model: &str, stream: bool) {
        // A body is parsed once.
        let _ = self.entry.wanted.set((model.to_owned(), stream));
    }

    /// The model's id; empty until the body was parsed.
    pub fn model(&self) -> &str {
        self.entry.wanted.get().map_or("", |(model, _)| model)
    }

    /// The engine has the request's choices.
    pub fn submitted(&self, prompt_tokens: usize, choices: Vec<PhaseReader>) {
        self.entry.prompt_tokens.store(prompt_tokens, Ordering::Relaxed);
        // A request is submitted once.
        let _ = self.entry.phases.set(choices);
    }

    /// More tokens were generated.
    pub fn generated(&self, tokens: usize) {
        self.entry.generated_tokens.fetch_add(tokens, Ordering::Relaxed);
    }

    /// How far this request is.
    pub fn phase(&self) -> Phase {
        self.entry.phase()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // What still works for it on another thread stops.
        self.entry.cancel.cancel();
        self.shared.live().remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about<'a>(id: &'a str, key: Option<&str>) -> About<'a> {
        About { id, endpoint: "completions", key: key.map(KeyId::of_key) }
    }

    #[test]
    fn a_key_has_so_many_requests_at_a_time() {
        let requests = Requests::default();
        let first = requests.begin(about("a", Some("one")), 2).unwrap();
        let second = requests.begin(about("b", Some("one")), 2).unwrap();
        assert_eq!(requests.begin(about("c", Some("one")), 2).unwrap_err(), 2);
        let other = requests.begin(about("d", Some("two")), 2).unwrap();
        drop(first);
        let third = requests.begin(about("e", Some("one")), 2).unwrap();
        assert_eq!(requests.list().len(), 3);
        assert!(requests.list().iter().all(|info| info.phase == Phase::Prepare));
        drop((second, other, third));
        assert!(requests.list().is_empty());
    }

    #[test]
    fn cancelling_ends_one_and_stopping_ends_all() {
        let requests = Requests::default();
        let begin = |id| requests.begin(about(id, None), 10).unwrap();
        let (first, second) = (begin("a"), begin("b"));
        assert!(requests.cancel("a"));
        assert!(!requests.cancel("x"));
        assert!(first.cancel_token().is_cancelled());
        assert!(!second.cancel_token().is_cancelled());
        requests.stop();
        assert!(second.cancel_token().is_cancelled());
        assert!(begin("c").cancel_token().is_cancelled());
    }
}
