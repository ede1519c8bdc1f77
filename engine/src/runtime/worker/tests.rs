use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use omlx_tests::fixtures::Case;

use crate::error::{GenerateError, SubmitError};
use crate::runtime::batch::faults::{FAIL, PANIC};
use crate::runtime::config::EngineConfig;
use crate::runtime::generation::{Event, GenerateRequest, Generation};
use crate::runtime::handle::Engine;
use crate::runtime::model::Model;
use crate::runtime::report::{Observer, StepReport};
use crate::runtime::sampling::{Sampler, SamplingParams, sample};
use crate::sched::{Decision, KvCost, Limits, Memory, SchedRequest, Scheduler, StepCost};
use crate::text::grammar::{Pattern, faults as masks};
use crate::types::ComputeDtype;

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

/// Panics at the second chunk of a prompt, outside guarded code.
#[derive(Default)]
struct Panics(AtomicUsize);

impl Observer for Panics {
    fn step(&self, _: &str, _: &StepReport) {}

    fn begins(&self, _: &str, _: usize, prompt_tokens: usize) {
        let chunks = self.0.fetch_add(usize::from(prompt_tokens > 0), Ordering::Relaxed);
        assert!(prompt_tokens == 0 || chunks == 0, "the observer fails");
    }
}

#[tokio::test]
async fn a_panic_of_the_thread_fails_all_requests_and_is_reported() {
    let observer = Arc::new(Panics::default());
    let config = EngineConfig { observer, max_batch: 2, ..EngineConfig::default() };
    let engine = Engine::start(config).unwrap();
    let dir = tempfile::tempdir().unwrap();
    Case::named("qwen3-default-f32").write(dir.path()).unwrap();
    let model = engine.load(dir.path(), "tiny").await.unwrap();
    assert!(!engine.progress().failed);
    // Two run, the first with more tokens than are read; one waits.
    let mut first = model.generate(request((10..15).collect(), 100)).unwrap();
    assert!(matches!(first.next().await, Some(Event::Delta(_))));
    let second = model.generate(request((10..17).collect(), 100)).unwrap();
    let third = model.generate(request((10..15).collect(), 100)).unwrap();
    for running in [first, second, third] {
        let (_, end) = run(running).await;
        let expected = [GenerateError::Internal, GenerateError::ShuttingDown].map(Event::Failed);
        assert!(expected.contains(&end), "{end:?}");
    }
    assert!(engine.failed().await.contains("the observer fails"));
    assert!(engine.progress().failed);
    // Requests, loads, unloads and the shutdown must not hang.
    let limit = Instant::now() + Duration::from_secs(20);
    while !matches!(model.generate(request(vec![10], 1)), Err(SubmitError::ShuttingDown)) {
        assert!(Instant::now() < limit, "requests are still taken");
        std::thread::yield_now();
    }
    assert!(engine.load(dir.path(), "again").await.is_err());
    model.unload().await;
    engine.join();
}

#[tokio::test]
async fn a_panic_in_a_grammar_ends_its_request_alone() {
    let (_engine, model) = start().await;
    let beside = request(vec![10, 47, 84], 60);
    let wanted = run(model.generate(beside.clone()).unwrap()).await.0;
    let broken = GenerateRequest {
        grammar: Some(model.compile(&Pattern::Regex("(?s:.*)".into())).unwrap()),
        sampling: SamplingParams {
            temperature: 0.0,
            logit_bias: vec![(masks::PANIC, 100.0)],
            ..SamplingParams::default()
        },
        ..request(vec![11, 12], 20)
    };
    let beside = model.generate(beside).unwrap();
    let (tokens, end) = run(model.generate(broken).unwrap()).await;
    assert_eq!(tokens, [masks::PANIC]);
    assert!(matches!(end, Event::Failed(GenerateError::Grammar(_))), "{end:?}");
    assert_eq!(run(beside).await.0, wanted);
}

