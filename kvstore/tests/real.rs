//! The store on a real disk, with its threads.

mod support;

use kvstore::{
    Damage, Key, Kind, Miss, Namespace, OpenError, PutOutcome, Record, Store, StoreConfig, Tier,
};
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::rng::Rng;

const NS: Namespace = Namespace([0xab; 32]);
const LONG: Duration = Duration::from_secs(60);

fn key(n: u64) -> Key {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    bytes[8..16].copy_from_slice(&n.to_le_bytes());
    bytes[0] = n as u8;
    Key(bytes)
}

fn part(n: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(n);
    let mut bytes: Vec<u8> = (0..len / 8).flat_map(|_| rng.next().to_le_bytes()).collect();
    bytes.resize(len, n as u8);
    bytes
}

fn config(root: &Path) -> StoreConfig {
    let mut config = StoreConfig::new(root, 1 << 30);
    config.min_free_bytes = 0;
    config.ram_budget_bytes = 64 << 20;
    config.queue_bytes = 64 << 20;
    config.drain = LONG;
    config
}

fn put(store: &Store, n: u64, parent: Option<u64>, len: usize) -> PutOutcome {
    let bytes = part(n, len);
    let record = Record {
        kind: Kind::Kv,
        key: key(n),
        parent: parent.map(key),
        witness: &n.to_le_bytes(),
        parts: &[&bytes[..len / 2], &bytes[len / 2..]],
    };
    store.put(&NS, &record)
}

/// Gets a block, compares every byte, and returns its tier.
fn expect(store: &Store, n: u64, len: usize) -> Result<Tier, Miss> {
    let guard = store.get(&NS, &key(n), &n.to_le_bytes())?;
    let bytes = part(n, len);
    // A mapping starts at a page of the system, which has 16 KiB on Apple Silicon.
    let page = if guard.is_mapped() { 4096 } else { 16 * 1024 };
    assert!(guard.parts().all(|part| part.as_ptr().addr().is_multiple_of(page)));
    assert_eq!((&guard[0], &guard[1]), (&bytes[..len / 2], &bytes[len / 2..]));
    guard.check().unwrap();
    Ok(guard.tier())
}

fn files_below(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![root.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { dirs.push(path) } else { files.push(path) }
        }
    }
    files
}

fn record_file(root: &Path, n: u64) -> PathBuf {
    let name = key(n).to_string();
    files_below(&root.join("blocks")).into_iter().find(|p| p.ends_with(&name)).expect("published")
}

#[test]
fn blocks_survive_closing_and_come_back_from_disk_and_then_from_ram() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(config(dir.path())).unwrap();
    for n in 0..20 {
        assert_eq!(put(&store, n, n.checked_sub(1), 100_000), PutOutcome::Queued);
        assert_eq!(expect(&store, n, 100_000), Ok(Tier::Ram), "readable before it is written");
    }
    assert_eq!(put(&store, 3, Some(2), 100_000), PutOutcome::AlreadyStored);
    store.close();

    let store = Store::open(config(dir.path())).unwrap();
    let keys: Vec<_> = (0..30).map(key).collect();
    assert_eq!(store.longest_prefix(&NS, &keys).blocks, 20);
    assert_eq!(expect(&store, 7, 100_000), Ok(Tier::Disk));
    assert_eq!(expect(&store, 7, 100_000), Ok(Tier::Ram));
    store.prefetch(&NS, &keys);
    assert!(store.flush(LONG));
    assert_eq!(store.longest_prefix(&NS, &keys).in_ram, 20);
    assert_eq!(expect(&store, 19, 100_000), Ok(Tier::Ram));
    let stats = store.stats();
    assert_eq!(stats.counters.hits, [2, 1]);
    assert_eq!(stats.blocks, [[20, 0, 0]; 2]);
    assert_eq!(stats.counters.recovered_blocks, 20);
    let on_disk: u64 = files_below(dir.path()).iter().map(|p| p.metadata().unwrap().blocks()).sum();
    assert!(stats.physical_bytes >= on_disk * 512);
    assert_eq!(store.verify(|_| ControlFlow::Continue(())).damaged, 0);
}

