//! Models come and go: loaded for requests, unloaded for others, never under a request.

use std::collections::BTreeMap;
use std::time::Duration;

use omlx_tests::fixtures::{Case, Damage};
use omlxd::config::{Config, ModelSettings, Size};
use omlxd::registry::{KeepError, ModelEntry};
use serde_json::{Value, json};

use crate::support::{SMALL, Server, eventually};

const THREE: [&str; 3] = ["test/one", "test/two", "test/three"];

/// One of [`THREE`]: most of it weights, so that a budget that is a little short of one more still
/// holds thousands of tokens.
fn case() -> Case {
    Case::any()
        .with_config(json!({"intermediate_size": 8192, "max_position_embeddings": 1_000_000}))
}

/// A server whose budget holds so many of [`THREE`], which are of one size.
fn server(fits: u64, change: impl FnOnce(&mut Config)) -> Server {
    let dir = tempfile::tempdir().unwrap();
    case().write(dir.path()).unwrap();
    let facts = engine::inspect(dir.path(), engine::ComputeDtype::Auto).unwrap();
    let steps = Server::start().app.engine.memory().step_bytes;
    Server::with(|config| {
        for id in THREE {
            case().write(&config.base_dir.join("models").join(id)).unwrap();
        }
        config.cache.enabled = false;
        let models = facts.weight_bytes * fits + facts.weight_bytes * 3 / 4;
        config.memory.budget = Size::Bytes(steps + models);
        change(config);
    })
}

fn entry(server: &Server, id: &str) -> ModelEntry {
    server.app.registry.catalog().find(id).unwrap()
}

fn states(server: &Server) -> BTreeMap<&'static str, &'static str> {
    THREE.into_iter().map(|id| (id, server.app.registry.status(id).state)).collect()
}

#[test]
fn a_request_loads_its_model_and_the_least_recently_used_one_leaves() {
    let server = server(2, |_| {});
    for id in ["test/one", "test/two", "test/one", "test/three"] {
        server.chat(json!({"model": id, "max_tokens": 2})).ok();
    }
    let expected = [("test/one", "ready"), ("test/two", "unloaded"), ("test/three", "ready")];
    assert_eq!(states(&server), expected.into());
    assert_eq!(server.metric("omlx_model_state", &["test/two", "state=\"unloaded\""]), 1.0);
    assert_eq!(server.metric("omlx_model_info", &[]), 2.0, "only of those in memory");
    server.chat(json!({"model": "test/two", "max_tokens": 2})).ok();
    assert_eq!(states(&server)["test/one"], "unloaded");
}

#[test]
fn a_model_in_use_stays_and_who_wants_its_room_waits() {
    let server = server(1, |config| config.server.keepalive = Some(Duration::from_millis(50)));
    let running = server.endless(json!({"model": "test/one", "max_tokens": 1_000_000}));
    let second = std::thread::scope(|scope| {
        let second = scope.spawn(|| server.chat_stream(json!({"model": "test/two"})));
        eventually("somebody waits", || server.app.registry.status("test/two").waiting == 1);
        eventually("the first is loaded", || states(&server)["test/one"] == "ready");
        assert_eq!(server.metric("omlx_requests_waiting", &["test/two"]), 1.0);
        drop(running);
        second.join().unwrap()
    });
    assert!(second.len() > 2, "{second:?}");
    assert_eq!(
        states(&server),
        [(THREE[0], "unloaded"), (THREE[1], "ready"), (THREE[2], "unloaded")].into()
    );
}

#[test]
fn what_has_no_room_in_time_is_e28_and_what_never_fits_is_e29() {
    let one = server(1, |config| config.models.max_wait = Duration::from_millis(200));
    one.app.registry.pin("test/one", true);
    // On a busy machine a load takes longer than the wait, and goes on after it.
    let is_served = |model: &str| one.chat(json!({"model": model, "max_tokens": 1})).status == 200;
    eventually("test/one is loaded", || is_served("test/one"));
    let refused = one.chat(json!({"model": "test/two"}));
    let message = refused.is_error(503, Some("insufficient_memory"), Some("model"));
    assert!(message.contains("in use or pinned"), "{message}");
    assert!(refused.header("retry-after").is_some() && refused.header("x-should-retry").is_none());
    one.app.registry.pin("test/one", false);
    eventually("test/two is loaded", || is_served("test/two"));
    assert_eq!(one.metric("omlx_requests_rejected_total", &["test/two", "memory"]), 1.0);

    let none = server(0, |_| {});
    let refused = none.chat(json!({"model": "test/one"}));
    let message = refused.is_error(400, Some("model_too_large"), Some("model"));
    let error = &refused.json()["error"];
    let (needed, available) = (&error["needed_bytes"], &error["available_bytes"]);
    assert!(needed.as_u64() > available.as_u64(), "{error}");
    assert!(message.contains(&needed.to_string()), "{message}");
}

