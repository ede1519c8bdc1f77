//! What docs/security.md promises, seen from outside.

#[allow(dead_code, reason = "each file of tests uses its part")]
mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{Daemon, eventually};
use rustix::process::Signal;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Stands in no log: a prompt, an answer and a key hold it.
const MARK: &str = "xyzzyplugh";

fn everything_logged(daemon: &Daemon) -> String {
    let mut all = daemon.log();
    for file in fs::read_dir(daemon.base.join("logs")).unwrap() {
        all.push_str(&fs::read_to_string(file.unwrap().path()).unwrap());
    }
    all
}

fn post(daemon: &Daemon, path: &str, key: &str, body: &str) -> String {
    daemon.http(&format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nX-Client-Request-Id: a-1\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    ))
}

#[test]
fn no_prompt_no_answer_and_no_key_is_logged_or_shown_in_errors() {
    let mut daemon = Daemon::new();
    fs::create_dir(&daemon.base).unwrap();
    fs::write(daemon.base.join("config.toml"), "[log]\nlevel = \"trace\"\n").unwrap();
    daemon.start(&[]);
    let key = fs::read_to_string(daemon.base.join("api-key")).unwrap().trim().to_owned();
    let wrong = format!("sk-omlx-{MARK}-{}", "w".repeat(32));
    let chat = |text: &str| {
        format!(
            r#"{{"model":"omlx-tiny","messages":[{{"role":"user","content":"{text}"}}],"max_tokens":4}}"#
        )
    };
    let good = post(&daemon, "/v1/chat/completions", &key, &chat(&format!("say {MARK}")));
    assert!(good.starts_with("HTTP/1.1 200 "), "{good}");
    for (body, status) in [
        (format!(r#"{{"model":"omlx-tiny","messages":"{MARK}"}}"#), "400"),
        (format!("{{\"{MARK}"), "400"),
        (format!(r#"{{"model":"{MARK}","messages":[]}}"#), "4"),
    ] {
        let refused = post(&daemon, "/v1/chat/completions", &key, &body);
        assert!(refused[9..].starts_with(status), "{refused}");
        assert!(!refused.contains(&key));
    }
    let denied = post(&daemon, "/v1/chat/completions", &wrong, &chat("hello"));
    assert!(denied.starts_with("HTTP/1.1 401 ") && !denied.contains(MARK), "{denied}");

    let logged = eventually("the log of the last request", || {
        let all = everything_logged(&daemon);
        (all.matches("\"status\":401").count() > 0 || all.contains("status=401")).then_some(all)
    });
    for secret in [MARK, &key[8..], &wrong[8..]] {
        assert!(!logged.contains(secret), "{secret} is in the log");
    }
    // Each request has an id that the client was told.
    let id = good.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap();
    assert!(logged.contains(id), "{id} is not in the log");

    let pid = daemon.info().unwrap().pid;
    for file in ["cmdline", "environ"] {
        let Ok(shown) = fs::read(format!("/proc/{pid}/{file}")) else { continue };
        assert!(!String::from_utf8_lossy(&shown).contains(&key[8..]), "{file} shows the key");
    }
}

#[test]
fn an_added_key_is_nowhere_on_disk() {
    let daemon = Daemon::started();
    let added = daemon.ctl(&["key", "add", "laptop"]).stdout;
    let key = String::from_utf8(added).unwrap().trim().to_owned();
    let models = format!(
        "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nx-api-key: {key}\r\nConnection: close\r\n\r\n"
    );
    assert!(daemon.http(&models).starts_with("HTTP/1.1 200 "));
    let mut folders = vec![daemon.base.clone()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(bytes) = fs::read(&path) {
                let is_there = bytes.windows(key.len()).any(|part| part == key.as_bytes());
                assert!(!is_there, "{} holds the key", path.display());
            }
        }
    }
}

#[test]
fn bombs_are_refused_and_the_daemon_goes_on() {
    let daemon = Daemon::started();
    let key = fs::read_to_string(daemon.base.join("api-key")).unwrap().trim().to_owned();
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let chat = |rest: &str| {
        format!(
            r#"{{"model":"omlx-tiny","messages":[{{"role":"user","content":"hi"}}],"max_tokens":1{rest}}}"#
        )
    };
    for (name, body) in [
        ("arrays in arrays", nested(100_000)),
        ("objects in objects", r#"{"a":"#.repeat(100_000)),
        ("a deep field", chat(&format!(r#","metadata":{}"#, nested(10_000)))),
        (
            "deep tools",
            chat(&format!(
                r#","tools":[{{"type":"function","function":{{"name":"f","parameters":{}}}}}]"#,
                nested(10_000)
            )),
        ),
        ("a number beyond numbers", chat(r#","temperature":1e999"#)),
        ("a number of a million digits", chat(&format!(r#","seed":{}"#, "9".repeat(1_000_000)))),
        ("not UTF-8", chat(",\"user\":\"\u{fffd}\"").replace('\u{fffd}', "\u{0}")),
        (
            "a role of a megabyte",
            format!(
                r#"{{"model":"omlx-tiny","messages":[{{"role":"{}","content":"x"}}]}}"#,
                "r".repeat(1 << 20)
            ),
        ),
    ] {
        let answer = post(&daemon, "/v1/chat/completions", &key, &body);
        assert!(
            answer.starts_with("HTTP/1.1 400 "),
            "{name}: {}",
            &answer[..answer.len().min(300)]
        );
        assert!(answer.len() < 4096, "{name}: an error does not repeat what it refuses");
    }
    let good = post(&daemon, "/v1/chat/completions", &key, &chat(""));
    assert!(good.starts_with("HTTP/1.1 200 "), "{good}");
}

/// A daemon with the certificate of `tests/tls`.
fn with_tls() -> Daemon {
    with_tls_and("")
}

/// The same, with more settings of the section `[server]`.
fn with_tls_and(more: &str) -> Daemon {
    let mut daemon = Daemon::new();
    fs::create_dir(&daemon.base).unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
    for file in ["cert.pem", "key.pem"] {
        fs::copy(from.join(file), daemon.base.join(file)).unwrap();
        fs::set_permissions(daemon.base.join(file), fs::Permissions::from_mode(0o600)).unwrap();
    }
    fs::set_permissions(&daemon.base, fs::Permissions::from_mode(0o700)).unwrap();
    let config = format!("[server]\ntls_cert = \"cert.pem\"\ntls_key = \"key.pem\"\n{more}");
    fs::write(daemon.base.join("config.toml"), config).unwrap();
    daemon.start(&[]);
    daemon
}

/// `GET /readyz` over TLS, by a client that trusts the test's certificate.
fn ready_by_tls(daemon: &Daemon) -> String {
    let mut roots = RootCertStore::empty();
    let file = daemon.base.join("cert.pem");
    for certificate in CertificateDer::pem_file_iter(file).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(daemon.info().unwrap().http).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut stream = StreamOwned::new(client, stream);
    let request = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    // Whether the end is announced is of no interest.
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn tls_is_spoken_by_its_certificate_and_this_machine_needs_none() {
    let daemon = with_tls();
    assert!(ready_by_tls(&daemon).starts_with("HTTP/1.1 200 "));
    let plain = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert!(daemon.http(plain).starts_with("HTTP/1.1 200 "), "omlxctl itself needs it");
    daemon.signal(Signal::HUP);
    eventually("the reload", || daemon.log().contains("reloaded").then_some(()));
    assert!(ready_by_tls(&daemon).starts_with("HTTP/1.1 200 "));
    // One that cannot be used is told, and the good one stays.
    fs::copy(daemon.base.join("cert.pem"), daemon.base.join("key.pem")).unwrap();
    daemon.signal(Signal::HUP);
    eventually("the refusal", || {
        daemon.log().contains("holds no usable private key").then_some(())
    });
    assert!(ready_by_tls(&daemon).starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_connection_past_the_limit_is_told_so_by_tls_as_well() {
    let daemon = with_tls_and("max_connections = 1\n");
    let mut held = TcpStream::connect(daemon.info().unwrap().http).unwrap();
    held.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // The connection that asked whether it is up may still be closing.
    eventually("the only place", || {
        held = TcpStream::connect(daemon.info().unwrap().http).unwrap();
        held.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        held.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut begin = [0; 12];
        held.read_exact(&mut begin).unwrap();
        (&begin == b"HTTP/1.1 200").then_some(())
    });
    let answer = ready_by_tls(&daemon);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let plain = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert!(daemon.http(plain).starts_with("HTTP/1.1 503 "));
    drop(held);
    eventually("a free place", || ready_by_tls(&daemon).starts_with("HTTP/1.1 200 ").then_some(()));
}

#[test]
fn a_tls_key_that_others_can_read_stops_the_start() {
    let mut daemon = with_tls();
    daemon.signal(Signal::TERM);
    daemon.wait();
    let key = daemon.base.join("key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let output = daemon.command(&["--port", "0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(77));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&format!("chmod 600 {}", key.display())), "{said}");
}

#[test]
fn half_a_certificate_is_a_problem_of_the_configuration() {
    let daemon = Daemon::new();
    fs::create_dir(&daemon.base).unwrap();
    let file = daemon.base.join("config.toml");
    fs::write(&file, "[server]\ntls_cert = \"cert.pem\"\n").unwrap();
    let output = daemon.command(&["check-config"]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("server.tls_cert needs server.tls_key as well"), "{said}");
}
