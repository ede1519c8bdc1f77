//! Plain counters and gauges in base units, for export as metrics.

use crate::key::{BlockId, Kind, Namespace};
use crate::layout::Damage;
use std::io;
use std::time::Duration;

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$item_doc:meta])* $item:ident = $label:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$item_doc])* $item,)+ }

        impl $name {
            /// Every value, in the order of the counters.
            pub const ALL: &'static [$name] = &[$($name::$item,)+];

            /// The label in metrics.
            pub fn name(self) -> &'static str {
                match self { $($name::$item => $label,)+ }
            }
        }
    };
}

labels! {
    /// Why a block was not saved.
    DropReason {
        /// The write queue, or the memory for it, was full.
        QueueFull = "queue_full",
        /// The day's write budget was used up.
        WriteBudget = "write_budget",
        /// The disk is full, below the configured minimum of free space, or failed the write.
        DiskFull = "disk_full",
        /// It is too large, its parent is not stored, or nothing can be evicted to make it fit the
        /// quota.
        Admission = "admission",
        /// The store was closed before.
        Shutdown = "shutdown",
    }
}

labels! {
    /// Why a block left the disk.
    EvictReason {
        /// It was evicted to stay under a quota.
        Quota = "quota",
        /// It was unused for longer than the configured time.
        Ttl = "ttl",
        /// Its namespace was removed.
        ModelRemoved = "model_removed",
        /// It failed its checks.
        Corrupt = "corrupt",
        /// It was removed on request.
        Manual = "manual",
    }
}

labels! {
    /// Queues of background work, most urgent first.
    Queue {
        /// Reads into the RAM tier.
        Restore = "restore",
        /// Removals.
        Delete = "delete",
        /// Writes.
        Save = "save",
    }
}

labels! {
    /// The operation that failed with a system error.
    Op {
        /// Opening, mapping or reading a file.
        Read = "read",
        /// Making or writing a file.
        Write = "write",
        /// Ordering writes.
        Barrier = "barrier",
        /// Publishing or setting a file aside.
        Rename = "rename",
        /// Removing a file.
        Unlink = "unlink",
        /// Listing a folder or asking for free space.
        Scan = "scan",
    }
}

labels! {
    /// The type of a system error.
    ErrnoClass {
        /// The disk or the user's quota is full.
        Full = "full",
        /// The medium failed.
        Medium = "medium",
        /// The file does not exist.
        NotFound = "not_found",
        /// Permission was denied.
        Permission = "permission",
        /// The system has no descriptors or memory left.
        Resource = "resource",
        /// Any other error.
        Other = "other",
    }
}

impl ErrnoClass {
    pub(crate) fn of(error: &io::Error) -> ErrnoClass {
        if crate::disk::is_full(error) {
            return ErrnoClass::Full;
        }
        if crate::disk::is_transient(error) {
            return ErrnoClass::Resource;
        }
        match (error.kind(), error.raw_os_error()) {
            (io::ErrorKind::NotFound, _) => ErrnoClass::NotFound,
            (io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem, _) => {
                ErrnoClass::Permission
            }
            (_, Some(libc::EIO | libc::ENXIO | libc::ENODEV)) => ErrnoClass::Medium,
            _ => ErrnoClass::Other,
        }
    }
}

/// Upper bounds of [`LatencyHistogram`]'s buckets: 50 us doubling up to 3.3 s.
pub const LATENCY_BOUNDS_SECS: [f64; 17] = doubling(50e-6);
/// Upper bounds of [`AgeHistogram`]'s buckets: 1 s doubling up to 18 h.
pub const AGE_BOUNDS_SECS: [f64; 17] = doubling(1.0);

const fn doubling(first: f64) -> [f64; 17] {
    let mut bounds = [first; 17];
    let mut i = 1;
    while i < bounds.len() {
        bounds[i] = bounds[i - 1] * 2.0;
        i += 1;
    }
    bounds
}

/// A histogram with 17 upper bounds and infinity. Counts are per bucket, not cumulative.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Observations in each bucket; the last one has no upper bound.
    pub counts: [u64; 18],
    /// Sum of all observations, in seconds.
    pub sum_secs: f64,
}

/// A histogram over [`LATENCY_BOUNDS_SECS`].
pub type LatencyHistogram = Histogram;
/// A histogram over [`AGE_BOUNDS_SECS`].
pub type AgeHistogram = Histogram;

