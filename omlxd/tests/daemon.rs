//! The daemon's life as its user sees it: start, files, signals, exit codes, admin socket, omlxctl.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Daemon, eventually};
use rustix::process::Signal;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_first_start_makes_everything_and_sigterm_leaves_exit_0_and_no_run_files() {
    let mut daemon = Daemon::started();
    for dir in ["", "models", "cache/kv", "run", "logs"] {
        assert_eq!(mode(&daemon.base.join(dir)), 0o700, "{dir}");
    }
    for file in ["api-key", "config.toml", "run/omlxd.sock", "run/omlxd.json"] {
        assert_eq!(mode(&daemon.base.join(file)), 0o600, "{file}");
    }
    let info = daemon.info().unwrap();
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    assert!(info.http.starts_with("127.0.0.1:"), "{info:?}");
    assert_eq!(info.socket, daemon.socket());

    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.log());
    assert!(!daemon.socket().exists() && daemon.info().is_none());
    assert!(daemon.log().contains("SIGTERM"), "{}", daemon.log());
}

#[test]
fn sigint_and_omlxctl_shutdown_end_it_as_sigterm_does() {
    let mut daemon = Daemon::started();
    daemon.signal(Signal::INT);
    assert_eq!(daemon.wait().code(), Some(0));

    daemon.start(&[]);
    let stopping = daemon.ctl_json(&["shutdown"]);
    assert_eq!(stopping["drain_seconds"], 20);
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(!daemon.socket().exists());
}

#[test]
fn a_second_daemon_is_refused_and_told_which_one_runs() {
    let daemon = Daemon::started();
    let second = daemon.command(&["--port", "0"]).output().unwrap();
    assert_eq!(second.status.code(), Some(75));
    let pid = daemon.info().unwrap().pid;
    let text = stderr(&second);
    assert!(text.contains(&format!("already runs as process {pid}")), "{text}");
    assert!(text.contains("omlxctl shutdown"), "{text}");
    assert_eq!(daemon.ctl_json(&["status"])["pid"], pid, "the first one is unharmed");
}

#[test]
fn after_kill_9_the_next_start_works() {
    let mut daemon = Daemon::started();
    let key = fs::read_to_string(daemon.base.join("api-key")).unwrap();
    daemon.signal(Signal::KILL);
    daemon.wait();
    assert!(daemon.socket().exists(), "a killed daemon leaves its socket");
    daemon.start(&[]);
    assert_eq!(daemon.ctl_json(&["status"])["state"], "ready");
    assert_eq!(fs::read_to_string(daemon.base.join("api-key")).unwrap(), key);
}

