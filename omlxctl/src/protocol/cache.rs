//! The KV cache.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ErrorDetail;

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

/// `GET /cache`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CacheStats {
    /// As in [`Status`](super::Status).
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
    /// Progress.
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
    /// What they differ in and what to do about it, in a sentence, where that can be told.
    #[serde(default)]
    pub cause: Option<String>,
}