impl Histogram {
    fn observe(&mut self, bounds: &[f64; 17], secs: f64) {
        let bucket = bounds.iter().position(|bound| secs <= *bound).unwrap_or(bounds.len());
        self.counts[bucket] += 1;
        self.sum_secs += secs;
    }

    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Upper bounds, in bytes, of the size classes for latencies. The last class has no bound.
pub const SIZE_CLASS_BOUNDS: [u64; 4] = [1 << 20, 4 << 20, 16 << 20, 64 << 20];
/// Labels of the size classes.
pub const SIZE_CLASS_NAMES: [&str; 5] = ["1MiB", "4MiB", "16MiB", "64MiB", "larger"];

fn size_class(bytes: u64) -> usize {
    SIZE_CLASS_BOUNDS.iter().position(|bound| bytes <= *bound).unwrap_or(SIZE_CLASS_BOUNDS.len())
}

/// Where a block was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// In memory.
    Ram,
    /// On disk.
    Disk,
}

/// Block ages by tier, over a sample of 1 in [`AGE_SAMPLE`] blocks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TierAges {
    /// From entering the tier to leaving it.
    pub lifetime: AgeHistogram,
    /// From the last use to leaving the tier.
    pub idle_before_evict: AgeHistogram,
    /// Between two uses.
    pub reuse_gap: AgeHistogram,
}

/// One block in this many is sampled for [`TierAges`].
pub const AGE_SAMPLE: u64 = 100;

/// Counts of events in this process, and latencies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    /// Hits by tier: RAM (or still in the write queue), disk.
    pub hits: [u64; 2],
    /// Lookups of a key that is not stored.
    pub not_stored: u64,
    /// Blocks not saved, by [`DropReason`].
    pub dropped: [u64; 5],
    /// Blocks removed from disk, by [`EvictReason`].
    pub evictions: [u64; 5],
    /// Physical bytes of the blocks in `evictions`.
    pub evicted_bytes: [u64; 5],
    /// Blocks that left the RAM tier.
    pub demotions: u64,
    /// Blocks that were read from disk into the RAM tier.
    pub promotions: u64,
    /// Failed checks, by [`Damage`].
    pub verify_failures: [u64; 4],
    /// Hits on a key whose witness differed.
    pub witness_failures: u64,
    /// Blocks removed by [`Store::invalidate`](crate::Store::invalidate).
    pub invalidated: u64,
    /// Errors of the system, by [`Op`] and [`ErrnoClass`].
    pub io_errors: [[u64; 6]; 6],
    /// Time to write and publish a block, by size class.
    pub write_duration: [LatencyHistogram; 5],
    /// Time to read and verify a block from disk, by size class.
    pub read_duration: [LatencyHistogram; 5],
    /// Block ages by [`Tier`].
    pub ages: [TierAges; 2],
    /// Time from opening to the end of the first scan; `None` while it runs.
    pub recovery: Option<Duration>,
    /// Blocks found at opening.
    pub recovered_blocks: u64,
    /// Index entries without a file, and files that are no valid record, seen by scans.
    pub discarded_blocks: u64,
    /// Unknown files that were set aside.
    pub set_aside_files: u64,
    /// Temporary files of an earlier process, removed.
    pub orphan_temporaries: u64,
}

impl Counters {
    pub(crate) fn hit(&mut self, tier: Tier) {
        self.hits[tier as usize] += 1;
    }

    pub(crate) fn miss(&mut self) {
        self.not_stored += 1;
    }

    pub(crate) fn fail_witness(&mut self) {
        self.witness_failures += 1;
    }

    pub(crate) fn demote(&mut self) {
        self.demotions += 1;
    }

    pub(crate) fn promote(&mut self) {
        self.promotions += 1;
    }

    pub(crate) fn invalidate(&mut self, blocks: u64) {
        self.invalidated += blocks;
    }

    /// Records the end of the first scan after opening.
    pub(crate) fn recover(&mut self, blocks: u64, took: Duration) {
        self.recovered_blocks = blocks;
        self.recovery = Some(took);
    }

    pub(crate) fn discard_block(&mut self) {
        self.discarded_blocks += 1;
    }

    pub(crate) fn set_file_aside(&mut self) {
        self.set_aside_files += 1;
    }

    pub(crate) fn remove_orphan(&mut self) {
        self.orphan_temporaries += 1;
    }

    pub(crate) fn drop_block(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }

    pub(crate) fn evict(&mut self, reason: EvictReason, bytes: u64) {
        self.evictions[reason as usize] += 1;
        self.evicted_bytes[reason as usize] += bytes;
    }

    pub(crate) fn io_error(&mut self, op: Op, error: &io::Error) {
        self.io_errors[op as usize][ErrnoClass::of(error) as usize] += 1;
    }

    pub(crate) fn verify_failure(&mut self, damage: Damage) {
        self.verify_failures[damage.index()] += 1;
    }

    pub(crate) fn wrote(&mut self, bytes: u64, took: Duration) {
        self.write_duration[size_class(bytes)].observe(&LATENCY_BOUNDS_SECS, took.as_secs_f64());
    }

    pub(crate) fn read(&mut self, bytes: u64, took: Duration) {
        self.read_duration[size_class(bytes)].observe(&LATENCY_BOUNDS_SECS, took.as_secs_f64());
    }

