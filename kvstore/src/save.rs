//! The writer, which changes the disk: it deletes, scans and saves, one task at a time.

use crate::core::Core;
use crate::disk_usage::Owner;
use crate::key::{BlockId, Namespace};
use crate::layout::index::Frame;
use crate::layout::record::Header;
use crate::paths;
use crate::record::Resident;
use crate::state::delete_queue::Delete;
use crate::state::ledger::Refusal;
use crate::state::save_queue::Save;
use crate::stats::{DropReason, EvictReason, Op};
use crate::writer::Scan;
use crate::writer::{PAUSE, Writer};
use std::io;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_128;

/// Bytes written between two checks for waiting reads.
const CHUNK: usize = 4 << 20;
/// Bytes reserved for each save in addition to the file: the file system's metadata for the file
/// and the growth of its folder.
const SLACK: u64 = 64 << 10;
/// Bytes reserved for each new folder.
const DIR_ROOM: u64 = 16 << 10;
/// Number of damaged records kept for inspection. Older ones are removed.
const MAX_DAMAGED: usize = 16;
enum Job {
    Delete(Delete),
    Scan,
    Snapshot,
    Save(Save),
}

impl Writer {
    /// Does one task. Returns false when there is none.
    pub(crate) fn step(&mut self, core: &Core) -> bool {
        let Some(job) = self.next_job(core) else { return false };
        match job {
            Job::Delete(delete) => self.delete(core, delete),
            Job::Scan => self.scan_step(core),
            Job::Snapshot => self.write_snapshot(core),
            Job::Save(save) => self.save(core, save),
        }
        self.flush_index(core);
        core.state().activity.end_writing();
        core.done.notify_all();
        true
    }

    fn next_job(&mut self, core: &Core) -> Option<Job> {
        let mut state = core.state();
        if self.scan.is_none() && core.clock.monotonic() >= self.next_scan {
            state.activity.begin_scan();
            self.scan = Some(Scan::new(core.clock.monotonic()));
        }
        let job = if let Some(delete) = state.deletes.pop() {
            Job::Delete(delete)
        } else if self.scan.is_some() {
            Job::Scan
        } else if !state.activity.has_scanned() {
            return None;
        } else if self.wants_snapshot() {
            Job::Snapshot
        } else {
            Job::Save(state.saves.pop()?)
        };
        state.activity.begin_writing();
        Some(job)
    }

    /// Writes a complete index, as the last task before the store closes.
    pub(crate) fn finish(&mut self, core: &Core) {
        if core.state().activity.has_scanned() {
            self.write_snapshot(core);
        }
    }

    // ---- removing ----------------------------------------------------------------------------

    fn delete(&mut self, core: &Core, delete: Delete) {
        // The namespace is known for as long as the ledger has its bytes.
        let Some(namespace) = core.state().namespace(&delete.id) else { return };
        let path = paths::block(&namespace, &delete.id.key);
        let gone = if delete.reason == EvictReason::Corrupt {
            self.set_aside_damaged(core, &namespace, &delete) || core.unlink(&path)
        } else {
            core.unlink(&path)
        };
        let mut state = core.state();
        state.ledger.gone(Some(delete.id.space), delete.physical);
        // A file that cannot be removed stays in the ledger until a scan sees it again.
        if !gone {
            self.disk_usage.add(&mut state.ledger, &path, delete.physical, Owner::Unindexed);
        }
        state.deletes.finish(&delete.id);
        self.index.note(&Frame::Remove(namespace, delete.id.key));
        let is_last = state.ledger.space_physical(delete.id.space) == 0;
        drop(state);
        self.remove_empty_dirs(core, &namespace, &paths::fan_dir(&namespace, &delete.id.key));
        if is_last {
            core.state().forget_empty_spaces();
        }
    }

    /// Removes a folder of records, and the folder of its namespace, if they are empty.
    pub(crate) fn remove_empty_dirs(&mut self, core: &Core, namespace: &Namespace, fan: &Path) {
        for dir in [fan, &paths::space_dir(namespace)] {
            match core.disk.remove_dir(dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return,
                _ => self.disk_usage.remove(&mut core.state().ledger, dir),
            }
        }
    }

    fn set_aside_damaged(&mut self, core: &Core, namespace: &Namespace, delete: &Delete) -> bool {
        let from = paths::block(namespace, &delete.id.key);
        if let Ok(meta) = core.disk.stat(&from)
            && !meta.is_file
        {
            // It is not a record, so it is moved away with all its content.
            let moved = self.move_to_foreign(core, &from);
            let Some(to) = moved else { return false };
            self.disk_usage.add(&mut core.state().ledger, &to, meta.physical, Owner::Unindexed);
            return true;
        }
        let to = paths::damaged(namespace, &delete.id.key);
        match core.disk.rename(&from, &to) {
            Ok(()) => {
                // The damage may have made the file grow.
                let physical = core.disk.stat(&to).map_or(delete.physical, |meta| meta.physical);
                self.keep_damaged(core, to, physical);
                true
            }
            Err(error) => {
                core.count_error(Op::Rename, &error);
                error.kind() == io::ErrorKind::NotFound
            }
        }
    }

