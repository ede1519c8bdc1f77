//! What a run leaves behind for the next one when it does not end by itself: an abort of MLX, a kill,
//! the machine's end. Nothing runs then any more, so it is written beforehand: the step under way goes
//! to `run/step`, a panic to `run/panic`. Both go with a clean end. What the next start finds of them
//! it keeps as a note in `logs/crashes.json`.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use omlxctl::files;
use omlxctl::protocol::{CrashNote, RunInfo};

use crate::home::{self, Home};
use crate::limits::{CRASH_NOTES_BYTES, RUN_FILE_BYTES};

/// The step under way takes this much of its file: always the same, so that writing it is one call.
const STEP_BYTES: usize = 256;
/// What is kept of a step's or a panic's text.
const MAX_NOTE_CHARS: usize = 4096;
/// Most notes that are kept.
const MAX_NOTES: usize = 10;

/// Where a panic is noted, once there is a run to note it for.
static PANIC: OnceLock<PathBuf> = OnceLock::new();

/// The file that tells what the engine does.
#[derive(Debug)]
pub(crate) struct StepFile(Option<File>);

impl StepFile {
    /// Begins it. Without one there is only less to tell.
    pub(crate) fn create(home: &Home) -> StepFile {
        let path = home.step();
        // Whatever is in its place goes, and not what a link there leads to.
        let _ = fs::remove_file(&path);
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let file = StepFile(options.open(path).ok());
        file.write("nothing was computed");
        file
    }

    /// One that writes nothing.
    pub(crate) fn none() -> StepFile {
        StepFile(None)
    }

    /// Notes what begins now. The system has it at once, so that it outlives the process.
    pub(crate) fn write(&self, text: &str) {
        let Some(file) = &self.0 else { return };
        let mut line = [b' '; STEP_BYTES];
        let text = &text.as_bytes()[..text.len().min(STEP_BYTES - 1)];
        line[..text.len()].copy_from_slice(text);
        line[STEP_BYTES - 1] = b'\n';
        // On a full disk the old text stays, or none.
        let _ = file.write_all_at(&line, 0);
    }
}

/// Notes a panic, should the process end over it.
pub(crate) fn note_panic(text: &str) {
    if let Some(path) = PANIC.get() {
        let _ = home::replace_private(path, text.as_bytes());
    }
}

/// Looks at what the run before left, keeps a note of it, and begins this run's own. `before` is the
/// process that had the lock last and did not give it back.
pub(crate) fn begin(home: &Home, before: Option<u32>) -> Option<CrashNote> {
    let note = before.map(|pid| {
        let step = fs::metadata(home.step()).and_then(|file| file.modified()).ok();
        CrashNote {
            pid,
            version: run_info(home).filter(|info| info.pid == pid).map(|info| info.version),
            noticed_at: seconds(SystemTime::now()),
            last_sign_at: step.map(seconds),
            step: text(&home.step()),
            panic: text(&home.panic()),
        }
    });
    for left in [home.step(), home.panic()] {
        let _ = fs::remove_file(left);
    }
    let _ = PANIC.set(home.panic());
    if let Some(note) = &note {
        tracing::warn!(
            pid = note.pid,
            step = note.step,
            panic = note.panic,
            "the run before did not end by itself"
        );
        if let Err(error) = keep(home, note) {
            tracing::warn!(%error, "the note of it could not be kept");
        }
    }
    note
}

fn keep(home: &Home, note: &CrashNote) -> io::Result<()> {
    let path = home.crashes();
    let known = files::read(&path, CRASH_NOTES_BYTES).ok();
    let mut notes: Vec<CrashNote> =
        known.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    notes.push(note.clone());
    let old = notes.len().saturating_sub(MAX_NOTES);
    let text = serde_json::to_vec_pretty(&notes[old..])?;
    home::replace_private(&path, &text).map_err(io::Error::other)
}

fn run_info(home: &Home) -> Option<RunInfo> {
    serde_json::from_slice(&files::read(&home.run_info(), RUN_FILE_BYTES).ok()?).ok()
}

fn text(path: &Path) -> Option<String> {
    let bytes = files::read(path, RUN_FILE_BYTES).ok()?;
    let text: String =
        String::from_utf8_lossy(&bytes).trim().chars().take(MAX_NOTE_CHARS).collect();
    (!text.is_empty()).then_some(text)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_left_is_a_note_and_there_are_only_so_many() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("home"));
        home.prepare().unwrap();
        assert_eq!(begin(&home, None), None);
        assert!(!home.crashes().exists());
        let steps = StepFile::create(&home);
        steps.write("first");
        steps.write(&format!("a step of {}", "m".repeat(300)));
        assert_eq!(fs::metadata(home.step()).unwrap().len(), STEP_BYTES as u64);
        fs::write(home.panic(), "at x.rs:1: gone").unwrap();
        let note = begin(&home, Some(7)).unwrap();
        assert!(note.step.as_deref().unwrap().starts_with("a step of mmm"), "{note:?}");
        assert_eq!((note.pid, note.panic.as_deref()), (7, Some("at x.rs:1: gone")));
        assert!(note.last_sign_at.is_some() && note.version.is_none());
        assert!(!home.step().exists() && !home.panic().exists());
        for pid in 8..30 {
            begin(&home, Some(pid)).unwrap();
        }
        let kept: Vec<CrashNote> =
            serde_json::from_slice(&fs::read(home.crashes()).unwrap()).unwrap();
        let pids: Vec<u32> = kept.iter().map(|note| note.pid).collect();
        assert_eq!(pids, (20..30).collect::<Vec<_>>());
    }

    #[test]
    fn crash_notes_at_their_limit() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("home"));
        home.prepare().unwrap();
        begin(&home, Some(1)).unwrap();
        let limit = usize::try_from(CRASH_NOTES_BYTES).unwrap();
        for (bytes, kept) in [(limit, 2), (limit + 1, 1)] {
            let mut text = fs::read(home.crashes()).unwrap();
            text.resize(bytes, b' ');
            fs::write(home.crashes(), text).unwrap();
            begin(&home, Some(2)).unwrap();
            let text = fs::read(home.crashes()).unwrap();
            assert_eq!(serde_json::from_slice::<Vec<CrashNote>>(&text).unwrap().len(), kept);
        }
        let limit = usize::try_from(RUN_FILE_BYTES).unwrap();
        for (bytes, is_read) in [(limit, true), (limit + 1, false)] {
            fs::write(home.panic(), "p".repeat(bytes)).unwrap();
            let note = begin(&home, Some(3)).unwrap();
            assert_eq!(note.panic.map(|panic| panic.len()), is_read.then_some(MAX_NOTE_CHARS));
        }
    }

    #[test]
    fn what_is_no_file_is_neither_read_nor_written_through() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("home"));
        home.prepare().unwrap();
        let secret = temp.path().join("secret");
        fs::write(&secret, "theirs").unwrap();
        for path in [home.step(), home.panic(), home.crashes(), home.run_info()] {
            assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        }
        assert!(begin(&home, Some(7)).unwrap().step.is_none());
        std::os::unix::fs::symlink(&secret, home.step()).unwrap();
        StepFile::create(&home).write("a step");
        assert_eq!(fs::read_to_string(&secret).unwrap(), "theirs");
        assert!(fs::read_to_string(home.step()).unwrap().starts_with("a step"));
    }
}
