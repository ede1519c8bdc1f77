//! One pull at a time, in this process.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use omlx_tests::fixtures::Case;
use omlxctl::protocol::Pulled;
use omlxd::app::App;
use omlxd::auth::Keys;
use omlxd::config::{Config, Size};
use omlxd::pull::{Access, Job, PullError};
use serde_json::json;
use tempfile::TempDir;

use crate::hub::{Fault, Hub, TOKEN};

const ID: &str = "org/model";
const WEIGHTS: &str = "model.safetensors";

struct World {
    app: App,
    hub: Hub,
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        Self::of("qwen3-default-f32", |_| {})
    }

    fn of(case: &str, change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        Case::named(case).write(&source).unwrap();
        let mut config = Config { base_dir: dir.path().join("base"), ..Config::default() };
        config.cache.enabled = false;
        change(&mut config);
        let app = App::start(Arc::new(config), Keys::disabled(), "0.0.0-test").unwrap();
        World { app, hub: Hub::of(&source), dir }
    }

    fn begin(
        &self,
        revision: Option<&str>,
        force: bool,
        token: Option<&str>,
    ) -> Result<Arc<Job>, PullError> {
        let endpoint = Some(self.hub.endpoint.clone());
        let access = Access { endpoint, token: token.map(str::to_owned) };
        self.app.pulls.start(ID, revision, force, &access)
    }

    fn pull_with(
        &self,
        revision: Option<&str>,
        force: bool,
        token: Option<&str>,
    ) -> Result<Pulled, PullError> {
        let job = self.begin(revision, force, token)?;
        while job.outcome().is_none() {
            job.wait(Duration::from_secs(1));
            // Whatever goes on: either no model is seen, or a whole one.
            if let Some(entry) = self.app.registry.catalog().find(ID) {
                self.app.registry.catalog().facts(&entry).unwrap();
            }
        }
        // The job leaves the list right after it has an outcome.
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.app.pulls.is_running(ID) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        job.outcome().unwrap().clone()
    }

    fn pull(&self) -> Result<Pulled, PullError> {
        self.pull_with(None, false, None)
    }

    /// The model is there, with the hub's bytes, and is one that runs.
    fn assert_whole(&self, pulled: &Pulled) {
        let entry = self.app.registry.catalog().find(ID).expect("it is found");
        assert_eq!(entry.dir, pulled.path);
        let facts = self.app.registry.catalog().facts(&entry).expect("it can be loaded");
        assert!(facts.weight_bytes > 0);
        for file in fs::read_dir(&entry.dir).unwrap() {
            let file = file.unwrap();
            assert!(file.file_type().unwrap().is_symlink());
            let name = file.file_name().into_string().unwrap();
            let theirs = self.hub.state.lock().unwrap().files[&name].clone();
            assert!(fs::read(file.path()).unwrap() == theirs, "{name} differs");
        }
        let blobs = self.models().join("models--org--model/blobs");
        for blob in fs::read_dir(blobs).unwrap() {
            let name = blob.unwrap().file_name().into_string().unwrap();
            assert!(!name.ends_with(".incomplete"), "{name} is left");
        }
    }

    fn assert_absent(&self) {
        assert!(self.app.registry.catalog().find(ID).is_none());
        assert!(!self.models().join("models--org--model/snapshots").exists());
    }

    fn models(&self) -> PathBuf {
        self.dir.path().join("base/models")
    }

    fn weight_bytes(&self) -> usize {
        self.hub.state.lock().unwrap().files[WEIGHTS].len()
    }
}

