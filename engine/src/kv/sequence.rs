//! What a sequence's caches hold, and what the cache knows of its model.

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

/// The last states kept in memory beside a sequence's caches.
const MAX_CHECKPOINTS: usize = 4;

/// What reuse must know of a loaded model.
#[derive(Debug)]
pub(crate) struct ModelReuse {
    pub(crate) id: ModelId,
    /// Its name, for people.
    pub(crate) name: String,
    /// Digest of its content.
    pub(crate) digest: String,
    pub(crate) layout: Layout,
    pub(crate) kinds: Vec<SlotSpec>,
    /// What keys and values are kept in, when not in the type that they are computed in.
    pub(crate) kv_dtype: Option<Dtype>,
    /// Tokens that end a message.
    pub(crate) message_ends: Arc<[u32]>,
    /// Tokens that a user's message begins with; empty when that is not known.
    pub(crate) user_opening: Arc<[u32]>,
}

impl ModelReuse {
    pub(crate) fn namespace(&self, block_tokens: usize, salt: &str) -> Namespace {
        identity::namespace(&self.digest, &self.layout.encode(), block_tokens, salt)
    }
}

/// A position at which prefill stops for a moment to keep the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) position: usize,
    /// Hand it to the store, not only to memory.
    pub(crate) save: bool,
}

/// What a sequence's caches hold, and what of it is stored.
#[derive(Debug, Clone)]
pub(crate) struct CachedSequence {
    pub(crate) chain: Chain,
    /// The tokens in the caches.
    pub(crate) tokens: Vec<u32>,
    pub(crate) needs: Needs,
    pub(crate) checkpoints: Vec<Checkpoint>,
    pub(crate) salt: String,
    /// Full blocks that need not be handed to the store any more.
    pub(crate) stored_blocks: usize,
    /// The next block could not be handed over, so that no later one can be either.
    pub(crate) broken: bool,
    /// Ahead of the caches, ascending.
    pub(crate) stops: Vec<Stop>,
    /// The last position at which a snapshot is stored, or that needs none.
    pub(crate) saved: usize,
    /// Where the last message of the prompt ends: what the next turn will surely repeat.
    pub(crate) message_end: Option<usize>,
}

impl CachedSequence {
    /// Where the chunk that begins at `from` has to end at the latest.
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
            // The first one, behind the system prompt, is what other conversations share.
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
    /// The state of the caches as they stand.
    pub(crate) fn of(cache: &SequenceCache) -> Self {
        let states = cache.slots.iter().filter_map(|layer| match layer {
            // A copy that fails leaves what is shared: that costs memory, nothing else.
            Slot::State(state) => Some(state.detached().unwrap_or_else(|_| state.clone())),
            Slot::Kv(_) => None,
        });
        Self { position: cache.offset as usize, states: states.collect() }
    }

    /// A position of caches that keep every token.
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

/// Length of what two sequences start with alike.
pub(crate) fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
