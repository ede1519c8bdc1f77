//! What real agents were recorded sending, sent again. Their texts are filler (`sanitise.rs`); fields,
//! tools, and what changes from turn to turn are theirs.

use serde_json::Value;

use crate::agents::{Agent, is_turn};
use crate::place::{Place, judge};

const CODEX: &str = include_str!("../../fixtures/agents/codex.json");
const CLAUDE_CODE: &str = include_str!("../../fixtures/agents/claude-code.json");
const OPENCODE: &str = include_str!("../../fixtures/agents/opencode.json");

#[test]
fn codex_continues_where_it_was() {
    replay("codex", CODEX);
}

#[test]
fn claude_code_continues_where_it_was() {
    replay("claude-code", CLAUDE_CODE);
}

#[test]
fn opencode_continues_where_it_was() {
    replay("opencode", OPENCODE);
}

/// Each request is taken, and reuses what it shares with the one before: the oracle is the longest
/// common prefix of the tokens, which the daemon finds without its cache.
fn replay(name: &str, recorded: &str) {
    let place = Place::new(&Agent::named(name));
    let recorded: Value = serde_json::from_str(recorded).expect("JSON");
    let mut prompts = Vec::new();
    for request in recorded["requests"].as_array().expect("requests") {
        let (path, body) = (request["path"].as_str().expect("a path"), &request["body"]);
        let response = place.daemon.request("POST", path, &body.to_string()).expect("an answer");
        let id = response.header("x-request-id").expect("an id").to_owned();
        let status = response.status;
        let text = response.text().expect("a whole answer");
        assert_eq!(status, 200, "{path}: {text}");
        if is_turn(body) {
            prompts.push(place.explain(&id));
        }
    }
    judge(name, &prompts);
}
