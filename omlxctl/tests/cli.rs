//! omlxctl as scripts see it: what it says and how it exits when the daemon is absent, foreign,
//! slow, or of another version. A socket of the test's own stands in for the daemon.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use tempfile::TempDir;

use asked::ASKED;

mod asked;

fn omlxctl(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_omlxctl"));
    command.env_clear().env("HOME", "/nonexistent").args(args).stdin(Stdio::null());
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A socket that answers every request with this response, or never when there is none.
fn stand_in(response: Option<String>) -> (TempDir, String) {
    let temp = tempfile::tempdir().unwrap();
    let socket = temp.path().join("omlxd.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || {
        let mut silent = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            match &response {
                Some(response) => drop(stream.write_all(response.as_bytes())),
                None => silent.push(stream),
            }
        }
    });
    let socket = socket.to_str().unwrap().to_owned();
    (temp, socket)
}

fn response(status: &str, version: &str, api: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nOmlx-Version: {version}\r\nOmlx-Admin-Api: {api}\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

const OURS: &str = env!("CARGO_PKG_VERSION");

/// Every command, in the order of the page.
const COMMANDS: [&str; 45] = [
    "",
    "status",
    "ps",
    "models",
    "models list",
    "models show",
    "models rm",
    "pull",
    "load",
    "unload",
    "pin",
    "unpin",
    "chat",
    "requests",
    "cancel",
    "cache",
    "cache stats",
    "cache verify",
    "cache demote",
    "cache clear",
    "cache explain",
    "key",
    "key show",
    "key rotate",
    "key list",
    "key add",
    "key revoke",
    "config",
    "config show",
    "config check",
    "logs",
    "doctor",
    "bench",
    "top",
    "service",
    "service install",
    "service uninstall",
    "service start",
    "service stop",
    "service restart",
    "service status",
    "shutdown",
    "version",
    "completions",
    "man",
];

#[test]
fn the_page_shows_what_every_command_says_of_itself() {
    const MARK: &str = "<!-- What follows is what the commands print; a test keeps it so. -->\n";
    let mut shown = String::from(MARK);
    for path in COMMANDS {
        let mut args: Vec<_> = path.split_whitespace().collect();
        args.push("--help");
        let output = omlxctl(&args);
        assert_eq!(output.status.code(), Some(0), "{path}");
        let help = text(&output.stdout);
        let end = if path.is_empty() { None } else { help.find("\nGlobal options:") };
        let title = format!("omlxctl {path}");
        let own = &help[..end.unwrap_or(help.len())];
        shown.push_str(&format!("\n## {}\n\n```text\n{own}```\n", title.trim()));
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/omlxctl.md");
    let written = fs::read_to_string(&page).unwrap_or_default();
    let (head, commands) = written.split_at(written.find(MARK).unwrap_or(written.len()));
    if std::env::var_os("OMLX_UPDATE").is_some() {
        fs::write(&page, format!("{head}{shown}")).unwrap();
        return;
    }
    assert!(
        commands == shown,
        "run `OMLX_UPDATE=1 cargo test -p omlxctl`; the page should have\n{shown}"
    );
}

/// What needs a daemon: also what talks to it for longer than one document takes.
fn need_a_daemon() -> impl Iterator<Item = &'static [&'static str]> {
    let others: [&[&str]; 3] = [&["bench"], &["top"], &["chat", "m", "hi"]];
    ASKED.into_iter().chain(others)
}

#[test]
fn without_a_daemon_the_exit_code_is_3_and_the_next_step_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let base = temp.path().to_str().unwrap();
    for args in need_a_daemon() {
        let output = omlxctl(&[&["--base-dir", base], args].concat());
        assert_eq!(output.status.code(), Some(3), "{args:?}");
        let said = text(&output.stderr);
        let start = format!(
            "error: cannot reach omlxd on {base}/run/omlxd.sock: the socket does not exist\n"
        );
        assert!(said.starts_with(&start), "{args:?}: {said}");
        assert!(said.contains("hint: start the daemon with `omlxd`"), "{said}");
    }
    let quiet = omlxctl(&["--base-dir", base, "-q", "status"]);
    assert_eq!(text(&quiet.stderr).lines().count(), 1, "no hint");
}

