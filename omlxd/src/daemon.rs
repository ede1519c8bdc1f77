//! The daemon's life: start, wait for a signal, drain, stop.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use omlxctl::protocol::{ChangedKey, ConfigCheck, CrashNote, RunInfo};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::auth::Keys;
use crate::config::{Applies, Config, KEYS, Loaded, Problem, Setting};
use crate::crash::{self, StepFile};
use crate::exit::Exit;
use crate::home::{self, Home, HomeError, Lock};
use crate::http::{Tls, TlsError};
use crate::key_file::{self, KeyError, Known};
use crate::logging::{self, LogHandle};
use crate::options::Options;
use crate::{admin, http, response_store, watchdog};

/// The daemon's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Files and sockets that a process may have open: launchd allows 256, far too few, and macOS
/// refuses to go beyond 10240.
const OPEN_FILES: u64 = 10_240;

/// After the drain: how long connections and the engine have to let go.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// And then: how long the cache may still write what it holds in memory.
const CACHE_GRACE: Duration = Duration::from_secs(5);

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("{}", lines(.0))]
    Config(Vec<Problem>),
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error("cannot listen on {address}: {}", address_reason(source))]
    Address { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot {what}")]
    Io { what: &'static str, source: io::Error },
}

impl StartError {
    /// What a service manager is told.
    fn exit(&self) -> Exit {
        match self {
            StartError::Config(_) => Exit::Config,
            StartError::Address { .. } => Exit::Address,
            StartError::Home(HomeError::Running { .. }) => Exit::AlreadyRunning,
            StartError::Home(
                HomeError::Owner { .. } | HomeError::OpenDir { .. } | HomeError::OpenKey { .. },
            )
            | StartError::Tls(TlsError::OpenKey { .. }) => Exit::Permission,
            StartError::Tls(_) => Exit::Config,
            // Not to be written is to have the wrong mode, too.
            StartError::Home(HomeError::Io { source, .. })
                if matches!(
                    source.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                Exit::Permission
            }
            StartError::Home(_) | StartError::Io { .. } => Exit::Failed,
        }
    }
}

/// Runs the daemon until it is told to stop.
pub fn run(options: Options) -> Exit {
    start(options).unwrap_or_else(|error| {
        let exit = error.exit();
        print_error(&error);
        exit
    })
}

/// Prints every problem of the configuration.
pub fn check_config(options: &Options) -> Exit {
    let loaded =
        options.home().map_err(|source| StartError::Io { what: "find the base directory", source });
    let checked = loaded.and_then(|home| {
        let server = options.load(&home).map_err(StartError::Config)?.config.server;
        Ok((options.config_file(&home), SocketAddr::new(server.host, server.port)))
    });
    match checked {
        // When nobody reads standard output, the exit code still tells.
        Ok((file, address)) => {
            let file = file.display();
            let _ = writeln!(io::stdout(), "{file}: no problems; omlxd serves on {address}");
            Exit::Ok
        }
        Err(error) => {
            print_error(&error);
            error.exit()
        }
    }
}

/// Configuration, base directory, log, lock, limits, key; then everything that needs the runtime.
fn start(options: Options) -> Result<Exit, StartError> {
    let io_error = |what| move |source| StartError::Io { what, source };
    let home = options.home().map_err(io_error("find the base directory"))?;
    let notes = home.prepare()?;
    let loaded = options.load(&home).map_err(StartError::Config)?;
    let log = logging::start(&loaded.config.log, Some(&home.logs()));
    for note in notes {
        tracing::info!("{note}");
    }
    let lock = home.lock()?;
    let crash = crash::begin(&home, lock.left_by());
    raise_open_files();
    let keys = open_keys(&loaded.config)?;

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads())
        .thread_name("omlxd-io")
        .enable_all()
        .build()
        .map_err(io_error("start the runtime"))?;
    let ended = runtime.block_on(serve(options, home, loaded, log, keys, &lock, crash));
    if matches!(ended, Ok(Exit::Engine)) {
        // It stays behind as after any crash: the next start makes a note of what this run did.
        std::mem::forget(lock);
    }
    // Nothing that still runs (a request that outlived the drain) may hold the process.
    runtime.shutdown_background();
    ended
}

