//! The threads that move constraints on while the engine thread does something else.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::compiled::STACK_BYTES;
use super::constraint::Constraint;
use super::error::GrammarError;
use crate::sched::RowId;

/// Threads. A mask takes tens of microseconds, a step milliseconds.
const THREADS: usize = 2;

/// A row's constraint: with the row, or with a thread that moves it on.
#[derive(Debug)]
pub(crate) enum MaskState {
    /// Its allowed tokens are known.
    Here(Box<Constraint>),
    /// They are being computed.
    Away,
}

/// A constraint that comes back.
#[derive(Debug)]
pub(crate) struct Moved {
    pub(crate) row: RowId,
    pub(crate) outcome: Result<Box<Constraint>, GrammarError>,
    /// How long it computed.
    pub(crate) took: Duration,
}

#[derive(Debug)]
struct Work {
    row: RowId,
    constraint: Box<Constraint>,
    token: u32,
}

/// The threads and what they are at. They start with the first constraint, and end when this is
/// dropped.
#[derive(Debug, Default)]
pub(crate) struct Masks {
    threads: Option<(Sender<Work>, Receiver<Moved>)>,
    /// When each row's constraint went away.
    away: BTreeMap<RowId, Instant>,
}

impl Masks {
    /// The row's answer has this token next.
    ///
    /// # Errors
    /// When the system refuses threads.
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
        self.away.insert(row, Instant::now());
        Ok(())
    }

    /// Whether a constraint is away.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.away.is_empty()
    }

    /// A constraint that came back. Waits for one as long as any has been away for less than
    /// `patience`.
    pub(crate) fn next(&mut self, patience: Duration) -> Option<Moved> {
        let youngest = self.away.values().max()?;
        let left = patience.saturating_sub(youngest.elapsed());
        self.wait(left)
    }

    /// A constraint that comes back within `timeout`.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Option<Moved> {
        let (_, moved) = self.threads.as_ref()?;
        let moved = moved.recv_timeout(timeout).ok()?;
        self.away.remove(&moved.row);
        Some(moved)
    }
}

fn start() -> std::io::Result<(Sender<Work>, Receiver<Moved>)> {
    let (work, works) = channel::<Work>();
    let (back, moved) = channel::<Moved>();
    let works = Arc::new(Mutex::new(works));
    for _ in 0..THREADS {
        let (works, back) = (Arc::clone(&works), back.clone());
        let run = move || {
            while let Ok(work) = take(&works) {
                if back.send(move_on(work)).is_err() {
                    break;
                }
            }
        };
        std::thread::Builder::new().name("masks".into()).stack_size(STACK_BYTES).spawn(run)?;
    }
    Ok((work, moved))
}

fn take(works: &Mutex<Receiver<Work>>) -> Result<Work, std::sync::mpsc::RecvError> {
    works.lock().unwrap_or_else(PoisonError::into_inner).recv()
}

fn move_on(Work { row, mut constraint, token }: Work) -> Moved {
    let begin = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        #[cfg(test)]
        faults::strike(token);
        constraint.push(token).map(|()| constraint)
    }));
    let outcome = outcome.unwrap_or_else(|_| Err(GrammarError::Internal("a panic".to_owned())));
    Moved { row, outcome, took: begin.elapsed() }
}

/// Faults on demand.
#[cfg(test)]
pub(crate) mod faults {
    use std::sync::{Condvar, Mutex};
    use std::time::Duration;

    /// A constraint that moves on by this token panics.
    pub(crate) const PANIC: u32 = 379;
    /// A constraint that moves on by this token waits for [`GATE`].
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
