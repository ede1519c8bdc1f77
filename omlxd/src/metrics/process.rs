//! The process itself: the `prometheus` crate's own collector knows Linux only, and Macs matter.

use prometheus::{Gauge, IntGauge};

use super::Make;

/// Series of the process, read at each scrape.
#[derive(Debug)]
pub(super) struct ProcessMetrics {
    cpu_seconds: Gauge,
    resident_bytes: IntGauge,
    start_time: Gauge,
    open_fds: IntGauge,
}

/// What the system says of this process.
#[derive(Debug, Default, PartialEq)]
struct Usage {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<i64>,
    /// Since 1970.
    start_seconds: Option<f64>,
    open_fds: Option<i64>,
}

impl ProcessMetrics {
    pub(super) fn new(make: &Make<'_>) -> Self {
        ProcessMetrics {
            cpu_seconds: make.float_gauge("process_cpu_seconds_total", "User and system CPU time."),
            resident_bytes: make
                .gauge("process_resident_memory_bytes", "Resident memory of the process."),
            start_time: make
                .float_gauge("process_start_time_seconds", "When the process started, since 1970."),
            open_fds: make.gauge("process_open_fds", "Open file descriptors."),
        }
    }

    /// Reads the system's figures; one that cannot be read stays as it was.
    pub(super) fn update(&self) {
        let usage = platform::usage();
        if let Some(seconds) = usage.cpu_seconds {
            self.cpu_seconds.set(seconds);
        }
        if let Some(bytes) = usage.resident_bytes {
            self.resident_bytes.set(bytes);
        }
        if let Some(seconds) = usage.start_seconds {
            self.start_time.set(seconds);
        }
        if let Some(count) = usage.open_fds {
            self.open_fds.set(count);
        }
    }
}

/// The processor's name; `unknown` when the system does not say.
pub(super) fn chip() -> String {
    let mut system = sysinfo::System::new();
    system.refresh_cpu_list(sysinfo::CpuRefreshKind::nothing());
    let brand = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned());
    brand.filter(|brand| !brand.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(target_os = "linux")]
mod platform {
    use super::Usage;
    use std::fs;

    /// From `/proc`, see proc(5).
    pub(super) fn usage() -> Usage {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The name in parentheses may hold anything; fields are counted after it, from 3.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let page = rustix::param::page_size() as i64;
        let booted = fs::read_to_string("/proc/stat").ok().and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("btime "))?;
            line.trim().parse::<f64>().ok()
        });
        Usage {
            cpu_seconds: number(14).zip(number(15)).map(|(user, system)| (user + system) / ticks),
            resident_bytes: number(24).map(|pages| pages as i64 * page),
            start_seconds: booted.zip(number(22)).map(|(boot, start)| boot + start / ticks),
            open_fds: fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count() as i64 - 1),
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod platform {
    use super::Usage;
    use std::sync::LazyLock;
    use std::time::{SystemTime, UNIX_EPOCH};

    static START: LazyLock<Option<f64>> = LazyLock::new(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs_f64())
    });

    /// Without `/proc`: what the standard library can tell. Memory and CPU time need
    /// `proc_pid_rusage`.
    pub(super) fn usage() -> Usage {
        let fds = std::fs::read_dir("/dev/fd").ok().map(|fds| fds.count() as i64 - 1);
        Usage { start_seconds: *START, open_fds: fds, ..Usage::default() }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    #[test]
    fn proc_is_read() {
        let usage = super::platform::usage();
        assert!(usage.cpu_seconds.is_some_and(|seconds| seconds < 1e6));
        assert!(usage.resident_bytes.is_some_and(|bytes| bytes > 1 << 20));
        assert!(usage.start_seconds.is_some_and(|start| start > 1.6e9));
        assert!(usage.open_fds.is_some_and(|fds| fds >= 3));
    }
}
