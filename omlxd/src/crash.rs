//! What a run leaves behind for the next one when it does not end by itself: an abort of MLX, a kill,
//! the machine's end, a panic of the engine's thread. Nothing may run then any more, so it is written
//! beforehand: the step under way goes to `run/step`, a panic to `run/panic`. Both go with a clean end.
//! What the next start finds of them it keeps as a note in `logs/crashes.json`.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
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

/// What the engine does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Doing {
    #[default]
    Nothing,
    Loading(String),
    Step {
        model: String,
        decoding: usize,
        prompt_tokens: usize,
    },
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doing::Nothing => f.write_str("nothing was computed"),
            Doing::Loading(model) => write!(f, "loading {model}"),
            Doing::Step { model, decoding, prompt_tokens } => write!(
                f,
                "a step of {model}: {decoding} rows decoding, {prompt_tokens} prompt tokens"
            ),
        }
    }
}

/// Tells what the engine does in a file, which outlives the process. The engine's thread only says so in
/// memory, and only when it changes: another thread writes, for which a disk may take its time.
#[derive(Debug)]
pub(crate) struct StepFile {
    note: Option<Arc<Note>>,
}

/// What the writing thread waits for.
#[derive(Debug, Default)]
struct Note {
    state: Mutex<NoteState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct NoteState {
    doing: Doing,
    is_written: bool,
    /// Nobody will say more.
    is_over: bool,
}

impl StepFile {
    /// Begins it. Without one there is only less to tell.
    pub(crate) fn create(home: &Home) -> StepFile {
        let path = home.step();
        // Whatever is in its place goes, and not what a link there leads to.
        let _ = fs::remove_file(&path);
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let Ok(file) = options.open(path) else { return StepFile::none() };
        write(&file, &Doing::Nothing.to_string());
        let note = Arc::new(Note::default());
        let thread = std::thread::Builder::new().name("step-note".into()).spawn({
            let note = Arc::clone(&note);
            move || note.keep_written(&file)
        });
        StepFile { note: thread.is_ok().then_some(note) }
    }

    /// One that writes nothing.
    pub(crate) fn none() -> StepFile {
        StepFile { note: None }
    }

    /// A step of this model begins.
    pub(crate) fn step(&self, model: &str, decoding: usize, prompt_tokens: usize) {
        self.tell(|doing| match doing {
            Doing::Step { model: before, decoding: rows, prompt_tokens: tokens }
                if before == model =>
            {
                let is_new = (*rows, *tokens) != (decoding, prompt_tokens);
                (*rows, *tokens) = (decoding, prompt_tokens);
                is_new
            }
            _ => {
                *doing = Doing::Step { model: model.to_owned(), decoding, prompt_tokens };
                true
            }
        });
    }

    /// This model begins to be loaded.
    pub(crate) fn loading(&self, model: &str) {
        self.tell(|doing| {
            *doing = Doing::Loading(model.to_owned());
            true
        });
    }

    /// There is nothing left to do.
    pub(crate) fn idle(&self) {
        self.tell(|doing| std::mem::take(doing) != Doing::Nothing);
    }

    /// `change` says whether it changed anything.
    fn tell(&self, change: impl FnOnce(&mut Doing) -> bool) {
        let Some(note) = &self.note else { return };
        let mut state = note.state.lock().unwrap_or_else(PoisonError::into_inner);
        if change(&mut state.doing) {
            state.is_written = false;
            note.changed.notify_one();
        }
    }
}

impl Drop for StepFile {
    fn drop(&mut self) {
        if let Some(note) = &self.note {
            note.state.lock().unwrap_or_else(PoisonError::into_inner).is_over = true;
            note.changed.notify_one();
        }
    }
}

impl Note {
    /// Writes each change, or the newest of several.
    fn keep_written(&self, file: &File) {
        loop {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let idle = |state: &mut NoteState| state.is_written && !state.is_over;
            let state = self.changed.wait_while(state, idle);
            let mut state = state.unwrap_or_else(PoisonError::into_inner);
            if state.is_written {
                return;
            }
            state.is_written = true;
            let doing = state.doing.clone();
            drop(state);
            write(file, &doing.to_string());
        }
    }
}

/// Replaces the file's text in one call.
fn write(file: &File, text: &str) {
    let mut line = [b' '; STEP_BYTES];
    let text = &text.as_bytes()[..text.len().min(STEP_BYTES - 1)];
    line[..text.len()].copy_from_slice(text);
    line[STEP_BYTES - 1] = b'\n';
    // On a full disk the old text stays, or none.
    let _ = file.write_all_at(&line, 0);
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
    use std::time::{Duration, Instant};

    use super::*;

    /// Waits until the file of the step says so.
    fn wait_for(home: &Home, wanted: &str) {
        let limit = Instant::now() + Duration::from_secs(20);
        while !fs::read_to_string(home.step()).unwrap().starts_with(wanted) {
            assert!(Instant::now() < limit, "{:?}", fs::read_to_string(home.step()));
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_newest_of_what_the_engine_does_is_written() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("home"));
        home.prepare().unwrap();
        let steps = StepFile::create(&home);
        wait_for(&home, "nothing was computed");
        for round in 0..500 {
            steps.step("m", round, 0);
        }
        wait_for(&home, "a step of m: 499 rows decoding, 0 prompt tokens");
        // The same again is no change.
        let note = Arc::clone(steps.note.as_ref().unwrap());
        steps.step("m", 499, 0);
        assert!(note.state.lock().unwrap().is_written);
        steps.loading("other");
        wait_for(&home, "loading other");
        steps.idle();
        wait_for(&home, "nothing was computed");
        // The thread ends with the last change written.
        steps.step("m", 1, 0);
        drop(steps);
        wait_for(&home, "a step of m: 1 rows");
        let limit = Instant::now() + Duration::from_secs(20);
        while Arc::strong_count(&note) > 1 {
            assert!(Instant::now() < limit, "the thread is left");
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_a_run_left_is_a_note_and_there_are_only_so_many() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("home"));
        home.prepare().unwrap();
        assert_eq!(begin(&home, None), None);
        assert!(!home.crashes().exists());
        let steps = StepFile::create(&home);
        steps.loading("first");
        steps.step(&"m".repeat(300), 1, 2);
        wait_for(&home, "a step of mmm");
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
        let _step = StepFile::create(&home);
        assert_eq!(fs::read_to_string(&secret).unwrap(), "theirs");
        assert!(fs::read_to_string(home.step()).unwrap().starts_with("nothing was"));
    }
}
