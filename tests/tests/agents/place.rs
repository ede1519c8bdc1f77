//! A daemon with an agent's model, and what it says of the prompts that it got.

use std::process::Command;

use omlx_tests::daemon::{Daemon, built, built_binary};
use serde_json::Value;
use tempfile::TempDir;

use crate::agents::{Agent, MODEL};

pub(crate) struct Place {
    pub(crate) daemon: Daemon,
    pub(crate) dir: TempDir,
}

/// What became of one prompt.
#[derive(Debug)]
pub(crate) struct Prompt {
    tokens: usize,
    /// Tokens at its start that are those of an earlier prompt and its answer.
    shared: usize,
    reused: usize,
    /// Where it leaves the earlier one, for a failure.
    diverges: String,
}

impl Place {
    pub(crate) fn new(agent: &Agent) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let models = dir.path().join("models");
        agent.script().write(&models.join(MODEL)).expect("the model");
        let base = dir.path().join("base");
        let daemon = Daemon::start(&built_binary(), &base, Some(&models), &[]);
        let daemon = daemon.unwrap_or_else(|error| panic!("{error}"));
        Place { daemon, dir }
    }

    /// What `omlxctl cache explain` tells of a request.
    pub(crate) fn explain(&self, request: &str) -> Prompt {
        let output = Command::new(built("omlxctl"))
            .arg("--base-dir")
            .arg(self.dir.path().join("base"))
            .args(["--json", "cache", "explain", request])
            .output()
            .expect("omlxctl runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{request}: {error}");
        let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let prompt = &said["prompts"][0];
        let count = |value: &Value| value.as_u64().unwrap_or_default() as usize;
        let tokens = count(&prompt["prompt_tokens"]);
        let divergence = &prompt["divergence"];
        Prompt {
            tokens,
            shared: match (divergence.is_null(), prompt["reason"].as_str()) {
                (false, _) => count(&divergence["position"]),
                (true, Some(_)) => 0,
                (true, None) => tokens,
            },
            reused: count(&prompt["ram_tokens"]) + count(&prompt["ssd_tokens"]),
            diverges: divergence.to_string(),
        }
    }
}

/// Says how much of each turn's prompt was reused, and asserts that from the second on it was at least
/// 95 % of what it shares with the turn before, which is nearly all of that turn.
#[expect(clippy::print_stdout, reason = "the report is what the test is run for")]
pub(crate) fn judge(agent: &str, turns: &[Prompt]) {
    println!("{agent:<12} {:>6} {:>8} {:>8} {:>7}", "tokens", "shared", "reused", "share");
    for (number, turn) in turns.iter().enumerate() {
        let share = 100.0 * turn.reused as f64 / turn.shared.max(1) as f64;
        let Prompt { tokens, shared, reused, .. } = turn;
        println!("turn {number:<7} {tokens:>6} {shared:>8} {reused:>8} {share:>6.1}%");
    }
    assert!(turns.len() >= 3, "{agent}: only {} turns", turns.len());
    for pair in turns.windows(2) {
        let (before, now) = (&pair[0], &pair[1]);
        let extends = now.shared * 100 >= before.tokens * 95;
        assert!(extends, "{agent}: the turn before is not kept, see {}", now.diverges);
        assert!(now.reused * 100 >= now.shared * 95, "{agent}: {now:?}");
    }
}
