//! Prefix reuse: the part of a prompt that was computed before is taken from a live session, from the RAM
//! tier or from SSD, and only the remaining tokens are computed.
//!
//! The life of a sequence: [`Reuse::restore_prefix`] finds the longest prefix of the prompt that is
//! available and returns caches with it; [`Reuse::store_full_blocks`] puts full blocks and snapshots into
//! the store as the sequence grows; [`Reuse::park`] keeps the caches for the next turn. No error here fails
//! a request: blocks that cannot be stored are skipped, and blocks that cannot be restored are computed.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvstore::{Kind, Namespace, Store};

use crate::error::Result;
use crate::kv::explain::{History, MissReason, PromptScope, ReuseReport};
use crate::kv::identity::{self, Chain};
use crate::kv::live::{Donor, LiveSessions, Session};
use crate::kv::pages::Extent;
use crate::kv::plan::plan;
use crate::kv::records::{ReadFailure, RecordReader, RecordWriter, StoreView};
use crate::kv::sequence::{CachedSequence, Checkpoint, ModelReuse, Stop};
use crate::kv::slots::SequenceCache;
use crate::types::ModelId;

/// A snapshot is stored only if at least this many tokens lie between it and the last one.
const MIN_SNAPSHOT_GAP: usize = 64;
/// A snapshot at least this many tokens after the last one is stored at once. Others wait in memory,
/// because the next turn will most likely bring a better one.
const EAGER_SNAPSHOT_GAP: usize = 2048;
/// Snapshots of one long prefill take at most one byte for this many bytes of KV.
const KV_BYTES_PER_SNAPSHOT_BYTE: usize = 4;
/// The least number of tokens between two snapshots of a long prefill.
const MIN_STRIDE: usize = 2048;
/// How often a restore is planned, including the plans after a record failed.
const RESTORE_ATTEMPTS: usize = 4;
/// A session that is idle for this long will not be continued soon, so the part of it that is only in
/// memory is put into the store.
const IDLE_SESSION: Duration = Duration::from_secs(30);

/// How prefixes are reused.
#[derive(Debug, Clone)]
pub struct ReuseConfig {
    /// The store of blocks; with `None`, only live sessions are reused.
    pub store: Option<Arc<Store>>,
    /// The tokens in a block.
    pub block_tokens: usize,
    /// The memory that the caches of finished turns may take together, in bytes. With 0, none are kept.
    pub live_bytes: usize,
}

impl Default for ReuseConfig {
    fn default() -> Self {
        Self { store: None, block_tokens: 256, live_bytes: 0 }
    }
}

/// A sequence that is ready to be continued.
#[derive(Debug)]
pub(crate) struct RestoredSequence {
    pub(crate) cache: SequenceCache,
    pub(crate) track: CachedSequence,
    pub(crate) report: ReuseReport,
    /// How long finding and restoring took.
    pub(crate) took: Duration,
}

