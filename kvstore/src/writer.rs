//! What the writer, the thread that changes the disk, keeps from one step to the next.

use crate::disk_usage::DiskUsage;
use crate::index_log::IndexLog;
use crate::key::{Key, Namespace};
use crate::paths;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

/// The time until saving is tried again after the disk was full or failed.
pub(crate) const PAUSE: Duration = Duration::from_secs(10);

/// The time between two scans.
pub(crate) const RESCAN_EVERY: Duration = Duration::from_secs(60 * 60);

pub(crate) struct Writer {
    pub(crate) index: IndexLog,
    pub(crate) disk_usage: DiskUsage,
    /// The files in `damaged/`, oldest first.
    pub(crate) damaged: VecDeque<PathBuf>,
    pub(crate) scan: Option<Scan>,
    pub(crate) next_scan: Duration,
    temporaries: u64,
}

impl Writer {
    /// A writer whose first work is a scan.
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

/// A part of a scan.
pub(crate) enum Item {
    Root,
    Side(&'static str),
    Blocks,
    Space(Namespace),
    Fan(Namespace, u8),
    Finish,
}

/// A scan that is under way.
pub(crate) struct Scan {
    pub(crate) started: Duration,
    pub(crate) todo: Vec<Item>,
    /// The keys that were stored before any folder of records was listed, by folder.
    pub(crate) expected: BTreeMap<Namespace, BTreeMap<u8, Vec<Key>>>,
    /// The paths that this scan counted.
    pub(crate) seen: BTreeSet<PathBuf>,
    /// Some folder could not be read, so nothing may be concluded from files that were not seen.
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
