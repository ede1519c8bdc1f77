//! Sampling, checked against what the raw log probabilities say.

use std::collections::BTreeMap;

use crate::common::{engine, greedy, ids, load, tokens};
use engine::{Event, FinishReason, GenerateRequest, Model, SamplingParams, TokenOutput};
use omlx_tests::fixtures::{Case, EOS_TOKENS};

const PROMPT: [u32; 9] = [40, 50, 60, 70, 80, 90, 100, 110, 120];
const TOKENS: usize = 48;
/// The most likeliest tokens that a request may ask for.
const TOP: usize = 20;

async fn model() -> Model {
    load(&engine(), &Case::any()).await
}

fn sampled(sampling: SamplingParams, max_tokens: usize) -> GenerateRequest {
    GenerateRequest { sampling, ..greedy(&PROMPT, max_tokens) }
}

fn seeded(seed: u64) -> SamplingParams {
    SamplingParams { seed: Some(seed), ..SamplingParams::default() }
}

#[tokio::test]
async fn the_same_seed_gives_the_same_tokens_and_another_does_not() {
    let model = model().await;
    let first = ids(&model, sampled(seeded(7), TOKENS)).await;
    assert_eq!(first, ids(&model, sampled(seeded(7), TOKENS)).await);
    assert_ne!(first, ids(&model, sampled(seeded(8), TOKENS)).await);
    assert_ne!(first, ids(&model, greedy(&PROMPT, TOKENS)).await);
}

#[tokio::test]
async fn what_leaves_one_token_to_choose_is_greedy() {
    let model = model().await;
    let wanted = ids(&model, greedy(&PROMPT, TOKENS)).await;
    let plain = seeded(3);
    for sampling in [
        SamplingParams { top_k: 1, ..plain.clone() },
        SamplingParams { top_p: 1e-6, ..plain.clone() },
        SamplingParams { min_p: 1.0, ..plain.clone() },
        SamplingParams { temperature: 1e-4, ..plain },
    ] {
        let got = ids(&model, sampled(sampling.clone(), TOKENS)).await;
        assert_eq!(got, wanted, "{sampling:?}");
    }
}

/// How often each token comes first in many draws.
async fn frequencies(model: &Model, sampling: SamplingParams, draws: u64) -> BTreeMap<u32, f64> {
    let mut seen = BTreeMap::new();
    for seed in 0..draws {
        let sampling = SamplingParams { seed: Some(seed), ..sampling.clone() };
        let first = ids(model, sampled(sampling, 1)).await[0];
        *seen.entry(first).or_insert(0.0) += 1.0 / draws as f64;
    }
    seen
}

/// The likeliest first tokens and their probabilities, likeliest first.
async fn likeliest(model: &Model) -> Vec<(u32, f64)> {
    let mut request = greedy(&PROMPT, 1);
    request.logprobs = Some(TOP);
    let first = tokens(model, request).await.remove(0).logprobs.expect("asked for");
    first.top.iter().map(|top| (top.id, f64::from(top.logprob).exp())).collect()
}

/// The frequencies are those of `kept`, its weights taken relative to their sum.
fn assert_distribution(seen: &BTreeMap<u32, f64>, kept: &[(u32, f64)], draws: u64, what: &str) {
    let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
    for (id, frequency) in seen {
        assert!(kept.iter().any(|(kept, _)| kept == id), "{what}: {id} drawn ({frequency})");
    }
    for &(id, weight) in kept {
        let wanted = weight / total;
        let got = seen.get(&id).copied().unwrap_or(0.0);
        // Five standard deviations of a binomial.
        let allowed = 5.0 * (wanted * (1.0 - wanted) / draws as f64).sqrt();
        assert!((got - wanted).abs() <= allowed, "{what}: token {id}: {got}, not {wanted}");
    }
}

