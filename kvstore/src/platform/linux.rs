//! Calls of Linux.

use super::types::{Intent, Pressure};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{ReadWriteFlags, preadv2};
use std::fs::File;
use std::io::{self, IoSliceMut};

/// Sets the calling thread's nice value: positive values let other programs run first.
pub(crate) fn set_thread_class(intent: Intent) {
    let nice = match intent {
        Intent::Compute | Intent::Restore => 5,
        Intent::Background => 10,
    };
    // Zero means the calling thread.
    let _ = rustix::process::setpriority_process(None, nice);
}

/// Linux has no write barrier without a flush.
pub(crate) fn barrier(file: &File) -> io::Result<()> {
    file.sync_data()
}

/// Makes reads of `file`, which must be aligned, bypass the system's cache. This is skipped when
/// the end of the file is cached: then most likely the whole file is, and the cache is faster than
/// any disk. If the system refuses, reads go through the cache.
pub(crate) fn read_directly(file: &File, len: u64) {
    let mut last = [0];
    let mut into = [IoSliceMut::new(&mut last)];
    let end = len.saturating_sub(1);
    if preadv2(file, &mut into, end, ReadWriteFlags::NOWAIT).is_err() {
        let _ = fcntl_setfl(file, OFlags::DIRECT);
    }
}

/// Ends [`read_directly`]. Returns false when it was not in effect.
pub(crate) fn read_through_cache(file: &File) -> bool {
    let direct = fcntl_getfl(file).is_ok_and(|flags| flags.contains(OFlags::DIRECT));
    direct && fcntl_setfl(file, OFlags::empty()).is_ok()
}

/// Requests huge pages: the disk reads faster into contiguous memory, and each costs a single
/// fault. If the system refuses, reads are only slower.
pub(crate) fn wish_for_huge_pages(memory: &memmap2::MmapMut) {
    let _ = memory.advise(memmap2::Advice::HugePage);
}

/// Brings a file into the system's cache in the largest pages that a mapping can have. Reading the
/// file would give small pages, at twice the processor time. If the system refuses, later reads are
/// slower.
pub(crate) fn read_ahead(file: &File, _len: u64) {
    // SAFETY: no code reads through this mapping, so changes to the file do no harm. A page that
    // cannot be read ends the advice with an error, not with a signal.
    if let Ok(map) = unsafe { memmap2::Mmap::map(file) } {
        set_up_map(&map);
    }
}

/// Makes the system read the file in large pieces into large pages and map all of them at once,
/// which saves one fault for every few pages. It stops at a page that cannot be read, and touching
/// that page faults as usual.
pub(crate) fn set_up_map(map: &memmap2::Mmap) {
    let _ = map.advise(memmap2::Advice::HugePage);
    let _ = map.advise(memmap2::Advice::PopulateRead);
}

/// Makes the system allocate the pages of new memory at once, because single faults cost more than
/// copying the data into the pages. It does not request huge pages: while the page cache fills up,
/// freeing memory for huge pages was measured to cost more than all other steps of a read. If the
/// system refuses, copying is only slower.
pub(crate) fn fill_pages(memory: &memmap2::MmapMut) {
    let _ = memory.advise(memmap2::Advice::PopulateWrite);
}

/// True for a SIGBUS that the kernel raised for a bad access; sent signals have codes <= 0.
pub(crate) fn is_fault(si_code: std::ffi::c_int) -> bool {
    si_code > 0
}

/// An empty value: this system has no power assertions.
#[derive(Debug)]
pub(crate) struct Assertion;

impl Assertion {
    pub(crate) fn take() -> Option<Assertion> {
        Some(Assertion)
    }
}

/// Percentage of the last ten seconds in which at least one task waited for memory.
const SOME_WARNING: f64 = 20.0;
/// Percentage of the last ten seconds in which all tasks waited for memory.
const FULL_CRITICAL: f64 = 10.0;

/// Reads the kernel's pressure stall information. Without it the pressure counts as normal.
pub(crate) fn memory_pressure() -> Pressure {
    std::fs::read_to_string("/proc/pressure/memory").map_or(Pressure::Normal, |text| read(&text))
}

/// Memory of the process that is not backed by a file.
pub(crate) fn footprint() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[test]
fn the_footprint_is_that_of_this_process() {
    let before = footprint().unwrap();
    let held = vec![1_u8; 64 << 20];
    let more = footprint().unwrap().saturating_sub(before);
    assert!(more >= held.len() as u64 / 2, "{more} bytes more");
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
