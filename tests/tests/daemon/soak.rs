//! Everything at once for a while: conversations that grow, streams that are left, choices, bad
//! requests and prompts that are too long, on two models and a cache that is always full. Nothing
//! fails but what is meant to, every row is freed, and memory does not grow.
//!
//! `OMLX_SOAK_SECS` says how long; `make soak` takes twenty minutes.

use std::fs;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use omlx_tests::fixtures::Case;
use serde_json::{Value, json};

use crate::world::{MODEL, World};

const HYBRID: &str = "omlx/hybrid";
const CLIENTS: u64 = 12;
const DEFAULT_SECS: u64 = 60;
/// What memory may grow by after the first part of the run. A short one on a busy machine has not
/// seen everything by then: each thread's heap is as large as its largest request so far.
const MAX_DRIFT_BYTES: u64 = 20 << 20;
const MAX_DRIFT_BYTES_SHORT: u64 = 80 << 20;
const SHORT_SECS: u64 = 300;

/// Small enough that everything is full soon.
const CONFIG: &str = "[cache]\nram_budget = \"8MiB\"\nlive_budget = \"16MiB\"\n\
    ssd_quota = \"64MiB\"\nssd_min_free = \"1MiB\"\n\n[scheduler]\nprefill_chunk = 128\n";

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn words(&mut self, count: u64) -> String {
        const WORDS: [&str; 8] =
            ["river ", "of ", "stone ", "the ", "matrix ", "runs ", "under ", "light "];
        (0..count).map(|_| WORDS[self.below(8) as usize]).collect()
    }
}

/// One client: a conversation that grows, is resent and at times starts anew.
struct Client<'a> {
    world: &'a World,
    random: Random,
    model: &'static str,
    messages: Vec<Value>,
    answers: &'a AtomicUsize,
}

impl Client<'_> {
    fn run(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            match self.random.below(20) {
                0 => self.bad_request(),
                1 => self.too_long(),
                2..=4 => self.leave_early(),
                5 => self.choices(),
                _ => self.turn(),
            }
        }
    }

    fn post(&self, body: &Value) -> omlx_tests::http::Response {
        let body = body.to_string();
        self.world.daemon.request("POST", "/v1/chat/completions", &body).expect("an answer")
    }

    fn body(&mut self, max_tokens: u64) -> Value {
        let temperature = [0.0, 0.7, 1.0][self.random.below(3) as usize];
        json!({
            "model": self.model,
            "messages": self.messages,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "ignore_eos": true,
        })
    }

    fn turn(&mut self) {
        if self.messages.len() > 12 {
            self.messages.clear();
        }
        let words = if self.random.below(8) == 0 { 600 } else { 40 };
        let words = 1 + self.random.below(words);
        let content = self.random.words(words);
        self.messages.push(json!({"role": "user", "content": content}));
        let most = 1 + self.random.below(60);
        let body = self.body(most);
        let answer = self.post(&body);
        assert_eq!(answer.status, 200);
        let answer: Value = serde_json::from_str(&answer.text().expect("a body")).expect("JSON");
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "length", "{answer}");
        let text = choice["message"]["content"].as_str().expect("a text").to_owned();
        self.messages.push(json!({"role": "assistant", "content": text}));
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    fn leave_early(&mut self) {
        let mut body = self.body(2000);
        if self.messages.is_empty() {
            body["messages"] = json!([{"role": "user", "content": "Go on"}]);
        }
        body["stream"] = json!(true);
        let mut answer = self.post(&body);
        assert_eq!(answer.status, 200);
        for _ in 0..self.random.below(12) {
            if answer.body.read_chunk().expect("a stream").is_none() {
                break;
            }
        }
    }

    fn choices(&mut self) {
        let mut body = self.body(10);
        body["messages"] = json!([{"role": "user", "content": self.random.words(30)}]);
        body["n"] = json!(3);
        let answer = self.post(&body);
        assert_eq!(answer.status, 200);
        let answer: Value = serde_json::from_str(&answer.text().expect("a body")).expect("JSON");
        assert_eq!(answer["choices"].as_array().map(Vec::len), Some(3), "{answer}");
    }

    fn bad_request(&mut self) {
        let mut body = self.body(10);
        body["messages"] = json!([]);
        assert_eq!(self.post(&body).status, 400);
    }

    fn too_long(&mut self) {
        let mut body = self.body(10);
        body["messages"] = json!([{"role": "user", "content": self.random.words(20_000)}]);
        assert_eq!(self.post(&body).status, 400);
    }
}

/// Memory of a process that no file stands behind.
fn anonymous_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "reads /proc")]
fn everything_at_once() {
    let secs = std::env::var("OMLX_SOAK_SECS").ok();
    let secs = secs.map_or(DEFAULT_SECS, |secs| secs.parse().expect("seconds"));
    let world = World::with(|dir| {
        let mut hybrid = Case::named("qwen3_5-default-f32");
        hybrid.config["text_config"]["max_position_embeddings"] = json!(16384);
        hybrid.write(&dir.join("models").join(HYBRID))?;
        fs::write(dir.join("config.toml"), CONFIG)
    });
    let (stop, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    let begin = Instant::now();
    let mut memory: Vec<u64> = Vec::new();
    std::thread::scope(|scope| {
        for n in 0..CLIENTS {
            let mut client = Client {
                world: &world,
                random: Random(n),
                model: if n.is_multiple_of(3) { HYBRID } else { MODEL },
                messages: Vec::new(),
                answers: &answers,
            };
            let stop = &stop;
            scope.spawn(move || {
                // Or the others would go on for ever.
                let end = StopOnDrop(stop);
                client.run(stop);
                std::mem::forget(end);
            });
        }
        while begin.elapsed() < Duration::from_secs(secs) && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(200));
            memory.push(anonymous_bytes(world.daemon.pid()));
        }
        stop.store(true, Ordering::Relaxed);
    });
    world.wait_for_metric("omlx_requests_running", "", 0.0);
    world.wait_for_metric("omlx_requests_waiting", "", 0.0);
    let metric = |name: &str, label: &str| world.daemon.metric(name, &[label]).expect("a metric");
    assert_eq!(metric("omlx_requests_total", "\"error\""), 0.0);
    let answers = answers.into_inner();
    assert!(answers > 20, "only {answers} answers");
    world.assert_still_works();

    let threads =
        fs::read_dir(format!("/proc/{}/task", world.daemon.pid())).expect("tasks").count();
    assert!(threads < 64, "{threads} threads");
    let fifth = memory.len() / 5;
    let (early, late) = (median(&memory[2 * fifth..3 * fifth]), median(&memory[4 * fifth..]));
    let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    let told =
        format!("{answers} answers in {secs} s; {:.1} MiB, then {:.1} MiB", mib(early), mib(late));
    let _ = writeln!(std::io::stdout(), "{told}");
    let most = if secs < SHORT_SECS { MAX_DRIFT_BYTES_SHORT } else { MAX_DRIFT_BYTES };
    assert!(late <= early + most, "from {early} to {late} bytes");
}

/// Tells the others when a client has failed.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
