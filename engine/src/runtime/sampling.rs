//! Samples the next token from the logits.
//!
//! Sampling is one lazy graph, so that the next step can be queued before the token is known. The
//! only randomness is one uniform number per step, drawn on the host from ChaCha8. The same seed
//! gives the same tokens, whatever else runs, and in later releases too.

use std::hash::{BuildHasher, Hasher, RandomState};

use crate::error::Result;
use mlx_rs::ops::indexing::{argmax_axis, take_along_axis, take_axis};
use mlx_rs::ops::{
    arange, argpartition_axis, argsort_axis, concatenate, cumsum, divide, multiply, negative,
    select, softmax_axis,
};
use mlx_rs::{Array, Dtype};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::mlx::bridge::slice;

/// How each token is sampled.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 picks the likeliest token; otherwise logits are divided by it.
    pub temperature: f32,
    /// Keep the smallest set of likeliest tokens whose probabilities reach this sum. 1: all.
    pub top_p: f32,
    /// Keep this many of the likeliest tokens. 0: all.
    pub top_k: usize,
    /// Keep tokens with at least this fraction of the likeliest token's probability. 0: all.
    pub min_p: f32,
    /// Divides the positive and multiplies the negative logits of tokens seen in the prompt or the
    /// answer (arXiv 1909.05858). 1: off.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of each token that the answer contains.
    pub presence_penalty: f32,
    /// Subtracted from a token's logit for each time that the answer contains it.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// `None`: a random seed.
    pub seed: Option<u64>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

/// Recommendations of a model's generation_config.json. A request may override each of them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SamplingDefaults {
    /// See [`SamplingParams::temperature`]. 0 when the file says `do_sample: false`.
    pub temperature: Option<f32>,
    /// See [`SamplingParams::top_p`].
    pub top_p: Option<f32>,
    /// See [`SamplingParams::top_k`].
    pub top_k: Option<usize>,
    /// See [`SamplingParams::min_p`].
    pub min_p: Option<f32>,
    /// See [`SamplingParams::repetition_penalty`].
    pub repetition_penalty: Option<f32>,
}

impl SamplingDefaults {
    /// Takes missing values from `under`.
    pub(crate) fn over(&self, under: &Self) -> Self {
        Self {
            temperature: self.temperature.or(under.temperature),
            top_p: self.top_p.or(under.top_p),
            top_k: self.top_k.or(under.top_k),
            min_p: self.min_p.or(under.min_p),
            repetition_penalty: self.repetition_penalty.or(under.repetition_penalty),
        }
    }
}

/// The tokens of one step, not yet evaluated.
#[derive(Debug)]
pub(crate) struct Sampled {
    /// [R] of u32, one token per row.
    pub(crate) tokens: Array,
    /// One per row; `None` where not requested.
    pub(crate) logprobs: Vec<Option<LazyLogprobs>>,
    /// [R]: whether any logit is NaN. Checked with the first token of a request.
    pub(crate) is_nan: Option<Array>,
}

/// Natural log probabilities, not yet evaluated.
#[derive(Debug)]
pub(crate) struct LazyLogprobs {
    /// [1]: that of the sampled token.
    pub(crate) chosen: Array,
    /// Ids [n] of u32 and log probabilities [n], in no particular order; `None` when n is 0.
    pub(crate) top: Option<(Array, Array)>,
}

impl Sampled {
    /// All arrays that must be evaluated with the step.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        let logprobs = self.logprobs.iter().flatten().flat_map(|logprobs| {
            let top = logprobs.top.iter().flat_map(|(ids, values)| [ids, values]);
            std::iter::once(&logprobs.chosen).chain(top)
        });
        std::iter::once(&self.tokens).chain(logprobs).chain(&self.is_nan)
    }
}

