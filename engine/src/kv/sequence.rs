//! The contents of a sequence's caches, and the model properties that reuse needs.

use crate::kv::identity;
use crate::kv::identity::Chain;
use crate::kv::pages::Layout;
use crate::kv::plan::Needs;
use crate::kv::slots::SequenceCache;
use crate::kv::slots::Slot;
use crate::kv::slots::SlotSpec;
use crate::kv::slots::StateSlot;
use crate::types::ModelId;
use kvstore::Namespace;
use mlx_rs::Dtype;
use std::sync::Arc;

/// Number of recent recurrent states kept in memory with a sequence's caches.
const MAX_CHECKPOINTS: usize = 4;

/// The properties of a loaded model that reuse needs.
#[derive(Debug)]
pub(crate) struct ModelReuse {
    pub(crate) id: ModelId,
    /// The model's name, for messages.
    pub(crate) name: String,
    /// Digest of the model's content.
    pub(crate) digest: String,
    pub(crate) layout: Layout,
    pub(crate) kinds: Vec<SlotSpec>,
    /// Dtype of cached keys and values, if it differs from the compute dtype.
    pub(crate) kv_dtype: Option<Dtype>,
    /// Tokens that end a message.
    pub(crate) message_ends: Arc<[u32]>,
    /// Tokens that open a user's message; empty when unknown.
    pub(crate) user_opening: Arc<[u32]>,
}

impl ModelReuse {
    pub(crate) fn namespace(&self, block_tokens: usize, salt: &str) -> Namespace {
        identity::namespace(&self.digest, &self.layout.encode(), block_tokens, salt)
    }
}

/// A position at which prefill pauses to keep the recurrent state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) position: usize,
    /// Whether to store the state and not only keep it in memory.
    pub(crate) save: bool,
}

/// The contents of a sequence's caches, and how much of them is stored.
#[derive(Debug, Clone)]
pub(crate) struct CachedSequence {
    pub(crate) chain: Chain,
    /// The tokens in the caches.
    pub(crate) tokens: Vec<u32>,
    pub(crate) needs: Needs,
    pub(crate) checkpoints: Vec<Checkpoint>,
    pub(crate) salt: String,
    /// Number of full blocks that are already handed to the store or need not be.
    pub(crate) stored_blocks: usize,
    /// True when a block could not be handed over, so that no later block can be either.
    pub(crate) broken: bool,
    /// Stops ahead of the caches, in ascending order.
    pub(crate) stops: Vec<Stop>,
    /// The last position at which a snapshot is stored or not needed.
    pub(crate) saved: usize,
    /// The end of the prompt's last message, up to which the next turn will repeat it for certain.
    pub(crate) message_end: Option<usize>,
}

impl CachedSequence {
    /// The latest position at which the chunk that begins at `from` must end.
    pub(crate) fn next_stop(&self, from: usize) -> Option<usize> {
        self.stops.iter().map(|stop| stop.position).find(|&position| position > from)
    }

    pub(crate) fn truncate(&mut self, tokens: usize) {
        self.tokens.truncate(tokens);
        self.chain.truncate(tokens);
        self.stored_blocks = self.stored_blocks.min(self.chain.keys().len());
        self.checkpoints.retain(|checkpoint| checkpoint.position <= tokens);
        self.saved = self.saved.min(tokens);
    }

    pub(crate) fn remember(&mut self, checkpoint: Checkpoint) {
        self.checkpoints.retain(|old| old.position != checkpoint.position);
        if self.checkpoints.len() >= MAX_CHECKPOINTS {
            // Keep the first one, after the system prompt, which other conversations share.
            self.checkpoints.remove(1);
        }
        self.checkpoints.push(checkpoint);
    }
}

impl CachedSequence {
    pub(crate) fn new(chain: Chain, needs: Needs, salt: &str) -> Self {
        Self {
            chain,
            tokens: Vec::new(),
            needs,
            checkpoints: Vec::new(),
            salt: salt.to_owned(),
            stored_blocks: 0,
            broken: false,
            stops: Vec::new(),
            saved: 0,
            message_end: None,
        }
    }
}

/// The states of a sequence's recurrent layers at an earlier position.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoint {
    pub(crate) position: usize,
    /// One state per recurrent layer, in order.
    pub(crate) states: Vec<StateSlot>,
}

impl Checkpoint {
    /// Keeps the current state of the caches.
    pub(crate) fn of(cache: &SequenceCache) -> Self {
        let states = cache.slots.iter().filter_map(|layer| match layer {
            // If the copy fails, the shared arrays stay in use, which only costs memory.
            Slot::State(state) => Some(state.detached().unwrap_or_else(|_| state.clone())),
            Slot::Kv(_) => None,
        });
        Self { position: cache.offset as usize, states: states.collect() }
    }

    /// A position in caches that keep all tokens and have no state.
    pub(crate) fn without_state(position: usize) -> Self {
        Self { position, states: Vec::new() }
    }

    /// One state per recurrent layer, in order.
    pub(crate) fn states(&self) -> &[StateSlot] {
        &self.states
    }

    pub(crate) fn bytes(&self) -> usize {
        self.states.iter().map(StateSlot::bytes).sum()
    }
}

/// The length of the common prefix of two sequences.
pub(crate) fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
