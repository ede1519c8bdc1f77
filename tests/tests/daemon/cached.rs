//! A place for daemons that share a cache folder, one after the other.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use omlx_tests::daemon::{Daemon, built, built_binary};
use omlx_tests::fixtures::{Case, FIRST_ORDINARY_TOKEN, VOCAB_TOKENS};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The id of the model that most tests use.
pub(crate) const MODEL: &str = "omlx/first";
/// Another one: other weights.
pub(crate) const OTHER: &str = "omlx/second";
/// Tokens of a block in these tests.
pub(crate) const BLOCK: usize = 16;
/// Tokens of a prompt: full blocks, and half of one.
pub(crate) const PROMPT: usize = 12 * BLOCK + BLOCK / 2;
/// The tokens of a prompt that full blocks hold.
pub(crate) const IN_BLOCKS: usize = 12 * BLOCK;
/// Nothing in memory, so that every reuse is from SSD.
pub(crate) const SSD_ONLY: &str = "live_budget = \"0B\"\nram_budget = \"0B\"\n";
/// The longest wait for any condition.
const PATIENCE: Duration = Duration::from_secs(60);

/// Models, a base directory, and a configuration.
pub(crate) struct Place {
    dir: TempDir,
}

/// What a request gave.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// The tokens' texts.
    pub(crate) tokens: Value,
    /// The request's id.
    pub(crate) id: String,
    pub(crate) cached: usize,
    pub(crate) cached_ssd: usize,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let place = Place { dir };
        let seed = Case::any().seed + 1;
        Case::any().write(&place.models().join(MODEL)).expect("fixture");
        Case { seed, ..Case::any() }.write(&place.models().join(OTHER)).expect("fixture");
        place
    }

    /// A daemon with these settings of the cache.
    pub(crate) fn start(&self, cache: &str) -> Daemon {
        let config = self.dir.path().join("config.toml");
        let mut text = format!("[cache]\nblock_tokens = {BLOCK}\n{cache}");
        for (key, value) in [("ssd_quota", "64MiB"), ("ssd_min_free", "0B")] {
            if !cache.contains(key) {
                text += &format!("{key} = \"{value}\"\n");
            }
        }
        fs::write(&config, text).expect("config");
        let arguments = ["--config", config.to_str().expect("UTF-8")];
        let daemon = Daemon::start(&built_binary(), &self.base(), Some(&self.models()), &arguments);
        daemon.unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn base(&self) -> PathBuf {
        self.dir.path().join("base")
    }

    pub(crate) fn models(&self) -> PathBuf {
        self.dir.path().join("models")
    }

    /// Runs omlxctl against the daemon of this place.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(built("omlxctl"));
        command.env_clear().arg("--base-dir").arg(self.base()).args(arguments);
        command.stdin(Stdio::null()).output().expect("omlxctl runs")
    }

    /// The JSON that an omlxctl command prints, which must end with this exit code.
    pub(crate) fn ctl_json(&self, arguments: &[&str], exit: i32) -> Value {
        let output = self.ctl(&[&["--json"], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// What `omlxctl cache explain` says of an answer's only prompt.
    pub(crate) fn explain(&self, answer: &Answer) -> Value {
        self.explain_request(&answer.id)
    }

    /// What it says of a request's only prompt.
    pub(crate) fn explain_request(&self, id: &str) -> Value {
        let explained = self.ctl_json(&["cache", "explain", id], 0);
        assert_eq!(explained["id"], id);
        explained["prompts"][0].clone()
    }

    /// The store's folder.
    pub(crate) fn store(&self) -> PathBuf {
        self.base().join("cache/kv")
    }

    /// What a daemon without a cache answers.
    pub(crate) fn truth(&self, model: &str, prompts: &[Vec<u32>]) -> Vec<Value> {
        let daemon = self.start("enabled = false\n");
        let truth = prompts.iter().map(|prompt| ask(&daemon, model, prompt));
        let truth = truth.map(|answer| {
            assert_eq!(answer.cached, 0);
            answer.tokens
        });
        truth.collect()
    }

    /// The files of all published records, by namespace.
    pub(crate) fn records(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.store().join("blocks")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    folders.push(entry.path());
                } else {
                    found.push(entry.path());
                }
            }
        }
        found.sort();
        found
    }
}

/// Different prompts; the same ones each time.
pub(crate) fn prompts(count: usize) -> Vec<Vec<u32>> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u32 % (VOCAB_TOKENS - FIRST_ORDINARY_TOKEN) + FIRST_ORDINARY_TOKEN
    };
    (0..count).map(|_| (0..PROMPT).map(|_| next()).collect()).collect()
}

/// Six greedy tokens for a prompt.
pub(crate) fn ask(daemon: &Daemon, model: &str, prompt: &[u32]) -> Answer {
    ask_with(daemon, model, prompt, &json!({}))
}

/// The same with further fields.
pub(crate) fn ask_with(daemon: &Daemon, model: &str, prompt: &[u32], more: &Value) -> Answer {
    let mut body = json!({
        "model": model,
        "prompt": prompt,
        "max_tokens": 6,
        "temperature": 0,
        "ignore_eos": true,
        "logprobs": 0,
    });
    let fields = body.as_object_mut().expect("an object");
    fields.extend(more.as_object().expect("an object").clone());
    let answer = daemon.request("POST", "/v1/completions", &body.to_string()).expect("an answer");
    let (status, id) = (answer.status, answer.header("x-request-id").expect("an id").to_owned());
    let text = answer.text().expect("a body");
    assert_eq!(status, 200, "{text}");
    let body: Value = serde_json::from_str(&text).expect("JSON");
    let usage = &body["usage"];
    let number = |value: &Value| value.as_u64().expect("a number") as usize;
    let tokens = body["choices"][0]["logprobs"]["tokens"].clone();
    assert_eq!(tokens.as_array().map(Vec::len), Some(6), "{body}");
    Answer {
        tokens,
        id,
        cached: number(&usage["prompt_tokens_details"]["cached_tokens"]),
        cached_ssd: number(&usage["omlx"]["cached_tokens_ssd"]),
    }
}

/// Waits until a metric satisfies a condition.
pub(crate) fn wait_for(
    daemon: &Daemon,
    name: &str,
    labels: &[&str],
    mut wanted: impl FnMut(f64) -> bool,
) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let value = daemon.metric(name, labels).expect("metrics");
        if wanted(value) {
            return;
        }
        assert!(Instant::now() < deadline, "{name} {labels:?} is {value}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the first look through the files is over and all that was handed over is on disk.
pub(crate) fn wait_until_saved(daemon: &Daemon, records: usize) {
    let kv = ["tier=\"ssd\"", "kind=\"kv\""];
    wait_for(daemon, "omlx_kv_cache_blocks", &kv, |blocks| blocks >= records as f64);
    wait_for(daemon, "omlx_kvstore_queue_depth", &["op=\"save\""], |depth| depth == 0.0);
}

/// The sum of a metric's series that have all of these labels.
pub(crate) fn metric(daemon: &Daemon, name: &str, labels: &[&str]) -> f64 {
    daemon.metric(name, labels).expect("metrics")
}

/// Changes a record's file in place, which the store itself never does.
pub(crate) fn change(record: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(record).expect("a record");
    edit(&mut bytes);
    fs::write(record, bytes).expect("written");
}
