//! The memory of the whole daemon while it is sent the largest bodies that anyone sends.

#![cfg(target_os = "linux")]

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use omlx_tests::daemon::{Daemon, built_binary};
use omlx_tests::fixtures::Case;
use omlx_tests::http;
use serde_json::json;

const MODEL: &str = "test/model";

/// Bytes of a body.
const BODY: usize = 20 << 20;
/// What the daemon may hold at any time while it is sent one, in MiB.
const MOST_MIB: u64 = 600;
/// What it may hold afterwards beyond what it held before, in MiB.
const KEPT_MIB: u64 = 120;

/// A row of `/proc/PID/status`, in MiB.
fn status_mib(daemon: &Daemon, row: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(row)).unwrap();
    line.trim_matches([':', ' ', '\t', 'k', 'B']).parse::<u64>().unwrap() >> 10
}

/// `head`, `unit` as often as a body of [`BODY`] bytes has room for it, and `tail`.
fn filled(head: &str, unit: &str, tail: &str) -> Vec<u8> {
    let count = (BODY - head.len() - tail.len()) / unit.len();
    format!("{head}{}{tail}", unit.repeat(count)).into_bytes()
}

/// The same with another number in each unit, `@` in `unit` being its place.
fn numbered(head: &str, unit: &str, tail: &str) -> Vec<u8> {
    let mut body = head.to_owned();
    let mut number = 0;
    while body.len() + unit.len() + tail.len() + 8 < BODY {
        body.push_str(&unit.replace('@', &format!("{number:07x}")));
        number += 1;
    }
    body.push_str(tail);
    body.into_bytes()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Bodies of every shape, with the path that they are sent to.
fn shapes() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let chat = "/v1/chat/completions";
    let asks = format!("{{\"model\":\"{MODEL}\",\"max_tokens\":1,");
    let says = format!("{asks}\"messages\":[{{\"role\":\"user\",\"content\":\"x\"}}],");
    let unknown = format!("{says}\"unknown\":[");
    let words = "w ".repeat(190);
    let text = |unit: &str| {
        filled(&format!("{asks}\"messages\":[{{\"role\":\"user\",\"content\":\""), unit, "\"}]}")
    };
    // As many values as a body may hold, where every API keeps them.
    let schema = |head: &str, unit: &str, tail: &str| {
        format!("{head}{}0{tail}", unit.repeat((1 << 17) - 100)).into_bytes()
    };
    let image = "{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/png;base64,";
    vec![
        ("levels", chat, filled("{\"a\":", "[", "")),
        ("objects", chat, filled(&unknown, "{},", "0]}")),
        ("objects of a key", chat, filled(&unknown, "{\"\":0},", "0]}")),
        ("lists of a number", chat, filled(&unknown, "[0],", "0]}")),
        ("numbers", chat, filled(&unknown, "0,", "0]}")),
        ("a long number", chat, filled(&format!("{says}\"unknown\":"), "1", "}")),
        ("strings", chat, filled(&unknown, "\"\",", "0]}")),
        ("keys", chat, numbered(&format!("{says}\"unknown\":{{"), "\"@\":0,", "\"x\":0}}")),
        ("unknown fields", chat, numbered(&says, "\"@\":0,", "\"x\":0}")),
        ("a long key", chat, filled(&format!("{says}\""), "k", "\":0}")),
        ("a string", chat, filled(&format!("{says}\"metadata\":{{\"x\":\""), "m", "\"}}")),
        ("escapes", chat, filled(&format!("{says}\"metadata\":{{\"x\":\""), "\\u0041", "\"}}")),
        ("a word", chat, text("a")),
        ("escaped words", chat, text("\\u0041")),
        ("an image", chat, {
            let head = format!("{asks}\"messages\":[{{\"role\":\"user\",\"content\":[{image}");
            filled(&head, "iVBO", "\"}}]}]}")
        }),
        ("messages", chat, {
            let unit = format!("{{\"role\":\"user\",\"content\":\"{words}\"}},");
            filled(
                &format!("{asks}\"messages\":["),
                &unit,
                "{\"role\":\"user\",\"content\":\"\"}]}",
            )
        }),
        ("parts", chat, {
            let unit = format!("{{\"type\":\"text\",\"text\":\"{words}\"}},");
            let head = format!("{asks}\"messages\":[{{\"role\":\"user\",\"content\":[");
            filled(&head, &unit, "{\"type\":\"text\",\"text\":\"\"}]}]}")
        }),
        ("tools", chat, {
            let about = "d".repeat(2000);
            let function = format!("{{\"name\":\"f@\",\"description\":\"{about}\"}}");
            let unit = format!("{{\"type\":\"function\",\"function\":{function}}},");
            let last = unit.replace('@', "").trim_end_matches(',').to_owned();
            numbered(&format!("{says}\"tools\":["), &unit, &format!("{last}]}}"))
        }),
        ("a schema of a chat", chat, {
            let tool = "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"x\":[";
            schema(&format!("{says}{tool}"), "{\"\":0},", "]}}}]}")
        }),
        ("a schema of messages", "/v1/messages", {
            let tool = "\"tools\":[{\"name\":\"f\",\"input_schema\":{\"x\":[";
            schema(&format!("{says}{tool}"), "{\"\":0},", "]}}]}")
        }),
        ("a schema of responses", "/v1/responses", {
            let asks = format!("{{\"model\":\"{MODEL}\",\"max_output_tokens\":1,\"input\":\"x\",");
            let tool = "\"tools\":[{\"type\":\"function\",\"name\":\"f\",\"parameters\":{\"x\":[";
            schema(&format!("{asks}{tool}"), "{\"\":0},", "]}}]}")
        }),
        ("arguments of the template", chat, {
            schema(&format!("{says}\"chat_template_kwargs\":{{\"x\":["), "{\"\":0},", "]}}")
        }),
        ("token ids", "/v1/completions", {
            let ids = "1,".repeat((1 << 19) - 100);
            format!("{asks}\"prompt\":[{ids}1]}}").into_bytes()
        }),
    ]
}

