//! A disk in memory with two images: what a running process sees, and what survives a power cut. It fails
//! in every way a real disk does, from a seed.
//!
//! * A power cut keeps each folder change since the last one with a probability of one half (a rename may
//!   be lost while a later one survives), and of every file the bytes up to its last barrier, and a
//!   random choice of the 512-byte sectors after it (torn writes).
//! * While faults are on, operations fail with EIO, appends stop half way, reads come back short
//!   or with a flipped bit, mappings lose a page.
//! * The medium has a capacity: beyond it appends write what fits and report ENOSPC.
//! * The disk watches the quota: a step that grows beyond it panics.

use super::rng::Rng;
use kvstore::disk::{DirEntry, Disk, Mapped, Meta, ReadFile, WriteFile};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

const SECTOR: usize = 512;
const CLUSTER: u64 = 4096;

#[derive(Debug, Default)]
struct FileState {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Counts changes that the store did not make.
    tampered: u64,
}

type FileCell = Arc<Mutex<FileState>>;

#[derive(Clone, Debug)]
enum NameChange {
    Link(PathBuf, FileCell),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
    Dir(PathBuf),
    RemoveDir(PathBuf),
}

#[derive(Debug)]
struct Image {
    files: BTreeMap<PathBuf, FileCell>,
    dirs: BTreeSet<PathBuf>,
}

impl Image {
    fn is_empty(&self, dir: &Path) -> bool {
        let below = |path: &PathBuf| path.parent() == Some(dir);
        !self.files.keys().any(below) && !self.dirs.iter().any(below)
    }

    fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::Link(path, file) => drop(self.files.insert(path.clone(), file.clone())),
            NameChange::Unlink(path) => drop(self.files.remove(path)),
            NameChange::Rename(from, to) => {
                if let Some(file) = self.files.remove(from) {
                    self.files.insert(to.clone(), file);
                }
            }
            NameChange::Dir(path) => drop(self.dirs.insert(path.clone())),
            // A file may have been moved in, which survived the power cut, and out again, which did not.
            NameChange::RemoveDir(path) if self.is_empty(path) => drop(self.dirs.remove(path)),
            NameChange::RemoveDir(_) => {}
        }
    }
}

/// Each kind of failure happens once in this many operations; 0 is never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub eio: u64,
    pub short_read: u64,
    pub flip_on_read: u64,
    pub lying_barrier: u64,
}

struct Inner {
    live: Image,
    durable: Image,
    changes: Vec<NameChange>,
    faults: Faults,
    capacity: u64,
    quota: u64,
    /// The most bytes on the disk now: the quota, or more while foreign files exceed it.
    allowed: u64,
    /// After a crash of the process nothing more reaches the disk.
    dead: bool,
    /// The number of operations until the process dies.
    dies_in: Option<u64>,
    rng: Rng,
}

type Hook = Box<dyn Fn() + Send + Sync>;

#[derive(Clone)]
pub struct SimDisk {
    inner: Arc<Mutex<Inner>>,
    hook: Arc<Mutex<Option<Arc<Hook>>>>,
}

