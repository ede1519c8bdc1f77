//! What attackers send: hosts and origins that are none, bodies that would fill the memory, and requests
//! that are seen and can be ended while they are still being read.

use std::io::Write;
use std::time::{Duration, Instant};

use omlx_tests::fixtures::Damage;
use omlx_tests::http;
use omlxd::config::Size;
use serde_json::{Value, json};

use crate::support::{CHAT, KEY, LONG, Reply, SMALL, Server, chat_body, eventually};

#[test]
fn a_host_is_one_name_of_this_machine() {
    let server = Server::with(|config| {
        config.server.cors_origins = vec!["https://chat.example".to_owned()];
    });
    let get = |target: &str, headers: &[&str]| {
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let head = format!("GET {target} HTTP/1.1\r\n{headers}connection: close\r\n\r\n");
        server.raw(head.as_bytes())
    };
    for (target, headers) in [
        ("/healthz", &["host: localhost"][..]),
        ("/healthz", &["host: [::1]:80"]),
        ("http://localhost/healthz", &["host: localhost"]),
        ("/healthz", &["host: localhost", "origin: http://localhost"]),
        ("/healthz", &["host: localhost", "origin: https://chat.example"]),
    ] {
        assert_eq!(get(target, headers).status, 200, "{target} {headers:?}");
    }
    for (target, headers) in [
        ("/healthz", &[][..]),
        ("/healthz", &["host:"]),
        ("/healthz", &["host: localhost", "host: localhost"]),
        ("/healthz", &["host: localhost", "Host: evil.example"]),
        ("/healthz", &["host: user@localhost"]),
        ("/healthz", &["host: [::1].evil"]),
        ("/healthz", &["host: localhost."]),
        ("/healthz", &["host: localhost:99999"]),
        ("/healthz", &["host: localhost evil"]),
        ("http://evil.example/healthz", &["host: localhost"]),
        ("http://localhost/healthz", &["host: evil.example"]),
        ("/healthz", &["host: localhost", "origin: https://chat.example", "origin: null"]),
        ("/metrics", &["host: 127.0.0.1:80:80"]),
    ] {
        let reply = get(target, headers);
        reply.is_error(403, Some("insufficient_permissions"), None);
    }
    // What hyper itself takes for no request has no body.
    for bad in ["host: local\u{1}host", "host : localhost"] {
        assert_eq!(get("/healthz", &[bad]).status, 400, "{bad:?}");
    }
}

#[test]
fn a_listed_origin_may_send_what_it_asks_for() {
    let server = Server::with(|config| {
        config.server.cors_origins = vec!["https://chat.example".to_owned()];
    });
    let asks = |origin: &str, more: &[(&str, &str)]| {
        let mut headers = vec![("origin", origin), ("access-control-request-method", "POST")];
        headers.extend(more);
        Reply::read(http::request(server.address, "OPTIONS", CHAT, &headers, b"").unwrap())
    };
    for names in [
        "authorization,content-type,x-stainless-arch,x-stainless-retry-count",
        "anthropic-dangerous-direct-browser-access,anthropic-version,x-api-key",
        "x-whatever-comes-next",
    ] {
        let more = [
            ("access-control-request-headers", names),
            ("access-control-request-private-network", "true"),
        ];
        let reply = asks("https://chat.example", &more);
        assert_eq!(reply.status, 204);
        assert_eq!(reply.header("access-control-allow-headers"), Some(names));
        assert_eq!(reply.header("access-control-allow-origin"), Some("https://chat.example"));
        assert_eq!(reply.header("access-control-allow-private-network"), Some("true"));
        assert_eq!(reply.header("access-control-max-age"), Some("600"));
        assert!(reply.header("access-control-allow-methods").unwrap().contains("DELETE"));
        assert_eq!(asks("https://evil.example", &more).status, 403);
    }
    let headers = [("origin", "https://chat.example"), ("x-api-key", KEY)];
    let reply = http::request(server.address, "GET", "/v1/models", &headers, b"").unwrap();
    let exposed = reply.header("access-control-expose-headers").unwrap();
    for name in ["x-request-id", "request-id", "retry-after", "x-should-retry"] {
        assert!(exposed.split(", ").any(|exposed| exposed == name), "{name}");
    }
    assert_eq!(reply.header("access-control-allow-private-network"), None);
}

#[test]
fn a_model_that_cannot_be_loaded_leaves_the_daemon_ready() {
    let server = Server::start();
    Damage::TruncatedWeights.write(&server.models().join("test/broken")).unwrap();
    let reply = server.chat(json!({"model": "test/broken"}));
    reply.is_error(503, Some("model_load_failed"), Some("model"));
    let ready = server.get("/readyz").ok();
    assert_eq!(ready["status"], "ready");
    assert_eq!(ready["models"], json!({"ready": 0, "loading": 0, "failed": 1}));
    server.chat(json!({"max_tokens": 1})).ok();
}