    /// Records the time between two uses of a block, if the block is sampled.
    pub(crate) fn reused(&mut self, id: &BlockId, tier: Tier, gap_secs: u64) {
        if !is_sampled(id) {
            return;
        }
        let ages = &mut self.ages[tier as usize];
        ages.reuse_gap.observe(&AGE_BOUNDS_SECS, gap_secs as f64);
    }

    /// Records the age of a block that left a tier, if the block is sampled.
    pub(crate) fn left(&mut self, id: &BlockId, tier: Tier, lifetime_secs: u64, idle_secs: u64) {
        if !is_sampled(id) {
            return;
        }
        let ages = &mut self.ages[tier as usize];
        ages.lifetime.observe(&AGE_BOUNDS_SECS, lifetime_secs as f64);
        ages.idle_before_evict.observe(&AGE_BOUNDS_SECS, idle_secs as f64);
    }
}

/// One block in [`AGE_SAMPLE`] is sampled, always the same ones, because keys are digests.
fn is_sampled(id: &BlockId) -> bool {
    u64::from(u16::from_le_bytes([id.key.0[30], id.key.0[31]])).is_multiple_of(AGE_SAMPLE)
}

/// The numbers of one namespace.
#[derive(Default, Clone, Debug, PartialEq)]
pub struct NamespaceStats {
    /// The namespace. `None` combines all namespaces beyond [`MAX_NAMESPACE_STATS`] and those that
    /// had blocks earlier and are forgotten.
    pub namespace: Option<Namespace>,
    /// Physical bytes on disk.
    pub physical_bytes: u64,
    /// Bytes written to disk in this process, by [`Kind`].
    pub write_bytes: [u64; 3],
    /// Bytes read from disk in this process, by [`Kind`].
    pub read_bytes: [u64; 3],
}

impl NamespaceStats {
    pub(crate) fn add(&mut self, other: &NamespaceStats) {
        self.physical_bytes += other.physical_bytes;
        for kind in Kind::ALL.map(Kind::index) {
            self.write_bytes[kind] += other.write_bytes[kind];
            self.read_bytes[kind] += other.read_bytes[kind];
        }
    }
}

/// Limit on the namespaces listed in [`Stats`], which bounds the number of metric labels.
pub const MAX_NAMESPACE_STATS: usize = 32;

/// A consistent snapshot of the store's numbers. The default is an empty store with no capacity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Limit on the physical bytes under the root.
    pub quota_bytes: u64,
    /// Physical bytes under the root, writes in progress included.
    pub physical_bytes: u64,
    /// Physical bytes of files that are not an indexed block (set aside or foreign).
    pub unindexed_bytes: u64,
    /// Free bytes of the medium; `None` when the system does not report them.
    pub free_disk_bytes: Option<u64>,
    /// Bytes that may still be written today; `None` without a limit.
    pub write_budget_remaining_bytes: Option<u64>,
    /// True while saving is paused because the disk is full or below its minimum of free space.
    pub saving_paused: bool,
    /// Budget of the RAM tier in bytes.
    pub ram_capacity_bytes: u64,
    /// Bytes in the RAM tier.
    pub ram_used_bytes: u64,
    /// Bytes of every live buffer: RAM tier, write queue, and buffers lent to guards.
    pub memory_bytes: u64,
    /// Blocks by tier (RAM, disk) and [`Kind`].
    pub blocks: [[u64; 3]; 2],
    /// Number of waiting tasks by [`Queue`].
    pub queue_depth: [u64; 3],
    /// Bytes of waiting tasks by [`Queue`].
    pub queue_bytes: [u64; 3],
    /// Namespaces, largest first.
    pub namespaces: Vec<NamespaceStats>,
    /// Counts of events.
    pub counters: Counters,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_index_their_counters() {
        let counters = Counters::default();
        assert_eq!(counters.dropped.len(), DropReason::ALL.len());
        assert_eq!(counters.evictions.len(), EvictReason::ALL.len());
        assert_eq!(counters.io_errors.len(), Op::ALL.len());
        assert_eq!(counters.io_errors[0].len(), ErrnoClass::ALL.len());
        assert!(DropReason::ALL.iter().enumerate().all(|(i, reason)| *reason as usize == i));
    }

    #[test]
    fn histograms_use_the_first_bound_that_fits() {
        let mut counters = Counters::default();
        counters.wrote(1 << 20, Duration::from_micros(50));
        counters.wrote((1 << 20) + 1, Duration::from_secs(100));
        assert_eq!(counters.write_duration[0].counts[0], 1);
        assert_eq!(counters.write_duration[1].counts[17], 1);
        assert!((LATENCY_BOUNDS_SECS[16] - 3.2768).abs() < 1e-9);
    }
}
