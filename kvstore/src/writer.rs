//! What the thread that changes the disk keeps from one piece of work to the next.

use crate::disk_usage::DiskUsage;
use crate::index_log::IndexLog;
use crate::key::{Key, Namespace};
use crate::paths;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

/// After the disk was full or failed, saving is tried again this much later.
pub(crate) const PAUSE: Duration = Duration::from_secs(10);

/// What is under the root is looked at again this often.
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
    /// A writer whose first work is to look at what is there.
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
    /// Paths entered in the books by this scan.
    pub(crate) seen: BTreeSet<PathBuf>,
    /// Some folder could not be read, so that nothing may be concluded from what was not seen.
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
