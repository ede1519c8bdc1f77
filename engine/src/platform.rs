//! The few calls that differ between macOS and Linux. The Apple half also compiles into Linux's unit
//! tests, so that it is type-checked there; it has not been run.

#[cfg(target_vendor = "apple")]
pub(crate) use apple::memory_pressure;
#[cfg(not(target_vendor = "apple"))]
pub(crate) use linux::memory_pressure;

#[cfg(any(target_vendor = "apple", test))]
#[cfg_attr(not(target_vendor = "apple"), expect(dead_code, reason = "compiled for its types"))]
mod apple {
    use std::ffi::{c_char, c_int, c_void};

    use crate::memory::Pressure;

    unsafe extern "C" {
        // <sys/sysctl.h>
        fn sysctlbyname(
            name: *const c_char,
            old: *mut c_void,
            old_len: *mut usize,
            new: *mut c_void,
            new_len: usize,
        ) -> c_int;
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
    use crate::memory::Pressure;

    /// Share of the last ten seconds, in percent, in which some task waited for memory.
    const SOME_WARNING: f64 = 20.0;
    /// In which all tasks did.
    const FULL_CRITICAL: f64 = 10.0;

    /// The kernel's pressure stall information. Where there is none, all is well.
    pub(crate) fn memory_pressure() -> Pressure {
        std::fs::read_to_string("/proc/pressure/memory")
            .map_or(Pressure::Normal, |text| read(&text))
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
