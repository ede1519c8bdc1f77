//! What every command prints for a document of the daemon: as a table and as JSON. The documents are
//! the protocol's golden ones: `tests/golden/`, one file a route. Commands that talk to the HTTP API
//! get one answer from a stand-in for it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use tempfile::TempDir;

use asked::ASKED;

mod asked;

/// What the golden documents say of the HTTP API's address.
const ADDRESS: &str = "127.0.0.1:1337";

/// A daemon that answers each route with its golden document.
struct Daemon {
    #[cfg_attr(target_os = "macos", expect(dead_code, reason = "it keeps the folder alive"))]
    temp: TempDir,
    socket: String,
    /// Where its HTTP API really is.
    address: String,
}

/// Answers each request of a connection with what `reply` makes of its method, path and all of it.
fn answer(mut stream: impl Read + Write, reply: impl Fn(&str, &str) -> String) {
    let mut request = vec![0; 64 << 10];
    let read = stream.read(&mut request).unwrap();
    let request = String::from_utf8_lossy(&request[..read]).into_owned();
    let path = request.split(' ').nth(1).unwrap().split('?').next().unwrap();
    let _ = stream.write_all(reply(path, &request).as_bytes());
}

fn response(headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
}

/// One answer of the HTTP API: a text, or a conversation's.
fn generated(path: &str, request: &str) -> String {
    let usage = r#""usage":{"prompt_tokens":1300,"completion_tokens":8,"total_tokens":1308,"omlx":{"cached_tokens_ram":0,"cached_tokens_ssd":0,"restore_ms":0.0}}"#;
    let body = if path.ends_with("/chat/completions") {
        format!(
            "data: {{\"choices\":[{{\"delta\":{{\"reasoning_content\":\"Who?\"}}}}]}}\n\n\
             data: {{\"choices\":[{{\"delta\":{{\"content\":\"Hello\"}}}}]}}\n\n\
             data: {{\"choices\":[{{\"delta\":{{\"content\":\" Ada.\"}},\"finish_reason\":\"stop\"}}]}}\n\n\
             data: {{\"choices\":[],{usage}}}\n\ndata: [DONE]\n\n"
        )
    } else if request.contains("\"stream\":true") {
        format!(
            "data: {{\"choices\":[{{\"text\":\" a\"}}]}}\n\n\
             data: {{\"choices\":[],{usage}}}\n\ndata: [DONE]\n\n"
        )
    } else {
        format!("{{\"choices\":[{{\"text\":\" a\"}}],{usage}}}")
    };
    response("", &body)
}

impl Daemon {
    fn start() -> Daemon {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let api = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = api.local_addr().unwrap().to_string();
        let mut routes = BTreeMap::new();
        for file in fs::read_dir(golden).unwrap() {
            let file = file.unwrap();
            let text = fs::read_to_string(file.path()).unwrap().replace(ADDRESS, &address);
            routes.insert(file.file_name().into_string().unwrap(), text);
        }
        let temp = tempfile::tempdir().unwrap();
        let socket = temp.path().join("omlxd.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let routes = Arc::new(routes);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let routes = Arc::clone(&routes);
                thread::spawn(move || {
                    answer(stream.unwrap(), |path, _| {
                        let name = path.trim_start_matches("/admin/v1/").replace('/', "_");
                        let mut files = [".json", ".ndjson"].iter();
                        let found = files.find_map(|end| routes.get(&format!("{name}{end}")));
                        let body = found.unwrap_or_else(|| panic!("no golden document for {name}"));
                        let version = env!("CARGO_PKG_VERSION");
                        let head = format!("Omlx-Version: {version}\r\nOmlx-Admin-Api: 1\r\n");
                        response(&head, body)
                    });
                });
            }
        });
        thread::spawn(move || {
            for stream in api.incoming() {
                thread::spawn(move || answer(stream.unwrap(), generated));
            }
        });
        let socket = socket.to_str().unwrap().to_owned();
        Daemon { temp, socket, address }
    }

    /// What a command prints, and how it exits; with the golden documents' address in it.
    fn said(&self, args: &[&str]) -> String {
        said(&[&["--socket", &self.socket], args].concat()).replace(&self.address, ADDRESS)
    }
}

fn said(args: &[&str]) -> String {
    said_by(Path::new(env!("CARGO_BIN_EXE_omlxctl")), args)
}

fn said_by(omlxctl: &Path, args: &[&str]) -> String {
    let mut command = Command::new(omlxctl);
    command.env_clear().env("HOME", "/nonexistent").args(args);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().unwrap();
    format!("{}{}[exit {code}]", text(&output.stdout), text(&output.stderr))
}

/// As a table and as JSON.
fn both(shown: &str, said: impl Fn(&[&str]) -> String, command: &[&str]) -> String {
    let table = said(command);
    let json = said(&[&["--json"], command].concat());
    format!("$ omlxctl {shown}\n{table}\n\n$ omlxctl --json {shown}\n{json}")
}

