//! The time limit of a rendering. Fuel counts operations and not time. Every function that walks a
//! value burns fuel here, and past the deadline no operation can.

use std::cell::Cell;
use std::time::Instant;

use minijinja::{Error, State};

thread_local! {
    /// The deadline of the rendering on this thread. Each rendering has its own thread.
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Sets the deadline of the rendering on this thread.
pub(super) fn set(deadline: Instant) {
    DEADLINE.set(Some(deadline));
}

/// Whether the rendering on this thread has used up its time.
pub(super) fn is_over() -> bool {
    DEADLINE.get().is_some_and(|deadline| Instant::now() >= deadline)
}

/// Burns `units` of fuel, or all of it if the time is over, so that the rendering stops.
pub(super) fn burn(state: &State<'_, '_>, units: usize) -> Result<(), Error> {
    state.consume_fuel(if is_over() { u64::MAX } else { units as u64 })
}
