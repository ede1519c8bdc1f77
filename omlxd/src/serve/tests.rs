use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use omlx_tests::fixtures::Case;
use omlxctl::protocol::CrashNote;

use super::*;
use crate::app::PANICKING_MODEL;
use crate::home::Home;

/// Longest wait for any condition.
const DEADLINE: Duration = Duration::from_secs(60);

/// Names the base directory in the environment of the process that is the daemon.
const BASE: &str = "OMLX_TEST_BASE";

fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < limit, "{what} did not happen within {DEADLINE:?}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// This test as a process that is the daemon, once it is ready.
fn start(test: &str, base: &Path) -> (Child, RunInfo) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(BASE, base);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let info = eventually("the start", || {
        let info = fs::read(base.join("run/omlxd.json")).ok()?;
        serde_json::from_slice::<RunInfo>(&info).ok().filter(|info| info.pid == child.id())
    });
    (child, info)
}

#[test]
fn a_panic_of_the_engines_thread_ends_the_daemon_with_a_code_of_its_own() {
    if let Some(base) = std::env::var_os(BASE) {
        let args = ["omlxd", "--port", "0", "--base-dir"].map(Into::into);
        run(Options::parse_from(args.into_iter().chain([base]))).now();
    }
    let test = "serve::tests::a_panic_of_the_engines_thread_ends_the_daemon_with_a_code_of_its_own";
    let temp = tempfile::tempdir().unwrap();
    let base = temp.path().join("base");
    fs::create_dir(&base).unwrap();
    fs::set_permissions(&base, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let home = Home::at(base.clone());
    home.prepare().unwrap();
    Case::any().write(&base.join("models").join(PANICKING_MODEL)).unwrap();

    let (mut child, info) = start(test, &base);
    let key = fs::read_to_string(base.join("api-key")).unwrap();
    let body = format!(r#"{{"model":"{PANICKING_MODEL}","prompt":"Hello","max_tokens":8}}"#);
    let mut stream = TcpStream::connect(&info.http).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(
        stream,
        "POST /v1/completions HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        info.http,
        key.split_whitespace().next().unwrap(),
        body.len()
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    // Waiting clients get an answer first.
    assert!(reply.starts_with("HTTP/1.1 500 ") && reply.contains("\"error\""), "{reply}");
    let status = eventually("the exit", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(i32::from(Exit::Engine as u8)));
    let log = fs::read_to_string(base.join("logs/omlxd.log")).unwrap();
    assert!(log.contains("the engine's thread ended by a panic"), "{log}");

    // The next start finds what it was at.
    let (mut child, _) = start(test, &base);
    let notes = fs::read(home.crashes()).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let notes: Vec<CrashNote> = serde_json::from_slice(&notes).unwrap();
    let [note] = &notes[..] else { panic!("{notes:?}") };
    assert_eq!(note.pid, info.pid);
    let panic = note.panic.as_deref().unwrap();
    assert!(panic.contains("a panic on demand") && panic.contains("thread engine"), "{panic}");
    let step = note.step.as_deref().unwrap();
    assert!(step.starts_with(&format!("a step of {PANICKING_MODEL}")), "{step}");
}
