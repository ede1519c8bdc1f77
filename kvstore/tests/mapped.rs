//! Truncates, punches and overwrites files while they are mapped and read. The result is a miss and a
//! counter, never the end of the process and never a wrong byte that passes [`kvstore::Guard::check`]. A
//! SIGBUS that is not ours still reaches the handler that was there before.

#![expect(unsafe_code, reason = "the test raises real signals")]

mod support;

use kvstore::{Key, Kind, MAX_MAPPINGS, Namespace, Record, Store, StoreConfig};
use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use support::rng::Rng;

const NS: Namespace = Namespace([1; 32]);
const LEN: usize = 256 * 1024;
const LONG: Duration = Duration::from_secs(60);

fn key(n: u64) -> Key {
    let mut bytes = [n as u8; 32];
    bytes[8..16].copy_from_slice(&n.to_le_bytes());
    Key(bytes)
}

/// Content without zero bytes, so that a page of zeros is always noticed.
fn content(n: u64) -> Vec<u8> {
    (0..LEN).map(|i| (i as u64 * 31 + n) as u8 | 1).collect()
}

fn open(root: &Path) -> Store {
    let mut config = StoreConfig::new(root, 1 << 30);
    config.min_free_bytes = 0;
    config.ram_budget_bytes = 0; // every hit on disk is mapped
    config.drain = LONG;
    Store::open(config).unwrap()
}

fn put(store: &Store, n: u64) {
    let bytes = content(n);
    let record =
        Record { kind: Kind::Kv, key: key(n), parent: None, witness: b"w", parts: &[&bytes] };
    store.put(&NS, &record);
}

fn path(root: &Path, n: u64) -> PathBuf {
    let key = key(n).to_string();
    root.join("blocks").join(NS.to_string()).join(&key[..1]).join(&key)
}

/// The limit of mappings is one for the whole process, so the tests run one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(target_os = "linux")]
fn punch(file: &File) {
    use rustix::fs::{FallocateFlags, fallocate};
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(file, flags, 64 * 1024, 128 * 1024).unwrap();
}

/// On other systems zeros are written, which loses the same bytes.
#[cfg(not(target_os = "linux"))]
fn punch(file: &File) {
    std::os::unix::fs::FileExt::write_all_at(file, &[0; 128 * 1024], 64 * 1024).unwrap();
}

fn harm(path: &Path, how: u64) {
    let Ok(file) = OpenOptions::new().write(true).open(path) else { return };
    match how {
        0 => file.set_len(20_000).unwrap(),
        1 => file.set_len(0).unwrap(),
        _ => punch(&file),
    }
}

#[test]
fn a_mapped_block_whose_file_is_harmed_fails_its_check_and_is_then_a_miss() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    (0..4).for_each(|n| put(&store, n));
    assert!(store.flush(LONG));
    for how in 0..3 {
        let guard = store.get(&NS, &key(how), b"w").unwrap();
        assert!(guard.is_mapped());
        assert_eq!(guard[0], content(how));
        guard.check().unwrap();
        harm(&path(dir.path(), how), how);
        let differs = guard[0] != content(how); // would be SIGBUS without the handler
        assert!(differs && guard.check().is_err(), "harm {how} went unseen");
        assert!(guard.check().is_err() && store.get(&NS, &key(how), b"w").is_err());
    }
    // A block whose file was only renamed or removed is still whole.
    let guard = store.get(&NS, &key(3), b"w").unwrap();
    store.clear(None);
    assert!(store.flush(LONG));
    assert_eq!(guard[0], content(3));
    guard.check().unwrap();
    let stats = store.stats();
    assert_eq!(stats.counters.verify_failures.iter().sum::<u64>(), 3);
}

#[test]
fn more_blocks_than_mappings_are_still_hits() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let total = MAX_MAPPINGS as u64 + 10;
    for n in 0..total {
        let bytes = n.to_le_bytes();
        let record =
            Record { kind: Kind::Kv, key: key(n), parent: None, witness: b"w", parts: &[&bytes] };
        store.put(&NS, &record);
    }
    assert!(store.flush(LONG));
    let guards: Vec<_> =
        (0..total).map(|n| store.get(&NS, &key(n), b"w").expect("stored")).collect();
    assert!((0u64..).zip(&guards).all(|(n, guard)| guard[0] == n.to_le_bytes()));
    assert_eq!(guards.iter().filter(|guard| guard.is_mapped()).count(), MAX_MAPPINGS);
    assert!(guards.iter().all(|guard| guard.check().is_ok()));
    drop(guards);
    assert_eq!(store.stats().memory_bytes, 0);
}