#[test]
fn a_second_opener_is_told_who_holds_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(config(dir.path())).unwrap();
    match Store::open(config(dir.path())) {
        Err(error @ OpenError::Locked { pid, .. }) => {
            assert_eq!(pid, Some(std::process::id()));
            assert!(error.to_string().contains(&format!("process {}", std::process::id())));
        }
        other => panic!("opened twice: {other:?}"),
    }
    put(&store, 1, None, 1000);
    let guard = store.get(&NS, &key(1), &1u64.to_le_bytes()).unwrap();
    store.close();
    let store = Store::open(config(dir.path())).expect("a guard does not keep the root locked");
    assert_eq!(&guard[0], &part(1, 1000)[..500], "nor does closing take its bytes");
    drop(store);
}

#[test]
fn only_the_owner_may_read_and_enter() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("kv");
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    let store = Store::open(config(&root)).unwrap();
    put(&store, 1, None, 1000);
    store.close();
    let files = files_below(&root);
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600, "{file:?}");
        let folders = file.ancestors().skip(1).take_while(|folder| folder.starts_with(&root));
        for folder in folders {
            assert_eq!(folder.metadata().unwrap().mode() & 0o777, 0o700, "{folder:?}");
        }
    }
}

#[test]
fn an_index_that_is_gone_or_damaged_is_rebuilt_from_the_records() {
    for damage in ["gone", "flipped", "of a later version"] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(config(dir.path())).unwrap();
        for n in 0..10 {
            put(&store, n, n.checked_sub(1), 1000);
        }
        store.close();
        for file in files_below(&dir.path().join("index")) {
            let mut bytes = fs::read(&file).unwrap();
            match damage {
                "gone" => fs::remove_file(&file).unwrap(),
                "flipped" => {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                    fs::write(&file, bytes).unwrap();
                }
                _ => {
                    bytes[8] += 1;
                    fs::write(&file, bytes).unwrap();
                }
            }
        }
        let store = Store::open(config(dir.path())).unwrap();
        assert!(store.flush(LONG));
        let keys: Vec<_> = (0..10).map(key).collect();
        assert_eq!(store.longest_prefix(&NS, &keys).blocks, 10, "index {damage}");
        assert_eq!(expect(&store, 9, 1000), Ok(Tier::Disk));
    }
}

#[test]
fn unknown_files_are_set_aside_and_counted_and_temporaries_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(config(dir.path())).unwrap();
    put(&store, 1, None, 1000);
    store.close();
    let fan = record_file(dir.path(), 1).parent().unwrap().to_path_buf();
    let mut newer = fs::read(record_file(dir.path(), 1)).unwrap();
    newer[8] = 99;
    let newer_key = Key({
        let mut bytes = key(1).0;
        bytes[31] = 7;
        bytes
    });
    fs::write(fan.join("notes.txt"), vec![b'x'; 50_000]).unwrap();
    fs::write(fan.join(newer_key.to_string()), newer).unwrap();
    fs::write(dir.path().join("stranger"), vec![b'y'; 70_000]).unwrap();
    fs::write(dir.path().join("tmp/17"), b"half a record").unwrap();

    let store = Store::open(config(dir.path())).unwrap();
    assert!(store.flush(LONG));
    let stats = store.stats();
    assert_eq!(stats.counters.set_aside_files, 2);
    assert_eq!(stats.counters.orphan_temporaries, 1);
    assert!(stats.unindexed_bytes >= 120_000, "{}", stats.unindexed_bytes);
    assert_eq!(fs::read(dir.path().join("foreign/0.notes.txt")).unwrap(), vec![b'x'; 50_000]);
    assert!(dir.path().join(format!("foreign/0.{newer_key}")).exists(), "kept for who knows it");
    assert!(dir.path().join("stranger").exists() && !dir.path().join("tmp/17").exists());
    assert_eq!(store.get(&NS, &newer_key, b"").unwrap_err(), Miss::NotStored);
    assert_eq!(expect(&store, 1, 1000), Ok(Tier::Disk));
}

