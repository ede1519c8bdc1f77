//! The store's rules, each tried on a real folder.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use serde_json::json;

fn config(dir: &Path) -> Config {
    let mut config = Config { base_dir: dir.to_owned(), ..Config::default() };
    config.server.responses_quota = 64 << 10;
    config
}

fn id(n: u32) -> String {
    format!("resp_{n:032x}")
}

fn record(n: u32, previous: Option<u32>) -> Record {
    let output = json!([{"type": "message", "n": n}]);
    let response = json!({"id": id(n), "output": output});
    Record::new(previous.map(id), vec![json!({"type": "message", "role": "user"})], response)
}

fn at(secs: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + secs)
}

#[test]
fn what_one_key_stores_it_alone_finds_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = ResponseStore::open(&config(dir.path()));
    let now = SystemTime::now();
    store.save("a", &id(1), &record(1, None), now);
    assert_eq!(store.load("a", &id(1), now), Some(record(1, None)));
    assert_eq!(store.load("b", &id(1), now), None);
    assert!(!store.delete("b", &id(1), now));
    for path in ["responses", "responses/a"] {
        let mode = fs::metadata(dir.path().join(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
    let file = dir.path().join(format!("responses/a/{}.json", id(1)));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(file.with_extension("tmp"), "half").unwrap();

    assert!(!ResponseStore::open(&config(dir.path())).is_enabled(), "one at a time");
    drop(store);
    let store = ResponseStore::open(&config(dir.path()));
    assert_eq!(store.load("a", &id(1), now), Some(record(1, None)));
    assert!(!file.with_extension("tmp").exists());
    assert!(store.delete("a", &id(1), now));
    assert!(!file.exists() && store.used_bytes() == 0);
    assert!(!store.delete("a", &id(1), now));
}

#[test]
fn only_what_is_an_id_is_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = ResponseStore::open(&config(dir.path()));
    fs::create_dir_all(dir.path().join("responses/a")).unwrap();
    fs::write(dir.path().join("responses/a/x.json"), "{}").unwrap();
    for id in ["", "x", "resp_", "resp_../../api-key", "resp_0000000000000000000000000000000Z"] {
        assert_eq!(store.load("a", id, SystemTime::now()), None, "{id}");
    }
}

#[test]
fn the_quota_holds_and_the_longest_unused_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = ResponseStore::open(&config(dir.path()));
    for n in 0..16 {
        store.save("a", &id(n), &record(n, None), at(u64::from(n)));
    }
    assert_eq!(store.used_bytes(), 64 << 10);
    assert!(store.load("a", &id(0), at(100)).is_some());
    store.save("b", &id(16), &record(16, None), at(101));
    assert!(store.used_bytes() <= 64 << 10);
    let found = |n| store.load("a", &id(n), at(102)).is_some();
    assert!(found(0) && !found(1) && found(2));

    let mut large = record(17, None);
    large.input = vec![json!("x".repeat(20 << 10))];
    store.save("a", &id(17), &large, at(103));
    assert_eq!(store.load("a", &id(17), at(104)), None, "more than its share");
}

#[test]
fn what_is_unused_for_too_long_is_gone_from_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = ResponseStore::open(&config(dir.path()));
    let day = 24 * 3600;
    store.save("a", &id(1), &record(1, None), at(0));
    store.save("a", &id(2), &record(2, None), at(0));
    assert!(store.load("a", &id(1), at(day)).is_some());
    assert!(store.load("a", &id(2), at(day + 1)).is_none());
    assert!(store.load("a", &id(1), at(2 * day)).is_some(), "its last use counts");
    store.sweep(at(4 * day));
    assert_eq!(store.used_bytes(), 0);
    assert_eq!(fs::read_dir(dir.path().join("responses/a")).unwrap().count(), 0);
}

#[test]
fn a_chain_comes_oldest_first_and_tells_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let store = ResponseStore::open(&config(dir.path()));
    for n in 0..3 {
        store.save("a", &id(n), &record(n, n.checked_sub(1)), at(0));
    }
    let chain = store.chain("a", &id(2), at(1)).unwrap();
    assert_eq!(chain, [record(0, None), record(1, Some(0)), record(2, Some(1))]);
    assert_eq!(chain[1].output()[0]["n"], 1);
    store.delete("a", &id(0), at(1));
    assert_eq!(store.chain("a", &id(2), at(1)), Err(ChainError::Unknown(id(0))));
    // A circle can only be made by hand, and ends.
    store.save("a", &id(7), &record(7, Some(7)), at(1));
    assert_eq!(store.chain("a", &id(7), at(1)), Err(ChainError::TooLong));
}

#[test]
fn a_damaged_file_and_a_disk_that_refuses_cost_the_answer_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = ResponseStore::open(&config(dir.path()));
    let now = SystemTime::now();
    store.save("a", &id(1), &record(1, None), now);
    let file = dir.path().join(format!("responses/a/{}.json", id(1)));
    fs::write(&file, "{\"version\":1").unwrap();
    assert_eq!(store.load("a", &id(1), now), None);
    assert!(!file.exists());
    fs::write(dir.path().join("responses/b"), "in the way").unwrap();
    store.save("b", &id(1), &record(1, None), now);
    assert_eq!(store.load("b", &id(1), now), None);
}

