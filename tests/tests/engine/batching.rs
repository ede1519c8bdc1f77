//! A row's tokens are the same alone and in any batch, whatever joins or leaves, and whatever has to
//! be put aside for lack of memory.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::{greedy, ids, last_event, load, roomy};
use engine::{
    ComputeDtype, Engine, EngineConfig, Event, GenerateError, GenerateRequest, MemorySensor, Model,
    Observer, Pressure, ReuseConfig, SamplingParams, StepReport, SubmitError,
};
use futures_util::future::join_all;

/// A small generator of its own, so that a seed means the same for ever.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// The largest batch that was seen, and how many prompt tokens went beside decoding rows.
#[derive(Default)]
struct Seen {
    rows: AtomicUsize,
    mixed: AtomicUsize,
}

impl Observer for Seen {
    fn step(&self, _model: &str, report: &StepReport) {
        self.rows.fetch_max(report.rows, Ordering::Relaxed);
        if report.rows > 1 {
            self.mixed.fetch_add(report.prompt_tokens, Ordering::Relaxed);
        }
    }
}

fn start(config: EngineConfig) -> Engine {
    let config = EngineConfig { compute_dtype: ComputeDtype::Stored, ..config };
    Engine::start(config).expect("engine thread")
}

/// Requests that differ in everything that a row has of its own.
fn requests(random: &mut Random, count: u64, vocab: u64) -> Vec<GenerateRequest> {
    let shared: Vec<u32> = (0..40).map(|_| random.below(vocab) as u32).collect();
    let request = |n: u64| {
        let own = 1 + random.below(if n.is_multiple_of(5) { 300 } else { 40 });
        let begins_alike = random.below(3) == 0;
        let mut prompt = if begins_alike { shared.clone() } else { Vec::new() };
        prompt.extend((0..own).map(|_| random.below(vocab) as u32));
        let sampled = SamplingParams {
            temperature: 0.8,
            top_k: [0, 20, 0][random.below(3) as usize],
            top_p: [1.0, 0.9][random.below(2) as usize],
            frequency_penalty: [0.0, 0.0, 0.3][random.below(3) as usize],
            seed: Some(n),
            ..SamplingParams::default()
        };
        let request = greedy(&prompt, 1 + random.below(60) as usize);
        match random.below(2) {
            0 => request,
            _ => GenerateRequest { sampling: sampled, ..request },
        }
    };
    (0..count).map(request).collect()
}

/// Each request's tokens, one request after the other.
async fn alone(model: &Model, requests: &[GenerateRequest]) -> Vec<Vec<u32>> {
    let mut all = Vec::new();
    for request in requests {
        all.push(ids(model, request.clone()).await);
    }
    all
}

/// Each request's tokens, all requests at once.
async fn together(model: &Model, requests: &[GenerateRequest]) -> Vec<Vec<u32>> {
    join_all(requests.iter().map(|request| ids(model, request.clone()))).await
}

/// Sends requests a few at a time and cancels some others meanwhile; each request's tokens.
async fn in_batches(
    model: &Model,
    requests: &[GenerateRequest],
    random: &mut Random,
) -> Vec<Vec<u32>> {
    let mut all = Vec::new();
    let mut rest = requests;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rest.len().min(3 + random.below(20) as usize));
        rest = later;
        // These leave in the middle of whatever they are at.
        let leavers: Vec<_> = (0..3)
            .map(|_| {
                let request = &requests[random.below(requests.len() as u64) as usize];
                (model.generate(request.clone()).unwrap(), random.below(12))
            })
            .collect();
        let leave = join_all(leavers.into_iter().map(async |(mut generation, events)| {
            for _ in 0..events {
                let _ = generation.next().await;
            }
        }));
        let stay = join_all(now.iter().map(|request| ids(model, request.clone())));
        all.extend(futures_util::future::join(stay, leave).await.0);
    }
    all
}

/// Waits until no request is left.
fn everything_is_freed(engine: &Engine) {
    let limit = Instant::now() + Duration::from_secs(10);
    let left = || {
        let progress = engine.progress();
        (progress.running, progress.waiting)
    };
    while left() != (0, 0) {
        assert!(Instant::now() < limit, "a row was not freed: {:?}", left());
        std::thread::yield_now();
    }
}

