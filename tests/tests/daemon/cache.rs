//! What happens to the cache's files must not change an answer, nor end the daemon.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use omlx_tests::daemon::Daemon;
use serde_json::Value;

use crate::cached::{
    BLOCK, IN_BLOCKS, MODEL, OTHER, Place, SSD_ONLY, ask, change, metric, prompts, wait_for,
    wait_until_saved,
};

/// A byte of a record's first part: a header of 16 KiB stands before it.
const IN_PAYLOAD: usize = (16 << 10) + 40;

/// Asks for every prompt, from two clients, until told to stop, and once more after that. Every
/// answer must be the one without a cache.
fn under_load(daemon: &Daemon, prompts: &[Vec<u32>], truth: &[Value], fault: impl FnOnce()) {
    let (answers, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let ask_all = || {
        for (prompt, truth) in prompts.iter().zip(truth) {
            assert_eq!(ask(daemon, MODEL, prompt).tokens, *truth);
            answers.fetch_add(1, Ordering::Relaxed);
        }
    };
    let wait_for_answers = |more: usize| {
        let wanted = answers.load(Ordering::Relaxed) + more;
        let deadline = Instant::now() + Duration::from_secs(60);
        while answers.load(Ordering::Relaxed) < wanted {
            assert!(Instant::now() < deadline, "no answers any more");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    std::thread::scope(|scope| {
        // A panic here must not leave the clients asking for ever.
        let _stop = StopOnDrop(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    ask_all();
                }
            });
        }
        wait_for_answers(prompts.len());
        fault();
        wait_for_answers(2 * prompts.len());
    });
    ask_all();
    let ready = daemon.request("GET", "/readyz", "").expect("alive");
    assert_eq!(ready.status, 200);
}

/// Tells the clients to stop.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Fills the cache with these prompts and kills the daemon as kill -9 does.
fn fill_and_kill(place: &Place, prompts: &[Vec<u32>], truth: &[Value]) {
    let daemon = place.start(SSD_ONLY);
    for (prompt, truth) in prompts.iter().zip(truth) {
        let answer = ask(&daemon, MODEL, prompt);
        assert_eq!((&answer.tokens, answer.cached), (truth, 0));
    }
    wait_until_saved(&daemon, prompts.len() * IN_BLOCKS / BLOCK);
}

#[test]
fn what_was_saved_is_served_from_ssd_after_kill_9() {
    let (place, prompts) = (Place::new(), prompts(3));
    let truth = place.truth(MODEL, &prompts);
    fill_and_kill(&place, &prompts, &truth);
    let daemon = place.start(SSD_ONLY);
    for (prompt, truth) in prompts.iter().zip(&truth) {
        let answer = ask(&daemon, MODEL, prompt);
        assert_eq!((&answer.tokens, answer.cached_ssd), (truth, IN_BLOCKS));
    }
    let tokens = (3 * IN_BLOCKS) as f64;
    assert_eq!(metric(&daemon, "omlx_prompt_tokens_cached_total", &["\"ssd\"", MODEL]), tokens);
    assert_eq!(metric(&daemon, "omlx_prefix_cache_hits_tokens_total", &["\"ssd\""]), tokens);
    assert_eq!(metric(&daemon, "omlx_prefix_cache_miss_total", &[]), 0.0);
    assert!(metric(&daemon, "omlx_kvstore_read_bytes_total", &["\"kv\""]) > 0.0);
    assert_eq!(metric(&daemon, "omlx_kvstore_verify_failures_total", &[]), 0.0);
    // Reading and answering wrote nothing new.
    assert_eq!(metric(&daemon, "omlx_kvstore_write_bytes_total", &[]), 0.0);
}

