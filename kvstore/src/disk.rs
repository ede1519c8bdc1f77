//! The interface between the store and the medium. [`RealDisk`](crate::RealDisk) is the production
//! implementation; tests use a simulated one. Paths are relative to the store's root.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The type and size of a file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Logical length in bytes.
    pub len: u64,
    /// Bytes taken on the medium.
    pub physical: u64,
    /// True for a folder.
    pub is_dir: bool,
    /// True for a regular file, which is no folder, link, pipe or device.
    pub is_file: bool,
}

/// One entry of a folder.
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// Its name inside the folder.
    pub name: OsString,
    /// The entry's type and size.
    pub meta: Meta,
}

/// Files and folders under one root.
pub trait Disk: Send + Sync + 'static {
    /// The root, for use in messages.
    fn root(&self) -> &Path;
    /// Makes a folder that only its owner may enter. An existing folder is not an error.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes a file that only its owner may read. An existing file is an error.
    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>>;
    /// Opens a file for reading parts of it through the system's cache.
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadFile>>;
    /// Opens a file for reading all of it once, from start to end, bypassing the system's cache
    /// where that is possible.
    fn open_whole(&self, path: &Path) -> io::Result<Box<dyn ReadFile>>;
    /// Makes the system read a file into its cache. This may take as long as reading the file.
    fn read_ahead(&self, path: &Path) -> io::Result<()>;
    /// Maps a whole file read-only.
    fn map(&self, path: &Path) -> io::Result<Arc<dyn Mapped>>;
    /// Moves a file atomically, replacing any file at the destination.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Readers that have it open or mapped keep its bytes.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder. A folder that is not empty is an error.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Returns the type and size of a file or folder. Symbolic links are not followed.
    fn stat(&self, path: &Path) -> io::Result<Meta>;
    /// Lists the entries of a folder in no particular order.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// Bytes that this process may still write to the medium.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// A file being written from start to end.
pub trait WriteFile: Send {
    /// Appends all of `bytes`, or fails.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Ensures that everything appended so far reaches the medium before anything written later.
    /// After an error the file's content must be treated as lost.
    fn barrier(&mut self) -> io::Result<()>;
    /// Bytes taken on the medium.
    fn physical(&self) -> io::Result<u64>;
}

/// A file open for reading.
pub trait ReadFile: Send {
    /// Length in bytes at the time of opening.
    fn len(&self) -> u64;
    /// True for a file without content.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Reads at `offset`. Returns fewer bytes than requested only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// A file mapped read-only.
pub trait Mapped: Send + Sync {
    /// The file's bytes. If another program changed the file they may be wrong, but reading them
    /// never kills the process; [`Mapped::is_intact`] detects the change.
    fn bytes(&self) -> &[u8];
    /// True when the file has not changed since it was mapped, so every byte read so far is
    /// correct.
    fn is_intact(&self) -> bool;
}

/// True when `error` comes from a temporary shortage (descriptors, memory) and not from the file.
pub(crate) fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EINTR | libc::EAGAIN)
    )
}

/// True when `error` says that the medium, or the owner's share of it, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
