//! How long steps take, learned from those that were.

use std::collections::BTreeMap;
use std::time::Duration;

/// Weight of the newest step in the averages.
const NEWEST: f64 = 0.2;
/// Without a target of its own, a step may take this many times what it takes without a prompt.
const STALL_FACTOR: f64 = 2.0;

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
        *average += (each - *average) * NEWEST;
    }

    /// Prompt tokens with which a step of so many decoding rows takes no longer than `stall`.
    pub(crate) fn chunk(&self, model: u64, decoding: usize, stall: Option<Duration>) -> usize {
        // What is not known yet is found out with the smallest chunk.
        let Some(costs) = self.models.get(&model) else { return 0 };
        let (Some(alone), Some(each)) = (costs.decode(decoding), costs.prompt_token) else {
            return 0;
        };
        let limit = stall.map_or(alone * STALL_FACTOR, |stall| stall.as_secs_f64());
        ((limit - alone).max(0.0) / each.max(1e-9)) as usize
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

    #[test]
    fn a_chunk_is_cut_to_the_stall() {
        let mut costs = CostModel::default();
        assert_eq!(costs.chunk(1, 1, None), 0, "nothing is known");
        for _ in 0..50 {
            costs.observe(1, step(1, 0, 10));
            costs.observe(1, step(1, 10, 30));
        }
        // 2 ms a token over 10 ms.
        assert_eq!(costs.chunk(1, 1, None), 5);
        assert_eq!(costs.chunk(1, 1, Some(Duration::from_millis(51))), 20);
        assert_eq!(costs.chunk(1, 1, Some(Duration::from_millis(5))), 0);
        assert_eq!(costs.chunk(1, 4, None), 5, "the nearest number of rows that is known");
        assert_eq!(costs.chunk(2, 1, None), 0, "another model");
    }

    #[test]
    fn one_slow_step_changes_little() {
        let mut costs = CostModel::default();
        (0..50).for_each(|_| costs.observe(1, step(1, 0, 10)));
        costs.observe(1, step(1, 0, 10_000));
        assert!(costs.models[&1].decode[&1] < 0.013);
    }
}
