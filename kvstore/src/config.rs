//! How large a store may grow, and where it lives.

use crate::error::OpenError;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A store's limits. All sizes are bytes.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The folder that the store owns. Nothing else may live in it.
    pub root: PathBuf,
    /// Budget of the RAM tier. Zero: every disk hit is mapped, none is copied.
    pub ram_budget_bytes: u64,
    /// Limit on the physical bytes of all files under the root.
    pub quota_bytes: u64,
    /// Saving stops while the medium has less free space than this.
    pub min_free_bytes: u64,
    /// Limit on the bytes written in one day (UTC).
    pub writes_per_day_bytes: Option<u64>,
    /// Limit on the bytes waiting to be written.
    pub queue_bytes: u64,
    /// Blocks unused for longer than this are removed.
    pub max_idle: Option<Duration>,
    /// File with the key that encrypts payload and witness at rest. It is created if missing.
    pub key_file: Option<PathBuf>,
    /// How long closing waits for the queue to be written.
    pub drain: Duration,
    /// Number of threads that read blocks ahead for [`Store::prefetch`](crate::Store::prefetch).
    pub read_threads: usize,
}

/// A store smaller than this cannot hold its own folders and index.
pub const MIN_QUOTA_BYTES: u64 = 1 << 20;

impl StoreConfig {
    /// Returns limits for a store at `root` of at most `quota_bytes`; the others have their
    /// defaults.
    pub fn new(root: impl Into<PathBuf>, quota_bytes: u64) -> Self {
        StoreConfig {
            root: root.into(),
            ram_budget_bytes: 1 << 30,
            quota_bytes,
            min_free_bytes: 10 << 30,
            writes_per_day_bytes: None,
            queue_bytes: 512 << 20,
            max_idle: None,
            key_file: None,
            drain: Duration::from_secs(5),
            read_threads: 4,
        }
    }

    pub(crate) fn check(&self) -> Result<(), OpenError> {
        if self.quota_bytes < MIN_QUOTA_BYTES {
            return Err(OpenError::Config("the quota must be at least 1 MiB"));
        }
        if self.queue_bytes == 0 {
            return Err(OpenError::Config("the write queue must hold at least one block"));
        }
        Ok(())
    }
}

/// A source of time, which tests can replace.
pub trait Clock: Send + Sync + 'static {
    /// Seconds since 1970.
    fn unix_secs(&self) -> u64;
    /// Time since some fixed moment; never goes back.
    fn monotonic(&self) -> Duration;
}

/// The system's clock.
#[derive(Debug)]
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock(Instant::now())
    }
}

impl Clock for SystemClock {
    fn unix_secs(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}
