//! Opens a store: the index is read at once, the folders are scanned later.

use crate::config::{Clock, StoreConfig};
use crate::core::Core;
use crate::crypt::Cipher;
use crate::disk::Disk;
use crate::error::OpenError;
use crate::index_log::IndexLog;
use crate::key::{Key, Namespace};
use crate::layout::index::{Frame, Reader, Role};
use crate::paths;
use crate::state::State;
use crate::writer::Scan;
use crate::writer::Writer;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Limit on the length of an index file that is read: it describes about sixteen million blocks.
const MAX_INDEX_BYTES: u64 = 2 << 30;

impl Core {
    /// Makes the folders and reads the index. Lookups can start at once; saves wait for the scan.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        config: StoreConfig,
    ) -> Result<Core, OpenError> {
        config.check()?;
        for top in paths::TOP {
            let failed = |source| OpenError::Io { path: disk.root().join(top), source };
            disk.create_dir(Path::new(top)).map_err(failed)?;
            // The store deletes files in this folder, so it must be a folder and not a link.
            if !disk.stat(Path::new(top)).map_err(failed)?.is_dir {
                let what = "it is a link, not a folder of the cache's own: remove it";
                return Err(failed(io::Error::new(io::ErrorKind::NotADirectory, what)));
            }
        }
        let cipher = config.key_file.as_deref().map(Cipher::from_key_file).transpose()?;
        let mut state = State::new(&config);
        let index = load_index(&*disk, &mut state, clock.unix_secs());
        let scan = Scan::new(clock.monotonic());
        Ok(Core::new(disk, clock, config, cipher, state, Writer::new(index, scan)))
    }
}

/// Reads the newest readable snapshot and every log from its generation on. This cannot fail: when
/// the index is missing or damaged, the scan finds more blocks itself.
fn load_index(disk: &dyn Disk, state: &mut State, now_secs: u64) -> IndexLog {
    let entries = disk.list(Path::new(paths::INDEX)).unwrap_or_default();
    let mut files: Vec<_> =
        entries.iter().filter_map(|entry| paths::parse_index(&entry.name)).collect();
    files.sort_by_key(|(_, generation)| *generation);
    let newest = files.last().map_or(0, |(_, generation)| *generation);
    let snapshots = files.iter().rev().filter(|(role, _)| *role == Role::Snapshot);
    let mut from = 0;
    for &(role, generation) in snapshots {
        if apply(disk, state, role, generation, now_secs) {
            from = generation;
            break;
        }
    }
    let logs = files.iter().filter(|(role, generation)| *role == Role::Log && *generation >= from);
    let mut log_count = 0;
    for &(role, generation) in logs {
        apply(disk, state, role, generation, now_secs);
        log_count += 1;
    }
    IndexLog::new(newest + 1, log_count > 1)
}

/// Applies the undamaged frames of one index file. Returns false when it is not an index file.
fn apply(disk: &dyn Disk, state: &mut State, role: Role, generation: u64, now_secs: u64) -> bool {
    let Ok(bytes) = read_whole(disk, &paths::index(role, generation)) else { return false };
    let Some(reader) = Reader::new(&bytes, role).filter(|r| r.generation == generation) else {
        return false;
    };
    if role == Role::Snapshot {
        let about = bytes.len() / crate::layout::index::ADD_LEN;
        state.reserve(about);
    }
    for frame in reader {
        match frame {
            Frame::Add(stored) => {
                forget(state, &stored.namespace, &stored.key);
                state.adopt(&stored);
            }
            Frame::Remove(namespace, key) => forget(state, &namespace, &key),
            Frame::Spent { day, bytes } => state.ledger.restore_spent(day, bytes, now_secs),
        }
    }
    true
}

fn forget(state: &mut State, namespace: &Namespace, key: &Key) {
    if let Some(id) = state.id(namespace, key) {
        state.forget_stored(&id);
    }
}

fn read_whole(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path)?;
    if file.len() > MAX_INDEX_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = vec![0; file.len() as usize];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}