#[tokio::test]
async fn draws_follow_the_probabilities_that_top_k_top_p_min_p_and_temperature_leave() {
    const DRAWS: u64 = 600;
    let model = model().await;
    let top = likeliest(&model).await;

    let top_k = SamplingParams { top_k: 3, ..SamplingParams::default() };
    let seen = frequencies(&model, top_k, DRAWS).await;
    assert_distribution(&seen, &top[..3], DRAWS, "top_k 3");

    let hotter = SamplingParams { top_k: 3, temperature: 2.0, ..SamplingParams::default() };
    let seen = frequencies(&model, hotter, DRAWS).await;
    let flattened: Vec<_> = top[..3].iter().map(|(id, p)| (*id, p.sqrt())).collect();
    assert_distribution(&seen, &flattened, DRAWS, "top_k 3, temperature 2");

    // Half way between the sums of two and three tokens: the third is the one that reaches it.
    let sum = top[0].1 + top[1].1 + top[2].1 / 2.0;
    let top_p = SamplingParams { top_p: sum as f32, ..SamplingParams::default() };
    let seen = frequencies(&model, top_p, DRAWS).await;
    assert_distribution(&seen, &top[..3], DRAWS, "top_p");

    // Between the second and the third token's ratio to the first.
    let floor = (top[1].1 + top[2].1) / 2.0 / top[0].1;
    let min_p = SamplingParams { min_p: floor as f32, ..SamplingParams::default() };
    let seen = frequencies(&model, min_p, DRAWS).await;
    assert_distribution(&seen, &top[..2], DRAWS, "min_p");
}

/// For each step of a greedy answer: was the sampled token the one that `adjust` makes likeliest?
/// `adjust(id, answer so far)` is what is added to a token's raw log probability. Steps at which a
/// token outside the reported ones might win prove nothing and are not counted.
fn steps_proved(sampled: &[TokenOutput], adjust: impl Fn(u32, &[u32]) -> f32) -> usize {
    let answer: Vec<u32> = sampled.iter().map(|token| token.id).collect();
    let mut proved = 0;
    for (at, token) in sampled.iter().enumerate() {
        let top = &token.logprobs.as_ref().expect("asked for").top;
        let adjusted = |id, logprob| logprob + adjust(id, &answer[..at]);
        let mut ranked: Vec<_> = top.iter().map(|t| (adjusted(t.id, t.logprob), t.id)).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        let outside = top.last().expect("20 tokens").logprob;
        // Too close to call in float32, or beyond what is known.
        if ranked[0].0 <= outside || ranked[0].0 - ranked[1].0 < 1e-3 {
            continue;
        }
        assert_eq!(token.id, ranked[0].1, "step {at}");
        proved += 1;
    }
    proved
}

#[tokio::test]
async fn presence_and_frequency_penalties_count_the_answer_not_the_prompt() {
    let model = model().await;
    let sampling = SamplingParams {
        temperature: 0.0,
        presence_penalty: 0.7,
        frequency_penalty: 0.4,
        ..SamplingParams::default()
    };
    let mut request = sampled(sampling, TOKENS);
    request.logprobs = Some(TOP);
    // A prompt that holds what the answer would begin with.
    let plain = ids(&model, greedy(&PROMPT, TOKENS)).await;
    request.prompt.extend(&plain[..8]);
    let answer = tokens(&model, request).await;
    let proved = steps_proved(&answer, |id, before| {
        let times = before.iter().filter(|&&seen| seen == id).count() as f32;
        -0.4 * times - if times > 0.0 { 0.7 } else { 0.0 }
    });
    assert!(proved > TOKENS / 2, "only {proved} steps proved anything");
}

#[tokio::test]
async fn logit_bias_is_added() {
    let model = model().await;
    let plain = ids(&model, greedy(&PROMPT, TOKENS)).await;
    let bias: Vec<(u32, f32)> = plain[..10].iter().map(|&id| (id, -1.5)).collect();
    let total = |id| -> f32 { bias.iter().filter(|b| b.0 == id).map(|b| b.1).sum() };
    let sampling = SamplingParams {
        temperature: 0.0,
        logit_bias: plain[..10]
            .iter()
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .map(|&id| (id, total(id)))
            .collect(),
        ..SamplingParams::default()
    };
    let mut request = sampled(sampling, TOKENS);
    request.logprobs = Some(TOP);
    let answer = tokens(&model, request).await;
    assert_ne!(answer.iter().map(|t| t.id).collect::<Vec<_>>(), plain);
    let proved = steps_proved(&answer, |id, _| total(id));
    assert!(proved > TOKENS / 2, "only {proved} steps proved anything");

    let forced = SamplingParams { logit_bias: vec![(77, 100.0)], ..seeded(1) };
    assert_eq!(ids(&model, sampled(forced, 4)).await, [77; 4]);
}

