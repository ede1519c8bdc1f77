//! Prefix reuse: cached tokens of a prompt are taken from a live session, from the RAM tier or from
//! SSD, and only the other tokens are computed.
//!
//! The lifecycle of a sequence: [`Reuse::restore_prefix`] finds the longest cached prefix of the
//! prompt and returns caches that hold it; [`Reuse::store_full_blocks`] hands finished blocks and
//! snapshots to the store as the sequence grows; [`Reuse::park`] keeps the caches for the next
//! turn. No error here fails a request: a block that cannot be stored is not cached, and one that
//! cannot be restored is computed again.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvstore::{Kind, Namespace, Store};

use crate::error::Result;
use crate::kv::explain::{Asker, History, MissReason, ReuseReport};
use crate::kv::identity::{self, Chain};
use crate::kv::live::{Donor, LiveSessions, Session};
use crate::kv::pages::Extent;
use crate::kv::plan::plan;
use crate::kv::records::{ReadFailure, RecordReader, RecordWriter, StoreView};
use crate::kv::sequence::{CachedSequence, Checkpoint, ModelReuse, Stop};
use crate::kv::slots::SequenceCache;
use crate::types::ModelId;

/// A snapshot is worth its bytes only if at least this many tokens lie between it and the last one.
const MIN_SNAPSHOT_GAP: usize = 64;
/// If at least this many tokens lie between, a snapshot is stored at once. Otherwise it waits in
/// memory, because the next turn will most likely produce a better one.
const EAGER_SNAPSHOT_GAP: usize = 2048;
/// The snapshots of one long prefill take at most one byte for this many bytes of KV cache.
const KV_BYTES_PER_SNAPSHOT_BYTE: usize = 4;
/// Minimum number of tokens between two snapshots of a long prefill.
const MIN_STRIDE: usize = 2048;
/// How often a restore is planned again after a record failed.
const RESTORE_ATTEMPTS: usize = 4;
/// A session that has been idle this long will probably not be continued soon, so the parts of it
/// that are only in memory are handed to the store.
const IDLE_SESSION: Duration = Duration::from_secs(30);

/// Configuration of prefix reuse.
#[derive(Debug, Clone)]
pub struct ReuseConfig {
    /// The store of blocks; `None` to cache in live sessions only.
    pub store: Option<Arc<Store>>,
    /// Number of tokens in a block.
    pub block_tokens: usize,
    /// Limit in bytes on the caches of finished turns together. 0 keeps none.
    pub live_bytes: usize,
}

impl Default for ReuseConfig {
    fn default() -> Self {
        Self { store: None, block_tokens: 256, live_bytes: 0 }
    }
}

/// A sequence that is ready to continue.
#[derive(Debug)]
pub(crate) struct RestoredSequence {
    pub(crate) cache: SequenceCache,
    pub(crate) track: CachedSequence,
    pub(crate) report: ReuseReport,
    /// Time taken to find and restore the prefix.
    pub(crate) took: Duration,
}

/// The state of prefix reuse, owned by the engine thread.
#[derive(Debug)]
pub(crate) struct Reuse {
    config: ReuseConfig,
    live: LiveSessions,
    history: History,
}

impl Reuse {
    pub(crate) fn new(config: ReuseConfig) -> Self {
        let config = ReuseConfig { block_tokens: config.block_tokens.max(1), ..config };
        Self { config, live: LiveSessions::default(), history: History::default() }
    }

