//! A store of format 1, kept in `tests/golden/format-1`, that every later version must open.
//! `KVSTORE_WRITE_GOLDEN=1` wrote it once. A new format gets another folder.

use kvstore::layout::record::Header;
use kvstore::{Key, Kind, Miss, Namespace, Record, Store, StoreConfig};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const NS: Namespace = Namespace([0x11; 32]);
const LONG: Duration = Duration::from_secs(60);

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/format-1")
}

fn config(root: &Path) -> StoreConfig {
    let mut config = StoreConfig::new(root, 64 << 20);
    config.min_free_bytes = 0;
    config
}

/// Two blocks of a chain and a snapshot at its end.
fn records() -> [(Record<'static>, [&'static [u8]; 2]); 3] {
    let record = |n: u8, kind, parent: Option<u8>, parts: &'static [&'static [u8]]| {
        let parent = parent.map(|n| Key([n; 32]));
        (
            Record { kind, key: Key([n; 32]), parent, witness: b"witness", parts },
            [parts[0], parts[1]],
        )
    };
    [
        record(1, Kind::Kv, None, &[b"first keys", b"first values"]),
        record(2, Kind::Rotating, Some(1), &[b"second keys", b""]),
        record(3, Kind::Recurrent, Some(2), &[b"state", b"tail"]),
    ]
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { assert!(fs::copy(&path, &target).is_ok()) }
    }
}

fn expect_all(root: &Path) {
    let store = Store::open(config(root)).unwrap();
    assert!(store.flush(LONG));
    for (record, parts) in records() {
        let guard = store.get(&NS, &record.key, record.witness).unwrap();
        assert_eq!((&guard[0], &guard[1], guard.kind()), (parts[0], parts[1], record.kind));
        let other = store.get(&NS, &record.key, b"other").unwrap_err();
        assert_eq!(other, Miss::WitnessDiffers);
    }
    let keys = records().map(|(record, _)| record.key);
    assert_eq!(store.longest_prefix(&NS, &keys).blocks, 3);
    store.close();
}

#[test]
fn format_1_opens_with_and_without_its_index() {
    if std::env::var_os("KVSTORE_WRITE_GOLDEN").is_some() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(config(dir.path())).unwrap();
        for (record, _) in records() {
            store.put(&NS, &record);
        }
        store.close();
        ["index", "blocks"].iter().for_each(|n| copy(&dir.path().join(n), &golden().join(n)));
    }
    let dir = tempfile::tempdir().unwrap();
    copy(&golden(), dir.path());
    expect_all(dir.path());
    let dir = tempfile::tempdir().unwrap();
    copy(&golden().join("blocks"), &dir.path().join("blocks"));
    expect_all(dir.path());
}

#[test]
fn format_1_is_still_what_we_write() {
    let name = Key([2; 32]).to_string();
    let path = golden().join("blocks").join(NS.to_string()).join(&name[..1]).join(&name);
    let bytes = fs::read(path).unwrap();
    let header = Header::decode(&bytes).unwrap();
    assert_eq!(header.encode().unwrap(), bytes[..16 * 1024]);
    assert_eq!(bytes.len(), 32 * 1024);
    assert_eq!(&bytes[..12], b"\x89OKV\r\n\x1a\n\x01\0\0\0");
    assert_eq!(&bytes[256..280], b"\x0b\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0witness\0");
    assert_eq!(&bytes[16 * 1024..16 * 1024 + 11], b"second keys");
}