#[test]
fn the_daemon_s_memory_is_bounded_whatever_a_body_holds() {
    let dir = tempfile::tempdir().unwrap();
    let models = dir.path().join("models");
    let case = Case::any().with_config(json!({"max_position_embeddings": 16384}));
    case.write(&models.join(MODEL)).unwrap();
    let base = dir.path().join("base");
    let daemon = Daemon::start(&built_binary(), &base, Some(&models), &[]).unwrap();
    let works = || {
        let messages = [json!({"role": "user", "content": "x"})];
        let body = json!({"model": MODEL, "max_tokens": 1, "messages": messages});
        let answer = daemon.request("POST", "/v1/chat/completions", &body.to_string()).unwrap();
        assert_eq!(answer.status, 200);
    };
    works();
    let before = status_mib(&daemon, "VmRSS");
    let key = format!("Bearer {}", daemon.key);
    let post = |what: &str, path: &str, body: &[u8], encoding: &str| {
        // From here on the peak is that of this request.
        fs::write(format!("/proc/{}/clear_refs", daemon.pid()), "5").unwrap();
        let headers = [("authorization", key.as_str()), ("content-encoding", encoding)];
        let answer = http::request(daemon.address, "POST", path, &headers, body).unwrap();
        let (status, answer) = (answer.status, answer.text().unwrap());
        assert!(matches!(status, 200 | 400 | 413), "{what}: {status}: {answer:.300}");
        let peak = status_mib(&daemon, "VmHWM");
        assert!(peak < MOST_MIB, "{what}: {peak} MiB, after {status}: {answer:.300}");
    };
    for (what, path, body) in shapes() {
        post(what, path, &body, "identity");
        if matches!(what, "objects" | "a string" | "a word") {
            post(what, path, &gzip(&body), "gzip");
        }
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while status_mib(&daemon, "VmRSS") > before + KEPT_MIB {
        let kept = status_mib(&daemon, "VmRSS");
        assert!(Instant::now() < deadline, "{kept} MiB are kept, of {before} before");
        std::thread::sleep(Duration::from_millis(50));
    }
    works();
}
