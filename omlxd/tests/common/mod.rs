//! A daemon of its own for each test: its base directory, its process, its client.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use omlxctl::protocol::RunInfo;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longest wait for any condition.
const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until the condition gives something.
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not happen within {DEADLINE:?}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A base directory, and perhaps the daemon that uses it.
pub(crate) struct Daemon {
    pub(crate) base: PathBuf,
    /// Its environment.
    pub(crate) env: Vec<(&'static str, String)>,
    child: Option<Child>,
    _temp: TempDir,
}

impl Daemon {
    /// An empty base directory and no daemon yet.
    pub(crate) fn new() -> Daemon {
        let temp = tempfile::tempdir().unwrap();
        Daemon { base: temp.path().join("base"), env: Vec::new(), child: None, _temp: temp }
    }

    /// A daemon that is ready, on a free port.
    pub(crate) fn started() -> Daemon {
        let mut daemon = Daemon::new();
        daemon.start(&[]);
        daemon
    }

    /// omlxd with this base directory and no configuration from outside.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_omlxd"));
        command.env_clear().envs(self.env.iter().map(|(name, value)| (name, value)));
        command.arg("--base-dir").arg(&self.base).args(args);
        command
    }

    /// Starts it and waits until `run/omlxd.json` says that it is ready.
    pub(crate) fn start(&mut self, args: &[&str]) {
        assert!(self.child.is_none(), "one daemon at a time");
        let log = fs::File::create(self.log_file()).unwrap();
        let mut command = self.command(args);
        command.args(["--port", "0", "--log-format", "text"]);
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let pid = child.id();
        self.child = Some(child);
        eventually("the start", || {
            let status = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(status.is_none(), "omlxd ended with {status:?}: {}", self.log());
            self.info().filter(|info| info.pid == pid)
        });
    }

    pub(crate) fn info(&self) -> Option<RunInfo> {
        serde_json::from_slice(&fs::read(self.base.join("run/omlxd.json")).ok()?).ok()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.base.join("run/omlxd.sock")
    }

    fn log_file(&self) -> PathBuf {
        self.base.with_extension("log")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a daemon runs");
        let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for the daemon to end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("a daemon runs");
        eventually("the exit", || child.try_wait().unwrap())
    }

    /// Sends one HTTP/1.1 request over the admin socket and gives the whole response.
    pub(crate) fn admin(&self, request: &str) -> String {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        exchange(stream, request)
    }

    /// The same over TCP.
    pub(crate) fn http(&self, request: &str) -> String {
        let address: SocketAddr = self.info().unwrap().http.parse().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        exchange(stream, request)
    }

    /// Runs omlxctl against this daemon.
    pub(crate) fn ctl(&self, args: &[&str]) -> Output {
        self.ctl_command(args).output().unwrap()
    }

    /// omlxctl against this daemon, not started yet.
    pub(crate) fn ctl_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(omlxctl());
        command.env_clear().arg("--base-dir").arg(&self.base).args(args);
        command.stdin(Stdio::null());
        command
    }

    /// The JSON that an omlxctl command prints, which must succeed.
    pub(crate) fn ctl_json(&self, args: &[&str]) -> serde_json::Value {
        let output = self.ctl(&[&["--json"], args].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {} {stderr}", output.status);
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn exchange(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).unwrap();
    String::from_utf8(response).unwrap()
}

/// The omlxctl of this build. Cargo gives a test the binaries of its own package only.
fn omlxctl() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "omlxctl", "--bin", "omlxctl"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(built.unwrap().success(), "omlxctl does not build");
        Path::new(env!("CARGO_BIN_EXE_omlxd")).with_file_name("omlxctl")
    })
}