#[test]
fn a_model_is_pulled_whole_and_pinned_to_its_commit() {
    let world = World::new();
    world.hub.change(|state| {
        for (name, text) in [("README.md", "# hi"), ("pytorch_model.bin", "junk")] {
            state.files.insert(name.to_owned(), text.into());
        }
    });
    let pulled = world.pull().unwrap();
    world.assert_whole(&pulled);
    assert_eq!(pulled.revision, "a1".repeat(20));
    assert_eq!(pulled.bytes, pulled.downloaded_bytes);
    let repo = world.models().join("models--org--model");
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), pulled.revision);
    assert!(world.hub.ranges("README.md").is_empty(), "nobody reads that");
    assert!(world.hub.ranges("pytorch_model.bin").is_empty());

    let again = world.pull().unwrap();
    assert_eq!((again.downloaded_bytes, again.path), (0, pulled.path.clone()));
    assert_eq!(world.hub.ranges(WEIGHTS).len(), 1, "nothing is downloaded twice");

    // The hub's branch moves on: what is here stays until it is pulled again.
    world.hub.change(|state| state.sha = "b2".repeat(20));
    assert_eq!(world.app.registry.catalog().find(ID).unwrap().dir, pulled.path);
    let moved = world.pull_with(Some("main"), false, None).unwrap();
    world.assert_whole(&moved);
    assert_eq!((moved.revision, moved.downloaded_bytes), ("b2".repeat(20), 0));
    // And back to the first, by its commit.
    let back = world.pull_with(Some(&"a1".repeat(20)), false, None);
    world.hub.change(|state| state.sha = "a1".repeat(20));
    assert!(back.is_ok());
    let back = world.pull_with(Some("v1.0"), false, None).unwrap();
    assert_eq!(world.app.registry.catalog().find(ID).unwrap().dir, back.path);
}

#[test]
fn a_sharded_model_takes_what_its_index_names() {
    let world = World::of("llama-sharded-bf16", |_| {});
    world.hub.change(|state| {
        state.files.insert("model-extra.safetensors".to_owned(), vec![0; 64]);
    });
    let pulled = world.pull().unwrap();
    world.assert_whole(&pulled);
    assert!(world.hub.ranges("model-extra.safetensors").is_empty());
}

#[test]
fn whatever_may_pass_is_tried_again_and_goes_on_where_it_was() {
    let world = World::new();
    let part = world.weight_bytes() / 4;
    world.hub.fault("listing", [Fault::Status(503, None), Fault::Status(429, Some(0))]);
    world.hub.fault("config.json", [Fault::Status(500, None)]);
    world.hub.fault(
        WEIGHTS,
        [
            Fault::Cut(part),
            Fault::Status(429, Some(1)),
            Fault::Cut(part),
            Fault::Status(502, None),
            Fault::Slow(4096, Duration::from_millis(1)),
        ],
    );
    let pulled = world.pull().unwrap();
    world.assert_whole(&pulled);
    let part = part as u64;
    assert_eq!(world.hub.ranges(WEIGHTS), [0, part, part, 2 * part, 2 * part]);
}

#[test]
fn a_server_without_ranges_or_with_wrong_ones_makes_it_begin_again() {
    for fault in [Fault::NoRange, Fault::BadRange, Fault::OtherRange] {
        let world = World::new();
        let part = world.weight_bytes() / 2;
        world.hub.fault(WEIGHTS, [Fault::Cut(part), fault.clone()]);
        let pulled = world.pull().unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        world.assert_whole(&pulled);
    }
}

#[test]
fn wrong_bytes_are_never_published() {
    for (fault, what) in [(Fault::Wrong, "another hash"), (Fault::Longer, "longer")] {
        let world = World::new();
        world.hub.fault(WEIGHTS, std::iter::repeat_n(fault.clone(), 2));
        let error = world.pull().unwrap_err();
        assert!(matches!(error, PullError::Damaged(_)), "{error}");
        assert!(error.to_string().contains(what), "{error}");
        world.assert_absent();
        // Once could be an accident.
        world.hub.fault(WEIGHTS, [fault]);
        let pulled = world.pull().unwrap();
        world.assert_whole(&pulled);
    }
}

