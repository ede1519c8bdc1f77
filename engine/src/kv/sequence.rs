//! What the caches of a sequence hold, and what the prefix cache knows about its model.

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

/// The most checkpoints kept in memory for a sequence.
const MAX_CHECKPOINTS: usize = 4;

/// What the prefix cache must know about a loaded model.
#[derive(Debug)]
pub(crate) struct ModelReuse {
    pub(crate) id: ModelId,
    /// Its name, for messages and reports.
    pub(crate) name: String,
    /// Digest of its content.
    pub(crate) digest: String,
    pub(crate) layout: Layout,
    pub(crate) kinds: Vec<SlotSpec>,
    /// The type in which keys and values are kept, if it is not the type of the computation.
    pub(crate) kv_dtype: Option<Dtype>,
    /// Tokens that end a message.
    pub(crate) message_ends: Arc<[u32]>,
    /// The tokens with which a message of a user begins; empty if they are not known.
    pub(crate) user_opening: Arc<[u32]>,
}

impl ModelReuse {
    pub(crate) fn namespace(&self, block_tokens: usize, salt: &str) -> Namespace {
        identity::namespace(&self.digest, &self.layout.encode(), block_tokens, salt)
    }
}

/// A position at which prefill stops for a moment to keep the recurrent state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) position: usize,
    /// Whether the snapshot is put into the store, and not only kept in memory.
    pub(crate) save: bool,
}

/// The tokens in the caches of a sequence, and how much of them is stored.
#[derive(Debug, Clone)]
pub(crate) struct CachedSequence {
    pub(crate) chain: Chain,
    /// The tokens in the caches.
    pub(crate) tokens: Vec<u32>,
    pub(crate) needs: Needs,
    pub(crate) checkpoints: Vec<Checkpoint>,
    pub(crate) salt: String,
    /// The number of full blocks that are in the store.
    pub(crate) stored_blocks: usize,
    /// The next block could not be stored, so no later block can be.
    pub(crate) broken: bool,
    /// The stops after the position of the caches, in ascending order.
    pub(crate) stops: Vec<Stop>,
    /// The last position that is stored or needs no snapshot.
    pub(crate) saved: usize,
    /// The end of the last message of the prompt. The next turn certainly repeats everything before it.
    pub(crate) message_end: Option<usize>,
}

impl CachedSequence {
    /// The position where a chunk that begins at `from` must end at the latest.
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
            // The first one stays: it follows the system prompt, which other conversations share.
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

/// The recurrent layers of a sequence at an earlier position.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoint {
    pub(crate) position: usize,
    /// One per recurrent layer, in order.
    pub(crate) states: Vec<StateSlot>,
}

impl Checkpoint {
    /// A checkpoint at the position of the caches.
    pub(crate) fn of(cache: &SequenceCache) -> Self {
        let states = cache.slots.iter().filter_map(|layer| match layer {
            // If the copy fails, the arrays stay shared, which only costs memory.
            Slot::State(state) => Some(state.detached().unwrap_or_else(|_| state.clone())),
            Slot::Kv(_) => None,
        });
        Self { position: cache.offset as usize, states: states.collect() }
    }

    /// A checkpoint of caches without recurrent layers.
    pub(crate) fn without_state(position: usize) -> Self {
        Self { position, states: Vec::new() }
    }

    /// One per recurrent layer, in order.
    pub(crate) fn states(&self) -> &[StateSlot] {
        &self.states
    }

    pub(crate) fn bytes(&self) -> usize {
        self.states.iter().map(StateSlot::bytes).sum()
    }
}

/// The length of the longest common prefix.
pub(crate) fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
