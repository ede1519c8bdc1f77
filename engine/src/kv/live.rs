//! Sequences whose KV caches stay in memory after their turn, so that the next turn can continue
//! them without a restore.

use crate::kv::sequence::Checkpoint;
use crate::kv::sequence::common_prefix;
use std::rc::Rc;
use std::time::Instant;

use kvstore::Namespace;

use crate::kv::sequence::{CachedSequence, ModelReuse};
use crate::kv::slots::{SequenceCache, Slot};
use crate::types::ModelId;

/// A sequence whose turn is over.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) model: Rc<ModelReuse>,
    pub(crate) cache: SequenceCache,
    pub(crate) track: CachedSequence,
    /// Number of tokens in its last prompt. The next turn may drop the tokens after them.
    pub(crate) prompt_tokens: usize,
    pub(crate) last_used: Instant,
    /// Whether a snapshot at its end was stored or is not needed.
    pub(crate) is_saved: bool,
}

impl Session {
    /// Bytes of its caches in memory.
    pub(crate) fn bytes(&self) -> usize {
        let checkpoints: usize = self.track.checkpoints.iter().map(Checkpoint::bytes).sum();
        self.cache.bytes() + checkpoints
    }

    /// The longest prefix of `prompt`, of at most `limit` tokens, to which its caches can be
    /// rewound.
    fn usable(&self, prompt: &[u32], limit: usize) -> usize {
        let tokens = &self.track.tokens;
        match common_prefix(tokens, prompt).min(limit) {
            common if common == tokens.len() => common,
            common => longest_rewind(&self.cache, &self.track, common),
        }
    }
}

/// The longest prefix, of at most `common` tokens, to which these caches can be rewound.
fn longest_rewind(cache: &SequenceCache, track: &CachedSequence, common: usize) -> usize {
    // A windowed layer cannot be rewound beyond the tokens that it still holds.
    let fits = |position: usize| {
        cache.slots.iter().all(|layer| match layer {
            Slot::Kv(kv) => {
                let look_back = kv.window.map_or(0, |window| window as usize - 1);
                position.saturating_sub(look_back) >= kv.base as usize
            }
            Slot::State(_) => true,
        })
    };
    if track.needs.state {
        let positions = track.checkpoints.iter().map(|checkpoint| checkpoint.position);
        return positions.filter(|&at| at <= common && fits(at)).max().unwrap_or(0);
    }
    if fits(common) { common } else { 0 }
}

/// A running sequence from which another sequence may branch off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Donor<'a> {
    pub(crate) cache: &'a SequenceCache,
    pub(crate) track: &'a CachedSequence,
}

impl Donor<'_> {
    /// The longest prefix of `prompt`, of at most `limit` tokens, that it can share.
    pub(crate) fn usable(&self, namespace: &Namespace, prompt: &[u32], limit: usize) -> usize {
        if self.track.chain.namespace() != namespace {
            return 0;
        }
        // Its caches may be ahead of its known tokens, and they keep advancing: a recurrent state
        // is usable only at its checkpoints.
        longest_rewind(self.cache, self.track, common_prefix(&self.track.tokens, prompt).min(limit))
    }

    /// Returns caches of its first `tokens` tokens. Buffers are shared until either sequence
    /// writes.
    pub(crate) fn branch(&self, tokens: usize, expected: usize) -> (SequenceCache, CachedSequence) {
        let (mut cache, mut track) = (self.cache.fork(expected), self.track.clone());
        rewind(&mut cache, &mut track, tokens);
        (cache, track)
    }
}

/// Rewinds caches to `tokens` tokens. The caller has checked that this is possible.
fn rewind(cache: &mut SequenceCache, track: &mut CachedSequence, tokens: usize) {
    if tokens == cache.offset as usize {
        return;
    }
    if let Some(checkpoint) = track.checkpoints.iter().find(|c| c.position == tokens) {
        let recurrent = cache.slots.iter_mut().filter_map(|layer| match layer {
            Slot::State(state) => Some(state),
            Slot::Kv(_) => None,
        });
        for (now, then) in recurrent.zip(&checkpoint.states) {
            *now = then.clone();
        }
    }
    cache.offset = tokens as i32;
    track.truncate(tokens);
}

/// All sessions under one byte budget, least recently used first.
#[derive(Debug, Default)]
pub(crate) struct LiveSessions {
    sessions: Vec<Session>,
}

impl LiveSessions {
    /// Finds the best session for a prompt. Returns its index and the number of usable tokens.
    pub(crate) fn find(
        &self,
        namespace: &Namespace,
        prompt: &[u32],
        limit: usize,
    ) -> Option<(usize, usize)> {
        let same = self.sessions.iter().enumerate();
        let same = same.filter(|(_, session)| session.track.chain.namespace() == namespace);
        let usable = same.map(|(index, session)| (index, session.usable(prompt, limit)));
        usable.filter(|(_, tokens)| *tokens > 0).max_by_key(|(_, tokens)| *tokens)
    }

    /// Continues session `index` from its first `tokens` tokens. If the prompt extends the session,
    /// the session is taken; if they only share a prefix, the prompt branches off.
    pub(crate) fn continue_from(
        &mut self,
        index: usize,
        tokens: usize,
        expected: usize,
    ) -> (SequenceCache, CachedSequence) {
        let extends = tokens + 1 >= self.sessions[index].prompt_tokens;
        let (mut cache, mut track) = if extends {
            let session = self.sessions.remove(index);
            (session.cache, session.track)
        } else {
            let session = &mut self.sessions[index];
            session.last_used = Instant::now();
            (session.cache.fork(expected), session.track.clone())
        };
        cache.expect(expected);
        rewind(&mut cache, &mut track, tokens);
        (cache, track)
    }

    pub(crate) fn push(&mut self, session: Session) {
        self.sessions.push(session);
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.sessions.iter_mut()
    }

    /// The bytes of all sessions.
    pub(crate) fn bytes(&self) -> usize {
        self.sessions.iter().map(Session::bytes).sum()
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Removes the least recently used session.
    pub(crate) fn pop_oldest(&mut self) -> Option<Session> {
        let oldest = self.sessions.iter().enumerate().min_by_key(|(_, session)| session.last_used);
        let (index, _) = oldest?;
        Some(self.sessions.remove(index))
    }

    /// Removes the sessions of one model, or with `None` all sessions.
    pub(crate) fn remove(&mut self, model: Option<ModelId>) -> Vec<Session> {
        let wanted = |session: &mut Session| model.is_none_or(|model| session.model.id == model);
        self.sessions.extract_if(.., wanted).collect()
    }
}
