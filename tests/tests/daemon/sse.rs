//! Streams under torture: cut at every byte, not read, half-closed, abandoned.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use omlx_tests::http;
use omlx_tests::sse::{self, Event, Parser};
use serde_json::{Value, json};

use crate::world::{World, chat_body};

const CHAT: &str = "/v1/chat/completions";

fn text_of(events: &[Event]) -> String {
    let chunks = events.iter().filter_map(|event| match event {
        Event::Data(data) => serde_json::from_str::<Value>(data).ok(),
        Event::Comment(_) => None,
    });
    chunks.map(|c| c["choices"][0]["delta"]["content"].as_str().unwrap_or("").to_string()).collect()
}

/// A stream's request on a socket of the test's own.
fn open(world: &World, changes: Value) -> std::net::TcpStream {
    let mut stream = http::connect(world.daemon.address).expect("connects");
    let key = format!("Bearer {}", world.daemon.key);
    let body = chat_body(changes).to_string();
    let headers = [("authorization", key.as_str())];
    let bytes = http::encode(world.daemon.address, "POST", CHAT, &headers, body.as_bytes());
    stream.write_all(&bytes).expect("sent");
    stream
}

#[test]
fn a_stream_cut_anywhere_parses_the_same() {
    let world = World::new();
    let whole: Value =
        serde_json::from_str(&world.chat(json!({"max_tokens": 40})).text().expect("body"))
            .expect("JSON");
    let wanted = whole["choices"][0]["message"]["content"].as_str().expect("text");

    let answer = world.chat(json!({"max_tokens": 40, "stream": true}));
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let bytes = answer.text().expect("UTF-8").into_bytes();
    let events = Parser::default().push(&bytes).expect("parses");
    assert_eq!(events.last(), Some(&Event::Data("[DONE]".into())));
    assert_eq!(text_of(&events), wanted);

    for cut in 0..=bytes.len() {
        let mut parser = Parser::default();
        let mut pieces = parser.push(&bytes[..cut]).expect("parses");
        pieces.extend(parser.push(&bytes[cut..]).expect("parses"));
        assert!(parser.is_between_events(), "cut at {cut}");
        assert_eq!(pieces, events, "cut at {cut}");
    }
    let mut parser = Parser::default();
    let single: Vec<Event> =
        bytes.iter().flat_map(|byte| parser.push(&[*byte]).expect("parses")).collect();
    assert_eq!(single, events);
}

#[test]
fn every_network_chunk_holds_whole_events() {
    let world = World::new();
    let mut body = world.chat(json!({"max_tokens": 40, "stream": true})).body;
    let mut chunks = 0;
    while let Some(chunk) = body.read_chunk().expect("chunked") {
        let mut parser = Parser::default();
        parser.push(&chunk).expect("no character is cut");
        assert!(parser.is_between_events(), "{:?}", String::from_utf8_lossy(&chunk));
        chunks += 1;
    }
    assert!(chunks > 5, "only {chunks} chunks: events were held back");
}

#[test]
fn a_client_that_reads_one_byte_at_a_time_gets_everything() {
    let world = World::new();
    let mut body = world.chat(json!({"max_tokens": 40, "stream": true})).body;
    let (mut parser, mut events, mut byte) = (Parser::default(), Vec::new(), [0]);
    while body.read(&mut byte).expect("reads") == 1 {
        events.extend(parser.push(&byte).expect("parses"));
    }
    assert_eq!(events.last(), Some(&Event::Data("[DONE]".into())));
}

/// A stream whose bytes do not fit into any socket's buffers.
fn bulky() -> Value {
    json!({"max_tokens": 8000, "stream": true, "logprobs": true, "top_logprobs": 20})
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_and_is_cut_off() {
    let world =
        World::with(|dir| fs::write(dir.join("config.toml"), "[server]\nwrite_timeout = \"2s\"\n"));
    let idle = open(&world, bulky());
    world.wait_for_metric("omlx_requests_running", "", 1.0);
    // With one request at a time this one waits its turn, which comes when the other is cut off.
    world.assert_still_works();
    world.wait_for_metric("omlx_requests_running", "", 0.0);
    let mut response = http::read_response(idle).expect("the headers were sent long ago");
    let mut sink = Vec::new();
    let ended = response.body.read_to_end(&mut sink);
    let whole = ended.is_ok() && sink.ends_with(b"data: [DONE]\n\n");
    assert!(!whole, "the stream was not cut off");
}

#[test]
fn a_slow_reader_gets_the_whole_stream() {
    let world = World::new();
    let mut body = world.chat(json!({"max_tokens": 2000, "stream": true})).body;
    let started = Instant::now();
    let (mut parser, mut events, mut buffer) = (Parser::default(), Vec::new(), [0; 16 * 1024]);
    loop {
        let read = body.read(&mut buffer).expect("reads");
        if read == 0 {
            break;
        }
        events.extend(parser.push(&buffer[..read]).expect("parses"));
        if started.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    assert_eq!(events.last(), Some(&Event::Data("[DONE]".into())));
    let finish = events.iter().rev().find_map(|event| match event {
        Event::Data(data) => {
            let chunk: Value = serde_json::from_str(data).ok()?;
            chunk["choices"][0]["finish_reason"].as_str().map(str::to_string)
        }
        Event::Comment(_) => None,
    });
    assert_eq!(finish.as_deref(), Some("length"));
}

/// After a client is gone, nothing runs, and the request counts as cancelled.
fn assert_cancelled(world: &World, times: f64) {
    world.wait_for_metric("omlx_requests_total", "finish_reason=\"cancelled\"", times);
    world.wait_for_metric("omlx_requests_running", "", 0.0);
    let generated = world.daemon.metric("omlx_generation_tokens_total", &[]).expect("metrics");
    assert!(generated < 12_000.0 * times, "{generated} tokens were generated for nobody");
    world.assert_still_works();
}

#[test]
fn closing_a_stream_cancels_the_request() {
    let world = World::new();
    let response = http::read_response(open(&world, json!({"max_tokens": 12_000, "stream": true})));
    let mut seen = 0;
    sse::for_each(response.expect("headers").body, |_| {
        seen += 1;
        seen < 5
    })
    .expect("events");
    assert_cancelled(&world, 1.0);
}

#[test]
fn closing_the_connection_of_a_request_that_is_not_streamed_cancels_it() {
    let world = World::new();
    let stream = open(&world, json!({"max_tokens": 12_000}));
    world.wait_for_metric("omlx_requests_running", "", 1.0);
    drop(stream);
    assert_cancelled(&world, 1.0);
}

#[test]
fn half_closing_counts_as_gone() {
    let world = World::new();
    let stream = open(&world, json!({"max_tokens": 12_000, "stream": true}));
    let mut response = http::read_response(stream).expect("headers");
    let mut first = [0; 64];
    response.body.read_exact(&mut first).expect("a first event");
    response.body.stream().shutdown(Shutdown::Write).expect("half-closed");
    let mut rest = Vec::new();
    let ended = response.body.read_to_end(&mut rest);
    assert!(ended.is_err() || !rest.ends_with(b"data: [DONE]\n\n"), "it went on to the end");
    assert_cancelled(&world, 1.0);
}
