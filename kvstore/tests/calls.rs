//! The calls of the store besides `put` and `get`: looking up keys without a use, filling a block in
//! place, invalidating a block, and locating one.

mod support;

use kvstore::stats::{DropReason, EvictReason};
use kvstore::{
    BlockLocation, Cleared, Damage, Departure, Key, Kind, Miss, Namespace, PutOutcome, Record,
    RecordShape, Store, StoreConfig,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use support::SimClock;
use support::sim_disk::SimDisk;

const NS: Namespace = Namespace([1; 32]);
const OTHER: Namespace = Namespace([2; 32]);
const MIB: u64 = 1 << 20;
const PART: usize = 100 * 1024;

fn key(chain: u8, n: u8) -> Key {
    let mut bytes = [chain; 32];
    bytes[1] = n;
    Key(bytes)
}

fn open(change: impl FnOnce(&mut StoreConfig)) -> (SimDisk, Store) {
    let mut config = StoreConfig::new("/sim", 2 * MIB);
    config.min_free_bytes = 0;
    config.ram_budget_bytes = 0;
    config.queue_bytes = 8 * MIB;
    change(&mut config);
    let disk = SimDisk::new(1, 64 * MIB, config.quota_bytes);
    let clock = Arc::new(SimClock::new(1_700_000_000));
    let store = Store::open_on(Arc::new(disk.clone()), clock, config).unwrap();
    settle(&store);
    (disk, store)
}

fn settle(store: &Store) {
    while store.step() {}
}

fn put(store: &Store, name: Key, parent: Option<Key>) -> PutOutcome {
    let record = Record { kind: Kind::Kv, key: name, parent, witness: b"w", parts: &[&[7; PART]] };
    store.put(&NS, &record)
}

fn chain(store: &Store, chain: u8, len: u8) {
    for n in 0..len {
        put(store, key(chain, n), n.checked_sub(1).map(|above| key(chain, above)));
        settle(store);
    }
}

fn shape(part_lens: &[usize]) -> RecordShape<'_> {
    RecordShape { kind: Kind::Recurrent, key: key(9, 0), parent: None, witness: b"w", part_lens }
}

#[test]
fn keys_are_looked_for_in_every_tier_and_none_counts_as_used() {
    let (_disk, store) = open(|_| {});
    chain(&store, 1, 3);
    assert_eq!(put(&store, key(2, 0), None), PutOutcome::Queued);
    let keys = [key(1, 0), key(3, 0), key(1, 2), key(2, 0)];
    assert_eq!(store.contains(&NS, &keys), [true, false, true, true]);
    assert_eq!(store.contains(&OTHER, &keys), [false; 4]);
    let before = store.list(Some(&NS));
    // The key comes after thousands of misses, several batches later.
    let misses = (0..5000u32).map(|n| {
        let mut bytes = [0xee; 32];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        Key(bytes)
    });
    for at in [0, 1, 15, 16, 17, 4999] {
        let mut probes: Vec<Key> = misses.clone().collect();
        probes[at] = key(1, 1);
        probes[4999] = key(1, 2);
        let first = if at == 4999 { key(1, 2) } else { key(1, 1) };
        assert_eq!(store.first_stored(&NS, probes), Some(first), "at {at}");
    }
    assert_eq!(store.first_stored(&NS, misses.clone()), None);
    assert_eq!(store.first_stored(&OTHER, [key(1, 1)]), None);
    assert_eq!(store.first_stored(&NS, []), None);
    assert_eq!(store.list(Some(&NS)), before, "the order of eviction is as it was");
    // The caller may use the store while it computes keys.
    let nested = std::iter::from_fn(|| store.first_stored(&NS, [key(1, 0)]));
    assert_eq!(store.first_stored(&NS, nested), Some(key(1, 0)));
}

#[test]
fn a_block_filled_in_place_is_the_same_as_one_copied() {
    let (_disk, store) = open(|_| {});
    let lens = [PART, 0, 1, 16 * 1024, 70_001];
    let mut seen = Vec::new();
    let outcome = store.put_with(&NS, &shape(&lens), |parts| {
        for (n, part) in parts.iter_mut().enumerate() {
            seen.push(part.len());
            assert!(part.iter().all(|byte| *byte == 0));
            assert!(part.is_empty() || part.as_ptr().addr().is_multiple_of(16 * 1024));
            part.fill(n as u8 + 1);
        }
        // No lock is held, and the block is not visible yet.
        assert_eq!(store.get(&NS, &key(9, 0), b"w").unwrap_err(), Miss::NotStored);
        Ok::<(), ()>(())
    });
    assert_eq!((outcome, seen), (Ok(PutOutcome::Queued), lens.to_vec()));
    settle(&store);
    let guard = store.get(&NS, &key(9, 0), b"w").unwrap();
    assert_eq!(guard.kind(), Kind::Recurrent);
    for (n, (part, len)) in guard.parts().zip(lens).enumerate() {
        assert_eq!(part, vec![n as u8 + 1; len]);
    }
    // The closure is not called for a block that is not kept.
    let filled = store.put_with(&NS, &shape(&lens), |_| -> Result<(), ()> { unreachable!() });
    assert_eq!(filled, Ok(PutOutcome::AlreadyStored));
    let lost = RecordShape { key: key(9, 2), parent: Some(key(9, 1)), ..shape(&lens) };
    let filled = store.put_with(&NS, &lost, |_| -> Result<(), ()> { unreachable!() });
    assert_eq!(filled, Ok(PutOutcome::Dropped(DropReason::Admission)));
}