#[test]
fn every_damage_is_a_miss_that_is_counted_and_set_aside() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm, Damage); 6] = [
        ("payload", |p| flip(p, 16 * 1024 + 5), Damage::Checksum),
        ("header", |p| flip(p, 70), Damage::Header),
        ("truncated", |p| set_len(p, 20_000), Damage::ShortRead),
        ("empty", |p| set_len(p, 0), Damage::ShortRead),
        ("extended", |p| set_len(p, 1 << 20), Damage::ShortRead),
        ("another record", replace, Damage::Namespace),
    ];
    for ram_budget_bytes in [64 << 20, 0] {
        for (name, harm, damage) in harms {
            let dir = tempfile::tempdir().unwrap();
            let config = StoreConfig { ram_budget_bytes, ..config(dir.path()) };
            let store = Store::open(config.clone()).unwrap();
            for n in 1..4 {
                put(&store, n, None, 40_000);
            }
            store.close();
            harm(&record_file(dir.path(), 1));
            let store = Store::open(config).unwrap();
            let miss = expect(&store, 1, 40_000).unwrap_err();
            // An empty file cannot be mapped at all.
            if !(ram_budget_bytes == 0 && name == "empty") {
                assert_eq!(miss, Miss::Damaged(damage), "{name}");
                assert_eq!(store.stats().counters.verify_failures[damage.index()], 1, "{name}");
            }
            assert_eq!(expect(&store, 1, 40_000), Err(Miss::NotStored), "{name}: tried once only");
            assert!(expect(&store, 3, 40_000).is_ok());
            assert!(store.flush(LONG));
            assert_eq!(files_below(&dir.path().join("damaged")).len(), 1, "{name}");
            assert_eq!(put(&store, 1, None, 40_000), PutOutcome::Queued, "{name}: heals");
            assert!(expect(&store, 1, 40_000).is_ok());
        }
    }
}

/// Replaces this record by record 2.
fn replace(path: &Path) {
    let root = path.ancestors().nth(4).unwrap();
    fs::copy(record_file(root, 2), path).unwrap();
}

fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

fn set_len(path: &Path, len: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

#[test]
fn a_scrub_finds_what_nobody_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(config(dir.path())).unwrap();
    for n in 0..10 {
        put(&store, n, None, 40_000);
    }
    assert!(store.flush(LONG));
    flip(&record_file(dir.path(), 4), 20_000);
    let mut seen = 0;
    let report = store.verify(|report| {
        seen += 1;
        assert_eq!((report.done, report.total), (seen, 10));
        ControlFlow::Continue(())
    });
    assert_eq!((report.damaged, report.done), (1, 10));
    assert_eq!(store.verify(|_| ControlFlow::Break(())).done, 1);
    assert_eq!(store.list(Some(&NS)).len(), 9);
    store.clear(None);
    assert!(store.flush(LONG));
    assert_eq!(files_below(&dir.path().join("blocks")), Vec::<PathBuf>::new());
    assert_eq!(files_below(&dir.path().join("damaged")), Vec::<PathBuf>::new());
}

#[test]
fn encrypted_records_show_nothing_and_open_only_with_their_key() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("kv");
    let with_key = |name: &str| {
        let key_file = Some(dir.path().join(name));
        StoreConfig { key_file, ..config(&root) }
    };
    let secret = b"a secret that is long enough to be searched for".repeat(1000);
    let record = Record {
        kind: Kind::Kv,
        key: key(1),
        parent: None,
        witness: &secret[..100],
        parts: &[&secret],
    };
    // A process that ended while it made the key may have left this file.
    fs::write(dir.path().join("key.new"), b"half a key").unwrap();
    let store = Store::open(with_key("key")).unwrap();
    assert!(!dir.path().join("key.new").exists());
    store.put(&NS, &record);
    store.put(&NS, &Record { key: key(2), ..record });
    store.close();
    assert_eq!(fs::metadata(dir.path().join("key")).unwrap().mode() & 0o777, 0o600);
    for file in files_below(&root) {
        let bytes = fs::read(&file).unwrap();
        assert!(!bytes.windows(20).any(|window| window == &secret[..20]), "plain text in {file:?}");
    }

    let store = Store::open(with_key("key")).unwrap();
    let guard = store.get(&NS, &key(1), &secret[..100]).unwrap();
    assert_eq!(guard[0], secret);
    assert_eq!(store.get(&NS, &key(1), b"").unwrap_err(), Miss::WitnessDiffers);
    store.close();
    // Without a RAM tier, and as it cannot be mapped, the block is read into memory of its guard.
    let store = Store::open(StoreConfig { ram_budget_bytes: 0, ..with_key("key") }).unwrap();
    assert_eq!(store.get(&NS, &key(1), &secret[..100]).unwrap()[0], secret);
    assert_eq!(store.stats().memory_bytes, 0);
    store.close();
    let store = Store::open(with_key("other key")).unwrap();
    let miss = store.get(&NS, &key(1), &secret[..100]).unwrap_err();
    assert_eq!(miss, Miss::Damaged(Damage::Checksum));
    store.close();
    let store = Store::open(config(&root)).unwrap();
    assert_eq!(store.get(&NS, &key(2), &secret[..100]).unwrap_err(), Miss::NotStored);
    store.close();

    fs::set_permissions(dir.path().join("key"), fs::Permissions::from_mode(0o644)).unwrap();
    let error = Store::open(with_key("key")).unwrap_err();
    assert!(error.to_string().contains("chmod 600"), "{error}");
}

