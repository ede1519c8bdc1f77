//! How the system's memory does.

use kvstore::platform::Pressure;

/// Says how the system's memory does. Asked about once a second on the engine thread: must be quick.
pub trait MemorySensor: Send + Sync {
    /// The pressure now.
    fn pressure(&self) -> Pressure;

    /// Memory that the process holds and the system cannot take back by itself, in bytes; `None`
    /// where that is not known.
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

/// Asks the operating system.
#[derive(Debug, Clone, Copy)]
pub struct SystemSensor;
