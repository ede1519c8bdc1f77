//! Reads the system's memory pressure.

use kvstore::platform::Pressure;

/// Reports the system's memory pressure. Called about once a second on the engine thread, so it
/// must be fast.
pub trait MemorySensor: Send + Sync {
    /// The current pressure.
    fn pressure(&self) -> Pressure;

    /// Memory of the process that the system cannot reclaim by itself, in bytes; `None` where that
    /// is not known.
    fn footprint(&self) -> Option<u64> {
        None
    }
}

impl MemorySensor for SystemSensor {
    fn pressure(&self) -> Pressure {
        kvstore::platform::memory_pressure()
    }

    fn footprint(&self) -> Option<u64> {
        kvstore::platform::footprint()
    }
}

/// Reads the pressure from the operating system.
#[derive(Debug, Clone, Copy)]
pub struct SystemSensor;
