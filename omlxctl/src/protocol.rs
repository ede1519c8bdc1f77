//! The admin protocol: HTTP/1.1 with JSON over the daemon's Unix socket, under `/admin/v1/`.
//!
//! Every response carries [`VERSION_HEADER`] and [`API_HEADER`]. An answer with a status of 400 or
//! more is an [`ErrorBody`]. A document may gain fields within one [`ADMIN_API`], so readers ignore
//! those that they do not know.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The protocol's version. It changes when a reader of the old one would be misled.
pub const ADMIN_API: u32 = 1;

/// Header with the daemon's version.
pub const VERSION_HEADER: &str = "omlx-version";

/// Header with the daemon's [`ADMIN_API`].
pub const API_HEADER: &str = "omlx-admin-api";

/// The only value of `Host` besides `localhost` that the daemon takes.
pub const HOST: &str = "omlxd";

/// What every path starts with.
pub const PREFIX: &str = "/admin/v1";

/// Header with the `HF_TOKEN` of whoever asks for a pull. The daemon's own may be another.
pub const HUB_TOKEN_HEADER: &str = "omlx-hub-token";

/// Header with the `HF_ENDPOINT` of whoever asks for a pull.
pub const HUB_ENDPOINT_HEADER: &str = "omlx-hub-endpoint";

/// Largest request body, and largest answer that the client reads.
pub const MAX_BODY_BYTES: usize = 4 << 20;

/// `run/omlxd.json`: how to reach the daemon that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo {
    /// The daemon's process id.
    pub pid: u32,
    /// The daemon's version.
    pub version: String,
    /// The address that the HTTP API is really bound to.
    pub http: String,
    /// The admin socket.
    pub socket: PathBuf,
}

/// `GET /version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The daemon's version.
    pub version: String,
    /// Its [`ADMIN_API`].
    pub admin_api: u32,
}

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

/// The KV cache in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheStatus {
    /// `cache.enabled`.
    pub enabled: bool,
    /// Why nothing is stored although the cache is enabled.
    pub problem: Option<String>,
    /// Finished turns whose KV is in memory, ready to be continued.
    pub live: LiveSessions,
    /// The RAM tier; null without a store.
    pub ram: Option<Tier>,
    /// The SSD tier; null without a store.
    pub ssd: Option<Tier>,
    /// Why nothing is saved just now, although there is a store.
    pub paused: Option<String>,
}

/// Finished turns whose KV is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveSessions {
    /// How many.
    pub sessions: usize,
    /// What they take.
    pub used_bytes: u64,
    /// What they may take, `cache.live_budget`.
    pub capacity_bytes: u64,
}

/// A tier of the KV store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tier {
    /// What it holds.
    pub used_bytes: u64,
    /// What it may hold.
    pub capacity_bytes: u64,
    /// Records of full blocks of tokens.
    pub blocks: u64,
    /// Records of sliding-window layers.
    pub windows: u64,
    /// Records of recurrent states.
    pub states: u64,
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

/// `GET /models`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Models {
    /// The one that `omlxctl chat` talks to when none is named.
    pub default: Option<String>,
    /// By id.
    pub models: Vec<KnownModel>,
}

/// A model that can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownModel {
    /// Its id, as requests name it.
    pub id: String,
    /// Its folder.
    pub path: PathBuf,
    /// `ready` when it is in memory; else `unloaded`, `loading`, `draining` or `failed`.
    pub state: String,
    /// Why the last attempt to load it failed.
    pub error: Option<String>,
    /// `bundled`, `folder` or `hub`.
    #[serde(default)]
    pub source: String,
    /// The commit, of one in the hub cache layout.
    #[serde(default)]
    pub revision: Option<String>,
    /// Other names that requests may use.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Whether nothing unloads it.
    #[serde(default)]
    pub pinned: bool,
    /// Requests that hold it.
    #[serde(default)]
    pub requests: usize,
    /// Requests that wait for it.
    #[serde(default)]
    pub waiting: usize,
    /// What its files say; null when they say that it cannot run here.
    #[serde(default)]
    pub facts: Option<ModelFacts>,
    /// Why it cannot run here.
    #[serde(default)]
    pub problem: Option<String>,
}

