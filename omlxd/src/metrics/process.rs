//! The process itself: the `prometheus` crate's own collector knows Linux only, and Macs matter.

use std::sync::{Mutex, PoisonError};

use engine::{MemorySensor, SystemSensor};
use prometheus::{Counter, IntGauge};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use super::make::Make;

/// Series of the process, read at each scrape.
#[derive(Debug)]
pub(super) struct ProcessMetrics {
    cpu_seconds: Counter,
    resident_bytes: IntGauge,
    start_time: IntGauge,
    open_fds: IntGauge,
    written_bytes: Counter,
    footprint_bytes: IntGauge,
    /// Counters are brought up to the system's totals by one scrape at a time.
    reading: Mutex<()>,
}

impl ProcessMetrics {
    pub(super) fn new(make: &Make<'_>) -> Self {
        ProcessMetrics {
            cpu_seconds: make.counter("process_cpu_seconds_total", "User and system CPU time."),
            resident_bytes: make
                .gauge("process_resident_memory_bytes", "Resident memory of the process."),
            start_time: make
                .gauge("process_start_time_seconds", "When the process started, since 1970."),
            open_fds: make.gauge("process_open_fds", "Open file descriptors."),
            written_bytes: make.counter(
                "omlx_process_disk_written_bytes_total",
                "What the process had the system write to disks.",
            ),
            footprint_bytes: make.gauge(
                "omlx_process_phys_footprint_bytes",
                "Memory that the system cannot take back: what macOS calls the footprint; on Linux, \
                 what no file stands behind.",
            ),
            reading: Mutex::default(),
        }
    }

    /// Reads the system's figures; one that cannot be read stays as it was.
    pub(super) fn update(&self) {
        let pid = Pid::from_u32(std::process::id());
        let mut system = System::new();
        let wanted = ProcessRefreshKind::nothing().with_cpu().with_memory().with_disk_usage();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, wanted);
        let Some(process) = system.process(pid) else { return };
        let gauge = |gauge: &IntGauge, value| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        let _one_at_a_time = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let counter = |counter: &Counter, total: f64| {
            counter.inc_by((total - counter.get()).max(0.0));
        };
        counter(&self.cpu_seconds, process.accumulated_cpu_time() as f64 / 1e3);
        counter(&self.written_bytes, process.disk_usage().total_written_bytes as f64);
        gauge(&self.resident_bytes, process.memory());
        gauge(&self.start_time, process.start_time());
        if let Some(footprint) = SystemSensor.footprint() {
            gauge(&self.footprint_bytes, footprint);
        }
        if let Some(open) = process.open_files() {
            gauge(&self.open_fds, open as u64);
        }
    }
}

/// The processor's name; `unknown` when the system does not say.
pub(super) fn chip() -> String {
    let mut system = System::new();
    system.refresh_cpu_list(sysinfo::CpuRefreshKind::nothing());
    let brand = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned());
    brand.filter(|brand| !brand.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_system_tells_of_this_process() {
        let registry = prometheus::Registry::new();
        let metrics = ProcessMetrics::new(&Make { registry: &registry });
        metrics.update();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        assert!((now - 3600..=now).contains(&metrics.start_time.get()));
        assert!(metrics.resident_bytes.get() > 1 << 20);
        assert!(metrics.open_fds.get() >= 3);
        assert!(metrics.footprint_bytes.get() > 1 << 20);
        let before = metrics.cpu_seconds.get();
        assert!(before < 1e6);
        // Computing takes CPU time.
        let mut sum = 0u64;
        let mut rounds = 0u64;
        while metrics.cpu_seconds.get() <= before {
            sum = (0..10_000_000).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
            rounds += 1;
            assert!(rounds < 1000, "CPU time does not grow: {before}");
            metrics.update();
        }
    }
}
