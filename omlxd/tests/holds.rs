//! What goes wrong around a daemon: each is one clear line with its exit code, and `omlxctl doctor`
//! finds it. And that it leaves nothing behind, however often it runs.

#![expect(clippy::print_stderr, reason = "who runs the tests must see what did not run")]

#[allow(dead_code, reason = "each file of tests uses its part")]
mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Daemon, eventually};
use rustix::process::Signal;
use serde_json::Value;

/// Starts and stops in one run of the test; `make soak` has 100.
const CYCLES: usize = 4;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The one line that a start which failed has said.
fn line(output: &Output) -> String {
    let said = text(&output.stderr);
    let plain: Vec<_> = said.lines().filter(|line| !line.starts_with('{')).collect();
    assert_eq!(plain.len(), 1, "{said}");
    plain[0].to_owned()
}

/// What doctor says of one thing.
fn diagnosis(doctor: &Output, name: &str) -> Value {
    let checks: Value = serde_json::from_slice(&doctor.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&doctor.stderr)));
    let all = checks["checks"].as_array().unwrap();
    all.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{checks}")).clone()
}

fn found(daemon: &Daemon, name: &str, words: &str) {
    let doctor = daemon.ctl(&["--json", "doctor", "--no-generate"]);
    assert_eq!(doctor.status.code(), Some(1), "{}", text(&doctor.stdout));
    let check = diagnosis(&doctor, name);
    assert_eq!(check["result"], "fail", "{check}");
    assert!(check["detail"].as_str().unwrap().contains(words), "{check}");
    assert!(check["fix"].is_string(), "{check}");
}

fn serve(daemon: &Daemon) -> Output {
    daemon.command(&["--port", "0", "--log-format", "json"]).output().unwrap()
}

