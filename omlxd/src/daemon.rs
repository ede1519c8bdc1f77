//! The running daemon: its configuration in effect, its keys, and how both are reloaded.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use omlxctl::protocol::{ChangedKey, ConfigCheck, CrashNote};

use crate::app::App;
use crate::config::{Applies, Config, KEYS, Loaded, Problem, Setting};
use crate::error_chain::Chain;
use crate::home::{self, Home, HomeError};
use crate::http::Tls;
use crate::key_file::{self, KeyError, Known};
use crate::logging::LogHandle;
use crate::options::Options;

/// The daemon's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What is read before the servers start.
pub(crate) struct Startup {
    /// The command line.
    pub(crate) options: Options,
    /// The base directory.
    pub(crate) home: Home,
    /// The configuration and where each value came from.
    pub(crate) loaded: Loaded,
    /// Sets the log's level and reopens its file.
    pub(crate) log: LogHandle,
    /// How the previous run ended, when it crashed.
    pub(crate) crash: Option<CrashNote>,
}

/// The running daemon, as signals and the admin socket see it.
pub struct Daemon {
    /// What answers requests.
    pub app: Arc<App>,
    /// Its base directory.
    pub home: Home,
    /// The address that the HTTP API is bound to.
    pub http: SocketAddr,
    /// How the previous run ended, when it crashed.
    pub crash: Option<CrashNote>,
    options: Options,
    effective: Mutex<Loaded>,
    log: LogHandle,
    tls: Option<Arc<Tls>>,
}

impl Daemon {
    /// The daemon that serves on the address `http`.
    pub(crate) fn new(
        app: Arc<App>,
        http: SocketAddr,
        tls: Option<Arc<Tls>>,
        startup: Startup,
    ) -> Self {
        let Startup { options, home, loaded, log, crash } = startup;
        Daemon { app, home, http, crash, options, effective: Mutex::new(loaded), log, tls }
    }

    /// The values in effect and where they came from.
    pub fn effective(&self) -> MutexGuard<'_, Loaded> {
        // A panic with the lock held leaves no half-changed value: each change is one assignment.
        self.effective.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.options.config_file(&self.home)
    }

    /// Reads the configuration and the key again, and applies what can change while running. What
    /// has problems changes nothing.
    pub fn reload(&self) {
        let loaded = match self.options.load(&self.home) {
            Ok(loaded) => loaded,
            Err(problems) => {
                for problem in problems {
                    tracing::error!("{problem}");
                }
                tracing::error!("the configuration has problems: nothing was reloaded");
                return;
            }
        };
        if let Err(error) = self.reload_key() {
            tracing::error!(error = %Chain(&error), "the API key was not reloaded");
        }
        if let Some(Err(error)) = self.tls.as_ref().map(|tls| tls.reload()) {
            tracing::error!(error = %Chain(&error), "the TLS certificate was not reloaded");
        }
        for changed in self.changed(&loaded) {
            let applied = if changed.needs_restart { "at the next start" } else { "now" };
            tracing::info!(key = changed.key, "changed; takes effect {applied}");
        }
        let mut effective = self.effective();
        effective.config.log.level = loaded.config.log.level;
        self.log.set(loaded.config.log.level);
        self.log.reopen();
        let reloadable = KEYS.iter().zip(effective.settings.iter_mut().zip(loaded.settings));
        for (_, (now, new)) in reloadable.filter(|(key, _)| key.applies == Applies::Reload) {
            *now = new;
        }
        tracing::info!("reloaded");
    }

    /// Whether the configuration holds as it is now, and what differs from what is in effect.
    pub fn check_config(&self) -> ConfigCheck {
        let file = self.config_file();
        match self.options.load(&self.home) {
            Ok(loaded) => {
                ConfigCheck { file, problems: Vec::new(), changed: self.changed(&loaded) }
            }
            Err(problems) => {
                let problems = problems.iter().map(Problem::to_string).collect();
                ConfigCheck { file, problems, changed: Vec::new() }
            }
        }
    }

    fn changed(&self, loaded: &Loaded) -> Vec<ChangedKey> {
        let effective = self.effective();
        let pairs = KEYS.iter().zip(effective.settings.iter().zip(&loaded.settings));
        let changed = pairs.filter(|(_, (now, new))| now.value != new.value);
        let changed = changed.map(|(key, (now, _))| ChangedKey {
            key: now.key.clone(),
            needs_restart: key.applies != Applies::Reload,
        });
        // Settings of single models follow the keys of the table.
        let (now, new) = (&effective.settings[KEYS.len()..], &loaded.settings[KEYS.len()..]);
        let lacks = |all: &[Setting], one: &Setting| {
            !all.iter().any(|other| (&other.key, &other.value) == (&one.key, &one.value))
        };
        let gone = now.iter().filter(|one| lacks(new, one));
        let come = new.iter().filter(|one| lacks(now, one));
        let own: BTreeSet<&String> = gone.chain(come).map(|setting| &setting.key).collect();
        let own = own.into_iter().map(|key| ChangedKey { key: key.clone(), needs_restart: true });
        changed.chain(own).collect()
    }

    /// Takes the key file as it is now, unless it cannot be used.
    fn reload_key(&self) -> Result<(), HomeError> {
        read_key(&self.app.config)?;
        let path = &self.app.config.auth.key_file;
        let what = "read";
        self.app.keys.reload().map_err(|source| HomeError::Io { what, path: path.clone(), source })
    }

    /// The API key, or none when the API asks for none.
    ///
    /// # Errors
    /// When its file cannot be used.
    pub fn key(&self) -> Result<Option<String>, HomeError> {
        read_key(&self.app.config)
    }

    /// Replaces the API key. The old one is refused from now on.
    ///
    /// # Errors
    /// When its file cannot be written; the old key then stays.
    pub fn rotate_key(&self) -> Result<Option<String>, HomeError> {
        if !self.app.config.auth.enabled {
            return Ok(None);
        }
        let key = home::rotate_key(&self.app.config.auth.key_file)?;
        self.reload_key()?;
        tracing::info!("the API key was replaced");
        Ok(Some(key))
    }

    /// The keys' names and ends; none when the API asks for none.
    pub(crate) fn keys(&self) -> Result<Vec<Known>, KeyError> {
        let auth = &self.app.config.auth;
        if auth.enabled { key_file::list(&auth.key_file) } else { Ok(Vec::new()) }
    }

    /// Makes another key, which is good from now on.
    pub(crate) fn add_key(&self, name: &str) -> Result<String, KeyError> {
        let key = key_file::add(&self.app.config.auth.key_file, name)?;
        self.reload_key()?;
        tracing::info!(name, "an API key was added");
        Ok(key)
    }

    /// Removes a key, which is refused from now on.
    pub(crate) fn revoke_key(&self, which: &str) -> Result<Known, KeyError> {
        let known = key_file::revoke(&self.app.config.auth.key_file, which)?;
        self.reload_key()?;
        tracing::info!(name = known.name, "an API key was revoked");
        Ok(known)
    }
}

/// The API key, or none when the API asks for none.
pub(crate) fn read_key(config: &Config) -> Result<Option<String>, HomeError> {
    config.auth.enabled.then(|| home::api_key(&config.auth.key_file)).transpose()
}
