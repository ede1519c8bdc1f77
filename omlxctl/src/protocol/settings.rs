//! Keys and configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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
    /// The key. It is shown only once.
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
