//! What a process and its threads ask of the operating system.

#[cfg(target_vendor = "apple")]
use super::apple as system;
#[cfg(not(target_vendor = "apple"))]
use super::linux as system;
use super::types::{Intent, Pressure, Severity};
use std::ffi::{CString, c_char, c_int};

/// Tells the system what the calling thread, and those that it starts from now on, are for. A
/// refusal changes nothing but the sharing.
pub fn set_intent(intent: Intent) {
    system::set_thread_class(intent);
}

/// The bytes of memory that the process holds and the system cannot take back by itself; `None`
/// where that is not known.
pub fn footprint() -> Option<u64> {
    system::footprint()
}

/// How short of memory the machine is.
pub fn memory_pressure() -> Pressure {
    system::memory_pressure()
}

/// Keeps an idle machine from falling asleep while this value lives. The display may still sleep, and
/// so may a laptop that is closed or has no power left. A refusal of the system changes nothing. On
/// Linux this does nothing: whether a server sleeps is for its administrator to say.
#[derive(Debug)]
pub struct StayAwake {
    assertion: Option<system::Assertion>,
}

impl StayAwake {
    /// Asks the system to stay awake from now on.
    pub fn now() -> Self {
        StayAwake { assertion: system::Assertion::take() }
    }

    /// Whether the system has granted it.
    pub fn is_granted(&self) -> bool {
        self.assertion.is_some()
    }
}

/// Ends the process at once: no destructor runs, and no library cleans up. When a process ends in the
/// ordinary way, MLX waits for its threads, which may take for ever while the engine computes.
pub fn end_process(code: u8) -> ! {
    unsafe extern "C" {
        // <unistd.h>
        safe fn _exit(code: c_int) -> !;
    }
    _exit(code.into())
}

/// Gives memory that was freed back to the system. The allocator keeps some of it for later, which after
/// a large request can be hundreds of megabytes. This takes milliseconds, too long for an async thread.
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

/// Writes a line to the system's log under this program's name. On macOS syslog(3) writes to the unified
/// log, elsewhere to the syslog daemon, if there is one.
pub fn system_log(severity: Severity, line: &str) {
    unsafe extern "C" {
        // <syslog.h>
        fn syslog(priority: c_int, format: *const c_char, ...);
    }
    // LOG_DAEMON with LOG_ERR or LOG_WARNING, which are the same numbers everywhere.
    let priority = (3 << 3) | if severity == Severity::Error { 3 } else { 4 };
    // A NUL would end the text early.
    let Ok(text) = CString::new(line.replace('\0', "")) else { return };
    // SAFETY: both texts end with a NUL and outlive the call; the format takes exactly one of them.
    unsafe { syslog(priority, c"%s".as_ptr(), text.as_ptr()) };
}

#[test]
fn a_line_for_the_system_may_hold_anything() {
    system_log(Severity::Warning, "a test of omlx: %s %n \0 \u{e9}");
    assert!(StayAwake::now().is_granted() || cfg!(target_vendor = "apple"));
}
