//! Scans everything under the root, one folder at a time. The medium is the truth, and the index is
//! only a copy of it. The first scan runs after every opening, before anything is saved; later
//! scans run between other work.

use crate::core::Core;
use crate::disk::DirEntry;
use crate::disk_usage::Owner;
use crate::key::{BlockId, Key, Namespace};
use crate::layout::index::{Frame, Role, Stored};
use crate::paths;
use crate::read::{Identified, identify};
use crate::real_disk::LOCK_NAME;
use crate::state::State;
use crate::state::block::OnDisk;
use crate::stats::Op;
use crate::writer::{Item, PAUSE, RESCAN_EVERY, Scan, Writer};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// Foreign folders are counted down to this depth.
const MAX_DEPTH: usize = 16;

impl Writer {
    pub(crate) fn scan_step(&mut self, core: &Core) {
        // Taken out so that the writer's methods can be called meanwhile.
        let Some(mut scan) = self.scan.take() else { return };
        match scan.todo.pop() {
            Some(Item::Root) => self.scan_root(core, &mut scan),
            Some(Item::Side(name)) => self.scan_side(core, &mut scan, name),
            Some(Item::Blocks) => self.scan_blocks(core, &mut scan),
            Some(Item::Space(namespace)) => self.scan_space(core, &mut scan, namespace),
            Some(Item::Fan(namespace, fan)) => self.scan_fan(core, &mut scan, namespace, fan),
            Some(Item::Finish) | None => return self.scan_finish(core, &scan),
        }
        self.scan = Some(scan);
    }

    fn scan_root(&mut self, core: &Core, scan: &mut Scan) {
        for entry in self.list(core, scan, Path::new("")).unwrap_or_default() {
            let path = PathBuf::from(&entry.name);
            if entry.name == LOCK_NAME {
                self.count(core, scan, &path, entry.meta.physical, Owner::Store);
            } else if !paths::TOP.iter().any(|top| entry.name == *top) {
                self.count_foreign(core, scan, &path, &entry);
            }
        }
    }

    /// Scans a folder that has no published records.
    fn scan_side(&mut self, core: &Core, scan: &mut Scan, name: &'static str) {
        let mut entries = self.list(core, scan, Path::new(name)).unwrap_or_default();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in entries {
            let path = Path::new(name).join(&entry.name);
            let physical = entry.meta.physical;
            let log_or_snapshot = paths::parse_index(&entry.name);
            if entry.meta.is_dir || name == paths::FOREIGN {
                self.count_foreign(core, scan, &path, &entry);
            } else if name == paths::DAMAGED && paths::is_damaged(&entry.name) && entry.meta.is_file
            {
                scan.seen.insert(path.clone());
                if self.damaged.contains(&path) {
                    self.count(core, scan, &path, physical, Owner::Unindexed);
                } else {
                    self.keep_damaged(core, path, physical);
                }
            } else if name == paths::INDEX && log_or_snapshot.is_some() {
                // The ledger may count more for the current log than it has grown to.
                let current = log_or_snapshot == Some((Role::Log, self.index.generation));
                let booked = if current { self.disk_usage.bytes(&path) } else { 0 };
                self.count(core, scan, &path, physical.max(booked), Owner::Store);
            } else if name == paths::TMP
                && paths::is_temporary(&entry.name)
                && entry.meta.is_file
                && core.unlink(&path)
            {
                core.state().counters.remove_orphan();
            } else {
                self.set_aside(core, scan, &path, &entry);
            }
        }
    }

    fn scan_blocks(&mut self, core: &Core, scan: &mut Scan) {
        scan.expected = stored_keys(&core.state());
        let mut spaces: BTreeSet<Namespace> = scan.expected.keys().copied().collect();
        for entry in self.list(core, scan, Path::new(paths::BLOCKS)).unwrap_or_default() {
            let namespace = entry.name.to_str().and_then(Namespace::from_hex);
            match namespace.filter(|_| entry.meta.is_dir) {
                Some(namespace) => drop(spaces.insert(namespace)),
                None => {
                    let path = Path::new(paths::BLOCKS).join(&entry.name);
                    self.set_aside(core, scan, &path, &entry);
                }
            }
        }
        scan.todo.extend(spaces.into_iter().map(Item::Space));
    }

    fn scan_space(&mut self, core: &Core, scan: &mut Scan, namespace: Namespace) {
        let dir = paths::space_dir(&namespace);
        let Some(entries) = self.list(core, scan, &dir) else { return };
        let expected = scan.expected.get(&namespace);
        let mut fans: BTreeSet<u8> = expected.into_iter().flat_map(|f| f.keys().copied()).collect();
        for entry in entries {
            match paths::parse_fan(&entry.name).filter(|_| entry.meta.is_dir) {
                Some(fan) => drop(fans.insert(fan)),
                None => self.set_aside(core, scan, &dir.join(&entry.name), &entry),
            }
        }
        if fans.is_empty() {
            self.remove_empty_dirs(core, &namespace, &dir);
        }
        scan.todo.extend(fans.into_iter().map(|fan| Item::Fan(namespace, fan)));
    }

