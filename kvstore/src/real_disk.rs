//! The real medium: a folder that only this process may use.

use crate::direct_reader::{DirectReader, Windows};
use crate::disk::{DirEntry, Disk, Mapped, Meta, ReadFile, WriteFile};
use crate::error::OpenError;
use crate::map::FileMap;
use crate::platform;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Mode of the store's folders: only the owner may enter them.
const DIR_MODE: u32 = 0o700;
/// Mode of the store's files: only the owner may read them.
const FILE_MODE: u32 = 0o600;
/// The lock file's name under the root.
pub(crate) const LOCK_NAME: &str = "lock";
/// Unit of `st_blocks` on every Unix known to us.
const STAT_BLOCK: u64 = 512;

/// A root folder, locked for as long as this value lives.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
    windows: Arc<Windows>,
    /// Holds the lock and names this process.
    _lock: File,
    /// Holds a second lock, which survives the removal of the lock file.
    _folder: File,
}

impl RealDisk {
    /// Creates the root if it is missing, makes it private, and locks it.
    ///
    /// # Errors
    /// [`OpenError::Locked`] when another store, in this process or another, holds the root.
    pub fn open(root: &Path) -> Result<RealDisk, OpenError> {
        let io_error = |source| OpenError::Io { path: root.to_path_buf(), source };
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(root).map_err(io_error)?;
        fs::set_permissions(root, fs::Permissions::from_mode(DIR_MODE)).map_err(io_error)?;
        let folder = File::open(root).map_err(io_error)?;
        let path = root.join(LOCK_NAME);
        let io_error = |source| OpenError::Io { path: path.clone(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
        let mut lock = open_regular(&path, &mut options).map_err(io_error)?;
        let is_ours = match (lock.try_lock(), folder.try_lock()) {
            (Ok(()), Ok(())) => true,
            // Network file systems lock only files that can be written, which a folder cannot.
            (Ok(()), Err(TryLockError::Error(error))) if cannot_lock(&error) => true,
            (Err(TryLockError::Error(source)), _) | (Ok(()), Err(TryLockError::Error(source))) => {
                return Err(OpenError::Io { path, source });
            }
            _ => false,
        };
        if !is_ours {
            let mut holder = String::new();
            let _ = (&lock).take(16).read_to_string(&mut holder);
            return Err(OpenError::Locked { path, pid: holder.trim().parse().ok() });
        }
        // Rewriting these few bytes may fail on a full disk; the lock is valid in any case.
        let _ = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()));
        let windows = Arc::default();
        Ok(RealDisk { root: root.to_path_buf(), windows, _lock: lock, _folder: folder })
    }

    fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }
}

fn meta_of(meta: &fs::Metadata) -> Meta {
    Meta {
        len: meta.len(),
        physical: meta.blocks() * STAT_BLOCK,
        is_dir: meta.is_dir(),
        is_file: meta.is_file(),
    }
}

impl Disk for RealDisk {
    fn root(&self) -> &Path {
        &self.root
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(self.at(path))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let file =
            OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(self.at(path))?;
        Ok(Box::new(RealFile { file, len: 0 }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        let file = open_record(&self.at(path))?;
        let len = file.metadata()?.len();
        Ok(Box::new(RealFile { file, len }))
    }

    fn open_whole(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        Ok(Box::new(DirectReader::new(open_record(&self.at(path))?, &self.windows)?))
    }

    fn read_ahead(&self, path: &Path) -> io::Result<()> {
        let file = open_record(&self.at(path))?;
        platform::read_ahead(&file, file.metadata()?.len());
        Ok(())
    }

    fn map(&self, path: &Path) -> io::Result<Arc<dyn Mapped>> {
        Ok(Arc::new(FileMap::new(open_record(&self.at(path))?)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(self.at(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(self.at(path))
    }

    fn stat(&self, path: &Path) -> io::Result<Meta> {
        fs::symlink_metadata(self.at(path)).map(|meta| meta_of(&meta))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.at(dir))? {
            let entry = entry?;
            match entry.metadata() {
                Ok(meta) => {
                    entries.push(DirEntry { name: entry.file_name(), meta: meta_of(&meta) })
                }
                // The file was removed during the listing.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

fn cannot_lock(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBADF) || error.kind() == io::ErrorKind::Unsupported
}

fn open_record(path: &Path) -> io::Result<File> {
    open_regular(path, OpenOptions::new().read(true))
}

/// Opens a regular file. Never follows a link, and never waits on a pipe in the file's place.
fn open_regular(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
    }
    Ok(file)
}

struct RealFile {
    file: File,
    len: u64,
}

impl WriteFile for RealFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn barrier(&mut self) -> io::Result<()> {
        platform::barrier(&self.file)
    }

    fn physical(&self) -> io::Result<u64> {
        self.file.metadata().map(|meta| meta.blocks() * STAT_BLOCK)
    }
}

impl ReadFile for RealFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}
