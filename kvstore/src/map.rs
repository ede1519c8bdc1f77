//! Read-only file mappings that cannot kill the process. The only unsafe module besides
//! `platform`.
//!
//! Touching a mapped page whose file was truncated, or that the disk cannot read, raises SIGBUS,
//! which kills the process by default. A handler is installed once, when the first file is mapped.
//! When the faulting address lies inside one of our mappings, the handler puts a page of zeros
//! there, marks the mapping as broken and returns, so that the interrupted read continues;
//! [`FileMap::is_intact`] then returns false, and the caller discards the bytes it read. Every
//! other SIGBUS is passed to the previous handler, as if ours were not installed: the standard
//! library's, a crash reporter's, or the default action.
//!
//! A file can also change without a signal (a hole is punched, bytes are overwritten). The store
//! never changes a published file, so a new size or modification time reveals such a change:
//! `is_intact` compares both with their values at the time of mapping.

use crate::disk::Mapped;
use crate::platform;
use memmap2::Mmap;
use std::cell::UnsafeCell;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, Once, PoisonError};

/// Limit on the files mapped at one time. Further files are read by copy instead.
pub const MAX_MAPPINGS: usize = 1024;

/// A whole file, mapped read-only and watched.
pub(crate) struct FileMap {
    /// Declared before `map`, because the watch must end before the address range is released.
    watch: Watch,
    map: Mmap,
    file: File,
    stamp: Stamp,
}

impl FileMap {
    /// Maps `file` and tells the system to read it ahead.
    pub(crate) fn new(file: File) -> io::Result<FileMap> {
        let stamp = Stamp::of(&file)?;
        // SAFETY: memmap2 requires that nobody changes the file while it is mapped. The store never
        // changes a published file. If another program does, we read other bytes (every value of u8
        // is valid) or fault, and both are detected: see the module's comment.
        let map = unsafe { Mmap::map(&file)? };
        if map.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let watch = Watch::new(&map)?;
        platform::set_up_map(&map);
        Ok(FileMap { watch, map, file, stamp })
    }
}

impl Mapped for FileMap {
    fn bytes(&self) -> &[u8] {
        &self.map
    }

    fn is_intact(&self) -> bool {
        !self.watch.slot().broken.load(Ordering::Acquire)
            && Stamp::of(&self.file).is_ok_and(|now| now == self.stamp)
    }
}

/// Metadata that changes with a file's content, but not when the file is renamed or unlinked.
#[derive(PartialEq, Eq)]
struct Stamp {
    len: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Stamp> {
        let meta = file.metadata()?;
        Ok(Stamp { len: meta.len(), modified: (meta.mtime(), meta.mtime_nsec()) })
    }
}

/// One watched address range. `version` is odd while the range is being changed, so that the
/// handler, which cannot take a lock, never acts on half of one range and half of another.
struct Slot {
    version: AtomicUsize,
    start: AtomicUsize,
    end: AtomicUsize,
    broken: AtomicBool,
}

static SLOTS: [Slot; MAX_MAPPINGS] = [const {
    Slot {
        version: AtomicUsize::new(0),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        broken: AtomicBool::new(false),
    }
}; MAX_MAPPINGS];

/// Indices of free slots; the handler never touches this.
static FREE: Mutex<Vec<usize>> = Mutex::new(Vec::new());

impl Slot {
    fn set(&self, start: usize, end: usize) {
        self.version.fetch_add(1, Ordering::AcqRel);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
        self.broken.store(false, Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Release);
    }

    fn contains(&self, address: usize) -> bool {
        let before = self.version.load(Ordering::Acquire);
        let (start, end) = (self.start.load(Ordering::Relaxed), self.end.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let after = self.version.load(Ordering::Relaxed);
        before == after && before.is_multiple_of(2) && start <= address && address < end
    }
}

/// Owns the slot of one mapping.
struct Watch(usize);

impl Watch {
    fn new(map: &Mmap) -> io::Result<Watch> {
        install_handler()?;
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let index = free.pop().ok_or_else(|| {
            io::Error::new(io::ErrorKind::QuotaExceeded, "too many files are mapped at one time")
        })?;
        let start = map.as_ptr() as usize;
        SLOTS[index].set(start, start + map.len().next_multiple_of(page_size()));
        Ok(Watch(index))
    }

    fn slot(&self) -> &'static Slot {
        &SLOTS[self.0]
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.slot().set(0, 0);
        FREE.lock().unwrap_or_else(PoisonError::into_inner).push(self.0);
    }
}

/// The system's page size. The first call caches it and is never made inside the handler.
fn page_size() -> usize {
    static PAGE_SIZE: AtomicUsize = AtomicUsize::new(0);
    let known = PAGE_SIZE.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    // SAFETY: sysconf only reads a constant of the system.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(4096) as usize;
    PAGE_SIZE.store(size, Ordering::Relaxed);
    size
}

/// The previous action for SIGBUS, written once before our handler can run.
struct Previous(UnsafeCell<MaybeUninit<libc::sigaction>>);
// SAFETY: it is written once inside `INSTALL`, before the handler that reads it is installed
// (sigaction is a system call, which orders the write before any later signal), and only read
// later.
unsafe impl Sync for Previous {}