/// What a model's files say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// Its `model_type`.
    pub architecture: String,
    /// How many parameters it has.
    pub parameters: u64,
    /// How its weights are quantized, such as `4 bits in groups of 64`.
    pub quantization: Option<String>,
    /// What its weights, or their scales, are stored as.
    pub dtype: String,
    /// Its context, in tokens.
    pub context_tokens: usize,
    /// Bytes of its weights on disk.
    pub disk_bytes: u64,
    /// Bytes that its weights take in memory.
    pub memory_bytes: u64,
    /// Whether that is within `memory.budget`.
    pub fits: bool,
}

/// One line of `POST /models/{id}/load` and `POST /models/{id}/unload`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ModelEvent {
    /// It goes on.
    Progress(ModelProgress),
    /// It is done.
    Done(ModelChanged),
    /// It was not done.
    Error(ErrorDetail),
}

/// How far a load or an unload is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelProgress {
    /// The model's id.
    pub id: String,
    /// What it is doing, as in [`KnownModel`].
    pub state: String,
    /// Requests that hold it, which an unload waits for.
    pub requests: usize,
    /// Time since it was asked for.
    pub seconds: f64,
}

/// What a load or an unload did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelChanged {
    /// The model's id.
    pub id: String,
    /// `ready` or `unloaded`.
    pub state: String,
    /// Bytes that its weights take, or took.
    pub memory_bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// `POST /models/{id}/pin` and `POST /models/{id}/unpin`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// The model's id.
    pub id: String,
    /// Whether it is pinned now.
    pub pinned: bool,
    /// Whether it was not before.
    pub changed: bool,
}

/// `POST /models/{id}/remove`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedModel {
    /// The model's id.
    pub id: String,
    /// Bytes of the files that went.
    pub bytes: u64,
    /// Records of its KV cache that went; null when they were to stay, or cannot be told from others
    /// because it was not loaded since the daemon's start.
    pub cache_records: Option<u64>,
}

/// `GET /pulls`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PullList {
    /// Those that run.
    pub pulls: Vec<PullProgress>,
}

/// One line of `POST /pull/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum PullEvent {
    /// It goes on.
    Progress(PullProgress),
    /// The model is there.
    Done(Pulled),
    /// It is not.
    Error(ErrorDetail),
}

/// How far a pull is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PullProgress {
    /// The model's id.
    pub id: String,
    /// The branch, tag or commit that was asked for.
    pub revision: String,
    /// `asking`, `checking`, `downloading` or `publishing`.
    pub phase: String,
    /// Bytes of all files; 0 until they are known.
    pub total_bytes: u64,
    /// Bytes that are here.
    pub done_bytes: u64,
    /// The rate of the last seconds.
    pub bytes_per_second: f64,
    /// At that rate; null when there is none.
    pub seconds_left: Option<f64>,
    /// Each file.
    pub files: Vec<PullFile>,
}

/// A file of a pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullFile {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Bytes that are here.
    pub done_bytes: u64,
}

/// What a pull made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pulled {
    /// The model's id.
    pub id: String,
    /// The commit.
    pub revision: String,
    /// Its folder.
    pub path: PathBuf,
    /// How many files it has.
    pub files: usize,
    /// Bytes of its files.
    pub bytes: u64,
    /// Bytes that came over the network.
    pub downloaded_bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// `POST /pulls/{id}/cancel`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullCancelled {
    /// The model's id.
    pub id: String,
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

/// `GET /key` and `POST /key/rotate`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// The key, or null when `auth.enabled` is false.
    pub key: Option<String>,
}

// Not derived: a key must not reach a log by way of `{:?}`.
impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiKey").finish_non_exhaustive()
    }
}

