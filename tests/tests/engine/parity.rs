//! Greedy tokens equal mlx-lm's, for every golden.

use crate::common::{engine, greedy, load, tokens};
use omlx_tests::golden::{Golden, GreedyPath};

/// How far log probabilities may lie from the oracle's. They are a test of the logits' size, which
/// the tokens alone do not see.
const LOGPROB_TOLERANCE: f32 = 2e-3;

/// Runs all paths of the goldens whose names begin with `family`; there must be `at_least` so many.
async fn family(family: &str, at_least: usize) {
    let engine = engine();
    let mut wrong = Vec::new();
    for golden in goldens_of(family, at_least) {
        // On another backend only what float32 agrees with is the same to the last token.
        if cfg!(target_os = "macos") && !golden.agrees_in_float32 {
            continue;
        }
        let model = load(&engine, &golden.case).await;
        for path in &golden.paths {
            let mut request = greedy(&path.prompt, path.tokens.len());
            request.logprobs = Some(0);
            let sampled = tokens(&model, request).await;
            let ids: Vec<u32> = sampled.iter().map(|token| token.id).collect();
            if let Some(at) = first_difference(&ids, &path.tokens) {
                wrong.push(format!(
                    "{} ({} prompt tokens): differs at {at}: {:?} instead of {:?}",
                    golden.case.name,
                    path.prompt.len(),
                    ids.get(at),
                    path.tokens.get(at),
                ));
            } else if golden.case.name.ends_with("f32") {
                let got = sampled.iter().map(|t| t.logprobs.as_ref().expect("asked for").chosen);
                assert_close(got.zip(path.logprobs.iter().copied()), &golden.case.name);
            }
        }
    }
    assert!(wrong.is_empty(), "not mlx-lm's tokens:\n{}", wrong.join("\n"));
}

fn goldens_of(family: &str, at_least: usize) -> Vec<Golden> {
    let mut goldens = Golden::all();
    goldens.retain(|golden| golden.case.name.split('-').next() == Some(family));
    assert!(goldens.len() >= at_least, "{family} has {} goldens", goldens.len());
    goldens
}

fn first_difference(got: &[u32], wanted: &[u32]) -> Option<usize> {
    (0..got.len().max(wanted.len())).find(|&i| got.get(i) != wanted.get(i))
}

fn assert_close(pairs: impl Iterator<Item = (f32, f32)>, what: &str) {
    for (i, (got, wanted)) in pairs.enumerate() {
        assert!((got - wanted).abs() < LOGPROB_TOLERANCE, "{what}: {i}: {got}, not {wanted}");
    }
}

#[tokio::test]
async fn llama() {
    family("llama", 10).await;
}

#[tokio::test]
async fn mistral() {
    family("mistral", 10).await;
}

#[tokio::test]
async fn qwen2() {
    family("qwen2", 10).await;
}

#[tokio::test]
async fn qwen3() {
    family("qwen3", 10).await;
}

#[tokio::test]
async fn qwen3_5() {
    family("qwen3_5", 6).await;
}

#[tokio::test]
async fn qwen3_moe() {
    family("qwen3_moe", 6).await;
}

#[tokio::test]
async fn qwen3_5_moe() {
    family("qwen3_5_moe", 5).await;
}

#[tokio::test]
async fn gemma3() {
    family("gemma3", 2).await;
}

#[tokio::test]
async fn gemma3_text() {
    family("gemma3_text", 5).await;
}

#[test]
fn every_golden_belongs_to_a_family_that_is_tested() {
    const FAMILIES: [&str; 9] = [
        "gemma3",
        "gemma3_text",
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "qwen3_5",
        "qwen3_5_moe",
        "qwen3_moe",
    ];
    for golden in Golden::all() {
        let family = golden.case.name.split('-').next().unwrap_or_default();
        assert!(FAMILIES.contains(&family), "{}", golden.case.name);
    }
}

#[tokio::test]
async fn the_likeliest_tokens_and_their_log_probabilities_are_the_oracles() {
    let engine = engine();
    for name in ["llama-default-f32", "qwen2-default-f32", "qwen3-q8-g32-f32"] {
        let golden = Golden::named(name);
        let model = load(&engine, &golden.case).await;
        for path in &golden.paths {
            check_likeliest(name, &model, path).await;
        }
    }
}

async fn check_likeliest(name: &str, model: &engine::Model, path: &GreedyPath) {
    let positions = path.top_logprobs.len();
    let mut request = greedy(&path.prompt, positions);
    request.logprobs = Some(path.top_logprobs[0].len());
    for (sampled, wanted) in tokens(model, request).await.iter().zip(&path.top_logprobs) {
        let got = &sampled.logprobs.as_ref().expect("asked for").top;
        let pairs: Vec<_> = got.iter().map(|t| t.id).zip(wanted.iter().map(|w| w.0)).collect();
        assert!(pairs.iter().all(|(got, wanted)| got == wanted), "{name}: {pairs:?}");
        assert_close(got.iter().map(|t| t.logprob).zip(wanted.iter().map(|w| w.1)), name);
    }
}