#[test]
fn what_the_hub_says_of_a_file_must_be_true() {
    for (name, lie) in [
        (WEIGHTS, json!({"lfs": {"sha256": "0".repeat(64), "size": 10}})),
        (WEIGHTS, json!({"lfs": {"sha256": "../../../../etc/passwd", "size": 10}})),
        ("tokenizer.json", json!({"size": 5})),
        ("tokenizer.json", json!({"size": 999_999_999})),
        ("tokenizer.json", json!({"size": null})),
        ("config.json", json!({"blobId": "f".repeat(40)})),
        ("config.json", json!({"blobId": null})),
    ] {
        let world = World::new();
        world.hub.change(|state| drop(state.lies.insert(name.to_owned(), lie.clone())));
        let error = world.pull().expect_err(&lie.to_string());
        assert!(
            matches!(error, PullError::Damaged(_) | PullError::Refused(_) | PullError::Network(_)),
            "{error}"
        );
        world.assert_absent();
    }
}

#[test]
fn names_that_lead_elsewhere_are_left_alone() {
    let world = World::new();
    world.hub.change(|state| {
        for name in
            ["../../../evil.safetensors", "/tmp/evil.safetensors", "a/../../config.json", "..", ""]
        {
            state.extra.push(json!({
                "rfilename": name, "size": 1, "blobId": "e".repeat(40),
                "lfs": {"sha256": "e".repeat(64), "size": 1},
            }));
        }
    });
    let pulled = world.pull().unwrap();
    world.assert_whole(&pulled);
    assert!(!world.hub.log().iter().any(|request| request.path.contains("evil")));

    // A link where the download would go is not followed.
    let world = World::new();
    let blobs = world.models().join("models--org--model/blobs");
    fs::create_dir_all(&blobs).unwrap();
    let victim = world.dir.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let sha = {
        let state = world.hub.state.lock().unwrap();
        let digest = ring::digest::digest(&ring::digest::SHA256, &state.files[WEIGHTS]);
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    std::os::unix::fs::symlink(&victim, blobs.join(format!("{sha}.incomplete"))).unwrap();
    assert!(matches!(world.pull(), Err(PullError::Disk(_))));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    // A file that is itself a link in the repository is its target's name: no config.
    let world = World::new();
    world
        .hub
        .change(|state| drop(state.files.insert("config.json".into(), b"../../secret".to_vec())));
    assert!(matches!(world.pull(), Err(PullError::Refused(_))));
    world.assert_absent();
}

#[test]
fn refusals_say_what_to_do() {
    let world = World::new();
    world.hub.change(|state| state.needs_token = true);
    let error = world.pull_with(None, false, Some("hf_wrong")).unwrap_err().to_string();
    assert!(error.contains("another token") && !error.contains("hf_wrong"), "{error}");
    let error = world.pull().unwrap_err().to_string();
    assert!(error.contains("set HF_TOKEN"), "{error}");
    world.assert_absent();
    let pulled = world.pull_with(None, false, Some(TOKEN)).unwrap();
    world.assert_whole(&pulled);
    let log = world.hub.log();
    assert!(log.iter().any(|request| request.from_cdn));
    assert!(log.iter().all(|r| !(r.from_cdn && r.authorized)), "the token went elsewhere");

    for (status, what) in [(404, "has no org/model"), (403, "set HF_TOKEN"), (400, "400")] {
        let world = World::new();
        world.hub.fault("listing", [Fault::Status(status, None)]);
        let error = world.pull().unwrap_err().to_string();
        assert!(error.contains(what), "{status}: {error}");
        world.assert_absent();
    }
    let world = World::new();
    world.hub.fault("listing", [Fault::Status(429, Some(3600))]);
    assert!(world.pull().unwrap_err().to_string().contains("3600"), "nobody waits an hour");
    world.hub.fault(WEIGHTS, std::iter::repeat_n(Fault::Redirects, 1));
    assert!(world.pull().unwrap_err().to_string().contains("redirects for ever"));
}

#[test]
fn a_name_that_may_be_wrong_is_said_to_be_so() {
    let refused = |status: u16, code: Option<&'static str>, token: Option<&str>| {
        let world = World::new();
        world.hub.change(|state| state.error_code = code);
        world.hub.fault("listing", [Fault::Status(status, None)]);
        let error = world.pull_with(None, false, token).unwrap_err().to_string();
        world.assert_absent();
        error
    };
    for token in [None, Some("hf_wrong")] {
        for code in [None, Some("RepoNotFound")] {
            let error = refused(401, code, token);
            assert!(error.contains("check the name") && error.contains("HF_TOKEN"), "{error}");
            assert!(error.contains("terms") && !error.contains("hf_wrong"), "{error}");
        }
        for status in [401, 403] {
            let error = refused(status, Some("GatedRepo"), token);
            assert!(error.contains("is gated") && !error.contains("check the name"), "{error}");
        }
    }
    let error = refused(404, Some("RevisionNotFound"), None);
    assert!(error.contains("no such revision"), "{error}");
    assert!(refused(404, None, None).contains("check the name"));
}

