//! Compares the store with plain reads, writes and copies on the same machine, in ratios.
//!
//! `cargo bench -p kvstore` prints a table with a verdict for each goal. It uses the folder
//! `KVSTORE_BENCH_DIR`, or else the build folder. Before every cold read the files are dropped from the
//! page cache. This works on Linux only; on other systems run `purge` first, and do not trust the cold rows.

#![expect(clippy::print_stdout, reason = "a table is what this program is for")]

use kvstore::layout::record::Header;
use kvstore::{Key, Kind, Namespace, Record, Store, StoreConfig};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
const NS: Namespace = Namespace([3; 32]);
const LONG: Duration = Duration::from_secs(600);
/// The number of measurements of each kind. They alternate with the measurements that they are compared
/// with, and the median of the ratios counts, so that other work of the machine disturbs both.
const ROUNDS: usize = 5;
const READ_ROUNDS: usize = 9;
const OPEN_BLOCKS: u64 = 100_000;

fn key(n: u64) -> Key {
    let mut bytes = [0; 32];
    // Spread over the fan-out folders as digests would be.
    bytes[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[8..16].copy_from_slice(&n.to_be_bytes());
    Key(bytes)
}

fn config(root: &Path) -> StoreConfig {
    let mut config = StoreConfig::new(root, 64 << 30);
    config.min_free_bytes = 0;
    config.ram_budget_bytes = 4 << 30;
    config.queue_bytes = 2 << 30;
    config.drain = LONG;
    config
}

struct Table(bool);

impl Table {
    fn row(&mut self, what: &str, measured: String, goal: &str, passed: bool) {
        self.0 &= passed;
        println!("{what:<44} {measured:>34}  {goal:<12} {}", if passed { "PASS" } else { "FAIL" });
    }

    /// `ours` and `plain` are seconds for the same bytes.
    fn ratio(&mut self, what: &str, ours: &[f64], plain: &[f64], bytes: usize, goal: f64) {
        let mut ratios: Vec<f64> = ours.iter().zip(plain).map(|(o, p)| p / o).collect();
        ratios.sort_by(f64::total_cmp);
        let ratio = ratios[ratios.len() / 2];
        let rate = |secs: &[f64]| bytes as f64 / MIB as f64 / median(secs);
        let measured =
            format!("{:.0} of {:.0} MiB/s = {:.0} %", rate(ours), rate(plain), ratio * 100.0);
        self.row(what, measured, &format!(">= {:.0} %", goal * 100.0), ratio >= goal);
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let started = Instant::now();
    let result = work();
    (started.elapsed().as_secs_f64(), result)
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("the bench folder can be listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

/// Forgets the cached pages of files that are on the medium.
fn drop_cache(files: &[PathBuf]) {
    for path in files {
        let file = File::open(path).expect("a file to drop from the cache");
        file.sync_all().expect("sync");
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
    }
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state ^ (state >> 29)
    });
    words.take(len / 8).flat_map(u64::to_le_bytes).collect()
}

fn put_all(store: &Store, payload: &[u8], block: usize) -> Vec<Key> {
    let mut parent = None;
    (0u64..)
        .zip(payload.chunks(block))
        .map(|(n, bytes)| {
            let (keys, values) = bytes.split_at(block / 2);
            let record = Record {
                kind: Kind::Kv,
                key: key(n),
                parent,
                witness: &[7; 1024],
                parts: &[keys, values],
            };
            store.put(&NS, &record);
            parent = Some(key(n));
            key(n)
        })
        .collect()
}

fn dd(args: &[String]) -> f64 {
    let (secs, status) = timed(|| Command::new("dd").args(args).args(["status=none"]).status());
    assert!(status.is_ok_and(|status| status.success()), "dd {args:?}");
    secs
}

/// Does for each file what `dd bs=BLOCK count=1 skip=N conv=fdatasync` does, but in this process, so that
/// starting hundreds of programs is not measured.
fn write_as_dd(flat: &Path, target: &Path, block: usize, count: usize) {
    let mut from = File::open(flat).expect("the flat file");
    let mut buffer = vec![0; block];
    for n in 0..count {
        from.read_exact(&mut buffer).expect("read");
        let mut to = File::create(target.join(n.to_string())).expect("a file");
        to.write_all(&buffer).expect("written");
        to.sync_data().expect("synced");
    }
}

/// Measures writing the same files, each synced, by dd and by the store.
fn write(table: &mut Table, dir: &Path, payload: &[u8], flat: &Path, block: usize) -> Vec<Key> {
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    let mut keys = Vec::new();
    for _ in 0..ROUNDS {
        let target = dir.join("dd");
        fs::create_dir_all(&target).expect("a folder for dd");
        let count = payload.len() / block;
        plain.push(timed(|| write_as_dd(flat, &target, block, count)).0);
        fs::remove_dir_all(&target).expect("remove");

        let root = dir.join("kv");
        let _ = fs::remove_dir_all(&root);
        let store = Store::open(config(&root)).expect("open");
        assert!(store.flush(LONG));
        let (secs, put) = timed(|| {
            let keys = put_all(&store, payload, block);
            assert!(store.flush(LONG));
            keys
        });
        keys = put;
        ours.push(secs);
        let stats = store.stats();
        assert_eq!(stats.blocks[1][0], count as u64, "{:?}", stats.counters);
        store.close();
    }
    let what = format!("write, {} MiB blocks, of dd conv=fdatasync", block / MIB);
    table.ratio(&what, &ours, &plain, payload.len(), 0.8);
    keys
}

fn cold_read(
    table: &mut Table,
    root: &Path,
    payload: &[u8],
    flat: &Path,
    keys: &[Key],
    block: usize,
) {
    let args = [format!("if={}", flat.display()), "of=/dev/null".into(), "bs=1M".into()];
    let (mut copied, mut mapped) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    let mut same_files = Vec::new();
    let mut buffer = vec![0; MIB];
    for _ in 0..READ_ROUNDS {
        for (budget, (ours, plain)) in [(4u64 << 30, &mut copied), (0, &mut mapped)] {
            drop_cache(&[flat.to_path_buf()]);
            plain.push(dd(&args));
            drop_cache(&files_below(root));
            let store = Store::open(StoreConfig { ram_budget_bytes: budget, ..config(root) })
                .expect("open");
            assert!(store.flush(LONG));
            let (secs, _) = timed(|| {
                store.prefetch(&NS, keys);
                for key in keys {
                    let guard = store.get(&NS, key, &[7; 1024]).expect("stored");
                    std::hint::black_box(guard[1][0]);
                    guard.check().expect("intact");
                }
            });
            ours.push(secs);
        }
        let files = files_below(&root.join("blocks"));
        drop_cache(&files);
        let read = |path: &PathBuf| {
            let mut file = File::open(path).expect("a record");
            while file.read(&mut buffer).expect("read") > 0 {}
        };
        same_files.push(timed(|| files.iter().for_each(read)).0);
    }
    let what = |how| format!("cold read {how}, {} MiB blocks, of dd", block / MIB);
    table.ratio(&what("to RAM"), &copied.0, &copied.1, payload.len(), 0.8);
    table.ratio(&what("mapped"), &mapped.0, &mapped.1, payload.len(), 0.8);
    // The speed of the disk for this many files without any work on them, for comparison.
    let rate = payload.len() as f64 / MIB as f64 / median(&same_files);
    println!("{:<44} {rate:>28.0} MiB/s", "  the same files, read one after another");
}

fn warm_read(table: &mut Table, root: &Path, payload: &[u8], keys: &[Key], block: usize) {
    let store = Store::open(config(root)).expect("open");
    let read = |out: &mut [u8]| {
        for (key, out) in keys.iter().zip(out.chunks_mut(block)) {
            let guard = store.get(&NS, key, &[7; 1024]).expect("stored");
            let (keys, values) = out.split_at_mut(block / 2);
            keys.copy_from_slice(&guard[0]);
            values.copy_from_slice(&guard[1]);
        }
        std::hint::black_box(out);
    };
    // Both start at a page, like the buffers of the store: at other addresses, copies of half a megabyte
    // differ by a factor of two.
    let aligned = || memmap2::MmapMut::map_anon(payload.len()).expect("memory");
    let (mut out, mut source) = (aligned(), aligned());
    source.copy_from_slice(payload);
    read(&mut out);
    assert!(out[..] == *payload);
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..2 * ROUNDS {
        ours.push(timed(|| read(&mut out)).0);
        // In calls of the same size, because memcpy works differently for very long copies.
        let copy = |out: &mut [u8]| {
            let halves = out.chunks_mut(block / 2).zip(source.chunks(block / 2));
            halves.for_each(|(to, from)| to.copy_from_slice(from));
            std::hint::black_box(out);
        };
        plain.push(timed(|| copy(&mut out)).0);
    }
    let what = format!("warm read, {} MiB blocks, of memcpy", block / MIB);
    table.ratio(&what, &ours, &plain, payload.len(), 0.8);
}

/// Measures the cost of encryption: the same blocks are written and read into RAM with a key and without
/// one. There is no goal.
fn encrypted(dir: &Path, payload: &[u8], block: usize) {
    let stores = [("kv-plain", None), ("kv-encrypted", Some(dir.join("key")))];
    let (mut writes, mut reads) = ([const { Vec::new() }; 2], [const { Vec::new() }; 2]);
    for _ in 0..ROUNDS {
        for (index, (name, key_file)) in stores.iter().enumerate() {
            let root = dir.join(name);
            let _ = fs::remove_dir_all(&root);
            let config = || StoreConfig { key_file: key_file.clone(), ..config(&root) };
            let store = Store::open(config()).expect("open");
            assert!(store.flush(LONG));
            let (secs, keys) = timed(|| {
                let keys = put_all(&store, payload, block);
                assert!(store.flush(LONG));
                keys
            });
            writes[index].push(secs);
            store.close();
            let store = Store::open(config()).expect("open");
            assert!(store.flush(LONG));
            let (secs, ()) = timed(|| {
                store.prefetch(&NS, &keys);
                for key in &keys {
                    store.get(&NS, key, &[7; 1024]).expect("stored").check().expect("intact");
                }
            });
            reads[index].push(secs);
            store.close();
        }
    }
    for (what, [plain, sealed]) in [("write", &writes), ("read to RAM", &reads)] {
        let (plain, sealed) = (median(plain), median(sealed));
        let rate = payload.len() as f64 / MIB as f64 / sealed;
        let what = format!("  {what}, encrypted, {} MiB blocks", block / MIB);
        println!("{what:<44} {rate:>14.0} MiB/s = {:.0} % of plain", 100.0 * plain / sealed);
    }
}

fn space(table: &mut Table, root: &Path, payload: &[u8], block: usize) {
    let on_disk: u64 =
        files_below(root).iter().map(|path| path.metadata().expect("a file").blocks() * 512).sum();
    let ratio = on_disk as f64 / payload.len() as f64;
    let what = format!("bytes on disk, {} MiB blocks, of payload", block / MIB);
    table.row(&what, format!("{ratio:.3} x"), "<= 1.05 x", ratio <= 1.05);
}

/// Makes a folder with many blocks, without the store: headers in sparse files, and no index.
fn make_many(root: &Path) -> Vec<Key> {
    let mut parent = None;
    let mut keys = Vec::new();
    for n in 0..OPEN_BLOCKS {
        // Chains of a thousand.
        if n.is_multiple_of(1000) {
            parent = None;
        }
        let header = Header {
            kind: Kind::Kv,
            namespace: NS,
            key: key(n),
            parent,
            created_secs: 1_700_000_000,
            payload_checksum: xxhash_rust::xxh3::xxh3_128(&[]),
            seal: None,
            parts: Vec::new(),
            witness: vec![7; 1024],
        };
        let name = key(n).to_string();
        let dir = root.join("blocks").join(NS.to_string()).join(&name[..1]);
        fs::create_dir_all(&dir).expect("a folder");
        let bytes = header.encode().expect("within limits");
        let mut file = File::create(dir.join(name)).expect("a file");
        file.write_all(&bytes[..4096]).expect("written");
        file.set_len(bytes.len() as u64).expect("sparse");
        parent = Some(key(n));
        keys.push(key(n));
    }
    keys
}

fn open_many(table: &mut Table, dir: &Path) {
    let root = dir.join("many");
    let keys = make_many(&root);
    let (secs, store) = timed(|| {
        let store = Store::open(config(&root)).expect("open");
        assert!(store.flush(LONG));
        store
    });
    assert_eq!(store.stats().blocks[1][0], OPEN_BLOCKS);
    println!("{:<44} {secs:>32.2} s", "rebuild 100,000 blocks from their headers");
    store.close();
    let (mut opens, mut lookups, mut scans) = (Vec::new(), Vec::new(), Vec::new());
    let mut probes = Vec::new();
    for _ in 0..ROUNDS {
        drop_cache(&files_below(&root.join("index")));
        let started = Instant::now();
        let store = Store::open(config(&root)).expect("open");
        assert_eq!(store.longest_prefix(&NS, &keys[..1]).blocks, 1);
        opens.push(started.elapsed().as_secs_f64());
        assert!(store.get(&NS, &keys[0], &[7; 1024]).is_ok());
        assert!(store.flush(LONG));
        scans.push(started.elapsed().as_secs_f64());
        for chain in keys.chunks(1000).take(20) {
            let (secs, prefix) = timed(|| store.longest_prefix(&NS, chain));
            assert_eq!(prefix.blocks, 1000);
            lookups.push(secs);
        }
        let strangers = (0..OPEN_BLOCKS).map(|n| key(n + OPEN_BLOCKS));
        let (secs, found) = timed(|| store.first_stored(&NS, strangers));
        assert_eq!(found, None);
        probes.push(secs);
        store.close();
    }
    let (open, lookup) = (median(&opens) * 1e3, median(&lookups) * 1e3);
    table.row(
        "open 100,000 blocks to the first lookup",
        format!("{open:.0} ms"),
        "< 300 ms",
        open < 300.0,
    );
    table.row("longest_prefix of 1,000 blocks", format!("{lookup:.3} ms"), "< 1 ms", lookup < 1.0);
    let probe = median(&probes) * 1e3;
    table.row("100,000 keys, none stored", format!("{probe:.1} ms"), "< 20 ms", probe < 20.0);
    println!("{:<44} {:>32.2} s", "scan of 100,000 files, in the background", median(&scans));
}

fn main() -> ExitCode {
    let base = std::env::var_os("KVSTORE_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let mib = std::env::var("KVSTORE_BENCH_MIB").map_or(256, |text| text.parse().expect("MiB"));
    let dir = base.join(format!("kvstore-bench-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("the bench folder can be made");
    println!("kvstore bench: {mib} MiB in {}, median of {ROUNDS}", base.display());
    let mut table = Table(true);
    let payload = noise(mib * MIB);
    let flat = dir.join("flat");
    fs::write(&flat, &payload).expect("the flat file can be written");
    for block in [MIB, 4 * MIB, 16 * MIB] {
        let root = dir.join("kv");
        let keys = write(&mut table, &dir, &payload, &flat, block);
        space(&mut table, &root, &payload, block);
        cold_read(&mut table, &root, &payload, &flat, &keys, block);
        warm_read(&mut table, &root, &payload, &keys, block);
    }
    encrypted(&dir, &payload, 4 * MIB);
    open_many(&mut table, &dir);
    fs::remove_dir_all(&dir).expect("the bench folder can be removed");
    println!("{}", if table.0 { "all goals met" } else { "some goals were missed" });
    if table.0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
