//! Read-only file mappings that cannot end the process. Besides `platform`, this is the only module with
//! unsafe code.
//!
//! Reading a mapped page whose file was truncated, or that the disk cannot read, raises SIGBUS, which by
//! default ends the process. We install a handler, once, when the first file is mapped. When the
//! faulting address lies inside one of our mappings, it puts a page of zeros there, marks the
//! mapping as broken and returns, so that the interrupted read goes on; [`FileMap::is_intact`] then
//! returns false, and the caller discards what it read. Every other SIGBUS goes to the handler that was
//! installed before ours, exactly as without us: the standard library's handler, a crash reporter, or
//! the default action.
//!
//! A file can also change without any signal (a hole punched, bytes overwritten). The store never changes
//! a published file, so a new size or modification time shows such a change: `is_intact` compares both
//! with those at the time of mapping.

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

/// The most files mapped at one time. Further ones are refused, and read by copy instead.
pub const MAX_MAPPINGS: usize = 1024;

/// A whole file, mapped read-only and watched.
pub(crate) struct FileMap {
    /// Declared before `map`, because the watch must end before the address range is given back.
    watch: Watch,
    map: Mmap,
    file: File,
    stamp: Stamp,
}

impl FileMap {
    /// Maps `file` and asks the system to read it ahead.
    pub(crate) fn new(file: File) -> io::Result<FileMap> {
        let stamp = Stamp::of(&file)?;
        // SAFETY: memmap2 asks that nobody changes the file while it is mapped. The store never
        // changes a published file; if someone else does, we read other bytes (every value of u8
        // is valid) or fault, and both are caught: see the module's comment.
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

/// What changes with the content of a file, but not when the file is renamed or unlinked.
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

/// One watched address range. `version` is odd while the range changes, so that the handler, which
/// cannot take a lock, never combines the start of one range with the end of another.
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

/// The indices of free slots. The handler never uses this list.
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

/// Reserves a slot for one mapping.
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

/// The system's page size. The first call, which the handler never makes, caches it.
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

/// The signal action before ours, written once before ours can run.
struct Previous(UnsafeCell<MaybeUninit<libc::sigaction>>);
// SAFETY: written once inside `INSTALL`, before the handler that reads it is installed (sigaction
// is a system call, which orders the write before any later signal), and only read after that.
unsafe impl Sync for Previous {}

static PREVIOUS: Previous = Previous(UnsafeCell::new(MaybeUninit::uninit()));
static INSTALL: Once = Once::new();
static INSTALLED: AtomicBool = AtomicBool::new(false);

fn install_handler() -> io::Result<()> {
    INSTALL.call_once(|| {
        FREE.lock().unwrap_or_else(PoisonError::into_inner).extend(0..MAX_MAPPINGS);
        page_size();
        // SAFETY: `PREVIOUS` has room for the old action, asked for before ours is set, and nobody
        // else reads or writes it yet. `on_sigbus` has the signature SA_SIGINFO demands and calls
        // only what is safe in a handler. SA_ONSTACK keeps the standard library's handler, which
        // we may call, able to report a stack overflow. A zeroed sigaction is a valid one.
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
    // SAFETY: the kernel hands a SA_SIGINFO handler a valid siginfo.
    let (address, code) = unsafe { ((*info).si_addr() as usize, (*info).si_code) };
    // A signal that a process sent has no address, even if the field is set.
    let fault = platform::is_fault(code);
    match SLOTS.iter().find(|slot| fault && slot.contains(address)) {
        Some(slot) if replace_page(address) => slot.broken.store(true, Ordering::Release),
        _ => pass_on(signal, info, context, fault),
    }
}

/// Replaces a page that cannot be read by a page of zeros. `errno` belongs to the interrupted code and
/// is restored.
fn replace_page(address: usize) -> bool {
    let page = page_size();
    let start = (address & !(page - 1)) as *mut libc::c_void;
    // SAFETY: the page lies inside a mapping that a live `Watch` covers: its thread is stopped in
    // the middle of reading it, so it cannot have been unmapped. Replacing it with readable zeros
    // is what a reader of `FileMap::bytes` is promised. `errno_location` is valid for this thread.
    unsafe {
        let errno = *errno_location();
        let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANON;
        let mapped = libc::mmap(start, page, libc::PROT_READ, flags, -1, 0);
        *errno_location() = errno;
        mapped == start
    }
}

/// Gives a signal that is not ours to the action before ours.
fn pass_on(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
    fault: bool,
) {
    type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
    // SAFETY: `PREVIOUS` was written before this handler was installed. A handler's address came
    // from sigaction with flags that say which of the two signatures it has. With the default
    // action put back, returning repeats a faulting instruction, and a sent signal is raised again
    // for the moment the handler returns: either ends the process as it would have without us.
    unsafe {
        let previous = (*PREVIOUS.0.get()).assume_init_ref();
        let handler = previous.sa_sigaction;
        if handler == libc::SIG_IGN && !fault {
            // The signal was ignored before us, and is ignored now.
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
        let mut maps: Vec<_> = (0..MAX_MAPPINGS).map(|_| map().unwrap()).collect();
        assert_eq!(map().err().unwrap().kind(), io::ErrorKind::QuotaExceeded);
        maps.pop();
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
