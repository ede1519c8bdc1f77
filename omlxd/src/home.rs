//! The base directory: what a first start creates, who may read it, and who may use it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use omlxctl::files::{self, Links};
use omlxctl::protocol::RunInfo;

use crate::auth::Written;
use crate::config;
use crate::limits::{KEY_BYTES, KEY_FILE_BYTES};

/// A socket's path and its ending zero must fit into this many bytes on macOS. Linux has 108, but
/// what works here must work there.
pub const SOCKET_PATH_BYTES: usize = 104;

/// Every API key starts so.
pub const KEY_PREFIX: &str = "sk-omlx-";

/// What a base directory holds (and what Finder leaves in any folder).
const OURS: [&str; 9] = [
    "config.toml",
    "api-key",
    "cache-key",
    "models",
    "cache",
    "responses",
    "run",
    "logs",
    ".DS_Store",
];

/// Bytes of randomness in a key: 43 characters of URL-safe base64.
const KEY_RANDOM_BYTES: usize = 32;

/// A shorter key could be guessed.
const KEY_MIN_BYTES: usize = 16;

/// What can be wrong with the base directory.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// A file operation failed.
    #[error("cannot {what} {path}")]
    Io {
        /// What was tried, such as "create".
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Somebody else's directory or file.
    #[error("{path} belongs to user {owner}, not to you (user {you}): use another --base-dir")]
    Owner {
        /// Which path.
        path: PathBuf,
        /// Its owner's id.
        owner: u32,
        /// Our id.
        you: u32,
    },
    /// A directory that others can enter and that may hold something else than omlx's files.
    #[error(
        "{path} has mode {mode:04o} and holds files that are not omlx's: run `chmod 700 {path}` if it is \
         meant as the base directory"
    )]
    OpenDir {
        /// Which directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A key file that others can read.
    #[error(
        "{path} has mode {mode:04o}, so others can read the API key: run `chmod 600 {path}`, then `omlxctl key rotate`"
    )]
    OpenKey {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A key file without a usable key.
    #[error(
        "{path} holds no API key: a key is 16 to 256 visible ASCII characters, on a line of its own; delete the file to have a new key made"
    )]
    BadKey {
        /// Which file.
        path: PathBuf,
    },
    /// Another daemon holds the lock.
    #[error("omlxd already runs{} with base directory {base}: {}", pid_text(*.pid), running_advice(*.is_reachable))]
    Running {
        /// Its process id, when it could be read.
        pid: Option<u32>,
        /// The directory both want.
        base: PathBuf,
        /// Whether its socket is still in its place.
        is_reachable: bool,
    },
    /// A socket path that macOS cannot hold.
    #[error(
        "the admin socket's path has {bytes} bytes, but a socket path must fit into {SOCKET_PATH_BYTES} with its ending zero ({path}): choose a shorter --base-dir"
    )]
    SocketPath {
        /// The path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" as process {pid}"))
}

fn running_advice(is_reachable: bool) -> &'static str {
    if is_reachable {
        "use it, stop it with `omlxctl shutdown`, or choose another --base-dir"
    } else {
        "its socket in run/ was removed, so omlxctl cannot reach it; end that process, or choose another \
         --base-dir"
    }
}

/// The base directory's layout.
#[derive(Debug, Clone)]
pub struct Home {
    base: PathBuf,
}

impl Home {
    /// The layout under a directory; touches nothing.
    pub fn at(base: PathBuf) -> Self {
        Home { base }
    }

    /// The directory itself.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// `config.toml`.
    pub fn config_file(&self) -> PathBuf {
        self.base.join("config.toml")
    }

    /// `run/omlxd.sock`.
    pub fn socket(&self) -> PathBuf {
        self.base.join("run/omlxd.sock")
    }

    /// `logs/`.
    pub fn logs(&self) -> PathBuf {
        self.base.join("logs")
    }

    /// `run/omlxd.json`.
    pub fn run_info(&self) -> PathBuf {
        self.base.join("run/omlxd.json")
    }

    /// `run/step`: what the engine does.
    pub(crate) fn step(&self) -> PathBuf {
        self.base.join("run/step")
    }

    /// `run/panic`: the last panic of this run.
    pub(crate) fn panic(&self) -> PathBuf {
        self.base.join("run/panic")
    }

    /// `logs/crashes.json`: runs that did not end by themselves.
    pub(crate) fn crashes(&self) -> PathBuf {
        self.base.join("logs/crashes.json")
    }