/// Reads, writes, evicts and clears at once, on real threads. Every hit is exact.
#[test]
fn many_threads_never_see_a_wrong_byte() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.quota_bytes = 8 << 20;
    config.ram_budget_bytes = 1 << 20;
    config.queue_bytes = 1 << 20;
    let store = Store::open(config).unwrap();
    let hits: u64 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|seed| {
                let store = &store;
                scope.spawn(move || {
                    let mut rng = Rng::new(seed);
                    let mut hits = 0;
                    for _ in 0..1500 {
                        let n = rng.below(200);
                        match rng.below(12) {
                            0..4 => {
                                let parent = n.checked_sub(n % 10).filter(|above| *above != n);
                                put(store, n, parent, 90_000);
                            }
                            4 => store.prefetch(&NS, &[key(n), key(n + 1)]),
                            5 if rng.one_in(40) => drop(store.clear(Some(&NS))),
                            _ => hits += u64::from(expect(store, n, 90_000).is_ok()),
                        }
                    }
                    hits
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert!(hits > 100, "{hits} hits");
    let stats = store.stats();
    assert!(stats.physical_bytes <= 8 << 20 && stats.memory_bytes <= 2 << 20);
    store.close();
    let on_disk: u64 = files_below(dir.path()).iter().map(|p| p.metadata().unwrap().blocks()).sum();
    assert!(on_disk * 512 <= 8 << 20);
}

/// The names in the folder of published records.
fn folders_of_blocks(root: &Path) -> usize {
    fs::read_dir(root.join("blocks")).unwrap().count()
}

/// Puts one block under each of some namespaces that nobody will use again.
fn put_salted(store: &Store, from: u64, count: u64) {
    for n in from..from + count {
        let bytes = part(n, 64);
        let record =
            Record { kind: Kind::Kv, key: key(n), parent: None, witness: b"w", parts: &[&bytes] };
        store.put(&Namespace(key(n).0), &record);
    }
    assert!(store.flush(LONG));
}

#[test]
fn a_namespace_that_holds_nothing_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(config(dir.path())).unwrap();
    put_salted(&store, 0, 300);
    assert_eq!(folders_of_blocks(dir.path()), 300);
    store.remove_namespace(&Namespace(key(7).0));
    assert!(store.flush(LONG));
    assert_eq!(folders_of_blocks(dir.path()), 299);
    store.clear(None);
    assert!(store.flush(LONG));
    assert_eq!(folders_of_blocks(dir.path()), 0);
    let namespaces = store.stats().namespaces;
    assert!(namespaces.iter().all(|own| own.namespace.is_none()), "{namespaces:?}");
    assert!(namespaces[0].write_bytes[0] > 0, "what they wrote still counts");
    // The namespaces can be used again.
    put_salted(&store, 0, 3);
    assert_eq!(folders_of_blocks(dir.path()), 3);
    assert!(store.get(&Namespace(key(1).0), &key(1), b"w").is_ok());
    store.close();
}

#[test]
fn empty_folders_of_an_earlier_run_go_with_a_scan() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..20 {
        let space = Namespace(key(n).0).to_string();
        fs::create_dir_all(dir.path().join("blocks").join(space).join("a")).unwrap();
    }
    let store = Store::open(config(dir.path())).unwrap();
    assert!(store.flush(LONG));
    assert_eq!(folders_of_blocks(dir.path()), 0);
    store.close();
}

