//! The time that a rendering has. Fuel counts what is done, not how long it takes: whatever looks through a
//! value pays here, and past the deadline nothing can.

use std::cell::Cell;
use std::time::Instant;

use minijinja::{Error, State};

thread_local! {
    /// When the rendering on this thread has to be done. Each has a thread of its own.
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Sets the deadline of what is rendered on this thread from now on.
pub(super) fn set(deadline: Instant) {
    DEADLINE.set(Some(deadline));
}

/// Whether the rendering on this thread has used up its time.
pub(super) fn is_over() -> bool {
    DEADLINE.get().is_some_and(|deadline| Instant::now() >= deadline)
}

/// Takes fuel: `units`, or all of it where the time is over, so that nothing goes on without it.
pub(super) fn burn(state: &State<'_, '_>, units: usize) -> Result<(), Error> {
    state.consume_fuel(if is_over() { u64::MAX } else { units as u64 })
}
