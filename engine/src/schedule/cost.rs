//! How long steps take, learned from those that were.

use std::collections::BTreeMap;
use std::time::Duration;

/// Weight of the newest step in the averages.
const NEWEST: f64 = 0.2;
/// Without a target of its own, a step may take this many times what it takes without a prompt.
const STALL_FACTOR: f64 = 2.0;
/// Where that would hold a prompt below so many tokens a second, the step may take longer ..
const SLOWEST_PROMPT: f64 = 50.0;
/// .. but no longer than this many seconds. Behind a long context, and in a mixture of experts, a small
/// chunk reads nearly as much as a large one.
const LONGEST_STALL: f64 = 0.250;
/// The first chunk of a model, from which the cost of a prompt token is learned.
const FIRST_CHUNK: f64 = 8.0;

/// One step, as it was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct StepCost {
    /// Rows that decoded.
    pub(crate) decoding: usize,
    /// Prompt tokens beside them.
    pub(crate) prompt_tokens: usize,
    /// From the end of the step before, or from its own beginning after a pause.
    pub(crate) duration: Duration,
}

/// Averages for each model.
#[derive(Debug, Default)]
pub(crate) struct CostModel {
    models: BTreeMap<u64, ModelCosts>,
}

#[derive(Debug, Default)]
struct ModelCosts {
    /// Seconds of a step in which so many rows decode and no prompt is computed.
    decode: BTreeMap<usize, f64>,
    /// Seconds that a prompt token adds.
    prompt_token: Option<f64>,
}

impl CostModel {
    pub(crate) fn observe(&mut self, model: u64, step: StepCost) {
        let costs = self.models.entry(model).or_default();
        let secs = step.duration.as_secs_f64();
        if step.prompt_tokens == 0 {
            if step.decoding > 0 {
                let average = costs.decode.entry(step.decoding).or_insert(secs);
                // A step that was held up by something else must not count as what steps take.
                let secs = secs.min(*average * 2.0);
                *average += (secs - *average) * NEWEST;
            }
            return;
        }
        let alone = costs.decode(step.decoding).unwrap_or(0.0);
        let each = (secs - alone).max(0.0) / step.prompt_tokens as f64;
        let average = costs.prompt_token.get_or_insert(each);
        *average += (each.min(*average * 2.0) - *average) * NEWEST;
    }

    /// Prompt tokens for a step of so many decoding rows: as many as keep it within `stall`, one at
    /// least, so that a prompt gets on. A fraction of a token is one in some of the steps.
    pub(crate) fn chunk(&self, model: u64, decoding: usize, stall: Option<Duration>) -> f64 {
        let costs = self.models.get(&model);
        let alone = costs.and_then(|costs| costs.decode(decoding));
        let each = costs.and_then(|costs| costs.prompt_token);
        let (Some(alone), Some(each)) = (alone, each) else { return FIRST_CHUNK };
        let each = each.max(1e-9);
        let within = |secs: f64| (secs - alone) / each;
        let tokens = match stall {
            Some(stall) => within(stall.as_secs_f64()),
            None => {
                // Tokens c for which c / (alone + c * each) is the slowest rate.
                let rest = 1.0 - SLOWEST_PROMPT * each;
                let needed = if rest > 0.0 { SLOWEST_PROMPT * alone / rest } else { f64::INFINITY };
                within(alone * STALL_FACTOR).max(needed.min(within(LONGEST_STALL)))
            }
        };
        tokens.max(1.0)
    }
}

impl ModelCosts {
    /// Seconds of a step in which so many rows decode: as it was, or as it was with the nearest
    /// number of rows.
    fn decode(&self, rows: usize) -> Option<f64> {
        let below = self.decode.range(..=rows).next_back();
        let above = self.decode.range(rows..).next();
        let nearest = match (below, above) {
            (Some((low, a)), Some((high, b))) => {
                if rows - low <= high - rows {
                    Some(a)
                } else {
                    Some(b)
                }
            }
            (one, other) => one.or(other).map(|(_, secs)| secs),
        };
        nearest.copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(decoding: usize, prompt_tokens: usize, ms: u64) -> StepCost {
        StepCost { decoding, prompt_tokens, duration: Duration::from_millis(ms) }
    }

    /// A model whose steps take `alone` ms, and `cost` of the prompt tokens more; returns the chunk at
    /// which it settles.
    fn settled(alone: f64, stall: Option<Duration>, cost: impl Fn(f64) -> f64) -> f64 {
        let mut costs = CostModel::default();
        let mut chunk = 0.0;
        for _ in 0..200 {
            let ms = |ms: f64| Duration::from_secs_f64(ms / 1e3);
            costs.observe(1, StepCost { decoding: 1, prompt_tokens: 0, duration: ms(alone) });
            chunk = costs.chunk(1, 1, stall).round();
            let duration = ms(alone + cost(chunk));
            costs.observe(1, StepCost { decoding: 1, prompt_tokens: chunk as usize, duration });
        }
        chunk
    }

    #[test]
    fn a_chunk_is_cut_to_the_stall() {
        let mut costs = CostModel::default();
        assert_eq!(costs.chunk(1, 1, None), FIRST_CHUNK, "nothing is known");
        for _ in 0..50 {
            costs.observe(1, step(1, 0, 10));
            costs.observe(1, step(1, 10, 30));
        }
        // 2 ms a token over 10 ms.
        let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-6, "{got}, not {want}");
        close(costs.chunk(1, 1, None), 5.0);
        close(costs.chunk(1, 1, Some(Duration::from_millis(51))), 20.5);
        close(costs.chunk(1, 1, Some(Duration::from_millis(5))), 1.0);
        close(costs.chunk(1, 4, None), 5.0); // the nearest number of rows that is known
        close(costs.chunk(2, 1, None), FIRST_CHUNK); // another model
    }

    #[test]
    fn a_prompt_gets_on_where_small_chunks_are_dear() {
        assert_eq!(settled(2.0, None, |tokens| 2.0 * tokens), 1.0, "cheap steps, dear tokens");
        assert_eq!(settled(10.0, None, |tokens| 0.1 * tokens), 100.0, "twice the step");
        // Any chunk reads the same, as behind a long context.
        let cost = |tokens: f64| 40.0 + 0.5 * tokens;
        let chunk = settled(20.0, None, cost);
        let rate = chunk / (20.0 + cost(chunk)) * 1e3;
        assert!((SLOWEST_PROMPT * 0.8..70.0).contains(&rate), "{chunk} tokens, {rate} a second");
        // No chunk is fast enough: as much as the longest stall holds.
        assert_eq!(settled(50.0, None, |tokens| 25.0 * tokens), 8.0);
        assert_eq!(settled(50.0, Some(Duration::from_millis(66)), |tokens| 8.0 * tokens), 2.0);
    }

    #[test]
    fn one_slow_step_changes_little() {
        let mut costs = CostModel::default();
        (0..50).for_each(|_| costs.observe(1, step(1, 0, 10)));
        costs.observe(1, step(1, 0, 10_000));
        assert!(costs.models[&1].decode[&1] < 0.013);
    }
}
