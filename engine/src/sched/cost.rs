//! Estimates how long steps take, learned from past steps.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Number of decode steps remembered. Other activity on the machine delays single steps, and the
/// arrival of a long prompt delays dozens in a row: it is read while others decode, and then no
/// step runs without it for minutes. The lower quartile is therefore used; an average would keep
/// the delayed steps.
const DECODE_STEPS: usize = 100;
/// Weight of the newest chunk in the average cost of a prompt token.
const NEWEST: f64 = 0.2;
/// Costs of prompt tokens are kept by depth in units of this many tokens, because a token costs
/// more the more tokens precede it.
const DEPTH_TOKENS: usize = 1024;
/// Without a configured target, a step with a prompt chunk may take this many times as long as one
/// without.
const STALL_FACTOR: f64 = 2.0;
/// A step may take longer if its prompt would otherwise fall below this many tokens a second.
const SLOWEST_PROMPT: f64 = 50.0;
/// Limit in seconds on such a step. After a long context, and in a mixture of experts, a small
/// chunk reads nearly as much memory as a large one.
const LONGEST_STALL: f64 = 0.250;
/// The first chunk of a model, from which the cost of a prompt token is learned.
const FIRST_CHUNK: f64 = 8.0;

/// The measured cost of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct StepCost {
    /// Number of decoding rows.
    pub(crate) decoding: usize,
    /// Number of prompt tokens in the same step.
    pub(crate) prompt_tokens: usize,
    /// Number of tokens of the same prompt before them.
    pub(crate) depth: usize,
    /// Time from the end of the previous step, or from its own start after a pause.
    pub(crate) duration: Duration,
}

/// The known costs of each model.
#[derive(Debug, Default)]
pub(crate) struct CostModel {
    models: BTreeMap<u64, ModelCosts>,
}

#[derive(Debug, Default)]
struct ModelCosts {
    /// Seconds of a step without a prompt, by number of decoding rows.
    decode: BTreeMap<usize, DecodeSteps>,
    /// Seconds that a prompt token adds, by depth in units of [`DEPTH_TOKENS`].
    prompt_token: BTreeMap<usize, f64>,
}

/// The newest [`DECODE_STEPS`], in seconds, oldest first.
#[derive(Debug, Default)]
struct DecodeSteps(VecDeque<f64>);

impl DecodeSteps {
    fn note(&mut self, secs: f64) {
        if self.0.len() == DECODE_STEPS {
            self.0.pop_front();
        }
        self.0.push_back(secs);
    }

    fn lower_quartile(&self) -> Option<f64> {
        let mut steps: Vec<f64> = self.0.iter().copied().collect();
        let place = steps.len().checked_sub(1)? / 4;
        Some(*steps.select_nth_unstable_by(place, f64::total_cmp).1)
    }
}

impl CostModel {
    /// Keeps only the models for which `is_loaded` is true.
    pub(crate) fn keep(&mut self, is_loaded: impl Fn(u64) -> bool) {
        self.models.retain(|model, _| is_loaded(*model));
    }

    pub(crate) fn observe(&mut self, model: u64, step: StepCost) {
        let costs = self.models.entry(model).or_default();
        let secs = step.duration.as_secs_f64();
        if step.prompt_tokens > 0 {
            let alone = costs.decode(step.decoding).unwrap_or(0.0);
            let each = (secs - alone).max(0.0) / step.prompt_tokens as f64;
            let depth = step.depth / DEPTH_TOKENS;
            // At a new depth, a prompt starts from the cost of its last chunks.
            let before = depth.checked_sub(1).and_then(|depth| costs.prompt_token.get(&depth));
            let before = before.copied().unwrap_or(each);
            let average = costs.prompt_token.entry(depth).or_insert(before);
            *average += (each.min(*average * 2.0) - *average) * NEWEST;
        } else if step.decoding > 0 {
            costs.decode.entry(step.decoding).or_default().note(secs);
        }
    }

    /// The size of a prompt chunk after `depth` tokens, for a step with `rows` decoding rows: the
    /// largest that keeps the step within `stall`, but at least one token, so that the prompt
    /// progresses. A fraction of a token means one token in some of the steps.
    pub(crate) fn chunk(
        &self,
        model: u64,
        decoding: usize,
        depth: usize,
        stall: Option<Duration>,
    ) -> f64 {
        let costs = self.models.get(&model);
        let alone = costs.and_then(|costs| costs.decode(decoding));
        let each = costs.and_then(|costs| costs.prompt_token(depth));
        let (Some(alone), Some(each)) = (alone, each) else { return FIRST_CHUNK };
        let each = each.max(1e-9);
        let within = |secs: f64| (secs - alone) / each;
        let tokens = match stall {
            Some(stall) => within(stall.as_secs_f64()),
            None => {
                // The number of tokens c for which c / (alone + c * each) is the slowest rate.
                let rest = 1.0 - SLOWEST_PROMPT * each;
                let needed = if rest > 0.0 { SLOWEST_PROMPT * alone / rest } else { f64::INFINITY };
                within(alone * STALL_FACTOR).max(needed.min(within(LONGEST_STALL)))
            }
        };
        tokens.max(1.0)
    }
}

impl ModelCosts {
    /// Seconds of a step with `rows` decoding rows, or with the nearest known number of rows.
    fn decode(&self, rows: usize) -> Option<f64> {
        nearest(&self.decode, rows)?.lower_quartile()
    }

