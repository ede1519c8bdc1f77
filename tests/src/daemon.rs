//! The real daemon, started from the built binary on a free port with its own base directory.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http::{self, Response};

/// How long the daemon may take to be ready on a busy machine.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// A running daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its API key.
    pub key: String,
}

impl Daemon {
    /// Starts `binary` with the base directory `base` (which it makes), the model directory `models`
    /// and further arguments, and waits until `/readyz` says yes.
    ///
    /// # Errors
    /// When it cannot be started, ends, or is not ready in time. Its log lies beside `base`.
    pub fn start(
        binary: &Path,
        base: &Path,
        models: Option<&Path>,
        arguments: &[&str],
    ) -> io::Result<Self> {
        let log = fs::File::create(log_path(base))?;
        let mut command = Command::new(binary);
        command.arg("serve").arg("--base-dir").arg(base).args(["--port", "0"]).args(arguments);
        if let Some(models) = models {
            command.arg("--model-dir").arg(models);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn()?;
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        // From here on, an error kills the child.
        let mut daemon = Self { child, address: unknown, key: String::new() };
        let deadline = Instant::now() + START_PATIENCE;
        while !daemon.is_ready(base) {
            if let Some(status) = daemon.child.try_wait()? {
                return Err(io::Error::other(format!("omlxd ended: {status}: {}", log_of(base))));
            }
            if Instant::now() > deadline {
                let log = log_of(base);
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("not ready: {log}")));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        daemon.key = fs::read_to_string(base.join("api-key"))?.trim().to_string();
        Ok(daemon)
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn wait(&mut self) -> io::Result<std::process::ExitStatus> {
        self.child.wait()
    }

    /// Sends a request with the API key.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn request(&self, method: &str, path: &str, body: &str) -> io::Result<Response> {
        let key = format!("Bearer {}", self.key);
        http::request(self.address, method, path, &[("authorization", &key)], body.as_bytes())
    }

    /// The value of a metric, all its series added up; 0 when it is absent.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn metric(&self, name: &str, labels: &[&str]) -> io::Result<f64> {
        let text = self.request("GET", "/metrics", "")?.text()?;
        let of_series = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            let (family, own) = series.split_once('{').unwrap_or((series, ""));
            let matches = family == name && labels.iter().all(|label| own.contains(label));
            matches.then(|| value.parse::<f64>().ok())?
        };
        Ok(text.lines().filter_map(of_series).sum())
    }

    fn is_ready(&mut self, base: &Path) -> bool {
        let Ok(text) = fs::read(base.join("run/omlxd.json")) else { return false };
        let Ok(info) = serde_json::from_slice::<Value>(&text) else { return false };
        let Some(Ok(address)) = info["http"].as_str().map(|http| {
            http.trim_start_matches("http://").trim_end_matches('/').parse::<SocketAddr>()
        }) else {
            return false;
        };
        self.address = address;
        http::request(address, "GET", "/readyz", &[], b"").is_ok_and(|answer| answer.status == 200)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log_path(base: &Path) -> PathBuf {
    base.with_extension("log")
}

fn log_of(base: &Path) -> String {
    fs::read_to_string(log_path(base)).unwrap_or_default()
}

/// The daemon's binary beside the running test's, in the same profile.
///
/// # Panics
/// When it has not been built.
pub fn built_binary() -> PathBuf {
    built("omlxd")
}

/// A binary of that name beside the running test's, in the same profile.
///
/// # Panics
/// When it has not been built.
pub fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("path of this test");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    let binary = profile.join(name);
    assert!(
        binary.exists(),
        "{} is not built: run `cargo build -p {name}` first (make test does)",
        binary.display()
    );
    binary
}
