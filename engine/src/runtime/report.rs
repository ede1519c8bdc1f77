//! Reports of the engine about its work.

use std::time::Duration;

use kvstore::platform::Pressure;

/// Receives notifications on the engine thread, so its methods must be fast.
pub trait Observer: Send + Sync {
    /// A step of this model is complete.
    fn step(&self, model: &str, report: &StepReport);

    /// A step is about to be handed to MLX, which may end the process.
    fn begins(&self, _model: &str, _decoding: usize, _prompt_tokens: usize) {}

    /// A model is about to be loaded, which may end the process too.
    fn loads(&self, _model: &str) {}

    /// Called once after any of these, when the engine has no more work.
    fn idle(&self) {}

    /// This many bytes are needed that only idle models could free.
    fn room_wanted(&self, _bytes: u64) {}

    /// This action was taken because memory is short.
    fn guarded(&self, _action: GuardAction) {}

    /// A token mask for a row of this model was computed on another thread, in this time.
    fn masked(&self, _model: &str, _took: Duration) {}

    /// A request of this model was put back into the queue for lack of memory.
    fn preempted(&self, _model: &str) {}
}

/// An observer that ignores all notifications.
#[derive(Debug, Clone, Copy)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn step(&self, _: &str, _: &StepReport) {}
}

/// The reaction to a shortage of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardAction {
    /// The system is short of memory: no request is admitted that needs more than is in use.
    Pause,
    /// Caches kept for later are dropped.
    ShrinkCache,
    /// A request is aborted.
    Abort,
}

/// One step of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepReport {
    /// The step's type: `Decode` if any row decoded.
    pub phase: Phase,
    /// Number of sequences in it.
    pub rows: usize,
    /// Number of prompt tokens computed.
    pub prompt_tokens: usize,
    /// Number of tokens generated.
    pub new_tokens: usize,
    /// Time from the end of the previous step (or from its own start after a pause) to its tokens.
    pub duration: Duration,
    /// The part of `duration` that the host spent: building graphs, reading and sending tokens. In
    /// a decode step MLX computes meanwhile.
    pub host: Duration,
    /// Upper bound on the time in which MLX waited for the host: the possible gain from a faster
    /// host.
    pub idle: Duration,
}

/// The type of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It computes prompt tokens.
    Prefill,
    /// It computes one new token for each sequence.
    Decode,
}

/// Whether the engine makes progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The thread ended by a panic, see [`Engine::failed`](crate::Engine::failed).
    pub failed: bool,
    /// A request is running.
    pub busy: bool,
    /// A model is being loaded, during which no step runs.
    pub loading: bool,
    /// Time since the last step, load or idle moment.
    pub since_last_step: Duration,
    /// Number of requests being computed.
    pub running: usize,
    /// Number of waiting requests.
    pub waiting: usize,
    /// The step in flight.
    pub step: Option<StepName>,
    /// Number of rows put back into the queue for lack of memory, since the start.
    pub preemptions: u64,
}

/// A description of a step, for display.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepName {
    /// The model's name.
    pub model: String,
    /// Number of decoding rows.
    pub decoding: usize,
    /// Number of prompt tokens in the same step.
    pub prompt_tokens: usize,
    /// Time since it began.
    pub age: Duration,
}

/// Memory use of MLX and of the engine, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Used by arrays.
    pub active_bytes: u64,
    /// Kept by MLX for reuse.
    pub cache_bytes: u64,
    /// Highest active memory so far.
    pub peak_bytes: u64,
    /// Limit on weights, KV cache, kept caches and step memory together; 0: no limit.
    pub budget_bytes: u64,
    /// The part of the budget reserved by running requests.
    pub running_bytes: u64,
    /// The part of the budget for temporary memory of steps, whether or not a step runs.
    pub step_bytes: u64,
    /// The part of the budget used by weights, caches kept for later, and steps.
    pub used_bytes: u64,
    /// Limit on the MLX memory that macOS keeps wired while models are loaded; 0 without Metal.
    pub wired_limit_bytes: u64,
    /// The system's memory pressure.
    pub pressure: Pressure,
}
