//! How a run of omlxd ends.

/// The exit codes, which service managers and scripts rely on. Those from 64 on are those of
/// `sysexits.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Stopped as asked, or nothing was wrong.
    Ok = 0,
    /// Something failed that has no code of its own.
    Failed = 1,
    /// The HTTP address is taken or cannot be bound.
    Address = 69,
    /// The engine's thread ended by a panic.
    Engine = 70,
    /// Another omlxd uses the base directory.
    AlreadyRunning = 75,
    /// A file or directory has an owner or a mode that would let others in, or us not.
    Permission = 77,
    /// The configuration has problems.
    Config = 78,
    /// A second signal cut the drain short.
    Interrupted = 130,
}

impl Exit {
    /// Ends the process, whatever its other threads do.
    pub fn now(self) -> ! {
        kvstore::platform::end_process(self as u8)
    }
}