/// `GET /keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeys {
    /// Whether the API asks for one: `auth.enabled`.
    pub required: bool,
    /// The keys, without their secrets.
    pub keys: Vec<KeyInfo>,
}

/// A key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInfo {
    /// Its name; empty when it has none.
    pub name: String,
    /// Its last characters.
    pub tail: String,
    /// Whether it is the one that `omlxctl` shows and uses itself.
    pub own: bool,
}

/// `POST /keys/{name}/add`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyAdded {
    /// Its name.
    pub name: String,
    /// The key. It is told this once.
    pub key: String,
}

// Not derived: a key must not reach a log by way of `{:?}`.
impl std::fmt::Debug for KeyAdded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyAdded").field("name", &self.name).finish_non_exhaustive()
    }
}

/// `POST /keys/{name}/revoke`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRevoked {
    /// Its name; empty when it had none.
    pub name: String,
    /// Its last characters.
    pub tail: String,
}

/// `GET /config`: what is in effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The file that was read.
    pub file: PathBuf,
    /// Every key.
    pub settings: Vec<Setting>,
}

/// An effective value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// `section.name`.
    pub key: String,
    /// As a TOML literal.
    pub value: String,
    /// `default`, `FILE:LINE`, `environment NAME` or a flag.
    pub origin: String,
}

/// `GET /config/check`: whether the file, as it is now, holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigCheck {
    /// The file that was read.
    pub file: PathBuf,
    /// One line each; none when it holds.
    pub problems: Vec<String>,
    /// Keys whose value in the file differs from the one in effect.
    pub changed: Vec<ChangedKey>,
}

/// A key whose value in the file is not in effect yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedKey {
    /// `section.name`.
    pub key: String,
    /// Whether SIGHUP is not enough.
    pub needs_restart: bool,
}

/// `POST /shutdown`: the daemon drains and exits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShuttingDown {
    /// The process that will exit.
    pub pid: u32,
    /// The longest that it waits for running requests.
    pub drain_seconds: u64,
}

/// `GET /cache`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CacheStats {
    /// As in [`Status`].
    pub status: CacheStatus,
    /// The folder of the SSD tier.
    pub dir: PathBuf,
    /// Tokens of a block.
    pub block_tokens: usize,
    /// What was reused since the start, by model id.
    pub models: Vec<ModelReuse>,
    /// The store's numbers; null without a store.
    pub store: Option<StoreStats>,
}

/// What of a model's prompts was reused since the daemon's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelReuse {
    /// The model's id.
    pub model: String,
    /// Tokens of all prompts.
    pub prompt_tokens: u64,
    /// Tokens whose KV was in memory.
    pub ram_tokens: u64,
    /// Tokens whose KV came from SSD.
    pub ssd_tokens: u64,
    /// Prompts of which less than possible was reused, by the reason.
    pub misses: BTreeMap<String, u64>,
}

/// Numbers of the KV store. All but sizes count from the daemon's start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoreStats {
    /// Bytes on disk that are no usable record.
    pub unindexed_bytes: u64,
    /// Free bytes of the disk, when the system says.
    pub free_disk_bytes: Option<u64>,
    /// Free bytes below which nothing is saved, `cache.ssd_min_free`.
    pub min_free_bytes: u64,
    /// What may still be written today; null without a limit.
    pub write_budget_remaining_bytes: Option<u64>,
    /// Bytes written.
    pub written_bytes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Records that wait to be written.
    pub waiting_saves: u64,
    /// Records found in memory.
    pub hits_ram: u64,
    /// Records found on disk.
    pub hits_ssd: u64,
    /// Records not saved, by the reason.
    pub dropped: BTreeMap<String, u64>,
    /// Records removed from disk, by the reason.
    pub evicted: BTreeMap<String, u64>,
    /// Records that failed a check, by the check.
    pub verify_failures: BTreeMap<String, u64>,
    /// Errors that the system reported, by what was being done.
    pub io_errors: BTreeMap<String, u64>,
    /// How long the first look through all files took; null while it runs.
    pub recovery_seconds: Option<f64>,
    /// Records found again at the start.
    pub recovered_records: u64,
    /// Largest first.
    pub namespaces: Vec<NamespaceUse>,
}

