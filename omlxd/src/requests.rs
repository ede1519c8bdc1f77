//! The requests that are being answered: who asked for what, how far it is, and how to end it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its model is being loaded, or its prompt is being made.
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

/// A request as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestInfo {
    /// As in the `x-request-id` header.
    pub id: String,
    /// Such as `chat.completions`.
    pub endpoint: &'static str,
    /// The model's id.
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
    model: String,
    stream: bool,
    started: Instant,
    submitted: AtomicBool,
    prompt_tokens: AtomicUsize,
    generated_tokens: AtomicUsize,
    cancel: CancellationToken,
}

/// A request's own place in the table, which it leaves when this is dropped.
#[derive(Debug)]
pub struct Ticket {
    shared: Arc<Shared>,
    key: u64,
    entry: Arc<Entry>,
}

impl Requests {
    /// Enters a request.
    pub fn begin(&self, id: &str, endpoint: &'static str, model: &str, stream: bool) -> Ticket {
        let entry = Arc::new(Entry {
            id: id.to_owned(),
            endpoint,
            model: model.to_owned(),
            stream,
            started: Instant::now(),
            submitted: AtomicBool::new(false),
            prompt_tokens: AtomicUsize::new(0),
            generated_tokens: AtomicUsize::new(0),
            cancel: self.shared.stop.child_token(),
        });
        let key = self.shared.next.fetch_add(1, Ordering::Relaxed);
        self.shared.live().insert(key, Arc::clone(&entry));
        Ticket { shared: Arc::clone(&self.shared), key, entry }
    }

    /// All requests, oldest first. `running`: how many the engine computes, which are the oldest of
    /// those submitted, because it takes them in order.
    pub fn list(&self, running: usize) -> Vec<RequestInfo> {
        let mut turns = running;
        let live: Vec<Arc<Entry>> = self.shared.live().values().cloned().collect();
        live.iter().map(|entry| entry.info(&mut turns)).collect()
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

    /// Whether [`Requests::stop`] was called.
    pub fn is_stopped(&self) -> bool {
        self.shared.stop.is_cancelled()
    }
}

impl Shared {
    fn live(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Entry>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn info(&self, turns: &mut usize) -> RequestInfo {
        let generated_tokens = self.generated_tokens.load(Ordering::Relaxed);
        let phase = if !self.submitted.load(Ordering::Relaxed) {
            Phase::Prepare
        } else if *turns == 0 && generated_tokens == 0 {
            Phase::Queue
        } else {
            *turns = turns.saturating_sub(1);
            if generated_tokens > 0 { Phase::Decode } else { Phase::Prefill }
        };
        RequestInfo {
            id: self.id.clone(),
            endpoint: self.endpoint,
            model: self.model.clone(),
            stream: self.stream,
            phase,
            prompt_tokens: self.prompt_tokens.load(Ordering::Relaxed),
            generated_tokens,
            age: self.started.elapsed(),
        }
    }
}

impl Ticket {
    /// Completes when the request is to end early.
    pub fn cancel_token(&self) -> CancellationToken {
        self.entry.cancel.clone()
    }

    /// The model's id.
    pub fn model(&self) -> &str {
        &self.entry.model
    }

    /// The engine has the request.
    pub fn submitted(&self, prompt_tokens: usize) {
        self.entry.prompt_tokens.store(prompt_tokens, Ordering::Relaxed);
        self.entry.submitted.store(true, Ordering::Relaxed);
    }

    /// More tokens were generated.
    pub fn generated(&self, tokens: usize) {
        self.entry.generated_tokens.fetch_add(tokens, Ordering::Relaxed);
    }

    /// How far this request is; `running` as for [`Requests::list`].
    pub fn phase(&self, running: usize) -> Phase {
        let mut turns = running;
        let live = self.shared.live();
        let mut infos = live.iter().map(|(key, entry)| (*key, entry.info(&mut turns).phase));
        infos.find(|(key, _)| *key == self.key).map_or(Phase::Prepare, |(_, phase)| phase)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.shared.live().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_follow_the_order_of_arrival() {
        let requests = Requests::default();
        let tickets: Vec<Ticket> = ["a", "b", "c", "d"]
            .iter()
            .map(|id| requests.begin(id, "chat.completions", "m", true))
            .collect();
        tickets[0].submitted(3);
        tickets[0].generated(2);
        tickets[1].submitted(4);
        tickets[2].submitted(5);
        let phases = |running| -> Vec<Phase> {
            requests.list(running).iter().map(|info| info.phase).collect()
        };
        assert_eq!(phases(1), [Phase::Decode, Phase::Queue, Phase::Queue, Phase::Prepare]);
        assert_eq!(phases(2), [Phase::Decode, Phase::Prefill, Phase::Queue, Phase::Prepare]);
        assert_eq!(tickets[1].phase(2), Phase::Prefill);
        drop(tickets);
        assert!(requests.list(0).is_empty());
    }

    #[test]
    fn cancelling_ends_one_and_stopping_ends_all() {
        let requests = Requests::default();
        let first = requests.begin("a", "completions", "m", false);
        let second = requests.begin("b", "completions", "m", false);
        assert!(requests.cancel("a"));
        assert!(!requests.cancel("x"));
        assert!(first.cancel_token().is_cancelled());
        assert!(!second.cancel_token().is_cancelled());
        requests.stop();
        assert!(second.cancel_token().is_cancelled());
        assert!(requests.begin("c", "completions", "m", false).cancel_token().is_cancelled());
    }
}
