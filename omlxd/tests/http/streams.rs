//! Streams: their rules, and every way in which a client can leave.

use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use omlx_tests::sse::{self, Event};
use omlxd::config::KeepaliveMode;
use serde_json::{Value, json};

use crate::schemas;
use crate::support::{
    CHAT, KEY, LONG, SMALL, Server, chat_body, check_error, chunks, events, eventually,
};

#[test]
fn a_stream_says_what_the_document_says() {
    let server = Server::uncached();
    let fields = json!({"max_tokens": 24, "ignore_eos": true});
    let whole = server.chat(fields.clone()).ok();
    let mut fields = fields;
    fields["stream_options"] = json!({"include_usage": true});
    let chunks = chunks(&server.chat_stream(fields));
    let first = &chunks[0];
    for chunk in &chunks {
        let keys: Vec<&str> = chunk.as_object().unwrap().keys().map(String::as_str).collect();
        let expected =
            ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"];
        assert_eq!(keys, expected);
        assert_eq!(chunk["object"], "chat.completion.chunk");
        for key in ["id", "created", "model"] {
            assert_eq!(chunk[key], first[key]);
        }
    }
    assert_eq!(first["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let (usage, chunks) = chunks.split_last().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"], whole["usage"]);
    let (last, middle) = chunks.split_last().unwrap();
    assert_eq!(last["choices"][0]["delta"], json!({}));
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    let mut text = String::new();
    for chunk in &middle[1..] {
        let choice = &chunk["choices"][0];
        assert_eq!(chunk["usage"], Value::Null);
        assert_eq!(choice["finish_reason"], Value::Null);
        assert_eq!(choice["delta"].as_object().unwrap().len(), 1);
        text.push_str(choice["delta"]["content"].as_str().unwrap());
    }
    assert_eq!(whole["choices"][0]["message"]["content"], text);
}

#[test]
fn without_include_usage_no_chunk_has_usage() {
    let server = Server::start();
    let response = {
        let body = chat_body(json!({"stream": true, "max_tokens": 3}));
        server.open("POST", CHAT, &body.to_string())
    };
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache"),
        ("x-accel-buffering", "no"),
    ] {
        assert_eq!(response.header(name), Some(value));
    }
    assert!(response.header("x-request-id").is_some());
    assert!(chunks(&events(CHAT, response)).iter().all(|chunk| chunk.get("usage").is_none()));
}

#[test]
fn a_text_stream_repeats_the_prompt_first() {
    let server = Server::start();
    let body = json!({"model": SMALL, "prompt": ["one", "two"], "max_tokens": 4, "echo": true,
                      "temperature": 0, "ignore_eos": true});
    let mut texts = [String::new(), String::new()];
    for chunk in chunks(&server.stream("/v1/completions", body.clone())) {
        assert_eq!(chunk["object"], "text_completion");
        let choice = &chunk["choices"][0];
        let index = choice["index"].as_u64().unwrap() as usize;
        texts[index].push_str(choice["text"].as_str().unwrap());
    }
    assert!(texts[0].starts_with("one") && texts[1].starts_with("two"));
    let whole = server.post("/v1/completions", &body).ok();
    assert_eq!(whole["choices"][0]["text"], texts[0]);
    assert_eq!(whole["choices"][1]["text"], texts[1]);
}

#[test]
fn choices_of_a_stream_come_interleaved_and_whole() {
    let server = Server::start();
    let fields = json!({"n": 3, "seed": 5, "temperature": 1, "max_tokens": 8, "ignore_eos": true});
    let whole = server.chat(fields.clone()).ok();
    let mut texts = vec![String::new(); 3];
    let mut finished = [false; 3];
    for chunk in chunks(&server.chat_stream(fields)) {
        let choice = &chunk["choices"][0];
        let index = choice["index"].as_u64().unwrap() as usize;
        assert!(!finished[index]);
        finished[index] = !choice["finish_reason"].is_null();
        texts[index].push_str(choice["delta"]["content"].as_str().unwrap_or_default());
    }
    assert_eq!(finished, [true; 3]);
    for (index, text) in texts.iter().enumerate() {
        assert_eq!(whole["choices"][index]["message"]["content"], *text);
    }
}

#[test]
fn waiting_streams_say_that_they_are_alive() {
    for (mode, is_comment) in [(KeepaliveMode::Comment, true), (KeepaliveMode::Chunk, false)] {
        let server = Server::with(|config| {
            config.server.keepalive = Some(Duration::from_millis(30));
            config.server.keepalive_mode = mode;
            // The second one waits.
            config.scheduler.max_batch = 1;
        });
        server.chat(json!({"model": LONG, "max_tokens": 1})).ok();
        let running = server.endless(json!({}));
        let waiting = server.endless(json!({"max_tokens": 1}));
        let id = waiting.header("x-request-id").unwrap().to_owned();
        let mut seen = 0;
        sse::for_each(waiting.body, |event| {
            let alive = match event {
                Event::Comment(text) => is_comment && text == "keepalive",
                Event::Data(data) => {
                    schemas::check_event(CHAT, &serde_json::from_str(&data).unwrap());
                    !is_comment && data.contains("\"choices\":[]")
                }
            };
            seen += usize::from(alive);
            seen < 3
        })
        .unwrap();
        assert_eq!(seen, 3);
        assert!(server.app.requests.list().iter().all(|request| request.id != id) || seen == 3);
        drop(running);
    }
}

