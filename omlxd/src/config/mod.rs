//! Configuration: one table of keys, from which come the typed [`Config`], its defaults, the
//! commented `config.toml` of a first start, `docs/configuration.md` and every error.
//!
//! Values come from, in order of precedence: a command line flag, an environment variable
//! (`OMLX_<SECTION>_<KEY>`), the file, the default. [`load`] keeps where each one came from.

mod load;
mod per_model;
mod render;
mod value;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use load::{FileText, Flag, Loaded, Origin, Problem, Setting, Sources, load};
pub use per_model::{MODEL_KEYS, ModelKey, ModelSettings};
pub use render::{default_file, reference};
pub use value::{
    AutoTime, ComputeDtype, FromToml, KeepaliveMode, LogFormat, LogLevel, MaybeFile, Raw, Size,
};

use value::{at_least, between, literal};

/// When a changed value takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applies {
    /// At the next start.
    Restart,
    /// At once, on SIGHUP.
    Reload,
}

/// One row of the key table.
pub struct Key {
    /// The section's name, without brackets.
    pub section: &'static str,
    /// The key's name inside its section.
    pub name: &'static str,
    /// The default as it would stand in config.toml.
    pub default: &'static str,
    /// What kind of value it takes, in a few words.
    pub kind: &'static str,
    /// What it does, a line each.
    pub doc: &'static [&'static str],
    /// When a change takes effect.
    pub applies: Applies,
    /// Checks a value and puts it into its field.
    pub(crate) set: fn(&mut Config, &Raw<'_>) -> Result<(), String>,
}

impl Key {
    /// `section.name`.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The environment variable that sets it.
    pub fn env(&self) -> String {
        format!("OMLX_{}_{}", self.section, self.name).to_uppercase()
    }
}

/// A section of the file.
pub struct Section {
    /// Its name, without brackets.
    pub name: &'static str,
    /// What it is about, a line each.
    pub doc: &'static [&'static str],
}

