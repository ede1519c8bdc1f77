//! The seam between the store and the medium. [`RealDisk`](crate::RealDisk) is the one that ships;
//! tests put a simulated one in its place. Paths are relative to the store's root.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// What a file or folder occupies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Logical length in bytes.
    pub len: u64,
    /// Bytes taken on the medium.
    pub physical: u64,
    /// A folder, not a file.
    pub is_dir: bool,
    /// A regular file: no folder, link, pipe or device.
    pub is_file: bool,
}

/// One entry of a folder.
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// Its name inside the folder.
    pub name: OsString,
    /// What it occupies.
    pub meta: Meta,
}

/// Files and folders under one root.
pub trait Disk: Send + Sync + 'static {
    /// The root, for messages.
    fn root(&self) -> &Path;
    /// Makes a folder that only its owner may enter. It is no error when it exists.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes a file that only its owner may read. It is an error when it exists.
    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>>;
    /// Opens a file for reading some of it, through the system's cache.
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadFile>>;
    /// Opens a file for reading all of it once, from start to end, past the system's cache where
    /// that is possible.
    fn open_whole(&self, path: &Path) -> io::Result<Box<dyn ReadFile>>;
    /// Has the system read a file into its own cache. This may take as long as reading it.
    fn read_ahead(&self, path: &Path) -> io::Result<()>;
    /// Maps a whole file read-only.
    fn map(&self, path: &Path) -> io::Result<Arc<dyn Mapped>>;
    /// Moves a file, replacing what is there, in one step that is seen whole or not at all.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Who has it open or mapped keeps its bytes.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder that has nothing in it. It is an error when it has.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// What a file or folder occupies; symbolic links are not followed.
    fn stat(&self, path: &Path) -> io::Result<Meta>;
    /// The entries of a folder, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// Bytes that this process may still write to the medium.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// A file being written from start to end.
pub trait WriteFile: Send {
    /// Appends all of `bytes`, or fails.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Everything appended so far reaches the medium before anything written later. After an
    /// error the file's content must be taken as lost.
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
    /// Reads at `offset`; returns fewer bytes than asked for only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// A file mapped read-only.
pub trait Mapped: Send + Sync {
    /// The file's bytes. When the file was changed behind the store's back these may be wrong, but
    /// reading them never kills the process; [`Mapped::is_intact`] tells.
    fn bytes(&self) -> &[u8];
    /// True when every byte read so far was the file's, unchanged since it was mapped.
    fn is_intact(&self) -> bool;
}

/// `error` comes from a lack of something that may pass (descriptors, memory), not from the file.
pub(crate) fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EINTR | libc::EAGAIN)
    )
}

/// `error` says that the medium, or the owner's share of it, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
