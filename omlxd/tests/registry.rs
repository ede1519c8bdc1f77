//! The registry under everything that can happen at once. A process of its own: MLX's memory is the
//! process's.

#[path = "http/schemas.rs"]
#[allow(dead_code)]
mod schemas;
#[path = "http/support.rs"]
#[allow(dead_code)]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use omlx_tests::fixtures::Case;
use omlxd::config::Size;
use omlxd::registry::{AcquireError, ModelEntry};
use serde_json::json;

use support::{Server, chat_body, eventually};

const THREE: [&str; 3] = ["test/one", "test/two", "test/three"];

/// One of [`THREE`]: most of it weights, so that the budget holds the KV of every request as well.
fn case() -> Case {
    Case::any().with_config(json!({"intermediate_size": 4096}))
}

/// A server whose budget holds two of [`THREE`].
fn server() -> Server {
    let dir = tempfile::tempdir().unwrap();
    case().write(dir.path()).unwrap();
    let facts = engine::inspect(dir.path(), engine::ComputeDtype::Auto).unwrap();
    let steps = Server::start().app.engine.memory().step_bytes;
    Server::with(|config| {
        for id in THREE {
            case().write(&config.base_dir.join("models").join(id)).unwrap();
        }
        config.cache.enabled = false;
        config.memory.budget = Size::Bytes(steps + facts.weight_bytes * 5 / 2);
    })
}

fn entry(server: &Server, id: &str) -> ModelEntry {
    server.app.registry.catalog().find(id).unwrap()
}

/// Three models on a budget for two, and everything that can happen to them at once: nothing is
/// stuck, nothing is unloaded under a request, and all memory comes back.
#[test]
fn five_hundred_random_operations_leave_nothing_behind() {
    const WORKERS: u64 = 6;
    const OPERATIONS: u64 = 500;
    let server = server();
    let registry = server.app.registry.clone();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.unwrap();
    // MLX keeps a few arrays of its own from its first use on.
    let warm = entry(&server, THREE[0]);
    drop(runtime.block_on(registry.acquire(&warm)).unwrap());
    runtime.block_on(registry.unload(THREE[0])).unwrap();
    let baseline = server.app.engine.memory().active_bytes;
    let answered = Arc::new(AtomicUsize::new(0));
    let weights = registry.catalog().facts(&warm).unwrap().weight_bytes;

    let work = |seed: u64| {
        let (server, registry, runtime) = (&server, registry.clone(), runtime.handle().clone());
        let answered = Arc::clone(&answered);
        move || {
            let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut next = |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            for _ in 0..OPERATIONS / WORKERS {
                let id = THREE[next(3) as usize];
                match next(10) {
                    0..=4 => {
                        let body =
                            json!({"model": id, "max_tokens": 1 + next(6), "ignore_eos": true});
                        let reply = server.chat(body);
                        // A model may be gone for the moment that it is removed and written again.
                        if reply.status != 404 {
                            assert_eq!(reply.status, 200, "{}", reply.text);
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    5 => {
                        // Closed in the middle.
                        let mut body = chat_body(json!({"model": id, "stream": true}));
                        body["max_tokens"] = json!(100);
                        let text = body.to_string();
                        drop(server.open("POST", "/v1/chat/completions", &text));
                    }
                    6 => {
                        let Some(entry) = registry.catalog().find(id) else { continue };
                        match runtime.block_on(registry.acquire(&entry)) {
                            Ok(lease) => {
                                assert_eq!(registry.status(id).state, "ready");
                                assert!(registry.loaded_model(id).is_some());
                                drop(lease);
                            }
                            Err(AcquireError::Gone | AcquireError::Failed(_)) => {}
                            Err(other) => panic!("{other}"),
                        }
                    }
                    7 => drop(runtime.block_on(registry.unload(id))),
                    8 => {
                        registry.pin(id, true);
                        registry.pin(id, false);
                    }
                    _ => {
                        let Some(entry) = registry.catalog().find(id) else { continue };
                        if runtime.block_on(registry.remove(&entry)).is_ok() {
                            let new = entry.dir.with_extension("new");
                            case().write(&new).unwrap();
                            let _ = std::fs::create_dir_all(entry.dir.parent().unwrap());
                            let _ = std::fs::rename(&new, &entry.dir);
                        }
                    }
                }
                let room = registry.room();
                assert!(room.used_bytes <= room.budget_bytes, "{room:?}");
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (1..=WORKERS).map(|seed| scope.spawn(work(seed))).collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
    assert!(answered.load(Ordering::Relaxed) > 100);

    eventually("every lease is back", || {
        THREE.iter().all(|id| registry.status(id).leases + registry.status(id).waiting == 0)
    });
    let loaded = registry.loaded().len() as u64;
    // The engine gives a row's memory back just behind its answer.
    eventually("the counters tell the truth", || registry.room().used_bytes == loaded * weights);
    registry.make_room(u64::MAX);
    eventually("all models leave", || registry.room().used_bytes == 0);
    eventually("memory is back at the baseline", || {
        server.app.engine.memory().active_bytes == baseline
    });
    let text = server.get("/metrics").text;
    assert_eq!(support::sum(&text, "omlx_model_state", &["state=\"ready\""]), 0.0);
    assert_eq!(support::sum(&text, "omlx_requests_running", &[]), 0.0);
}