    fn scan_fan(&mut self, core: &Core, scan: &mut Scan, namespace: Namespace, fan: u8) {
        let dir = paths::space_dir(&namespace).join(paths::fan_name(fan));
        let Some(mut entries) = self.list(core, scan, &dir) else { return };
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let mut found = BTreeSet::new();
        for entry in entries {
            let key = entry.name.to_str().and_then(Key::from_hex);
            match key.filter(|key| paths::fan(key) == fan) {
                Some(key) if entry.meta.is_file => {
                    found.insert(key);
                    self.scan_record(core, scan, namespace, key, &entry);
                }
                // Nothing but a record may stay in a record's place, not even a folder.
                Some(_) => self.move_aside(core, scan, &dir.join(&entry.name), &entry),
                None => self.set_aside(core, scan, &dir.join(&entry.name), &entry),
            }
        }
        let expected = scan.expected.get_mut(&namespace).and_then(|fans| fans.remove(&fan));
        for key in expected.unwrap_or_default() {
            if !found.contains(&key) {
                self.drop_if_missing(core, namespace, key);
            }
        }
        self.remove_empty_dirs(core, &namespace, &dir);
    }

    fn scan_record(
        &mut self,
        core: &Core,
        scan: &mut Scan,
        namespace: Namespace,
        key: Key,
        entry: &DirEntry,
    ) {
        let path = paths::block(&namespace, &key);
        let known = {
            let mut state = core.state();
            let id = BlockId { space: state.space(&namespace), key };
            if state.deletes.is_leaving(&id) {
                return;
            }
            // A path counted as unindexed is about to be identified, or is added again below.
            self.disk_usage.remove(&mut state.ledger, &path);
            let physical = entry.meta.physical.max(entry.meta.len);
            state.recount(&id, physical)
        };
        match known {
            Some(OnDisk::Stored) => return,
            Some(OnDisk::Queued) => return self.replace_soon(core, scan, &path, entry),
            Some(OnDisk::No) | None => {}
        }
        match identify(&*core.disk, namespace, key) {
            Ok(Identified::Record(record)) => {
                let (header, layout) = *record;
                let stored = Stored {
                    namespace,
                    key,
                    parent: header.parent,
                    kind: header.kind,
                    uses: 0,
                    file_len: layout.file_len(),
                    physical: entry.meta.physical.max(entry.meta.len),
                    used_secs: header.created_secs,
                };
                let is_new = core.state().adopt(&stored);
                if is_new {
                    self.index.note(&Frame::Add(stored));
                } else {
                    // The block was put while its file was being identified.
                    self.replace_soon(core, scan, &path, entry);
                }
            }
            Ok(Identified::Newer) => self.set_aside(core, scan, &path, entry),
            Ok(Identified::Unusable) => {
                core.state().counters.discard_block();
                self.set_damaged_aside(core, scan, &path, &paths::damaged(&namespace, &key), entry);
            }
            Err(error) => {
                core.count_error(Op::Read, &error);
                self.count_foreign(core, scan, &path, entry);
            }
        }
    }

    /// Replaces a file in the place of a block that is waiting to be written. The copy in memory is
    /// known to be good, so the file is not needed.
    fn replace_soon(&mut self, core: &Core, scan: &mut Scan, path: &Path, entry: &DirEntry) {
        if !core.unlink(path) {
            self.count_foreign(core, scan, path, entry);
        }
    }

    fn set_damaged_aside(
        &mut self,
        core: &Core,
        scan: &mut Scan,
        path: &Path,
        to: &Path,
        entry: &DirEntry,
    ) {
        match core.disk.rename(path, to) {
            Ok(()) => {
                scan.seen.insert(to.to_owned());
                self.keep_damaged(core, to.to_owned(), entry.meta.physical);
            }
            Err(error) => {
                core.count_error(Op::Rename, &error);
                self.count_foreign(core, scan, path, entry);
            }
        }
    }

