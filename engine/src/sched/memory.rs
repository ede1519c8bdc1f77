//! What memory there is, and what a sequence needs of it.

/// The memory that rows may reserve from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// What all of the engine may use.
    pub(crate) budget_bytes: u64,
    /// What it should do with while the system is short of memory; one row may pass it, so that
    /// there is always an answer.
    pub(crate) ceiling_bytes: u64,
    /// Used beside the rows: weights, caches kept for later, MLX's own cache, the cold tier's RAM.
    pub(crate) used_bytes: u64,
    /// Memory is short: only small chunks are computed.
    pub(crate) is_short: bool,
}

/// Under pressure a step takes this part of the chunk that it would.
const SHORT_CHUNK_DIVISOR: usize = 4;

impl Memory {
    /// What rows may still reserve when they have `reserved` bytes; `alone`: for the only row.
    pub(crate) fn free_bytes(&self, reserved: u64, alone: bool) -> u64 {
        let most =
            if alone { self.budget_bytes } else { self.budget_bytes.min(self.ceiling_bytes) };
        most.saturating_sub(self.used_bytes).saturating_sub(reserved)
    }

    /// Prompt tokens in a step, when nothing else bounds them.
    pub(crate) fn chunk(&self, most: usize) -> usize {
        if self.is_short { (most / SHORT_CHUNK_DIVISOR).max(1) } else { most }
    }
}

/// What the caches of a sequence take, by its length.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct KvCost {
    /// Per token, of the layers that keep all tokens.
    pub(crate) token_bytes: u64,
    /// Of layers that keep a window: bytes per token, and tokens that they hold at most.
    pub(crate) windows: Vec<(u64, usize)>,
    /// Whatever the length.
    pub(crate) fixed_bytes: u64,
}

impl KvCost {
    /// Bytes for so many tokens; 0 for none.
    pub(crate) fn bytes(&self, tokens: usize) -> u64 {
        if tokens == 0 {
            return 0;
        }
        // Buffers grow by whole steps.
        let held = tokens.next_multiple_of(super::GROW_TOKENS);
        let windows = self.windows.iter().map(|&(bytes, most)| bytes * held.min(most) as u64);
        self.fixed_bytes + self.token_bytes * held as u64 + windows.sum::<u64>()
    }

    /// The most tokens that fit into so many bytes.
    pub(crate) fn tokens_in(&self, bytes: u64) -> usize {
        let windows: u64 = self.windows.iter().map(|&(bytes, most)| bytes * most as u64).sum();
        let rest = bytes.saturating_sub(self.fixed_bytes + windows);
        match rest.checked_div(self.token_bytes) {
            Some(tokens) => tokens as usize / super::GROW_TOKENS * super::GROW_TOKENS,
            None if rest > 0 => usize::MAX,
            None => 0,
        }
    }
}