    /// Returns caches that hold the longest reusable prefix of `prompt`, but never its last token,
    /// which must be computed for its logits. `donors` are the running sequences.
    pub(crate) fn restore_prefix(
        &mut self,
        model: &ModelReuse,
        prompt: &[u32],
        salt: &str,
        donors: &[Donor<'_>],
    ) -> RestoredSequence {
        let started = Instant::now();
        let block_tokens = self.config.block_tokens;
        let namespace = model.namespace(block_tokens, salt);
        let mut chain = Chain::new(namespace, block_tokens);
        chain.extend(prompt);
        let limit = prompt.len() - 1;
        let expected = prompt.len() + 1;
        let needs = model.layout.needs();
        let mut report =
            ReuseReport { prompt_tokens: prompt.len(), block_tokens, ..Default::default() };
        let mut failed = None;
        let live = self.live.find(&namespace, prompt, limit);
        let donor = donors.iter().map(|donor| (donor, donor.usable(&namespace, prompt, limit)));
        let donor = donor.max_by_key(|(_, tokens)| *tokens);
        // A session that ended is preferred, because it can be continued without a copy.
        let donor = donor.filter(|(_, tokens)| *tokens > live.map_or(0, |(_, tokens)| tokens));
        let min_tokens = donor.map(|(_, tokens)| tokens).or(live.map(|(_, tokens)| tokens));
        let restored = self.restore(model, &chain, prompt, min_tokens.unwrap_or(0), &mut failed);
        let (cache, mut track) = if let Some((restored, ram, ssd)) = restored {
            (report.ram_tokens, report.ssd_tokens) = (ram, ssd);
            let mut track = CachedSequence::new(chain, needs, salt);
            track.tokens = prompt[..restored.offset as usize].to_vec();
            track.stored_blocks = track.tokens.len() / block_tokens;
            track.saved = track.tokens.len();
            if needs.state {
                track.remember(Checkpoint::of(&restored));
            }
            (restored, track)
        } else if let Some((donor, tokens)) = donor {
            (report.ram_tokens, report.live) = (tokens, true);
            let (cache, mut track) = donor.branch(tokens, expected);
            track.chain = chain;
            (cache, track)
        } else if let Some((index, tokens)) = live {
            (report.ram_tokens, report.live) = (tokens, true);
            let (cache, mut track) = self.live.continue_from(index, tokens, expected);
            track.chain = chain;
            (cache, track)
        } else {
            let cache = SequenceCache::new(&model.kinds, expected).keeping(model.kv_dtype);
            (cache, CachedSequence::new(chain, needs, salt))
        };
        let last_message = prompt[..limit].iter().rposition(|t| model.message_ends.contains(t));
        track.message_end = last_message.map(|at| at + 1);
        track.stops = self.stops(model, prompt, &track);
        // Try again to store the blocks that could not be stored in an earlier turn.
        track.broken = false;
        let asker = asker(model, salt, &namespace);
        self.history.explain(asker, prompt, failed, &mut report);
        self.history.remember(asker, prompt);
        RestoredSequence { cache, track, report, took: started.elapsed() }
    }

    /// Rebuilds caches from stored records when these reach further than `min_tokens` tokens. If
    /// any of the planned records fails, none is used: the caches are rebuilt from scratch with a
    /// new plan that omits the failed record. Also returns the number of tokens from RAM and from
    /// SSD.
    fn restore(
        &self,
        model: &ModelReuse,
        chain: &Chain,
        prompt: &[u32],
        min_tokens: usize,
        failed: &mut Option<MissReason>,
    ) -> Option<(SequenceCache, usize, usize)> {
        let store = self.config.store.as_deref()?;
        for _ in 0..RESTORE_ATTEMPTS {
            let keys = chain.keys();
            let blocks = store.longest_prefix(chain.namespace(), keys).blocks;
            let view = StoreView { store, chain, tokens: prompt, blocks };
            let plan =
                plan(model.layout.needs(), self.config.block_tokens, prompt.len() - 1, &view);
            if plan.tokens <= min_tokens {
                return None;
            }
            let reader =
                RecordReader { store, chain, prompt, block_tokens: self.config.block_tokens };
            match reader.read(model, &plan, prompt.len() + 1) {
                Ok(restored) => return Some(restored),
                Err(ReadFailure { key, reason }) => {
                    // Whatever the reason, remove the record, so that no later restore fails on it.
                    if let Some(key) = key {
                        store.invalidate(chain.namespace(), &key);
                    }
                    tracing::warn!(
                        reason = reason.name(),
                        "a cached block could not be restored; computing it again"
                    );
                    *failed = Some(reason);
                    // If no record is to blame, another plan would fail in the same way.
                    key?;
                }
            }
        }
        None
    }

    /// The positions at which prefill of `prompt` stops to keep the state of recurrent layers:
    /// after the system prompt, after the last message, before the last token, and at intervals in
    /// between.
    fn stops(&self, model: &ModelReuse, prompt: &[u32], track: &CachedSequence) -> Vec<Stop> {
        if !track.needs.state {
            return Vec::new();
        }
        let last = prompt.len() - 1;
        let first_message = prompt[..last].iter().position(|t| model.message_ends.contains(t));
        let first_end = first_message.map(|at| at + 1);
        let token_bytes = model.layout.token_bytes().max(1);
        let stride = KV_BYTES_PER_SNAPSHOT_BYTE * model.layout.state_bytes() / token_bytes;
        let stride = stride.max(MIN_STRIDE).next_multiple_of(self.config.block_tokens);
        let regular = (1..).map(|n| n * stride).take_while(|&position| position < last);
        let mut positions: Vec<usize> = regular
            .chain(first_end)
            .chain(track.message_end)
            .chain([last])
            .filter(|&at| at > track.tokens.len())
            .collect();
        positions.sort_unstable();
        positions.dedup();
        let mut saved = track.saved;
        let stops = positions.into_iter().map(|position| {
            // Other conversations will share this system prompt.
            let shared = Some(position) == first_end && position >= self.config.block_tokens;
            let save = shared || position >= saved + EAGER_SNAPSHOT_GAP;
            saved = if save { position } else { saved };
            Stop { position, save }
        });
        stops.collect()
    }

    /// Hands the new full blocks of the caches, which hold the evaluated `track.tokens`, to the
    /// store.
    pub(crate) fn store_full_blocks(
        &self,
        model: &ModelReuse,
        cache: &SequenceCache,
        track: &mut CachedSequence,
    ) -> Result<()> {
        let position = track.tokens.len();
        track.chain.extend(&track.tokens);
        self.store_blocks(model, cache, track)?;
        let passed = track.stops.partition_point(|stop| stop.position <= position);
        let here = track.stops.drain(..passed).next_back();
        if let Some(stop) = here.filter(|stop| stop.position == position) {
            let checkpoint = Checkpoint::of(cache);
            if stop.save {
                self.save_snapshot(model, cache, track, &checkpoint)?;
            }
            track.remember(checkpoint);
        }
        Ok(())
    }

    /// Whether the caches have a full block that was not handed over yet, or are at a position at
    /// which their state must be kept.
    pub(crate) fn has_blocks_to_store(&self, track: &CachedSequence) -> bool {
        let here = track.tokens.len();
        let has_block = self.config.store.is_some()
            && !track.broken
            && here / self.config.block_tokens > track.stored_blocks;
        has_block || track.stops.first().is_some_and(|stop| stop.position <= here)
    }

    fn store_blocks(
        &self,
        model: &ModelReuse,
        cache: &SequenceCache,
        track: &mut CachedSequence,
    ) -> Result<()> {
        let Some(store) = self.config.store.as_deref() else { return Ok(()) };
        let block_tokens = self.config.block_tokens;
        let full = track.tokens.len() / block_tokens;
        while track.stored_blocks < full && !track.broken {
            let block = track.stored_blocks;
            let range = block * block_tokens..(block + 1) * block_tokens;
            let key = track.chain.keys()[block];
            let parent = track.chain.parent(range.start);
            let witness = identity::witness(&track.tokens, &range);
            let writer = RecordWriter { store, model, cache, namespace: track.chain.namespace() };
            let extent = Extent::Block(range.clone());
            let kept = writer.put(Kind::Kv, key, parent, &witness, &extent, &[])?;
            if kept && model.layout.has_windows() {
                let window = track.chain.window_key(block);
                let extent = Extent::Window(range);
                writer.put(Kind::Rotating, window, Some(key), &witness, &extent, &[])?;
            }
            // Blocks after a gap could never be reached.
            track.broken = !kept;
            track.stored_blocks += usize::from(kept);
        }
        Ok(())
    }

    /// Hands over a snapshot of the caches at a checkpoint or at their current position.
    fn save_snapshot(
        &self,
        model: &ModelReuse,
        cache: &SequenceCache,
        track: &mut CachedSequence,
        at: &Checkpoint,
    ) -> Result<()> {
        let Some(store) = self.config.store.as_deref() else { return Ok(()) };
        let position = at.position;
        let full = position / self.config.block_tokens;
        if full > track.stored_blocks || position == 0 {
            return Ok(());
        }
        let range = full * self.config.block_tokens..position;
        let key = track.chain.snapshot_key(&track.tokens, position);
        let parent = track.chain.parent(position);
        let witness = identity::witness(&track.tokens, &range);
        let writer = RecordWriter { store, model, cache, namespace: track.chain.namespace() };
        let extent = Extent::Snapshot(range);
        if writer.put(Kind::Recurrent, key, parent, &witness, &extent, at.states())? {
            track.saved = track.saved.max(position);
        }
        Ok(())
    }

    /// Keeps the caches of a finished turn for the next one.
    pub(crate) fn park(
        &mut self,
        model: Rc<ModelReuse>,
        mut cache: SequenceCache,
        mut track: CachedSequence,
        prompt_tokens: usize,
    ) -> Result<()> {
        // A cancelled prefill or a pipelined step may have moved the caches past the known tokens.
        if track.tokens.is_empty() || cache.offset as usize != track.tokens.len() {
            return Ok(());
        }
        track.stops.clear();
        track.chain.extend(&track.tokens);
        cache.detach()?;
        self.store_blocks(&model, &cache, &mut track)?;
        let namespace = *track.chain.namespace();
        self.history.remember(asker(&model, &track.salt, &namespace), &track.tokens);
        let last_used = Instant::now();
        let session = Session { model, cache, track, prompt_tokens, last_used, is_saved: false };
        if session.bytes() > self.config.live_bytes {
            self.evict(session);
            return Ok(());
        }
        self.live.push(session);
        while self.live.bytes() > self.config.live_bytes {
            let Some(oldest) = self.live.pop_oldest() else { break };
            self.evict(oldest);
        }
        Ok(())
    }

    /// Stores as much as possible of a preempted sequence, whose memory is about to be freed.
    pub(crate) fn swap_out(
        &mut self,
        model: Rc<ModelReuse>,
        cache: SequenceCache,
        mut track: CachedSequence,
        prompt_tokens: usize,
    ) {
        if track.tokens.is_empty() || cache.offset as usize != track.tokens.len() {
            return;
        }
        track.stops.clear();
        track.chain.extend(&track.tokens);
        if let Err(error) = self.store_blocks(&model, &cache, &mut track) {
            tracing::warn!(error = error.what(), "a preempted row's KV cache was not stored");
            return;
        }
        let last_used = Instant::now();
        self.evict(Session { model, cache, track, prompt_tokens, last_used, is_saved: false });
    }

    /// Frees `bytes` of live sessions, or all of them. The oldest session goes first.
    pub(crate) fn shrink(&mut self, bytes: u64) {
        let target = (self.live.bytes() as u64).saturating_sub(bytes);
        while self.live.bytes() as u64 > target {
            let Some(oldest) = self.live.pop_oldest() else { break };
            self.evict(oldest);
        }
    }

    /// Drops the live sessions of a model without storing anything of them.
    pub(crate) fn drop_live(&mut self, model: ModelId) {
        self.live.remove(Some(model));
    }

    /// Stores a session that does not fit in memory. The last, partial block of a dense model is
    /// skipped, because writing it would cost more than computing it again.
    fn evict(&self, mut session: Session) {
        if session.track.needs.state {
            self.save_ends(&mut session);
        }
    }

    /// Stores the parts of a session that are only in memory, if worthwhile: the end of its last
    /// message (for a plain prompt, all but its last token), which the next turn will repeat for
    /// certain, and its end, which the next turn repeats if the template leaves answers unchanged.
    fn save_ends(&self, session: &mut Session) {
        let Session { model, cache, track, is_saved, prompt_tokens, .. } = session;
        if std::mem::replace(is_saved, true) {
            return;
        }
        if !track.needs.state {
            // Full blocks are stored already.
            track.saved = track.stored_blocks * self.config.block_tokens;
        }
        let end = track.message_end.unwrap_or(*prompt_tokens - 1).min(track.tokens.len());
        let known = track.checkpoints.iter().find(|checkpoint| checkpoint.position == end);
        let sure =
            if track.needs.state { known.cloned() } else { Some(Checkpoint::without_state(end)) };
        for checkpoint in sure.into_iter().chain([Checkpoint::of(cache)]) {
            if checkpoint.position >= track.saved + MIN_SNAPSHOT_GAP
                && let Err(error) = self.save_snapshot(model, cache, track, &checkpoint)
            {
                tracing::warn!(error = error.what(), "a session's end was not saved");
            }
        }
    }

    /// Called when the engine is idle: stores the ends of idle sessions or, with `all`, of every
    /// session.
    pub(crate) fn flush_idle_sessions(&mut self, all: bool) {
        let mut live = std::mem::take(&mut self.live);
        for session in live.iter_mut() {
            if all || session.last_used.elapsed() >= IDLE_SESSION {
                self.save_ends(session);
            }
        }
        self.live = live;
    }

    /// Forgets the live sessions of a model that is being unloaded.
    pub(crate) fn forget(&mut self, model: ModelId) {
        for mut session in self.live.remove(Some(model)) {
            self.save_ends(&mut session);
        }
    }

    /// Removes the stored records of a sequence whose results were wrong.
    pub(crate) fn distrust(&self, track: &CachedSequence) {
        let Some(store) = self.config.store.as_deref() else { return };
        if let Some(first) = track.chain.keys().first() {
            store.invalidate(track.chain.namespace(), first);
        }
    }

    /// The number of live sessions and their bytes.
    pub(crate) fn live_use(&self) -> (usize, usize) {
        (self.live.len(), self.live.bytes())
    }

    /// Drops every live session, for `cache clear`.
    pub(crate) fn clear_live(&mut self) {
        self.live.remove(None);
    }
}

fn asker<'a>(model: &'a ModelReuse, salt: &'a str, namespace: &'a Namespace) -> Asker<'a> {
    Asker { model: &model.name, salt, namespace, user_opening: &model.user_opening }
}
