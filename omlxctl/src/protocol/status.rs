//! What the daemon does and how it is: `omlxctl status`, `ps`, `top`, `requests`, `doctor`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::CacheStatus;

/// `GET /status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Time since it started.
    pub uptime_seconds: f64,
    /// `ready`, or `stopping` while it drains.
    pub state: State,
    /// The base directory.
    pub base_dir: PathBuf,
    /// The address that the HTTP API is bound to.
    pub http: String,
    /// Ids of the models in memory.
    pub loaded_models: Vec<String>,
    /// How many models can be asked for.
    pub known_models: usize,
    /// Requests that generate now.
    pub requests_running: usize,
    /// Requests that wait.
    pub requests_waiting: usize,
    /// What MLX holds.
    pub memory: Memory,
    /// What models may take, `memory.budget`, and what they take.
    #[serde(default)]
    pub budget: Option<Budget>,
    /// Models being pulled.
    #[serde(default)]
    pub pulls: usize,
    /// Whether the engine computes or loads something.
    pub busy: bool,
    /// Whether the system is asked not to fall asleep: while something is computed or loaded, unless
    /// `server.keep_awake` is off. On Linux nobody is asked.
    #[serde(default)]
    pub held_awake: bool,
    /// Time since the engine last finished a step or was idle.
    pub last_progress_seconds: f64,
    /// The KV cache; an older daemon does not tell.
    pub cache: Option<CacheStatus>,
    /// How the run before ended, when it did not end by itself.
    #[serde(default)]
    pub last_crash: Option<CrashNote>,
}

/// A run of the daemon that did not end by itself: it was killed, it aborted, or the machine ended.
/// `logs/crashes.json` has the last ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashNote {
    /// Its process id.
    pub pid: u32,
    /// Its version, when it came so far as to tell.
    pub version: Option<String>,
    /// When the next start noticed, in seconds since 1970.
    pub noticed_at: u64,
    /// When it last began or ended something, in seconds since 1970.
    pub last_sign_at: Option<u64>,
    /// What the engine was doing.
    pub step: Option<String>,
    /// Its last panic, which need not be why.
    pub panic: Option<String>,
}

impl CrashNote {
    /// What it was doing, in a few words.
    pub fn summary(&self) -> String {
        let step = self.step.as_deref().unwrap_or("unknown work");
        let panic = self.panic.as_ref().map_or_else(String::new, |panic| format!("; {panic}"));
        format!("process {}, while at: {step}{panic}", self.pid)
    }
}

/// Whether the daemon takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It does.
    Ready,
    /// It finishes what runs, then exits.
    Stopping,
}

/// Memory for models, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// The most that they may take.
    pub budget_bytes: u64,
    /// What those in memory take, or will when they are loaded.
    pub used_bytes: u64,
}

/// What MLX holds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// In arrays.
    pub active_bytes: u64,
    /// In freed buffers kept for reuse.
    pub cache_bytes: u64,
    /// The most that arrays ever took.
    pub peak_bytes: u64,
}

/// `GET /activity`: counters since the daemon's start, for `omlxctl top`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Of these, found in memory.
    pub ram_tokens: u64,
    /// Of these, found on SSD.
    pub ssd_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Requests that ended.
    pub requests: u64,
}

/// `GET /doctor`, and what `omlxctl doctor` adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checks {
    /// In the order in which they are shown.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at, in a few words.
    pub name: String,
    /// How it is.
    pub result: CheckResult,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    pub fix: Option<String>,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckResult {
    /// As it should be.
    Pass,
    /// It works, but not as well as it could.
    Warn,
    /// It does not work.
    Fail,
    /// It could not be looked at.
    Skip,
}

/// `GET /ps`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Loaded {
    /// The models in memory.
    pub models: Vec<LoadedModel>,
}

/// A model in memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadedModel {
    /// Its id.
    pub id: String,
    /// Its `model_type`.
    pub architecture: String,
    /// How many parameters it has.
    pub parameters: u64,
    /// What its weights take.
    pub weight_bytes: u64,
    /// Its context, in tokens.
    pub context_tokens: usize,
    /// Its arithmetic type.
    pub dtype: String,
    /// How its weights are quantized, such as `4 bits in groups of 64`.
    pub quantization: Option<String>,
    /// How long loading took.
    pub load_seconds: f64,
    /// Requests on it now.
    pub requests: usize,
    /// `ready`, or `draining` while it waits for its requests to end.
    #[serde(default)]
    pub state: String,
    /// Whether nothing unloads it.
    #[serde(default)]
    pub pinned: bool,
    /// Time since the last request came or ended.
    #[serde(default)]
    pub idle_seconds: f64,
    /// Requests that wait for it.
    #[serde(default)]
    pub waiting: usize,
}

/// `GET /requests`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Requests {
    /// Oldest first.
    pub requests: Vec<Request>,
}

/// A request in flight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Its id, which the client sees as `x-request-id`.
    pub id: String,
    /// The model's id.
    pub model: String,
    /// The endpoint, such as `chat.completions`.
    pub endpoint: String,
    /// What it is doing.
    pub phase: String,
    /// Tokens in its prompt, once counted.
    pub prompt_tokens: usize,
    /// Tokens generated so far.
    pub completion_tokens: usize,
    /// Time since it came in.
    pub age_seconds: f64,
}

/// `POST /requests/{id}/cancel`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancelled {
    /// The request's id.
    pub id: String,
}
