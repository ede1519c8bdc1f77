//! The available memory, and the memory that a sequence needs.

/// The memory that rows may reserve from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// The budget of the whole engine.
    pub(crate) budget_bytes: u64,
    /// A lower limit while the system is short of memory. A single row may exceed it, so that
    /// requests are still answered.
    pub(crate) ceiling_bytes: u64,
    /// Bytes used by everything but rows: weights, caches kept for later, MLX's cache, the RAM
    /// tier.
    pub(crate) used_bytes: u64,
    /// Memory is short, so only small chunks are computed.
    pub(crate) is_short: bool,
}

/// Under pressure a chunk is reduced to this fraction (1/4).
const SHORT_CHUNK_DIVISOR: usize = 4;

impl Memory {
    /// Bytes that rows may still reserve when they have `reserved` bytes; `alone`: for the only
    /// row.
    pub(crate) fn free_bytes(&self, reserved: u64, alone: bool) -> u64 {
        let most =
            if alone { self.budget_bytes } else { self.budget_bytes.min(self.ceiling_bytes) };
        most.saturating_sub(self.used_bytes).saturating_sub(reserved)
    }

    /// The chunk size in tokens, if nothing else limits it.
    pub(crate) fn chunk(&self, most: usize) -> usize {
        if self.is_short { (most / SHORT_CHUNK_DIVISOR).max(1) } else { most }
    }
}

/// The memory of a sequence's caches as a function of its length.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct KvCost {
    /// Bytes per token of the layers that keep all tokens.
    pub(crate) token_bytes: u64,
    /// For each layer with a window: bytes per token, and its maximum number of tokens.
    pub(crate) windows: Vec<(u64, usize)>,
    /// Bytes that do not depend on the length.
    pub(crate) fixed_bytes: u64,
}

impl KvCost {
    /// Bytes for `tokens` tokens; 0 for none.
    pub(crate) fn bytes(&self, tokens: usize) -> u64 {
        if tokens == 0 {
            return 0;
        }
        // Buffers grow in fixed increments.
        let held = tokens.next_multiple_of(super::GROW_TOKENS);
        let windows = self.windows.iter().map(|&(bytes, most)| bytes * held.min(most) as u64);
        self.fixed_bytes + self.token_bytes * held as u64 + windows.sum::<u64>()
    }

    /// The largest number of tokens that fit in `bytes`.
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