#[test]
fn keepalive_can_be_switched_off() {
    let server = Server::with(|config| {
        config.server.keepalive = Some(Duration::from_millis(10));
        config.server.keepalive_mode = KeepaliveMode::Off;
    });
    let events = server.chat_stream(json!({"model": LONG, "max_tokens": 200, "ignore_eos": true}));
    assert!(events.iter().all(|event| matches!(event, Event::Data(_))));
}

/// Waits until no request is left, and asserts that it was counted as cancelled by its client.
fn is_cancelled(server: &Server, phase: &str) {
    eventually("the end of the request", || server.app.requests.list().is_empty());
    let model = format!("model=\"{LONG}\"");
    eventually("the count of the request", || {
        server.metric("omlx_requests_total", &[&model, "\"cancelled\""]) == 1.0
    });
    let phase = format!("phase=\"{phase}\"");
    assert_eq!(server.metric("omlx_http_client_disconnects_total", &[&phase]), 1.0);
    assert_eq!(server.metric("omlx_http_requests_total", &["status=\"499\""]), 1.0);
    eventually("the engine to be idle", || !server.app.engine.progress().busy);
}

fn first_token(server: &Server) {
    eventually("a first token", || {
        server.app.requests.list().iter().any(|request| request.generated_tokens > 0)
    });
}

#[test]
fn closing_a_stream_cancels_its_generation() {
    let server = Server::start();
    let response = server.endless(json!({}));
    first_token(&server);
    drop(response);
    is_cancelled(&server, "decode");
}

#[test]
fn closing_the_connection_cancels_an_answer_that_is_not_streamed() {
    let server = Server::start();
    let body = chat_body(json!({"model": LONG, "ignore_eos": true})).to_string();
    let mut stream = server.connect();
    stream.write_all(&request_bytes(&body)).unwrap();
    first_token(&server);
    drop(stream);
    is_cancelled(&server, "decode");
}

#[test]
fn closing_the_sending_half_counts_as_gone() {
    let server = Server::start();
    let body = chat_body(json!({"model": LONG, "ignore_eos": true})).to_string();
    let mut stream = server.connect();
    stream.write_all(&request_bytes(&body)).unwrap();
    first_token(&server);
    stream.shutdown(Shutdown::Write).unwrap();
    is_cancelled(&server, "decode");
}

fn request_bytes(body: &str) -> Vec<u8> {
    let length = body.len();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n";
    format!("{head}x-api-key: {KEY}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

#[test]
fn a_waiting_request_can_leave_too() {
    let server = Server::with(|config| config.scheduler.max_batch = 1);
    let running = server.endless(json!({}));
    first_token(&server);
    let waiting = server.endless(json!({}));
    let phase = || server.app.requests.list().last().unwrap().phase.as_str();
    assert_eq!(phase(), "queue");
    drop(waiting);
    eventually("the end of the waiting request", || server.app.requests.list().len() == 1);
    assert_eq!(server.metric("omlx_http_client_disconnects_total", &["phase=\"queue\""]), 1.0);
    drop(running);
}

#[test]
fn a_client_that_reads_nothing_is_disconnected() {
    let server = Server::with(|config| config.server.write_timeout = Duration::from_millis(300));
    // Fat events fill the socket's buffers soon.
    let response = server.endless(json!({"logprobs": true, "top_logprobs": 20}));
    eventually("the end of the request", || server.app.requests.list().is_empty());
    eventually("the engine to be idle", || !server.app.engine.progress().busy);
    let mut is_done = false;
    let ended = sse::for_each(response.body, |event| {
        is_done |= event == Event::Data("[DONE]".to_owned());
        true
    });
    assert!(!is_done);
    drop(ended);
    server.chat(json!({"max_tokens": 1})).ok();
}

#[test]
fn an_administrator_can_cancel() {
    let server = Server::start();
    let response = server.endless(json!({}));
    let id = response.header("x-request-id").unwrap().to_owned();
    first_token(&server);
    assert!(server.app.requests.cancel(&id));
    let events = events(CHAT, response);
    let Event::Data(last) = events.last().unwrap() else { panic!("a comment at the end") };
    let error: Value = serde_json::from_str(last).unwrap();
    check_error(&error["error"], 503, Some("request_cancelled"), None);
    assert!(!events.contains(&Event::Data("[DONE]".to_owned())));
    eventually("the end of the request", || server.app.requests.list().is_empty());
    assert_eq!(server.metric("omlx_http_client_disconnects_total", &[]), 0.0);
}

#[test]
fn refusals_come_before_any_stream() {
    let server = Server::start();
    let fields =
        json!({"stream": true, "messages": [{"role": "user", "content": "x ".repeat(300)}]});
    server.chat(fields).is_error(400, Some("context_length_exceeded"), Some("messages"));
}