/// What one namespace (one model, one layout, one salt) takes on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceUse {
    /// Its name, the folder's below `blocks/`; null for all smaller ones together.
    pub namespace: Option<String>,
    /// The model, when it was loaded since the daemon's start.
    pub model: Option<String>,
    /// Bytes on disk.
    pub used_bytes: u64,
}

/// One line of `POST /cache/verify`: each is a JSON document, the last one `done` or `error`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum VerifyEvent {
    /// It goes on.
    Progress(Verified),
    /// Every record was looked at.
    Done(Verified),
    /// It ended early.
    Error(ErrorDetail),
}

/// What a check of every record on disk found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Records to look at.
    pub total: u64,
    /// Records looked at.
    pub done: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Records that failed and were set aside; what they held is computed again when it is wanted.
    pub damaged: u64,
    /// Records that could not be read.
    pub unreadable: u64,
}

/// `POST /cache/clear` and `POST /cache/clear?model=ID`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleared {
    /// The model whose records went; null for those of all.
    pub model: Option<String>,
    /// Records forgotten, in whichever tier.
    pub records: u64,
    /// What their files take; they are removed in the background.
    pub bytes: u64,
    /// Live sessions dropped: those of every model, always.
    pub live_sessions: usize,
}

/// `POST /cache/demote`: what was in memory is on SSD only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demoted {
    /// Records taken out of the RAM tier.
    pub records: u64,
    /// Live sessions dropped.
    pub live_sessions: usize,
}

/// `GET /cache/explain/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The request's id.
    pub id: String,
    /// The model's id.
    pub model: String,
    /// One for each of the request's prompts, in order.
    pub prompts: Vec<PromptReuse>,
}

/// What was reused of a prompt, and why not more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptReuse {
    /// Its tokens.
    pub prompt_tokens: usize,
    /// Tokens whose KV was in memory: of a live session, or of the RAM tier.
    pub ram_tokens: usize,
    /// Tokens whose KV came from SSD.
    pub ssd_tokens: usize,
    /// Tokens computed.
    pub computed_tokens: usize,
    /// Whether a live session was continued.
    pub live: bool,
    /// Tokens of a block.
    pub block_tokens: usize,
    /// `cold`, `evicted`, `diverged`, `layout`, `verify_failed`, `load_failed`, `salt`, `too_short`;
    /// null when everything that could be reused was.
    pub reason: Option<String>,
    /// The reason in a sentence.
    pub because: String,
    /// Where the prompt leaves the earlier one that starts most like it.
    pub divergence: Option<Divergence>,
}

/// Where a prompt leaves an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Divergence {
    /// Position of the first token that differs, from 0.
    pub position: usize,
    /// The block that it lies in, from 0.
    pub block: usize,
    /// That token's id.
    pub token_id: u32,
    /// That token's text; here and below, bytes that are no UTF-8 are written as `\xNN`.
    pub token: String,
    /// The id of the earlier prompt's token there.
    pub earlier_token_id: u32,
    /// The text right before it, the same in both.
    pub before: String,
    /// The earlier prompt's text from there.
    pub earlier: String,
    /// This prompt's text from there.
    pub now: String,
}

/// What an answer with a status of 400 or more holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// A word for programs.
    pub code: ErrorCode,
    /// A sentence for people.
    pub message: String,
}

/// Why the daemon refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The peer is neither the daemon's user nor root, or it is a web page.
    Forbidden,
    /// No such route, model or request.
    NotFound,
    /// The route exists with another method.
    MethodNotAllowed,
    /// Something uses it.
    InUse,
    /// It could not be done now.
    Failed,
    /// A code of a newer daemon.
    #[serde(other)]
    Unknown,
}