    /// Creates what is missing: the directories and a commented `config.toml`. Returns what else
    /// it had to change, for the log.
    ///
    /// # Errors
    /// When the directory is somebody else's, is open to others and not recognisably ours, or
    /// cannot be written.
    pub fn prepare(&self) -> Result<Vec<String>, HomeError> {
        let socket = self.socket();
        let bytes = socket.as_os_str().len();
        if bytes >= SOCKET_PATH_BYTES {
            return Err(HomeError::SocketPath { path: socket, bytes });
        }
        let mut notes = Vec::new();
        notes.extend(self.private_dir(&self.base, !self.holds_other_files())?);
        for dir in ["models", "run", "logs"] {
            notes.extend(self.private_dir(&self.base.join(dir), true)?);
        }
        for dir in ["cache", "cache/kv"] {
            match self.private_dir(&self.base.join(dir), true) {
                // Not worth failing the start: opening the cache reports the problem, and omlxd serves without it.
                Err(HomeError::Io { .. }) => {}
                made => notes.extend(made?),
            }
        }
        let file = self.config_file();
        if !exists(&file)? {
            write_private(&file, config::default_file().as_bytes())?;
            notes.push(format!("created {}", file.display()));
        }
        Ok(notes)
    }

    /// Makes sure that a directory exists and that only we can enter it. A directory that is ours
    /// is closed to others when it is not; one that may be more than ours is refused.
    fn private_dir(&self, path: &Path, may_close: bool) -> Result<Option<String>, HomeError> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
                made.map_err(on("create", path))?;
                return Ok(Some(format!("created {}", path.display())));
            }
            Err(error) => return Err(on("look at", path)(error)),
        };
        if !metadata.is_dir() {
            return Err(on("use", path)(io::ErrorKind::NotADirectory.into()));
        }
        check_owner(path, &metadata)?;
        let mode = metadata.mode() & 0o777;
        if mode & 0o077 == 0 {
            return Ok(None);
        }
        if !may_close {
            return Err(HomeError::OpenDir { path: path.to_owned(), mode });
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(on("chmod", path))?;
        Ok(Some(format!("closed {} to other users (mode was {mode:04o})", path.display())))
    }

    /// Whether the directory holds anything that omlx does not put there.
    fn holds_other_files(&self) -> bool {
        let entries = fs::read_dir(&self.base).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name()).any(|name| !OURS.iter().any(|ours| name == *ours))
    }

    /// Takes the locks that make this process the one daemon of the directory: that of `run/lock`, which
    /// names the process, and that of the directory itself, which is not lost when `run/` is removed.
    ///
    /// # Errors
    /// [`HomeError::Running`] when another process has one of them.
    pub fn lock(&self) -> Result<Lock, HomeError> {
        let path = self.base.join("run/lock");
        let mut options = private_options();
        let options = options.read(true).truncate(false);
        let mut file = files::open(&path, options, Links::Refused).map_err(on("open", &path))?;
        let dir = lock_dir(&self.base).map_err(on("lock", &self.base))?;
        let is_ours = match file.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Error(error)) => return Err(on("lock", &path)(error)),
        };
        let (true, Some(dir)) = (is_ours, dir) else {
            let mut pid = String::new();
            // The text is for people only: without it the message just lacks the number.
            let _ = file.take(16).read_to_string(&mut pid);
            return Err(HomeError::Running {
                pid: pid.trim().parse().ok(),
                base: self.base.clone(),
                is_reachable: self.socket().exists(),
            });
        };
        // A clean end leaves it empty.
        let mut before = String::new();
        let _ = (&file).take(16).read_to_string(&mut before);
        let before = before.trim().parse().ok();
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(on("write", &path))?;
        Ok(Lock { file, _dir: dir, home: self.clone(), before })
    }
}

/// Proof that this process is the directory's one daemon. The lock ends with the process, however
/// it ends; dropping this also removes the socket and `run/omlxd.json`.
#[derive(Debug)]
pub struct Lock {
    file: File,
    /// Held for its lock.
    _dir: File,
    home: Home,
    before: Option<u32>,
}

impl Lock {
    /// The process that had the lock last, when it did not end by itself.
    pub fn left_by(&self) -> Option<u32> {
        self.before
    }

    /// Binds the admin socket, after removing one that a killed daemon left. Nobody else can ever
    /// connect: its directory is 0700 and it is created under a umask of 077.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn bind_socket(&self) -> Result<UnixListener, HomeError> {
        let path = self.home.socket();
        remove(&path)?;
        let before = rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
        let bound = UnixListener::bind(&path);
        rustix::process::umask(before);
        let listener = bound.map_err(on("bind", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
            .map_err(on("chmod", &path))?;
        Ok(listener)
    }

    /// Writes `run/omlxd.json`, all of it or nothing.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_run_info(&self, info: &RunInfo) -> Result<(), HomeError> {
        let path = self.home.run_info();
        let mut text = serde_json::to_vec_pretty(info).map_err(|e| on("write", &path)(e.into()))?;
        text.push(b'\n');
        replace_private(&path, &text)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let home = &self.home;
        for path in [home.socket(), home.run_info(), home.step(), home.panic()] {
            if let Err(error) = remove(&path) {
                tracing::warn!(%error, "a file of this run stays behind");
            }
        }
        if let Err(error) = self.file.set_len(0) {
            tracing::warn!(%error, "the lock still names this process");
        }
    }
}

