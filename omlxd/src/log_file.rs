//! A log file that never grows beyond its limit: at that size it gets the suffix `.1`, replacing the
//! one before, and a new one is begun. Both together hold at most twice the limit.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use omlxctl::files::{self, Links};

/// The file. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct LogFile {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    max_bytes: u64,
    /// `None` after it could not be opened again; the next line tries once more.
    file: Option<File>,
    bytes: u64,
}

impl LogFile {
    pub(crate) fn open(path: &Path, max_bytes: u64) -> io::Result<Self> {
        let (file, bytes) = open(path)?;
        let inner = Inner { path: path.to_owned(), max_bytes, file: Some(file), bytes };
        Ok(LogFile { inner: Arc::new(Mutex::new(inner)) })
    }

    pub(crate) fn reopen(&self) {
        self.lock().reopen();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for LogFile {
    /// Takes one line. A full disk must not stop the daemon, nor fill standard error: the line is
    /// lost then.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut inner = self.lock();
        if inner.bytes > 0 && inner.bytes + line.len() as u64 > inner.max_bytes {
            inner.rotate();
        }
        if inner.file.is_none() {
            inner.reopen();
        }
        if let Some(file) = &mut inner.file
            && file.write_all(line).is_ok()
        {
            inner.bytes += line.len() as u64;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Inner {
    fn rotate(&mut self) {
        let mut older = self.path.clone().into_os_string();
        older.push(".1");
        // If it cannot be moved it is emptied: the limit holds in any case.
        if fs::rename(&self.path, older).is_err()
            && let Some(file) = &self.file
        {
            let _ = file.set_len(0);
        }
        self.reopen();
    }

    fn reopen(&mut self) {
        (self.file, self.bytes) = match open(&self.path) {
            Ok((file, bytes)) => (Some(file), bytes),
            Err(_) => (None, 0),
        };
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600);
    let file = files::open(path, &mut options, Links::Followed)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_no_log_and_nobody_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(LogFile::open(&path, 100).is_err());
        fs::remove_file(&path).unwrap();
        let mut log = LogFile::open(&path, 100).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        log.reopen();
        log.write_all(b"lost, but nothing waits\n").unwrap();
    }

    #[test]
    fn two_files_never_pass_their_limit_and_end_with_the_last_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::open(&path, 100).unwrap();
        for number in 0..50 {
            log.write_all(format!("line number {number:03}\n").as_bytes()).unwrap();
            let files = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap());
            let sizes: Vec<u64> = files.map(|file| file.metadata().unwrap().len()).collect();
            assert!(sizes.len() <= 2 && sizes.iter().all(|size| *size <= 100), "{sizes:?}");
        }
        assert!(fs::read_to_string(&path).unwrap().ends_with("line number 049\n"));
        assert!(fs::read_to_string(dir.path().join("log.1")).unwrap().contains("number 04"));
        // Moved away by somebody: what follows goes into a new one.
        fs::rename(&path, dir.path().join("theirs")).unwrap();
        log.reopen();
        log.write_all(b"new\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
    }
}
