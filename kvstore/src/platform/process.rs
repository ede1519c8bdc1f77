//! Services of the operating system for a process and its threads.

#[cfg(target_vendor = "apple")]
use super::apple as system;
#[cfg(not(target_vendor = "apple"))]
use super::linux as system;
use super::types::{Intent, Pressure, Severity};
use std::ffi::{CString, c_char, c_int};

/// Tells the system the purpose of the calling thread and of the threads that it starts later. If
/// the system refuses, only the scheduling differs.
pub fn set_intent(intent: Intent) {
    system::set_thread_class(intent);
}

/// Returns the memory of the process in bytes that the system cannot reclaim by itself. Returns
/// `None` where that is not known.
pub fn footprint() -> Option<u64> {
    system::footprint()
}

/// Returns how short of memory the machine is.
pub fn memory_pressure() -> Pressure {
    system::memory_pressure()
}

/// Keeps an idle machine awake while this value lives. The display may still sleep, and so may a
/// closed laptop or one with an empty battery. If the system refuses, the machine sleeps as usual.
/// On Linux this does nothing: there the administrator decides whether a server sleeps.
#[derive(Debug)]
pub struct StayAwake {
    assertion: Option<system::Assertion>,
}

impl StayAwake {
    /// Requests that the system stay awake from now on.
    pub fn now() -> Self {
        StayAwake { assertion: system::Assertion::take() }
    }

    /// Returns whether the system granted the request.
    pub fn is_granted(&self) -> bool {
        self.assertion.is_some()
    }
}

/// Ends the process at once, without running destructors or library cleanup. In an ordinary exit
/// MLX waits for its threads, which may take for ever while the engine computes.
pub fn end_process(code: u8) -> ! {
    unsafe extern "C" {
        // <unistd.h>
        safe fn _exit(code: c_int) -> !;
    }
    _exit(code.into())
}

/// Returns freed memory to the system. The allocator keeps some of it for later use, which after a
/// large request can be hundreds of megabytes. This takes milliseconds, too long for an async
/// thread.
pub fn give_back_memory() {
    #[cfg(target_vendor = "apple")]
    {
        unsafe extern "C" {
            // <malloc/malloc.h>: a null zone means all zones, and a goal of 0 means as much as
            // possible.
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

/// Writes a line to the system's log under this program's name. On macOS syslog(3) writes to the
/// unified log, and elsewhere to the syslog daemon, if there is one.
pub fn system_log(severity: Severity, line: &str) {
    unsafe extern "C" {
        // <syslog.h>
        fn syslog(priority: c_int, format: *const c_char, ...);
    }
    // LOG_DAEMON with LOG_ERR or LOG_WARNING, which are the same numbers everywhere.
    let priority = (3 << 3) | if severity == Severity::Error { 3 } else { 4 };
    // A NUL would cut the text short.
    let Ok(text) = CString::new(line.replace('\0', "")) else { return };
    // SAFETY: both texts end with a NUL and outlive the call. The format takes exactly one
    // argument.
    unsafe { syslog(priority, c"%s".as_ptr(), text.as_ptr()) };
}

#[test]
fn a_system_log_line_may_contain_any_text() {
    system_log(Severity::Warning, "a test of omlx: %s %n \0 \u{e9}");
    assert!(StayAwake::now().is_granted() || cfg!(target_vendor = "apple"));
}