#[test]
fn a_port_in_use_is_one_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let daemon = Daemon::new();
    let output = daemon.command(&["--port", &port, "--log-format", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    let text = stderr(&output);
    let plain: Vec<_> = text.lines().filter(|line| !line.starts_with('{')).collect();
    assert_eq!(
        plain,
        [format!(
            "omlxd: cannot listen on 127.0.0.1:{port}: the port is in use; stop what uses it, or \
             choose another with --port (0 picks a free one)"
        )]
    );
    assert!(daemon.info().is_none() && !daemon.socket().exists());
}

#[test]
fn a_bad_configuration_is_one_line_a_problem_and_exit_78() {
    let daemon = Daemon::new();
    fs::create_dir(&daemon.base).unwrap();
    let file = daemon.base.join("config.toml");
    fs::write(&file, "[server]\nprot = 1\nhost = \"0.0.0.0\"\n[auth]\nenabled = false\n").unwrap();
    for args in [&["serve"][..], &["check-config"], &[]] {
        let output = daemon.command(args).output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{args:?}");
        let text = stderr(&output);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        let start = file.display();
        assert!(lines[0].starts_with(&format!("{start}:2: server.prot: ")), "{text}");
        assert!(lines[1].starts_with(&format!("{start}:3: server.host: ")), "{text}");
    }
    fs::write(&file, "[server]\nport = 0\n").unwrap();
    let output = daemon.command(&["check-config"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_key_that_others_can_read_stops_the_start() {
    let mut daemon = Daemon::started();
    daemon.signal(Signal::TERM);
    daemon.wait();
    let key = daemon.base.join("api-key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let output = daemon.command(&["--port", "0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(77));
    let text = stderr(&output);
    assert!(text.contains(&format!("chmod 600 {}", key.display())), "{text}");
}

#[test]
fn the_environment_sets_keys_and_config_show_tells_where_from() {
    let daemon = Daemon::new();
    let output = daemon.command(&["check-config"]).env("OMLX_SERVER_PROT", "1").output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(!daemon.base.exists(), "check-config creates nothing");

    let mut daemon = Daemon::new();
    fs::create_dir(&daemon.base).unwrap();
    fs::write(daemon.base.join("config.toml"), "[limits]\nmax_choices = 3\n").unwrap();
    daemon.start(&[]);
    let shown = daemon.ctl_json(&["config", "show"]);
    let find = |key: &str| {
        let settings = shown["settings"].as_array().unwrap();
        let setting = settings.iter().find(|setting| setting["key"] == key).unwrap();
        (
            setting["value"].as_str().unwrap().to_owned(),
            setting["origin"].as_str().unwrap().to_owned(),
        )
    };
    let file = daemon.base.join("config.toml");
    assert_eq!(find("limits.max_choices"), ("3".into(), format!("{}:2", file.display())));
    assert_eq!(find("server.port"), ("0".into(), "--port".into()));
    assert_eq!(find("server.host"), ("\"127.0.0.1\"".into(), "default".into()));
}

#[test]
fn sighup_applies_what_it_can_and_refuses_a_bad_file_whole() {
    let daemon = Daemon::started();
    let file = daemon.base.join("config.toml");
    fs::write(&file, "[log]\nlevel = \"debug\"\n[limits]\nmax_choices = 3\n").unwrap();
    let check = daemon.ctl_json(&["config", "check"]);
    assert_eq!(
        check["changed"],
        serde_json::json!([
            {"key": "limits.max_choices", "needs_restart": true},
            {"key": "log.level", "needs_restart": false},
        ])
    );
    daemon.signal(Signal::HUP);
    let in_effect = |key: &str| {
        let shown = daemon.ctl_json(&["config", "show"]);
        let settings = shown["settings"].as_array().unwrap().clone();
        settings.into_iter().find(|setting| setting["key"] == key).unwrap()["value"].clone()
    };
    eventually("the reload", || (in_effect("log.level") == "\"debug\"").then_some(()));
    assert_eq!(in_effect("limits.max_choices"), "8", "this one needs a restart");

    fs::write(&file, "[log]\nlevle = \"warn\"\n").unwrap();
    daemon.signal(Signal::HUP);
    eventually("the refusal", || daemon.log().contains("log.levle").then_some(()));
    assert_eq!(in_effect("log.level"), "\"debug\"");
    let refused = daemon.ctl(&["config", "check"]);
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(text.contains("config.toml:2: log.levle: unknown key; the nearest key is log.level"));
}

#[test]
fn the_admin_socket_is_for_programs_of_its_user_only() {
    let daemon = Daemon::started();
    let get = |headers: &str, path: &str| {
        daemon.admin(&format!("GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n"))
    };
    let good = get("Host: omlxd\r\n", "/admin/v1/status");
    assert!(good.starts_with("HTTP/1.1 200 "), "{good}");
    for headers in [
        "Host: omlxd\r\nOrigin: http://localhost\r\n",
        "Host: omlxd\r\nReferer: http://localhost/\r\n",
        "Host: evil.example\r\n",
        "Host: evil.example:80\r\n",
        "",
    ] {
        for path in ["/admin/v1/key", "/admin/v1/nothing"] {
            let refused = get(headers, path);
            assert!(refused.starts_with("HTTP/1.1 403 "), "{headers:?}: {refused}");
            assert!(!refused.contains("sk-omlx-"), "{headers:?}");
            assert!(refused.contains("\"code\":\"forbidden\""), "{refused}");
        }
    }
    let missing = get("Host: omlxd\r\n", "/admin/v1/nothing");
    assert!(missing.starts_with("HTTP/1.1 404 "), "{missing}");
    let wrong = get("Host: omlxd\r\n", "/admin/v1/shutdown");
    assert!(wrong.starts_with("HTTP/1.1 405 "), "{wrong}");
    for response in [good, missing, wrong] {
        let version = format!("omlx-version: {}\r\n", env!("CARGO_PKG_VERSION"));
        assert!(response.contains(&version) && response.contains("omlx-admin-api: 1\r\n"));
    }
    assert_eq!(daemon.ctl_json(&["status"])["state"], "ready", "nothing of this stopped it");
}

#[test]
fn no_admin_route_is_on_tcp() {
    let daemon = Daemon::started();
    let key = fs::read_to_string(daemon.base.join("api-key")).unwrap();
    for path in [
        "version",
        "status",
        "models",
        "models/omlx-tiny",
        "models/omlx-tiny/load",
        "models/omlx-tiny/unload",
        "models/omlx-tiny/pin",
        "models/omlx-tiny/unpin",
        "models/omlx-tiny/remove",
        "pull/org%2Fmodel",
        "pulls",
        "pulls/org%2Fmodel/cancel",
        "activity",
        "doctor",
        "ps",
        "requests",
        "requests/req_1/cancel",
        "key",
        "key/rotate",
        "keys",
        "keys/laptop/add",
        "keys/laptop/revoke",
        "config",
        "config/check",
        "cache",
        "cache/verify",
        "cache/clear",
        "cache/clear/omlx-tiny",
        "cache/demote",
        "cache/explain/req_1",
        "shutdown",
    ] {
        for method in ["GET", "POST"] {
            let response = daemon.http(&format!(
                "{method} /admin/v1/{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
                 Content-Length: 0\r\nConnection: close\r\n\r\n",
                key.trim()
            ));
            assert!(response.starts_with("HTTP/1.1 404 "), "{method} {path}: {response}");
        }
    }
    assert_eq!(daemon.ctl_json(&["status"])["state"], "ready");
}

#[test]
fn a_rotated_key_works_at_once_and_the_old_one_no_longer() {
    let daemon = Daemon::started();
    let old = daemon.ctl_json(&["key", "show"])["key"].as_str().unwrap().to_owned();
    let status = |key: &str| {
        let response = daemon.http(&format!(
            "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\
             Connection: close\r\n\r\n"
        ));
        response[9..12].to_owned()
    };
    assert_eq!(status(&old), "200");
    let new = daemon.ctl_json(&["key", "rotate"])["key"].as_str().unwrap().to_owned();
    assert_ne!(new, old);
    assert_eq!((status(&old), status(&new)), ("401".into(), "200".into()));
    assert_eq!(daemon.ctl_json(&["key", "show"])["key"], new);
    assert!(!daemon.log().contains(&new[8..]) && !daemon.log().contains(&old[8..]));
}

#[test]
fn every_command_answers_as_json_and_as_text() {
    let daemon = Daemon::started();
    for args in [
        &["status"][..],
        &["ps"],
        &["models", "list"],
        &["requests"],
        &["cache", "stats"],
        &["cache", "verify"],
        &["key", "show"],
        &["config", "show"],
        &["config", "check"],
        &["version"],
    ] {
        assert!(daemon.ctl_json(args).is_object(), "{args:?}");
        let text = daemon.ctl(args);
        assert_eq!(text.status.code(), Some(0), "{args:?}: {}", stderr(&text));
        assert!(!text.stdout.is_empty() && text.stderr.is_empty(), "{args:?}");
    }
    let unknown = daemon.ctl(&["cancel", "req-none"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(stderr(&unknown).contains("no request req-none is in flight"), "{}", stderr(&unknown));
    let version = daemon.ctl_json(&["version"]);
    assert_eq!(version["omlxd"]["version"], version["omlxctl"]);
}

#[test]
fn each_key_works_until_it_is_revoked() {
    let daemon = Daemon::started();
    let status = |key: &str| {
        let response = daemon.http(&format!(
            "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\
             Connection: close\r\n\r\n"
        ));
        response[9..12].to_owned()
    };
    let first = daemon.ctl_json(&["key", "show"])["key"].as_str().unwrap().to_owned();
    let added = daemon.ctl(&["key", "add", "laptop"]);
    let laptop = String::from_utf8(added.stdout).unwrap().trim().to_owned();
    assert_eq!((status(&first), status(&laptop)), ("200".into(), "200".into()));
    let listed = String::from_utf8(daemon.ctl(&["key", "list"]).stdout).unwrap();
    assert!(listed.contains("laptop") && !listed.contains(&laptop), "{listed}");
    let twice = daemon.ctl(&["key", "add", "laptop"]);
    assert_eq!(twice.status.code(), Some(1));
    assert!(stderr(&twice).contains("there is a key called laptop"), "{}", stderr(&twice));
    assert_eq!(daemon.ctl(&["key", "revoke", "laptop"]).status.code(), Some(0));
    assert_eq!((status(&first), status(&laptop)), ("200".into(), "401".into()));
    let last = daemon.ctl(&["key", "revoke", &first[first.len() - 4..]]);
    assert_eq!(last.status.code(), Some(1));
    assert!(stderr(&last).contains("is the only key"), "{}", stderr(&last));
    assert_eq!(status(&first), "200");
    assert!(!daemon.log().contains(&laptop[8..]), "{}", daemon.log());
}

/// Opens a request whose body never comes, and waits until the daemon is reading it.
fn unfinished_request(daemon: &Daemon) -> TcpStream {
    let key = fs::read_to_string(daemon.base.join("api-key")).unwrap();
    let mut stream = TcpStream::connect(daemon.info().unwrap().http).unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{",
        key.trim()
    );
    stream.write_all(head.as_bytes()).unwrap();
    eventually("the request", || {
        let metrics = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        // Itself and the one that waits.
        daemon.http(metrics).contains("omlx_http_requests_in_flight 2\n").then_some(())
    });
    stream
}

#[test]
fn the_drain_waits_for_a_request_but_not_for_ever() {
    let mut daemon = Daemon::new();
    fs::create_dir(&daemon.base).unwrap();
    fs::write(daemon.base.join("config.toml"), "[server]\ndrain = \"300ms\"\n").unwrap();
    daemon.start(&[]);
    let _request = unfinished_request(&daemon);
    let asked = Instant::now();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.log());
    assert!(asked.elapsed() >= Duration::from_millis(300), "{:?}", asked.elapsed());
}

#[test]
fn a_second_signal_ends_the_drain_at_once() {
    let mut daemon = Daemon::started();
    let _request = unfinished_request(&daemon);
    daemon.signal(Signal::TERM);
    eventually("the drain", || (daemon.ctl_json(&["status"])["state"] == "stopping").then_some(()));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(130), "{}", daemon.log());
    assert!(!daemon.socket().exists() && daemon.info().is_none());
}

#[test]
fn the_admin_socket_limits_heads_and_connections() {
    let daemon = Daemon::started();
    let long = "x".repeat(20 << 10);
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    let head = format!("GET /admin/v1/status HTTP/1.1\r\nHost: omlxd\r\nX: {long}\r\n\r\n");
    // The daemon closes with some of this unread, so either side may see a reset before the 431.
    let _ = stream.write_all(head.as_bytes());
    let mut refused = String::new();
    let _ = stream.read_to_string(&mut refused);
    assert!(refused.is_empty() || refused.starts_with("HTTP/1.1 431 "), "{refused}");

    let mut idle: Vec<_> = (0..64).map(|_| UnixStream::connect(daemon.socket()).unwrap()).collect();
    let waiting = daemon.ctl(&["--timeout", "200ms", "status"]);
    assert_eq!(waiting.status.code(), Some(5), "{}", stderr(&waiting));
    idle.clear();
    assert_eq!(daemon.ctl_json(&["status"])["state"], "ready");
}