#[tokio::test]
async fn a_slow_mask_stops_its_own_row_alone() {
    let (_engine, model) = start().await;
    let beside = request(vec![10, 47, 84], 150);
    let wanted = run(model.generate(beside.clone()).unwrap()).await.0;
    let slow = GenerateRequest {
        grammar: Some(model.compile(&Pattern::Regex("(?s:.*)".into())).unwrap()),
        sampling: SamplingParams {
            temperature: 0.0,
            logit_bias: vec![(masks::SLOW, 100.0)],
            presence_penalty: 2.0,
            ..SamplingParams::default()
        },
        ..request(vec![11, 12], 20)
    };
    let mut slow = model.generate(slow).unwrap();
    let Some(Event::Delta(first)) = slow.next().await else { panic!("a first token") };
    assert_eq!(first.tokens[0].id, masks::SLOW);
    // The other row ends while the mask is not ready.
    assert_eq!(run(model.generate(beside).unwrap()).await.0, wanted);
    *masks::GATE.0.lock().unwrap() = true;
    masks::GATE.1.notify_all();
    let (tokens, end) = run(slow).await;
    assert!(matches!(end, Event::Done(_)), "{end:?}");
    assert_eq!(tokens.len(), 19);
}

/// Measures the host's scheduling and sampling time per token when eight rows decode. No engine
/// computes anything: this times the scheduler's decision and building the sampling graph (not its
/// evaluation) over a vocabulary of 151,936.
#[test]
fn host_time_of_a_token_at_eight_rows() {
    const ROWS: usize = 8;
    const VOCAB: usize = 151_936;
    crate::mlx::bridge::init().unwrap();
    let limits = Limits { max_batch: ROWS, prefill_chunk: 256, decode_stall: None };
    let memory =
        Memory { budget_bytes: 1 << 40, ceiling_bytes: u64::MAX, used_bytes: 0, is_short: false };
    let mut scheduler = Scheduler::new(limits, memory);
    let cost = KvCost { token_bytes: 1024, ..KvCost::default() };
    for id in 0..ROWS as u64 {
        let (tenant, cost) = (id % 3, cost.clone());
        let (tokens, left) = (1000, 1 << 30);
        let sched_request =
            SchedRequest { tenant, model: 0, tokens, left, deadline: None, cost, solo: false };
        scheduler.arrive(id, sched_request);
    }
    let params = |row: usize| SamplingParams {
        temperature: [0.0, 0.7][row % 2],
        top_p: [1.0, 0.9][row / 2 % 2],
        top_k: [0, 20][row / 4],
        seed: Some(row as u64),
        ..SamplingParams::default()
    };
    let mut samplers: Vec<Sampler> = (0..ROWS)
        .map(|row| Sampler::new(params(row), None, 0, (&[1], &[2], VOCAB)).unwrap())
        .collect();
    let logits = mlx_rs::ops::zeros::<f32>(&[1, ROWS as i32, VOCAB as i32]).unwrap();
    logits.eval().unwrap();
    let (mut now, mut times) = (Duration::ZERO, Vec::new());
    let step = StepCost {
        decoding: ROWS,
        prompt_tokens: 0,
        depth: 0,
        duration: Duration::from_millis(10),
    };
    while times.len() < 500 {
        now += step.duration;
        let begin = Instant::now();
        let plan = match scheduler.next(now, &mut |_| true) {
            Decision::Admit(id) => {
                scheduler.started(id, 0);
                continue;
            }
            Decision::Step(plan) => plan,
            other => panic!("{other:?}"),
        };
        if let Some((id, tokens)) = plan.prefill {
            scheduler.computing(id, tokens);
            continue;
        }
        assert_eq!(plan.decode.len(), ROWS);
        plan.decode.iter().for_each(|&id| scheduler.computing(id, 1));
        let mut rows: Vec<&mut Sampler> = samplers.iter_mut().collect();
        drop(sample(&logits, &mut rows).unwrap());
        scheduler.observe(0, step);
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    let median = times[times.len() / 2] / ROWS as u32;
    assert!(median <= Duration::from_micros(50), "{median:?} of host time a token");
}
