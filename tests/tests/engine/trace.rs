//! A day of three agents in small: a common system prompt, tool results, turn by turn,
//! interleaved, with memory for one of them. Nearly all that could be reused has to be.

use std::sync::Arc;
use std::time::Duration;

use engine::{ComputeDtype, Engine, EngineConfig, Event, GenerateRequest, Model, ReuseConfig};
use kvstore::{Store, StoreConfig};
use omlx_tests::fixtures::{Case, FIRST_ORDINARY_TOKEN, VOCAB_TOKENS};
use serde_json::json;

use crate::common::{greedy, roomy};

const END_OF_MESSAGE: u32 = 3;
const SYSTEM_TOKENS: usize = 4000;
/// Turns in `make test`; the ignored tests, which `make soak` runs, have all of them.
const FEW_TURNS: u64 = 6;
const ALL_TURNS: u64 = 30;
const SESSIONS: u64 = 3;
const ANSWER_TOKENS: usize = 24;
const BLOCK_TOKENS: usize = 256;

/// Reused tokens over those that a cache without limits would reuse.
const REUSE_GOAL: f64 = 0.97;
/// Bytes written over the bytes of the distinct tokens' KV.
const WRITE_GOAL: f64 = 1.10;

/// Ordinary tokens, the same for the same seed, that end as a message does.
fn message(seed: u64, length: usize) -> Vec<u32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let ordinary = u64::from(VOCAB_TOKENS - FIRST_ORDINARY_TOKEN);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        FIRST_ORDINARY_TOKEN + ((state >> 20) % ordinary) as u32
    };
    (1..length).map(|_| next()).chain([END_OF_MESSAGE]).collect()
}

/// What a turn adds to a conversation before the model speaks: a question, or a tool's result.
fn turn_input(session: u64, turn: u64) -> Vec<u32> {
    let seed = 1000 * (session + 1) + turn;
    let length = 300 + (seed * 7919 % 350) as usize;
    message(seed, length)
}

/// Remembers every sequence ever computed, and so what a cache without limits would reuse.
#[derive(Default)]
struct Perfect {
    seen: Vec<Vec<u32>>,
    distinct_tokens: usize,
}

impl Perfect {
    fn reusable(&self, prompt: &[u32]) -> usize {
        self.common(prompt).min(prompt.len() - 1)
    }

    fn common(&self, tokens: &[u32]) -> usize {
        let common = |seen: &Vec<u32>| seen.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        self.seen.iter().map(common).max().unwrap_or(0)
    }

    fn computed(&mut self, tokens: Vec<u32>) {
        self.distinct_tokens += tokens.len() - self.common(&tokens);
        self.seen.retain(|seen| !tokens.starts_with(seen));
        self.seen.push(tokens);
    }
}

struct Daemon {
    engine: Engine,
    store: Arc<Store>,
    model: Model,
}

impl Daemon {
    async fn start(root: &std::path::Path, case: &Case, live_bytes: usize) -> Self {
        let mut config = StoreConfig::new(root.join("kv"), 4 << 30);
        config.min_free_bytes = 0;
        config.ram_budget_bytes = 0;
        let store = Arc::new(Store::open(config).expect("a store"));
        let reuse =
            ReuseConfig { store: Some(store.clone()), block_tokens: BLOCK_TOKENS, live_bytes };
        let compute_dtype = ComputeDtype::Stored;
        let config = EngineConfig { compute_dtype, reuse, ..EngineConfig::default() };
        let engine = Engine::start(config).expect("engine thread");
        let model = crate::common::load(&engine, case).await;
        Self { engine, store, model }
    }

    /// Stops as the daemon does; returns the bytes written, and how many states are stored.
    fn stop(self) -> (u64, usize) {
        drop(self.model);
        self.engine.stop();
        self.engine.join();
        assert!(self.store.flush(Duration::from_secs(60)), "the store settles");
        let stats = self.store.stats();
        let written = stats.namespaces.iter().map(|space| space.write_bytes.iter().sum::<u64>());
        let [_, on_disk] = stats.blocks;
        (written.sum(), on_disk[kvstore::Kind::Recurrent.index()] as usize)
    }
}

/// Answer tokens, and how many of the prompt's were reused.
async fn ask(model: &Model, prompt: &[u32]) -> (Vec<u32>, usize) {
    let request = GenerateRequest { ignore_eos: true, ..greedy(prompt, ANSWER_TOKENS) };
    let mut generation = model.generate(request).expect("accepted");
    let mut answer = Vec::new();
    loop {
        match generation.next().await.expect("an end") {
            Event::Delta(delta) => answer.extend(delta.tokens.iter().map(|token| token.id)),
            Event::Failed(error) => panic!("{error}"),
            Event::Done(_) => return (answer, generation.reuse().reused_tokens()),
        }
    }
}

