//! What is said to the operating system, and what it says.

/// What a thread is for. The system shares the machine out accordingly: the user's programs come
/// before the model, and the model before work that can wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// It computes what a client waits for.
    Compute,
    /// It reads what a computation waits for.
    Restore,
    /// It writes and deletes, and nobody waits for it.
    Background,
}

/// How short of memory the machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Pressure {
    /// There is enough memory.
    #[default]
    Normal,
    /// Memory runs short: programs should use no more than they do.
    Warning,
    /// Memory has run out: programs should give some back.
    Critical,
}

impl Pressure {
    /// The word for logs and metrics.
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