static PREVIOUS: Previous = Previous(UnsafeCell::new(MaybeUninit::uninit()));
static INSTALL: Once = Once::new();
static INSTALLED: AtomicBool = AtomicBool::new(false);

fn install_handler() -> io::Result<()> {
    INSTALL.call_once(|| {
        FREE.lock().unwrap_or_else(PoisonError::into_inner).extend(0..MAX_MAPPINGS);
        page_size();
        // SAFETY: `PREVIOUS` has space for the old action, which is requested before ours is set,
        // and no other code reads or writes it yet. `on_sigbus` has the signature that SA_SIGINFO
        // requires and calls only functions that are safe in a handler. SA_ONSTACK lets the
        // standard library's handler, which we may call, report a stack overflow. A zeroed
        // sigaction is valid.
        let done = unsafe {
            let mut ours: libc::sigaction = std::mem::zeroed();
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                on_sigbus;
            ours.sa_sigaction = handler as usize;
            ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut ours.sa_mask);
            libc::sigaction(libc::SIGBUS, std::ptr::null(), (*PREVIOUS.0.get()).as_mut_ptr()) == 0
                && libc::sigaction(libc::SIGBUS, &ours, std::ptr::null_mut()) == 0
        };
        INSTALLED.store(done, Ordering::Release);
    });
    if INSTALLED.load(Ordering::Acquire) {
        Ok(())
    } else {
        Err(io::Error::other("cannot guard mapped files against SIGBUS"))
    }
}

/// Async-signal-safe: atomics, `mmap` and (through `pass_on`) `sigaction` only.
extern "C" fn on_sigbus(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid siginfo to a SA_SIGINFO handler.
    let (address, code) = unsafe { ((*info).si_addr() as usize, (*info).si_code) };
    // A signal that a process sent carries no address, so the field is meaningless then.
    let fault = platform::is_fault(code);
    match SLOTS.iter().find(|slot| fault && slot.contains(address)) {
        Some(slot) if replace_page(address) => slot.broken.store(true, Ordering::Release),
        _ => pass_on(signal, info, context, fault),
    }
}

/// Puts a page of zeros where the file's page cannot be read. Restores `errno`, which belongs to
/// the interrupted code.
fn replace_page(address: usize) -> bool {
    let page = page_size();
    let start = (address & !(page - 1)) as *mut libc::c_void;
    // SAFETY: the page lies inside a mapping that a live `Watch` covers. Its thread is stopped in
    // the middle of a read, so the page cannot have been unmapped. `FileMap::bytes` promises its
    // readers zeros in this case. `errno_location` is valid for this thread.
    unsafe {
        let errno = *errno_location();
        let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANON;
        let mapped = libc::mmap(start, page, libc::PROT_READ, flags, -1, 0);
        *errno_location() = errno;
        mapped == start
    }
}

/// Passes a signal that is not ours to the previous action.
fn pass_on(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
    fault: bool,
) {
    type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
    // SAFETY: `PREVIOUS` was written before this handler was installed. The address of the previous
    // handler came from sigaction with flags that say which of the two signatures it has. Once the
    // default action is restored, returning repeats a faulting instruction, and a sent signal is
    // raised again when the handler returns: both end the process as they would without our
    // handler.
    unsafe {
        let previous = (*PREVIOUS.0.get()).assume_init_ref();
        let handler = previous.sa_sigaction;
        if handler == libc::SIG_IGN && !fault {
            // A signal that was ignored before stays ignored.
        } else if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
            libc::sigaction(signal, previous, std::ptr::null_mut());
            if !fault {
                libc::raise(signal);
            }
        } else if previous.sa_flags & libc::SA_SIGINFO != 0 {
            std::mem::transmute::<usize, Handler>(handler)(signal, info, context);
        } else {
            std::mem::transmute::<usize, extern "C" fn(libc::c_int)>(handler)(signal);
        }
    }
}

#[cfg(not(target_vendor = "apple"))]
use libc::__errno_location as errno_location;
#[cfg(target_vendor = "apple")]
use libc::__error as errno_location;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_mappings_than_slots_are_refused_until_one_is_dropped() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"content").unwrap();
        let map = || FileMap::new(File::open(file.path()).unwrap());
        let mut held: Vec<_> = (0..MAX_MAPPINGS).map(|_| map().unwrap()).collect();
        assert_eq!(map().err().unwrap().kind(), io::ErrorKind::QuotaExceeded);
        held.pop();
        assert_eq!(map().unwrap().bytes(), b"content");
    }

    #[test]
    fn a_slot_covers_its_range_and_nothing_else() {
        let slot = &SLOTS[0];
        assert!(!slot.contains(0) && !slot.contains(usize::MAX));
        let other = Slot {
            version: AtomicUsize::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
        };
        other.set(4096, 8192);
        assert!(other.contains(4096) && other.contains(8191));
        assert!(!other.contains(4095) && !other.contains(8192));
        other.version.fetch_add(1, Ordering::Relaxed);
        assert!(!other.contains(4096), "nothing is concluded while the range changes");
    }
}