/// A body whose parsing, rendering and tokenizing take a while.
fn long_body() -> String {
    let turn = json!({"role": "user", "content": "some words that say nothing ".repeat(4)});
    chat_body(json!({"model": LONG, "messages": vec![turn; 10_000]})).to_string()
}

#[test]
fn a_request_is_in_flight_while_it_is_read_and_ends_when_it_is_cancelled() {
    let server = Server::start();
    server.chat(json!({"model": LONG, "max_tokens": 1})).ok();
    let body = long_body();
    let reply = std::thread::scope(|scope| {
        let asking = scope.spawn(|| Reply::read(server.open("POST", CHAT, &body)));
        let mut seen = None;
        eventually("it is seen", || {
            seen = server.app.requests.list().into_iter().next();
            seen.is_some()
        });
        let seen = seen.unwrap();
        assert_eq!((seen.endpoint, seen.phase.as_str()), ("chat.completions", "prepare"));
        assert!(server.app.request_memory.held_bytes() as usize > body.len());
        assert!(server.app.requests.cancel(&seen.id));
        asking.join().unwrap()
    });
    reply.is_error(503, Some("request_cancelled"), None);
    eventually("all is given back", || server.app.request_memory.held_bytes() == 0);
    assert!(server.app.requests.list().is_empty());
}

#[test]
fn a_client_that_leaves_while_its_request_is_read_leaves_nothing() {
    let server = Server::start();
    let body = long_body();
    let mut stream = server.connect();
    let key = format!("Bearer {KEY}");
    let request = http::encode(
        server.address,
        "POST",
        CHAT,
        &[("authorization", key.as_str())],
        body.as_bytes(),
    );
    stream.write_all(&request).unwrap();
    eventually("it is seen", || !server.app.requests.list().is_empty());
    drop(stream);
    eventually("it is gone", || server.app.requests.list().is_empty());
    eventually("all is given back", || server.app.request_memory.held_bytes() == 0);
}

#[test]
fn many_large_bodies_wait_for_each_other_or_are_refused() {
    // Requests share 256 MiB at least, and this budget has no more for them.
    let server = Server::with(|config| config.memory.budget = Size::Bytes(1 << 30));
    let filler = "x".repeat(32 << 20);
    let body = json!({"model": SMALL, "unknown": filler, "messages": []}).to_string();
    let most = std::thread::scope(|scope| {
        let ask = || {
            let reply = Reply::read(server.open("POST", CHAT, &body));
            match reply.status {
                400 => drop(reply.is_error(400, Some("invalid_value"), Some("messages"))),
                _ => {
                    reply.is_error(503, Some("server_overloaded"), None);
                    assert!(reply.header("retry-after").is_some());
                }
            }
        };
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        let mut most = 0;
        while clients.iter().any(|client| !client.is_finished()) {
            most = most.max(server.app.request_memory.held_bytes());
            std::thread::sleep(Duration::from_millis(1));
        }
        most
    });
    assert!((32 << 20..=256 << 20).contains(&most), "{most}");
    assert_eq!(server.app.request_memory.held_bytes(), 0);
}

#[test]
fn names_that_do_not_exist_do_not_slow_down_the_others() {
    let server = Server::start();
    for name in 0..200 {
        Damage::NoWeights.write(&server.models().join(format!("org/model-{name}"))).unwrap();
    }
    server.chat(json!({"max_tokens": 1})).ok();
    std::thread::scope(|scope| {
        let wrong = || {
            for name in 0..20 {
                let reply = server.chat(json!({"model": format!("org/modle-{name}")}));
                let message = reply.is_error(404, Some("model_not_found"), Some("model"));
                assert!(message.contains("org/model-"), "{message}");
            }
        };
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(wrong)).collect();
        while clients.iter().any(|client| !client.is_finished()) {
            let began = Instant::now();
            server.get("/healthz").ok();
            assert!(began.elapsed() < Duration::from_secs(5));
        }
    });
}

#[test]
fn embeddings_say_whether_the_model_exists() {
    let server = Server::start();
    let ask = |model: &str| server.post("/v1/embeddings", &json!({"model": model, "input": "x"}));
    let message = ask(SMALL).is_error(400, Some("unsupported_value"), Some("model"));
    assert!(message.contains("does not serve embeddings"), "{message}");
    ask("no/such").is_error(404, Some("model_not_found"), Some("model"));
    let listed: Value = server.get("/v1/models").ok();
    assert!(!listed["data"].as_array().unwrap().is_empty());
}
