//! One streamed completion, timed.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use omlx_tests::http;
use omlx_tests::sse::{self, Event};
use serde_json::{Value, json};

/// A server to ask.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) key: String,
    pub(crate) model: String,
}

/// What to ask of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) prompt_tokens: usize,
    pub(crate) answer_tokens: usize,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// From sending the request to the first text.
    pub(crate) first_token_seconds: f64,
    /// Tokens after the first, over the time from the first text to the last.
    pub(crate) decode_tokens_per_second: f64,
    pub(crate) prompt_tokens: u64,
    pub(crate) answer_tokens: u64,
    /// Prompt tokens that came from SSD, and how long restoring took; 0 where the server does not
    /// say.
    pub(crate) ssd_tokens: u64,
    pub(crate) restore_seconds: f64,
}

/// Words that no prefix cache has seen: from the first letter on, every seed gives another text.
/// In the benchmark tokenizer a word of two letters is two tokens with the space before it; the
/// beginning-of-text token is one more.
pub(crate) fn words(tokens: usize, seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (tokens as u64) << 32;
    let mut letter = || {
        // Knuth's MMIX generator; the high bits are the good ones.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + ((state >> 33) % 26) as u8)
    };
    (0..tokens / 2).flat_map(|_| [' ', letter(), letter()]).collect()
}

/// Streams one completion. An error says which server and which request.
pub(crate) fn run(target: &Target, workload: &Workload, seed: u64) -> io::Result<Sample> {
    timed(target, workload, seed).map(|(sample, _)| sample)
}

/// The times between the texts of one streamed completion.
pub(crate) fn gaps(target: &Target, workload: &Workload, seed: u64) -> io::Result<Vec<f64>> {
    timed(target, workload, seed).map(|(_, gaps)| gaps)
}

fn timed(target: &Target, workload: &Workload, seed: u64) -> io::Result<(Sample, Vec<f64>)> {
    let prompt = words(workload.prompt_tokens, seed);
    let done = complete(target, workload, &prompt)?;
    let gaps = done.times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    Ok((done.sample, gaps))
}

/// A completion and how it came.
pub(crate) struct Done {
    pub(crate) sample: Sample,
    /// When each text came.
    pub(crate) times: Vec<Instant>,
    pub(crate) answer: String,
    pub(crate) cached_tokens: u64,
}

/// Streams the completion of a text.
pub(crate) fn complete(target: &Target, workload: &Workload, prompt: &str) -> io::Result<Done> {
    stream(target, workload, prompt).map_err(|error| {
        let Target { model, address, .. } = target;
        let what = format!("{}: model {model} at {address}: {error}", workload.name);
        io::Error::new(error.kind(), what)
    })
}

fn stream(target: &Target, workload: &Workload, prompt: &str) -> io::Result<Done> {
    let body = json!({
        "model": target.model,
        "prompt": prompt,
        "max_tokens": workload.answer_tokens,
        "temperature": 0,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    let body = body.to_string();
    let key = format!("Bearer {}", target.key);
    let started = Instant::now();
    let headers = [("authorization", key.as_str())];
    let response =
        http::request(target.address, "POST", "/v1/completions", &headers, body.as_bytes())?;
    if response.status != 200 {
        let status = response.status;
        return Err(io::Error::other(format!("status {status}: {}", response.text()?)));
    }
    let (mut first, mut last, mut usage) = (None, started, None);
    let mut times = Vec::with_capacity(workload.answer_tokens);
    let mut answer = String::new();
    sse::for_each(response.body, |event| {
        let now = Instant::now();
        let Event::Data(data) = event else { return true };
        if data == "[DONE]" {
            return false;
        }
        let chunk: Value = serde_json::from_str(&data).unwrap_or_default();
        let text = chunk["choices"][0]["text"].as_str().unwrap_or_default();
        if !text.is_empty() {
            answer.push_str(text);
            times.push(now);
            first.get_or_insert(now);
            last = now;
        }
        if chunk["usage"].is_object() {
            usage = Some(chunk["usage"].clone());
        }
        true
    })?;
    let first = first.ok_or_else(|| io::Error::other("the stream had no text"))?;
    let usage = usage.ok_or_else(|| io::Error::other("the stream had no usage"))?;
    let answer_tokens = usage["completion_tokens"].as_u64().unwrap_or(0);
    if answer_tokens != workload.answer_tokens as u64 {
        return Err(io::Error::other(format!("the answer has {answer_tokens} tokens")));
    }
    let sample = Sample {
        first_token_seconds: (first - started).as_secs_f64(),
        decode_tokens_per_second: (answer_tokens - 1) as f64 / (last - first).as_secs_f64(),
        prompt_tokens: usage["prompt_tokens"].as_u64().unwrap_or(0),
        answer_tokens,
        ssd_tokens: usage["omlx"]["cached_tokens_ssd"].as_u64().unwrap_or(0),
        restore_seconds: usage["omlx"]["restore_ms"].as_f64().unwrap_or(0.0) / 1e3,
    };
    let cached_tokens = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0);
    Ok(Done { sample, times, answer, cached_tokens })
}

/// The middle value.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

/// The value that 99 of 100 do not pass.
pub(crate) fn percentile_99(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() * 99 / 100]
}

/// Median of ours, of theirs, and of the ratio within each pair: what disturbs the machine disturbs
/// both halves of a pair.
pub(crate) fn ratio_of_pairs(
    pairs: &[(Sample, Sample)],
    figure: impl Fn(&Sample) -> f64,
    ratio: impl Fn(f64, f64) -> f64,
) -> (f64, f64, f64) {
    let mut ours: Vec<f64> = pairs.iter().map(|pair| figure(&pair.0)).collect();
    let mut theirs: Vec<f64> = pairs.iter().map(|pair| figure(&pair.1)).collect();
    let mut ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(a, b)| ratio(*a, *b)).collect();
    (median(&mut ours), median(&mut theirs), median(&mut ratios))
}