#[test]
fn an_encrypted_cache_is_served_after_kill_9_and_to_nobody_without_its_key() {
    let (place, prompts) = (Place::new(), prompts(2));
    let truth = place.truth(MODEL, &prompts);
    let encrypted = format!("{SSD_ONLY}encrypt = true\n");
    let cached = |settings: &str| {
        let daemon = place.start(settings);
        let answers: Vec<_> = prompts.iter().map(|prompt| ask(&daemon, MODEL, prompt)).collect();
        assert!(answers.iter().map(|answer| &answer.tokens).eq(&truth));
        wait_until_saved(&daemon, 2 * IN_BLOCKS / BLOCK);
        answers.iter().map(|answer| answer.cached_ssd).collect::<Vec<_>>()
    };
    assert_eq!(cached(&encrypted), [0, 0]);
    let key = place.base().join("cache-key");
    assert_eq!(fs::metadata(&key).expect("a key").permissions().mode() & 0o777, 0o600);
    // A record's witness is its token ids.
    let ids: Vec<u8> = prompts[0][..4].iter().flat_map(|id| id.to_le_bytes()).collect();
    for record in place.records() {
        let bytes = fs::read(record).expect("a record");
        assert!(!bytes.windows(ids.len()).any(|window| window == ids), "token ids in the clear");
    }
    assert_eq!(cached(&encrypted), [IN_BLOCKS, IN_BLOCKS]);
    fs::remove_file(&key).expect("removed");
    assert_eq!(cached(&encrypted), [0, 0]);
    // Without encryption, the encrypted records are of no use and are replaced.
    assert_eq!(cached(SSD_ONLY), [0, 0]);
    assert_eq!(cached(SSD_ONLY), [IN_BLOCKS, IN_BLOCKS]);
}

#[test]
fn killed_in_the_middle_of_saving_it_answers_right() {
    let (place, prompts) = (Place::new(), prompts(4));
    let truth = place.truth(MODEL, &prompts);
    for round in 0..4 {
        let daemon = place.start(SSD_ONLY);
        // One more prompt each time, and no wait for its blocks to be written.
        for (prompt, truth) in prompts.iter().zip(&truth).take(round + 1) {
            assert_eq!(ask(&daemon, MODEL, prompt).tokens, *truth, "round {round}");
        }
        assert_eq!(metric(&daemon, "omlx_kvstore_verify_failures_total", &[]), 0.0);
    }
}

#[test]
fn the_folder_deleted() {
    let (place, prompts) = (Place::new(), prompts(4));
    let truth = place.truth(MODEL, &prompts);
    let daemon = place.start(SSD_ONLY);
    under_load(&daemon, &prompts, &truth, || {
        wait_until_saved(&daemon, 4 * IN_BLOCKS / BLOCK);
        // A record may be written meanwhile; then the folder is not empty yet.
        let deadline = Instant::now() + Duration::from_secs(60);
        while place.store().exists() && Instant::now() < deadline {
            let _ = fs::remove_dir_all(place.store());
        }
    });
    assert!(metric(&daemon, "omlx_kvstore_io_errors_total", &["errno=\"not_found\""]) > 0.0);
    drop(daemon);
    // The next start makes it again.
    fill_and_kill(&place, &prompts, &truth);
    assert!(!place.records().is_empty());
}

#[test]
fn records_truncated_while_they_are_mapped() {
    let (place, prompts) = (Place::new(), prompts(4));
    let truth = place.truth(MODEL, &prompts);
    let daemon = place.start(SSD_ONLY);
    under_load(&daemon, &prompts, &truth, || {
        wait_until_saved(&daemon, 4 * IN_BLOCKS / BLOCK);
        for (index, path) in place.records().iter().enumerate() {
            let length = if index % 2 == 0 { 100 } else { 16 << 10 };
            // One that was evicted meanwhile cannot be cut.
            let file = fs::OpenOptions::new().write(true).open(path);
            file.and_then(|file| file.set_len(length)).ok();
        }
    });
    let failures = metric(&daemon, "omlx_kvstore_verify_failures_total", &[]);
    assert!(failures > 0.0);
    drop(daemon);
    // And found so at the start: the sizes are wrong before anything is mapped.
    for path in place.records() {
        change(&path, |bytes| bytes.truncate(bytes.len() / 2));
    }
    let daemon = place.start(SSD_ONLY);
    under_load(&daemon, &prompts, &truth, || {});
}

