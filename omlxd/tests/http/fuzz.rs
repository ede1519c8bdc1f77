//! The fuzz targets' twins (`omlxd/fuzz`): the same entry points, a short random run each. And bodies
//! that nobody would write, sent to a server: whatever they hold, the answer is as the documents say,
//! its status is under 500, and the server goes on.

use std::fmt::Debug;

use omlx_tests::http;
use omlxd::api::fuzz;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::schemas;
use crate::support::{KEY, Reply, SMALL, Server, events, typed_events};

/// Runs of a fuzz target.
const RUNS: u32 = 2_000;
/// Bodies that are sent, of all endpoints together.
const CASES: u32 = 400;
/// An answer is no longer than this: what is tested is what is asked.
const MOST_TOKENS: u64 = 3;

/// A short answer of a model that is there.
fn bounded(path: &str, mut body: Value) -> Value {
    if body["model"].as_str().is_some_and(|name| !name.is_empty()) {
        body["model"] = json!(SMALL);
    }
    let own = if path == "/v1/responses" { "max_output_tokens" } else { "max_tokens" };
    for name in ["max_tokens", "max_completion_tokens", "max_output_tokens"] {
        let wanted = body.get(name).filter(|wanted| !wanted.is_null());
        if wanted.is_some_and(|wanted| wanted.as_u64() > Some(MOST_TOKENS))
            || wanted.is_none() && name == own
        {
            body[name] = json!(MOST_TOKENS);
        }
    }
    body
}

fn send(server: &Server, path: &str, body: &str) {
    let authorization = format!("Bearer {KEY}");
    let headers = [("authorization", authorization.as_str())];
    let response = http::request(server.address, "POST", path, &headers, body.as_bytes()).unwrap();
    assert!(response.status < 500, "{} to {path} {body}", response.status);
    match (response.header("content-type"), path) {
        // It repeats the request, whatever is wrong with that.
        (_, "/v1/responses") if response.status == 200 => drop(response.text().unwrap()),
        (Some("text/event-stream"), "/v1/messages") => drop(typed_events(path, response)),
        (Some("text/event-stream"), _) => drop(events(path, response)),
        _ => schemas::check_reply("POST", path, &Reply::read(response)),
    }
}

#[test]
fn bodies_that_nobody_would_write_are_answered() {
    let server = Server::start();
    // What is changed is good as it is.
    for number in 0..4 {
        let (path, body) = fuzz::body(&[number]);
        let response = server.open("POST", path, &bounded(path, body).to_string());
        let status = response.status;
        assert_eq!(status, 200, "{}", response.text().unwrap());
    }
    run(CASES, vec(any::<u8>(), 0..48), |bytes| {
        let (path, body) = fuzz::body(&bytes);
        send(&server, path, &bounded(path, body).to_string());
    });
    server.chat(json!({"max_tokens": 1})).ok();
    assert_eq!(server.metric("omlx_request_errors_total", &["internal_error"]), 0.0);
}

#[test]
fn bodies_are_read_or_refused() {
    run(RUNS, vec(any::<u8>(), 0..64), |bytes| fuzz::request(&bytes));
    run(RUNS, r#"[{}\[\]:,"a0.e\\u -]{0,32}"#, |text| fuzz::request(text.as_bytes()));
}

#[test]
fn streams_are_read_back_as_they_were_meant() {
    run(RUNS, vec(any::<u8>(), 0..128), |bytes| fuzz::events(&bytes));
}

fn run<T: Debug>(cases: u32, inputs: impl Strategy<Value = T>, test: impl Fn(T)) {
    let config = Config { failure_persistence: None, ..Config::with_cases(cases) };
    let tried = TestRunner::new(config).run(&inputs, |input| {
        test(input);
        Ok(())
    });
    tried.unwrap_or_else(|error| panic!("{error}"));
}
