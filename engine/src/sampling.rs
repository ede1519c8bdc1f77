//! Choosing the next token from the logits.
//!
//! All of it is one lazy graph, so that the next step can be queued before the token is known. The
//! only randomness is one uniform number a step, drawn on the host from ChaCha8: the same seed gives
//! the same tokens, whatever else runs, and in later releases too.

use std::hash::{BuildHasher, Hasher, RandomState};

use crate::error::Result;
use mlx_rs::ops::indexing::{argmax_axis, take_along_axis, take_axis};
use mlx_rs::ops::{
    arange, argpartition_axis, argsort_axis, cumsum, divide, multiply, negative, select,
    softmax_axis,
};
use mlx_rs::{Array, Dtype};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::bridge::slice;

/// How each token is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 picks the likeliest token; otherwise logits are divided by it.
    pub temperature: f32,
    /// Keep the fewest likeliest tokens whose probabilities reach this sum. 1: all.
    pub top_p: f32,
    /// Keep this many likeliest tokens. 0: all.
    pub top_k: usize,
    /// Keep tokens at least this fraction as likely as the likeliest. 0: all.
    pub min_p: f32,
    /// Divides the positive and multiplies the negative logits of tokens seen in the prompt or the
    /// answer (arXiv 1909.05858). 1: off.
    pub repetition_penalty: f32,
    /// Taken from the logit of each token that the answer holds already.
    pub presence_penalty: f32,
    /// Taken from a token's logit for each time that the answer holds it.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// `None`: a random one.
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

/// What a model's generation_config.json recommends; a request may override each.
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
    /// These, and what they leave open from `under`.
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

/// The tokens of one step, still lazy.
#[derive(Debug)]
pub(crate) struct Sampled {
    /// [1] of u32.
    pub(crate) token: Array,
    pub(crate) logprobs: Option<LazyLogprobs>,
    /// Whether any logit was NaN; asked for once a request.
    pub(crate) is_nan: Option<Array>,
}

/// Natural log probabilities, still lazy.
#[derive(Debug)]
pub(crate) struct LazyLogprobs {
    /// [1]: of the token itself.
    pub(crate) chosen: Array,
    /// [n] of u32 and [n], in no order; absent when n is 0.
    pub(crate) top: Option<(Array, Array)>,
}

impl Sampled {
    /// Every array that must be evaluated with the step.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        let logprobs = self.logprobs.iter().flat_map(|logprobs| {
            let top = logprobs.top.iter().flat_map(|(ids, values)| [ids, values]);
            std::iter::once(&logprobs.chosen).chain(top)
        });
        std::iter::once(&self.token).chain(logprobs).chain(&self.is_nan)
    }
}

/// The sampler of one request.
#[derive(Debug)]
pub(crate) struct Sampler {
    params: SamplingParams,
    logprobs: Option<usize>,
    rng: ChaCha8Rng,
    /// [vocab], added to the logits.
    bias: Option<Array>,
    /// [vocab], added while no end of sequence may come.
    no_eos: Option<Array>,
    min_tokens: usize,
    penalties: Option<Penalties>,
    steps: usize,
}

/// Which tokens the prompt and the answer hold, kept on the device.
#[derive(Debug)]
struct Penalties {
    /// [vocab] of 0 and 1.
    in_prompt: Array,
    /// [vocab]: times that the answer holds each token.
    counts: Array,
    /// [vocab]: 0, 1, 2, ..
    ids: Array,
}

