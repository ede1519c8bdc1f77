//! Shared by the test programs, not all of which use everything.
#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(missing_docs, unreachable_pub, reason = "test code")]

pub mod rng;
pub mod sim_disk;

use kvstore::Clock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A clock that a test moves.
pub struct SimClock(AtomicU64);

impl SimClock {
    pub fn new(secs: u64) -> SimClock {
        SimClock(AtomicU64::new(secs))
    }

    pub fn advance(&self, secs: u64) {
        self.0.fetch_add(secs, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn unix_secs(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.unix_secs())
    }
}
