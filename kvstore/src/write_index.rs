//! Writes the index: a log of changes, and from time to time a snapshot that replaces old logs.

use crate::core::Core;
use crate::layout::index::{Frame, Role, encode_file_header, encode_frame};
use crate::layout::{ALIGN, align_up};
use crate::paths;
use crate::stats::Op;
use crate::writer::Writer;
use std::path::{Path, PathBuf};

impl Writer {
    /// Appends the changes of this step to the log. The index only speeds up opening: if there is
    /// no space for it, or the disk fails, the log ends here, and the next scan corrects it.
    pub(crate) fn flush_index(&mut self, core: &Core) {
        // Before the first scan it is unknown how much space there is.
        if self.index.pending.is_empty() || !core.state().activity.has_scanned() {
            return;
        }
        if self.index.file.is_none() && !self.start_log(core) {
            self.index.pending.clear();
            return;
        }
        let path = paths::index(Role::Log, self.index.generation);
        // Freeing space may itself add frames.
        let mut after = self.index.len + self.index.pending.len() as u64;
        while self.disk_usage.bytes(&path) < after {
            if !self.grow(core, &path, align_up(after)) {
                self.abandon_log();
                return;
            }
            after = self.index.len + self.index.pending.len() as u64;
        }
        let Some(file) = &mut self.index.file else { return };
        match file.append(&self.index.pending) {
            Ok(()) => {
                self.index.len = after;
                self.index.pending.clear();
            }
            Err(error) => {
                core.count_error(Op::Write, &error);
                self.abandon_log();
            }
        }
    }

    fn abandon_log(&mut self) {
        self.index.file = None;
        self.index.pending.clear();
        self.index.generation += 1;
        self.index.wants_snapshot = true;
    }

    /// Creates the log of the current generation.
    fn start_log(&mut self, core: &Core) -> bool {
        let generation = self.index.generation;
        let path = paths::index(Role::Log, generation);
        if !self.grow(core, &path, ALIGN) {
            return false;
        }
        let header = encode_file_header(Role::Log, generation);
        let made = core.disk.create(&path).and_then(|mut file| {
            file.append(&header)?;
            Ok(file)
        });
        match made {
            Ok(file) => {
                self.index.file = Some(file);
                self.index.len = header.len() as u64;
                true
            }
            Err(error) => {
                core.count_error(Op::Write, &error);
                // The file stays counted, because part of it may exist until the next scan.
                self.index.generation += 1;
                false
            }
        }
    }

    /// Reserves space for one of the store's own files to become `bytes` long.
    fn grow(&mut self, core: &Core, path: &Path, bytes: u64) -> bool {
        let more = bytes.saturating_sub(self.disk_usage.bytes(path));
        if more > 0 {
            if self.make_room(core, None, more).is_err() {
                return false;
            }
            core.state().ledger.settle(None, more, more, more);
            self.disk_usage.add_settled(path, more);
        }
        true
    }

    pub(crate) fn wants_snapshot(&self) -> bool {
        self.index.wants_snapshot || self.index.is_long()
    }

    /// Starts a new log, writes all known records into a snapshot, and then removes the older
    /// files. In this order the newest snapshot and the logs from its generation on are complete at
    /// every moment.
    pub(crate) fn write_snapshot(&mut self, core: &Core) {
        self.index.wants_snapshot = false;
        self.flush_index(core);
        let older = self.index_files(|_, _| true);
        self.index.generation += 1;
        self.index.file = None;
        if !self.start_log(core) {
            return;
        }
        let generation = self.index.generation;
        let bytes = snapshot_bytes(core, generation);
        let path = paths::index(Role::Snapshot, generation);
        if !self.grow(core, &path, align_up(bytes.len() as u64)) {
            return;
        }
        let temporary = paths::temporary(self.next_temporary());
        let written = core.disk.create(&temporary).and_then(|mut file| {
            file.append(&bytes)?;
            file.barrier()?;
            core.disk.rename(&temporary, &path)
        });
        if let Err(error) = written {
            core.count_error(Op::Write, &error);
            if core.unlink(&temporary) {
                self.disk_usage.remove(&mut core.state().ledger, &path);
            }
            return;
        }
        self.index.snapshot_len = bytes.len() as u64;
        for path in older {
            if core.unlink(&path) {
                self.disk_usage.remove(&mut core.state().ledger, &path);
            }
        }
    }

    /// The index files that the disk usage lists.
    fn index_files(&self, which: impl Fn(Role, u64) -> bool) -> Vec<PathBuf> {
        self.disk_usage.others(|path| {
            let named = path
                .strip_prefix(paths::INDEX)
                .ok()
                .and_then(|n| paths::parse_index(n.as_os_str()));
            !named.is_some_and(|(role, generation)| which(role, generation))
        })
    }
}

/// Encodes all known records, least recently used first, so that reading them restores the order.
fn snapshot_bytes(core: &Core, generation: u64) -> Vec<u8> {
    let mut bytes = encode_file_header(Role::Snapshot, generation).to_vec();
    let ((day, spent), stored) = {
        let state = core.state();
        let ids = state.blocks.by_age();
        let stored: Vec<_> = ids.iter().filter_map(|id| state.stored(id)).collect();
        (state.ledger.spent(), stored)
    };
    // Checksums take too long to be computed under the lock.
    encode_frame(&Frame::Spent { day, bytes: spent }, &mut bytes);
    stored.into_iter().for_each(|stored| encode_frame(&Frame::Add(stored), &mut bytes));
    bytes
}
