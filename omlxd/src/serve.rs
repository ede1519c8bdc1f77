//! One run of the daemon: configure, bind, serve, wait for a reason to stop, drain.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use omlxctl::protocol::RunInfo;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::auth::Keys;
use crate::config::Config;
use crate::crash::{self, StepFile};
use crate::daemon::{self, Daemon, Startup, VERSION};
use crate::exit::Exit;
use crate::home::Lock;
use crate::http::Tls;
use crate::options::Options;
use crate::signals::Signals;
use crate::start_error::StartError;
use crate::{admin, logging, response_store, server, watchdog};

/// Number of open files and sockets that the process asks for. launchd's default of 256 is too
/// low, and macOS refuses more than 10240.
const OPEN_FILES: u64 = 10_240;

/// Time for connections and the engine to end after the drain.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Time after that for the cache to write what it holds in memory.
const CACHE_GRACE: Duration = Duration::from_secs(5);

/// Runs the daemon until a signal, `omlxctl shutdown` or a panic of the engine ends it.
pub fn run(options: Options) -> Exit {
    start(options).unwrap_or_else(|error| {
        error.print();
        error.exit()
    })
}

/// Prints every problem of the configuration.
pub fn check_config(options: &Options) -> Exit {
    let home =
        options.home().map_err(|source| StartError::Io { what: "find the base directory", source });
    let checked = home.and_then(|home| {
        let server = options.load(&home).map_err(StartError::Config)?.config.server;
        Ok((options.config_file(&home), SocketAddr::new(server.host, server.port)))
    });
    match checked {
        Ok((file, address)) => {
            let file = file.display();
            // When standard output is closed, the exit code still gives the result.
            let _ = writeln!(io::stdout(), "{file}: no problems; omlxd serves on {address}");
            Exit::Ok
        }
        Err(error) => {
            error.print();
            error.exit()
        }
    }
}

/// Does what needs no runtime (configuration, base directory, log, lock, limits, keys), then
/// serves on a runtime.
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
    let startup = Startup { options, home, loaded, log, crash };
    let ended = runtime.block_on(serve(startup, keys, &lock));
    if matches!(ended, Ok(Exit::Engine)) {
        // The lock file stays as after a crash, so that the next start writes a crash note.
        std::mem::forget(lock);
    }
    // A request that outlived the drain must not hold the process.
    runtime.shutdown_background();
    ended
}

/// Binds the address, starts the engine and both servers, waits for a reason to stop, drains.
async fn serve(startup: Startup, keys: Keys, lock: &Lock) -> Result<Exit, StartError> {
    let io_error = |what| move |source| StartError::Io { what, source };
    let mut signals = Signals::listen().map_err(io_error("listen for signals"))?;
    let config = Arc::new(startup.loaded.config.clone());
    let tls = open_tls(&config)?;
    let (tcp, http) = bind(&config).await?;
    let steps = StepFile::create(&startup.home);
    let app = App::noting_steps(config, keys, VERSION, steps);
    let app = Arc::new(app.map_err(io_error("start the engine"))?);

    let socket = lock.bind_socket()?;
    let daemon = Arc::new(Daemon::new(app.clone(), http, tls.clone(), startup));
    let admin_stop = CancellationToken::new();
    let admin = admin::serve(daemon.clone(), socket, admin_stop.clone());
    let admin = tokio::spawn(admin.map_err(io_error("serve the admin socket"))?);
    let serving = tokio::spawn(server::serve_with(app.clone(), tcp, tls));
    lock.write_run_info(&RunInfo {
        pid: std::process::id(),
        version: VERSION.to_owned(),
        http: http.to_string(),
        socket: daemon.home.socket(),
    })?;
    let socket = daemon.home.socket();
    tracing::info!(version = VERSION, http = %http, socket = %socket.display(), "ready");
    start_background_tasks(&app);

    let exit = wait_for_stop(&daemon, &mut signals).await;
    app.shutdown.cancel();
    tokio::select! {
        () = drain(&app, serving, admin, admin_stop) => Ok(exit),
        () = signals.stop() => {
            tracing::warn!("stopped at once by a second signal");
            // Dropping the last handle would wait for the engine. The KV that the cache has not
            // written is computed again.
            std::mem::forget(app);
            Ok(Exit::Interrupted)
        }
    }
}