/// Writes the structs, their defaults and the table from one list.
macro_rules! config {
    ($(
        $(#[doc = $section_doc:literal])+
        $section:ident: $Section:ident {
            $(
                $(#[doc = $doc:literal])+
                $key:ident: $ty:ty = $default:tt $(, $check:expr)?; $applies:ident
            )+
        }
    )+) => {
        $(
            $(#[doc = $section_doc])+
            #[derive(Debug, Clone, PartialEq)]
            pub struct $Section {
                $( $(#[doc = $doc])+ pub $key: $ty, )+
            }

            impl Default for $Section {
                fn default() -> Self {
                    $Section { $( $key: literal::<$ty>(stringify!($default)), )+ }
                }
            }
        )+

        /// Every setting, typed. `Default` holds the documented defaults and an empty base
        /// directory.
        #[derive(Debug, Clone, PartialEq, Default)]
        pub struct Config {
            /// The base directory, absolute. Not a key: it is where the file lies.
            pub base_dir: PathBuf,
            /// `[models."<id>"]`, by model id.
            pub per_model: BTreeMap<String, ModelSettings>,
            $( $(#[doc = $section_doc])+ pub $section: $Section, )+
        }

        /// The sections in the order of the file.
        pub const SECTIONS: &[Section] = &[
            $( Section { name: stringify!($section), doc: &[$($section_doc),+] }, )+
        ];

        /// Every key in the order of the file.
        pub const KEYS: &[Key] = &[
            $( $( Key {
                section: stringify!($section),
                name: stringify!($key),
                default: stringify!($default),
                kind: <$ty as FromToml>::KIND,
                doc: &[$($doc),+],
                applies: Applies::$applies,
                set: |config, raw| {
                    let value = <$ty as FromToml>::from_toml(raw)?;
                    $( $check(&value)?; )?
                    config.$section.$key = value;
                    Ok(())
                },
            }, )+ )+
        ];
    };
}

config! {
    /// The HTTP API.
    server: Server {
        /// Address to listen on. An address other than loopback needs auth.enabled = true.
        host: IpAddr = "127.0.0.1"; Restart
        /// Port to listen on; 0 picks a free one (see run/omlxd.json for which).
        port: u16 = 1337; Restart
        /// How often a waiting stream says that it is alive; "off" for never.
        keepalive: Option<Duration> = "10s", at_least_if_on(Duration::from_millis(10)); Restart
        /// What it then sends: an SSE "comment", an empty "chunk", or nothing ("off").
        keepalive_mode: KeepaliveMode = "comment"; Restart
        /// Refuse unknown request fields instead of ignoring them.
        strict: bool = false; Restart
        /// Keep answers of /v1/responses on disk for requests that go on from one by its id
        /// (previous_response_id) or fetch it. They hold what was asked and answered, in clear text,
        /// for this user alone (responses/ in the base directory). A request with "store": false is
        /// never kept.
        store_responses: bool = true; Restart
        /// Most disk space for those answers; the longest unused are removed first.
        responses_quota: u64 = "256MiB", between(1 << 20, 1 << 40); Restart
        /// An answer that nobody went on from in this time is removed.
        responses_ttl: Duration = "24h", at_least(Duration::from_secs(1)); Restart
        /// Longest pause while a request is being read.
        request_read_timeout: Duration = "30s", at_least(Duration::from_millis(10)); Restart
        /// Longest time a client may leave what it was sent unread before its request is cancelled.
        write_timeout: Duration = "30s", at_least(Duration::from_millis(10)); Restart
        /// Longest wait for running requests at shutdown.
        drain: Duration = "20s"; Restart
        /// Most connections open at once; one more is answered 503 and closed.
        max_connections: usize = 512, between(1, 65_536); Restart
        /// File with the certificate and its chain, in PEM: with it other machines are answered by TLS
        /// only. SIGHUP reads it and its key again.
        tls_cert: MaybeFile = "none"; Restart
        /// File with the certificate's private key, in PEM (mode 0600).
        tls_key: MaybeFile = "none"; Restart
        /// Keep a Mac from falling asleep for being idle while there is something to compute.
        keep_awake: bool = true; Restart
        /// Browser origins that may call the API, such as `https://chat.example`. Empty: none.
        cors_origins: Vec<String> = []; Restart
    }
    /// API keys.
    auth: Auth {
        /// Ask for a key on every request. May be false on a loopback address only.
        enabled: bool = true; Restart
        /// File with the key (mode 0600), relative to the base directory.
        key_file: PathBuf = "api-key"; Restart
    }
    /// Where models are and how they are kept.
    models: Models {
        /// More folders with models, searched after the base directory's own models/.
        dirs: Vec<PathBuf> = []; Restart
        /// Model that "omlxctl chat" talks to when none is named; "auto" takes a loaded one, else
        /// the first by name.
        default: Option<String> = "auto"; Restart
        /// Unload a model after this long without a request; "off" keeps it.
        idle_ttl: Option<Duration> = "off"; Restart
        /// Longest that a request waits for its model to be loaded, and for other models to make
        /// room for it.
        max_wait: Duration = "5m", at_least(Duration::from_millis(10)); Restart
        /// Arithmetic type: "auto" takes what suits the machine, "stored" the checkpoint's own.
        compute_dtype: ComputeDtype = "auto"; Restart
    }
    /// The memory budget.
    memory: Memory {
        /// Most memory for models: a size, or a share of the machine's. "auto" is three quarters.
        budget: Size = "auto"; Restart
    }
    /// The KV cache in memory and on SSD.
    cache: Cache {
        /// Keep the KV of finished prompts for requests that begin alike.
        enabled: bool = true; Restart
        /// Tokens in one block.
        block_tokens: usize = 256, between(16, 4096); Restart
        /// Memory for stored blocks, the cache's first tier: a size, or a share of the machine's.
        /// "auto" is a sixteenth.
        ram_budget: Size = "auto"; Restart
        /// Memory for the caches of finished turns, which the next turn continues without reading
        /// anything: a size, or a share of the machine's. "auto" is an eighth, 0 keeps none.
        live_budget: Size = "auto"; Restart
        /// Folder of the second tier; "auto" is cache/kv in the base directory.
        ssd_dir: Option<PathBuf> = "auto"; Restart
        /// Most that the second tier may hold: a size, or a share of the disk. "auto" is a quarter
        /// of what is free, at most 200 GiB.
        ssd_quota: Size = "auto"; Restart
        /// Free disk space that the second tier leaves alone.
        ssd_min_free: Size = "10GiB"; Restart
        /// Most bytes written in a day, which spares the SSD; "auto" is as much as the
        /// quota.
        ssd_write_budget_per_day: Size = "auto"; Restart
        /// Remove a block from the second tier when no prompt has used it for this long; "off" keeps
        /// it until its room is needed.
        max_idle: Option<Duration> = "off", at_least_if_on(Duration::from_secs(3600)); Restart
        /// Encrypt the second tier with a key of this machine (cache-key in the base directory, mode
        /// 0600). Blocks are then copied and decrypted instead of mapped. Changing it makes the blocks
        /// that are stored unusable; they go as room is needed.
        encrypt: bool = false; Restart
    }
    /// How requests share the machine.
    scheduler: Scheduler {
        /// Most requests that generate at once.
        max_batch: usize = 8, between(1, 256); Restart
        /// Prompt tokens run at a time, between other requests' tokens.
        prefill_chunk: usize = 256, between(1, 65_536); Restart
        /// Longest step while answers are being generated and a prompt is computed beside them;
        /// "auto" allows twice the time of a step without a prompt, and up to 250 ms where that would
        /// hold the prompt below 50 tokens a second.
        decode_stall: AutoTime = "auto"; Restart
        /// Most requests that wait beyond `max_batch`; one more is answered 503.
        max_queue: usize = 256, between(1, 65_536); Restart
        /// Percent of the time that the engine computes while it has something to; the rest is left
        /// to other programs.
        duty_percent: usize = 100, between(5, 100); Restart
    }
    /// What one request may ask for.
    limits: Limits {
        /// Largest request body.
        max_body: u64 = "64MiB", between(1024, 1 << 32); Restart
        /// Largest request head (request line and headers).
        max_header: u64 = "64KiB", between(8192, 1 << 20); Restart
        /// Most requests of one API key at a time; one more is answered 429.
        max_requests_per_key: usize = 64, between(1, 65_536); Restart
        /// Longest time from a request's arrival to the end of its answer; "off" sets no limit.
        request_deadline: Option<Duration> = "off"; Restart
        /// Most choices ("n") for one prompt.
        max_choices: usize = 8, between(1, 128); Restart
        /// Most stop strings.
        max_stop: usize = 4, between(1, 128); Restart
    }
    /// Logs, which go to standard error and to logs/omlxd.log. They never hold prompts, answers or
    /// keys.
    log: Log {
        /// On standard error: "text", "json", or "auto", text on a terminal and JSON otherwise. The
        /// file has JSON.
        format: LogFormat = "auto"; Restart
        /// "error", "warn", "info", "debug" or "trace".
        level: LogLevel = "info"; Reload
        /// Size at which logs/omlxd.log becomes logs/omlxd.log.1, of which there is one.
        max_size: u64 = "16MiB", between(4096, 1 << 40); Restart
        /// Log to standard error too. A service manager that keeps it in a file of its own has no use
        /// for that: only what ends the process is written there all the same.
        stderr: bool = true; Restart
        /// Warnings and errors to the system's log too: macOS's unified log, syslog elsewhere.
        system: bool = false; Restart
    }
}

/// As [`at_least`], for a time that may be "off".
fn at_least_if_on(min: Duration) -> impl Fn(&Option<Duration>) -> Result<(), String> {
    move |value| value.as_ref().map_or(Ok(()), |on| at_least(min)(on))
}

impl Config {
    /// The folders searched for models, in order: the base directory's own, then `models.dirs`.
    pub fn model_dirs(&self) -> Vec<PathBuf> {
        let own = self.base_dir.join("models");
        std::iter::once(own).chain(self.models.dirs.iter().cloned()).collect()
    }

    /// Makes relative paths absolute against the base directory.
    fn anchor_paths(&mut self) {
        let base = self.base_dir.clone();
        let ssd_dir = self.cache.ssd_dir.iter_mut();
        let tls = [&mut self.server.tls_cert, &mut self.server.tls_key];
        let tls = tls.into_iter().filter_map(|file| file.0.as_mut());
        let dirs = self.models.dirs.iter_mut();
        for path in dirs.chain([&mut self.auth.key_file]).chain(ssd_dir).chain(tls) {
            *path = base.join(&*path);
        }
    }

    /// What no single key can check. Each problem names the key to change.
    fn check_together(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        if !self.server.host.is_loopback() && !self.auth.enabled {
            problems.push((
                "server.host".to_owned(),
                format!(
                    "{} can be reached from other machines, so an API key is needed: set \
                     auth.enabled = true, or use 127.0.0.1",
                    self.server.host
                ),
            ));
        }
        let (cert, key) = (self.server.tls_cert.0.is_some(), self.server.tls_key.0.is_some());
        if cert != key {
            let (has, lacks) = if cert { ("cert", "key") } else { ("key", "cert") };
            let message = format!("server.tls_{has} needs server.tls_{lacks} as well");
            problems.push((format!("server.tls_{has}"), message));
        }
        let holds_base = |dir: &&PathBuf| {
            let real = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
            real(&self.base_dir).starts_with(real(dir))
        };
        if let Some(dir) = self.cache.ssd_dir.as_ref().filter(holds_base) {
            let dir = dir.display();
            let message =
                format!("{dir} holds the base directory: the cache needs a folder of its own");
            problems.push(("cache.ssd_dir".to_owned(), message));
        }
        let of_models = per_model::check_together(&self.per_model).into_iter();
        problems.extend(of_models.map(|(id, message)| (per_model::path(id, "alias"), message)));
        problems
    }
}

#[cfg(test)]
mod tests;