    /// Moves a file that is not ours to `foreign/` under a unique name, which is returned.
    pub(crate) fn move_to_foreign(&mut self, core: &Core, path: &Path) -> Option<PathBuf> {
        let mut number = 0;
        let to = loop {
            let mut name = std::ffi::OsString::from(format!("{number}."));
            name.push(path.file_name()?);
            let to = Path::new(paths::FOREIGN).join(name);
            match core.disk.stat(&to) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => break to,
                Err(_) => return None,
                Ok(_) => number += 1,
            }
        };
        match core.disk.rename(path, &to) {
            Ok(()) => {
                core.state().counters.set_file_aside();
                Some(to)
            }
            Err(error) => {
                core.count_error(Op::Rename, &error);
                None
            }
        }
    }

    /// Records a file of `damaged/`, and removes the oldest when there are too many.
    pub(crate) fn keep_damaged(&mut self, core: &Core, path: PathBuf, physical: u64) {
        self.disk_usage.add(&mut core.state().ledger, &path, physical, Owner::Unindexed);
        self.damaged.retain(|known| *known != path);
        self.damaged.push_back(path);
        while self.damaged.len() > MAX_DAMAGED {
            self.remove_damaged(core);
        }
    }

    /// Removes the oldest damaged file. Returns false when there is none.
    pub(crate) fn remove_damaged(&mut self, core: &Core) -> bool {
        let Some(path) = self.damaged.pop_front() else { return false };
        if core.unlink(&path) {
            self.disk_usage.remove(&mut core.state().ledger, &path);
        }
        true
    }

    // ---- making room -------------------------------------------------------------------------

    /// Reserves `bytes`. To free space it removes damaged files first, then blocks in the order of
    /// eviction.
    pub(crate) fn make_room(
        &mut self,
        core: &Core,
        space: Option<u32>,
        bytes: u64,
    ) -> Result<(), Refusal> {
        loop {
            let damaged = self.damaged.iter().map(|path| self.disk_usage.bytes(path)).sum();
            let victim = {
                let mut state = core.state();
                let now = core.now_secs();
                match state.ledger.reserve(space, bytes, now) {
                    Ok(()) => return Ok(()),
                    Err(Refusal::WriteBudget) => return Err(Refusal::WriteBudget),
                    Err(refusal) if !state.ledger.could_fit(bytes, damaged) => {
                        return Err(refusal);
                    }
                    Err(Refusal::Quota) if !self.damaged.is_empty() => None,
                    Err(refusal) => Some(state.evict_one(now).ok_or(refusal)?),
                }
            };
            match victim {
                Some(victim) => self.delete(core, victim),
                None => drop(self.remove_damaged(core)),
            }
        }
    }

    // ---- saving ------------------------------------------------------------------------------

    pub(crate) fn save(&mut self, core: &Core, save: Save) {
        if !core.state().is_current(&save) {
            core.state().not_saved(&save, DropReason::Admission);
            return;
        }
        if let Err(reason) = self.try_save(core, &save) {
            let mut state = core.state();
            state.not_saved(&save, reason);
            if reason == DropReason::DiskFull {
                state.saves.pause(core.clock.monotonic() + PAUSE);
            }
        }
    }

    fn try_save(&mut self, core: &Core, save: &Save) -> Result<(), DropReason> {
        let (namespace, file_len) = self.admit(core, save)?;
        let new_dirs = self.missing_dirs(&namespace, &save.id);
        let need = file_len + SLACK + DIR_ROOM * new_dirs.len() as u64;
        let space = Some(save.id.space);
        self.make_room(core, space, need).map_err(|refusal| match refusal {
            Refusal::WriteBudget => DropReason::WriteBudget,
            Refusal::Quota => DropReason::Admission,
        })?;
        let started = core.clock.monotonic();
        let dirs = paths::fan_dir(&namespace, &save.id.key);
        let temporary = paths::temporary(self.next_temporary());
        let written =
            core.disk.create_dir(&dirs).map_err(|error| (Op::Write, error)).and_then(|()| {
                write_record(core, &temporary, &namespace, &save.id, &save.resident)
            });
        let path = paths::block(&namespace, &save.id.key);
        let published = written.and_then(|physical| {
            core.disk.rename(&temporary, &path).map_err(|error| (Op::Rename, error))?;
            Ok(physical)
        });
        let kept = match &published {
            Ok(physical) => (*physical).max(file_len).min(need),
            Err(_) => 0,
        };
        let stuck = published.is_err() && !core.unlink(&temporary);
        self.book_dirs(core, &namespace, &save.id);
        let now = core.now_secs();
        let mut state = core.state();
        let written_len = if published.is_ok() { file_len } else { need };
        state.ledger.settle(space, need, kept, written_len);
        if stuck {
            // The next scan tries to remove it again.
            self.disk_usage.add(&mut state.ledger, &temporary, need, Owner::Unindexed);
        } else if published.is_ok() {
            // An old file of that name, which could not be removed, was replaced.
            self.disk_usage.remove(&mut state.ledger, &path);
        }
        match published {
            Ok(_) if state.is_current(save) => {
                state.saved(save, kept, now);
                state.saves.end_pause();
                state.counters.wrote(file_len, core.clock.monotonic() - started);
                if let Some(stored) = state.stored(&save.id) {
                    self.index.note(&Frame::Add(stored));
                }
                Ok(())
            }
            Ok(_) => {
                // The block was removed while it was being written, so its file is removed too.
                drop(state);
                let (id, physical) = (save.id, kept);
                self.delete(core, Delete { id, physical, reason: EvictReason::Manual });
                Err(DropReason::Admission)
            }
            Err((op, error)) => {
                state.counters.io_error(op, &error);
                Err(DropReason::DiskFull)
            }
        }
    }

    /// Checks whether a block may be written now, apart from the space that it needs.
    fn admit(&self, core: &Core, save: &Save) -> Result<(Namespace, u64), DropReason> {
        let free = core.disk.free_bytes();
        let mut state = core.state();
        if let Err(error) = &free {
            state.counters.io_error(Op::Scan, error);
        }
        if state.saves.is_paused(core.clock.monotonic()) {
            return Err(DropReason::DiskFull);
        }
        state.saves.end_pause();
        // The parent may have been dropped after this block was queued, or removed since.
        state.check_parent(&save.id, save.resident.parent)?;
        let file_len = save.resident.layout.file_len();
        let floor = core.config.min_free_bytes.saturating_add(file_len);
        // If the system does not report its free space, writes will still fail when it is full.
        if free.is_ok_and(|free| free < floor) {
            return Err(DropReason::DiskFull);
        }
        Ok((state.namespace(&save.id).ok_or(DropReason::Admission)?, file_len))
    }

    fn missing_dirs(&self, namespace: &Namespace, id: &BlockId) -> Vec<PathBuf> {
        [paths::space_dir(namespace), paths::fan_dir(namespace, &id.key)]
            .into_iter()
            .filter(|dir| !self.disk_usage.contains(dir))
            .collect()
    }

    /// Updates the disk usage of a block's folders.
    fn book_dirs(&mut self, core: &Core, namespace: &Namespace, id: &BlockId) {
        for dir in [paths::space_dir(namespace), paths::fan_dir(namespace, &id.key)] {
            let physical = match core.disk.stat(&dir) {
                Ok(meta) => meta.physical,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                // The folder may exist, so the bytes reserved for it stay counted.
                Err(_) => DIR_ROOM.max(self.disk_usage.bytes(&dir)),
            };
            self.disk_usage.add(&mut core.state().ledger, &dir, physical, Owner::Store);
        }
    }
}