/// Binds, says where, serves until a signal or the admin socket says stop, drains.
async fn serve(
    options: Options,
    home: Home,
    loaded: Loaded,
    log: LogHandle,
    keys: Keys,
    lock: &Lock,
    crash: Option<CrashNote>,
) -> Result<Exit, StartError> {
    let io_error = |what| move |source| StartError::Io { what, source };
    let mut signals = Signals::listen().map_err(io_error("listen for signals"))?;
    let config = Arc::new(loaded.config.clone());
    let address = SocketAddr::new(config.server.host, config.server.port);
    let tls = match (&config.server.tls_cert.0, &config.server.tls_key.0) {
        (Some(certificate), Some(key)) => Some(Arc::new(Tls::open(certificate, key)?)),
        _ => None,
    };
    let tcp = TcpListener::bind(address).await;
    let tcp = tcp.map_err(|source| StartError::Address { address, source })?;
    let http = tcp.local_addr().map_err(|source| StartError::Address { address, source })?;
    let app = App::noting_steps(config, keys, VERSION, StepFile::create(&home))
        .map_err(io_error("start the engine"))?;
    let app = Arc::new(app);

    let socket = lock.bind_socket()?;
    let daemon = Arc::new(Daemon {
        app: app.clone(),
        home: home.clone(),
        http,
        options,
        effective: Mutex::new(loaded),
        log,
        crash,
        tls: tls.clone(),
    });
    let admin_stop = CancellationToken::new();
    let admin = admin::serve(daemon.clone(), socket, admin_stop.clone());
    let admin = tokio::spawn(admin.map_err(io_error("serve the admin socket"))?);
    if !http.ip().is_loopback() && tls.is_none() {
        tracing::warn!(
            "other machines reach this address, and keys and prompts cross the network in the clear: set \
             server.tls_cert and server.tls_key"
        );
    }
    let serving = tokio::spawn(http::serve_with(app.clone(), tcp, tls));
    lock.write_run_info(&RunInfo {
        pid: std::process::id(),
        version: VERSION.to_owned(),
        http: http.to_string(),
        socket: home.socket(),
    })?;
    tracing::info!(version = VERSION, http = %http, socket = %home.socket().display(), "ready");

    tokio::spawn(watchdog::watch(app.engine.clone(), app.shutdown.clone()));
    tokio::spawn(response_store::keep_swept(app.responses.clone(), app.shutdown.clone()));
    let registry = app.registry.clone();
    tokio::task::spawn_blocking(move || registry.sweep());
    let registry = app.registry.clone();
    tokio::spawn(async move { registry.preload().await });

    let exit = match daemon.wait(&mut signals).await {
        Stop::Asked(cause) => {
            tracing::info!(cause, "stopping: no new requests, running ones may finish");
            Exit::Ok
        }
        Stop::EngineFailed(panic) => {
            tracing::error!(
                panic,
                "stopping with exit code {}: the engine's thread ended by a panic; what ran has failed",
                Exit::Engine as u8
            );
            Exit::Engine
        }
    };
    app.shutdown.cancel();
    let limit = app.config.server.drain + STOP_GRACE;
    let ending = async {
        let drained = async {
            let _ = serving.await;
            admin_stop.cancel();
            let _ = admin.await;
            app.engine.stop();
            let engine = app.engine.clone();
            let _ = tokio::task::spawn_blocking(move || engine.join()).await;
        };
        match tokio::time::timeout(limit, drained).await {
            Ok(()) => tracing::info!("stopped"),
            Err(_) => tracing::warn!("stopped; what still ran after the drain was cut"),
        }
        if let Some(store) = app.cache.store.clone() {
            let written = tokio::task::spawn_blocking(move || store.flush(CACHE_GRACE)).await;
            if !written.unwrap_or(false) {
                tracing::warn!("the cache had more to write than {CACHE_GRACE:?} allow");
            }
        }
    };
    tokio::select! {
        () = ending => Ok(exit),
        () = signals.stop() => {
            tracing::warn!("stopped at once by a second signal");
            // Whoever drops the last handle would wait for the engine. What the cache has not
            // written is computed again.
            std::mem::forget(app);
            Ok(Exit::Interrupted)
        }
    }
}

/// Why the daemon stops.
#[derive(Debug)]
enum Stop {
    /// By a signal or a command, which this names.
    Asked(&'static str),
    /// The engine's thread ended by this panic.
    EngineFailed(String),
}

/// The running daemon, as signals and the admin socket see it.
pub struct Daemon {
    /// What answers requests.
    pub app: Arc<App>,
    /// Its base directory.
    pub home: Home,
    /// The address that the HTTP API is bound to.
    pub http: SocketAddr,
    /// How the run before ended, when it did not end by itself.
    pub crash: Option<CrashNote>,
    options: Options,
    effective: Mutex<Loaded>,
    log: LogHandle,
    tls: Option<Arc<Tls>>,
}

impl Daemon {
    /// Waits for a reason to stop, and says which. Reloads on SIGHUP meanwhile.
    async fn wait(&self, signals: &mut Signals) -> Stop {
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return Stop::Asked("SIGTERM"),
                _ = signals.interrupt.recv() => return Stop::Asked("SIGINT"),
                () = self.app.shutdown.cancelled() => return Stop::Asked("omlxctl shutdown"),
                panic = self.app.engine.failed() => return Stop::EngineFailed(panic),
                _ = signals.hangup.recv() => self.reload(),
            }
        }
    }

    /// The values in effect and where they came from.
    pub fn effective(&self) -> MutexGuard<'_, Loaded> {
        // Whoever panicked with the lock held left whole values behind: each is one assignment.
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
        // What models have of their own stands behind the keys of the table.
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

fn open_keys(config: &Config) -> Result<Keys, StartError> {
    if read_key(config)?.is_none() {
        return Ok(Keys::disabled());
    }
    Keys::from_file(&config.auth.key_file)
        .map_err(|source| StartError::Io { what: "read the API key", source })
}

fn read_key(config: &Config) -> Result<Option<String>, HomeError> {
    config.auth.enabled.then(|| home::api_key(&config.auth.key_file)).transpose()
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// HTTP and tokenizing need a few threads; the models have a thread of their own.
fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8))
}

fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(OPEN_FILES, |maximum| maximum.min(OPEN_FILES));
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays at {:?}", limit.current);
    }
}

fn address_reason(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "the port is in use; stop what uses it, or choose another with --port (0 picks a free one)"
                .to_owned()
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address; choose another with --host".to_owned()
        }
        _ => source.to_string(),
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

/// One line (a line each for problems of the configuration), before or instead of the log.
fn print_error(error: &StartError) {
    // When standard error is gone, the exit code still tells.
    let _ = match error {
        StartError::Config(_) => writeln!(io::stderr(), "{error}"),
        StartError::Address { .. } => writeln!(io::stderr(), "omlxd: {error}"),
        _ => writeln!(io::stderr(), "omlxd: {}", Chain(error)),
    };
}

/// An error and what caused it, in one line.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        std::iter::successors(self.0.source(), |cause| cause.source())
            .try_for_each(|cause| write!(f, ": {cause}"))
    }
}

#[cfg(test)]
mod tests;
