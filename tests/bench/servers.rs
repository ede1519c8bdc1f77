//! The two servers, as processes.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use omlx_tests::daemon::Daemon;
use omlx_tests::http;

use crate::measure::Target;

/// omlxd on a base directory of its own.
pub(crate) struct Server {
    daemon: Daemon,
    pub(crate) target: Target,
    /// From starting the process to the first answer of `/readyz`.
    pub(crate) ready_seconds: f64,
    base: tempfile::TempDir,
}

impl Server {
    /// Starts it; with a model folder and the model's name, which is loaded by the first request.
    pub(crate) fn start(binary: &Path, model: Option<(&Path, &str)>) -> io::Result<Self> {
        Self::start_with(binary, model, "")
    }

    /// The same with a configuration file.
    pub(crate) fn start_with(
        binary: &Path,
        model: Option<(&Path, &str)>,
        config: &str,
    ) -> io::Result<Self> {
        let base = tempfile::tempdir()?;
        let home = base.path().join("base");
        fs::DirBuilder::new().mode(0o700).create(&home)?;
        fs::write(home.join("config.toml"), config)?;
        let started = Instant::now();
        let daemon = Daemon::start(binary, &home, model.map(|model| model.0), &[])?;
        let ready_seconds = started.elapsed().as_secs_f64();
        let name = model.map_or("", |model| model.1);
        let target =
            Target { address: daemon.address, key: daemon.key.clone(), model: name.to_string() };
        Ok(Self { daemon, target, ready_seconds, base })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Ends the daemon as launchd does, and starts another on the same files.
    pub(crate) fn restart(&mut self, binary: &Path, models: &Path) -> io::Result<()> {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status()?;
        let home = self.base.path().join("base");
        let deadline = Instant::now() + Duration::from_secs(60);
        while sent.success() && home.join("run/omlxd.json").exists() {
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "omlxd does not stop"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.daemon.wait()?;
        self.daemon = Daemon::start(binary, &home, Some(models), &[])?;
        (self.target.address, self.target.key) = (self.daemon.address, self.daemon.key.clone());
        Ok(())
    }

    /// The median of a histogram over decode steps, in seconds, interpolated within its bucket.
    pub(crate) fn decode_median(&self, histogram: &str) -> io::Result<f64> {
        let text = self.daemon.request("GET", "/metrics", "")?.text()?;
        let mut buckets: Vec<(f64, f64)> =
            text.lines().filter_map(|line| bucket(line, histogram)).collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        // All models together.
        buckets.dedup_by(|same, kept| {
            let is_same = same.0 == kept.0;
            kept.1 += if is_same { same.1 } else { 0.0 };
            is_same
        });
        let half = buckets.last().map_or(0.0, |bucket| bucket.1) / 2.0;
        let middle = buckets.iter().position(|(_, count)| *count >= half && half > 0.0);
        let Some(middle) = middle else {
            return Err(io::Error::other(format!("/metrics has no {histogram}")));
        };
        let (bound, count) = buckets[middle];
        let (from, below) = if middle == 0 { (0.0, 0.0) } else { buckets[middle - 1] };
        Ok(from + (bound - from) * (half - below) / (count - below))
    }
}

/// (upper bound, cumulative count) of a line of a histogram's decode series.
fn bucket(line: &str, histogram: &str) -> Option<(f64, f64)> {
    let (series, count) = line.rsplit_once(' ')?;
    let labels = series.strip_prefix(histogram)?.strip_prefix("_bucket{")?;
    if !labels.contains("phase=\"decode\"") {
        return None;
    }
    let bound = labels.split("le=\"").nth(1)?.split('"').next()?;
    let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
    Some((bound, count.parse().ok()?))
}

/// mlx-lm's server.
pub(crate) struct MlxLm {
    child: Child,
    pub(crate) target: Target,
}

impl MlxLm {
    /// Starts it and waits until it answers. OpenBLAS is preloaded on Linux, where MLX's wheel
    /// comes with the slow reference BLAS; omlxd links OpenBLAS.
    pub(crate) fn start(python: &Path, model: &Path) -> io::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(python);
        command.args(["-m", "mlx_lm", "server", "--log-level", "ERROR", "--model"]).arg(model);
        command.args(["--port", &port.to_string()]).env("HF_HUB_OFFLINE", "1");
        if cfg!(target_os = "linux") {
            command.env("LD_PRELOAD", "libopenblas.so.0");
        }
        let null = Stdio::null;
        let child = command.stdin(null()).stdout(null()).stderr(null()).spawn()?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let target = Target { address, key: "none".into(), model: "default_model".into() };
        let mut server = Self { child, target };
        let deadline = Instant::now() + Duration::from_secs(120);
        while http::request(address, "GET", "/health", &[], b"").is_err() {
            if let Some(status) = server.child.try_wait()? {
                return Err(io::Error::other(format!("mlx-lm's server ended: {status}")));
            }
            if Instant::now() > deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "mlx-lm's server is not ready",
                ));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for MlxLm {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Resident memory now.
pub(crate) fn resident_bytes(pid: u32) -> io::Result<u64> {
    kilobytes(pid, "VmRSS:").or_else(|_| ps_resident(pid))
}

/// The most that was ever resident; where the system does not tell, what is resident now.
pub(crate) fn peak_bytes(pid: u32) -> io::Result<u64> {
    kilobytes(pid, "VmHWM:").or_else(|_| ps_resident(pid))
}

/// A line of the process's status in Linux's /proc, in bytes.
fn kilobytes(pid: u32, name: &str) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    let number = value.and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok());
    number.map(|n| n * 1024).ok_or_else(|| io::Error::other(format!("no {name} for {pid}")))
}

/// macOS has no /proc; `ps` is the portable way.
fn ps_resident(pid: u32) -> io::Result<u64> {
    let output = Command::new("ps").args(["-o", "rss=", "-p", &pid.to_string()]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_string();
    let number: u64 = text.parse().map_err(|_| io::Error::other("ps gave no number"))?;
    Ok(number * 1024)
}