/// Writes a whole record: the payload is checksummed (and sealed) first, then the header, the
/// payload and a barrier are written. The barrier makes the rename safe. Returns the physical
/// bytes.
fn write_record(
    core: &Core,
    path: &Path,
    namespace: &Namespace,
    id: &BlockId,
    resident: &Resident,
) -> Result<u64, (Op, io::Error)> {
    let write = |error| (Op::Write, error);
    let mut header = Header {
        kind: resident.kind,
        namespace: *namespace,
        key: id.key,
        parent: resident.parent,
        created_secs: core.now_secs(),
        payload_checksum: 0,
        seal: None,
        parts: resident.layout.parts.iter().map(|range| range.end - range.start).collect(),
        witness: resident.witness.to_vec(),
    };
    let mut sealed = Vec::new();
    let mut payload = resident.payload.bytes();
    if let Some(cipher) = &core.cipher {
        sealed.extend_from_slice(payload);
        if !cipher.seal(&mut header, &mut sealed) {
            return Err(write(io::Error::other("no random bytes to encrypt with")));
        }
        payload = &sealed;
    }
    header.payload_checksum = xxh3_128(payload);
    let head = header.encode().ok_or_else(|| write(io::ErrorKind::InvalidInput.into()))?;
    let mut file = core.disk.create(path).map_err(write)?;
    file.append(&head).map_err(write)?;
    for chunk in payload.chunks(CHUNK) {
        core.yield_to_restores();
        file.append(chunk).map_err(write)?;
    }
    // After a failed barrier it is unknown what reached the medium, so the file is not published.
    file.barrier().map_err(|error| (Op::Barrier, error))?;
    // The caller uses the length when the physical size is unknown.
    Ok(file.physical().unwrap_or(0))
}
