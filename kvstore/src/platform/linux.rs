//! The Linux half.

use super::types::{Intent, Pressure};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{ReadWriteFlags, preadv2};
use std::fs::File;
use std::io::{self, IoSliceMut};

/// Sets the nice value of the calling thread. It is positive, so that other programs come first.
pub(crate) fn set_thread_class(intent: Intent) {
    let nice = match intent {
        Intent::Compute | Intent::Restore => 5,
        Intent::Background => 10,
    };
    // Zero means the calling thread.
    let _ = rustix::process::setpriority_process(None, nice);
}

/// Waits until the file is on the medium: Linux has no barrier without a flush.
pub(crate) fn barrier(file: &File) -> io::Result<()> {
    file.sync_data()
}

/// Makes reads of `file`, which must be aligned, go past the system's cache; except when the end of the
/// file is in the cache, because then most likely all of it is, and the cache is faster than any disk.
/// If the system refuses, reads go through the cache.
pub(crate) fn read_directly(file: &File, len: u64) {
    let mut last = [0];
    let mut into = [IoSliceMut::new(&mut last)];
    let end = len.saturating_sub(1);
    if preadv2(file, &mut into, end, ReadWriteFlags::NOWAIT).is_err() {
        let _ = fcntl_setfl(file, OFlags::DIRECT);
    }
}

/// Ends the effect of [`read_directly`]. False when it had none.
pub(crate) fn read_through_cache(file: &File) -> bool {
    let direct = fcntl_getfl(file).is_ok_and(|flags| flags.contains(OFlags::DIRECT));
    direct && fcntl_setfl(file, OFlags::empty()).is_ok()
}

/// Asks for huge pages. The disk reads faster into memory in one piece, which also costs only one fault.
/// If the system refuses, reads are only slower.
pub(crate) fn wish_for_huge_pages(memory: &memmap2::MmapMut) {
    let _ = memory.advise(memmap2::Advice::HugePage);
}

/// Brings a file into the system's cache through a mapping, which makes large pages. (Plain reads make
/// small ones, and take twice the processor time.) A failure only means a slower read later.
pub(crate) fn read_ahead(file: &File, _len: u64) {
    // SAFETY: nothing reads through this mapping, so it does not matter if the file changes meanwhile.
    // A page that cannot be read ends the advice with an error, not with a signal.
    if let Ok(map) = unsafe { memmap2::Mmap::map(file) } {
        set_up_map(&map);
    }
}

/// Reads the file in large pieces into large pages, and maps all of them at once instead of with one
/// fault for every few pages. This stops at a page that cannot be read; reading that page faults later.
pub(crate) fn set_up_map(map: &memmap2::Mmap) {
    let _ = map.advise(memmap2::Advice::HugePage);
    let _ = map.advise(memmap2::Advice::PopulateRead);
}

/// Makes the pages of new memory at once, because one fault for each would take longer than copying bytes
/// into them. The pages are not huge ones: while the page cache fills, making room for those was measured
/// to take longer than all other work of a read. A failure only costs time.
pub(crate) fn fill_pages(memory: &memmap2::MmapMut) {
    let _ = memory.advise(memmap2::Advice::PopulateWrite);
}

/// True for a SIGBUS that the kernel raised for a bad access; sent signals have codes <= 0.
pub(crate) fn is_fault(si_code: std::ffi::c_int) -> bool {
    si_code > 0
}

/// Stands for a power assertion, which Linux does not have.
#[derive(Debug)]
pub(crate) struct Assertion;

impl Assertion {
    pub(crate) fn take() -> Option<Assertion> {
        Some(Assertion)
    }
}

/// Memory pressure is a warning when some task waited for memory for this share of the last ten seconds,
/// in percent.
const SOME_WARNING: f64 = 20.0;
/// Memory pressure is critical when all tasks waited for this share of them.
const FULL_CRITICAL: f64 = 10.0;

/// The memory pressure from the kernel's pressure stall information; normal if there is none.
pub(crate) fn memory_pressure() -> Pressure {
    std::fs::read_to_string("/proc/pressure/memory").map_or(Pressure::Normal, |text| read(&text))
}

/// The anonymous memory of the process, which no file backs.
pub(crate) fn footprint() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[test]
fn the_footprint_is_that_of_this_process() {
    let before = footprint().unwrap();
    let memory = vec![1_u8; 64 << 20];
    let more = footprint().unwrap().saturating_sub(before);
    assert!(more >= memory.len() as u64 / 2, "{more} bytes more");
}

fn read(text: &str) -> Pressure {
    let average = |kind: &str| {
        let line = text.lines().find(|line| line.starts_with(kind))?;
        let field = line.split(' ').find_map(|field| field.strip_prefix("avg10="))?;
        field.parse::<f64>().ok()
    };
    if average("full").is_some_and(|share| share >= FULL_CRITICAL) {
        Pressure::Critical
    } else if average("some").is_some_and(|share| share >= SOME_WARNING) {
        Pressure::Warning
    } else {
        Pressure::Normal
    }
}

#[test]
fn pressure_is_read_from_the_kernels_text() {
    let text = |some: &str, full: &str| {
        format!(
            "some avg10={some} avg60=0.00 avg300=0.00 total=5\n\
             full avg10={full} avg60=0.00 avg300=0.00 total=5\n"
        )
    };
    assert_eq!(read(&text("0.00", "0.00")), Pressure::Normal);
    assert_eq!(read(&text("35.10", "2.00")), Pressure::Warning);
    assert_eq!(read(&text("80.00", "12.50")), Pressure::Critical);
    assert_eq!(read("nothing of the kind"), Pressure::Normal);
}
