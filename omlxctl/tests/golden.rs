//! What every command prints for a document of the daemon: as a table and as JSON. The documents are
//! the protocol's golden ones: `tests/golden/`, one file a route.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use tempfile::TempDir;

/// A daemon that answers each route with its golden document.
fn daemon() -> (TempDir, String) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut routes = BTreeMap::new();
    for file in fs::read_dir(golden).unwrap() {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        routes.insert(name, fs::read(file.path()).unwrap());
    }
    let routes = Arc::new(routes);
    let temp = tempfile::tempdir().unwrap();
    let socket = temp.path().join("omlxd.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let routes = Arc::clone(&routes);
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut request = [0; 4096];
                let read = stream.read(&mut request).unwrap();
                let head = String::from_utf8_lossy(&request[..read]).into_owned();
                let path = head.split(' ').nth(1).unwrap().split('?').next().unwrap();
                let name = path.trim_start_matches("/admin/v1/").replace('/', "_");
                let found =
                    [".json", ".ndjson"].iter().find_map(|end| routes.get(&format!("{name}{end}")));
                let body = found.unwrap_or_else(|| panic!("no golden document for {name}"));
                let head = format!(
                    "HTTP/1.1 200 OK\r\nOmlx-Version: {}\r\nOmlx-Admin-Api: 1\r\n\
                     Content-Length: {}\r\n\r\n",
                    env!("CARGO_PKG_VERSION"),
                    body.len()
                );
                let _ = stream.write_all(&[head.as_bytes(), body].concat());
            });
        }
    });
    let socket = socket.to_str().unwrap().to_owned();
    (temp, socket)
}

fn said(socket: &str, args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_omlxctl"));
    command.env_clear().env("HOME", "/nonexistent").args(["--socket", socket]).args(args);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().unwrap();
    format!("{}{}[exit {code}]", text(&output.stdout), text(&output.stderr))
}

const COMMANDS: [&[&str]; 28] = [
    &["status"],
    &["ps"],
    &["models", "list"],
    &["models", "show", "acme/agent"],
    &["models", "rm", "acme/agent", "--yes", "--cache"],
    &["pull", "acme/new"],
    &["pull", "acme/gone"],
    &["pull", "--cancel", "acme/new"],
    &["load", "acme/agent"],
    &["unload", "acme/agent"],
    &["pin", "acme/agent"],
    &["unpin", "acme/agent"],
    &["requests"],
    &["cancel", "req_1"],
    &["cache", "stats"],
    &["cache", "verify"],
    &["cache", "demote"],
    &["cache", "clear", "--yes"],
    &["cache", "explain", "req_1"],
    &["key", "show"],
    &["key", "rotate"],
    &["key", "list"],
    &["key", "add", "laptop"],
    &["key", "revoke", "laptop"],
    &["config", "show"],
    &["config", "check"],
    &["shutdown"],
    &["version"],
];

#[test]
fn every_command_prints_its_document_as_a_table_and_as_json() {
    let (_temp, socket) = daemon();
    for command in COMMANDS {
        let name = command.iter().filter(|word| !word.starts_with("--")).copied();
        let name: String = name.collect::<Vec<_>>().join("_").replace('/', "-");
        let name = if command.contains(&"--cancel") { format!("{name}_cancel") } else { name };
        let table = said(&socket, command);
        let json = said(&socket, &[&["--json"], command].concat());
        insta::assert_snapshot!(
            name,
            format!("$ omlxctl {}\n{table}\n\n$ omlxctl --json {0}\n{json}", command.join(" "))
        );
    }
}

#[test]
fn top_is_text_in_a_pipe() {
    let (_temp, socket) = daemon();
    let text = said(&socket, &["top", "-n", "2", "--interval", "10ms"]);
    assert!(text.ends_with("[exit 0]"), "{text}");
    assert_eq!(text.matches("tokens/s").count(), 2, "{text}");
    let json = said(&socket, &["--json", "top", "--interval", "10ms"]);
    assert!(json.contains("\"generated_tokens_per_second\""), "{json}");
}
