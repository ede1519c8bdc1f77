//! Models, and pulls of them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ErrorDetail;

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
    /// Progress.
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
    /// Progress.
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
