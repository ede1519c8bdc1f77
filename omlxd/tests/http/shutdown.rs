//! Stopping while requests run.

use std::io::{Read, Write};
use std::time::Duration;

use omlx_tests::sse::Event;
use serde_json::{Value, json};

use crate::support::{CHAT, KEY, LONG, Server, check_error, chunks, events, eventually};

#[test]
fn running_requests_finish_and_new_ones_are_refused() {
    let server = Server::with(|config| config.server.drain = Duration::from_secs(30));
    let mut kept = server.connect();
    let get = format!("GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx-api-key: {KEY}\r\n\r\n");
    kept.write_all(get.as_bytes()).unwrap();
    let mut buffer = vec![0; 64 << 10];
    assert!(kept.read(&mut buffer).unwrap() > 0);
    let running = server.endless(json!({"max_tokens": 300}));
    server.app.shutdown.cancel();
    kept.write_all(get.as_bytes()).unwrap();
    let mut answer = String::new();
    kept.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("\"shutting_down\"") && answer.contains("retry-after: 5"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    let finished = chunks(&events(CHAT, running));
    assert_eq!(finished.last().unwrap()["choices"][0]["finish_reason"], "length");
    eventually("the port to close", || std::net::TcpStream::connect(server.address).is_err());
}

#[test]
fn what_outlives_the_drain_is_cut_with_an_error() {
    let server = Server::with(|config| config.server.drain = Duration::from_millis(100));
    let running = server.endless(json!({"model": LONG}));
    server.app.shutdown.cancel();
    let events = events(CHAT, running);
    assert!(!events.contains(&Event::Data("[DONE]".to_owned())));
    let Event::Data(last) = events.last().unwrap() else { panic!("a comment at the end") };
    let error: Value = serde_json::from_str(last).unwrap();
    check_error(&error["error"], 503, Some("shutting_down"), None);
}
