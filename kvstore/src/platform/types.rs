//! Types for calls to the operating system.

/// The purpose of a thread, which sets its priority: the user's programs run before the model, and
/// the model runs before work that can wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// It computes a result that a client waits for.
    Compute,
    /// It reads data that a computation waits for.
    Restore,
    /// It writes and deletes files, and nothing waits for it.
    Background,
}

/// How short of memory the machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Pressure {
    /// There is enough memory.
    #[default]
    Normal,
    /// Memory is running short: programs should not use more.
    Warning,
    /// Memory has run out: programs should release some.
    Critical,
}

impl Pressure {
    /// The level's name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// The severity of a line in the system's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Something failed.
    Error,
    /// Something may fail.
    Warning,
}
