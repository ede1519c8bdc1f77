//! Sequences that stay in memory after their turn, so that the next turn continues them without
//! reading anything.

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
    /// Tokens of its last prompt: what follows may be dropped by the next turn.
    pub(crate) prompt_tokens: usize,
    pub(crate) last_used: Instant,
    /// Whether a snapshot at its end was handed to the store, or is not wanted.
    pub(crate) is_saved: bool,
}

impl Session {
    /// Memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        let checkpoints: usize = self.track.checkpoints.iter().map(Checkpoint::bytes).sum();
        self.cache.bytes() + checkpoints
    }

    /// The longest prefix of `prompt`, at most `limit` tokens, that its caches can be taken to.
    fn usable(&self, prompt: &[u32], limit: usize) -> usize {
        let tokens = &self.track.tokens;
        match common_prefix(tokens, prompt).min(limit) {
            common if common == tokens.len() => common,
            common => longest_rewind(&self.cache, &self.track, common),
        }
    }
}

/// The longest prefix, at most `common` tokens, that these caches can be taken back to.
fn longest_rewind(cache: &SequenceCache, track: &CachedSequence, common: usize) -> usize {
    // A windowed layer cannot go back to before what it still holds.
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

/// A running sequence that another may branch off from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Donor<'a> {
    pub(crate) cache: &'a SequenceCache,
    pub(crate) track: &'a CachedSequence,
}

impl Donor<'_> {
    /// The longest prefix of `prompt`, at most `limit` tokens, that it can give.
    pub(crate) fn usable(&self, namespace: &Namespace, prompt: &[u32], limit: usize) -> usize {
        if self.track.chain.namespace() != namespace {
            return 0;
        }
        // Its caches may be ahead of its known tokens, and always move on: a state is usable only
        // where it was kept.
        longest_rewind(self.cache, self.track, common_prefix(&self.track.tokens, prompt).min(limit))
    }

    /// Caches that hold its first `tokens` tokens. Buffers are shared until one of the two writes.
    pub(crate) fn branch(&self, tokens: usize, expected: usize) -> (SequenceCache, CachedSequence) {
        let (mut cache, mut track) = (self.cache.fork(expected), self.track.clone());
        rewind(&mut cache, &mut track, tokens);
        (cache, track)
    }
}

/// Caches taken back to `tokens` tokens. The caller has checked that this is possible.
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

/// The sessions, under one byte budget, least recently used first.
#[derive(Debug, Default)]
pub(crate) struct LiveSessions {
    sessions: Vec<Session>,
}

impl LiveSessions {
    /// The best session for a prompt: its index, and how many of its tokens can be used.
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

    /// Continues session `index` from its first `tokens` tokens. A session that the prompt goes on
    /// with is taken; from one that only starts like it, the prompt branches off.
    pub(crate) fn continue_from(
        &mut self,
        index: usize,
        tokens: usize,
        expected: usize,
    ) -> (SequenceCache, CachedSequence) {
        let goes_on = tokens + 1 >= self.sessions[index].prompt_tokens;
        let (mut cache, mut track) = if goes_on {
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

    /// Bytes held by all sessions.
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

    /// Removes the sessions of a model, or all.
    pub(crate) fn remove(&mut self, model: Option<ModelId>) -> Vec<Session> {
        let wanted = |session: &mut Session| model.is_none_or(|model| session.model.id == model);
        self.sessions.extract_if(.., wanted).collect()
    }
}