/// Samples a token for each row of a step. logits: [1, R, vocab], where R is the number of
/// samplers.
///
/// Rows with the same kind of sampling share one graph, but each row is computed independently, so
/// that its token does not depend on the other rows.
pub(crate) fn sample(logits: &Array, samplers: &mut [&mut Sampler]) -> Result<Sampled> {
    let [_, rows, vocab] = *logits.shape() else {
        return Err(mlx_rs::error::Exception::custom("logits have three axes"));
    };
    let raw = logits.reshape(&[rows, vocab])?.as_dtype(Dtype::Float32)?;
    let is_nan = if samplers.iter().any(|sampler| sampler.steps == 0) {
        Some(raw.is_nan()?.any_axis(1, false)?)
    } else {
        None
    };
    let row = |a: &Array, n: usize| slice(a, &[n as i32, 0], &[n as i32 + 1, vocab]);
    let adjusted = if samplers.iter().any(|sampler| sampler.adjusts()) {
        let rows = samplers.iter().enumerate().map(|(n, sampler)| {
            let logits = row(&raw, n)?;
            if sampler.adjusts() { sampler.adjust(logits) } else { Ok(logits) }
        });
        concatenate(&rows.collect::<Result<Vec<_>>>()?, 0)?
    } else {
        raw.clone()
    };
    let tokens = choose(&adjusted, samplers)?;
    let mut logprobs = Vec::with_capacity(samplers.len());
    for (n, sampler) in samplers.iter_mut().enumerate() {
        let token = if sampler.penalties.is_some() || sampler.logprobs.is_some() {
            Some(slice(&tokens, &[n as i32], &[n as i32 + 1])?)
        } else {
            None
        };
        sampler.steps += 1;
        let Some(token) = token else {
            logprobs.push(None);
            continue;
        };
        if let Some(penalties) = &mut sampler.penalties {
            penalties.count(&token)?;
        }
        let raw = || row(&raw, n)?.reshape(&[vocab]);
        let top = sampler.logprobs.map(|top| (top as i32).min(vocab));
        logprobs.push(top.map(|top| lazy_logprobs(&raw()?, &token, top)).transpose()?);
    }
    Ok(Sampled { tokens, logprobs, is_nan })
}

/// The kind of sampling that the rows of one graph share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum SamplingKind {
    Greedy,
    /// Samples from the whole distribution.
    Whole,
    /// Samples from the `top_k` likeliest tokens (0: all, sorted), reduced by top_p and min_p.
    Filtered {
        top_k: usize,
        by_top_p: bool,
        by_min_p: bool,
    },
}

/// logits: [R, vocab], adjusted. Returns the tokens, [R] of u32.
fn choose(logits: &Array, samplers: &mut [&mut Sampler]) -> Result<Array> {
    let vocab = logits.shape()[1];
    let kinds: Vec<SamplingKind> = samplers.iter().map(|sampler| sampler.kind(vocab)).collect();
    if kinds.iter().all(|kind| *kind == kinds[0]) {
        return sample_group(logits, kinds[0], samplers);
    }
    let mut order: Vec<usize> = (0..kinds.len()).collect();
    order.sort_by_key(|&row| (kinds[row], row));
    let indices = |rows: &[usize]| {
        let rows: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
        Array::from_slice(&rows, &[rows.len() as i32])
    };
    let mut chosen = Vec::new();
    for group in order.chunk_by(|&a, &b| kinds[a] == kinds[b]) {
        let rows = take_axis(logits, indices(group), 0)?;
        // The rows of a group ascend, so one pass over the samplers finds them in order.
        let members = samplers.iter_mut().enumerate().filter(|(row, _)| group.contains(row));
        let mut members: Vec<&mut Sampler> = members.map(|(_, sampler)| &mut **sampler).collect();
        chosen.push(sample_group(&rows, kinds[group[0]], &mut members)?);
    }
    let mut back = vec![0; order.len()];
    order.iter().enumerate().for_each(|(at, &row)| back[row] = at);
    take_axis(concatenate(&chosen, 0)?, indices(&back), 0)
}

