//! What the engine tells of itself.

use std::time::Duration;

use kvstore::platform::Pressure;

/// Told about every step, on the engine thread: must be quick.
pub trait Observer: Send + Sync {
    /// A step of this model is complete.
    fn step(&self, model: &str, report: &StepReport);

    /// A step is about to be handed to MLX, which may end the process over it.
    fn begins(&self, _model: &str, _decoding: usize, _prompt_tokens: usize) {}

    /// A model is about to be loaded, by which the process may end as well.
    fn loads(&self, _model: &str) {}

    /// After one of these: there is nothing left to do.
    fn idle(&self) {}

    /// So many bytes are wanted that only idle models could give back.
    fn room_wanted(&self, _bytes: u64) {}

    /// Memory was short, and this was done about it.
    fn guarded(&self, _action: GuardAction) {}

    /// What a row of this model may say next was computed, on another thread, in so long.
    fn masked(&self, _model: &str, _took: Duration) {}

    /// For lack of memory a request of this model was put back into the queue.
    fn preempted(&self, _model: &str) {}
}

/// An observer that looks away.
#[derive(Debug, Clone, Copy)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn step(&self, _: &str, _: &StepReport) {}
}

/// What is done when memory is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardAction {
    /// The system is short of memory: no request is taken that needs more than is in use.
    Pause,
    /// Caches kept for later are given up.
    ShrinkCache,
    /// A request is ended.
    Abort,
}

/// One step of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepReport {
    /// What it did: `Decode` if any row decoded.
    pub phase: Phase,
    /// Sequences in it.
    pub rows: usize,
    /// Prompt tokens computed.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub new_tokens: usize,
    /// From the end of the step before, or from its own start after a pause, to its tokens.
    pub duration: Duration,
    /// The part of `duration` that the host spent on it: building graphs, reading and sending
    /// tokens. In a decode step MLX computes meanwhile.
    pub host: Duration,
    /// How long MLX had nothing to compute because of the host, at most. This is what a faster host
    /// would win.
    pub idle: Duration,
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Computes prompt tokens.
    Prefill,
    /// Computes one new token a sequence.
    Decode,
}

/// Whether the engine gets on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The thread ended by a panic, see [`Engine::failed`](crate::Engine::failed).
    pub failed: bool,
    /// A request is running.
    pub busy: bool,
    /// A model is being loaded, which no step interrupts.
    pub loading: bool,
    /// Since the last step, load or idle moment.
    pub since_last_step: Duration,
    /// Requests being computed.
    pub running: usize,
    /// Requests waiting.
    pub waiting: usize,
    /// The step under way.
    pub step: Option<StepName>,
    /// Rows that were put back into the queue for lack of memory, since the start.
    pub preemptions: u64,
}

/// A step, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepName {
    /// The model's name.
    pub model: String,
    /// Rows that decode.
    pub decoding: usize,
    /// Prompt tokens beside them.
    pub prompt_tokens: usize,
    /// Since it began.
    pub age: Duration,
}

/// MLX's memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Held by arrays.
    pub active_bytes: u64,
    /// Kept by MLX for reuse.
    pub cache_bytes: u64,
    /// The most that was ever active.
    pub peak_bytes: u64,
    /// What weights, KV, caches and steps may take together; 0: no limit.
    pub budget_bytes: u64,
    /// Of it, reserved by running requests.
    pub running_bytes: u64,
    /// Of it, what steps need for their time and MLX keeps for the next; whether or not any runs.
    pub step_bytes: u64,
    /// Of it, taken by weights, caches kept for later, and steps.
    pub used_bytes: u64,
    /// What macOS may keep wired of MLX's memory while models are loaded; 0 without Metal.
    pub wired_limit_bytes: u64,
    /// How the system's memory does.
    pub pressure: Pressure,
}
