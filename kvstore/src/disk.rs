//! The interface between the store and the medium. [`RealDisk`](crate::RealDisk) implements it; tests
//! use a simulated disk instead. Paths are relative to the root of the store.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The size and the type of a file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Logical length in bytes.
    pub len: u64,
    /// Bytes taken on the medium.
    pub physical: u64,
    /// It is a folder.
    pub is_dir: bool,
    /// It is a regular file: no folder, link, pipe or device.
    pub is_file: bool,
}

/// One entry of a folder.
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// Its name inside the folder.
    pub name: OsString,
    /// Its size and type.
    pub meta: Meta,
}

/// Files and folders under one root.
pub trait Disk: Send + Sync + 'static {
    /// The root, for messages.
    fn root(&self) -> &Path;
    /// Makes a folder that only its owner may enter. An existing folder is no error.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes a file that only its owner may read. An existing file is an error.
    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>>;
    /// Opens a file to read a part of it, through the system's cache.
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadFile>>;
    /// Opens a file to read all of it once, from start to end. The reads go past the system's cache
    /// where that is possible.
    fn open_whole(&self, path: &Path) -> io::Result<Box<dyn ReadFile>>;
    /// Asks the system to read a file into its cache. This may take as long as reading the file.
    fn read_ahead(&self, path: &Path) -> io::Result<()>;
    /// Maps a whole file read-only.
    fn map(&self, path: &Path) -> io::Result<Arc<dyn Mapped>>;
    /// Moves a file, and replaces the file of the new name, in one atomic step.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Readers that have it open or mapped keep its bytes.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder. A folder that is not empty is an error.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// The size and the type of a file or folder. Symbolic links are not followed.
    fn stat(&self, path: &Path) -> io::Result<Meta>;
    /// The entries of a folder, in any order.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// The bytes that this process may still write to the medium.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// A file that is written from start to end.
pub trait WriteFile: Send {
    /// Appends all of `bytes`, or fails.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything appended so far reach the medium before anything that is written later. After
    /// an error the content of the file must be taken as lost.
    fn barrier(&mut self) -> io::Result<()>;
    /// The bytes that the file takes on the medium.
    fn physical(&self) -> io::Result<u64>;
}

/// A file that is open for reading.
pub trait ReadFile: Send {
    /// The length in bytes when the file was opened.
    fn len(&self) -> u64;
    /// True for a file without content.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Reads at `offset`. The result is less than the length of `buffer` only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// A file mapped read-only.
pub trait Mapped: Send + Sync {
    /// The bytes of the file. When another program changes the file, they may be wrong, but reading
    /// them never ends the process. [`Mapped::is_intact`] says whether they are right.
    fn bytes(&self) -> &[u8];
    /// True when the file has not changed since it was mapped, so that every byte read so far was right.
    fn is_intact(&self) -> bool;
}

/// True for a lack of descriptors or memory, which may pass, and not an error of the file.
pub(crate) fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EINTR | libc::EAGAIN)
    )
}

/// True when the medium, or the share of it that its owner may use, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
