//! Runs readers, the writer and eviction concurrently under shuttle, which tries many random,
//! replayable schedules. In these tests every lock and every disk operation may switch threads.

use crate::key::{Key, Kind, Namespace};
use crate::record::Record;
use crate::sim_support::SimClock;
use crate::sim_support::rng::Rng;
use crate::sim_support::sim_disk::SimDisk;
use crate::store::Store;
use crate::{Miss, StoreConfig};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const NS: Namespace = Namespace([1; 32]);
const SCHEDULES: usize = 150;
const PART: usize = 60_000;

fn schedules() -> usize {
    std::env::var("KVSTORE_SCHEDULES").map_or(SCHEDULES, |n| n.parse().expect("a number"))
}

fn key(n: u64) -> Key {
    Key([n as u8; 32])
}

fn content(n: u64) -> Vec<u8> {
    vec![n as u8 + 1; PART]
}

/// Calls `shuttle::check_random` with stacks as large as those of real threads.
fn check(body: impl Fn() + Send + Sync + 'static) {
    let mut config = shuttle::Config::new();
    config.stack_size = 1 << 20;
    let scheduler = shuttle::scheduler::RandomScheduler::new(schedules());
    shuttle::Runner::new(scheduler, config).run(body);
}

fn put(store: &Store, n: u64) {
    // Every third block starts a new chain.
    let parent = (!n.is_multiple_of(3)).then(|| key(n - 1));
    let part = content(n);
    let record =
        Record { kind: Kind::Kv, key: key(n), parent, witness: &[n as u8], parts: &[&part] };
    store.put(&NS, &record);
}

/// A store that always has work to do: three blocks fit in RAM, a dozen on disk.
fn store() -> (SimDisk, Store) {
    let mut config = StoreConfig::new("/sim", crate::MIN_QUOTA_BYTES);
    config.min_free_bytes = 0;
    config.ram_budget_bytes = 3 * 66_000;
    config.queue_bytes = 3 * 66_000;
    let disk = SimDisk::new(1, 64 << 20, config.quota_bytes);
    let clock = Arc::new(SimClock::new(1_700_000_000));
    let store = Store::open_on(Arc::new(disk.clone()), clock, config).expect("a healthy disk");
    while store.step() {}
    for n in 0..6 {
        put(&store, n);
        while store.step() {}
    }
    disk.set_hook(Box::new(shuttle::thread::yield_now));
    (disk, store)
}

#[test]
fn readers_writer_and_evictor_together() {
    static HITS: AtomicU64 = AtomicU64::new(0);
    let body = || {
        let (disk, store) = store();
        let store = Arc::new(store);
        let mut threads = Vec::new();
        for seed in 0..2 {
            let store = Arc::clone(&store);
            threads.push(shuttle::thread::spawn(move || reader(&store, seed)));
        }
        let background = Arc::clone(&store);
        threads.push(shuttle::thread::spawn(move || {
            for _ in 0..40 {
                background.step();
            }
        }));
        let owner = Arc::clone(&store);
        threads.push(shuttle::thread::spawn(move || {
            let pin = owner.pin(&NS, &[key(0), key(1)]);
            for n in 6..12 {
                put(&owner, n);
            }
            drop(pin);
            owner.verify(|_| ControlFlow::Continue(()));
            owner.clear(None);
            put(&owner, 0);
        }));
        threads.into_iter().for_each(|thread| thread.join().expect("no thread panics"));
        while store.step() {}
        let stats = store.stats();
        assert!(stats.physical_bytes >= disk.total());
        assert_eq!((stats.queue_bytes, stats.memory_bytes), ([0; 3], stats.ram_used_bytes));
        assert_eq!(stats.counters.verify_failures, [0; 4]);
    };
    check(body);
    assert!(HITS.load(Ordering::Relaxed) > SCHEDULES as u64 / 2);

    fn reader(store: &Store, seed: u64) {
        let mut rng = Rng::new(seed);
        for _ in 0..12 {
            let n = rng.below(8);
            store.prefetch(&NS, &[key(n)]);
            match store.get(&NS, &key(n), &[n as u8]) {
                Ok(guard) => {
                    shuttle::thread::yield_now();
                    assert_eq!(guard[0], content(n));
                    guard.check().expect("nobody harms files here");
                    HITS.fetch_add(1, Ordering::Relaxed);
                }
                Err(miss) => assert_eq!(miss, Miss::NotStored),
            }
        }
    }
}

/// Two readers want the same cold block: one reads it, and the other waits for that read.
#[test]
fn one_read_serves_all_waiting_readers() {
    let body = || {
        let (_disk, store) = store();
        let store = Arc::new(store);
        let before = store.stats().counters.read_duration.iter().map(|h| h.count()).sum::<u64>();
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let store = Arc::clone(&store);
                shuttle::thread::spawn(move || store.get(&NS, &key(0), &[0]).is_ok())
            })
            .collect();
        assert!(threads.into_iter().all(|thread| thread.join().expect("no panic")));
        let after = store.stats().counters.read_duration.iter().map(|h| h.count()).sum::<u64>();
        assert_eq!(after - before, 1);
    };
    check(body);
}
