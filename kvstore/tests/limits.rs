//! Reaches every limit, and checks what is evicted, what stays, what is counted, and that saving continues
//! by itself when it can.

mod support;

use kvstore::stats::{DropReason, EvictReason, Tier};
use kvstore::{Key, Kind, Namespace, PutOutcome, Record, Store, StoreConfig};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use support::SimClock;
use support::sim_disk::SimDisk;

const NS: Namespace = Namespace([1; 32]);
const OTHER: Namespace = Namespace([2; 32]);
const MIB: u64 = 1 << 20;
/// The length of a block's file: a header of 16 KiB and one part.
const PART: usize = 100 * 1024;
const FILE: u64 = 16 * 1024 + 112 * 1024;

struct Rig {
    disk: SimDisk,
    clock: Arc<SimClock>,
    config: StoreConfig,
    store: Store,
}

fn rig(change: impl FnOnce(&mut StoreConfig)) -> Rig {
    let mut config = StoreConfig::new("/sim", 2 * MIB);
    config.min_free_bytes = 0;
    config.ram_budget_bytes = 0;
    config.queue_bytes = 64 * MIB;
    change(&mut config);
    let disk = SimDisk::new(1, 64 * MIB, config.quota_bytes);
    let clock = Arc::new(SimClock::new(1_700_000_000));
    let store = open(&disk, &clock, &config);
    Rig { disk, clock, config, store }
}

fn open(disk: &SimDisk, clock: &Arc<SimClock>, config: &StoreConfig) -> Store {
    let store = Store::open_on(Arc::new(disk.clone()), clock.clone(), config.clone()).unwrap();
    while store.step() {}
    store
}

fn key(chain: u8, n: u8) -> Key {
    let mut bytes = [chain; 32];
    bytes[1] = n;
    Key(bytes)
}

impl Rig {
    fn put(&self, namespace: &Namespace, chain: u8, n: u8) -> PutOutcome {
        let record = Record {
            kind: Kind::Kv,
            key: key(chain, n),
            parent: n.checked_sub(1).map(|above| key(chain, above)),
            witness: &[n],
            parts: &[&[n + 1; PART]],
        };
        self.store.put(namespace, &record)
    }

    /// Puts and writes the blocks of a chain. Returns how many are stored in the end.
    fn chain(&self, namespace: &Namespace, chain: u8, len: u8) -> usize {
        for n in 0..len {
            self.put(namespace, chain, n);
            while self.store.step() {}
        }
        self.matched(namespace, chain)
    }

    fn matched(&self, namespace: &Namespace, chain: u8) -> usize {
        let keys: Vec<_> = (0..100).map(|n| key(chain, n)).collect();
        self.store.longest_prefix(namespace, &keys).blocks
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.store.stats().counters.dropped[reason as usize]
    }

    fn evicted(&self, reason: EvictReason) -> u64 {
        self.store.stats().counters.evictions[reason as usize]
    }
}

#[test]
fn an_overflowing_queue_drops_the_rest_of_the_chain_and_nothing_else() {
    let rig = rig(|config| config.queue_bytes = 4 * FILE);
    let outcomes: Vec<_> = (0..8).map(|n| rig.put(&NS, 1, n)).collect();
    let full = PutOutcome::Dropped(DropReason::QueueFull);
    assert_eq!(outcomes[..4], [PutOutcome::Queued; 4]);
    assert_eq!(outcomes[4..], [full; 4]);
    assert_eq!(rig.dropped(DropReason::QueueFull), 4);
    let guard = rig.store.get(&NS, &key(1, 3), &[3]).expect("readable before it is on disk");
    assert_eq!(rig.disk.files_below("blocks").len(), 0);
    assert_eq!(guard[0], [4; PART]);
    drop(guard);
    while rig.store.step() {}
    assert_eq!(rig.disk.files_below("blocks").len(), 4);
    // There is room again, but the hole must be filled first.
    assert_eq!(rig.put(&NS, 1, 6), full);
    assert_eq!(rig.put(&NS, 1, 4), PutOutcome::Queued);
    assert_eq!(rig.put(&NS, 1, 5), PutOutcome::Queued);
    assert_eq!(rig.put(&NS, 1, 6), PutOutcome::Queued);
}

