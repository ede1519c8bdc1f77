//! Answers keep to their grammars: every schema of the corpus, alone and beside rows without one.

use std::sync::Mutex;
use std::time::Duration;

use engine::{
    Engine, EngineConfig, Event, FinishReason, GenerateRequest, Model, Observer, Pattern,
    SamplingParams, StepReport,
};
use futures_util::future::join_all;
use serde_json::Value;

use crate::common::{engine, greedy, ids, load, roomy};

/// Requests at once.
const AT_ONCE: usize = 32;
const MODEL: &str = "llama-default-f32";

fn corpus() -> Vec<Value> {
    let text = include_str!("../../schemas/corpus.jsonl");
    let line = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["schema"].take();
    text.lines().map(line).collect()
}

/// The text of an answer, and how it ended.
async fn answer(model: &Model, request: GenerateRequest) -> (String, Result<FinishReason, String>) {
    let mut generation = model.generate(request).expect("accepted");
    let mut text = String::new();
    loop {
        match generation.next().await.expect("a last event") {
            Event::Delta(delta) => text.push_str(&delta.text),
            Event::Done(outcome) => return (text, Ok(outcome.finish)),
            Event::Failed(error) => return (text, Err(error.to_string())),
        }
    }
}

/// The model is random, and would write strings and lists for ever: what closes them is made likely.
/// Exponents are made unlikely: 2E510 is a number of JSON, and none that `serde_json` reads.
fn sampling(model: &Model, seed: u64, temperature: f32) -> SamplingParams {
    let one = |text: &str| model.tokenizer().encode(text, false).expect("tokens")[0];
    let logit_bias = [
        ("\"", 6.0),
        ("}", 6.0),
        ("]", 6.0),
        (",", 1.0),
        (" ", -4.0),
        ("\n", -4.0),
        ("e", -100.0),
        ("E", -100.0),
    ];
    SamplingParams {
        temperature,
        logit_bias: logit_bias.map(|(text, bias)| (one(text), bias)).to_vec(),
        frequency_penalty: 0.3,
        seed: Some(seed),
        ..SamplingParams::default()
    }
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "the figures are for who runs it")]
async fn every_answer_validates_against_its_schema() {
    let engine = engine();
    let model = load(&engine, &roomy(MODEL)).await;
    let corpus = corpus();
    assert!(corpus.len() >= 300);
    let mut complete = 0;
    for (temperature, base) in [(0.0, 0), (1.0, 10_000)] {
        for (chunk, schemas) in corpus.chunks(AT_ONCE).enumerate() {
            let answers = join_all(schemas.iter().enumerate().map(|(n, schema)| {
                let seed = base + (chunk * AT_ONCE + n) as u64;
                let pattern = Pattern::Json { schema: schema.clone(), exactly: true };
                let grammar = model.compile(&pattern).unwrap_or_else(|e| panic!("{e}: {schema}"));
                let request = GenerateRequest {
                    prompt: vec![10 + seed as u32 % 300, 20],
                    sampling: sampling(&model, seed, temperature),
                    max_tokens: 400,
                    grammar: Some(grammar),
                    ..GenerateRequest::default()
                };
                answer(&model, request)
            }));
            for (schema, (text, finish)) in schemas.iter().zip(answers.await) {
                match finish {
                    Ok(FinishReason::Length) => continue,
                    Ok(FinishReason::Stop) => complete += 1,
                    Err(error) => panic!("{error}: {text:?} for {schema}"),
                }
                let value: Value = serde_json::from_str(&text)
                    .unwrap_or_else(|e| panic!("{e}: {text:?} for {schema}"));
                let validator = jsonschema::validator_for(schema).expect("a schema");
                if let Err(error) = validator.validate(&value) {
                    panic!("{error}: {text} for {schema}");
                }
            }
        }
    }
    eprintln!("{complete} of {} answers ended, and all of them validate", 2 * corpus.len());
    assert!(complete * 10 >= 2 * corpus.len() * 9, "{complete} answers ended");
}