#[test]
fn a_fill_that_fails_or_panics_leaves_nothing_behind() {
    let (_disk, store) = open(|_| {});
    let failed = store.put_with(&NS, &shape(&[PART]), |parts| {
        parts[0].fill(1);
        Err("no")
    });
    assert_eq!(failed, Err("no"));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        store.put_with(&NS, &shape(&[PART]), |_| -> Result<(), ()> { panic!("in the fill") })
    }));
    assert!(panicked.is_err());
    assert_eq!(store.stats().memory_bytes, 0);
    assert_eq!(store.get(&NS, &key(9, 0), b"w").unwrap_err(), Miss::NotStored);
    assert!(!store.step(), "nothing is queued");
    // And the block can still be put.
    let filled = store.put_with(&NS, &shape(&[PART]), |_| Ok::<(), ()>(()));
    assert_eq!(filled, Ok(PutOutcome::Queued));
    settle(&store);
    assert_eq!(store.get(&NS, &key(9, 0), b"w").unwrap()[0], [0; PART]);
}

#[test]
fn a_refused_block_goes_with_all_that_hangs_on_it() {
    let (disk, store) = open(|config| config.ram_budget_bytes = 4 * MIB);
    chain(&store, 1, 4);
    // A branch and a leaf of another kind below block 1, another chain, and another namespace.
    put(&store, key(5, 0), Some(key(1, 1)));
    put(&store, key(5, 1), Some(key(5, 0)));
    chain(&store, 2, 2);
    let of_other =
        Record { kind: Kind::Kv, key: key(1, 2), parent: None, witness: b"w", parts: &[] };
    store.put(&OTHER, &of_other);
    settle(&store);
    let files = disk.files_below("blocks").len();
    let guard = store.get(&NS, &key(1, 2), b"w").unwrap();

    let cleared = store.invalidate(&NS, &key(1, 1));
    assert_eq!(cleared.blocks, 5);
    assert!(cleared.physical_bytes >= 5 * PART as u64);
    settle(&store);
    let here =
        store.contains(&NS, &[key(1, 0), key(1, 1), key(1, 2), key(1, 3), key(5, 0), key(5, 1)]);
    assert_eq!(here, [true, false, false, false, false, false]);
    assert_eq!(store.contains(&NS, &[key(2, 0), key(2, 1)]), [true; 2]);
    assert_eq!(store.contains(&OTHER, &[key(1, 2)]), [true]);
    assert_eq!(disk.files_below("blocks").len(), files - 5);
    assert_eq!(disk.files_below("damaged"), Vec::<PathBuf>::new());
    assert_eq!(guard[0], [7; PART], "who holds the bytes keeps them");
    assert_eq!(store.stats().counters.invalidated, 5);
    assert_eq!(store.invalidate(&NS, &key(1, 1)), Cleared::default());
    chain(&store, 1, 4);
    assert_eq!(store.contains(&NS, &[key(1, 1), key(1, 3)]), [true; 2]);
}

#[test]
fn a_block_tells_where_it_is_and_what_became_of_it() {
    let (disk, store) = open(|config| config.queue_bytes = 2 * 120_000);
    let place = |name: &Key| store.locate(&NS, name);
    assert_eq!(place(&key(1, 0)), BlockLocation::Unknown);
    put(&store, key(1, 0), None);
    put(&store, key(1, 1), Some(key(1, 0)));
    assert!(
        matches!(place(&key(1, 0)), BlockLocation::Here(b) if b.queued && b.in_ram && !b.on_disk)
    );
    put(&store, key(1, 2), Some(key(1, 1)));
    let not_saved = BlockLocation::Gone(Departure::NotSaved(DropReason::QueueFull));
    assert_eq!(place(&key(1, 2)), not_saved);
    settle(&store);
    assert!(
        matches!(place(&key(1, 0)), BlockLocation::Here(b) if !b.queued && !b.in_ram && b.on_disk)
    );
    let path = disk.files_below("blocks").pop().unwrap();
    assert!(path.ends_with(key(1, 1).to_string()));
    disk.tamper(&path, |bytes| bytes[20_000] ^= 1);
    assert!(store.get(&NS, &key(1, 1), b"w").is_err());
    assert_eq!(place(&key(1, 1)), BlockLocation::Gone(Departure::Damaged(Damage::Checksum)));
    for n in 10..40 {
        chain(&store, n, 1);
    }
    assert_eq!(place(&key(1, 0)), BlockLocation::Gone(Departure::Evicted(EvictReason::Quota)));
    let left = store.clear(None);
    assert!(left.blocks > 8);
    assert_eq!(left.physical_bytes, left.blocks * 128 * 1024);
    assert_eq!(place(&key(39, 0)), BlockLocation::Gone(Departure::Evicted(EvictReason::Manual)));
    // A block that is put again is stored again.
    settle(&store);
    put(&store, key(1, 0), None);
    assert!(matches!(place(&key(1, 0)), BlockLocation::Here(_)));
}