/// The certificate and its key, when the configuration names them.
fn open_tls(config: &Config) -> Result<Option<Arc<Tls>>, StartError> {
    match (&config.server.tls_cert.0, &config.server.tls_key.0) {
        (Some(certificate), Some(key)) => Ok(Some(Arc::new(Tls::open(certificate, key)?))),
        _ => Ok(None),
    }
}

/// Listens on the configured address. Returns the address with the port that was bound.
async fn bind(config: &Config) -> Result<(TcpListener, SocketAddr), StartError> {
    let address = SocketAddr::new(config.server.host, config.server.port);
    let refused = |source| StartError::Address { address, source };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    if !bound.ip().is_loopback() && config.server.tls_cert.0.is_none() {
        tracing::warn!(
            "other machines can reach this address, and keys and prompts cross the network unencrypted: \
             set server.tls_cert and server.tls_key"
        );
    }
    Ok((listener, bound))
}

/// Starts the watchdog, the sweep of stored responses, the sweep of models that are being removed
/// and the loading of pinned models. None of them holds up the API.
fn start_background_tasks(app: &Arc<App>) {
    tokio::spawn(watchdog::watch(app.engine.clone(), app.shutdown.clone()));
    tokio::spawn(response_store::keep_swept(app.responses.clone(), app.shutdown.clone()));
    let registry = app.registry.clone();
    tokio::task::spawn_blocking(move || registry.sweep());
    let registry = app.registry.clone();
    tokio::spawn(async move { registry.preload().await });
}

/// Waits for a reason to stop, logs it and returns the exit code. SIGHUP reloads meanwhile.
async fn wait_for_stop(daemon: &Daemon, signals: &mut Signals) -> Exit {
    let cause = loop {
        tokio::select! {
            _ = signals.terminate.recv() => break "SIGTERM",
            _ = signals.interrupt.recv() => break "SIGINT",
            () = daemon.app.shutdown.cancelled() => break "omlxctl shutdown",
            panic = daemon.app.engine.failed() => {
                tracing::error!(
                    panic,
                    "stopping with exit code {}: the engine's thread panicked; running requests failed",
                    Exit::Engine as u8
                );
                return Exit::Engine;
            }
            _ = signals.hangup.recv() => daemon.reload(),
        }
    };
    tracing::info!(cause, "stopping: no new requests, running ones may finish");
    Exit::Ok
}

/// Lets running requests end within `server.drain`, then stops the admin socket and the engine,
/// then lets the cache write.
async fn drain(
    app: &App,
    serving: JoinHandle<()>,
    admin: JoinHandle<()>,
    admin_stop: CancellationToken,
) {
    let drained = async {
        let _ = serving.await;
        admin_stop.cancel();
        let _ = admin.await;
        app.engine.stop();
        let engine = app.engine.clone();
        let _ = tokio::task::spawn_blocking(move || engine.join()).await;
    };
    match tokio::time::timeout(app.config.server.drain + STOP_GRACE, drained).await {
        Ok(()) => tracing::info!("stopped"),
        Err(_) => tracing::warn!("stopped; requests that still ran after the drain were cut"),
    }
    if let Some(store) = app.cache.store.clone() {
        let written = tokio::task::spawn_blocking(move || store.flush(CACHE_GRACE)).await;
        if !written.unwrap_or(false) {
            tracing::warn!("the cache had more to write than {CACHE_GRACE:?} allow");
        }
    }
}

fn open_keys(config: &Config) -> Result<Keys, StartError> {
    if daemon::read_key(config)?.is_none() {
        return Ok(Keys::disabled());
    }
    Keys::from_file(&config.auth.key_file)
        .map_err(|source| StartError::Io { what: "read the API key", source })
}

/// Threads for HTTP and tokenizing; the models have a thread of their own.
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

#[cfg(test)]
mod tests;
