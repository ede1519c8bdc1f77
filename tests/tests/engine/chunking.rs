//! Prefill in any chunking gives the tokens of one pass, which are the oracle's.

use crate::common::{greedy, ids, load};
use engine::{ComputeDtype, Engine, EngineConfig};
use futures_util::future::join_all;
use omlx_tests::golden::{Golden, GreedyPath};

/// A cache or mask that is wrong at a chunk's edge shows with one of these.
const CASES: [&str; 15] = [
    "llama-default-f32",
    "llama-sliding-f32",
    "llama-dynamic-f32",
    "llama-tied-llama3-bf16",
    "mistral-f16",
    "qwen2-yarn-f32",
    "qwen3-q4-g64-bf16",
    "qwen3_moe-default-f32",
    "qwen3_moe-q4-g64-bf16",
    "qwen3_5-default-f32",
    "qwen3_5-flat-tied-f32",
    "qwen3_5-published-bf16",
    "qwen3_5_moe-q4-g64-bf16",
    "gemma3_text-default-f32",
    "gemma3_text-long-f32",
];

async fn chunked(prefill_chunk: usize) {
    let compute_dtype = ComputeDtype::Stored;
    let config = EngineConfig { prefill_chunk, compute_dtype, ..EngineConfig::default() };
    let engine = Engine::start(config).expect("engine thread");
    for name in CASES {
        let golden = Golden::named(name);
        let model = load(&engine, &golden.case).await;
        let tokens = |path: &GreedyPath| ids(&model, greedy(&path.prompt, path.tokens.len()));
        let got = join_all(golden.paths.iter().map(tokens)).await;
        for (got, path) in got.iter().zip(&golden.paths) {
            assert_eq!(*got, path.tokens, "{name}, chunks of {prefill_chunk}");
        }
    }
}

#[tokio::test]
async fn chunks_of_1() {
    chunked(1).await;
}

#[tokio::test]
async fn chunks_of_2() {
    chunked(2).await;
}

#[tokio::test]
async fn chunks_of_3() {
    chunked(3).await;
}

#[tokio::test]
async fn chunks_of_7() {
    chunked(7).await;
}

#[tokio::test]
async fn chunks_of_64() {
    chunked(64).await;
}

#[tokio::test]
async fn chunks_of_256() {
    chunked(256).await;
}

#[tokio::test]
async fn one_chunk() {
    chunked(4096).await;
}
