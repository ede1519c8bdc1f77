//! The only access to the `tokenizers` library: each call runs on its own thread, its panics are
//! caught, and its time is limited. A model folder chooses the patterns and a request the text, so
//! a call may panic, or take longer than any client waits. A thread cannot be ended from outside: a
//! call that is too slow is abandoned, and its caller reports it and starts no further call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::panic_text;

/// How often to check whether a call is still wanted.
const POLL: Duration = Duration::from_millis(20);
/// Stack size of a call. Oniguruma compiles nested patterns by recursion.
const STACK_BYTES: usize = 16 << 20;

/// Why a call returned no result.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It panicked, with the part of the message that is safe to log.
    Panic(String),
    /// It did not end in time, and may still be running.
    TooSlow,
    /// No request waits for it any more.
    Unwanted,
    /// The system could not start a thread.
    NoThread(String),
}

/// Runs a call until `deadline`, for as long as it is wanted.
pub(super) fn run<T: Send + 'static>(
    deadline: Instant,
    wanted: &dyn Fn() -> bool,
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    let (sender, receiver) = sync_channel(1);
    let work = move || {
        let outcome = catch_unwind(AssertUnwindSafe(call));
        // An error means that the caller does not wait any more.
        let _ = sender.send(outcome.map_err(|panic| panic_text(&*panic)));
    };
    let thread = std::thread::Builder::new().name("tokenizer".into()).stack_size(STACK_BYTES);
    thread.spawn(work).map_err(|error| Fault::NoThread(error.to_string()))?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match receiver.recv_timeout(left.min(POLL)) {
            Ok(outcome) => return outcome.map_err(Fault::Panic),
            Err(RecvTimeoutError::Disconnected) => return Err(Fault::Panic("no result".into())),
            Err(RecvTimeoutError::Timeout) if !wanted() => return Err(Fault::Unwanted),
            Err(RecvTimeoutError::Timeout) if left.is_zero() => return Err(Fault::TooSlow),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// A semaphore: a fixed number of permits.
#[derive(Debug)]
pub(super) struct Semaphore {
    free: Mutex<usize>,
    released: Condvar,
}

/// A permit, returned when dropped.
#[derive(Debug)]
pub(super) struct Permit<P: std::ops::Deref<Target = Semaphore>>(P);

impl Semaphore {
    pub(super) const fn new(free: usize) -> Self {
        Self { free: Mutex::new(free), released: Condvar::new() }
    }

    /// Waits for a permit.
    pub(super) fn take<P: std::ops::Deref<Target = Semaphore>>(
        semaphore: P,
        deadline: Instant,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Permit<P>, Fault> {
        let mut free = semaphore.free();
        while *free == 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if !wanted() {
                return Err(Fault::Unwanted);
            }
            if left.is_zero() {
                return Err(Fault::TooSlow);
            }
            let waited = semaphore.released.wait_timeout(free, left.min(POLL));
            free = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *free -= 1;
        drop(free);
        Ok(Permit(semaphore))
    }

    fn free(&self) -> MutexGuard<'_, usize> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: std::ops::Deref<Target = Semaphore>> Drop for Permit<P> {
    fn drop(&mut self) {
        *self.0.free() += 1;
        self.0.released.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn what_is_too_slow_is_left_behind() {
        let release = Arc::new(AtomicBool::new(false));
        let slow = |release: Arc<AtomicBool>| {
            move || {
                while !release.load(Ordering::Relaxed) {
                    std::thread::yield_now()
                }
            }
        };
        let now = Instant::now();
        assert_eq!(run(now, &|| true, slow(release.clone())), Err(Fault::TooSlow));
        assert_eq!(run(soon(), &|| false, slow(release.clone())), Err(Fault::Unwanted));
        release.store(true, Ordering::Relaxed);
        assert_eq!(run(soon(), &|| true, slow(release)), Ok(()));
    }

    #[test]
    fn a_panic_is_reported() {
        assert_eq!(
            run(soon(), &|| true, || panic!("a pattern")),
            Err::<(), _>(Fault::Panic("a pattern".into()))
        );
    }

    #[test]
    fn no_more_than_so_many_are_encoded_at_once() {
        let semaphore = Arc::new(Semaphore::new(crate::limits::ENCODES_AT_ONCE));
        let take = || Semaphore::take(semaphore.clone(), Instant::now(), &|| true);
        let mut taken: Vec<_> =
            (0..crate::limits::ENCODES_AT_ONCE).map(|_| take().unwrap()).collect();
        assert_eq!(take().unwrap_err(), Fault::TooSlow);
        let unwanted = Semaphore::take(semaphore.clone(), soon(), &|| false);
        assert_eq!(unwanted.unwrap_err(), Fault::Unwanted);
        let waiting = {
            let semaphore = semaphore.clone();
            let asked = Arc::new(AtomicUsize::new(0));
            let count = asked.clone();
            let thread = std::thread::spawn(move || {
                let wanted = || {
                    count.fetch_add(1, Ordering::Relaxed);
                    true
                };
                Semaphore::take(semaphore, soon(), &wanted).map(drop)
            });
            while asked.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            thread
        };
        taken.pop();
        assert_eq!(waiting.join().unwrap(), Ok(()));
        assert!(take().is_ok());
    }
}
