//! Answers of `/v1/responses` on disk, so that a client can go on from one by its id, or fetch it.
//!
//! A file for each answer, `responses/<tenant>/<id>.json` in the base directory, directories 0700 and
//! files 0600. It holds what the client sent and what the model answered, in clear text: that is why
//! there is a quota, a time after which it is removed, and a switch. A tenant is an API key: nothing
//! that one key stored can be named by another.
//!
//! The folder itself may be a link to another disk. Below it no link is followed, and nothing is removed
//! but regular files that have the name of an answer.
//!
//! A file's modification time is when it was last used. When the quota is reached, those longest
//! unused go first. Losing answers is allowed (a full disk, a damaged file): the client is told that
//! the id is unknown.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use omlxctl::files::{self, Links};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::home;
use crate::limits::{RESPONSE_CHAIN, RESPONSE_CHAIN_BYTES};

/// One answer may take this share of the quota.
const MAX_RECORD_SHARE: u64 = 4;
/// What a small file takes of the disk.
const DISK_UNIT_BYTES: u64 = 4096;
/// The layout of [`Record`].
const VERSION: u32 = 1;
/// How often answers whose time is over are looked for.
const SWEEP_PERIOD: Duration = Duration::from_secs(600);

/// The extension of a file that is being written.
const UNFINISHED: &str = "tmp";
/// Every id is this and 32 hexadecimal digits.
const ID_PREFIX: &str = "resp_";

/// One stored answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// The answer that it continues.
    pub previous: Option<String>,
    /// The items that the client sent with this request.
    pub input: Vec<Value>,
    /// The answer as the client saw it.
    pub response: Value,
}

impl Record {
    /// An answer to store.
    pub fn new(previous: Option<String>, input: Vec<Value>, response: Value) -> Self {
        Record { version: VERSION, previous, input, response }
    }

    /// What the model said: the items of `response.output`.
    pub fn output(&self) -> &[Value] {
        self.response["output"].as_array().map_or(&[], Vec::as_slice)
    }
}

/// Why a conversation cannot be put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainError {
    /// There is no answer of this id, or no longer.
    Unknown(String),
    /// It passes [`RESPONSE_CHAIN`] or [`RESPONSE_CHAIN_BYTES`].
    TooLong,
}

/// The store. Its methods read and write files: not for async threads.
#[derive(Debug)]
pub struct ResponseStore {
    /// `None`: nothing is stored.
    dir: Option<PathBuf>,
    /// Held for its lock: no other daemon changes what is in the folder.
    _lock: Option<File>,
    quota_bytes: u64,
    ttl: Duration,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    files: HashMap<PathBuf, Entry>,
    used_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    bytes: u64,
    used: SystemTime,
}

impl ResponseStore {
    /// Looks at what is there from earlier runs.
    pub fn open(config: &Config) -> Self {
        let settings = &config.server;
        let dir = settings.store_responses.then(|| config.base_dir.join("responses"));
        let opened = dir.and_then(|dir| match open_dir(&dir) {
            Ok(lock) => Some((dir, lock)),
            Err(error) => {
                let path = dir.display();
                tracing::error!(%path, %error, "answers of /v1/responses are not stored");
                None
            }
        });
        let (dir, lock) = opened.unzip();
        let store = ResponseStore {
            dir,
            _lock: lock,
            quota_bytes: settings.responses_quota,
            ttl: settings.responses_ttl,
            index: Mutex::default(),
        };
        store.scan();
        store.sweep(SystemTime::now());
        store
    }

    /// Whether answers are stored at all.
    pub fn is_enabled(&self) -> bool {
        self.dir.is_some()
    }

    /// Stores an answer. Failing to is logged and costs the client only the id.
    pub fn save(&self, tenant: &str, id: &str, record: &Record, now: SystemTime) {
        let Some(path) = self.path(tenant, id) else { return };
        let Ok(text) = serde_json::to_vec(record) else { return };
        let bytes = disk_bytes(text.len() as u64);
        if bytes > self.quota_bytes / MAX_RECORD_SHARE {
            tracing::info!(response = id, bytes, "too large to be stored");
            return;
        }
        // Held while the file is written, so that the quota is true at every moment.
        let mut index = self.index();
        index.make_room(self.quota_bytes - bytes);
        if let Err(error) = write_private(&path, &text) {
            tracing::warn!(response = id, %error, "an answer could not be stored");
            return;
        }
        index.insert(path, Entry { bytes, used: now });
    }