#[test]
fn bits_flipped() {
    let (place, prompts) = (Place::new(), prompts(4));
    let truth = place.truth(MODEL, &prompts);
    fill_and_kill(&place, &prompts, &truth);
    let records = place.records();
    assert_eq!(records.len(), 4 * IN_BLOCKS / BLOCK);
    for path in &records {
        change(path, |bytes| bytes[IN_PAYLOAD] ^= 1);
    }
    let daemon = place.start(SSD_ONLY);
    for (prompt, truth) in prompts.iter().zip(&truth) {
        let answer = ask(&daemon, MODEL, prompt);
        assert_eq!((&answer.tokens, answer.cached), (truth, 0));
    }
    let checksum = ["reason=\"checksum\""];
    assert!(metric(&daemon, "omlx_kvstore_verify_failures_total", &checksum) >= 4.0);
    let missed = metric(&daemon, "omlx_prefix_cache_miss_total", &["verify_failed"]);
    assert_eq!(missed, 4.0);
    // What was computed again was saved again, and is good.
    wait_until_saved(&daemon, records.len());
    for (prompt, truth) in prompts.iter().zip(&truth) {
        let answer = ask(&daemon, MODEL, prompt);
        assert_eq!((&answer.tokens, answer.cached_ssd), (truth, IN_BLOCKS));
    }
}

#[test]
fn bits_flipped_while_requests_run() {
    let (place, prompts) = (Place::new(), prompts(4));
    let truth = place.truth(MODEL, &prompts);
    fill_and_kill(&place, &prompts, &truth);
    // Nothing was read yet: every record is verified when it is first used.
    let daemon = place.start(SSD_ONLY);
    let (first, rest) = (&prompts[..1], &prompts[1..]);
    under_load(&daemon, first, &truth, || {
        // A damaged copy in its place: whoever has mapped a record keeps the good one.
        let copy = place.base().join("copy");
        for path in place.records() {
            // Behind a record that was found damaged by now, the rest of its chain goes.
            let Ok(mut bytes) = fs::read(&path) else { continue };
            bytes[IN_PAYLOAD] ^= 1;
            fs::write(&copy, bytes).expect("written");
            fs::rename(&copy, &path).expect("replaced");
        }
    });
    for (prompt, truth) in rest.iter().zip(&truth[1..]) {
        assert_eq!(ask(&daemon, MODEL, prompt).tokens, *truth);
    }
    let checksum = ["reason=\"checksum\""];
    assert!(metric(&daemon, "omlx_kvstore_verify_failures_total", &checksum) >= rest.len() as f64);
}

#[test]
fn records_of_another_model_in_the_place_of_ours() {
    let (place, prompts) = (Place::new(), prompts(2));
    let truth = place.truth(MODEL, &prompts);
    let other = place.truth(OTHER, &prompts);
    assert_ne!(truth, other, "the models differ");
    {
        let daemon = place.start(SSD_ONLY);
        for prompt in &prompts {
            ask(&daemon, MODEL, prompt);
        }
        wait_until_saved(&daemon, 2 * IN_BLOCKS / BLOCK);
    }
    let ours = place.records();
    {
        let daemon = place.start(SSD_ONLY);
        for prompt in &prompts {
            ask(&daemon, OTHER, prompt);
        }
        wait_until_saved(&daemon, 4 * IN_BLOCKS / BLOCK);
    }
    let theirs: Vec<_> = place.records().into_iter().filter(|path| !ours.contains(path)).collect();
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        fs::copy(theirs, ours).expect("copied");
    }
    let daemon = place.start(SSD_ONLY);
    for (prompt, (truth, other)) in prompts.iter().zip(truth.iter().zip(&other)) {
        assert_eq!(ask(&daemon, MODEL, prompt).tokens, *truth);
        let theirs = ask(&daemon, OTHER, prompt);
        assert_eq!((&theirs.tokens, theirs.cached_ssd), (other, IN_BLOCKS));
    }
    let foreign = ["reason=\"namespace\""];
    let found = metric(&daemon, "omlx_kvstore_verify_failures_total", &foreign)
        + metric(&daemon, "omlx_kvstore_discarded_blocks", &[]);
    assert!(found > 0.0);
}

