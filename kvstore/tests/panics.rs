//! A panic in the store's work ends that piece of work, and no thread waits for it for ever.

mod support;

use kvstore::{Key, Kind, Namespace, PutOutcome, Record, Store, StoreConfig};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;
use support::SimClock;
use support::sim_disk::SimDisk;

const NS: Namespace = Namespace([1; 32]);
const KEY: Key = Key([3; 32]);
const DEADLINE: Duration = Duration::from_secs(20);

fn config() -> StoreConfig {
    let mut config = StoreConfig::new("/sim", 2 << 20);
    config.min_free_bytes = 0;
    config
}

fn record() -> Record<'static> {
    Record { kind: Kind::Kv, key: KEY, parent: None, witness: b"w", parts: &[&[7; 100_000]] }
}

/// A disk that panics while the switch is on.
fn panicking_disk() -> (SimDisk, Arc<AtomicBool>) {
    let (disk, panics) = (SimDisk::new(1, 64 << 20, 2 << 20), Arc::new(AtomicBool::new(false)));
    let switch = Arc::clone(&panics);
    disk.set_hook(Box::new(move || assert!(!switch.load(Ordering::Relaxed), "on demand")));
    (disk, panics)
}

#[test]
fn nobody_waits_for_a_read_that_panicked() {
    for ram_budget_bytes in [0, 1 << 20] {
        let (disk, panics) = panicking_disk();
        let open = || {
            let config = StoreConfig { ram_budget_bytes, ..config() };
            let clock = Arc::new(SimClock::new(1_700_000_000));
            Store::open_on(Arc::new(disk.clone()), clock, config).unwrap()
        };
        let store = open();
        assert_eq!(store.put(&NS, &record()), PutOutcome::Queued);
        while store.step() {}
        drop(store);
        let store = Arc::new(open());
        while store.step() {}
        panics.store(true, Ordering::Relaxed);
        // The block is read ahead in the background, and by the caller of `get`.
        store.prefetch(&NS, &[KEY]);
        assert!(catch_unwind(AssertUnwindSafe(|| store.step())).is_err());
        assert!(catch_unwind(AssertUnwindSafe(|| store.get(&NS, &KEY, b"w").is_ok())).is_err());
        panics.store(false, Ordering::Relaxed);
        let (done, outcome) = channel();
        std::thread::spawn(move || done.send(store.get(&NS, &KEY, b"w").is_ok()));
        assert_eq!(outcome.recv_timeout(DEADLINE), Ok(true), "{ram_budget_bytes}");
    }
}