/// Locks a directory for as long as the file lives; `None` when somebody else has it. Nobody can remove
/// this lock but by removing the directory, and then the two have nothing in common any more.
pub(crate) fn lock_dir(path: &Path) -> io::Result<Option<File>> {
    let dir = File::open(path)?;
    match dir.try_lock() {
        Ok(()) => Ok(Some(dir)),
        Err(TryLockError::WouldBlock) => Ok(None),
        // Network file systems lock only what can be written, which no directory can. The files in it
        // are still locked.
        Err(TryLockError::Error(error))
            if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::BADF)
                || error.kind() == io::ErrorKind::Unsupported =>
        {
            Ok(Some(dir))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Reads the first API key of the file that is not hashed, or makes the file when there is none. One
/// key a line; lines that begin with `#`, and what follows a key on its line, are for people.
///
/// # Errors
/// When others can read the file, it holds no key, or it cannot be read or made.
pub fn api_key(path: &Path) -> Result<String, HomeError> {
    if !exists(path)? {
        let key = new_key(path)?;
        write_private(path, format!("{key}\n").as_bytes())?;
        return Ok(key);
    }
    let text = read_keys(path)?;
    let words = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let mut words = words.filter_map(|line| Written::read(line.split_whitespace().next()?));
    let first = words.find_map(|key| match key {
        Written::Plain(key) => Some(key.to_owned()),
        Written::Hashed { .. } => None,
    });
    first.ok_or_else(|| HomeError::BadKey { path: path.to_owned() })
}

/// The text of a file of which every key is usable, and that has one.
pub(crate) fn read_keys(path: &Path) -> Result<String, HomeError> {
    let file = files::open_to_read(path).map_err(on("open", path))?;
    let metadata = file.metadata().map_err(on("look at", path))?;
    check_owner(path, &metadata)?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(HomeError::OpenKey { path: path.to_owned(), mode });
    }
    let text = files::read_from(file, KEY_FILE_BYTES).and_then(files::text);
    let text = text.map_err(on("read", path))?;
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let mut keys = lines.filter_map(|line| line.split_whitespace().next());
    let usable = |key: &&str| {
        (KEY_MIN_BYTES..=KEY_BYTES).contains(&key.len())
            && key.bytes().all(|byte| byte.is_ascii_graphic())
            && Written::read(key).is_some()
    };
    let is_good = keys.next().is_some_and(|key| usable(&key)) && keys.all(|key| usable(&key));
    is_good.then_some(()).ok_or_else(|| HomeError::BadKey { path: path.to_owned() })?;
    Ok(text)
}

/// Replaces the file by one with a new key. The old keys are gone once this returns.
///
/// # Errors
/// When the file cannot be written; the old key then stays.
pub fn rotate_key(path: &Path) -> Result<String, HomeError> {
    let key = new_key(path)?;
    replace_private(path, format!("{key}\n").as_bytes())?;
    Ok(key)
}

pub(crate) fn new_key(path: &Path) -> Result<String, HomeError> {
    let mut random = [0; KEY_RANDOM_BYTES];
    getrandom::fill(&mut random)
        .map_err(|error| on("get randomness for", path)(io::Error::other(error)))?;
    Ok(format!("{KEY_PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(random)))
}

fn check_owner(path: &Path, metadata: &fs::Metadata) -> Result<(), HomeError> {
    let you = rustix::process::geteuid().as_raw();
    if metadata.uid() == you {
        return Ok(());
    }
    Err(HomeError::Owner { path: path.to_owned(), owner: metadata.uid(), you })
}

fn exists(path: &Path) -> Result<bool, HomeError> {
    path.try_exists().map_err(on("look at", path))
}

/// Removes a file that may be absent.
fn remove(path: &Path) -> Result<(), HomeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(on("remove", path)(error)),
        _ => Ok(()),
    }
}

fn private_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options
}

/// Creates a file that must not exist yet, readable by us alone from its first moment.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), HomeError> {
    let mut file = private_options().create_new(true).open(path).map_err(on("write", path))?;
    file.write_all(bytes).map_err(|error| {
        // Half a file would be taken for a whole one by the next start.
        let _ = fs::remove_file(path);
        on("write", path)(error)
    })
}

/// Writes beside, then renames: a reader sees the old file or the new one.
pub(crate) fn replace_private(path: &Path, bytes: &[u8]) -> Result<(), HomeError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    remove(&beside)?;
    write_private(&beside, bytes)?;
    fs::rename(&beside, path).map_err(on("replace", path))
}

fn on(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HomeError {
    move |source| HomeError::Io { what, path: path.to_owned(), source }
}

#[cfg(test)]
#[path = "home_tests.rs"]
mod tests;