async fn tokens_do_not_depend_on_the_batch(name: &str) {
    let case = roomy(name);
    let quiet = EngineConfig { max_batch: 1, ..EngineConfig::default() };
    let engine = start(quiet);
    let model = load(&engine, &case).await;
    let mut random = Random(7);
    let requests = requests(&mut random, 30, model.info().vocab_tokens as u64);
    let wanted = alone(&model, &requests).await;
    drop(model);
    for (max_batch, prefill_chunk) in [(8, 64), (3, 32)] {
        let seen = Arc::new(Seen::default());
        let engine = start(EngineConfig {
            max_batch,
            prefill_chunk,
            observer: seen.clone(),
            reuse: ReuseConfig { live_bytes: 4 << 20, ..ReuseConfig::default() },
            ..EngineConfig::default()
        });
        let model = load(&engine, &case).await;
        let got = in_batches(&model, &requests, &mut random).await;
        for (n, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
            assert_eq!(got, wanted, "{name}, request {n}, {max_batch} rows");
        }
        let (rows, mixed) = (seen.rows.load(Ordering::Relaxed), seen.mixed.load(Ordering::Relaxed));
        assert!(rows == max_batch.min(rows) && rows > 1, "at most {rows} of {max_batch} rows");
        assert!(mixed > 0, "no prompt was computed beside other rows");
        everything_is_freed(&engine);
    }
}

#[tokio::test]
async fn llama_with_windows() {
    tokens_do_not_depend_on_the_batch("llama-sliding-f32").await;
}

#[tokio::test]
async fn qwen3() {
    tokens_do_not_depend_on_the_batch("qwen3-default-f32").await;
}

#[tokio::test]
async fn qwen3_moe() {
    tokens_do_not_depend_on_the_batch("qwen3_moe-default-f32").await;
}

#[tokio::test]
async fn qwen3_5() {
    tokens_do_not_depend_on_the_batch("qwen3_5-default-f32").await;
}

#[tokio::test]
async fn qwen3_5_moe() {
    tokens_do_not_depend_on_the_batch("qwen3_5_moe-published-f32").await;
}

#[tokio::test]
async fn gemma3() {
    tokens_do_not_depend_on_the_batch("gemma3_text-default-f32").await;
}

/// Two models at once: their rows never share a step, and both get on.
#[tokio::test]
async fn two_models_take_turns() {
    let engine = start(EngineConfig::default());
    let models = [
        load(&engine, &roomy("qwen3-default-f32")).await,
        load(&engine, &roomy("qwen3_5-default-f32")).await,
    ];
    let prompt: Vec<u32> = (0..200).map(|i| 10 + i * 37 % 350).collect();
    let request = greedy(&prompt, 50);
    let wanted = [ids(&models[0], request.clone()).await, ids(&models[1], request.clone()).await];
    assert_ne!(wanted[0], wanted[1]);
    let both = join_all((0..12).map(|n| ids(&models[n % 2], request.clone()))).await;
    for (n, got) in both.iter().enumerate() {
        assert_eq!(*got, wanted[n % 2], "request {n}");
    }
}

/// Memory for about three of eight requests at their full length: rows are put aside and resumed,
/// from the store or by computing again, and nobody notices.
#[tokio::test]
async fn a_row_that_is_put_aside_loses_nothing() {
    for (name, with_store) in
        [("qwen3-default-f32", true), ("qwen3_5-default-f32", true), ("qwen3-default-f32", false)]
    {
        let case = roomy(name);
        let engine = start(EngineConfig::default());
        let model = load(&engine, &case).await;
        let requests: Vec<GenerateRequest> = (0..8_u64)
            .map(|n| {
                let prompt: Vec<u32> =
                    (0..150).map(|i| 10 + (i * 31 + n as u32 * 7) % 350).collect();
                let sampling = SamplingParams { seed: Some(n), ..SamplingParams::default() };
                let request = greedy(&prompt, 600);
                if n.is_multiple_of(2) { request } else { GenerateRequest { sampling, ..request } }
            })
            .collect();
        let wanted = together(&model, &requests).await;
        // Beside the weights: what a step needs, and three long rows.
        let budget = model.info().weight_bytes + (32 << 20) + 3 * model.kv_bytes(750);
        drop(model);

        let dir = tempfile::tempdir().unwrap();
        let store = kvstore::StoreConfig {
            ram_budget_bytes: 0,
            ..kvstore::StoreConfig::new(dir.path().join("kv"), 1 << 30)
        };
        let store = with_store.then(|| Arc::new(kvstore::Store::open(store).unwrap()));
        let engine = start(EngineConfig {
            memory_budget: Some(budget),
            reuse: ReuseConfig { store, block_tokens: 64, live_bytes: 0 },
            ..EngineConfig::default()
        });
        let model = load(&engine, &case).await;
        let got = together(&model, &requests).await;
        for (n, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
            assert_eq!(got, wanted, "{name}, request {n}, store {with_store}");
        }
        let preemptions = engine.progress().preemptions;
        assert!(preemptions > 0, "{name}: the budget was never short");
        everything_is_freed(&engine);
        assert_eq!(engine.memory().running_bytes, 0, "{name}: memory is still reserved");
    }
}