#[test]
fn readers_survive_truncation_and_holes_under_load() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let stop = AtomicBool::new(false);
    let (good, bad) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let (store, stop, good, bad) = (&store, &stop, &good, &bad);
            scope.spawn(move || {
                let mut rng = Rng::new(seed);
                while !stop.load(Ordering::Relaxed) {
                    let n = rng.below(8);
                    let Ok(guard) = store.get(&NS, &key(n), b"w") else {
                        put(store, n);
                        continue;
                    };
                    let same = guard[0] == content(n);
                    if guard.check().is_ok() {
                        assert!(same, "wrong bytes passed the check");
                        good.fetch_add(1, Ordering::Relaxed);
                    } else {
                        bad.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let mut rng = Rng::new(99);
        let deadline = std::time::Instant::now() + LONG;
        let enough = || good.load(Ordering::Relaxed) > 300 && bad.load(Ordering::Relaxed) > 20;
        while !enough() && std::time::Instant::now() < deadline {
            let how = rng.below(3);
            harm(&path(dir.path(), rng.below(8)), how);
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(enough(), "{good:?} good reads, {bad:?} caught");
    });
}

// ---- signals that are not ours -------------------------------------------------------------

static OTHERS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn others_handler(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    OTHERS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the kernel hands a SA_SIGINFO handler a valid siginfo. A page is put where the fault
    // was, inside the mapping that `fault` made, so that the program goes on.
    unsafe {
        let address = (*info).si_addr() as usize & !4095;
        if (*info).si_code > 0 {
            let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANON;
            libc::mmap(address as *mut _, 4096, libc::PROT_READ, flags, -1, 0);
        }
    }
}

/// Reads a mapping of the test beyond the end of its file, which raises a SIGBUS that is not the store's.
fn fault(dir: &Path) {
    let file = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(dir.join("own"))
        .unwrap();
    file.set_len(4096).unwrap();
    // SAFETY: the test wants the fault that this mapping gives.
    let map = unsafe { memmap2::Mmap::map(&file).unwrap() };
    file.set_len(0).unwrap();
    std::hint::black_box(map[100]);
}

/// What the child processes of the next test do.
#[test]
fn child() {
    let Ok(role) = std::env::var("KVSTORE_SIGBUS_CHILD") else { return };
    let dir = tempfile::tempdir().unwrap();
    // SAFETY: a zeroed sigaction is valid, and `others_handler` fits SA_SIGINFO. The default is
    // set as well: the standard library has a handler of its own, which swallows the first SIGBUS
    // that is sent.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        if role.starts_with("handled") {
            let handler: extern "C" fn(_, _, _) = others_handler;
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
        }
        assert_eq!(libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()), 0);
    }
    let store = open(dir.path());
    put(&store, 1);
    assert!(store.flush(LONG));
    let guard = store.get(&NS, &key(1), b"w").unwrap();
    assert!(guard.is_mapped());
    match role.as_str() {
        "handled-fault" => fault(dir.path()),
        // SAFETY: raising a signal that is handled.
        "handled-sent" => unsafe {
            libc::raise(libc::SIGBUS);
        },
        "default-fault" => fault(dir.path()),
        // SAFETY: raising a signal that ends this process is the point.
        "default-sent" => unsafe {
            libc::raise(libc::SIGBUS);
        },
        other => panic!("no such role: {other}"),
    }
    // The process still runs, so the other handler handled the signal. Ours still works too.
    assert_eq!(OTHERS.load(Ordering::Relaxed), 1);
    harm(&path(dir.path(), 1), 0);
    assert!(guard[0] != content(1) && guard.check().is_err());
    assert_eq!(OTHERS.load(Ordering::Relaxed), 1);
    std::process::exit(77);
}

#[test]
fn a_sigbus_of_others_goes_to_others() {
    let run = |role: &str| {
        let program = std::env::current_exe().unwrap();
        let output = Command::new(program)
            .args(["--exact", "child", "--nocapture"])
            .env("KVSTORE_SIGBUS_CHILD", role)
            .output()
            .unwrap();
        (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for role in ["handled-fault", "handled-sent"] {
        let (status, stderr) = run(role);
        assert_eq!(status.code(), Some(77), "{role}: {status} {stderr}");
    }
    for role in ["default-fault", "default-sent"] {
        // The process ends as it would without our handler.
        let (status, stderr) = run(role);
        assert_eq!(status.signal(), Some(libc::SIGBUS), "{role}: {status} {stderr}");
    }
}