#[test]
fn a_chain_longer_than_the_quota_keeps_its_prefix() {
    let rig = rig(|_| {});
    let stored = rig.chain(&NS, 1, 30);
    assert!((10..16).contains(&stored), "{stored} blocks of {FILE} in 2 MiB");
    assert!(rig.dropped(DropReason::Admission) > 0);
    assert_eq!(rig.evicted(EvictReason::Quota), 0, "a chain does not evict itself");
    // Another chain evicts the end of the older one, never its start.
    assert_eq!(rig.chain(&NS, 2, 3), 3);
    let left = rig.matched(&NS, 1);
    assert!(left < stored && left >= stored - 4);
    assert!(rig.evicted(EvictReason::Quota) >= 3);
}

#[test]
fn a_prefix_that_many_chains_share_outlives_them() {
    let rig = rig(|_| {});
    assert_eq!(rig.chain(&NS, 1, 2), 2);
    (0..6).for_each(|_| assert_eq!(rig.matched(&NS, 1), 2));
    for chain in 10..40 {
        rig.put(&NS, chain, 0);
        while rig.store.step() {}
    }
    assert!(rig.evicted(EvictReason::Quota) > 10);
    assert_eq!(rig.matched(&NS, 1), 2);
}

#[test]
fn pinned_blocks_stay_until_they_are_unpinned() {
    let rig = rig(|_| {});
    assert_eq!(rig.chain(&NS, 1, 3), 3);
    let pin = rig.store.pin(&NS, &[key(1, 2)]);
    let stored_all = |chains: std::ops::Range<u8>| {
        for chain in chains {
            rig.chain(&OTHER, chain, 1);
        }
        let in_list = |n| rig.store.list(Some(&NS)).iter().any(|block| block.key == key(1, n));
        (0..3).all(in_list)
    };
    assert!(stored_all(10..60));
    drop(pin);
    assert!(!stored_all(60..120));
}

#[test]
fn the_write_budget_stops_saving_until_the_next_day_even_over_a_restart() {
    let mut rig = rig(|config| config.writes_per_day_bytes = Some(MIB));
    let stored = rig.chain(&NS, 1, 12);
    assert!((4..8).contains(&stored), "{stored}");
    let refused = rig.dropped(DropReason::WriteBudget);
    assert_eq!(refused, 12 - stored as u64, "the rest of the chain, under the same reason");
    rig.store.close();
    rig.store = open(&rig.disk, &rig.clock, &rig.config);
    assert!(rig.store.stats().write_budget_remaining_bytes.unwrap() < 2 * FILE);
    assert_eq!(rig.matched(&NS, 1), stored, "what is stored is served");
    assert_eq!(rig.chain(&NS, 1, 12), stored);
    rig.clock.advance(24 * 60 * 60);
    assert!(rig.chain(&NS, 1, 12) > stored);
}

#[test]
fn a_full_disk_stops_saving_but_not_serving_and_saving_resumes() {
    let rig = rig(|_| {});
    assert_eq!(rig.chain(&NS, 1, 3), 3);
    // Room for the file by the system's word, but not for its folder as well.
    rig.disk.set_capacity(rig.disk.total() + FILE + 2000);
    assert_eq!(rig.chain(&NS, 0x20, 3), 0);
    let stats = rig.store.stats();
    assert!(stats.saving_paused);
    assert_eq!(rig.dropped(DropReason::DiskFull), 3);
    assert!(stats.counters.io_errors.iter().flatten().sum::<u64>() >= 1);
    assert_eq!(rig.disk.files_below("tmp").len(), 0);
    assert!((0..3).all(|n| rig.store.get(&NS, &key(1, n), &[n]).is_ok()));
    rig.disk.set_capacity(64 * MIB);
    assert_eq!(rig.chain(&NS, 0x20, 3), 0, "not tried at once");
    rig.clock.advance(20);
    assert_eq!(rig.chain(&NS, 0x20, 3), 3);
    assert!(!rig.store.stats().saving_paused);
}

#[test]
fn the_floor_of_free_space_is_kept() {
    let rig = rig(|config| config.min_free_bytes = 10 * MIB);
    rig.disk.set_capacity(rig.disk.total() + 10 * MIB + 3 * FILE);
    let stored = rig.chain(&NS, 1, 5);
    assert!((1..4).contains(&stored), "{stored}");
    assert!(rig.store.stats().free_disk_bytes.unwrap() >= 10 * MIB);
    assert!(rig.dropped(DropReason::DiskFull) > 0);
    rig.disk.set_capacity(64 * MIB);
    rig.clock.advance(20);
    assert_eq!(rig.chain(&NS, 1, 5), 5);
}

