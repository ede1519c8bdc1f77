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
        /// Port to listen on; 0 picks a free port (run/omlxd.json names it).
        port: u16 = 1337; Restart
        /// Time between keep-alives of a waiting stream; "off" sends none.
        keepalive: Option<Duration> = "10s", at_least_if_on(Duration::from_millis(10)); Restart
        /// What a keep-alive is: an SSE "comment", an empty "chunk", or nothing ("off").
        keepalive_mode: KeepaliveMode = "comment"; Restart
        /// Refuse unknown request fields instead of ignoring them.
        strict: bool = false; Restart
        /// Store answers of /v1/responses, so that requests can continue one (previous_response_id) or
        /// fetch it. They hold prompts and answers in plain text, readable by this user only
        /// (responses/ in the base directory). A request with "store": false is never stored.
        store_responses: bool = true; Restart
        /// Disk space for stored answers; the least recently used are deleted first.
        responses_quota: u64 = "256MiB", between(1 << 20, 1 << 40); Restart
        /// Delete an answer that was not used for this long.
        responses_ttl: Duration = "24h", at_least(Duration::from_secs(1)); Restart
        /// Longest pause while a request is read.
        request_read_timeout: Duration = "30s", at_least(Duration::from_millis(10)); Restart
        /// Cancel a request when its client has read nothing for this long.
        write_timeout: Duration = "30s", at_least(Duration::from_millis(10)); Restart
        /// Time that running requests get to finish at shutdown.
        drain: Duration = "20s"; Restart
        /// Maximum number of open connections; further ones get 503 and are closed.
        max_connections: usize = 512, between(1, 65_536); Restart
        /// PEM file with the TLS certificate and its chain. If set, other machines must use TLS. SIGHUP
        /// reloads it and its key.
        tls_cert: MaybeFile = "none"; Restart
        /// PEM file with the certificate's private key (mode 0600).
        tls_key: MaybeFile = "none"; Restart
        /// Prevent idle sleep of a Mac while there is work to compute.
        keep_awake: bool = true; Restart
        /// Browser origins that may call the API, such as `https://chat.example`. Empty: none.
        cors_origins: Vec<String> = []; Restart
    }
    /// API keys.
    auth: Auth {
        /// Require an API key on every request. Can be false only on a loopback address.
        enabled: bool = true; Restart
        /// File with the key (mode 0600), relative to the base directory.
        key_file: PathBuf = "api-key"; Restart
    }
    /// Where models are and when they are unloaded.
    models: Models {
        /// Additional folders with models, searched after models/ in the base directory.
        dirs: Vec<PathBuf> = []; Restart
        /// Default model of "omlxctl chat"; "auto" uses a loaded model, else the first by name.
        default: Option<String> = "auto"; Restart
        /// Unload a model after this long without a request; "off" keeps it loaded.
        idle_ttl: Option<Duration> = "off"; Restart
        /// Longest time that a request waits for its model to load and for other models to free
        /// memory.
        max_wait: Duration = "5m", at_least(Duration::from_millis(10)); Restart
        /// Data type to compute in: "auto" chooses the fastest for this machine, "stored" uses the
        /// checkpoint's.
        compute_dtype: ComputeDtype = "auto"; Restart
    }
    /// The memory budget.
    memory: Memory {
        /// Memory for everything that omlxd computes with: a size, or a share of the machine's memory.
        /// "auto" is three quarters.
        budget: Size = "auto"; Restart
    }
    /// The KV cache in memory and on SSD.
    cache: Cache {
        /// Keep the KV cache of past prompts for requests that share a prefix.
        enabled: bool = true; Restart
        /// Tokens per block.
        block_tokens: usize = 256, between(16, 4096); Restart
        /// Memory for cached blocks (the RAM tier): a size, or a share of the machine's memory. "auto"
        /// is a sixteenth.
        ram_budget: Size = "auto"; Restart
        /// Memory for live sessions, which the next turn continues without reading anything: a size, or
        /// a share of the machine's memory. "auto" is an eighth; 0 keeps none.
        live_budget: Size = "auto"; Restart
        /// Folder of the SSD tier; "auto" is cache/kv in the base directory.
        ssd_dir: Option<PathBuf> = "auto"; Restart
        /// Maximum size of the SSD tier: a size, or a share of the disk. "auto" is a quarter of the
        /// free space, at most 200 GiB.
        ssd_quota: Size = "auto"; Restart
        /// Free disk space that the SSD tier does not use.
        ssd_min_free: Size = "10GiB"; Restart
        /// Maximum bytes written per day, to limit wear of the SSD; "auto" equals the quota.
        ssd_write_budget_per_day: Size = "auto"; Restart
        /// Delete a block from the SSD tier when no prompt has used it for this long; "off" keeps it
        /// until its space is needed.
        max_idle: Option<Duration> = "off", at_least_if_on(Duration::from_secs(3600)); Restart
        /// Encrypt the SSD tier with a key of this machine (cache-key in the base directory, mode 0600).
        /// Blocks are then copied and decrypted instead of mapped. A change makes the stored blocks
        /// unusable; they are evicted when space is needed.
        encrypt: bool = false; Restart
    }
    /// How requests share the machine.
    scheduler: Scheduler {
        /// Maximum number of requests that generate at once.
        max_batch: usize = 8, between(1, 256); Restart
        /// Prompt tokens computed in one step (prefill chunk) while nothing else decodes.
        prefill_chunk: usize = 256, between(1, 65_536); Restart
        /// Longest step while answers are generated and a prompt is computed beside them. "auto" allows
        /// twice the time of a step without a prompt, and up to 250 ms if the prompt would otherwise
        /// run below 50 tokens a second.
        decode_stall: AutoTime = "auto"; Restart
        /// Maximum number of waiting requests beyond `max_batch`; further ones get 503.
        max_queue: usize = 256, between(1, 65_536); Restart
        /// Percentage of the time that the engine computes while it has work; the rest is left to other
        /// programs.
        duty_percent: usize = 100, between(5, 100); Restart
    }
    /// Limits of a request.
    limits: Limits {
        /// Largest request body.
        max_body: u64 = "64MiB", between(1024, 1 << 32); Restart
        /// Largest request head (request line and headers).
        max_header: u64 = "64KiB", between(8192, 1 << 20); Restart
        /// Maximum number of concurrent requests per API key; further ones get 429.
        max_requests_per_key: usize = 64, between(1, 65_536); Restart
        /// Longest time from a request's arrival to the end of its answer; "off" sets no limit.
        request_deadline: Option<Duration> = "off"; Restart
        /// Maximum number of choices ("n") per prompt.
        max_choices: usize = 8, between(1, 128); Restart
        /// Maximum number of stop strings.
        max_stop: usize = 4, between(1, 128); Restart
    }
    /// Logs, on standard error and in logs/omlxd.log. They never contain prompts, answers or keys.
    log: Log {
        /// Format on standard error: "text", "json", or "auto" (text on a terminal, otherwise JSON). The
        /// file is always JSON.
        format: LogFormat = "auto"; Restart
        /// "error", "warn", "info", "debug" or "trace".
        level: LogLevel = "info"; Reload
        /// Size at which logs/omlxd.log becomes logs/omlxd.log.1 and replaces the previous one.
        max_size: u64 = "16MiB", between(4096, 1 << 40); Restart
        /// Also log to standard error. Turn this off if a service manager keeps standard error in a file:
        /// then only fatal errors go there.
        stderr: bool = true; Restart
        /// Also send warnings and errors to the system's log (macOS's unified log, syslog elsewhere).
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
