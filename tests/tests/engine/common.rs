//! Running fixture models on the engine.

use engine::{
    ComputeDtype, Engine, EngineConfig, Event, GenerateRequest, Generation, Model, SamplingParams,
    TokenOutput,
};
use omlx_tests::fixtures::Case;

/// An engine that computes in the stored dtype, as the oracle does.
pub(crate) fn engine() -> Engine {
    let config = EngineConfig { compute_dtype: ComputeDtype::Stored, ..EngineConfig::default() };
    Engine::start(config).expect("engine thread")
}

/// Loads a fixture model; its folder is gone afterwards, which the model must survive.
pub(crate) async fn load(engine: &Engine, case: &Case) -> Model {
    let dir = tempfile::tempdir().expect("temporary folder");
    case.write(dir.path()).expect("fixture");
    engine.load(dir.path(), &case.name).await.unwrap_or_else(|e| panic!("{}: {e}", case.name))
}

/// A fixture model with room for long prompts.
pub(crate) fn roomy(name: &str) -> Case {
    let mut case = Case::named(name);
    let context = serde_json::json!(65536);
    match case.config.get_mut("text_config") {
        Some(text) => text["max_position_embeddings"] = context,
        None => drop(case.config.insert("max_position_embeddings".into(), context)),
    }
    case
}

/// A greedy request that end-of-sequence tokens do not end.
pub(crate) fn greedy(prompt: &[u32], max_tokens: usize) -> GenerateRequest {
    GenerateRequest {
        prompt: prompt.to_vec(),
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        max_tokens,
        ignore_eos: true,
        ..GenerateRequest::default()
    }
}

/// Everything that a request samples.
///
/// # Panics
/// When it is refused or fails.
pub(crate) async fn tokens(model: &Model, request: GenerateRequest) -> Vec<TokenOutput> {
    let mut generation = model.generate(request).expect("accepted");
    let mut tokens = Vec::new();
    while let Some(event) = generation.next().await {
        match event {
            Event::Delta(delta) => tokens.extend(delta.tokens),
            Event::Done(outcome) => assert_eq!(outcome.usage.completion_tokens, tokens.len()),
            Event::Failed(error) => panic!("{error}"),
        }
    }
    tokens
}

/// The ids of what a request samples.
pub(crate) async fn ids(model: &Model, request: GenerateRequest) -> Vec<u32> {
    tokens(model, request).await.into_iter().map(|token| token.id).collect()
}

/// How a request ends that is let run.
pub(crate) async fn last_event(mut generation: Generation) -> Event {
    let mut last = None;
    while let Some(event) = generation.next().await {
        last = Some(event);
    }
    last.expect("a generation has a last event")
}
