//! The few calls that differ between macOS and Linux. The Apple half also compiles into Linux's unit
//! tests, so that it is type-checked there; it has not been run.

use std::ffi::{CString, c_char, c_int};

#[cfg(target_vendor = "apple")]
pub(crate) use apple::{footprint, memory_pressure};
#[cfg(not(target_vendor = "apple"))]
pub(crate) use linux::{footprint, memory_pressure};

#[cfg(target_vendor = "apple")]
use apple::Assertion;
#[cfg(not(target_vendor = "apple"))]
use linux::Assertion;

/// Keeps the machine from falling asleep for being idle, for as long as it lives. The display may
/// sleep, and so may a closed or empty laptop. A refusal changes nothing. On Linux it does nothing:
/// whether a server sleeps is its administrator's affair.
#[derive(Debug)]
pub struct StayAwake {
    held: Option<Assertion>,
}

impl StayAwake {
    /// From now on.
    pub fn now() -> Self {
        StayAwake { held: Assertion::take() }
    }

    /// Whether the system has granted it.
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }
}

/// Ends the process here and now: no destructor, no clean-up of libraries. MLX's own, which an ordinary
/// end of a process runs, waits for its threads and may wait for ever while the engine computes.
pub fn end_process(code: u8) -> ! {
    unsafe extern "C" {
        // <unistd.h>
        safe fn _exit(code: c_int) -> !;
    }
    _exit(code.into())
}

/// Gives memory that was freed back to the system. The allocator keeps some for the next request, which
/// after a large one would be hundreds of megabytes. Takes milliseconds: not for an async thread.
pub fn give_back_memory() {
    #[cfg(target_vendor = "apple")]
    {
        unsafe extern "C" {
            // <malloc/malloc.h>: a null zone is all of them, and 0 as much as there is.
            safe fn malloc_zone_pressure_relief(zone: *mut std::ffi::c_void, goal: usize) -> usize;
        }
        malloc_zone_pressure_relief(std::ptr::null_mut(), 0);
    }
    #[cfg(target_env = "gnu")]
    {
        unsafe extern "C" {
            // <malloc.h>
            safe fn malloc_trim(keep: usize) -> c_int;
        }
        malloc_trim(0);
    }
}

/// How bad a line of the system's log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Something failed.
    Error,
    /// Something may.
    Warning,
}

/// Writes a line to the system's log under this program's name: on macOS syslog(3) ends in the unified
/// log, elsewhere at the syslog daemon, if there is one.
pub fn system_log(severity: Severity, line: &str) {
    unsafe extern "C" {
        // <syslog.h>
        fn syslog(priority: c_int, format: *const c_char, ...);
    }
    // LOG_DAEMON with LOG_ERR or LOG_WARNING, which are the same numbers everywhere.
    let priority = (3 << 3) | if severity == Severity::Error { 3 } else { 4 };
    // A NUL would end it early.
    let Ok(text) = CString::new(line.replace('\0', "")) else { return };
    // SAFETY: both texts end with a NUL and outlive the call; the format takes exactly one of them.
    unsafe { syslog(priority, c"%s".as_ptr(), text.as_ptr()) };
}

#[test]
fn a_line_for_the_system_may_hold_anything() {
    system_log(Severity::Warning, "a test of omlx: %s %n \0 \u{e9}");
    assert!(StayAwake::now().is_held() || cfg!(target_vendor = "apple"));
}

#[cfg(any(target_vendor = "apple", test))]
#[cfg_attr(not(target_vendor = "apple"), expect(dead_code, reason = "compiled for its types"))]
mod apple {
    use std::ffi::{c_char, c_int, c_void};

    use crate::types::Pressure;

    /// A power assertion of IOKit.
    #[derive(Debug)]
    pub(super) struct Assertion(u32);

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
        pub(super) fn take() -> Option<Assertion> {
            const UTF8: u32 = 0x0800_0100; // kCFStringEncodingUTF8
            const ON: u32 = 255; // kIOPMAssertionLevelOn
            let mut id = 0;
            // SAFETY: the texts end with a NUL and are copied; a string that could not be made is not
            // used, and each that was made is released once; `id` outlives the call that writes it.
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
            // SAFETY: takes no pointer; the number is of an assertion that was not released yet.
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

    /// What Activity Monitor calls the memory of the process.
    pub(crate) fn footprint() -> Option<u64> {
        let mut info = RusageInfo::default();
        let pid = std::process::id() as c_int;
        // SAFETY: `info` has the layout that this flavor fills and outlives the call.
        let status = unsafe { proc_pid_rusage(pid, RUSAGE_INFO_V0, (&raw mut info).cast()) };
        (status == 0).then_some(info.phys_footprint)
    }

    /// The level that the kernel tells: 1 normal, 2 warning, 4 critical.
    pub(crate) fn memory_pressure() -> Pressure {
        let mut level: c_int = 0;
        let mut len = size_of::<c_int>();
        // SAFETY: the name ends with a NUL; `level` and `len` outlive the call, which writes at most
        // `len` bytes; nothing is set.
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
}

#[cfg(not(target_vendor = "apple"))]
mod linux {
    use crate::types::Pressure;

    /// Nothing that can be held.
    #[derive(Debug)]
    pub(super) struct Assertion;

    impl Assertion {
        pub(super) fn take() -> Option<Assertion> {
            Some(Assertion)
        }
    }

    /// Share of the last ten seconds, in percent, in which some task waited for memory.
    const SOME_WARNING: f64 = 20.0;
    /// In which all tasks did.
    const FULL_CRITICAL: f64 = 10.0;

    /// The kernel's pressure stall information. Where there is none, all is well.
    pub(crate) fn memory_pressure() -> Pressure {
        std::fs::read_to_string("/proc/pressure/memory")
            .map_or(Pressure::Normal, |text| read(&text))
    }

    /// Memory of the process that no file stands behind.
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
}
