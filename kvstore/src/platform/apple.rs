//! Calls of macOS. This file is also compiled into the unit tests on Linux, which type-checks it,
//! but its code has not been run there.

#![cfg_attr(not(target_vendor = "apple"), expect(dead_code, reason = "compiled for its types"))]

use super::types::{Intent, Pressure};
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

// From <sys/fcntl.h>, repeated so that this compiles where libc does not define them.
const F_NOCACHE: c_int = 48;
const F_BARRIERFSYNC: c_int = 85;

/// Ensures that everything written to `file` so far reaches the drive before everything written
/// later, without waiting for the drive to empty its cache (F_FULLFSYNC does that and takes about
/// 18 ms).
pub(crate) fn barrier(file: &File) -> io::Result<()> {
    // SAFETY: `file` keeps the descriptor open during the call, and F_BARRIERFSYNC takes no
    // pointer.
    match unsafe { libc::fcntl(file.as_raw_fd(), F_BARRIERFSYNC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Makes aligned reads of `file` leave no pages in the system's cache. They still use pages that
/// are in the cache already.
pub(crate) fn read_directly(file: &File, _len: u64) {
    // SAFETY: `file` keeps the descriptor open during the call, and F_NOCACHE takes an int. If the
    // system refuses, reads go through the cache.
    unsafe { libc::fcntl(file.as_raw_fd(), F_NOCACHE, 1 as c_int) };
}

/// Returns false: reads that are not aligned go through the cache without a further call.
pub(crate) fn read_through_cache(_file: &File) -> bool {
    false
}

/// Does nothing, because macOS has no call to request larger pages for a mapping.
pub(crate) fn wish_for_huge_pages(_memory: &memmap2::MmapMut) {}

/// Tells the system to read a file ahead into its cache. If it refuses, later reads are slower.
pub(crate) fn read_ahead(file: &File, len: u64) {
    const F_RDADVISE: c_int = 44;
    // `struct radvisory` of <sys/fcntl.h>.
    #[repr(C)]
    struct ReadAdvice {
        offset: libc::off_t,
        count: c_int,
    }
    let count = len.min(c_int::MAX as u64) as c_int;
    let advice = ReadAdvice { offset: 0, count };
    // SAFETY: `file` keeps the descriptor open, and `advice` lives during the call, which only
    // reads it.
    unsafe { libc::fcntl(file.as_raw_fd(), F_RDADVISE, &raw const advice) };
}

unsafe extern "C" {
    // <pthread/qos.h>
    fn pthread_set_qos_class_self_np(class: c_uint, priority: c_int) -> c_int;
}

/// Sets the quality-of-service class of the calling thread.
pub(crate) fn set_thread_class(intent: Intent) {
    // From <sys/qos.h>.
    const USER_INITIATED: c_uint = 0x19;
    const UTILITY: c_uint = 0x11;
    let class = match intent {
        Intent::Compute | Intent::Restore => USER_INITIATED,
        Intent::Background => UTILITY,
    };
    // SAFETY: the call takes no pointer and affects only the calling thread.
    unsafe { pthread_set_qos_class_self_np(class, 0) };
}

/// Starts reading the whole file ahead. If the system refuses, later reads are slower.
pub(crate) fn set_up_map(map: &memmap2::Mmap) {
    let _ = map.advise(memmap2::Advice::Sequential);
    let _ = map.advise(memmap2::Advice::WillNeed);
}

/// Does nothing, because faults on 16 KiB pages are cheap.
pub(crate) fn fill_pages(_memory: &memmap2::MmapMut) {}

/// True for a SIGBUS that the kernel raised for a bad access. The codes of sent signals start at
/// SI_USER, 0x10001.
pub(crate) fn is_fault(si_code: c_int) -> bool {
    si_code < 0x10000
}

/// A power assertion of IOKit.
#[derive(Debug)]
pub(crate) struct Assertion(u32);

// <IOKit/pwr_mgt/IOPMLib.h>
#[cfg_attr(target_vendor = "apple", link(name = "IOKit", kind = "framework"))]
unsafe extern "C" {
    fn IOPMAssertionCreateWithName(
        kind: *const c_void,
        level: u32,
        name: *const c_void,
        id: *mut u32,
    ) -> c_int;
    fn IOPMAssertionRelease(id: u32) -> c_int;
}

// <CoreFoundation/CFString.h>
#[cfg_attr(target_vendor = "apple", link(name = "CoreFoundation", kind = "framework"))]
unsafe extern "C" {
    fn CFStringCreateWithCString(
        allocator: *const c_void,
        text: *const c_char,
        encoding: u32,
    ) -> *const c_void;
    fn CFRelease(object: *const c_void);
}

impl Assertion {
    pub(crate) fn take() -> Option<Assertion> {
        const UTF8: u32 = 0x0800_0100; // kCFStringEncodingUTF8
        const ON: u32 = 255; // kIOPMAssertionLevelOn
        let mut id = 0;
        // SAFETY: the texts end with a NUL and are copied. A string that could not be made is not
        // used, and each one that was made is released once. `id` outlives the call that writes it.
        unsafe {
            let string = |text: &std::ffi::CStr| {
                CFStringCreateWithCString(std::ptr::null(), text.as_ptr(), UTF8)
            };
            let kind = string(c"PreventUserIdleSystemSleep");
            let name = string(c"omlxd answers requests");
            let mut status = -1;
            if !kind.is_null() && !name.is_null() {
                status = IOPMAssertionCreateWithName(kind, ON, name, &raw mut id);
            }
            [kind, name].into_iter().filter(|made| !made.is_null()).for_each(|s| CFRelease(s));
            (status == 0).then_some(Assertion(id))
        }
    }
}

impl Drop for Assertion {
    fn drop(&mut self) {
        // SAFETY: the call takes no pointer, and the assertion with this number is not released
        // yet.
        unsafe { IOPMAssertionRelease(self.0) };
    }
}

unsafe extern "C" {
    // <sys/sysctl.h>
    fn sysctlbyname(
        name: *const c_char,
        old: *mut c_void,
        old_len: *mut usize,
        new: *mut c_void,
        new_len: usize,
    ) -> c_int;
    // <libproc.h>
    fn proc_pid_rusage(pid: c_int, flavor: c_int, buffer: *mut c_void) -> c_int;
}

/// `RUSAGE_INFO_V0` of <sys/resource.h>.
const RUSAGE_INFO_V0: c_int = 0;

/// `struct rusage_info_v0` of <sys/resource.h>.
#[repr(C)]
#[derive(Default)]
struct RusageInfo {
    uuid: [u8; 16],
    user_time: u64,
    system_time: u64,
    pkg_idle_wakeups: u64,
    interrupt_wakeups: u64,
    pageins: u64,
    wired_size: u64,
    resident_size: u64,
    phys_footprint: u64,
    proc_start_abstime: u64,
    proc_exit_abstime: u64,
}

/// The memory of the process, as Activity Monitor shows it.
pub(crate) fn footprint() -> Option<u64> {
    let mut info = RusageInfo::default();
    let pid = std::process::id() as c_int;
    // SAFETY: `info` has the layout that this flavor fills and outlives the call.
    let status = unsafe { proc_pid_rusage(pid, RUSAGE_INFO_V0, (&raw mut info).cast()) };
    (status == 0).then_some(info.phys_footprint)
}

/// The pressure level that the kernel reports: 1 normal, 2 warning, 4 critical.
pub(crate) fn memory_pressure() -> Pressure {
    let mut level: c_int = 0;
    let mut len = size_of::<c_int>();
    // SAFETY: the name ends with a NUL. `level` and `len` outlive the call, which writes at most
    // `len` bytes. No value is set.
    let status = unsafe {
        sysctlbyname(
            c"kern.memorystatus_vm_pressure_level".as_ptr(),
            (&raw mut level).cast(),
            &raw mut len,
            std::ptr::null_mut(),
            0,
        )
    };
    match (status, level) {
        (0, 2) => Pressure::Warning,
        (0, 4..) => Pressure::Critical,
        _ => Pressure::Normal,
    }
}