fn clusters(len: u64) -> u64 {
    len.div_ceil(CLUSTER) * CLUSTER
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn os_error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl Inner {
    fn total(&self) -> u64 {
        let files = self.live.files.values().map(|f| clusters(lock(f).live.len() as u64));
        files.sum::<u64>() + self.live.dirs.len() as u64 * CLUSTER
    }

    /// Checks the quota. Called after every growth.
    fn check_quota(&mut self) {
        let total = self.total();
        assert!(total <= self.allowed, "{total} bytes on disk, {} allowed", self.allowed);
        self.shrunk();
    }

    fn shrunk(&mut self) {
        self.allowed = self.quota.max(self.total().min(self.allowed));
    }

    fn name(&mut self, change: NameChange) {
        self.live.apply(&change);
        self.changes.push(change);
    }

    /// Fails the operation if the process is dead or a fault happens.
    fn gate(&mut self) -> io::Result<()> {
        if let Some(left) = &mut self.dies_in {
            match left.checked_sub(1) {
                Some(rest) => *left = rest,
                None => self.dead = true,
            }
        }
        if self.dead || self.rng.clone_one_in(self.faults.eio) {
            self.rng.next();
            return Err(os_error(libc::EIO));
        }
        self.rng.next();
        Ok(())
    }
}

impl Rng {
    fn clone_one_in(&self, n: u64) -> bool {
        self.clone().one_in(n)
    }
}

impl SimDisk {
    pub fn new(seed: u64, capacity: u64, quota: u64) -> SimDisk {
        let empty = || Image { files: BTreeMap::new(), dirs: BTreeSet::from([PathBuf::new()]) };
        let inner = Inner {
            live: empty(),
            durable: empty(),
            changes: Vec::new(),
            faults: Faults::default(),
            capacity,
            quota,
            allowed: quota,
            dead: false,
            dies_in: None,
            rng: Rng::new(seed),
        };
        SimDisk { inner: Arc::new(Mutex::new(inner)), hook: Arc::new(Mutex::new(None)) }
    }

    /// Sets a function that is called before every operation, without a lock, so that a scheduler can switch
    /// threads.
    pub fn set_hook(&self, hook: Hook) {
        *lock(&self.hook) = Some(Arc::new(hook));
    }

    fn enter(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let hook = lock(&self.hook).clone();
        if let Some(hook) = hook {
            hook();
        }
        let mut inner = lock(&self.inner);
        inner.gate()?;
        Ok(inner)
    }

    pub fn set_faults(&self, faults: Faults) {
        lock(&self.inner).faults = faults;
    }

    pub fn set_capacity(&self, capacity: u64) {
        lock(&self.inner).capacity = capacity;
    }

    pub fn total(&self) -> u64 {
        lock(&self.inner).total()
    }

    /// The process dies after this many more operations.
    pub fn die_in(&self, operations: u64) {
        lock(&self.inner).dies_in = Some(operations);
    }

    /// The process dies now. Nothing it does later reaches the disk.
    pub fn kill(&self) {
        lock(&self.inner).dead = true;
    }

    /// A new process starts, and finds everything that the old one wrote.
    pub fn restart(&self) {
        let mut inner = lock(&self.inner);
        inner.dead = false;
        inner.dies_in = None;
    }

    /// The power fails. Only the durable image is left, and a part of the changes in flight.
    pub fn power_cut(&self) {
        let mut inner = lock(&self.inner);
        let mut rng = inner.rng.clone();
        for change in std::mem::take(&mut inner.changes) {
            if rng.one_in(2) {
                inner.durable.apply(&change);
            }
        }
        // The files in a folder that was lost are lost.
        let Image { files, dirs } = &mut inner.durable;
        let known = dirs.clone();
        dirs.retain(|dir| dir.ancestors().all(|above| known.contains(above)));
        files.retain(|path, _| path.parent().is_some_and(|dir| dirs.contains(dir)));
        let files = inner.durable.files.clone();
        for file in files.values() {
            let mut file = lock(file);
            let len = match rng.below(3) {
                0 => file.durable.len(),
                1 => file.live.len(),
                _ => rng.below(file.live.len() as u64 + 1) as usize,
            };
            let mut image = file.durable.clone();
            image.resize(len.max(file.durable.len()), 0);
            for start in (0..image.len().min(file.live.len())).step_by(SECTOR) {
                let end = (start + SECTOR).min(image.len()).min(file.live.len());
                if start >= file.durable.len() && rng.one_in(2) {
                    image[start..end].copy_from_slice(&file.live[start..end]);
                }
            }
            file.live.clone_from(&image);
            file.durable = image;
        }
        inner.live = Image { files, dirs: inner.durable.dirs.clone() };
        inner.rng = rng;
        // Removals may have been lost.
        inner.allowed = inner.quota.max(inner.total());
    }

    /// Makes everything so far survive a power cut.
    pub fn settle(&self) {
        let mut inner = lock(&self.inner);
        let changes = std::mem::take(&mut inner.changes);
        changes.iter().for_each(|change| inner.durable.apply(change));
        for file in inner.live.files.values() {
            let mut file = lock(file);
            file.durable = file.live.clone();
        }
    }

    pub fn files_below(&self, dir: &str) -> Vec<PathBuf> {
        let inner = lock(&self.inner);
        inner.live.files.keys().filter(|path| path.starts_with(dir)).cloned().collect()
    }

    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        lock(&self.inner).live.files.get(path).map(|file| lock(file).live.clone())
    }

    /// Adds a file that the store does not know. It may pass the quota, because the store did not write
    /// it.
    pub fn put_foreign(&self, path: &Path, bytes: Vec<u8>) {
        let mut inner = lock(&self.inner);
        for dir in path.ancestors().skip(1) {
            inner.live.dirs.insert(dir.into());
            inner.durable.dirs.insert(dir.into());
        }
        let file = FileState { live: bytes.clone(), durable: bytes, tampered: 0 };
        let change = NameChange::Link(path.into(), Arc::new(Mutex::new(file)));
        inner.live.apply(&change);
        inner.durable.apply(&change);
        inner.allowed = inner.allowed.max(inner.total());
    }

    pub fn remove_foreign(&self, path: &Path) {
        let mut inner = lock(&self.inner);
        inner.live.files.remove(path);
        inner.durable.files.remove(path);
        inner.shrunk();
    }

    /// Changes a file without the store.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = lock(&self.inner);
        if let Some(file) = inner.live.files.get(path) {
            let mut file = lock(file);
            change(&mut file.live);
            file.durable = file.live.clone();
            file.tampered += 1;
        }
        inner.allowed = inner.allowed.max(inner.total());
        inner.shrunk();
    }
}

