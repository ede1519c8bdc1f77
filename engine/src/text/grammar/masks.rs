//! Threads that advance constraints while the engine thread does other work.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::compiled::STACK_BYTES;
use super::constraint::Constraint;
use super::error::GrammarError;
use crate::sched::RowId;

/// Number of threads. A mask takes tens of microseconds, a step milliseconds.
const THREADS: usize = 2;

/// A row's constraint, held by the row or by a thread that advances it.
#[derive(Debug)]
pub(crate) enum MaskState {
    /// The allowed tokens are known.
    Ready(Box<Constraint>),
    /// The allowed tokens are being computed.
    Pending,
}

/// A constraint that was advanced.
#[derive(Debug)]
pub(crate) struct Advanced {
    pub(crate) row: RowId,
    pub(crate) outcome: Result<Box<Constraint>, GrammarError>,
    /// The computation time.
    pub(crate) took: Duration,
}

#[derive(Debug)]
struct Work {
    row: RowId,
    constraint: Box<Constraint>,
    token: u32,
}

/// The threads and their current work. They start with the first constraint and end when this value
/// is dropped.
#[derive(Debug, Default)]
pub(crate) struct Masks {
    threads: Option<(Sender<Work>, Receiver<Advanced>)>,
    /// When each row's constraint was handed to a thread.
    pending: BTreeMap<RowId, Instant>,
}

impl Masks {
    /// Advances the row's constraint by the answer's next token.
    ///
    /// # Errors
    /// If the system cannot start the threads.
    pub(crate) fn push(
        &mut self,
        row: RowId,
        constraint: Box<Constraint>,
        token: u32,
    ) -> Result<(), GrammarError> {
        let gone = || GrammarError::Internal("the threads of masks are gone".to_owned());
        if self.threads.is_none() {
            let threads = start().map_err(|error| GrammarError::Internal(error.to_string()))?;
            self.threads = Some(threads);
        }
        let (work, _) = self.threads.as_ref().ok_or_else(gone)?;
        work.send(Work { row, constraint, token }).map_err(|_| gone())?;
        self.pending.insert(row, Instant::now());
        Ok(())
    }

    /// Whether any constraint is being advanced.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Returns a finished constraint. Waits for one while any has been in work for less than
    /// `patience`.
    pub(crate) fn next(&mut self, patience: Duration) -> Option<Advanced> {
        let youngest = self.pending.values().max()?;
        let left = patience.saturating_sub(youngest.elapsed());
        self.wait(left)
    }

    /// Waits for a finished constraint for at most `timeout`.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Option<Advanced> {
        let (_, advanced) = self.threads.as_ref()?;
        let advanced = advanced.recv_timeout(timeout).ok()?;
        self.pending.remove(&advanced.row);
        Some(advanced)
    }
}

fn start() -> std::io::Result<(Sender<Work>, Receiver<Advanced>)> {
    let (work, works) = channel::<Work>();
    let (back, advanced) = channel::<Advanced>();
    let works = Arc::new(Mutex::new(works));
    for _ in 0..THREADS {
        let (works, back) = (Arc::clone(&works), back.clone());
        let run = move || {
            while let Ok(work) = take(&works) {
                if back.send(advance(work)).is_err() {
                    break;
                }
            }
        };
        std::thread::Builder::new().name("masks".into()).stack_size(STACK_BYTES).spawn(run)?;
    }
    Ok((work, advanced))
}

fn take(works: &Mutex<Receiver<Work>>) -> Result<Work, std::sync::mpsc::RecvError> {
    works.lock().unwrap_or_else(PoisonError::into_inner).recv()
}

fn advance(Work { row, mut constraint, token }: Work) -> Advanced {
    let begin = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        #[cfg(test)]
        faults::strike(token);
        constraint.push(token).map(|()| constraint)
    }));
    let outcome = outcome.unwrap_or_else(|_| Err(GrammarError::Internal("a panic".to_owned())));
    Advanced { row, outcome, took: begin.elapsed() }
}

/// Fault injection.
#[cfg(test)]
pub(crate) mod faults {
    use std::sync::{Condvar, Mutex};
    use std::time::Duration;

    /// Advancing a constraint by this token panics.
    pub(crate) const PANIC: u32 = 379;
    /// Advancing a constraint by this token waits for [`GATE`].
    pub(crate) const SLOW: u32 = 380;
    /// Whether the gate is open.
    pub(crate) static GATE: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

    pub(super) fn strike(token: u32) {
        assert_ne!(token, PANIC, "a fault on demand");
        if token == SLOW {
            let shut = GATE.0.lock().unwrap();
            let limit = Duration::from_secs(20);
            drop(GATE.1.wait_timeout_while(shut, limit, |open| !*open).unwrap());
        }
    }
}
