//! A daemon with a folder of fixture models.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use omlx_tests::daemon::{Daemon, built_binary};
use omlx_tests::fixtures::Case;
use omlx_tests::http::Response;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// The id of the model that works.
pub(crate) const MODEL: &str = "omlx/fixture";
/// The longest wait for any condition.
const PATIENCE: Duration = Duration::from_secs(60);
/// Room for streams that are long enough to be interrupted.
const CONTEXT_TOKENS: u32 = 16384;

/// A running daemon and its folders.
pub(crate) struct World {
    pub(crate) daemon: Daemon,
    _dir: TempDir,
}

impl World {
    /// A daemon with the model [`MODEL`].
    pub(crate) fn new() -> Self {
        Self::with(|_| Ok(()))
    }

    /// The same, with whatever `prepare` puts into the folder: models/ and config.toml.
    pub(crate) fn with(prepare: impl FnOnce(&Path) -> io::Result<()>) -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let models = dir.path().join("models");
        Case::any()
            .with_config(json!({"max_position_embeddings": CONTEXT_TOKENS}))
            .write(&models.join(MODEL))
            .expect("fixture");
        prepare(dir.path()).expect("prepared");
        let (base, config) = (dir.path().join("base"), dir.path().join("config.toml"));
        let named = ["--config", config.to_str().expect("UTF-8")];
        let arguments = if config.exists() { &named[..] } else { &[] };
        let daemon = Daemon::start(&built_binary(), &base, Some(&models), arguments);
        let daemon = daemon.unwrap_or_else(|error| panic!("{error}"));
        Self { daemon, _dir: dir }
    }

    /// Posts a chat request; `changes` are added to a short greedy one.
    pub(crate) fn chat(&self, changes: Value) -> Response {
        let body = chat_body(changes).to_string();
        self.daemon.request("POST", "/v1/chat/completions", &body).expect("an answer")
    }

    /// A chat request must be answered in full: the daemon lives, and so does its engine.
    pub(crate) fn assert_still_works(&self) {
        let answer = self.chat(json!({}));
        assert_eq!(answer.status, 200);
        let body: Value = serde_json::from_str(&answer.text().expect("a body")).expect("JSON");
        assert_eq!(body["usage"]["completion_tokens"], 4, "{body}");
    }

    /// Waits until a metric (all its series that hold `label`) reaches a value.
    pub(crate) fn wait_for_metric(&self, name: &str, label: &str, wanted: f64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.daemon.metric(name, &[label]).expect("metrics");
            if value == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{name} is {value}, not {wanted}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A chat request for four greedy tokens, with changes. No end of sequence ends it.
pub(crate) fn chat_body(changes: Value) -> Value {
    let mut body = json!({
        "model": MODEL,
        "messages": [{"role": "user", "content": "Tell me of matrices."}],
        "max_tokens": 4,
        "temperature": 0,
        "ignore_eos": true,
    });
    let body_map: &mut Map<String, Value> = body.as_object_mut().expect("an object");
    body_map.extend(changes.as_object().expect("an object").clone());
    body
}