/// The commands that a help text lists.
fn listed(help: &str) -> Vec<String> {
    let list = help.split("\nCommands:\n").nth(1).unwrap_or_default();
    let lines = list.lines().take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// No command can be added without its help on the page, its snapshot, and its failure.
#[test]
fn the_tests_know_every_command() {
    // launchctl is what these need; their tests are beside them.
    let elsewhere = ["service"];
    let without = ["doctor", "logs", "completions", "man"];
    let snapshots = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    let snapshots = fs::read_dir(snapshots).unwrap().map(|entry| entry.unwrap().file_name());
    let snapshots: Vec<_> = snapshots.map(|name| name.into_string().unwrap()).collect();
    for path in COMMANDS {
        let words: Vec<&str> = path.split_whitespace().collect();
        let below = listed(&text(&omlxctl(&[&words[..], &["--help"]].concat()).stdout));
        for name in &below {
            let below = format!("{path} {name}");
            assert!(COMMANDS.contains(&below.trim()), "{below} is not on the page");
        }
        if !below.is_empty() || elsewhere.contains(&words[0]) {
            continue;
        }
        let file = format!("golden__{}", words.join("_"));
        assert!(snapshots.iter().any(|name| name.starts_with(&file)), "{path} has no snapshot");
        let fails = need_a_daemon().any(|args| args.starts_with(&words));
        assert!(fails || without.contains(&words[0]), "{path} is not tried without a daemon");
    }
}

#[test]
fn a_socket_that_a_killed_daemon_left_is_told_from_none() {
    let temp = tempfile::tempdir().unwrap();
    let socket = temp.path().join("s");
    drop(UnixListener::bind(&socket).unwrap());
    let output = Command::new(env!("CARGO_BIN_EXE_omlxctl"))
        .env_clear()
        .env("OMLX_SOCKET", &socket)
        .arg("status")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = text(&output.stderr);
    assert!(said.contains("the socket exists, but no daemon listens on it"), "{said}");
}

#[test]
fn wrong_usage_is_2() {
    for args in [
        &["statsu"][..],
        &[],
        &["status", "--timeout", "soon"],
        &["key"],
        &["cancel"],
        &["cancel", "a/b"],
        &["cache", "explain", "a/b"],
        &["cache", "clear", "--model", "", "--yes"],
        &["pull", "@v1"],
        &["pull", "org/m@"],
        &["bench", "--prompt-tokens", "1"],
        // Nobody is there to be asked.
        &["cache", "clear"],
    ] {
        assert_eq!(omlxctl(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn a_refusal_of_the_peer_is_4() {
    let body = r#"{"error":{"code":"forbidden","message":"not yours"}}"#;
    let (_temp, socket) = stand_in(Some(response("403 Forbidden", OURS, "1", body)));
    let output = omlxctl(&["--socket", &socket, "status"]);
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(text(&output.stderr), "error: not yours\n");
}

#[test]
fn silence_is_5() {
    let (_temp, socket) = stand_in(None);
    let output = omlxctl(&["--socket", &socket, "--timeout", "50ms", "status"]);
    assert_eq!(output.status.code(), Some(5));
    assert!(text(&output.stderr).contains("did not answer within 50ms"));
}

#[test]
fn another_admin_api_is_6() {
    for api in ["2", "none"] {
        let (_temp, socket) = stand_in(Some(response("200 OK", "9.9.9", api, "{}")));
        let output = omlxctl(&["--socket", &socket, "version"]);
        assert_eq!(output.status.code(), Some(6));
        assert!(text(&output.stderr).contains("omlxd 9.9.9 speaks admin API"));
    }
}

#[test]
fn another_version_is_one_warning() {
    let body = r#"{"requests":[],"a_field_of_the_future":1}"#;
    let (_temp, socket) = stand_in(Some(response("200 OK", "9.9.9", "1", body)));
    let output = omlxctl(&["--socket", &socket, "requests"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), "No request is in flight.\n");
    let said = text(&output.stderr);
    let start = format!("warning: omlxd is 9.9.9, omlxctl is {OURS}: restart the daemon with ");
    assert!(said.starts_with(&start) && said.lines().count() == 1, "{said}");
    assert!(said.contains("`brew services restart omlx`"), "{said}");
    let quiet = omlxctl(&["--socket", &socket, "-q", "requests"]);
    assert!(quiet.stderr.is_empty());
}

#[test]
fn what_is_not_an_answer_is_1() {
    for body in ["", "not json", "[]"] {
        let (_temp, socket) = stand_in(Some(response("200 OK", OURS, "1", body)));
        let output = omlxctl(&["--socket", &socket, "status"]);
        assert_eq!(output.status.code(), Some(1), "{body:?}");
        assert!(text(&output.stderr).starts_with("error: the answer of omlxd cannot be read"));
    }
}

#[test]
fn lines_are_read_to_their_end_and_damage_is_1() {
    let progress =
        r#"{"event":"progress","total":2,"done":1,"bytes":5,"damaged":0,"unreadable":0}"#;
    let done = |damaged| {
        format!(
            r#"{{"event":"done","total":2,"done":2,"bytes":9,"damaged":{damaged},"unreadable":0}}"#
        )
    };
    let error = r#"{"event":"error","code":"failed","message":"omlxd stops"}"#;
    for (last, exit, said) in [
        (done(0), 0, "2 records checked (9 B): 0 damaged, 0 unreadable\n"),
        (done(1), 1, "1 damaged"),
        (error.to_owned(), 1, "error: omlxd stops\n"),
        // Broken off in the middle of a line.
        (done(0)[..20].to_owned(), 1, "it ended early"),
    ] {
        let end = if exit == 1 && last.len() == 20 { "" } else { "\n" };
        let body = format!("{progress}\n{last}{end}");
        let (_temp, socket) = stand_in(Some(response("200 OK", OURS, "1", &body)));
        let output = omlxctl(&["--socket", &socket, "cache", "verify"]);
        assert_eq!(output.status.code(), Some(exit), "{last}");
        let all = text(&output.stdout) + &text(&output.stderr);
        assert!(all.contains(said), "{last}: {all}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_omlxctl"))
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
}

#[test]
fn completions_and_the_manual_page_name_every_command() {
    for args in
        [&["completions", "bash"][..], &["completions", "zsh"], &["completions", "fish"], &["man"]]
    {
        let output = omlxctl(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        let script = text(&output.stdout);
        for command in ["status", "chat", "requests", "shutdown", "pull", "doctor", "top"] {
            assert!(script.contains(command), "{args:?} lacks {command}");
        }
    }
    let json: serde_json::Value =
        serde_json::from_slice(&omlxctl(&["--json", "man"]).stdout).unwrap();
    assert!(json["text"].as_str().unwrap().contains("omlxctl"));
}

#[test]
fn logs_and_doctor_work_without_a_daemon() {
    let temp = tempfile::tempdir().unwrap();
    let base = temp.path().to_str().unwrap();
    let none = omlxctl(&["--base-dir", base, "logs"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none.stderr).contains("no daemon has run with this base directory"));
    fs::create_dir(temp.path().join("logs")).unwrap();
    let lines =
        "{\"timestamp\":\"2026-01-02T03:04:05Z\",\"level\":\"ERROR\",\"message\":\"it broke\"}\n";
    fs::write(temp.path().join("logs/omlxd.log"), lines).unwrap();
    let shown = omlxctl(&["--base-dir", base, "logs"]);
    assert_eq!(text(&shown.stdout), "2026-01-02 03:04:05 ERROR it broke\n");
    let raw = omlxctl(&["--base-dir", base, "--json", "logs", "-n", "1"]);
    assert_eq!(text(&raw.stdout), lines);

    let doctor = omlxctl(&["--base-dir", base, "--json", "doctor"]);
    assert_eq!(doctor.status.code(), Some(1));
    let checks: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let find = |name: &str| {
        let all = checks["checks"].as_array().unwrap();
        all.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {checks}"))
    };
    assert_eq!(find("daemon")["result"], "fail");
    assert!(find("daemon")["detail"].as_str().unwrap().contains("it broke"));
    assert_eq!(find("generation")["result"], "skip");
    let names: Vec<_> =
        checks["checks"].as_array().unwrap().iter().map(|check| &check["name"]).collect();
    for name in [
        "base directory",
        "API key",
        "socket path",
        "configuration",
        "disk",
        "open files",
        "last run",
        "port",
    ] {
        assert!(names.iter().any(|known| *known == name), "{name} is not looked at");
    }
    let plain = omlxctl(&["--base-dir", base, "doctor"]);
    assert_eq!(plain.status.code(), Some(1));
    assert!(text(&plain.stdout).contains("-> start it with `omlxd`"), "{}", text(&plain.stdout));
}