    /// Drops a block from the index whose file was not listed.
    fn drop_if_missing(&mut self, core: &Core, namespace: Namespace, key: Key) {
        match core.disk.stat(&paths::block(&namespace, &key)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut state = core.state();
                if let Some(id) = state.id(&namespace, &key) {
                    state.lost(&id);
                    self.index.note(&Frame::Remove(namespace, key));
                }
            }
            Err(error) => core.count_error(Op::Scan, &error),
            Ok(_) => {}
        }
    }

    fn scan_finish(&mut self, core: &Core, scan: &Scan) {
        let now = core.clock.monotonic();
        self.next_scan = now + if scan.partial { PAUSE } else { RESCAN_EVERY };
        core.state().activity.end_scan();
        if scan.partial {
            return;
        }
        let mut gone = self.disk_usage.others(|path| scan.seen.contains(path));
        // The file was made after its folder was listed, so it still exists.
        let missing = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
        gone.retain(|path| core.disk.stat(path).err().is_some_and(missing));
        {
            let mut state = core.state();
            gone.iter().for_each(|path| self.disk_usage.remove(&mut state.ledger, path));
            if state.activity.complete_scan() {
                let blocks = state.count_blocks()[1].iter().sum();
                state.counters.recover(blocks, now.saturating_sub(scan.started));
            }
            if let Some(limit) = core.config.max_idle {
                let now = core.now_secs();
                state.expire(now.saturating_sub(limit.as_secs()), now);
            }
        }
        core.state().forget_empty_spaces();
        // The quota may be smaller than last time, or foreign files may have grown. If nothing can
        // be removed, this fails, and saves are refused too.
        let _ = self.make_room(core, None, 0);
    }

    // ---- counting ----------------------------------------------------------------------------

    /// Lists a folder and adds it to the disk usage. A missing folder counts as empty. Returns
    /// `None` when the system cannot list it, so that no block is dropped because it was not seen.
    fn list(&mut self, core: &Core, scan: &mut Scan, dir: &Path) -> Option<Vec<DirEntry>> {
        let listed = core.disk.list(dir).and_then(|entries| Ok((entries, core.disk.stat(dir)?)));
        match listed {
            Ok((entries, meta)) => {
                self.count(core, scan, dir, meta.physical, Owner::Store);
                Some(entries)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Vec::new()),
            Err(error) => {
                core.count_error(Op::Scan, &error);
                scan.partial = true;
                None
            }
        }
    }

    fn count(&mut self, core: &Core, scan: &mut Scan, path: &Path, physical: u64, owner: Owner) {
        self.disk_usage.add(&mut core.state().ledger, path, physical, owner);
        scan.seen.insert(path.to_owned());
    }

    fn count_foreign(&mut self, core: &Core, scan: &mut Scan, path: &Path, entry: &DirEntry) {
        let physical = if entry.meta.is_dir {
            // If part of the folder cannot be listed now, its last known size still counts.
            let (total, whole) = usage(core, path, MAX_DEPTH);
            scan.partial |= !whole;
            let known = if whole { 0 } else { self.disk_usage.bytes(path) };
            known.max(entry.meta.physical + total)
        } else {
            entry.meta.physical
        };
        self.count(core, scan, path, physical, Owner::Unindexed);
    }

    /// Moves an unknown file to `foreign/` under a unique name. Folders, and files that cannot be
    /// moved, are counted where they are.
    fn set_aside(&mut self, core: &Core, scan: &mut Scan, path: &Path, entry: &DirEntry) {
        if entry.meta.is_dir {
            return self.count_foreign(core, scan, path, entry);
        }
        self.move_aside(core, scan, path, entry);
    }

    /// Moves an unknown file or folder to `foreign/`.
    fn move_aside(&mut self, core: &Core, scan: &mut Scan, path: &Path, entry: &DirEntry) {
        let to = self.move_to_foreign(core, path);
        self.count_foreign(core, scan, to.as_deref().unwrap_or(path), entry);
    }
}

/// Returns the bytes in a foreign folder, and whether all of it could be listed.
fn usage(core: &Core, dir: &Path, depth: usize) -> (u64, bool) {
    if depth == 0 {
        return (0, true);
    }
    let entries = match core.disk.list(dir) {
        Ok(entries) => entries,
        Err(error) => {
            core.count_error(Op::Scan, &error);
            return (0, false);
        }
    };
    let (mut total, mut whole) = (0, true);
    for entry in entries {
        total += entry.meta.physical;
        if entry.meta.is_dir {
            let (below, all) = usage(core, &dir.join(&entry.name), depth - 1);
            total += below;
            whole &= all;
        }
    }
    (total, whole)
}

/// The keys of stored blocks, by folder.
fn stored_keys(state: &State) -> BTreeMap<Namespace, BTreeMap<u8, Vec<Key>>> {
    let mut keys: BTreeMap<Namespace, BTreeMap<u8, Vec<Key>>> = BTreeMap::new();
    for (id, block) in state.blocks.iter() {
        if block.on_disk == OnDisk::Stored {
            let Some(namespace) = state.namespace(id) else { continue };
            let fans = keys.entry(namespace).or_default();
            fans.entry(paths::fan(&id.key)).or_default().push(id.key);
        }
    }
    // Sorted, because the order of a hash table would make runs with the same seed differ.
    keys.values_mut().flat_map(BTreeMap::values_mut).for_each(|keys| keys.sort_unstable());
    keys
}
