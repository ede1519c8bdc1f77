//! What the store's threads are doing.

/// The store's lifecycle and the writer's current work. `scanned` and `stopping` never become false
/// again.
#[derive(Debug)]
pub(crate) struct Activity {
    /// A scan has seen everything since the store was opened. Until then nothing is written.
    scanned: bool,
    /// A scan is in progress or about to begin.
    scanning: bool,
    /// The writer is busy.
    writing: bool,
    stopping: bool,
}

impl Default for Activity {
    /// A newly opened store: its first work is a scan.
    fn default() -> Self {
        Activity { scanned: false, scanning: true, writing: false, stopping: false }
    }
}

impl Activity {
    pub(crate) fn has_scanned(&self) -> bool {
        self.scanned
    }

    /// Records that a scan has seen everything. Returns true for the first such scan.
    pub(crate) fn complete_scan(&mut self) -> bool {
        !std::mem::replace(&mut self.scanned, true)
    }

    pub(crate) fn is_scanning(&self) -> bool {
        self.scanning
    }

    pub(crate) fn begin_scan(&mut self) {
        self.scanning = true;
    }

    /// Records the end of a scan, whether or not it saw everything.
    pub(crate) fn end_scan(&mut self) {
        self.scanning = false;
    }

    pub(crate) fn is_writing(&self) -> bool {
        self.writing
    }

    pub(crate) fn begin_writing(&mut self) {
        self.writing = true;
    }

    pub(crate) fn end_writing(&mut self) {
        self.writing = false;
    }

    /// True once the store is closing.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping
    }

    pub(super) fn stop(&mut self) {
        self.stopping = true;
    }
}