#[test]
fn settings_of_a_model_reach_its_requests() {
    let server = Server::with(|config| {
        let settings = ModelSettings {
            alias: vec!["agent".to_owned()],
            context_limit: Some(48),
            sampling: engine::SamplingDefaults { temperature: Some(0.0), ..Default::default() },
            ..ModelSettings::default()
        };
        config.per_model.insert(SMALL.to_owned(), settings);
    });
    let body = json!({"model": "agent", "temperature": null, "max_tokens": 8});
    let first = server.chat(body.clone()).ok();
    assert_eq!(first["model"], "agent", "the answer repeats the name asked for");
    let again = server.chat(body).ok();
    assert_eq!(first["choices"], again["choices"], "greedy by the model's settings");
    let listed = server.get("/v1/models").ok();
    let ids: Vec<&Value> = listed["data"].as_array().unwrap().iter().map(|m| &m["id"]).collect();
    assert!(ids.contains(&&json!("agent")) && ids.contains(&&json!(SMALL)), "{ids:?}");
    assert_eq!(server.get("/v1/models/agent").ok()["max_model_len"], 48);
    let long = "word ".repeat(60);
    let refused =
        server.chat(json!({"model": SMALL, "messages": [{"role": "user", "content": long}]}));
    refused.is_error(400, Some("context_length_exceeded"), Some("messages"));
}

#[test]
fn kv_is_kept_in_the_type_that_a_model_asks_for() {
    let bytes = |kv_dtype: engine::KvDtype, label: &str| {
        let server = Server::with(|config| {
            let settings = ModelSettings { kv_dtype, ..ModelSettings::default() };
            config.per_model.insert(SMALL.to_owned(), settings);
        });
        let prompt = json!({"max_tokens": 4, "temperature": 0, "messages": [
            {"role": "user", "content": "word ".repeat(30)}
        ]});
        let first = server.chat(prompt.clone()).ok();
        let again = server.chat(prompt).ok();
        assert_eq!(first["choices"], again["choices"], "reused KV answers as computed KV does");
        let label = format!("kv_dtype=\"{label}\"");
        assert_eq!(server.metric("omlx_model_info", &[SMALL, &label]), 1.0, "{label}");
        server.app.registry.loaded_model(SMALL).unwrap().kv_bytes(1024)
    };
    let whole = bytes(engine::KvDtype::Computed, "float32");
    assert_eq!(bytes(engine::KvDtype::Float16, "float16") * 2, whole);
    assert_eq!(bytes(engine::KvDtype::Bfloat16, "bfloat16") * 2, whole);
}

#[test]
fn an_idle_model_leaves_and_comes_back() {
    let server = server(3, |config| config.models.idle_ttl = Some(Duration::from_millis(300)));
    server.app.registry.pin("test/two", true);
    for id in ["test/one", "test/two"] {
        server.chat(json!({"model": id, "max_tokens": 1})).ok();
    }
    eventually("it leaves", || states(&server)["test/one"] == "unloaded");
    assert_eq!(states(&server)["test/two"], "ready", "it is pinned");
    server.chat(json!({"model": "test/one", "max_tokens": 1})).ok();
}

#[test]
fn a_model_that_failed_is_tried_again_when_its_files_change() {
    let server = server(2, |_| {});
    let broken = server.models().join("test/broken");
    Damage::TruncatedWeights.write(&broken).unwrap();
    for _ in 0..3 {
        server.chat(json!({"model": "test/broken"})).is_error(
            503,
            Some("model_load_failed"),
            Some("model"),
        );
    }
    assert_eq!(server.app.registry.status("test/broken").state, "failed");
    std::fs::remove_dir_all(&broken).unwrap();
    Case::any().write(&broken).unwrap();
    server.chat(json!({"model": "test/broken", "max_tokens": 1})).ok();
}

#[test]
fn a_removed_model_is_gone_and_one_in_use_is_not_removed() {
    let server = server(2, |_| {});
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let registry = &server.app.registry;
    let one = entry(&server, "test/one");
    let lease = runtime.block_on(registry.acquire(&one)).unwrap();
    let refused = runtime.block_on(registry.remove(&one)).unwrap_err();
    assert!(matches!(refused, KeepError::InUse { requests: 1, .. }), "{refused}");
    drop(lease);
    registry.pin("test/one", true);
    assert!(matches!(runtime.block_on(registry.remove(&one)), Err(KeepError::Pinned(_))));
    registry.pin("test/one", false);
    assert!(runtime.block_on(registry.remove(&one)).unwrap().bytes > 0);
    assert!(!one.dir.exists() && server.models().exists());
    server.chat(json!({"model": "test/one"})).is_error(404, Some("model_not_found"), Some("model"));
    let bundled = entry(&server, "omlx-tiny");
    assert!(matches!(runtime.block_on(registry.remove(&bundled)), Err(KeepError::Bundled(_))));
}