/// Adds what was written; of the states, each is counted once, when the last daemon stops.
fn add(written: &mut u64, states: &mut usize, stopped: (u64, usize)) {
    *written += stopped.0;
    *states = stopped.1;
}

/// Runs the trace with a restart in the middle. `token_bytes` and `state_bytes` are those
/// of the model's caches.
async fn trace(case: Case, turns: u64, token_bytes: usize, state_bytes: usize) {
    let name = case.name.clone();
    let folder = tempfile::tempdir().expect("temporary folder");
    let session_tokens = SYSTEM_TOKENS + turns as usize * 530;
    let live_bytes = session_tokens * token_bytes + 6 * state_bytes;
    let mut daemon = Daemon::start(folder.path(), &case, live_bytes).await;
    let system = message(1, SYSTEM_TOKENS);
    let mut conversations = vec![system; SESSIONS as usize];
    let mut perfect = Perfect::default();
    let (mut reused, mut reusable, mut written, mut states) = (0, 0, 0, 0);
    for turn in 0..turns {
        if turn == turns / 2 {
            add(&mut written, &mut states, daemon.stop());
            daemon = Daemon::start(folder.path(), &case, live_bytes).await;
        }
        for (session, conversation) in conversations.iter_mut().enumerate() {
            conversation.extend(turn_input(session as u64, turn));
            let could = perfect.reusable(conversation);
            let (answer, did) = ask(&daemon.model, conversation).await;
            assert!(did <= could, "{name}: {did} tokens reused of {could} ever computed");
            (reused, reusable) = (reused + did, reusable + could);
            conversation.extend(&answer[..answer.len() - 1]);
            perfect.computed(conversation.clone());
            conversation.extend([answer[answer.len() - 1], END_OF_MESSAGE]);
        }
    }
    add(&mut written, &mut states, daemon.stop());
    let share = reused as f64 / reusable as f64;
    let unique = perfect.distinct_tokens * token_bytes + states * state_bytes;
    let factor = written as f64 / unique as f64;
    let figures = format!(
        "{name}: {reused} of {reusable} tokens reused ({:.2} %), {factor:.3}x written\n",
        share * 100.0
    );
    // Shown by --nocapture; a closed output changes nothing.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), figures.as_bytes());
    assert!(share >= REUSE_GOAL, "{name}: {share:.4} of what could be was reused");
    assert!(factor <= WRITE_GOAL, "{name}: {factor:.3} bytes written for each byte of KV");
}

/// 2 layers x (keys, values) x 2 heads x 32 numbers x 4 bytes.
const QWEN3_TOKEN_BYTES: usize = 2 * 2 * 2 * 32 * 4;

#[tokio::test]
async fn three_agents_on_qwen3() {
    trace(roomy("qwen3-default-f32"), FEW_TURNS, QWEN3_TOKEN_BYTES, 0).await;
}

#[tokio::test]
#[ignore = "minutes long: make soak"]
async fn three_agents_on_qwen3_all_turns() {
    trace(roomy("qwen3-default-f32"), ALL_TURNS, QWEN3_TOKEN_BYTES, 0).await;
}

/// A model whose state weighs as much, against the KV of a token, as that of Qwen3.6-35B-A3B: 63 MB
/// against 20 kB, or 3,100 tokens.
fn qwen3_5() -> (Case, usize, usize) {
    let mut case = roomy("qwen3_5-default-f32");
    let text = case.config.get_mut("text_config").expect("a nested config");
    for (key, value) in [
        ("linear_num_key_heads", 4),
        ("linear_num_value_heads", 24),
        ("linear_key_head_dim", 128),
        ("linear_value_head_dim", 128),
    ] {
        text[key] = json!(value);
    }
    // Two attention layers, and two of gated delta net, which keep 3 tokens before the convolution.
    let state = 24 * 128 * 128 + 3 * (2 * 4 * 128 + 24 * 128);
    (case, 2 * 2 * 2 * 32 * 4, 2 * state * 4)
}

#[tokio::test]
async fn three_agents_on_qwen3_5() {
    let (case, token_bytes, state_bytes) = qwen3_5();
    trace(case, FEW_TURNS, token_bytes, state_bytes).await;
}

#[tokio::test]
#[ignore = "minutes long: make soak"]
async fn three_agents_on_qwen3_5_all_turns() {
    let (case, token_bytes, state_bytes) = qwen3_5();
    trace(case, ALL_TURNS, token_bytes, state_bytes).await;
}
