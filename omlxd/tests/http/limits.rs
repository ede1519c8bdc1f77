//! Limits, each of them hit.

use std::io::{Read, Write};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use omlx_tests::http;
use omlx_tests::sse::Event;
use omlxd::limits::{MODEL_NAME_BYTES, REFUSED_CONNECTIONS};
use serde_json::json;

use crate::support::{CHAT, KEY, LONG, Reply, Server, chat_body, events, eventually};

const HEAD: &str = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_model_name_at_its_limit() {
    let server = Server::start();
    let named = |bytes: usize| {
        let body =
            json!({"model": "m".repeat(bytes), "messages": [{"role": "user", "content": "x"}]});
        server.post(CHAT, &body)
    };
    // A name of that length may be one; there only is no such model.
    named(MODEL_NAME_BYTES).is_error(404, Some("model_not_found"), Some("model"));
    named(MODEL_NAME_BYTES + 1).is_error(400, Some("invalid_value"), Some("model"));
    named(0).is_error(400, Some("invalid_value"), Some("model"));
}

#[test]
fn a_body_of_65_mib_is_refused_and_the_next_request_works() {
    let server = Server::start();
    let body = vec![b' '; 65 << 20];
    let headers = [("x-api-key", KEY)];
    let path = "/v1/chat/completions";
    let reply = Reply::read(http::request(server.address, "POST", path, &headers, &body).unwrap());
    reply.is_error(413, Some("request_too_large"), None);
    assert_eq!(reply.header("connection"), Some("close"));
    server.chat(json!({"max_tokens": 1})).ok();
}

#[test]
fn bodies_are_counted_when_their_length_is_not_announced() {
    let server = Server::with(|config| config.limits.max_body = 4096);
    let mut request =
        format!("{HEAD}x-api-key: {KEY}\r\ntransfer-encoding: chunked\r\n\r\n").into_bytes();
    for _ in 0..8 {
        request.extend_from_slice(b"400\r\n");
        request.extend_from_slice(&[b' '; 0x400]);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    server.raw(&request).is_error(413, Some("request_too_large"), None);
}

#[test]
fn gzip_is_accepted_and_bounded() {
    let server = Server::with(|config| config.limits.max_body = 64 << 10);
    let send = |body: &[u8], encoding: &str| {
        let headers = [("x-api-key", KEY), ("content-encoding", encoding)];
        let path = "/v1/chat/completions";
        Reply::read(http::request(server.address, "POST", path, &headers, body).unwrap())
    };
    send(&gzip(chat_body(json!({"max_tokens": 1})).to_string().as_bytes()), "gzip").ok();
    send(&gzip(&vec![b' '; 1 << 20]), "gzip").is_error(413, Some("request_too_large"), None);
    send(b"not gzip", "gzip").is_error(400, None, None);
    send(b"{}", "br").is_error(415, Some("unsupported_media_type"), None);
}

#[test]
fn other_content_types_are_refused() {
    let server = Server::start();
    let head = format!("{HEAD}x-api-key: {KEY}\r\ncontent-length: 2\r\nconnection: close\r\n");
    let send = |kind: &str| server.raw(format!("{head}{kind}\r\n{{}}").as_bytes());
    for kind in ["content-type: text/plain\r\n", "content-type: multipart/form-data\r\n"] {
        send(kind).is_error(415, Some("unsupported_media_type"), None);
    }
    for kind in ["", "content-type: application/json; charset=utf-8\r\n"] {
        send(kind).is_error(400, Some("missing_required_parameter"), Some("model"));
    }
}

#[test]
fn a_body_that_pauses_is_given_up() {
    let server =
        Server::with(|config| config.server.request_read_timeout = Duration::from_millis(200));
    let request = format!("{HEAD}x-api-key: {KEY}\r\ncontent-length: 100\r\n\r\n{{");
    let reply = server.raw(request.as_bytes());
    reply.is_error(408, Some("request_timeout"), None);
    assert_eq!(reply.header("connection"), Some("close"));
}

#[test]
fn heads_that_are_too_large_or_no_http_are_refused() {
    let server = Server::with(|config| config.limits.max_header = 8192);
    let large = format!("{HEAD}x-padding: {}\r\n\r\n", "x".repeat(20_000));
    let status = |bytes: &[u8]| {
        let mut stream = server.connect();
        // The answer may come, and the connection close, before all is written.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!(status(large.as_bytes()), "431");
    assert_eq!(status(b"\x16\x03\x01 this is TLS\r\n\r\n"), "400");
    server.get("/v1/models").ok();
}

#[test]
fn one_connection_too_many_is_told_so() {
    let server = Server::with(|config| config.server.max_connections = 2);
    let held: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = server.connect();
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            stream
        })
        .collect();
    let reply = server.raw(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert_eq!(reply.status, 503);
    drop(held);
    eventually("a free connection", || {
        let request = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        server.raw(request).status == 200
    });
}

/// Whatever number comes, each hears why it is not served: none is reset.
#[test]
fn thousands_of_connections_past_the_limit_are_answered() {
    let server = Server::with(|config| config.server.max_connections = 2);
    let request = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let hold = || {
        let mut stream = server.connect();
        stream.write_all(request).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        stream
    };
    let held = [hold(), hold()];
    // More than are refused at the same time; each side of a connection is a file of this process.
    let clients: Vec<_> = (0..REFUSED_CONNECTIONS + 500)
        .map(|_| {
            let mut stream = server.connect();
            stream.write_all(request).unwrap();
            stream
        })
        .collect();
    for mut stream in clients {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("retry-after: 1") && answer.contains("server_overloaded"));
    }
    drop(held);
    eventually("a free connection", || {
        let request = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        server.raw(request).status == 200
    });
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let server = Server::with(|config| {
        config.scheduler.max_queue = 1;
        config.scheduler.max_batch = 1;
    });
    let running = server.endless(json!({}));
    eventually("a first token", || {
        server.app.requests.list().iter().any(|request| request.generated_tokens > 0)
    });
    let waiting = server.endless(json!({}));
    for stream in [true, false] {
        let reply = server.chat(json!({"model": LONG, "stream": stream}));
        reply.is_error(503, Some("server_overloaded"), None);
        let secs: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=30).contains(&secs));
        assert_eq!(reply.header("x-should-retry"), None);
    }
    assert_eq!(server.metric("omlx_requests_rejected_total", &["\"queue_full\""]), 2.0);
    drop((running, waiting));
}