/// Samples all rows with the same kind. logits: [G, vocab]. Returns [G] of u32.
fn sample_group(
    logits: &Array,
    kind: SamplingKind,
    samplers: &mut [&mut Sampler],
) -> Result<Array> {
    if kind == SamplingKind::Greedy {
        return argmax_axis(logits, 1, false);
    }
    let column = |value: &dyn Fn(&Sampler) -> f32| {
        let values: Vec<f32> = samplers.iter().map(|sampler| value(sampler)).collect();
        Array::from_slice(&values, &[values.len() as i32, 1])
    };
    let scaled = divide(logits, column(&|sampler| sampler.params.temperature))?;
    let (top_p, min_p) = (column(&|s| s.params.top_p), column(&|s| s.params.min_p));
    let draws: Vec<f32> = samplers.iter_mut().map(|sampler| sampler.draw()).collect();
    let draws = Array::from_slice(&draws, &[draws.len() as i32, 1]);
    let probs = softmax_axis(scaled, 1, true)?;
    let SamplingKind::Filtered { top_k, by_top_p, by_min_p } = kind else {
        return inverse_cdf(&probs, &draws);
    };
    let (order, mut sorted) = top_k_of(&probs, top_k as i32)?;
    if by_top_p {
        // The first token always stays, because no probability precedes it.
        let total = sorted.sum_axis(1, true)?;
        let before = cumsum(&sorted, 1, None, false)?;
        let keep = before.lt(multiply(total, top_p)?)?;
        sorted = multiply(sorted, keep.as_dtype(Dtype::Float32)?)?;
    }
    if by_min_p {
        let first = slice(&sorted, &[0, 0], &[sorted.shape()[0], 1])?;
        let keep = sorted.ge(multiply(first, min_p)?)?;
        sorted = multiply(&sorted, keep.as_dtype(Dtype::Float32)?)?;
    }
    let indices = inverse_cdf(&sorted, &draws)?;
    let rows = indices.shape()[0];
    take_along_axis(order, indices.reshape(&[rows, 1])?, 1)?.reshape(&[rows])
}

/// The sampler of one request.
#[derive(Debug)]
pub(crate) struct Sampler {
    params: SamplingParams,
    logprobs: Option<usize>,
    rng: ChaCha8Rng,
    /// [vocab], added to the logits.
    bias: Option<Array>,
    /// [vocab], added while an end-of-sequence token is not allowed.
    no_eos: Option<Array>,
    min_tokens: usize,
    penalties: Option<Penalties>,
    /// [1, vocab] of bool: the allowed next tokens; `None`: all.
    allowed: Option<Array>,
    /// The next token, if it is forced.
    forced: Option<u32>,
    steps: usize,
}

/// The tokens in the prompt and the answer, kept on the device.
#[derive(Debug)]
struct Penalties {
    /// [vocab] of 0 and 1.
    in_prompt: Array,
    /// [vocab]: number of times that the answer contains each token.
    counts: Array,
    /// [vocab]: 0, 1, 2, ..
    ids: Array,
}

impl Sampler {
    /// `vocab` is the width of the logits. Every given id must be below it.
    pub(crate) fn new(
        params: SamplingParams,
        logprobs: Option<usize>,
        min_tokens: usize,
        (prompt, eos, vocab): (&[u32], &[u32], usize),
    ) -> Result<Self> {
        let seed = params.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        let dense = |entries: &mut dyn Iterator<Item = (u32, f32)>| {
            let mut values = vec![0.0f32; vocab];
            entries.for_each(|(id, value)| values[id as usize] += value);
            Array::from_slice(&values, &[vocab as i32])
        };
        let penalized = params.repetition_penalty != 1.0
            || params.presence_penalty != 0.0
            || params.frequency_penalty != 0.0;
        let penalties = if penalized {
            Some(Penalties {
                in_prompt: {
                    let mut seen = vec![0.0f32; vocab];
                    prompt.iter().for_each(|&id| seen[id as usize] = 1.0);
                    Array::from_slice(&seen, &[vocab as i32])
                },
                counts: dense(&mut std::iter::empty()),
                ids: arange::<_, u32>(0, vocab as i32, None)?,
            })
        } else {
            None
        };
        Ok(Self {
            logprobs,
            rng: ChaCha8Rng::seed_from_u64(seed),
            bias: (!params.logit_bias.is_empty())
                .then(|| dense(&mut params.logit_bias.iter().copied())),
            no_eos: (min_tokens > 0)
                .then(|| dense(&mut eos.iter().map(|&id| (id, f32::NEG_INFINITY)))),
            min_tokens,
            penalties,
            forced: None,
            params,
            allowed: None,
            steps: 0,
        })
    }

    /// Restricts the next token to those whose flag is true. There is one flag per logit.
    pub(crate) fn constrain(&mut self, allowed: Option<&[bool]>) {
        self.allowed = allowed.map(|flags| Array::from_slice(flags, &[1, flags.len() as i32]));
    }