#[test]
fn a_renamed_repository_is_found_at_its_new_name() {
    let world = World::new();
    world.hub.change(|state| state.renamed = true);
    let pulled = world.pull().unwrap();
    world.assert_whole(&pulled);
}

#[test]
fn what_cannot_run_is_refused_before_its_weights_are_asked_for() {
    let world = World::of("llama-default-f32", |config| config.memory.budget = Size::Bytes(1000));
    let error = world.pull().unwrap_err().to_string();
    assert!(error.contains("memory.budget leaves 0") && error.contains("--force"), "{error}");
    assert!(world.hub.ranges(WEIGHTS).is_empty());
    assert!(!world.models().join("models--org--model").exists(), "nothing is left of it");
    world.assert_whole(&world.pull_with(None, true, None).unwrap());

    let world = World::new();
    let config = br#"{"model_type": "gpt-nine", "vocab_size": 10}"#;
    world.hub.change(|state| drop(state.files.insert("config.json".into(), config.to_vec())));
    let error = world.pull().unwrap_err().to_string();
    assert!(error.contains("gpt-nine") && error.contains("qwen3"), "{error}");
    assert!(world.hub.ranges(WEIGHTS).is_empty());
    let world = World::new();
    world.hub.change(|state| drop(state.files.remove(WEIGHTS)));
    assert!(world.pull().unwrap_err().to_string().contains("safetensors"));
}

#[test]
fn a_pull_is_shared_shown_and_cancelled() {
    let world = World::new();
    let slow = Fault::Slow(1024, Duration::from_millis(10));
    world.hub.fault(WEIGHTS, [slow]);
    let job = world.begin(None, false, None).unwrap();
    let same = world.begin(None, false, None).unwrap();
    assert!(Arc::ptr_eq(&job, &same));
    let other = world.begin(Some("v2"), false, None).map(|_| ()).unwrap_err().to_string();
    assert!(other.contains("--cancel"), "{other}");
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let progress = job.progress();
        let weights = progress.files.iter().find(|file| file.name == WEIGHTS);
        if weights.is_some_and(|file| file.done_bytes > 4096) {
            assert!(progress.total_bytes > progress.done_bytes);
            assert_eq!(progress.phase, "downloading");
            break;
        }
        assert!(Instant::now() < deadline, "{progress:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(world.app.pulls.list().len(), 1);
    assert!(world.app.pulls.cancel(ID));
    while job.outcome().is_none() {
        job.wait(Duration::from_secs(1));
    }
    assert_eq!(job.outcome().unwrap(), &Err(PullError::Cancelled));
    world.assert_absent();
    let pulled = world.pull().unwrap();
    world.assert_whole(&pulled);
    assert!(world.hub.ranges(WEIGHTS).last().unwrap() > &0, "it went on where it was");
    assert!(!world.app.pulls.cancel(ID));
}