#[test]
fn a_key_has_so_many_requests_at_a_time() {
    let server = Server::with(|config| config.limits.max_requests_per_key = 2);
    let held = [server.endless(json!({})), server.endless(json!({}))];
    let refused = server.chat(json!({}));
    let message = refused.is_error(429, Some("rate_limit_exceeded"), None);
    assert!(message.contains('2'), "{message}");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(server.metric("omlx_requests_rejected_total", &["\"rate_limit\""]), 1.0);
    drop(held);
    eventually("a place", || server.chat(json!({"max_tokens": 1})).status == 200);
}

#[test]
fn a_request_ends_at_its_deadline() {
    let server = Server::with(|config| {
        config.limits.request_deadline = Some(Duration::from_millis(400));
        config.scheduler.max_batch = 1;
    });
    server.chat(json!({"model": LONG, "max_tokens": 1})).ok();
    let long = json!({"model": LONG, "max_tokens": 900_000, "ignore_eos": true});
    let reply = server.chat(long.clone());
    reply.is_error(504, Some("request_deadline_exceeded"), None);
    // A stream has begun: the error is its last event. One that waited for its turn ends as well.
    let (running, waiting) = (server.endless(json!({})), server.endless(json!({})));
    for stream in [running, waiting] {
        let seen = events(CHAT, stream);
        let error = seen.iter().rev().find_map(|event| match event {
            Event::Data(data) if data.contains("request_deadline_exceeded") => Some(data),
            _ => None,
        });
        assert!(error.is_some(), "{:?}", seen.last());
    }
    server.chat(json!({"max_tokens": 1})).ok();
}

/// Far more clients than rows, some of them impatient: each gets its answer or is told to come back,
/// and nothing is left of them.
#[test]
fn two_hundred_clients_on_eight_rows() {
    let server = Server::with(|config| {
        config.scheduler.max_batch = 8;
        config.scheduler.max_queue = 120;
        config.limits.max_requests_per_key = 1000;
    });
    let alone = server.chat(json!({"max_tokens": 12, "ignore_eos": true})).ok();
    let hold: Vec<_> = (0..8).map(|_| server.endless(json!({}))).collect();
    eventually("all rows are taken", || server.app.engine.progress().running == 8);
    let is_impatient = |n: usize| n.is_multiple_of(10);
    let served = std::thread::scope(|scope| {
        let client = |n: usize| {
            let server = &server;
            scope.spawn(move || {
                if is_impatient(n) {
                    // Gone before its turn, or refused.
                    let body = chat_body(json!({"stream": true})).to_string();
                    drop(server.open("POST", "/v1/chat/completions", &body));
                    return None;
                }
                Some(server.chat(json!({"max_tokens": 12, "ignore_eos": true})))
            })
        };
        let clients: Vec<_> = (0..200).map(client).collect();
        eventually("the queue is full", || {
            server.metric("omlx_requests_rejected_total", &["\"queue_full\""]) > 0.0
        });
        drop(hold);
        let replies = clients.into_iter().filter_map(|client| client.join().unwrap());
        let (served, refused): (Vec<_>, Vec<_>) = replies.partition(|reply| reply.status == 200);
        for reply in &refused {
            reply.is_error(503, Some("server_overloaded"), None);
            let secs: u64 = reply.header("retry-after").unwrap().parse().unwrap();
            assert!((1..=60).contains(&secs), "{secs}");
        }
        assert_eq!(served.len() + refused.len(), 180);
        served
    });
    assert!(served.len() >= 100, "{} were served", served.len());
    for reply in served {
        assert_eq!(reply.ok()["choices"], alone["choices"]);
    }
    eventually("nothing is left", || {
        let progress = server.app.engine.progress();
        server.app.requests.list().is_empty() && (progress.running, progress.waiting) == (0, 0)
    });
    assert_eq!(server.app.engine.memory().running_bytes, 0);
}