/// Without what is measured: numbers, and the blanks that line them up.
fn measured(text: &str) -> String {
    let (text, exit) = text.rsplit_once("[exit").unwrap();
    let mut masked = String::new();
    for c in text.chars() {
        match c {
            '0'..='9' | '.' if masked.ends_with('#') => {}
            '0'..='9' => masked.push('#'),
            ' ' if masked.ends_with("  ") => {}
            c => masked.push(c),
        }
    }
    format!("{masked}[exit{exit}")
}

#[test]
fn every_command_prints_its_document_as_a_table_and_as_json() {
    let daemon = Daemon::start();
    for command in ASKED {
        let name = command.iter().filter(|word| !word.starts_with("--")).copied();
        let name: String = name.collect::<Vec<_>>().join("_").replace('/', "-");
        let name = if command.contains(&"--cancel") { format!("{name}_cancel") } else { name };
        let printed = both(&command.join(" "), |args| daemon.said(args), command);
        insta::assert_snapshot!(name, printed);
    }
}

#[test]
fn chat_and_bench_print_what_the_api_answers() {
    let daemon = Daemon::start();
    let chat = ["chat", "acme/agent", "I am Ada.", "--max-tokens", "8"];
    insta::assert_snapshot!("chat", both(&chat.join(" "), |args| daemon.said(args), &chat));
    let bench = ["bench", "--prompt-tokens", "1200", "--tokens", "8", "--rounds", "1"];
    let printed = both(&bench.join(" "), |args| measured(&daemon.said(args)), &bench);
    insta::assert_snapshot!("bench", printed);
}

#[test]
fn top_is_text_in_a_pipe() {
    let daemon = Daemon::start();
    let text = daemon.said(&["top", "-n", "2", "--interval", "10ms"]);
    assert_eq!(text.matches("tokens/s").count(), 2, "{text}");
    // Nothing changes between two looks at the same documents: every rate is 0.
    let top = ["top", "--interval", "10ms"];
    insta::assert_snapshot!("top", both(&top.join(" "), |args| daemon.said(args), &top));
}

// On macOS it also looks at launchd.
#[cfg(not(target_os = "macos"))]
#[test]
fn doctor_prints_its_findings_with_a_daemon_and_without() {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};

    let daemon = Daemon::start();
    let base = daemon.temp.path().join("base");
    fs::DirBuilder::new().mode(0o700).recursive(true).create(base.join("run")).unwrap();
    let private = |name: &str, text: &str| {
        let file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(base.join(name));
        file.unwrap().write_all(text.as_bytes()).unwrap();
    };
    private("api-key", "sk-omlx-test\n");
    // The last daemon's port, which is looked at when none answers: any is free.
    let socket = base.join("run/omlxd.sock").to_str().unwrap().to_owned();
    private(
        "run/omlxd.json",
        &format!(
            r#"{{"pid": 4242, "version": "0.1.0", "http": "127.0.0.1:0", "socket": "{socket}"}}"#
        ),
    );
    // A copy, so that no omlxd lies beside it that could check the configuration.
    let copy = daemon.temp.path().join("omlxctl");
    fs::copy(env!("CARGO_BIN_EXE_omlxctl"), &copy).unwrap();
    let temp = daemon.temp.path().to_str().unwrap();
    let doctor = |socket: &str, args: &[&str]| {
        let place = ["--base-dir", base.to_str().unwrap(), "--socket", socket];
        let text = said_by(&copy, &[&place, args].concat());
        // Free space and times differ between machines, and so may their units.
        measured(&text.replace(temp, "TEMP")).replace("# TiB", "# GiB")
    };
    let with = both("doctor", |args| doctor(&daemon.socket, args), &["doctor"]);
    insta::assert_snapshot!("doctor", with);
    let without = both("doctor", |args| doctor(&socket, args), &["doctor"]);
    insta::assert_snapshot!("doctor_without_a_daemon", without);
}

#[test]
fn logs_prints_lines_as_text_and_as_they_are() {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("logs")).unwrap();
    let lines = "\
        {\"timestamp\":\"2026-01-02T03:04:05Z\",\"level\":\"INFO\",\"message\":\"ready\",\"http\":\"127.0.0.1:1337\"}\n\
        {\"timestamp\":\"2026-01-02T03:04:06Z\",\"level\":\"ERROR\",\"message\":\"it broke\"}\n";
    fs::write(temp.path().join("logs/omlxd.log"), lines).unwrap();
    let base = temp.path().to_str().unwrap();
    let printed = both("logs", |args| said(&[&["--base-dir", base], args].concat()), &["logs"]);
    insta::assert_snapshot!("logs", printed);
}

#[test]
fn scripts_and_the_manual_page_are_made_from_the_commands() {
    insta::assert_snapshot!("man", said(&["man"]));
    for shell in ["bash", "zsh", "fish"] {
        let script = said(&["completions", shell]);
        insta::assert_snapshot!(format!("completions_{shell}"), script);
        let json = said(&["--json", "completions", shell]);
        assert!(json.starts_with("{\n  \"text\": \""), "{json}");
    }
}
