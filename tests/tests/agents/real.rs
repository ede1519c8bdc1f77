//! The agents themselves, as npm has them, without any network but loopback: `make agents`.
//!
//! `OMLX_AGENTS_DIR` is where they are installed. `OMLX_AGENTS_RECORD=1` writes what they sent to
//! `tests/fixtures/agents`, for `replay.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::agents::{ANSWERS, Agent, NOTE, PROMPTS, is_turn};
use crate::place::{Place, judge};
use crate::recorder::{Exchange, Recorder};
use crate::sanitise;

#[test]
#[ignore = "needs the agent from npm: make agents"]
fn codex() {
    run("codex");
}

#[test]
#[ignore = "needs the agent from npm: make agents"]
fn claude_code() {
    run("claude-code");
}

#[test]
#[ignore = "needs the agent from npm: make agents"]
fn opencode() {
    run("opencode");
}

/// Two runs in one session: the first makes the agent call its shell twice, the second continues.
fn run(name: &str) {
    let agent = Agent::named(name);
    let installed = std::env::var_os("OMLX_AGENTS_DIR").expect("OMLX_AGENTS_DIR: make agents");
    let installed = PathBuf::from(installed).join("node_modules");
    let place = Place::new(&agent);
    let recorder = Recorder::start(place.daemon.address).expect("a proxy");
    let (home, work) = (place.dir.path().join("home"), place.dir.path().join("home/project"));
    fs::create_dir_all(&work).expect("folders");
    let base_url = format!("http://{}", recorder.address);
    let environment = agent.configure(&home, &work, &base_url, &place.daemon.key);
    let environment = environment.expect("a configuration");
    for ((arguments, prompt), answer) in agent.runs.iter().zip(PROMPTS).zip(ANSWERS) {
        let path = std::env::var("PATH").unwrap_or_default();
        let output = Command::new(installed.join(".bin").join(arguments[0]))
            .args(&arguments[1..])
            .arg(prompt)
            .current_dir(&work)
            .env_clear()
            .env("PATH", format!("{}:{path}", installed.join(".bin").display()))
            .env("HOME", &home)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .output()
            .expect("the agent runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        let log = || exchanges_log(&recorder.exchanges());
        assert!(output.status.success(), "{name}: {said}\n{error}\n{}", log());
        assert!(said.contains(answer), "{name} did not hear the model: {said}\n{error}\n{}", log());
    }
    assert_eq!(fs::read_to_string(work.join("note.txt")).expect("the note"), NOTE);
    let exchanges = recorder.exchanges();
    for exchange in exchanges.iter().filter(|exchange| exchange.path.starts_with("/v1/")) {
        assert_eq!(exchange.status(), 200, "{name}: {}", exchange.answer);
        let failed = ["\nevent: error", "response.failed", "data: {\"error\""];
        let fails = failed.iter().any(|sign| exchange.answer.contains(sign));
        assert!(!fails, "{name}: {}", exchange.answer);
    }
    if std::env::var_os("OMLX_AGENTS_RECORD").is_some() {
        record(&agent, &installed, &exchanges);
    }
    let turns = exchanges.iter().filter(|exchange| is_turn(&exchange.body));
    let prompts: Vec<_> = turns.map(|turn| place.explain(turn.id())).collect();
    judge(name, &prompts);
}

/// What was asked and how it was answered, in short.
fn exchanges_log(exchanges: &[Exchange]) -> String {
    let line = |exchange: &Exchange| {
        let answer: String = exchange.answer.chars().take(2000).collect();
        format!("{} {}\n{answer}\n", exchange.path, exchange.status())
    };
    exchanges.iter().map(line).collect()
}

fn record(agent: &Agent, installed: &Path, exchanges: &[Exchange]) {
    let package = installed.join(agent.package).join("package.json");
    let package: Value =
        serde_json::from_slice(&fs::read(package).expect("package.json")).expect("JSON");
    let requests = exchanges
        .iter()
        .map(|exchange| json!({"path": exchange.path, "body": sanitise::body(&exchange.body)}));
    let recorded = json!({
        "agent": agent.package,
        "version": package["version"],
        "requests": requests.collect::<Vec<_>>(),
    });
    let text = serde_json::to_string_pretty(&recorded).expect("JSON");
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/agents");
    fs::create_dir_all(&dir).expect("the folder of fixtures");
    fs::write(dir.join(format!("{}.json", agent.name)), text + "\n").expect("the fixture");
}
