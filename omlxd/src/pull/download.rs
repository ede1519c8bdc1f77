//! One file: into `blobs/<hash>.incomplete`, verified, then under its name.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use omlxctl::files::{self, Links};
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use super::error::PullError;
use super::hub::Hub;
use super::plan::{Digest, Wanted};

/// Tries without any progress between them before a file is given up.
const MAX_TRIES: u32 = 6;
/// Times that all of a file is thrown away before it is given up: once may be an accident.
const MAX_DAMAGES: u32 = 2;
/// Pause after a failed try; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(20);
/// Longest pause that a hub may ask for. A longer one is reported to the user.
const MAX_ASKED_PAUSE: Duration = Duration::from_secs(120);
const CHUNK_BYTES: usize = 256 << 10;

/// What a download tells while it runs.
pub(super) trait Watch: Sync {
    /// So many bytes of the file are here.
    fn at(&self, bytes: u64);
    /// So many more bytes came over the network.
    fn got(&self, bytes: u64);
    /// Whether to go on.
    fn wanted(&self) -> bool;
    /// Pauses, or less when it is not wanted any more.
    fn pause(&self, time: Duration);
}

/// Where a file comes from.
pub(super) struct From<'a> {
    pub(super) hub: &'a Hub,
    pub(super) id: &'a str,
    pub(super) sha: &'a str,
}

/// Whether the blob is here. What has its name was verified before it got it.
pub(super) fn is_here(blobs: &Path, file: &Wanted) -> bool {
    let blob = fs::symlink_metadata(blobs.join(file.digest.name()));
    blob.is_ok_and(|blob| blob.is_file() && blob.len() == file.size)
}

/// Bytes of a file that an earlier try left.
pub(super) fn part_bytes(blobs: &Path, file: &Wanted) -> u64 {
    let part = fs::symlink_metadata(blobs.join(part_name(file)));
    part.map_or(0, |part| part.len().min(file.size))
}

fn part_name(file: &Wanted) -> String {
    format!("{}.incomplete", file.digest.name())
}

/// Makes the blob: resumes what an earlier try left, tries again after whatever may pass, and
/// verifies size and hash.
pub(super) fn fetch(
    from: &From<'_>,
    blobs: &Path,
    file: &Wanted,
    watch: &dyn Watch,
) -> Result<(), PullError> {
    if is_here(blobs, file) {
        watch.at(file.size);
        return Ok(());
    }
    let part = blobs.join(part_name(file));
    let mut part = Part::open(&part, file)?;
    let (mut tries, mut pause, mut damages) = (0, FIRST_PAUSE, 0);
    loop {
        let before = part.bytes;
        let ended = part.go_on(from, watch).and_then(|()| part.verify());
        let error = match ended {
            Ok(()) => break,
            Err(error) => error,
        };
        if !watch.wanted() {
            return Err(PullError::Cancelled);
        }
        if part.bytes > before {
            (tries, pause) = (0, FIRST_PAUSE);
        }
        tries += 1;
        let asked = match &error {
            PullError::Busy { after, .. } => *after,
            PullError::Network(_) | PullError::Range | PullError::Damaged(_) => None,
            _ => return Err(error),
        };
        if tries >= MAX_TRIES || asked.is_some_and(|asked| asked > MAX_ASKED_PAUSE) {
            return Err(error);
        }
        tracing::debug!(file = file.name, %error, tries, "a download is tried again");
        if matches!(error, PullError::Range | PullError::Damaged(_)) {
            part.restart()?;
            // Bytes that had to be thrown away are no progress.
            damages += 1;
            if damages >= MAX_DAMAGES {
                return Err(error);
            }
        }
        watch.pause(asked.unwrap_or(pause));
        pause = (pause * 2).min(LAST_PAUSE);
    }
    part.file.sync_all().map_err(|error| PullError::disk(blobs, &error))?;
    fs::rename(blobs.join(part_name(file)), blobs.join(file.digest.name()))
        .map_err(|error| PullError::disk(blobs, &error))
}

/// A file under way, and the hash of what is there of it.
struct Part<'a> {
    wanted: &'a Wanted,
    path: &'a Path,
    file: File,
    bytes: u64,
    hash: Context,
}

impl<'a> Part<'a> {
    /// Opens what is there, locked against other processes, and hashes it.
    fn open(path: &'a Path, wanted: &'a Wanted) -> Result<Self, PullError> {
        let disk = |error| PullError::disk(path, &error);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = files::open(path, &mut options, Links::Refused).map_err(disk)?;
        file.try_lock().map_err(|_| {
            PullError::Refused(format!("another process downloads {} already", wanted.name))
        })?;
        if file.metadata().map_err(disk)?.len() > wanted.size {
            file.set_len(0).map_err(disk)?;
        }
        let mut hash = start_hash(wanted);
        let mut bytes = 0;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let read = file.read(&mut chunk).map_err(disk)?;
            if read == 0 {
                break;
            }
            hash.update(&chunk[..read]);
            bytes += read as u64;
        }
        Ok(Part { wanted, path, file, bytes, hash })
    }

    fn restart(&mut self) -> Result<(), PullError> {
        let begun = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        begun.map_err(|error| PullError::disk(self.path, &error))?;
        self.bytes = 0;
        self.hash = start_hash(self.wanted);
        Ok(())
    }

    /// Asks for what is missing, and takes what comes.
    fn go_on(&mut self, from: &From<'_>, watch: &dyn Watch) -> Result<(), PullError> {
        watch.at(self.bytes);
        if self.bytes == self.wanted.size {
            return Ok(());
        }
        let mut bytes = from.hub.file(from.id, from.sha, &self.wanted.name, self.bytes)?;
        if bytes.from != self.bytes {
            // A server without ranges.
            self.restart()?;
        }
        let mut chunk = vec![0; CHUNK_BYTES];
        while watch.wanted() {
            let read = bytes.reader.read(&mut chunk).map_err(PullError::from_read)?;
            if read == 0 {
                break;
            }
            if self.bytes + read as u64 > self.wanted.size {
                return Err(self.damaged("is longer than the hub says"));
            }
            let written = self.file.write_all(&chunk[..read]);
            written.map_err(|error| PullError::disk(self.path, &error))?;
            self.hash.update(&chunk[..read]);
            self.bytes += read as u64;
            watch.at(self.bytes);
            watch.got(read as u64);
        }
        if self.bytes < self.wanted.size {
            return Err(PullError::Network(format!("{} was cut off", self.wanted.name)));
        }
        Ok(())
    }

    fn verify(&self) -> Result<(), PullError> {
        let digest = self.hash.clone().finish();
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        if hex == self.wanted.digest.name() {
            Ok(())
        } else {
            Err(self.damaged("has another hash than the hub says"))
        }
    }

    fn damaged(&self, what: &str) -> PullError {
        PullError::Damaged(format!("{} {what}", self.wanted.name))
    }
}

fn start_hash(wanted: &Wanted) -> Context {
    match wanted.digest {
        Digest::Sha256(_) => Context::new(&SHA256),
        Digest::Git(_) => {
            let mut hash = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
            hash.update(format!("blob {}\0", wanted.size).as_bytes());
            hash
        }
    }
}
