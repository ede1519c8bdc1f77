//! The log of the index to which the writer appends.

use crate::layout::index::{Frame, encode_frame};

/// A new snapshot replaces the log when the log is longer than this, and longer than the last snapshot.
const COMPACT_BYTES: u64 = 1 << 20;

#[derive(Default)]
pub(crate) struct IndexLog {
    /// The generation of the log.
    pub(crate) generation: u64,
    pub(crate) file: Option<Box<dyn crate::disk::WriteFile>>,
    pub(crate) len: u64,
    /// Frames that are not appended yet.
    pub(crate) pending: Vec<u8>,
    pub(crate) snapshot_len: u64,
    /// The writer should write a snapshot as soon as it can.
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