    /// The answer of an id, if it is still there.
    pub fn load(&self, tenant: &str, id: &str, now: SystemTime) -> Option<Record> {
        self.read(tenant, id, now).map(|(record, _)| record)
    }

    /// And how many bytes it takes.
    fn read(&self, tenant: &str, id: &str, now: SystemTime) -> Option<(Record, u64)> {
        let path = self.path(tenant, id)?;
        let mut index = self.index();
        let Entry { used, bytes } = *index.files.get(&path)?;
        if self.is_over(used, now) {
            index.remove(&path);
            return None;
        }
        let record = read_private(&path, bytes).ok().and_then(|text| {
            let record: Record = serde_json::from_slice(&text).ok()?;
            (record.version == VERSION && record.response["id"] == id).then_some(record)
        });
        let Some(record) = record else {
            tracing::warn!(response = id, "a stored answer is damaged or gone; it is forgotten");
            index.remove(&path);
            return None;
        };
        touch(&path, now);
        let entry = index.files.get_mut(&path)?;
        entry.used = now;
        Some((record, entry.bytes))
    }

    /// An answer and all earlier ones that it continues, oldest first.
    ///
    /// # Errors
    /// When one of them is not there, or they are too many.
    pub fn chain(
        &self,
        tenant: &str,
        id: &str,
        now: SystemTime,
    ) -> Result<Vec<Record>, ChainError> {
        let (mut records, mut total_bytes) = (Vec::new(), 0);
        let mut next = Some(id.to_owned());
        while let Some(id) = next {
            let Some((record, bytes)) = self.read(tenant, &id, now) else {
                return Err(ChainError::Unknown(id));
            };
            total_bytes += bytes;
            if records.len() == RESPONSE_CHAIN || total_bytes > RESPONSE_CHAIN_BYTES {
                return Err(ChainError::TooLong);
            }
            next = record.previous.clone();
            records.push(record);
        }
        records.reverse();
        Ok(records)
    }

    /// Removes an answer. False when there was none.
    pub fn delete(&self, tenant: &str, id: &str, now: SystemTime) -> bool {
        let Some(path) = self.path(tenant, id) else { return false };
        let mut index = self.index();
        let is_there = index.files.get(&path).is_some_and(|entry| !self.is_over(entry.used, now));
        index.remove(&path);
        is_there
    }

    /// Removes what was not used for longer than `server.responses_ttl`.
    pub fn sweep(&self, now: SystemTime) {
        let mut index = self.index();
        let over = index.files.iter().filter(|(_, entry)| self.is_over(entry.used, now));
        for path in over.map(|(path, _)| path.clone()).collect::<Vec<_>>() {
            index.remove(&path);
        }
    }

    /// Bytes of disk in use.
    pub fn used_bytes(&self) -> u64 {
        self.index().used_bytes
    }

    fn is_over(&self, used: SystemTime, now: SystemTime) -> bool {
        now.duration_since(used).is_ok_and(|unused| unused > self.ttl)
    }

    /// Where an answer lies. `None` for what is no id: nothing that a client sends becomes a path
    /// unless it is exactly what we make.
    fn path(&self, tenant: &str, id: &str) -> Option<PathBuf> {
        let dir = self.dir.as_ref().filter(|_| is_id(id))?;
        Some(dir.join(tenant).join(format!("{id}.json")))
    }