impl Disk for SimDisk {
    fn root(&self) -> &Path {
        Path::new("/sim")
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.enter()?;
        let missing: Vec<_> =
            path.ancestors().filter(|dir| !inner.live.dirs.contains(*dir)).collect();
        for dir in missing.into_iter().rev() {
            if inner.total() + CLUSTER > inner.capacity {
                return Err(os_error(libc::ENOSPC));
            }
            inner.name(NameChange::Dir(dir.into()));
            // The store makes its top folders before it knows what else is on the disk.
            if dir.components().count() == 1 {
                inner.allowed = inner.allowed.max(inner.total());
            }
        }
        inner.check_quota();
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        let mut inner = self.enter()?;
        if inner.live.files.contains_key(path) {
            return Err(os_error(libc::EEXIST));
        }
        if !path.parent().is_some_and(|dir| inner.live.dirs.contains(dir)) {
            return Err(os_error(libc::ENOENT));
        }
        let file = FileCell::default();
        inner.name(NameChange::Link(path.into(), file.clone()));
        Ok(Box::new(SimFile { disk: self.clone(), file, opened: 0 }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        let inner = self.enter()?;
        let file = inner.live.files.get(path).ok_or_else(|| os_error(libc::ENOENT))?.clone();
        let opened = lock(&file).live.len() as u64;
        Ok(Box::new(SimFile { disk: self.clone(), file, opened }))
    }

    fn open_whole(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        self.open(path)
    }

    fn read_ahead(&self, path: &Path) -> io::Result<()> {
        let inner = self.enter()?;
        inner.live.files.get(path).map(drop).ok_or_else(|| os_error(libc::ENOENT))
    }

    fn map(&self, path: &Path) -> io::Result<Arc<dyn Mapped>> {
        let mut inner = self.enter()?;
        let file = inner.live.files.get(path).ok_or_else(|| os_error(libc::ENOENT))?.clone();
        let (mut bytes, tampered) = {
            let file = lock(&file);
            (file.live.clone(), file.tampered)
        };
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let chance = inner.faults.eio;
        let broken = inner.rng.one_in(chance);
        if broken {
            let start = inner.rng.below(bytes.len() as u64) as usize;
            bytes[start..].fill(0);
        }
        Ok(Arc::new(SimMap { bytes, file, tampered, broken }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.enter()?;
        if !inner.live.files.contains_key(from) {
            return Err(os_error(libc::ENOENT));
        }
        inner.name(NameChange::Rename(from.into(), to.into()));
        inner.shrunk();
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.enter()?;
        if !inner.live.files.contains_key(path) {
            return Err(os_error(libc::ENOENT));
        }
        inner.name(NameChange::Unlink(path.into()));
        inner.shrunk();
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.enter()?;
        if !inner.live.dirs.contains(path) {
            return Err(os_error(libc::ENOENT));
        }
        if !inner.live.is_empty(path) {
            return Err(os_error(libc::ENOTEMPTY));
        }
        inner.name(NameChange::RemoveDir(path.into()));
        inner.shrunk();
        Ok(())
    }

    fn stat(&self, path: &Path) -> io::Result<Meta> {
        let inner = self.enter()?;
        if inner.live.dirs.contains(path) {
            return Ok(Meta { len: CLUSTER, physical: CLUSTER, is_dir: true, is_file: false });
        }
        let file = inner.live.files.get(path).ok_or_else(|| os_error(libc::ENOENT))?;
        let len = lock(file).live.len() as u64;
        Ok(Meta { len, physical: clusters(len), is_dir: false, is_file: true })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let inner = self.enter()?;
        if !inner.live.dirs.contains(dir) {
            return Err(os_error(libc::ENOENT));
        }
        let in_dir = |path: &&PathBuf| path.parent() == Some(dir);
        let name = |path: &PathBuf| path.file_name().expect("below a folder").to_owned();
        let dirs = inner.live.dirs.iter().filter(in_dir).map(|path| DirEntry {
            name: name(path),
            meta: Meta { len: CLUSTER, physical: CLUSTER, is_dir: true, is_file: false },
        });
        let files = inner.live.files.iter().filter(|(path, _)| in_dir(path)).map(|(path, file)| {
            let len = lock(file).live.len() as u64;
            let meta = Meta { len, physical: clusters(len), is_dir: false, is_file: true };
            DirEntry { name: name(path), meta }
        });
        Ok(dirs.chain(files).collect())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let inner = self.enter()?;
        Ok(inner.capacity.saturating_sub(inner.total()))
    }
}

struct SimFile {
    disk: SimDisk,
    file: FileCell,
    opened: u64,
}

impl WriteFile for SimFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let entered = self.disk.enter();
        let Ok(mut inner) = entered else {
            // A write that fails may have written something.
            let mut inner = lock(&self.disk.inner);
            if !inner.dead {
                let some = inner.rng.below(bytes.len() as u64 + 1) as usize;
                let room = inner.capacity.saturating_sub(inner.total()) as usize;
                lock(&self.file).live.extend_from_slice(&bytes[..some.min(room)]);
                inner.check_quota();
            }
            return Err(os_error(libc::EIO));
        };
        let room = inner.capacity.saturating_sub(inner.total());
        let fits = bytes.len().min(room as usize);
        lock(&self.file).live.extend_from_slice(&bytes[..fits]);
        inner.check_quota();
        if fits < bytes.len() { Err(os_error(libc::ENOSPC)) } else { Ok(()) }
    }

    fn barrier(&mut self) -> io::Result<()> {
        let mut inner = self.disk.enter()?;
        let chance = inner.faults.lying_barrier;
        if !inner.rng.one_in(chance) {
            let mut file = lock(&self.file);
            file.durable = file.live.clone();
        }
        Ok(())
    }

    fn physical(&self) -> io::Result<u64> {
        drop(self.disk.enter()?);
        Ok(clusters(lock(&self.file).live.len() as u64))
    }
}

impl ReadFile for SimFile {
    fn len(&self) -> u64 {
        self.opened
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut inner = self.disk.enter()?;
        let faults = inner.faults;
        let file = lock(&self.file);
        let start = (offset as usize).min(file.live.len());
        let mut len = buffer.len().min(file.live.len() - start);
        if inner.rng.one_in(faults.short_read) {
            len = inner.rng.below(len as u64 + 1) as usize;
        }
        buffer[..len].copy_from_slice(&file.live[start..start + len]);
        if len > 0 && inner.rng.one_in(faults.flip_on_read) {
            // In the first bytes, because most of a file is padding.
            let bit = inner.rng.below(len.min(600) as u64 * 8) as usize;
            buffer[bit / 8] ^= 1 << (bit % 8);
        }
        Ok(len)
    }
}

struct SimMap {
    bytes: Vec<u8>,
    file: FileCell,
    tampered: u64,
    broken: bool,
}

impl Mapped for SimMap {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn is_intact(&self) -> bool {
        !self.broken && lock(&self.file).tampered == self.tampered
    }
}
