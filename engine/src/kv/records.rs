//! The records of one sequence in the store: writes them from its caches, looks them up, and reads
//! them back into new caches.

use std::ops::Range;

use kvstore::{BlockLocation, Guard, Key, Kind, Miss, Namespace, RecordShape, Store};

use crate::error::Result;
use crate::kv::explain::MissReason;
use crate::kv::identity::{self, Chain};
use crate::kv::pages::{Extent, Rebuild};
use crate::kv::plan::{Plan, StoredBlocks};
use crate::kv::sequence::ModelReuse;
use crate::kv::slots::{SequenceCache, StateSlot};

/// Writes the records of one sequence.
pub(crate) struct RecordWriter<'a> {
    pub(crate) store: &'a Store,
    pub(crate) model: &'a ModelReuse,
    pub(crate) cache: &'a SequenceCache,
    pub(crate) namespace: &'a Namespace,
}

impl RecordWriter<'_> {
    /// Hands a record to the store. Returns true when the store has it, now or already. `states`
    /// are the recurrent states of a snapshot.
    pub(crate) fn put(
        &self,
        kind: Kind,
        key: Key,
        parent: Option<Key>,
        witness: &[u8],
        extent: &Extent,
        states: &[StateSlot],
    ) -> Result<bool> {
        let layout = &self.model.layout;
        if !layout.covers(self.cache, extent) {
            return Ok(false);
        }
        let shape = RecordShape { kind, key, parent, witness, part_lens: &[layout.bytes(extent)] };
        let outcome = self.store.put_with(self.namespace, &shape, |parts| match parts {
            [part] => layout.gather(self.cache, states, extent, part),
            _ => Err(mlx_rs::error::Exception::custom("a record has one part")),
        })?;
        Ok(!matches!(outcome, kvstore::PutOutcome::Dropped(_)))
    }
}

/// The stored records of one prompt.
pub(crate) struct StoreView<'a> {
    pub(crate) store: &'a Store,
    pub(crate) chain: &'a Chain,
    pub(crate) tokens: &'a [u32],
    pub(crate) blocks: usize,
}

impl StoredBlocks for StoreView<'_> {
    fn blocks(&self) -> usize {
        self.blocks
    }

    fn has_window(&self, block: usize) -> bool {
        let key = self.chain.window_key(block);
        self.store.contains(self.chain.namespace(), &[key]) == [true]
    }

    fn last_snapshot(&self, from: usize, limit: usize) -> Option<usize> {
        let block_tokens = self.chain.block_tokens();
        let last = (limit / block_tokens).min(self.blocks);
        (from / block_tokens..=last).rev().find_map(|block| {
            let mut keys = self.chain.snapshot_keys(self.tokens, block, limit);
            keys.retain(|(position, _)| *position >= from);
            let names = keys.iter().map(|(_, key)| *key);
            let found = self.store.first_stored(self.chain.namespace(), names)?;
            keys.iter().find(|(_, key)| *key == found).map(|(position, _)| *position)
        })
    }
}

/// Why a plan could not be read, and the failed record, if there is one.
pub(crate) struct ReadFailure {
    pub(crate) key: Option<Key>,
    pub(crate) reason: MissReason,
}

/// Reads the records of one plan.
pub(crate) struct RecordReader<'a> {
    pub(crate) store: &'a Store,
    pub(crate) chain: &'a Chain,
    pub(crate) prompt: &'a [u32],
    pub(crate) block_tokens: usize,
}

impl RecordReader<'_> {
    pub(crate) fn read(
        &self,
        model: &ModelReuse,
        plan: &Plan,
        expected: usize,
    ) -> Result<(SequenceCache, usize, usize), ReadFailure> {
        let namespace = self.chain.namespace();
        let keys = &self.chain.keys()[..plan.blocks];
        let mut windows: Vec<Key> = Vec::new();
        windows.extend(plan.windows.clone().map(|block| self.chain.window_key(block)));
        let snapshot = plan.snapshot.then(|| self.chain.snapshot_key(self.prompt, plan.tokens));
        let wanted: Vec<Key> = keys.iter().chain(&windows).copied().chain(snapshot).collect();
        let _pin = self.store.pin(namespace, &wanted);
        // Checked before the read-ahead, which moves records from SSD to RAM.
        let in_ram = |key: &Key| match self.store.locate(namespace, key) {
            BlockLocation::Here(block) => block.in_ram,
            _ => false,
        };
        let from_ssd: Vec<bool> = wanted.iter().map(|key| !in_ram(key)).collect();
        self.store.prefetch(namespace, &wanted);
        let mut rebuild = Rebuild::new(&model.layout, plan.tokens, expected);
        let mut ssd_tokens = 0;
        for (block, key) in keys.iter().enumerate() {
            let range = block * self.block_tokens..(block + 1) * self.block_tokens;
            let used = range.end.min(plan.tokens) - range.start;
            self.load(&mut rebuild, *key, &range, &Extent::Block(range.clone()))?;
            ssd_tokens += if from_ssd[block] { used } else { 0 };
        }
        for (block, key) in plan.windows.clone().zip(&windows) {
            let range = block * self.block_tokens..(block + 1) * self.block_tokens;
            self.load(&mut rebuild, *key, &range, &Extent::Window(range.clone()))?;
        }
        if let Some(key) = snapshot {
            let range = plan.blocks * self.block_tokens..plan.tokens;
            self.load(&mut rebuild, key, &range, &Extent::Snapshot(range.clone()))?;
            ssd_tokens += if from_ssd.last() == Some(&true) { range.len() } else { 0 };
        }
        let cache = rebuild.finish(&model.kinds, expected).map_err(not_a_record)?;
        let cache = cache.keeping(model.kv_dtype);
        Ok((cache, plan.tokens - ssd_tokens, ssd_tokens))
    }

    /// Copies one record into the caches that are being rebuilt.
    fn load(
        &self,
        rebuild: &mut Rebuild<'_>,
        key: Key,
        range: &Range<usize>,
        extent: &Extent,
    ) -> Result<(), ReadFailure> {
        let failure = |reason| ReadFailure { key: Some(key), reason };
        let witness = identity::witness(self.prompt, range);
        let guard: Guard =
            self.store.get(self.chain.namespace(), &key, &witness).map_err(|miss| match miss {
                Miss::NotStored => failure(MissReason::Evicted),
                // The record itself is fine.
                Miss::NoMemory => ReadFailure { key: None, reason: MissReason::LoadFailed },
                Miss::Io => failure(MissReason::LoadFailed),
                _ => failure(MissReason::VerifyFailed),
            })?;
        let bytes = guard.part(0).ok_or(failure(MissReason::VerifyFailed))?;
        let fits = rebuild.add_record(extent, bytes).map_err(not_a_record)?;
        if !fits || guard.check().is_err() {
            return Err(failure(MissReason::VerifyFailed));
        }
        Ok(())
    }
}

fn not_a_record(error: mlx_rs::error::Exception) -> ReadFailure {
    tracing::debug!(error = error.what(), "MLX rejected a restored KV cache");
    ReadFailure { key: None, reason: MissReason::LoadFailed }
}
