use std::time::{Duration, Instant};

use omlx_tests::fixtures::Case;

use crate::batch::faults::{FAIL, PANIC};
use crate::engine::{ComputeDtype, Engine, EngineConfig};
use crate::error::GenerateError;
use crate::generation::{Event, GenerateRequest, Generation};
use crate::model::Model;
use crate::sampling::SamplingParams;

fn request(prompt: Vec<u32>, max_tokens: usize) -> GenerateRequest {
    let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    GenerateRequest { prompt, sampling, max_tokens, ignore_eos: true, ..GenerateRequest::default() }
}

/// The tokens of a generation, and its last event.
async fn run(mut generation: Generation) -> (Vec<u32>, Event) {
    let mut tokens = Vec::new();
    loop {
        match generation.next().await.expect("a last event") {
            Event::Delta(delta) => tokens.extend(delta.tokens.iter().map(|token| token.id)),
            last => return (tokens, last),
        }
    }
}

async fn start() -> (Engine, Model) {
    let compute_dtype = ComputeDtype::Stored;
    let engine = Engine::start(EngineConfig { compute_dtype, ..EngineConfig::default() }).unwrap();
    let dir = tempfile::tempdir().unwrap();
    Case::named("qwen3-default-f32").write(dir.path()).unwrap();
    let model = engine.load(dir.path(), "tiny").await.unwrap();
    (engine, model)
}

#[tokio::test]
async fn a_fault_in_one_request_ends_that_request_alone() {
    let (engine, model) = start().await;
    for fault in [PANIC, FAIL] {
        let prompts: Vec<Vec<u32>> =
            (0..5).map(|n| (0..20).map(|i| 10 + (i * 37 + n * 11) % 300).collect()).collect();
        let mut wanted = Vec::new();
        for prompt in &prompts {
            wanted.push(run(model.generate(request(prompt.clone(), 120)).unwrap()).await.0);
        }
        let running: Vec<Generation> = prompts
            .iter()
            .map(|prompt| model.generate(request(prompt.clone(), 120)).unwrap())
            .collect();
        let broken = model.generate(request(vec![10, fault, 11], 5)).unwrap();
        let (tokens, end) = run(broken).await;
        assert!(tokens.is_empty());
        match fault {
            PANIC => assert_eq!(end, Event::Failed(GenerateError::Internal)),
            _ => assert_eq!(end, Event::Failed(GenerateError::Mlx("a fault on demand".into()))),
        }
        for (generation, wanted) in running.into_iter().zip(&wanted) {
            let (tokens, end) = run(generation).await;
            assert!(matches!(end, Event::Done(_)), "{end:?}");
            assert_eq!(tokens, *wanted);
        }
    }
    let limit = Instant::now() + Duration::from_secs(5);
    while engine.progress().running > 0 {
        assert!(Instant::now() < limit, "a row is left");
        std::thread::yield_now();
    }
}
