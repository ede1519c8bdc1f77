//! The official OpenAI clients, unmodified, against the running daemon.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::world::{MODEL, World};

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

/// Runs a client's script; its output is the failure's message.
fn run(command: &mut Command, checks: usize) {
    let world = World::new();
    let output = command
        .env("OPENAI_BASE_URL", format!("http://{}/v1", world.daemon.address))
        .env("OPENAI_API_KEY", &world.daemon.key)
        .env("OMLX_MODEL", MODEL)
        .env_remove("HTTP_PROXY")
        .env_remove("http_proxy")
        .stdin(Stdio::null())
        .output()
        .expect("runs");
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{out}{err}");
    assert_eq!(out.lines().filter(|line| line.starts_with("ok ")).count(), checks, "{out}");
    world.assert_still_works();
}

#[test]
fn openai_python() {
    let python = root().join(".venv/clients/bin/python");
    if is_installed("python3", &python) {
        run(Command::new(python).arg(root().join("tests/clients/python/run.py")), 9);
    }
}

#[test]
fn openai_node() {
    let folder = root().join("tests/clients/node");
    if is_installed("node", &folder.join("node_modules/openai")) {
        run(Command::new("node").arg(folder.join("run.mjs")), 7);
    }
}
