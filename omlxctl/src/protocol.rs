//! The admin protocol: HTTP/1.1 with JSON over the daemon's Unix socket, under `/admin/v1/`.
//!
//! Every response carries [`VERSION_HEADER`] and [`API_HEADER`]. An answer with a status of 400 or
//! more is an [`ErrorBody`]. A document may gain fields within one [`ADMIN_API`], so readers ignore
//! those that they do not know.

mod cache;
mod models;
mod settings;
mod status;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use cache::{
    CacheStats, CacheStatus, Cleared, Demoted, Divergence, Explanation, LiveSessions, ModelReuse,
    NamespaceUse, PromptReuse, StoreStats, Tier, Verified, VerifyEvent,
};
pub use models::{
    KnownModel, ModelChanged, ModelEvent, ModelFacts, ModelProgress, Models, Pinned, PullCancelled,
    PullEvent, PullFile, PullList, PullProgress, Pulled, RemovedModel,
};
pub use settings::{
    ApiKey, ApiKeys, ChangedKey, ConfigCheck, KeyAdded, KeyInfo, KeyRevoked, Setting, Settings,
};
pub use status::{
    Activity, Budget, Cancelled, Check, CheckResult, Checks, CrashNote, Loaded, LoadedModel,
    Memory, Request, Requests, State, Status,
};

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

/// Header with the client's `HF_TOKEN` for a pull. The daemon's may differ.
pub const HUB_TOKEN_HEADER: &str = "omlx-hub-token";

/// Header with the client's `HF_ENDPOINT` for a pull.
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

/// `POST /shutdown`: the daemon drains and exits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShuttingDown {
    /// The process that will exit.
    pub pid: u32,
    /// The longest that it waits for running requests.
    pub drain_seconds: u64,
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
