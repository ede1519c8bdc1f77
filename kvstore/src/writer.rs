//! State that the writer thread keeps between tasks.

use crate::disk_usage::DiskUsage;
use crate::index_log::IndexLog;
use crate::key::{Key, Namespace};
use crate::paths;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

/// After the disk was full or failed, saving is tried again after this time.
pub(crate) const PAUSE: Duration = Duration::from_secs(10);

/// The folders under the root are scanned again after this time.
pub(crate) const RESCAN_EVERY: Duration = Duration::from_secs(60 * 60);

pub(crate) struct Writer {
    pub(crate) index: IndexLog,
    pub(crate) disk_usage: DiskUsage,
    /// Files in `damaged/`, oldest first.
    pub(crate) damaged: VecDeque<PathBuf>,
    pub(crate) scan: Option<Scan>,
    pub(crate) next_scan: Duration,
    temporaries: u64,
}

impl Writer {
    /// Makes a writer whose first task is a scan.
    pub(crate) fn new(index: IndexLog, scan: Scan) -> Writer {
        Writer {
            index,
            disk_usage: DiskUsage::default(),
            damaged: VecDeque::new(),
            scan: Some(scan),
            next_scan: Duration::ZERO,
            temporaries: 0,
        }
    }

    pub(crate) fn next_temporary(&mut self) -> u64 {
        self.temporaries += 1;
        self.temporaries
    }
}

pub(crate) enum Item {
    Root,
    Side(&'static str),
    Blocks,
    Space(Namespace),
    Fan(Namespace, u8),
    Finish,
}

pub(crate) struct Scan {
    pub(crate) started: Duration,
    pub(crate) todo: Vec<Item>,
    /// Keys that the index knew before any folder of records was listed, by folder.
    pub(crate) expected: BTreeMap<Namespace, BTreeMap<u8, Vec<Key>>>,
    /// Paths that this scan has counted.
    pub(crate) seen: BTreeSet<PathBuf>,
    /// A folder could not be read, so a file that was not seen may still exist.
    pub(crate) partial: bool,
}

impl Scan {
    pub(crate) fn new(now: Duration) -> Scan {
        let mut todo = vec![Item::Finish, Item::Blocks];
        todo.extend(paths::TOP.into_iter().filter(|name| *name != paths::BLOCKS).map(Item::Side));
        todo.push(Item::Root);
        Scan {
            started: now,
            todo,
            expected: BTreeMap::new(),
            seen: BTreeSet::new(),
            partial: false,
        }
    }
}