    /// Forces the next token; `None` samples it.
    pub(crate) fn force(&mut self, id: Option<u32>) {
        self.forced = id;
    }

    /// The kind of sampling for adjusted logits.
    fn kind(&self, vocab: i32) -> SamplingKind {
        let SamplingParams { temperature, top_p, top_k, min_p, .. } = self.params;
        let (by_top_p, by_min_p) = (top_p < 1.0, min_p > 0.0);
        let vocab = vocab as usize;
        let top_k = if top_k == 0 { vocab } else { top_k.min(vocab) };
        if temperature == 0.0 {
            SamplingKind::Greedy
        } else if top_k == vocab && !by_top_p && !by_min_p {
            SamplingKind::Whole
        } else {
            SamplingKind::Filtered { top_k, by_top_p, by_min_p }
        }
    }

    /// The next draw, in (0, 1], so that a token with probability 0 is never sampled.
    fn draw(&mut self) -> f32 {
        ((self.rng.next_u32() >> 8) + 1) as f32 / (1 << 24) as f32
    }

    /// Whether logits are changed before sampling.
    fn adjusts(&self) -> bool {
        let holds_back_eos = self.no_eos.is_some() && self.steps < self.min_tokens;
        let changes = self.bias.is_some() || self.penalties.is_some() || self.forced.is_some();
        changes || holds_back_eos || self.allowed.is_some()
    }

    /// Applies bias, penalties, the allowed tokens and a forced token. logits: [1, vocab].
    fn adjust(&self, mut logits: Array) -> Result<Array> {
        if let Some(id) = self.forced {
            let vocab = logits.shape()[1];
            let mut decided = vec![f32::NEG_INFINITY; vocab as usize];
            decided[id as usize] = 0.0;
            return Ok(Array::from_slice(&decided, &[1, vocab]));
        }
        if let Some(bias) = &self.bias {
            logits = logits.add(bias)?;
        }
        if let Some(penalties) = &self.penalties {
            logits = penalties.apply(logits, &self.params)?;
        }
        if let Some(no_eos) = self.no_eos.as_ref().filter(|_| self.steps < self.min_tokens) {
            logits = logits.add(no_eos)?;
        }
        match &self.allowed {
            Some(allowed) => select(allowed, logits, Array::from_f32(f32::NEG_INFINITY)),
            None => Ok(logits),
        }
    }
}

impl Penalties {
    /// Counts `token`, [1], as part of the answer.
    fn count(&mut self, token: &Array) -> Result<()> {
        let here = self.ids.eq(token)?.as_dtype(Dtype::Float32)?;
        self.counts = self.counts.add(here)?;
        Ok(())
    }

    fn apply(&self, logits: Array, params: &SamplingParams) -> Result<Array> {
        let zero = Array::from_f32(0.0);
        let mut logits = logits;
        if params.repetition_penalty != 1.0 {
            let factor = Array::from_f32(params.repetition_penalty);
            let penalized =
                select(logits.gt(&zero)?, divide(&logits, &factor)?, multiply(&logits, &factor)?)?;
            let seen = self.in_prompt.add(&self.counts)?.gt(&zero)?;
            logits = select(seen, penalized, logits)?;
        }
        if params.presence_penalty != 0.0 {
            let present = self.counts.gt(&zero)?.as_dtype(Dtype::Float32)?;
            logits =
                logits.subtract(multiply(present, Array::from_f32(params.presence_penalty))?)?;
        }
        if params.frequency_penalty != 0.0 {
            let frequency = Array::from_f32(params.frequency_penalty);
            logits = logits.subtract(multiply(&self.counts, frequency)?)?;
        }
        Ok(logits)
    }
}

/// The `k` likeliest tokens of each row of [G, vocab], likeliest first: (ids, probabilities), [G,
/// k] each.
fn top_k_of(probs: &Array, k: i32) -> Result<(Array, Array)> {
    let negative = negative(probs)?;
    let [rows, vocab] = *probs.shape() else {
        return Err(mlx_rs::error::Exception::custom("probabilities have two axes"));
    };
    if k == vocab {
        let order = argsort_axis(&negative, 1)?;
        let sorted = take_along_axis(probs, &order, 1)?;
        return Ok((order, sorted));
    }
    let chosen = slice(&argpartition_axis(&negative, k - 1, 1)?, &[0, 0], &[rows, k])?;
    let within = argsort_axis(take_along_axis(&negative, &chosen, 1)?, 1)?;
    let order = take_along_axis(&chosen, &within, 1)?;
    let sorted = take_along_axis(probs, &order, 1)?;
    Ok((order, sorted))
}