/// A system that says what it is told to.
#[derive(Default)]
struct Told {
    pressure: Mutex<Pressure>,
    steps: Mutex<Vec<StepReport>>,
    wanted: AtomicU64,
}

impl Told {
    fn set(&self, pressure: Pressure) {
        *self.pressure.lock().unwrap() = pressure;
        // It is asked once a second.
        std::thread::sleep(Duration::from_millis(1300));
        self.steps.lock().unwrap().clear();
    }

    fn largest_chunk(&self) -> usize {
        let steps = self.steps.lock().unwrap();
        steps.iter().map(|step| step.prompt_tokens).max().expect("steps")
    }
}

impl MemorySensor for Told {
    fn pressure(&self) -> Pressure {
        *self.pressure.lock().unwrap()
    }
}

impl Observer for Told {
    fn step(&self, _model: &str, report: &StepReport) {
        self.steps.lock().unwrap().push(*report);
    }

    fn room_wanted(&self, bytes: u64) {
        self.wanted.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Short of memory, the system gets back what is kept for later, prompts are computed in smaller
/// pieces, idle models are asked for theirs; and it ends when the pressure does.
#[tokio::test]
async fn under_pressure_memory_is_given_back_and_answers_stay_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let store = kvstore::StoreConfig {
        ram_budget_bytes: 16 << 20,
        ..kvstore::StoreConfig::new(dir.path().join("kv"), 1 << 30)
    };
    let store = Arc::new(kvstore::Store::open(store).unwrap());
    let told = Arc::new(Told::default());
    let engine = start(EngineConfig {
        sensor: told.clone(),
        observer: told.clone(),
        memory_budget: Some(1 << 30),
        reuse: ReuseConfig {
            store: Some(Arc::clone(&store)),
            block_tokens: 64,
            live_bytes: 64 << 20,
        },
        ..EngineConfig::default()
    });
    let model = load(&engine, &roomy("qwen3-default-f32")).await;
    let prompt = |n: u32| -> Vec<u32> { (0..1500).map(|i| 10 + (i * 37 + n * 11) % 350).collect() };
    let before = ids(&model, greedy(&prompt(0), 20)).await;
    assert_eq!(told.largest_chunk(), 256);
    assert!(engine.live_sessions().1 > 0);

    told.set(Pressure::Warning);
    assert_eq!(store.ram_budget_bytes(), store.ram_used_bytes(), "the RAM tier does not grow");
    ids(&model, greedy(&prompt(1), 20)).await;
    assert_eq!(told.largest_chunk(), 64);

    told.set(Pressure::Critical);
    for _ in 0..40 {
        if engine.live_sessions().1 == 0 && store.ram_budget_bytes() == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    assert_eq!((engine.live_sessions().1, store.ram_budget_bytes()), (0, 0));
    std::thread::sleep(Duration::from_millis(2200));
    assert!(told.wanted.load(Ordering::Relaxed) > 0, "idle models were not asked");
    assert_eq!(ids(&model, greedy(&prompt(0), 20)).await, before);

    told.set(Pressure::Normal);
    std::thread::sleep(Duration::from_millis(1300));
    assert!(store.ram_budget_bytes() > 0, "the RAM tier may grow again");
    ids(&model, greedy(&prompt(2), 20)).await;
    assert_eq!(told.largest_chunk(), 256);
}

#[tokio::test]
async fn what_can_never_fit_is_refused_with_the_numbers() {
    let case = roomy("qwen3-default-f32");
    let engine = start(EngineConfig::default());
    let model = load(&engine, &case).await;
    let budget = model.info().weight_bytes + (32 << 20) + model.kv_bytes(512);
    let weight_bytes = model.info().weight_bytes;
    drop(model);
    let engine = start(EngineConfig { memory_budget: Some(budget), ..EngineConfig::default() });
    let model = load(&engine, &case).await;
    assert_eq!(model.context_tokens(), 512);
    let refused = model.generate(greedy(&vec![10; 600], 10)).unwrap_err();
    let wanted = SubmitError::ContextExceeded { prompt_tokens: 600, context_tokens: 512 };
    assert_eq!(refused, wanted);
    // An answer ends where the memory does.
    assert_eq!(ids(&model, greedy(&[10; 500], 100)).await.len(), 12);
    let engine =
        start(EngineConfig { memory_budget: Some(weight_bytes / 2), ..EngineConfig::default() });
    let dir = tempfile::tempdir().unwrap();
    case.write(dir.path()).unwrap();
    let refused = engine.load(dir.path(), "large").await.unwrap_err();
    assert!(refused.to_string().contains("the memory budget is"), "{refused}");
}

#[tokio::test]
async fn a_deadline_ends_a_request_that_runs_and_one_that_waits() {
    let engine = start(EngineConfig { max_batch: 1, ..EngineConfig::default() });
    let model = load(&engine, &roomy("qwen3-default-f32")).await;
    let soon = Some(Instant::now() + Duration::from_millis(300));
    let endless = GenerateRequest { deadline: soon, ..greedy(&[10, 11], 1000) };
    let running = model.generate(endless.clone()).unwrap();
    let waiting = model.generate(endless).unwrap();
    let (first, second) =
        futures_util::future::join(last_event(running), last_event(waiting)).await;
    // The one that runs may be faster than its deadline.
    assert!(matches!(first, Event::Failed(GenerateError::Deadline) | Event::Done(_)), "{first:?}");
    assert!(
        matches!(second, Event::Failed(GenerateError::Deadline) | Event::Done(_)),
        "{second:?}"
    );
    let late = GenerateRequest { deadline: Some(Instant::now()), ..greedy(&[10, 11], 5) };
    let late = last_event(model.generate(late).unwrap()).await;
    assert_eq!(late, Event::Failed(GenerateError::Deadline));
    // What comes afterwards is served.
    assert_eq!(ids(&model, greedy(&[10, 11], 5)).await.len(), 5);
}

/// Several choices of one prompt compute it once.
#[tokio::test]
async fn requests_that_begin_alike_compute_the_beginning_once() {
    for name in ["qwen3-default-f32", "qwen3_5-default-f32"] {
        struct Prompts(AtomicUsize);
        impl Observer for Prompts {
            fn step(&self, _model: &str, report: &StepReport) {
                self.0.fetch_add(report.prompt_tokens, Ordering::Relaxed);
            }
        }
        let prompts = Arc::new(Prompts(AtomicUsize::new(0)));
        let engine = start(EngineConfig { observer: prompts.clone(), ..EngineConfig::default() });
        let model = load(&engine, &roomy(name)).await;
        let prompt: Vec<u32> = (0..900).map(|i| 10 + i * 37 % 350).collect();
        let choices = join_all((0..6).map(|_| ids(&model, greedy(&prompt, 20)))).await;
        assert!(choices.iter().all(|choice| *choice == choices[0]), "{name}");
        let computed = prompts.0.load(Ordering::Relaxed);
        assert!(computed <= 900 + 6 * 2, "{name}: {computed} prompt tokens");
    }
}

#[tokio::test]
async fn requests_that_come_together_are_refused_only_when_every_place_is_taken() {
    // Nobody reads, so that none of them ends.
    let slow_reader = Duration::from_secs(3600);
    let engine =
        start(EngineConfig { max_batch: 2, max_queue: 1, slow_reader, ..EngineConfig::default() });
    let model = load(&engine, &roomy("qwen3-default-f32")).await;
    let ask = || model.generate(greedy(&[70, 71, 72], 10_000));
    let mut held: Vec<_> = (0..3).map(|_| ask().expect("a place")).collect();
    let refused = ask().expect_err("one too many");
    assert!(matches!(refused, SubmitError::QueueFull { waiting: 1 }), "{refused}");
    held.pop();
    let deadline = Instant::now() + Duration::from_secs(60);
    while ask().is_err() {
        assert!(Instant::now() < deadline, "the place of one that left stays taken");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whoever reads the end of an answer may ask again at once.
#[tokio::test]
async fn an_answer_that_ended_has_no_place() {
    let engine = start(EngineConfig { max_batch: 1, max_queue: 0, ..EngineConfig::default() });
    let model = load(&engine, &roomy("qwen3-default-f32")).await;
    for _ in 0..50 {
        assert_eq!(ids(&model, greedy(&[70, 71, 72], 2)).await.len(), 2);
    }
}