#[tokio::test]
async fn an_extreme_repetition_penalty_forbids_repetition() {
    let model = model().await;
    let sampling =
        SamplingParams { temperature: 0.0, repetition_penalty: 1e6, ..SamplingParams::default() };
    let answer = ids(&model, sampled(sampling, TOKENS)).await;
    let mut seen = PROMPT.to_vec();
    for id in answer {
        assert!(!seen.contains(&id), "{id} was there already");
        seen.push(id);
    }
}

#[tokio::test]
async fn log_probabilities_are_of_the_raw_distribution() {
    let model = model().await;
    let mut request = greedy(&PROMPT, 1);
    request.logprobs = Some(TOP);
    let raw = tokens(&model, request.clone()).await.remove(0).logprobs.expect("asked for");
    request.sampling = SamplingParams {
        temperature: 0.3,
        top_k: 5,
        logit_bias: vec![(raw.top[3].id, 50.0)],
        ..seeded(2)
    };
    let sampled = tokens(&model, request).await.remove(0);
    let logprobs = sampled.logprobs.expect("asked for");
    assert_eq!(sampled.id, raw.top[3].id);
    assert_eq!(logprobs.top, raw.top);
    assert!((logprobs.chosen - raw.top[3].logprob).abs() < 1e-5);
}

async fn finish(model: &Model, request: GenerateRequest) -> (String, Vec<u32>, FinishReason) {
    let mut generation = model.generate(request).expect("accepted");
    let (mut text, mut ids) = (String::new(), Vec::new());
    loop {
        match generation.next().await.expect("an end") {
            Event::Delta(delta) => {
                text += &delta.text;
                ids.extend(delta.tokens.iter().map(|token| token.id));
            }
            Event::Done(outcome) => return (text, ids, outcome.finish),
            Event::Failed(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn every_end_of_sequence_token_ends_the_answer_but_not_before_min_tokens() {
    let model = model().await;
    for eos in EOS_TOKENS {
        let sampling = SamplingParams { logit_bias: vec![(eos, 100.0)], ..seeded(1) };
        let mut request = sampled(sampling, TOKENS);
        request.ignore_eos = false;
        let (text, ids, reason) = finish(&model, request.clone()).await;
        assert_eq!((text.as_str(), reason), ("", FinishReason::Stop));
        assert!(ids.len() <= 1, "{ids:?}");
        request.min_tokens = 5;
        let (_, ids, reason) = finish(&model, request).await;
        let before = ids.iter().take_while(|id| !EOS_TOKENS.contains(id)).count();
        assert_eq!((before, reason), (5, FinishReason::Stop), "{ids:?}");
    }
}

#[tokio::test]
async fn a_stop_string_never_appears_wherever_it_lies_in_the_answer() {
    let model = model().await;
    let (whole, _, reason) = finish(&model, greedy(&PROMPT, TOKENS)).await;
    assert_eq!(reason, FinishReason::Length);
    let characters: Vec<char> = whole.chars().collect();
    for from in (0..characters.len() - 3).step_by(5) {
        let stop: String = characters[from..from + 3].iter().collect();
        if stop.contains('\u{fffd}') {
            continue;
        }
        let mut request = greedy(&PROMPT, TOKENS);
        request.stop = vec![stop.clone()];
        let (text, _, reason) = finish(&model, request).await;
        assert_eq!(reason, FinishReason::Stop, "{stop:?}");
        assert_eq!(Some(text.as_str()), whole.split(&stop).next(), "{stop:?}");
    }
}