#[test]
fn a_port_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let daemon = Daemon::new();
    fs::create_dir(&daemon.base).unwrap();
    fs::set_permissions(&daemon.base, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(daemon.base.join("config.toml"), format!("[server]\nport = {port}\n")).unwrap();
    let output = daemon.command(&["--log-format", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    assert!(line(&output).contains("the port is in use"), "{}", line(&output));
    found(&daemon, "port", &format!("127.0.0.1:{port} cannot be had"));
}

#[test]
fn a_key_that_others_can_read() {
    let mut daemon = Daemon::started();
    daemon.signal(Signal::TERM);
    daemon.wait();
    let key = daemon.base.join("api-key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o604)).unwrap();
    let output = serve(&daemon);
    assert_eq!(output.status.code(), Some(77));
    assert!(line(&output).contains("chmod 600"), "{}", line(&output));
    found(&daemon, "API key", "others can read");
}

#[test]
fn a_socket_path_that_is_too_long() {
    let mut daemon = Daemon::new();
    daemon.base = daemon.base.join("x".repeat(100));
    let output = serve(&daemon);
    assert_eq!(output.status.code(), Some(1));
    assert!(line(&output).contains("choose a shorter --base-dir"), "{}", line(&output));
    found(&daemon, "socket path", "macOS allows 103");
}

#[test]
fn a_lock_that_a_dead_daemon_left() {
    let mut daemon = Daemon::started();
    daemon.signal(Signal::KILL);
    daemon.wait();
    found(&daemon, "last run", "ended without saying so");
    daemon.start(&[]);
    assert!(daemon.log().contains("the run before did not end by itself"), "{}", daemon.log());
    let doctor = daemon.ctl(&["--json", "doctor", "--no-generate"]);
    assert_eq!(diagnosis(&doctor, "last run")["result"], "warn");
}

/// Waits for a program that must not hang.
fn output_in_time(mut command: Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the program's end", || child.try_wait().unwrap());
    child.wait_with_output().unwrap()
}

fn make_pipe(path: &Path) {
    let _ = fs::remove_file(path);
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn something_else_in_a_files_place_is_one_line_and_nobody_waits() {
    let mut daemon = Daemon::started();
    daemon.signal(Signal::TERM);
    daemon.wait();
    let serve = || output_in_time(daemon.command(&["--port", "0", "--log-format", "json"]));
    for (name, code) in [("config.toml", 78), ("api-key", 1), ("run/lock", 1)] {
        let path = daemon.base.join(name);
        let good = fs::read(&path).unwrap();
        make_pipe(&path);
        let doctor = output_in_time(daemon.ctl_command(&["--json", "doctor", "--no-generate"]));
        assert_eq!(doctor.status.code(), Some(1), "{name}: {}", text(&doctor.stderr));
        let output = serve();
        assert_eq!(output.status.code(), Some(code), "{name}");
        assert!(line(&output).contains("a named pipe"), "{name}: {}", line(&output));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert_eq!(serve().status.code(), Some(code), "{name}");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(serve().status.code(), Some(code), "{name}");
        fs::remove_dir(&path).unwrap();
        fs::write(&path, good).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    // What a start can do without.
    for name in
        ["logs/omlxd.log", "logs/omlxd.log.1", "logs/crashes.json", "run/omlxd.json", "run/step"]
    {
        make_pipe(&daemon.base.join(name));
    }
    make_pipe(&daemon.base.join("cache/kv/lock"));
    for args in [&["logs"][..], &["--json", "doctor", "--no-generate"], &["status"]] {
        let output = output_in_time(daemon.ctl_command(args));
        assert!(output.status.code().is_some_and(|code| code != 0), "{args:?}");
    }
    // This test itself would wait for that one.
    fs::remove_file(daemon.base.join("run/omlxd.json")).unwrap();
    daemon.start(&[]);
    assert!(daemon.log().contains("there is no log file"), "{}", daemon.log());
}

#[test]
fn a_second_daemon_after_run_was_removed() {
    let daemon = Daemon::started();
    for gone in ["run/lock", "run"] {
        let path = daemon.base.join(gone);
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.unwrap();
        let output = output_in_time(daemon.command(&["--port", "0", "--log-format", "json"]));
        assert_eq!(output.status.code(), Some(75), "{gone}");
        assert!(line(&output).contains("omlxd already runs"), "{gone}: {}", line(&output));
    }
}

#[test]
fn two_daemons_do_not_share_a_cache_or_stored_answers() {
    let first = Daemon::started();
    let mut second = Daemon::new();
    fs::create_dir(&second.base).unwrap();
    fs::set_permissions(&second.base, fs::Permissions::from_mode(0o700)).unwrap();
    let cache = first.base.join("cache/kv");
    fs::remove_file(cache.join("lock")).unwrap();
    let config = format!("[cache]\nssd_dir = {:?}\n", cache.display().to_string());
    fs::write(second.base.join("config.toml"), config).unwrap();
    std::os::unix::fs::symlink(first.base.join("responses"), second.base.join("responses"))
        .unwrap();
    second.start(&[]);
    let log = second.log();
    assert!(log.contains("no prompt will outlive its session"), "{log}");
    assert!(log.contains("answers of /v1/responses are not stored"), "{log}");
}

/// Whether this test may do what only root may; CI runs as somebody else.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

#[test]
fn a_home_that_cannot_be_written() {
    // Root writes everywhere, so as root this runs as nobody.
    let temp = tempfile::tempdir().unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let mut daemon = Daemon::new();
    daemon.base = temp.path().join("base");
    let as_nobody = |command: Command| {
        if !rustix::process::geteuid().is_root() {
            return command;
        }
        let mut nobody = Command::new("setpriv");
        nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        nobody.arg(command.get_program()).args(command.get_args());
        nobody
    };
    let Ok(output) = as_nobody(daemon.command(&["--port", "0"])).output() else {
        eprintln!("skipped: there is no setpriv");
        return;
    };
    let said = line(&output);
    assert_eq!(output.status.code(), Some(77), "{said}");
    assert!(said.contains("cannot create") && said.contains("Permission denied"), "{said}");
    let doctor = as_nobody(daemon.ctl_command(&["--json", "doctor"])).output().unwrap();
    let check = diagnosis(&doctor, "base directory");
    assert_eq!(check["result"], "fail", "{check}");
    assert!(check["detail"].as_str().unwrap().contains("is read-only"), "{check}");
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs a shell script in which `$dir` has a file system of this size of its own, and `$omlxd` and
/// `$ctl` are the programs. Needs root.
fn on_a_small_disk(size: &str, script: &str) -> Option<Output> {
    if !is_root() {
        return None;
    }
    let daemon = Daemon::new();
    fs::create_dir(&daemon.base).unwrap();
    let mount = "mount -t tmpfs -o size=$size,mode=700 tmpfs \"$dir\" || exit 99\n";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &format!("{mount}{script}")]);
    command.env("dir", &daemon.base).env("size", size);
    command.env("omlxd", env!("CARGO_BIN_EXE_omlxd"));
    command.env("ctl", daemon.ctl_command(&[]).get_program());
    let output = command.output().ok()?;
    if output.status.code() == Some(99) {
        eprintln!("skipped: no file system can be mounted");
        return None;
    }
    Some(output)
}

#[test]
fn a_full_disk() {
    let script = "mkdir -m 700 $dir/models && dd if=/dev/zero of=$dir/models/fill bs=1k 2>/dev/null\n\
         $omlxd --base-dir $dir --port 0 --log-format json; echo exit $?\n\
         $ctl --base-dir $dir --json doctor";
    // Not even a config.toml fits any more.
    let Some(output) = on_a_small_disk("16k", script) else { return };
    let said = text(&output.stdout);
    let (code, doctor) = said.split_once('\n').unwrap();
    assert_eq!(code, "exit 1", "{}", text(&output.stderr));
    let lines = text(&output.stderr);
    assert!(lines.starts_with("omlxd: cannot "), "{lines}");
    assert!(lines.contains("No space left on device"), "{lines}");
    let doctor = Output { stdout: doctor.as_bytes().to_vec(), ..output };
    assert_eq!(diagnosis(&doctor, "disk")["result"], "fail");
}

#[test]
fn a_disk_that_is_nearly_full() {
    let script = "$omlxd --base-dir $dir --port 0 2>/dev/null & pid=$!\n\
         n=0; until [ -f $dir/run/omlxd.json ] || [ $n -gt 600 ]; do n=$((n+1)); sleep 0.1; done\n\
         $ctl --base-dir $dir --json doctor --no-generate; echo exit $?\n\
         $ctl --base-dir $dir status; kill $pid; wait $pid";
    // Enough to run, and less than cache.ssd_min_free: it is told, and nothing else is wrong with it.
    let Some(output) = on_a_small_disk("64m", script) else { return };
    let said = text(&output.stdout);
    let (doctor, status) = said.split_once("exit 0\n").unwrap_or_else(|| panic!("{said}"));
    let doctor = Output { stdout: doctor.as_bytes().to_vec(), ..output };
    let disk = diagnosis(&doctor, "disk");
    assert_eq!(disk["result"], "warn", "{disk}");
    assert!(disk["fix"].as_str().unwrap().contains("omlxctl models rm"), "{disk}");
    let cache = diagnosis(&doctor, "cache");
    assert_eq!(cache["result"], "warn", "{cache}");
    assert!(cache["detail"].as_str().unwrap().contains("nothing is saved"), "{cache}");
    assert!(status.contains("saving is paused"), "{status}");
}

#[test]
fn a_disk_that_fills_up_stops_no_request() {
    // Logs, steps and the cache all meet the end of the disk; the answer comes all the same.
    let script = "$omlxd --base-dir $dir --port 0 2>/dev/null & pid=$!\n\
         n=0; until [ -f $dir/run/omlxd.json ] || [ $n -gt 600 ]; do n=$((n+1)); sleep 0.1; done\n\
         dd if=/dev/zero of=$dir/models/fill bs=4k 2>/dev/null\n\
         $ctl --base-dir $dir --timeout 60s chat omlx-tiny hello --max-tokens 8; echo exit $?\n\
         kill $pid; wait $pid; echo exit $?";
    let Some(output) = on_a_small_disk("2m", script) else { return };
    let said = text(&output.stdout);
    let codes: Vec<_> = said.lines().filter(|line| line.starts_with("exit ")).collect();
    assert_eq!(codes, ["exit 0", "exit 0"], "{said} {}", text(&output.stderr));
}

/// A stream of many tokens, read up to its first ones.
fn stream(daemon: &Daemon, tokens: usize) -> TcpStream {
    let key = fs::read_to_string(daemon.base.join("api-key")).unwrap();
    let body = format!(
        r#"{{"model":"omlx-tiny","prompt":"Hello","max_tokens":{tokens},"ignore_eos":true,"stream":true}}"#
    );
    let mut stream = TcpStream::connect(daemon.info().unwrap().http).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        key.trim(),
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut first = [0; 512];
    let mut read = String::new();
    while !read.contains("data: ") {
        let count = stream.read(&mut first).unwrap();
        assert!(count > 0, "{read}");
        read.push_str(&text(&first[..count]));
    }
    stream
}

/// A daemon with this drain that answers four endless requests.
fn under_load(drain: &str) -> (Daemon, Vec<TcpStream>) {
    let mut daemon = Daemon::new();
    fs::create_dir(&daemon.base).unwrap();
    let config = format!("[server]\ndrain = {drain:?}\n[limits]\nmax_requests_per_key = 8\n");
    fs::write(daemon.base.join("config.toml"), config).unwrap();
    daemon.start(&[]);
    let streams = (0..4).map(|_| stream(&daemon, 100_000)).collect();
    (daemon, streams)
}

#[test]
fn sigterm_under_load_drains_within_its_budget_and_a_second_signal_ends_at_once() {
    let (mut daemon, mut streams) = under_load("500ms");
    let asked = Instant::now();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.log());
    // The drain, what connections and engine have to let go, and what the cache may write.
    let budget = Duration::from_millis(500) + Duration::from_secs(2 + 5);
    assert!(asked.elapsed() < budget + Duration::from_secs(5), "{:?}", asked.elapsed());
    for stream in &mut streams {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        // Cut by the daemon, which says so, and not just gone.
        assert!(text(&rest).contains("shutting_down"), "{}", text(&rest));
    }
    assert!(daemon.log().contains("the drain is over"), "{}", daemon.log());

    for second in [Signal::TERM, Signal::INT] {
        let (mut daemon, streams) = under_load("10m");
        daemon.signal(Signal::TERM);
        eventually("the drain", || daemon.log().contains("stopping: no new").then_some(()));
        assert_eq!(daemon.ctl_json(&["status"])["state"], "stopping");
        let asked = Instant::now();
        daemon.signal(second);
        assert_eq!(daemon.wait().code(), Some(130), "{}", daemon.log());
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        drop(streams);
    }
}

#[test]
fn the_machine_is_held_awake_while_a_request_runs() {
    for wanted in [true, false] {
        let mut daemon = Daemon::new();
        fs::create_dir(&daemon.base).unwrap();
        let config = format!("[server]\nkeep_awake = {wanted}\n");
        fs::write(daemon.base.join("config.toml"), config).unwrap();
        daemon.start(&[]);
        let is_held = || daemon.ctl_json(&["status"])["held_awake"] == true;
        assert!(!is_held(), "nothing runs yet");
        let running = stream(&daemon, 100_000);
        assert_eq!(is_held(), wanted);
        let shown = text(&daemon.ctl(&["status"]).stdout);
        assert_eq!(shown.contains("kept from falling asleep"), wanted, "{shown}");
        drop(running);
        eventually("the rest", || {
            let status = daemon.ctl_json(&["status"]);
            (status["busy"] == false && status["held_awake"] == false).then_some(())
        });
    }
}

#[test]
fn a_kill_in_the_middle_is_told_with_the_step() {
    let mut daemon = Daemon::started();
    let _stream = stream(&daemon, 100_000);
    let pid = daemon.info().unwrap().pid;
    daemon.signal(Signal::KILL);
    daemon.wait();
    daemon.start(&[]);
    let crash = daemon.ctl_json(&["status"])["last_crash"].clone();
    assert_eq!(crash["pid"], pid);
    assert_eq!(crash["version"], env!("CARGO_PKG_VERSION"));
    assert!(crash["step"].as_str().unwrap().starts_with("a step of omlx-tiny: 1 rows"), "{crash}");
    let shown = text(&daemon.ctl(&["status"]).stdout);
    assert!(
        shown.contains(&format!("crashed   the run before this one: process {pid}")),
        "{shown}"
    );

    daemon.signal(Signal::TERM);
    daemon.wait();
    daemon.start(&[]);
    assert!(daemon.ctl_json(&["status"])["last_crash"].is_null(), "that one ended by itself");
}

/// All paths under a folder, and what is left of files that programs write beside others.
fn tree(dir: &Path) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        all.insert(entry.to_string_lossy().into_owned());
        if entry.is_dir() {
            all.extend(tree(&entry));
        }
    }
    all
}

#[test]
fn starts_and_stops_leave_nothing_behind() {
    let cycles = std::env::var("OMLX_CYCLES").map_or(CYCLES, |cycles| cycles.parse().unwrap());
    let mut daemon = Daemon::new();
    // What the cache keeps is another test's.
    fs::create_dir(&daemon.base).unwrap();
    fs::write(daemon.base.join("config.toml"), "[cache]\nenabled = false\n").unwrap();
    let mut after_first = None;
    for cycle in 0..cycles {
        daemon.start(&[]);
        let address = daemon.info().unwrap().http;
        drop(stream(&daemon, 2));
        daemon.signal(if cycle % 2 == 0 { Signal::TERM } else { Signal::INT });
        assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.log());
        assert!(TcpStream::connect(&address).is_err(), "{address} is still listened on");
        let left = tree(&daemon.base);
        assert!(!left.iter().any(|path| path.ends_with(".new")), "{left:?}");
        for path in ["run/omlxd.sock", "run/omlxd.json", "run/step", "run/panic"] {
            assert!(!daemon.base.join(path).exists(), "{path}");
        }
        assert_eq!(*after_first.get_or_insert_with(|| left.clone()), left, "in cycle {cycle}");
    }
    eventually("an empty lock", || {
        fs::read_to_string(daemon.base.join("run/lock")).unwrap().is_empty().then_some(())
    });
}
