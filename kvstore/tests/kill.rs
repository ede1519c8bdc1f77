//! Kills a process (`kill -9`) whose store writes under load. The store reopens every time, no byte is
//! wrong, the quota holds, and no temporary file is left. `KVSTORE_KILLS=200` runs 200 rounds instead of a
//! few.

#![expect(clippy::print_stdout, reason = "the child process tells its parent that it is ready")]
#![expect(unsafe_code, reason = "the test stops a process")]

mod support;

use kvstore::{Key, Kind, Namespace, Record, Store, StoreConfig};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::rng::Rng;

const DEFAULT_KILLS: u64 = 8;
const QUOTA: u64 = 24 << 20;
const NS: Namespace = Namespace([9; 32]);
const CHAIN: u64 = 12;
/// The longest time to open the store. It takes milliseconds, but the machine may be busy.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

fn key(n: u64) -> Key {
    let mut rng = Rng::new(n);
    let mut bytes = [0; 32];
    bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&rng.next().to_le_bytes()));
    Key(bytes)
}

fn content(n: u64) -> Vec<u8> {
    let mut rng = Rng::new(n ^ 0xffff);
    let len = 20_000 + rng.below(400_000) / 8 * 8;
    (0..len / 8).flat_map(|_| rng.next().to_le_bytes()).collect()
}

fn open(root: &Path) -> Store {
    let mut config = StoreConfig::new(root, QUOTA);
    config.min_free_bytes = 0;
    config.ram_budget_bytes = 4 << 20;
    config.queue_bytes = 4 << 20;
    Store::open(config).expect("the store opens")
}

/// The process that is killed. It puts, gets and prefetches without end.
#[test]
fn child() {
    let Ok(root) = std::env::var("KVSTORE_KILL_CHILD") else { return };
    let seed: u64 = std::env::var("KVSTORE_KILL_SEED").unwrap().parse().unwrap();
    let store = open(Path::new(&root));
    let mut rng = Rng::new(seed);
    println!("\nwriting");
    loop {
        let n = rng.below(300);
        let bytes = content(n);
        let parent = (!n.is_multiple_of(CHAIN)).then(|| key(n - 1));
        let half = bytes.len() / 2;
        let record = Record {
            kind: Kind::ALL[(n % 3) as usize],
            key: key(n),
            parent,
            witness: &n.to_le_bytes(),
            parts: &[&bytes[..half], &bytes[half..]],
        };
        store.put(&NS, &record);
        check(&store, rng.below(300));
    }
}

/// True on a hit.
fn check(store: &Store, n: u64) -> bool {
    let Ok(guard) = store.get(&NS, &key(n), &n.to_le_bytes()) else { return false };
    let bytes = content(n);
    let same = guard.parts().collect::<Vec<_>>().concat() == bytes;
    assert!(guard.check().is_err() || same, "block {n} came back wrong");
    true
}

fn usage(dir: &Path) -> u64 {
    let own = dir.symlink_metadata().unwrap().blocks() * 512;
    let Ok(entries) = std::fs::read_dir(dir) else { return own };
    own + entries.map(|entry| usage(&entry.unwrap().path())).sum::<u64>()
}

fn signal(child: &Child, signal: libc::c_int) {
    // SAFETY: the child is ours and not yet waited for, so its id is not another process's.
    assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, signal) }, 0);
}

/// Stops a process, and returns when it has stopped.
fn freeze(child: &Child) {
    signal(child, libc::SIGSTOP);
    let mut status = 0;
    // SAFETY: as above; `status` is ours to write. WUNTRACED returns for a stopped child.
    let id = unsafe { libc::waitpid(child.id() as libc::pid_t, &mut status, libc::WUNTRACED) };
    assert!(id == child.id() as libc::pid_t && libc::WIFSTOPPED(status));
}

fn round(root: &Path, rng: &mut Rng) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env("KVSTORE_KILL_CHILD", root)
        .env("KVSTORE_KILL_SEED", rng.next().to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    assert!(out.lines().any(|line| line.unwrap() == "writing"), "the child did not open");
    let until = Instant::now() + Duration::from_millis(rng.below(250));
    // The quota holds at every moment: stop the writer anywhere, and measure.
    while Instant::now() < until {
        freeze(&child);
        let used = usage(root);
        if used > QUOTA {
            child.kill().unwrap();
            panic!("{used} bytes, {QUOTA} allowed");
        }
        signal(&child, libc::SIGCONT);
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();

    assert!(usage(root) <= QUOTA, "{} bytes after the kill", usage(root));
    let started = Instant::now();
    let store = open(root);
    assert!(started.elapsed() < OPEN_LIMIT);
    let hits = (0..300).filter(|n| check(&store, *n)).count() as u64;
    assert!(store.flush(OPEN_LIMIT));
    let stats = store.stats();
    assert_eq!(stats.counters.verify_failures, [0; 4], "a kill damages nothing");
    assert!(stats.physical_bytes <= QUOTA && stats.physical_bytes >= usage(root));
    assert_eq!(std::fs::read_dir(root.join("tmp")).unwrap().count(), 0);
    hits
}

#[test]
fn kill_9_under_load() {
    let kills = std::env::var("KVSTORE_KILLS").map_or(DEFAULT_KILLS, |n| n.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(kills);
    let hits: u64 = (0..kills).map(|_| round(dir.path(), &mut rng)).sum();
    assert!(hits > kills, "{hits} hits in {kills} rounds");
}