/// For each row, the first index at which the running sum of weights ([G, n]) reaches the row's
/// draw ([G, 1]) times the total. Returns [G] of u32.
fn inverse_cdf(weights: &Array, draws: &Array) -> Result<Array> {
    let [rows, last] = *weights.shape() else {
        return Err(mlx_rs::error::Exception::custom("weights have two axes"));
    };
    let running = cumsum(weights, 1, None, true)?;
    let total = slice(&running, &[0, last - 1], &[rows, last])?;
    let before = running.lt(multiply(total, draws)?)?;
    before.as_dtype(Dtype::Uint32)?.sum_axis(1, false)?.as_dtype(Dtype::Uint32)
}

fn lazy_logprobs(raw: &Array, token: &Array, top: i32) -> Result<LazyLogprobs> {
    let logprobs = raw.subtract(raw.logsumexp(None)?)?;
    let top = match top {
        0 => None,
        n => {
            let ids = argpartition_axis(negative(&logprobs)?, n - 1, 0)?;
            let ids = slice(&ids, &[0], &[n])?;
            Some((ids.contiguous()?, take_axis(&logprobs, &ids, 0)?))
        }
    };
    Ok(LazyLogprobs { chosen: take_axis(&logprobs, token, 0)?, top })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 6] = [0.1, 2.0, -1.0, 1.5, 0.7, -3.0];

    /// The tokens sampled in `count` steps over the same logits.
    fn tokens(params: SamplingParams, prompt: &[u32], count: usize) -> Vec<u32> {
        crate::mlx::bridge::init().unwrap();
        let logits = Array::from_slice(&LOGITS, &[1, 1, 6]);
        let mut sampler = Sampler::new(params, None, 0, (prompt, &[], 6)).unwrap();
        let mut next = || sample(&logits, &mut [&mut sampler]).unwrap().tokens.item_exact::<u32>();
        (0..count).map(|_| next()).collect()
    }

    fn seeded(seed: u64) -> SamplingParams {
        SamplingParams { seed: Some(seed), ..SamplingParams::default() }
    }

    fn greedy() -> SamplingParams {
        SamplingParams { temperature: 0.0, ..SamplingParams::default() }
    }

    #[test]
    fn greedy_takes_the_likeliest() {
        assert_eq!(tokens(greedy(), &[], 3), [1, 1, 1]);
        assert_eq!(tokens(SamplingParams { top_k: 1, ..seeded(3) }, &[], 3), [1, 1, 1]);
        assert_eq!(tokens(SamplingParams { top_p: 0.01, ..seeded(3) }, &[], 3), [1, 1, 1]);
        assert_eq!(tokens(SamplingParams { min_p: 1.0, ..seeded(3) }, &[], 3), [1, 1, 1]);
    }

    #[test]
    fn a_seed_repeats_and_frequencies_follow_the_distribution() {
        for (params, kept) in [
            (seeded(1), &[0, 1, 2, 3, 4, 5][..]),
            (SamplingParams { temperature: 0.5, ..seeded(2) }, &[0, 1, 2, 3, 4, 5]),
            (SamplingParams { top_k: 3, ..seeded(3) }, &[1, 3, 4]),
            // 1 and 3 have 0.755 of the probability, 1 alone has 0.469.
            (SamplingParams { top_p: 0.7, ..seeded(4) }, &[1, 3]),
            // Probabilities relative to the likeliest: 0.15 1 0.05 0.61 0.27 0.007.
            (SamplingParams { min_p: 0.2, ..seeded(5) }, &[1, 3, 4]),
        ] {
            let temperature = params.temperature;
            let drawn = tokens(params.clone(), &[], 2000);
            assert_eq!(drawn[..50], tokens(params, &[], 50));
            let weight = |id: usize| (LOGITS[id] / temperature).exp();
            let total: f32 = kept.iter().map(|&id| weight(id)).sum();
            for id in 0..6 {
                let share = drawn.iter().filter(|&&t| t as usize == id).count() as f32 / 2000.0;
                let expected = if kept.contains(&id) { weight(id) / total } else { 0.0 };
                // Five standard deviations of 2000 draws.
                let allowed = 5.0 * (expected * (1.0 - expected) / 2000.0).sqrt();
                assert!((share - expected).abs() <= allowed, "{id}: {share} for {expected}");
            }
        }
    }

    #[test]
    fn penalties_and_bias() {
        let presence = SamplingParams { presence_penalty: 1.0, ..greedy() };
        assert_eq!(tokens(presence, &[1], 3), [1, 3, 1], "the prompt does not count");
        let frequency = SamplingParams { frequency_penalty: 0.4, ..greedy() };
        assert_eq!(tokens(frequency, &[], 4), [1, 1, 3, 1]);
        let repetition = SamplingParams { repetition_penalty: 2.0, ..greedy() };
        assert_eq!(tokens(repetition, &[1], 2), [3, 1], "the prompt counts");
        let bias = SamplingParams { logit_bias: vec![(5, 100.0), (1, -100.0)], ..greedy() };
        assert_eq!(tokens(bias, &[], 1), [5]);
    }

    #[test]
    fn no_end_before_min_tokens() {
        crate::mlx::bridge::init().unwrap();
        let logits = Array::from_slice(&LOGITS, &[1, 1, 6]);
        let mut sampler = Sampler::new(greedy(), Some(2), 2, (&[], &[1], 6)).unwrap();
        let sampled: Vec<Sampled> =
            (0..3).map(|_| sample(&logits, &mut [&mut sampler]).unwrap()).collect();
        let ids = sampled.iter().map(|s| s.tokens.item_exact::<u32>());
        assert_eq!(ids.collect::<Vec<_>>(), [3, 3, 1]);
        let logprob = sampled[0].logprobs[0].as_ref().unwrap().chosen.item_exact::<f32>();
        let total: f32 = LOGITS.iter().map(|logit| logit.exp()).sum();
        assert!((logprob - (1.5 - total.ln())).abs() < 1e-5);
    }

    #[test]
    fn a_row_is_sampled_as_if_it_were_alone() {
        crate::mlx::bridge::init().unwrap();
        let rows = 12;
        let logits: Vec<f32> =
            (0..rows * 50).map(|i| ((i * i) as f32 * 0.37).sin() * 4.0).collect();
        let params = |row: u64| {
            let temperature = [0.0, 1.0, 0.7][row as usize % 3];
            SamplingParams {
                temperature,
                top_k: [0, 5, 0, 50][row as usize % 4],
                top_p: if row.is_multiple_of(2) { 0.9 } else { 1.0 },
                min_p: if row == 5 { 0.1 } else { 0.0 },
                frequency_penalty: if row == 3 || row == 8 { 0.5 } else { 0.0 },
                logit_bias: if row == 4 { vec![(7, 3.0)] } else { Vec::new() },
                ..seeded(row)
            }
        };
        let sampler = |row: u64| {
            let logprobs = (row == 6).then_some(3);
            Sampler::new(params(row), logprobs, (row == 9).into(), (&[1], &[2], 50)).unwrap()
        };
        let mut together: Vec<Sampler> = (0..rows).map(sampler).collect();
        let mut alone: Vec<Sampler> = (0..rows).map(sampler).collect();
        let all = Array::from_slice(&logits, &[1, rows as i32, 50]);
        for _ in 0..20 {
            let mut samplers: Vec<&mut Sampler> = together.iter_mut().collect();
            let sampled = sample(&all, &mut samplers).unwrap();
            let tokens = sampled.tokens.as_slice::<u32>();
            for (row, sampler) in alone.iter_mut().enumerate() {
                let own = Array::from_slice(&logits[row * 50..row * 50 + 50], &[1, 1, 50]);
                let own = sample(&own, &mut [sampler]).unwrap();
                assert_eq!(tokens[row], own.tokens.item_exact::<u32>(), "row {row}");
                let logprob = |s: &Sampled, n: usize| {
                    s.logprobs[n].as_ref().map(|l| l.chosen.item_exact::<f32>())
                };
                assert_eq!(logprob(&sampled, row), logprob(&own, 0), "row {row}");
            }
        }
    }
}
