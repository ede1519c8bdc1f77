//! The official clients of OpenAI, Anthropic and Vercel, unmodified, against the running daemon.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::world::World;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Whether a client can run here. In CI it must; elsewhere its absence is said, not hidden.
#[expect(clippy::print_stderr, reason = "who runs the tests must see what did not run")]
fn is_installed(tool: &str, library: &Path) -> bool {
    let mut version = Command::new(tool);
    version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    let found = version.status().is_ok_and(|status| status.success()) && library.exists();
    let hint = format!(
        "{tool} or {} is missing: run tests/clients/setup.sh (make test does)",
        library.display()
    );
    assert!(found || std::env::var_os("CI").is_none(), "{hint}");
    if !found {
        eprintln!("SKIPPED: {hint}");
    }
    found
}

/// The bundled model, which knows what a tool is.
const TINY: &str = "omlx-tiny";

/// A daemon with the bundled model beside the fixture, and `config` as its settings.
fn world(config: &str) -> World {
    World::with(|dir| {
        let (from, to) = (root().join("packaging/omlx-tiny/model"), dir.join("models").join(TINY));
        std::fs::create_dir_all(&to)?;
        for file in std::fs::read_dir(from)? {
            let file = file?;
            std::fs::copy(file.path(), to.join(file.file_name()))?;
        }
        std::fs::write(dir.join("config.toml"), config)
    })
}

/// Runs a client's script; its output is the failure's message. A second daemon allows one request of a
/// key at a time, a third has room for two requests, so that there is something to wait for.
fn run(command: &mut Command, checks: &[&str]) {
    let full = world("[scheduler]\nmax_batch = 1\nmax_queue = 1\n");
    let (world, busy) = (world(""), world("[limits]\nmax_requests_per_key = 1\n"));
    let root_of = |world: &World| format!("http://{}", world.daemon.address);
    let output = command
        .args(checks)
        .env("OPENAI_BASE_URL", root_of(&world) + "/v1")
        .env("OPENAI_API_KEY", &world.daemon.key)
        .env("ANTHROPIC_BASE_URL", root_of(&world))
        .env("ANTHROPIC_API_KEY", &world.daemon.key)
        .env("OMLX_BUSY_BASE_URL", root_of(&busy) + "/v1")
        .env("OMLX_BUSY_ROOT_URL", root_of(&busy))
        .env("OMLX_BUSY_API_KEY", &busy.daemon.key)
        .env("OMLX_FULL_BASE_URL", root_of(&full) + "/v1")
        .env("OMLX_FULL_ROOT_URL", root_of(&full))
        .env("OMLX_FULL_API_KEY", &full.daemon.key)
        .env("OMLX_MODEL", TINY)
        .env_remove("HTTP_PROXY")
        .env_remove("http_proxy")
        .stdin(Stdio::null())
        .output()
        .expect("runs");
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{out}{err}");
    assert_eq!(out.lines().filter(|line| line.starts_with("ok ")).count(), checks.len(), "{out}");
    world.assert_still_works();
}

fn python(script: &str, checks: &[&str]) {
    let python = root().join(".venv/clients/bin/python");
    if is_installed("python3", &python) {
        run(Command::new(python).arg(root().join("tests/clients/python").join(script)), checks);
    }
}

fn node(script: &str, checks: &[&str]) {
    let folder = root().join("tests/clients/node");
    if is_installed("node", &folder.join("node_modules/openai")) {
        run(Command::new("node").arg(folder.join(script)), checks);
    }
}

#[test]
fn openai_python() {
    let checks = [
        "models",
        "chat",
        "stream_equals_whole",
        "stream_without_usage",
        "logprobs",
        "several_choices",
        "completions",
        "errors",
        "tools_round_trip",
        "tools_streamed",
        "parallel_tools",
        "parse_with_schema",
        "timeout",
        "retries",
        "full_queue",
        "cancel",
    ];
    python("run.py", &checks);
}

#[test]
fn anthropic_python() {
    let checks = [
        "message",
        "stream_equals_whole",
        "blocks_and_cache_markers",
        "tools_round_trip",
        "parallel_tools",
        "errors",
        "timeout",
        "retries",
        "full_queue",
        "cancel",
    ];
    python("run_anthropic.py", &checks);
}

#[test]
fn openai_node() {
    let checks = [
        "models",
        "chat",
        "streamEqualsWhole",
        "streamHelper",
        "completions",
        "errors",
        "toolsRoundTrip",
        "toolsStreamed",
        "parallelTools",
        "parseWithSchema",
        "timeout",
        "retries",
        "fullQueue",
        "cancel",
    ];
    node("run.mjs", &checks);
}

#[test]
fn vercel_ai_sdk() {
    let checks = [
        "chat",
        "streamEqualsWhole",
        "toolsRoundTrip",
        "toolsStreamed",
        "object",
        "errors",
        "retries",
        "fullQueue",
        "cancel",
    ];
    node("run_ai.mjs", &checks);
}