#[test]
fn a_folder_that_cannot_be_written() {
    let (place, prompts) = (Place::new(), prompts(4));
    let truth = place.truth(MODEL, &prompts);
    fill_and_kill(&place, &prompts[..1], &truth);
    let daemon = place.start(SSD_ONLY);
    under_load(&daemon, &prompts[1..3], &truth[1..3], || {
        // Root writes through any mode: a file where the folder for new records was stops it too.
        let tmp = place.store().join("tmp");
        let deadline = Instant::now() + Duration::from_secs(60);
        while fs::remove_dir_all(&tmp).is_err() {
            assert!(Instant::now() < deadline, "{} stays", tmp.display());
        }
        fs::write(&tmp, "in the way").expect("a file");
    });
    // One that was in no cache before.
    let new = ask(&daemon, MODEL, &prompts[3]);
    assert_eq!((&new.tokens, new.cached), (&truth[3], 0));
    // Whichever step of publishing a record met it first.
    wait_for(&daemon, "omlx_kvstore_io_errors_total", &[], |errors| errors > 0.0);
    wait_for(&daemon, "omlx_kvstore_dropped_total", &["disk_full"], |dropped| dropped > 0.0);
    // What was there before is still served.
    let old = ask(&daemon, MODEL, &prompts[0]);
    assert_eq!((&old.tokens, old.cached_ssd), (&truth[0], IN_BLOCKS));
}

#[test]
fn a_file_in_the_place_of_the_folder() {
    let (place, prompts) = (Place::new(), prompts(2));
    let truth = place.truth(MODEL, &prompts);
    // A daemon was there already, which has made it.
    fs::remove_dir_all(place.store()).expect("removed");
    fs::write(place.store(), "in the way").expect("a file");
    let daemon = place.start("");
    assert_eq!(metric(&daemon, "omlx_kvstore_problem", &[]), 1.0);
    assert_eq!(metric(&daemon, "omlx_kvstore_enabled", &[]), 0.0);
    for (prompt, truth) in prompts.iter().zip(&truth) {
        assert_eq!(ask(&daemon, MODEL, prompt).tokens, *truth);
    }
    // Live sessions need no folder.
    let again = ask(&daemon, MODEL, &prompts[1]);
    assert_eq!((&again.tokens, again.cached), (&truth[1], prompts[1].len() - 1));
    assert!(metric(&daemon, "omlx_live_sessions", &[]) >= 1.0);
}

#[test]
fn a_full_disk() {
    let (place, prompts) = (Place::new(), prompts(3));
    let truth = place.truth(MODEL, &prompts);
    // No disk has that much free: nothing may be saved.
    let daemon = place.start("live_budget = \"0B\"\nssd_min_free = \"100%\"\n");
    under_load(&daemon, &prompts, &truth, || {
        wait_for(&daemon, "omlx_kvstore_dropped_total", &["disk_full"], |dropped| dropped > 0.0);
    });
    assert_eq!(metric(&daemon, "omlx_kvstore_saving_paused", &[]), 1.0);
    assert_eq!(metric(&daemon, "omlx_kvstore_write_bytes_total", &[]), 0.0);
    assert!(place.records().is_empty());
    // The RAM tier goes on.
    let again = ask(&daemon, MODEL, &prompts[0]);
    assert_eq!((&again.tokens, again.cached), (&truth[0], IN_BLOCKS));
}

#[test]
fn a_quota_that_holds_almost_nothing() {
    let (place, prompts) = (Place::new(), prompts(6));
    let truth = place.truth(MODEL, &prompts);
    let daemon = place.start(&format!("{SSD_ONLY}ssd_quota = \"1MiB\"\n"));
    under_load(&daemon, &prompts, &truth, || {
        let dropped = || metric(&daemon, "omlx_kvstore_dropped_total", &["admission"]);
        let evictions = "omlx_kvstore_evictions_total";
        wait_for(&daemon, evictions, &["quota"], |evicted| evicted + dropped() > 0.0);
    });
    let used = metric(&daemon, "omlx_kvstore_physical_bytes", &[]);
    assert!(used <= f64::from(1 << 20), "{used}");
}