#[test]
fn foreign_files_count_and_blocks_make_room_for_them() {
    let rig = rig(|_| {});
    let before = rig.chain(&NS, 1, 12);
    rig.disk.put_foreign(Path::new("strange/file"), vec![1; MIB as usize]);
    // The next scan is due within an hour.
    rig.clock.advance(60 * 60);
    while rig.store.step() {}
    let stats = rig.store.stats();
    assert!(stats.unindexed_bytes >= MIB && stats.physical_bytes <= 2 * MIB);
    let left = rig.matched(&NS, 1);
    assert!(left > 0 && left < before, "{left} of {before}");
    assert!(rig.disk.contents(Path::new("strange/file")).is_some(), "never deleted");
}

#[test]
fn a_block_larger_than_the_quota_is_refused_and_evicts_nothing() {
    let rig = rig(|_| {});
    assert_eq!(rig.chain(&NS, 1, 3), 3);
    let huge = vec![1; 2 * MIB as usize];
    let record =
        Record { kind: Kind::Kv, key: key(9, 0), parent: None, witness: b"", parts: &[&huge] };
    let refused = PutOutcome::Dropped(DropReason::Admission);
    assert_eq!(rig.store.put(&NS, &record), refused);
    let parts = vec![&[][..]; 65_537];
    assert_eq!(rig.store.put(&NS, &Record { parts: &parts, ..record }), refused);
    assert_eq!(rig.matched(&NS, 1), 3);
}

#[test]
fn idle_blocks_expire_and_removed_namespaces_go() {
    let rig = rig(|config| config.max_idle = Some(Duration::from_secs(10_000)));
    assert_eq!(rig.chain(&NS, 1, 3), 3);
    rig.clock.advance(8000);
    assert_eq!(rig.chain(&NS, 2, 2), 2);
    rig.clock.advance(8000);
    while rig.store.step() {}
    assert_eq!((rig.matched(&NS, 1), rig.matched(&NS, 2)), (0, 2));
    assert_eq!(rig.evicted(EvictReason::Ttl), 3);
    rig.chain(&OTHER, 1, 1);
    rig.store.remove_namespace(&NS);
    while rig.store.step() {}
    assert_eq!((rig.matched(&NS, 2), rig.matched(&OTHER, 1)), (0, 1));
    assert_eq!(rig.evicted(EvictReason::ModelRemoved), 2);
    assert_eq!(rig.disk.files_below("blocks").len(), 1);
}

#[test]
fn a_chain_longer_than_the_ram_tier_is_read_ahead_once_and_keeps_its_prefix() {
    let mut rig = rig(|config| config.ram_budget_bytes = 3 * FILE);
    assert_eq!(rig.chain(&NS, 1, 8), 8);
    rig.store.close();
    rig.store = open(&rig.disk, &rig.clock, &rig.config);
    let keys: Vec<_> = (0..8).map(|n| key(1, n)).collect();
    rig.store.prefetch(&NS, &keys);
    while rig.store.step() {}
    let counters = rig.store.stats().counters;
    assert_eq!((counters.promotions, counters.demotions), (3, 0), "nothing is read for nothing");
    assert_eq!(rig.store.longest_prefix(&NS, &keys).in_ram, 3);
    let tiers: Vec<_> =
        (0..8).map(|n| rig.store.get(&NS, &key(1, n), &[n]).expect("stored").tier()).collect();
    assert_eq!(tiers[..3], [Tier::Ram; 3]);
    assert_eq!(tiers[3..], [Tier::Disk; 5]);
    // Blocks that were read ahead and not asked for make room after a while.
    rig.store.close();
    rig.store = open(&rig.disk, &rig.clock, &rig.config);
    rig.store.prefetch(&NS, &keys);
    while rig.store.step() {}
    let is_mapped = || rig.store.get(&NS, &keys[7], &[7]).expect("stored").is_mapped();
    assert!(is_mapped());
    rig.clock.advance(60);
    assert!(!is_mapped());
}

#[test]
fn closing_in_a_hurry_counts_what_was_not_saved() {
    let rig = rig(|config| config.drain = Duration::ZERO);
    (0..4).for_each(|n| assert_eq!(rig.put(&NS, 1, n), PutOutcome::Queued));
    rig.store.close();
    let store = open(&rig.disk, &rig.clock, &rig.config);
    assert_eq!(store.longest_prefix(&NS, &[key(1, 0)]).blocks, 0);
}
