//! The index log that is being written.

use crate::layout::index::{Frame, encode_frame};

/// A log is folded into a snapshot when it is longer than this and longer than the snapshot.
const COMPACT_BYTES: u64 = 1 << 20;

#[derive(Default)]
pub(crate) struct IndexLog {
    /// The log's generation.
    pub(crate) generation: u64,
    pub(crate) file: Option<Box<dyn crate::disk::WriteFile>>,
    pub(crate) len: u64,
    /// Frames not yet appended.
    pub(crate) pending: Vec<u8>,
    pub(crate) snapshot_len: u64,
    /// True when a snapshot should be written at the next opportunity.
    pub(crate) wants_snapshot: bool,
}

impl IndexLog {
    pub(crate) fn new(generation: u64, wants_snapshot: bool) -> Self {
        IndexLog { generation, wants_snapshot, ..IndexLog::default() }
    }

    pub(crate) fn note(&mut self, frame: &Frame) {
        encode_frame(frame, &mut self.pending);
    }

    pub(crate) fn is_long(&self) -> bool {
        self.len > COMPACT_BYTES.max(self.snapshot_len)
    }
}