#[test]
fn what_is_not_an_answer_stays_and_no_link_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    let theirs = ["photo.jpg", "notes.tmp", "x.json", &format!("{}.tmp", id(1)), "a/deep.tmp"];
    fs::create_dir_all(at("elsewhere/a")).unwrap();
    for name in theirs {
        fs::write(at("elsewhere").join(name), "theirs").unwrap();
    }
    fs::create_dir_all(at("responses/own/folder.tmp")).unwrap();
    symlink(at("elsewhere"), at("responses/link")).unwrap();
    symlink(at("elsewhere/photo.jpg"), at("responses/own").join(format!("{}.tmp", id(2)))).unwrap();
    symlink(at("elsewhere/x.json"), at("responses/own").join(format!("{}.json", id(3)))).unwrap();
    fs::write(at("responses/own/notes.txt"), "theirs").unwrap();
    fs::write(at("responses/.DS_Store"), "theirs").unwrap();
    let now = SystemTime::now();
    for _ in 0..2 {
        let store = ResponseStore::open(&config(dir.path()));
        assert!(store.is_enabled() && store.used_bytes() == 0);
        store.save("own", &id(2), &record(2, None), now);
        assert!(store.load("own", &id(2), now).is_some());
        // A folder that is a link takes nothing.
        store.save("link", &id(1), &record(1, None), now);
        assert_eq!(store.load("link", &id(1), now), None);
        assert!(store.delete("own", &id(2), now));
        store.sweep(now + Duration::from_secs(1 << 30));
    }
    for name in theirs {
        assert_eq!(fs::read_to_string(at("elsewhere").join(name)).unwrap(), "theirs", "{name}");
    }
    assert_eq!(fs::read_to_string(at("responses/own/notes.txt")).unwrap(), "theirs");
    assert!(at("responses/.DS_Store").exists() && at("responses/own/folder.tmp").exists());
}

#[test]
fn the_folder_may_be_a_link_to_another_disk() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("big/holiday")).unwrap();
    fs::write(dir.path().join("big/holiday/photo.tmp"), "theirs").unwrap();
    symlink(dir.path().join("big"), dir.path().join("responses")).unwrap();
    let store = ResponseStore::open(&config(dir.path()));
    store.save("a", &id(1), &record(1, None), SystemTime::now());
    assert!(store.load("a", &id(1), SystemTime::now()).is_some());
    assert!(dir.path().join("big/holiday/photo.tmp").exists());
    // Another daemon that is led there keeps away.
    fs::create_dir(dir.path().join("other")).unwrap();
    symlink(dir.path().join("big"), dir.path().join("other/responses")).unwrap();
    assert!(!ResponseStore::open(&config(&dir.path().join("other"))).is_enabled());
}

#[test]
fn something_else_in_an_answers_place_is_forgotten_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = ResponseStore::open(&config(dir.path()));
    let now = SystemTime::now();
    let replace = |n: u32| {
        store.save("a", &id(n), &record(n, None), now);
        let path = dir.path().join(format!("responses/a/{}.json", id(n)));
        fs::remove_file(&path).unwrap();
        path
    };
    let pipe = replace(1);
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    fs::create_dir(replace(2)).unwrap();
    symlink("/dev/zero", replace(3)).unwrap();
    let secret = dir.path().join("secret");
    fs::write(&secret, serde_json::to_vec(&record(4, None)).unwrap()).unwrap();
    symlink(&secret, replace(4)).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(replace(5)).unwrap();
    fs::write(replace(6), vec![b' '; 1 << 20]).unwrap();
    for n in 1..=6 {
        assert_eq!(store.load("a", &id(n), now), None, "{n}");
        assert!(!store.delete("a", &id(n), now), "{n}");
    }
    assert_eq!(store.used_bytes(), 0);
    assert!(secret.exists() && pipe.exists());
}

#[test]
fn a_chain_of_answers_at_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.server.responses_quota = 1 << 30;
    let store = ResponseStore::open(&config);
    let count = u32::try_from(RESPONSE_CHAIN).unwrap();
    for n in 0..=count {
        store.save("a", &id(n), &record(n, n.checked_sub(1)), at(0));
    }
    assert_eq!(store.chain("a", &id(count - 1), at(1)).unwrap().len(), RESPONSE_CHAIN);
    assert_eq!(store.chain("a", &id(count), at(1)), Err(ChainError::TooLong));
    // The same in bytes: four answers of a quarter each, with what surrounds their text.
    let quarter = RESPONSE_CHAIN_BYTES / 4 - DISK_UNIT_BYTES;
    for n in 0..5 {
        let mut large = record(n, n.checked_sub(1));
        large.input = vec![json!("x".repeat(quarter as usize))];
        store.save("b", &id(n), &large, at(0));
    }
    assert_eq!(store.chain("b", &id(3), at(1)).unwrap().len(), 4);
    assert_eq!(store.chain("b", &id(4), at(1)), Err(ChainError::TooLong));
}

#[test]
fn switched_off_it_touches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.server.store_responses = false;
    let store = ResponseStore::open(&config);
    assert!(!store.is_enabled());
    store.save("a", &id(1), &record(1, None), SystemTime::now());
    assert_eq!(store.load("a", &id(1), SystemTime::now()), None);
    assert!(!dir.path().join("responses").exists());
}