    /// Seconds that a prompt token adds at `depth`, or at the nearest known depth.
    fn prompt_token(&self, depth: usize) -> Option<f64> {
        nearest(&self.prompt_token, depth / DEPTH_TOKENS).copied()
    }
}

/// The value whose key is nearest to `key`.
fn nearest<T>(map: &BTreeMap<usize, T>, key: usize) -> Option<&T> {
    let below = map.range(..=key).next_back();
    let above = map.range(key..).next();
    below.into_iter().chain(above).min_by_key(|(at, _)| at.abs_diff(key)).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(decoding: usize, prompt_tokens: usize, ms: u64) -> StepCost {
        StepCost { decoding, prompt_tokens, depth: 0, duration: Duration::from_millis(ms) }
    }

    /// Simulates a model whose steps take `alone` ms plus `cost` of the prompt tokens. Returns the
    /// final chunk size.
    fn settled(alone: f64, stall: Option<Duration>, cost: impl Fn(f64) -> f64) -> f64 {
        let mut costs = CostModel::default();
        let mut chunk = 0.0;
        for _ in 0..200 {
            let ms = |ms: f64| Duration::from_secs_f64(ms / 1e3);
            costs.observe(1, StepCost { duration: ms(alone), ..step(1, 0, 0) });
            chunk = costs.chunk(1, 1, 0, stall).round();
            let duration = ms(alone + cost(chunk));
            costs.observe(1, StepCost { duration, ..step(1, chunk as usize, 0) });
        }
        chunk
    }

    #[test]
    fn a_chunk_is_limited_by_the_stall() {
        let mut costs = CostModel::default();
        assert_eq!(costs.chunk(1, 1, 0, None), FIRST_CHUNK, "nothing is known");
        for _ in 0..50 {
            costs.observe(1, step(1, 0, 10));
            costs.observe(1, step(1, 10, 30));
        }
        // 2 ms a token in addition to 10 ms.
        let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-6, "{got}, not {want}");
        close(costs.chunk(1, 1, 0, None), 5.0);
        close(costs.chunk(1, 1, 0, Some(Duration::from_millis(51))), 20.5);
        close(costs.chunk(1, 1, 0, Some(Duration::from_millis(5))), 1.0);
        close(costs.chunk(1, 4, 0, None), 5.0); // the nearest known number of rows
        close(costs.chunk(2, 1, 0, None), FIRST_CHUNK); // another model
    }

    #[test]
    fn a_prompt_progresses_when_small_chunks_are_expensive() {
        assert_eq!(settled(2.0, None, |tokens| 2.0 * tokens), 1.0, "cheap steps, dear tokens");
        assert_eq!(settled(10.0, None, |tokens| 0.1 * tokens), 100.0, "twice the step");
        // Every chunk reads the same memory, as after a long context.
        let cost = |tokens: f64| 40.0 + 0.5 * tokens;
        let chunk = settled(20.0, None, cost);
        let rate = chunk / (20.0 + cost(chunk)) * 1e3;
        assert!((SLOWEST_PROMPT * 0.8..70.0).contains(&rate), "{chunk} tokens, {rate} a second");
        // No chunk is fast enough, so the longest stall sets its size.
        assert_eq!(settled(50.0, None, |tokens| 25.0 * tokens), 8.0);
        assert_eq!(settled(50.0, Some(Duration::from_millis(66)), |tokens| 8.0 * tokens), 2.0);
    }

    #[test]
    fn a_token_costs_the_same_at_the_same_depth() {
        let mut costs = CostModel::default();
        (0..50).for_each(|_| costs.observe(1, step(1, 0, 10)));
        for depth in (0..50_000).step_by(20) {
            let each = 1 + depth as u64 / 10_000;
            costs.observe(1, StepCost { depth, ..step(1, 10, 10 + 10 * each) });
        }
        let chunk = |depth| costs.chunk(1, 1, depth, Some(Duration::from_millis(70)));
        for (depth, tokens) in [(0, 60.0), (5_000, 60.0), (45_000, 12.0), (190_000, 12.0)] {
            let got = chunk(depth);
            assert!((got / tokens - 1.0).abs() < 0.01, "{depth}: {got}, not {tokens}");
        }
    }

    #[test]
    fn unloaded_models_are_forgotten() {
        let mut costs = CostModel::default();
        for model in 0..1000 {
            costs.observe(model, step(1, 0, 10));
            costs.observe(model, step(1, 10, 30));
            costs.keep(|loaded| loaded >= model || loaded == 7);
        }
        assert_eq!(costs.models.keys().copied().collect::<Vec<_>>(), [7, 999]);
        assert_ne!(costs.chunk(7, 1, 0, None), FIRST_CHUNK, "it is still known");
    }

    #[test]
    fn a_few_slow_steps_change_nothing() {
        let mut costs = CostModel::default();
        (0..50).for_each(|_| costs.observe(1, step(1, 0, 10)));
        let chunk = |costs: &mut CostModel| {
            costs.observe(1, step(1, 10, 30));
            costs.chunk(1, 1, 0, None)
        };
        let before = chunk(&mut costs);
        (0..50).for_each(|_| costs.observe(1, step(1, 0, 100)));
        assert_eq!(chunk(&mut costs), before);
        (0..DECODE_STEPS).for_each(|_| costs.observe(1, step(1, 0, 20)));
        assert_ne!(chunk(&mut costs), before, "that is what steps take now");
    }
}