impl Sampler {
    /// `vocab` is the width of the logits; every id given is below it.
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
        let penalties = match penalized {
            true => Some(Penalties {
                in_prompt: {
                    let mut seen = vec![0.0f32; vocab];
                    prompt.iter().for_each(|&id| seen[id as usize] = 1.0);
                    Array::from_slice(&seen, &[vocab as i32])
                },
                counts: dense(&mut std::iter::empty()),
                ids: arange::<_, u32>(0, vocab as i32, None)?,
            }),
            false => None,
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
            params,
            steps: 0,
        })
    }

    /// logits: [1, 1, vocab], this request's row; returns the token to come next.
    pub(crate) fn sample(&mut self, logits: &Array) -> Result<Sampled> {
        let vocab = logits.shape()[2];
        let raw = logits.reshape(&[vocab])?.as_dtype(Dtype::Float32)?;
        let is_nan = match self.steps {
            0 => Some(raw.is_nan()?.any(None)?),
            _ => None,
        };
        let adjusted = self.adjust(raw.clone())?;
        let token = match self.params.temperature {
            0.0 => argmax_axis(&adjusted, 0, true)?,
            _ => self.draw(&adjusted)?,
        };
        if let Some(penalties) = &mut self.penalties {
            let here = penalties.ids.eq(&token)?.as_dtype(Dtype::Float32)?;
            penalties.counts = penalties.counts.add(here)?;
        }
        self.steps += 1;
        let logprobs = match self.logprobs {
            Some(top) => Some(lazy_logprobs(&raw, &token, (top as i32).min(vocab))?),
            None => None,
        };
        Ok(Sampled { token, logprobs, is_nan })
    }

    /// Bias and penalties. logits: [vocab].
    fn adjust(&self, mut logits: Array) -> Result<Array> {
        if let Some(bias) = &self.bias {
            logits = logits.add(bias)?;
        }
        if let Some(penalties) = &self.penalties {
            logits = penalties.apply(logits, &self.params)?;
        }
        match &self.no_eos {
            Some(no_eos) if self.steps < self.min_tokens => logits.add(no_eos),
            _ => Ok(logits),
        }
    }

    /// One draw by inverting the distribution function. logits: [vocab]; returns [1].
    fn draw(&mut self, logits: &Array) -> Result<Array> {
        // In (0, 1], so that a token of probability 0 is never hit.
        let uniform = ((self.rng.next_u32() >> 8) + 1) as f32 / (1 << 24) as f32;
        let vocab = logits.shape()[0];
        let scaled = divide(logits, Array::from_f32(self.params.temperature))?;
        let probs = softmax_axis(scaled, 0, true)?;
        let SamplingParams { top_p, top_k, min_p, .. } = self.params;
        let top_k = if top_k == 0 { vocab } else { (top_k.min(vocab as usize)) as i32 };
        if top_k == vocab && top_p >= 1.0 && min_p <= 0.0 {
            return invert(&probs, uniform);
        }
        let (order, mut sorted) = likeliest(&probs, top_k)?;
        if top_p < 1.0 {
            // The first token always stays: nothing lies before it.
            let total = sorted.sum(None)?;
            let before = cumsum(&sorted, 0, None, false)?;
            let keep = before.lt(multiply(total, Array::from_f32(top_p))?)?;
            sorted = multiply(sorted, keep.as_dtype(Dtype::Float32)?)?;
        }
        if min_p > 0.0 {
            let floor = multiply(slice(&sorted, &[0], &[1])?, Array::from_f32(min_p))?;
            sorted = multiply(&sorted, sorted.ge(floor)?.as_dtype(Dtype::Float32)?)?;
        }
        take_axis(order, invert(&sorted, uniform)?, 0)
    }
}

impl Penalties {
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

/// The `k` likeliest of [vocab], likeliest first: (ids, probabilities), [k] each.
fn likeliest(probs: &Array, k: i32) -> Result<(Array, Array)> {
    let negative = negative(probs)?;
    if k == probs.shape()[0] {
        let order = argsort_axis(&negative, 0)?;
        let sorted = take_along_axis(probs, &order, 0)?;
        return Ok((order, sorted));
    }
    let chosen = slice(&argpartition_axis(&negative, k - 1, 0)?, &[0], &[k])?;
    let within = argsort_axis(take_along_axis(&negative, &chosen, 0)?, 0)?;
    let order = take_along_axis(&chosen, &within, 0)?;
    let sorted = take_along_axis(probs, &order, 0)?;
    Ok((order, sorted))
}

/// The first index at which the running sum of weights reaches `uniform` of the total; [1].
fn invert(weights: &Array, uniform: f32) -> Result<Array> {
    let last = weights.shape()[0];
    let running = cumsum(weights, 0, None, true)?;
    let total = slice(&running, &[last - 1], &[last])?;
    let target = multiply(total, Array::from_f32(uniform))?;
    let before = running.lt(target)?;
    before.as_dtype(Dtype::Uint32)?.sum_axis(0, true)?.as_dtype(Dtype::Uint32)
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

    /// Tokens that `count` steps over the same logits give.
    fn tokens(params: SamplingParams, prompt: &[u32], count: usize) -> Vec<u32> {
        crate::bridge::init().unwrap();
        let logits = Array::from_slice(&LOGITS, &[1, 1, 6]);
        let mut sampler = Sampler::new(params, None, 0, (prompt, &[], 6)).unwrap();
        (0..count).map(|_| sampler.sample(&logits).unwrap().token.item_exact::<u32>()).collect()
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
            // 1 and 3 hold 0.755 of the probability, 1 alone 0.469.
            (SamplingParams { top_p: 0.7, ..seeded(4) }, &[1, 3]),
            // Probabilities over the likeliest: 0.15 1 0.05 0.61 0.27 0.007.
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
        crate::bridge::init().unwrap();
        let logits = Array::from_slice(&LOGITS, &[1, 1, 6]);
        let mut sampler = Sampler::new(greedy(), Some(2), 2, (&[], &[1], 6)).unwrap();
        let sampled: Vec<Sampled> = (0..3).map(|_| sampler.sample(&logits).unwrap()).collect();
        let ids = sampled.iter().map(|s| s.token.item_exact::<u32>());
        assert_eq!(ids.collect::<Vec<_>>(), [3, 3, 1]);
        let logprob = sampled[0].logprobs.as_ref().unwrap().chosen.item_exact::<f32>();
        let total: f32 = LOGITS.iter().map(|logit| logit.exp()).sum();
        assert!((logprob - (1.5 - total.ln())).abs() < 1e-5);
    }
}