#[tokio::test]
async fn a_row_with_a_grammar_says_the_same_alone_and_beside_others() {
    let engine = engine();
    let model = load(&engine, &roomy(MODEL)).await;
    let grammar = model.compile(&Pattern::Regex("[a-z ]{30,60}\\.".into())).expect("compiles");
    let constrained = |n: u64| GenerateRequest {
        prompt: vec![11 + n as u32, 12, 13],
        sampling: SamplingParams { seed: Some(n), ..SamplingParams::default() },
        max_tokens: 100,
        grammar: Some(grammar.clone()),
        logprobs: n.is_multiple_of(2).then_some(2),
        ..GenerateRequest::default()
    };
    let free = |n: u32| greedy(&[20 + n, 9, 30], 50);
    let requests: Vec<GenerateRequest> =
        (0..12).flat_map(|n| [constrained(n), free(n as u32)]).collect();
    let mut alone = Vec::new();
    for request in &requests {
        alone.push(ids(&model, request.clone()).await);
    }
    let together = join_all(requests.iter().map(|request| ids(&model, request.clone()))).await;
    assert_eq!(alone, together);
    let text = model.tokenizer().decode(&alone[0], true);
    assert!(text.ends_with('.') && text.len() >= 31, "{text:?}");
}

#[tokio::test]
async fn probabilities_are_those_of_the_model_without_the_grammar() {
    let engine = engine();
    let model = load(&engine, &roomy(MODEL)).await;
    let request = GenerateRequest { logprobs: Some(20), ..greedy(&[11, 12, 13], 1) };
    let grammar = model.compile(&Pattern::Choice(vec!["q".into()])).expect("compiles");
    let constrained = GenerateRequest { grammar: Some(grammar), ..request.clone() };
    let free = crate::common::tokens(&model, request).await;
    let held = crate::common::tokens(&model, constrained).await;
    let top = |tokens: &[engine::TokenOutput]| tokens[0].logprobs.as_ref().map(|l| l.top.clone());
    assert_eq!(top(&free), top(&held));
    assert_eq!(model.tokenizer().decode(&[held[0].id], true), "q");
}

#[tokio::test]
async fn an_answer_ends_with_its_grammar_whatever_else_is_asked() {
    let engine = engine();
    let model = load(&engine, &roomy(MODEL)).await;
    let grammar = model.compile(&Pattern::Choice(vec!["yes".into()])).expect("compiles");
    let request = GenerateRequest {
        prompt: vec![11, 12],
        grammar: Some(grammar.clone()),
        max_tokens: 50,
        min_tokens: 20,
        ignore_eos: true,
        ..GenerateRequest::default()
    };
    assert_eq!(answer(&model, request.clone()).await, ("yes".into(), Ok(FinishReason::Stop)));
    let short = GenerateRequest { max_tokens: 1, ..request };
    assert_eq!(answer(&model, short).await.1, Ok(FinishReason::Length));
}

/// Mask times, as the engine tells them.
#[derive(Default)]
struct Masks(Mutex<Vec<(String, Duration)>>);

impl Observer for Masks {
    fn step(&self, _: &str, _: &StepReport) {}

    fn masked(&self, model: &str, took: Duration) {
        self.0.lock().expect("lock").push((model.to_owned(), took));
    }
}

#[tokio::test]
async fn the_time_of_each_mask_is_told() {
    let masks = std::sync::Arc::new(Masks::default());
    let config = EngineConfig { observer: masks.clone(), ..EngineConfig::default() };
    let engine = Engine::start(config).expect("engine thread");
    let model = load(&engine, &roomy(MODEL)).await;
    let grammar = model.compile(&Pattern::Regex("[a-z]{5}".into())).expect("compiles");
    let request = GenerateRequest { grammar: Some(grammar), ..greedy(&[11], 20) };
    let tokens = ids(&model, request).await;
    let masks = masks.0.lock().expect("lock");
    assert_eq!(masks.len(), tokens.len());
    assert!(masks.iter().all(|(name, _)| name == MODEL));
}

#[tokio::test]
async fn a_grammar_that_grows_too_complex_ends_its_request_alone() {
    let engine = engine();
    let model = load(&engine, &roomy(MODEL)).await;
    // Every "a" may stand for any of many rules: the parser's sets grow past their limit.
    let rules: String = (0..1500).map(|n| format!("r{n}: \"a\" r{n} | \"a\"\n")).collect();
    let names: Vec<String> = (0..1500).map(|n| format!("r{n}")).collect();
    let lark = format!("start: ({})+\n{rules}", names.join(" | "));
    let Ok(grammar) = model.compile(&Pattern::Lark(lark)) else { return };
    let broken = GenerateRequest { grammar: Some(grammar), ..greedy(&[11], 300) };
    let beside = greedy(&[14, 15], 60);
    let alone = ids(&model, beside.clone()).await;
    let (end, others) =
        futures_util::future::join(answer(&model, broken), ids(&model, beside)).await;
    assert_eq!(others, alone);
    let error = end.1.expect_err("too complex");
    assert!(error.contains("cannot be held to its grammar"), "{error}");
}
