//! Plans which stored records to read to rebuild the longest prefix; a pure function.

use std::ops::Range;

/// The records that a model's layers need in a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Needs {
    /// The largest number of tokens that a windowed layer looks back, not counting the newest
    /// token; 0 when no layer has a window.
    pub(crate) look_back: usize,
    /// Whether some layer has a recurrent state, which is usable only at its exact position.
    pub(crate) state: bool,
}

/// The stored records of a sequence.
pub(crate) trait StoredBlocks {
    /// Number of full blocks stored, from the first without a gap.
    fn blocks(&self) -> usize;
    /// Whether the part of a block that belongs to windowed layers is stored.
    fn has_window(&self, block: usize) -> bool;
    /// The last snapshot at a position from `from` to `limit`, both inclusive, whose parent is
    /// among the stored blocks.
    fn last_snapshot(&self, from: usize, limit: usize) -> Option<usize>;
}

/// The records to restore.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Plan {
    /// Number of tokens that the caches will hold; 0 when nothing can be restored.
    pub(crate) tokens: usize,
    /// Number of full blocks to read. The last one may be used only in part.
    pub(crate) blocks: usize,
    /// The blocks whose windowed part is read.
    pub(crate) windows: Range<usize>,
    /// Whether a snapshot at position `tokens` is read.
    pub(crate) snapshot: bool,
}

/// Finds the longest prefix of at most `limit` tokens for which every layer can be rebuilt.
pub(crate) fn plan(
    needs: Needs,
    block_tokens: usize,
    limit: usize,
    stored: &impl StoredBlocks,
) -> Plan {
    let stored_tokens = stored.blocks() * block_tokens;
    let by_blocks = if needs.state { None } else { at_block(needs, block_tokens, limit, stored) };
    // Without recurrent states a snapshot is worth reading only after the end of the blocks.
    let from = if needs.state { 1 } else { stored_tokens.max(1) };
    let mut limit = limit.min(stored_tokens + block_tokens - 1);
    while from <= limit
        && let Some(position) = stored.last_snapshot(from, limit)
    {
        let windows = window_blocks(needs, block_tokens, position);
        if windows.clone().all(|block| stored.has_window(block)) {
            if by_blocks.as_ref().is_some_and(|plan| plan.tokens >= position) {
                break;
            }
            let blocks = position / block_tokens;
            return Plan { tokens: position, blocks, windows, snapshot: true };
        }
        limit = position - 1;
    }
    by_blocks.unwrap_or_default()
}

/// Finds the longest prefix that full blocks alone can rebuild.
fn at_block(
    needs: Needs,
    block_tokens: usize,
    limit: usize,
    stored: &impl StoredBlocks,
) -> Option<Plan> {
    let stored_blocks = stored.blocks();
    if needs.look_back == 0 {
        // Any prefix of a block's keys and values is usable.
        let tokens = limit.min(stored_blocks * block_tokens);
        let blocks = tokens.div_ceil(block_tokens);
        return (tokens > 0).then_some(Plan { tokens, blocks, windows: 0..0, snapshot: false });
    }
    (1..=stored_blocks.min(limit / block_tokens)).rev().find_map(|blocks| {
        let tokens = blocks * block_tokens;
        let windows = window_blocks(needs, block_tokens, tokens);
        let complete = windows.clone().all(|block| stored.has_window(block));
        complete.then_some(Plan { tokens, blocks, windows, snapshot: false })
    })
}

/// The full blocks whose windowed part is needed at `position`. The snapshot has the tokens after
/// the last full block.
fn window_blocks(needs: Needs, block_tokens: usize, position: usize) -> Range<usize> {
    let full = position / block_tokens;
    let first = position.saturating_sub(needs.look_back) / block_tokens;
    if needs.look_back == 0 { 0..0 } else { first.min(full)..full }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    struct StoreView {
        blocks: usize,
        windows: BTreeSet<usize>,
        snapshots: BTreeSet<usize>,
        block_tokens: usize,
    }

    impl StoredBlocks for StoreView {
        fn blocks(&self) -> usize {
            self.blocks
        }
        fn has_window(&self, block: usize) -> bool {
            self.windows.contains(&block)
        }
        fn last_snapshot(&self, from: usize, limit: usize) -> Option<usize> {
            let linked = |position: &&usize| *position / self.block_tokens <= self.blocks;
            self.snapshots.range(from..=limit).rev().find(linked).copied()
        }
    }

    /// Whether every layer can be rebuilt at `position`, straight from the definition.
    fn possible(needs: Needs, view: &StoreView, position: usize) -> bool {
        let size = view.block_tokens;
        let snapshot = view.snapshots.contains(&position) && position / size <= view.blocks;
        let whole = position <= view.blocks * size;
        let windows = |full: usize| {
            let seen = position.saturating_sub(needs.look_back)..position;
            seen.filter(|token| token / size < full).all(|t| view.windows.contains(&(t / size)))
        };
        let full = position / size;
        match (needs.state, needs.look_back) {
            (true, _) => snapshot && windows(full),
            (false, 0) => snapshot || whole,
            (false, _) => {
                (snapshot && position > view.blocks * size && windows(full))
                    || (whole && position.is_multiple_of(size) && windows(full))
                    || (snapshot && windows(full) && position >= view.blocks * size)
            }
        }
    }

    /// A small generator, so that a seed identifies a failing case.
    fn random(seed: &mut u64) -> usize {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        (*seed >> 33) as usize
    }

    #[test]
    fn the_longest_possible_boundary_is_found() {
        for case in 1..20_000_u64 {
            let mut seed = case.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let block_tokens = 1 + random(&mut seed) % 6;
            let blocks = random(&mut seed) % 6;
            let total = (blocks + 2) * block_tokens;
            let view = StoreView {
                blocks,
                windows: (0..blocks + 1).filter(|_| !random(&mut seed).is_multiple_of(4)).collect(),
                snapshots: (1..=total).filter(|_| random(&mut seed).is_multiple_of(4)).collect(),
                block_tokens,
            };
            let needs = Needs {
                look_back: [0, random(&mut seed) % 14][random(&mut seed) % 2],
                state: random(&mut seed).is_multiple_of(2),
            };
            let limit = random(&mut seed) % (total + 1);
            let plan = plan(needs, block_tokens, limit, &view);
            let best = (1..=limit).rev().find(|&at| possible(needs, &view, at)).unwrap_or(0);
            assert_eq!(plan.tokens, best, "case {case}: {needs:?}, limit {limit}");
            assert!(plan.blocks <= blocks, "case {case}");
            assert!(plan.windows.clone().all(|block| view.has_window(block)), "case {case}");
            assert!(!plan.snapshot || view.snapshots.contains(&plan.tokens), "case {case}");
            assert!(!needs.state || plan.tokens == 0 || plan.snapshot, "case {case}");
        }
    }
}