/// The prefix cache, as the engine thread uses it.
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

    /// Restores caches with the longest available prefix of `prompt`, but never its last token, which must
    /// be computed for its logits. `donors` are the running sequences.
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
        // Continuing a session needs no copy, so it is preferred.
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
        // A block that could not be stored in an earlier turn is tried again.
        track.broken = false;
        let scope = scope(model, salt, &namespace);
        self.history.explain(scope, prompt, failed, &mut report);
        self.history.remember(scope, prompt);
        RestoredSequence { cache, track, report, took: started.elapsed() }
    }

    /// Rebuilds caches from stored records, if they have more than `min_tokens` tokens. Either all planned
    /// records are used or none: after a failure there is a new plan, without the record that failed.
    /// Also returns the tokens from RAM and from SSD.
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
                    // For any reason: no later request may use this record.
                    if let Some(key) = key {
                        store.invalidate(chain.namespace(), &key);
                    }
                    tracing::warn!(
                        reason = reason.name(),
                        "a cached block could not be restored; computing it again"
                    );
                    *failed = Some(reason);
                    // If no record is to blame, another plan would fail too.
                    key?;
                }
            }
        }
        None
    }

    /// The positions at which prefill of `prompt` stops to keep the state of recurrent layers: after the
    /// system prompt, after the last message, before the last token, and at intervals between them.
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
            // Other conversations will have the same system prompt.
            let shared = Some(position) == first_end && position >= self.config.block_tokens;
            let save = shared || position >= saved + EAGER_SNAPSHOT_GAP;
            saved = if save { position } else { saved };
            Stop { position, save }
        });
        stops.collect()
    }

    /// Puts the new full blocks of evaluated caches into the store, and keeps a checkpoint at a stop.
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

    /// Whether the caches have a full block that was not put into the store yet, or are at a stop, where
    /// their recurrent state is to be kept.
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
            // Blocks after a missing one could never be restored.
            track.broken = !kept;
            track.stored_blocks += usize::from(kept);
        }
        Ok(())
    }

    /// Puts a snapshot of the caches at a checkpoint into the store.
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
        // After a cancelled prefill or a pipelined step, the caches may be at another position.
        if track.tokens.is_empty() || cache.offset as usize != track.tokens.len() {
            return Ok(());
        }
        track.stops.clear();
        track.chain.extend(&track.tokens);
        cache.detach()?;
        self.store_blocks(&model, &cache, &mut track)?;
        let namespace = *track.chain.namespace();
        self.history.remember(scope(&model, &track.salt, &namespace), &track.tokens);
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

    /// Stores as much as possible of a sequence that gives up its memory and will continue later.
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
            tracing::warn!(error = error.what(), "a preempted row's KV was not stored");
            return;
        }
        let last_used = Instant::now();
        self.evict(Session { model, cache, track, prompt_tokens, last_used, is_saved: false });
    }

    /// Frees `bytes` of live sessions, or all of them. The oldest go first.
    pub(crate) fn shrink(&mut self, bytes: u64) {
        let target = (self.live.bytes() as u64).saturating_sub(bytes);
        while self.live.bytes() as u64 > target {
            let Some(oldest) = self.live.pop_oldest() else { break };
            self.evict(oldest);
        }
    }

    /// Drops the live sessions of a model without storing them.
    pub(crate) fn drop_live(&mut self, model: ModelId) {
        self.live.remove(Some(model));
    }

    /// Drops a session for which memory has no room, and stores the end of one with recurrent layers. The
    /// last, incomplete block of a dense model would take longer to write than to compute.
    fn evict(&self, mut session: Session) {
        if session.track.needs.state {
            self.save_ends(&mut session);
        }
    }

    /// Stores the ends of a session that are only in memory, if they are long enough: the end of its last
    /// message (for a plain prompt, all but its last token), which the next turn certainly repeats, and the
    /// end of the sequence, which the next turn repeats if the template keeps answers unchanged.
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

    /// Stores the ends of idle sessions, or with `all` of every session. Called when the engine has nothing
    /// else to do.
    pub(crate) fn flush_idle_sessions(&mut self, all: bool) {
        let mut live = std::mem::take(&mut self.live);
        for session in live.iter_mut() {
            if all || session.last_used.elapsed() >= IDLE_SESSION {
                self.save_ends(session);
            }
        }
        self.live = live;
    }

    /// Drops the live sessions of a model that is unloaded, after storing their ends.
    pub(crate) fn forget(&mut self, model: ModelId) {
        for mut session in self.live.remove(Some(model)) {
            self.save_ends(&mut session);
        }
    }

    /// Removes the stored blocks of a sequence whose numbers were wrong.
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

    /// Drops every live session, as `cache clear` asks.
    pub(crate) fn clear_live(&mut self) {
        self.live.remove(None);
    }
}

fn scope<'a>(model: &'a ModelReuse, salt: &'a str, namespace: &'a Namespace) -> PromptScope<'a> {
    PromptScope { model: &model.name, salt, namespace, user_opening: &model.user_opening }
}