#[test]
fn what_took_a_records_place_is_moved_away_and_nothing_behind_it_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let theirs = outside.path().join("theirs");
    fs::write(&theirs, "theirs").unwrap();
    let store = Store::open(config(dir.path())).unwrap();
    for n in 0..6 {
        put(&store, n, None, 4096);
    }
    assert!(store.flush(LONG));
    store.demote_all();
    let files: Vec<PathBuf> = (0..6).map(|n| record_file(dir.path(), n)).collect();
    files.iter().for_each(|file| fs::remove_file(file).unwrap());
    fs::create_dir(&files[0]).unwrap();
    fs::write(files[0].join("inside"), "theirs").unwrap();
    std::os::unix::fs::symlink(&theirs, &files[1]).unwrap();
    std::os::unix::fs::symlink(outside.path(), &files[2]).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&files[3]).status().unwrap().success());
    std::os::unix::fs::symlink("nowhere", &files[4]).unwrap();
    // The sixth file was removed.
    let verify = || store.verify(|_| ControlFlow::Continue(()));
    assert_eq!(verify().unreadable, 6);
    assert!(store.flush(LONG));
    let again = verify();
    assert_eq!((again.total, again.damaged, again.unreadable), (0, 0, 0));
    assert_eq!(fs::read_to_string(&theirs).unwrap(), "theirs");
    let kept = files_below(&dir.path().join("foreign"));
    assert!(kept.iter().any(|path| path.ends_with("inside")), "{kept:?}");
    for n in 0..6 {
        assert_eq!(put(&store, n, None, 4096), PutOutcome::Queued);
    }
    assert!(store.flush(LONG));
    assert_eq!(
        verify(),
        kvstore::VerifyReport { total: 6, done: 6, bytes: verify().bytes, ..Default::default() }
    );
    store.close();
}

#[test]
fn a_scan_moves_away_what_took_a_records_place() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(config(dir.path())).unwrap();
    put(&store, 1, None, 4096);
    put(&store, 2, None, 4096);
    assert!(store.flush(LONG));
    store.demote_all();
    for (n, is_folder) in [(1, true), (2, false)] {
        let file = record_file(dir.path(), n);
        fs::remove_file(&file).unwrap();
        if is_folder {
            fs::create_dir(&file).unwrap();
        } else {
            std::os::unix::fs::symlink("/dev/zero", &file).unwrap();
        }
    }
    store.close();
    // Every opening starts a scan.
    let store = Store::open(config(dir.path())).unwrap();
    assert!(store.flush(LONG));
    assert_eq!(store.list(None).len(), 0);
    assert_eq!(folders_of_blocks(dir.path()), 0);
    store.close();
}

#[test]
fn a_folder_of_the_stores_own_that_is_a_link_is_refused_and_its_files_stay() {
    for top in ["tmp", "damaged", "blocks", "index", "foreign"] {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for name in ["1", "log-1", "theirs"] {
            fs::write(outside.path().join(name), "theirs").unwrap();
        }
        std::os::unix::fs::symlink(outside.path(), dir.path().join(top)).unwrap();
        let error = Store::open(config(dir.path())).unwrap_err();
        assert!(matches!(&error, OpenError::Io { path, .. } if path.ends_with(top)), "{error}");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 3, "{top}");
    }
}

#[test]
fn a_start_removes_only_what_has_the_name_of_something_unfinished() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("tmp")).unwrap();
    fs::create_dir_all(dir.path().join("damaged")).unwrap();
    for name in ["tmp/17", "tmp/photo.jpg", "damaged/photo.jpg"] {
        fs::write(dir.path().join(name), "theirs").unwrap();
    }
    std::os::unix::fs::symlink("photo.jpg", dir.path().join("tmp/18")).unwrap();
    let store = Store::open(config(dir.path())).unwrap();
    assert!(store.flush(LONG));
    store.clear(None);
    assert!(!dir.path().join("tmp/17").exists());
    let kept = files_below(&dir.path().join("foreign"));
    assert_eq!(kept.iter().filter(|path| path.to_string_lossy().contains("photo")).count(), 2);
    store.close();
}

#[test]
fn the_lock_holds_when_its_file_is_removed_and_a_lock_that_is_no_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(config(dir.path())).unwrap();
    fs::remove_file(dir.path().join("lock")).unwrap();
    assert!(matches!(Store::open(config(dir.path())), Err(OpenError::Locked { .. })));
    let link = dir.path().with_extension("link");
    std::os::unix::fs::symlink(dir.path(), &link).unwrap();
    assert!(matches!(Store::open(config(&link)), Err(OpenError::Locked { .. })));
    fs::remove_file(&link).unwrap();
    store.close();
    let _ = fs::remove_file(dir.path().join("lock"));
    assert!(
        std::process::Command::new("mkfifo")
            .arg(dir.path().join("lock"))
            .status()
            .unwrap()
            .success()
    );
    assert!(matches!(Store::open(config(dir.path())), Err(OpenError::Io { .. })));
}