    /// Takes the files of earlier runs into the index, and removes what a killed one left half
    /// written. Whatever else is there stays as it is.
    fn scan(&self) {
        let Some(dir) = &self.dir else { return };
        let mut index = self.index();
        let tenants = fs::read_dir(dir).into_iter().flatten().flatten();
        let tenants = tenants.filter(|tenant| tenant.file_type().is_ok_and(|kind| kind.is_dir()));
        let files = tenants.flat_map(|tenant| fs::read_dir(tenant.path())).flatten().flatten();
        for file in files {
            let path = file.path();
            // That of the entry itself: links are not followed.
            let Ok(metadata) = file.metadata() else { continue };
            let name = path.file_stem().and_then(|name| name.to_str());
            if !metadata.is_file() || !name.is_some_and(is_id) {
                continue;
            }
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(UNFINISHED) => drop(fs::remove_file(&path)),
                Some("json") => {
                    let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    index.insert(path, Entry { bytes: disk_bytes(metadata.len()), used });
                }
                _ => {}
            }
        }
        index.make_room(self.quota_bytes);
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn insert(&mut self, path: PathBuf, entry: Entry) {
        let before = self.files.insert(path, entry);
        self.used_bytes += entry.bytes;
        self.used_bytes -= before.map_or(0, |before| before.bytes);
    }

    /// Removes files, the longest unused first, until no more than `bytes` are in use.
    fn make_room(&mut self, bytes: u64) {
        while self.used_bytes > bytes {
            let oldest = self.files.iter().min_by_key(|(_, entry)| entry.used);
            let Some(path) = oldest.map(|(path, _)| path.clone()) else { return };
            self.remove(&path);
        }
    }

    fn remove(&mut self, path: &Path) {
        if let Some(entry) = self.files.remove(path) {
            self.used_bytes -= entry.bytes;
            if let Err(error) = remove_private(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "a stored answer cannot be removed");
            }
        }
    }
}

/// Removes what is over from time to time, until `shutdown`.
pub(crate) async fn keep_swept(store: Arc<ResponseStore>, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(SWEEP_PERIOD);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        let store = store.clone();
        let _ = tokio::task::spawn_blocking(move || store.sweep(SystemTime::now())).await;
    }
}

fn disk_bytes(bytes: u64) -> u64 {
    bytes.div_ceil(DISK_UNIT_BYTES) * DISK_UNIT_BYTES
}

/// Makes the folder and locks it.
fn open_dir(dir: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    home::lock_dir(dir)?.ok_or_else(|| io::Error::other("another process uses this folder"))
}

/// Whether a text is exactly what we make as an id.
fn is_id(text: &str) -> bool {
    let is_hex = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
    text.strip_prefix(ID_PREFIX)
        .is_some_and(|digits| digits.len() == 32 && digits.bytes().all(is_hex))
}

/// Checks that a tenant's folder is one: a link in its place would lead elsewhere.
fn check_folder(path: &Path) -> io::Result<()> {
    let dir = path.parent().expect("a file of the store has a folder");
    let data = fs::symlink_metadata(dir)?;
    data.is_dir().then_some(()).ok_or_else(|| io::ErrorKind::NotADirectory.into())
}

/// All of the file or none of it, for its owner alone.
fn write_private(path: &Path, text: &[u8]) -> io::Result<()> {
    let dir = path.parent().expect("a file of the store has a folder");
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    check_folder(path)?;
    let unfinished = path.with_extension(UNFINISHED);
    // What a killed run left, or somebody else put there: a link is not followed.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let written = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .and_then(|mut file| file.write_all(text))
        .and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written
}

/// A file that was written so; longer than it was then, it is not ours any more.
fn read_private(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    check_folder(path)?;
    let file = files::open(path, OpenOptions::new().read(true), Links::Refused)?;
    files::read_from(file, max_bytes)
}

/// Removes a file that was written so, and nothing else that took its place.
fn remove_private(path: &Path) -> io::Result<()> {
    check_folder(path)?;
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    fs::remove_file(path)
}

/// Notes the last use. When that fails, the answer is only removed earlier.
fn touch(path: &Path, now: SystemTime) {
    let _ = files::open(path, File::options().append(true), Links::Refused)
        .and_then(|file| file.set_modified(now));
}

#[cfg(test)]
#[path = "response_store_tests.rs"]
mod tests;
