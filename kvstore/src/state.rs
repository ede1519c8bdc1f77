//! What the store knows and decides, without any I/O: which blocks there are and in which tier,
//! what goes when room is needed, what waits to be done. One mutex guards it; it is never held
//! during I/O.

use crate::buffer::{MemoryGauge, MemoryShare};
use crate::chain::ChainLru;
use crate::config::StoreConfig;
use crate::eviction_log::Departure;
use crate::eviction_log::EvictionLog;
use crate::key::{BlockId, IdHash, Key, Kind, Namespace};
use crate::layout::Damage;
use crate::ledger::{DiskLimits, Ledger};
use crate::record::{Bytes, MappedBlock, Resident};
use crate::stats::{AGE_SAMPLE, Counters, DropReason, EvictReason, NamespaceStats, Tier};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Blocks remembered as dropped, so that the rest of their chain is counted under the same reason.
const MAX_BROKEN: usize = 4096;
/// A block that was read ahead stays for who wanted it at least this long, unless memory for a new
/// block is needed.
const AWAITED_SECS: u64 = 30;
/// Reads waiting for a read thread; more are not queued, the later `get` reads for itself.
pub(crate) const MAX_PREFETCH: usize = 4096;

/// Namespaces met before those that hold nothing are looked for; then at twice as many as were left.
pub(crate) const FIRST_FORGETTING: usize = 256;

/// A block's standing on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnDisk {
    /// Only in the RAM tier.
    No,
    /// Waiting to be written.
    Queued,
    /// Published.
    Stored,
}

#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) kind: Kind,
    pub(crate) parent: Option<Key>,
    pub(crate) file_len: u64,
    /// Bytes on the medium, once stored.
    pub(crate) physical: u64,
    pub(crate) on_disk: OnDisk,
    /// Present while queued or in the RAM tier.
    pub(crate) resident: Option<Arc<Resident>>,
    /// Alive while a guard has the file mapped.
    pub(crate) mapped: Weak<MappedBlock>,
    pub(crate) created_secs: u64,
    pub(crate) used_secs: u64,
    /// Read ahead, and until then expected to be asked for.
    pub(crate) awaited_until: u64,
}

impl std::fmt::Debug for MappedBlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MappedBlock").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// A block waiting to be written.
pub(crate) struct Save {
    pub(crate) id: BlockId,
    pub(crate) resident: Arc<Resident>,
}

/// A file waiting to be removed; its block is already forgotten.
pub(crate) struct Delete {
    pub(crate) id: BlockId,
    pub(crate) physical: u64,
    /// Damaged files are set aside rather than removed at once.
    pub(crate) reason: EvictReason,
}

/// What [`State::find`] has for a reader.
pub(crate) enum Found {
    /// In memory, or mapped already.
    Here(Bytes, Tier),
    /// To be read from disk, into memory of our own (`Some`) or mapped (`None`).
    Cold(Option<MemoryShare>),
    /// Another thread is reading it.
    Busy,
    Missing,
}

pub(crate) struct Space {
    pub(crate) namespace: Namespace,
    pub(crate) write_bytes: [u64; 3],
    pub(crate) read_bytes: [u64; 3],
}

impl Space {
    fn stats(&self, physical_bytes: u64) -> NamespaceStats {
        let Space { namespace, write_bytes, read_bytes } = *self;
        NamespaceStats { namespace: Some(namespace), physical_bytes, write_bytes, read_bytes }
    }
}

pub(crate) struct State {
    pub(crate) blocks: HashMap<BlockId, Block, IdHash>,
    /// Numbers are not given twice: what still has one of a namespace that was forgotten finds nothing.
    pub(crate) spaces: BTreeMap<u32, Space>,
    next_space: u32,
    /// So many namespaces are too many not to look which hold nothing.
    forgetting_at: usize,
    /// What was written to and read from namespaces that are forgotten.
    forgotten: NamespaceStats,
    space_ids: HashMap<Namespace, u32>,
    /// Stored and queued blocks.
    pub(crate) disk_order: ChainLru,
    /// Blocks of the RAM tier.
    pub(crate) ram_order: ChainLru,
    pub(crate) ram_bytes: u64,
    pub(crate) ram_budget: u64,
    pub(crate) gauge: Arc<MemoryGauge>,
    pub(crate) ledger: Ledger,
    pub(crate) saves: VecDeque<Save>,
    pub(crate) saves_bytes: u64,
    queue_limit: u64,
    pub(crate) deletes: VecDeque<Delete>,
    /// Ids in `deletes`.
    pub(crate) leaving: HashSet<BlockId>,
    pub(crate) restores: VecDeque<BlockId>,
    /// Blocks being read by some thread.
    pub(crate) restoring: HashSet<BlockId>,
    broken: HashMap<BlockId, DropReason>,
    evictions: EvictionLog,
    /// Blocks that may not be evicted for room, with the number of pins on each.
    pins: HashMap<BlockId, u32, IdHash>,
    /// Saving is paused until this moment of the monotonic clock.
    pub(crate) paused_until: Option<Duration>,
    pub(crate) counters: Counters,
    /// A scan has seen everything since opening; until then nothing is written.
    pub(crate) scanned: bool,
    /// A scan is under way.
    pub(crate) scanning: bool,
    pub(crate) writer_busy: bool,
    pub(crate) stopping: bool,
}

impl State {
    pub(crate) fn new(config: &StoreConfig) -> State {
        let limits =
            DiskLimits { quota: config.quota_bytes, writes_per_day: config.writes_per_day_bytes };
        State {
            blocks: HashMap::default(),
            spaces: BTreeMap::new(),
            next_space: 0,
            forgetting_at: FIRST_FORGETTING,
            forgotten: NamespaceStats::default(),
            space_ids: HashMap::new(),
            disk_order: ChainLru::default(),
            ram_order: ChainLru::default(),
            ram_bytes: 0,
            ram_budget: config.ram_budget_bytes,
            gauge: MemoryGauge::new(config.ram_budget_bytes.saturating_add(config.queue_bytes)),
            ledger: Ledger::new(limits),
            saves: VecDeque::new(),
            saves_bytes: 0,
            queue_limit: config.queue_bytes,
            deletes: VecDeque::new(),
            leaving: HashSet::new(),
            restores: VecDeque::new(),
            restoring: HashSet::new(),
            broken: HashMap::new(),
            evictions: EvictionLog::default(),
            pins: HashMap::default(),
            paused_until: None,
            counters: Counters::default(),
            scanned: false,
            scanning: true,
            writer_busy: false,
            stopping: false,
        }
    }

    pub(crate) fn find_space(&self, namespace: &Namespace) -> Option<u32> {
        self.space_ids.get(namespace).copied()
    }

    pub(crate) fn space(&mut self, namespace: &Namespace) -> u32 {
        if let Some(space) = self.space_ids.get(namespace) {
            return *space;
        }
        if self.spaces.len() >= self.forgetting_at {
            self.forget_empty_spaces();
            self.forgetting_at = FIRST_FORGETTING.max(2 * self.spaces.len());
        }
        let space = self.next_space;
        self.next_space += 1;
        let (write_bytes, read_bytes) = ([0; 3], [0; 3]);
        self.spaces.insert(space, Space { namespace: *namespace, write_bytes, read_bytes });
        self.space_ids.insert(*namespace, space);
        space
    }

    /// Forgets the namespaces that hold nothing, in any tier or queue: clients make them up.
    pub(crate) fn forget_empty_spaces(&mut self) {
        let mut used: BTreeSet<u32> = self.blocks.keys().map(|id| id.space).collect();
        used.extend(self.pins.keys().map(|id| id.space));
        used.extend(self.saves.iter().map(|save| save.id.space));
        used.extend(self.deletes.iter().map(|delete| delete.id.space));
        used.extend(self.leaving.iter().map(|id| id.space));
        used.extend(self.restores.iter().chain(&self.restoring).map(|id| id.space));
        let (ledger, forgotten) = (&self.ledger, &mut self.forgotten);
        self.spaces.retain(|space, own| {
            let keep = used.contains(space) || ledger.space_physical(*space) > 0;
            if !keep {
                forgotten.add(&own.stats(0));
            }
            keep
        });
        let spaces = &self.spaces;
        self.space_ids.retain(|_, space| spaces.contains_key(space));
        self.broken.retain(|id, _| spaces.contains_key(&id.space));
        self.evictions.retain(|id| spaces.contains_key(&id.space));
    }

    /// The namespace of a block; `None` when it was forgotten, and the block with it.
    pub(crate) fn namespace(&self, id: &BlockId) -> Option<Namespace> {
        self.spaces.get(&id.space).map(|space| space.namespace)
    }

    pub(crate) fn id(&self, namespace: &Namespace, key: &Key) -> Option<BlockId> {
        Some(BlockId { space: self.find_space(namespace)?, key: *key })
    }

    // ---- putting -----------------------------------------------------------------------------

    /// Whether a block may be written: its parent must be on disk or on its way there, so that no
    /// chain on disk has a hole.
    pub(crate) fn may_save(
        &self,
        id: &BlockId,
        parent: Option<Key>,
        memory_len: u64,
        now: Duration,
    ) -> Result<(), DropReason> {
        if let Some(key) = parent {
            let parent = BlockId { key, ..*id };
            if !self.disk_order.contains(&parent) {
                return Err(self.reason_to_follow(&parent));
            }
        }
        if self.stopping {
            return Err(DropReason::Shutdown);
        }
        if self.paused_until.is_some_and(|until| now < until) {
            return Err(DropReason::DiskFull);
        }
        if self.saves_bytes.saturating_add(memory_len) > self.queue_limit {
            return Err(DropReason::QueueFull);
        }
        Ok(())
    }

    /// Why the rest of a chain is dropped whose block `parent` is not on disk.
    pub(crate) fn reason_to_follow(&self, parent: &BlockId) -> DropReason {
        self.broken.get(parent).copied().unwrap_or(DropReason::Admission)
    }

    /// True when the block before `id` is in some tier, or there is none before it.
    pub(crate) fn has_parent(&self, id: &BlockId, parent: Option<Key>) -> bool {
        parent.is_none_or(|key| self.blocks.contains_key(&BlockId { key, ..*id }))
    }

    /// Takes memory for a block, out of the RAM tier if need be.
    pub(crate) fn take_memory(&mut self, bytes: u64, now_secs: u64) -> Option<MemoryShare> {
        loop {
            if let Some(share) = self.gauge.reserve(bytes) {
                return Some(share);
            }
            if !self.demote_one(now_secs, true) {
                return None;
            }
        }
    }

    /// Counts a block as not saved, and remembers it so that its children follow.
    pub(crate) fn drop_save(&mut self, id: BlockId, reason: DropReason) {
        self.counters.drop_block(reason);
        if self.broken.len() >= MAX_BROKEN {
            self.broken.clear();
        }
        self.broken.insert(id, reason);
        // The newest reason is the one to tell.
        self.evictions.forget(&id);
    }

    /// Why a block is not here, as far as that is remembered.
    pub(crate) fn departure(&self, id: &BlockId) -> Option<Departure> {
        let dropped = || self.broken.get(id).copied().map(Departure::NotSaved);
        self.evictions.why(id).or_else(dropped)
    }

    /// Adds a new block, to be saved (`queued`) or for the RAM tier only. False when it is for the
    /// RAM tier only and does not fit there.
    pub(crate) fn add(
        &mut self,
        id: BlockId,
        resident: Arc<Resident>,
        queued: bool,
        now_secs: u64,
    ) -> bool {
        let memory_len = resident.memory_len();
        if !queued && !self.make_ram_room(memory_len, now_secs) {
            return false;
        }
        let parent = resident.parent;
        let block = Block {
            kind: resident.kind,
            parent,
            file_len: resident.layout.file_len(),
            physical: 0,
            on_disk: OnDisk::No,
            resident: Some(Arc::clone(&resident)),
            mapped: Weak::new(),
            created_secs: now_secs,
            used_secs: now_secs,
            awaited_until: 0,
        };
        self.blocks.insert(id, block);
        if queued {
            self.queue(id, resident);
        } else {
            self.ram_order.insert(id, parent, 0);
            self.ram_bytes += memory_len;
        }
        true
    }

    /// Queues a block that is in memory.
    pub(crate) fn queue(&mut self, id: BlockId, resident: Arc<Resident>) {
        let Some(block) = self.blocks.get_mut(&id) else { return };
        block.on_disk = OnDisk::Queued;
        self.disk_order.insert(id, block.parent, 0);
        self.saves_bytes += resident.memory_len();
        self.saves.push_back(Save { id, resident });
        self.broken.remove(&id);
    }

    /// True while `save` is still wanted: the block was not removed or replaced meanwhile.
    pub(crate) fn is_current(&self, save: &Save) -> bool {
        self.blocks.get(&save.id).is_some_and(|block| {
            block.on_disk == OnDisk::Queued
                && block.resident.as_ref().is_some_and(|own| Arc::ptr_eq(own, &save.resident))
        })
    }

    /// Ends a save well: the block is on disk, and joins the RAM tier if there is room.
    pub(crate) fn saved(&mut self, save: &Save, physical: u64, now_secs: u64) {
        let memory_len = save.resident.memory_len();
        self.saves_bytes -= memory_len;
        let Some(block) = self.blocks.get_mut(&save.id) else { return };
        block.on_disk = OnDisk::Stored;
        block.physical = physical;
        let (kind, parent) = (block.kind, block.parent);
        if let Some(space) = self.spaces.get_mut(&save.id.space) {
            space.write_bytes[kind.index()] += physical;
        }
        if !self.ram_order.contains(&save.id) {
            if self.make_ram_room(memory_len, now_secs) {
                self.ram_order.insert(save.id, parent, 0);
                self.ram_bytes += memory_len;
            } else if let Some(block) = self.blocks.get_mut(&save.id) {
                block.resident = None;
            }
        }
    }

    /// Ends a save badly: the block stays in the RAM tier if it is there, else it is forgotten.
    pub(crate) fn not_saved(&mut self, save: &Save, reason: DropReason) {
        self.saves_bytes -= save.resident.memory_len();
        if !self.is_current(save) {
            return;
        }
        self.drop_save(save.id, reason);
        self.disk_order.remove(&save.id);
        if self.ram_order.contains(&save.id) {
            if let Some(block) = self.blocks.get_mut(&save.id) {
                block.on_disk = OnDisk::No;
            }
        } else {
            self.blocks.remove(&save.id);
        }
    }

    // ---- getting -----------------------------------------------------------------------------

    /// Finds a block for a reader, and takes memory to read it into if it is on disk.
    pub(crate) fn find(&mut self, id: &BlockId, now_secs: u64) -> Found {
        let Some(block) = self.blocks.get_mut(id) else { return Found::Missing };
        let sampled = is_sampled(id);
        let gap = now_secs.saturating_sub(block.used_secs);
        block.used_secs = now_secs;
        block.awaited_until = 0;
        let file_len = block.file_len;
        let here = match (&block.resident, block.mapped.upgrade()) {
            (Some(resident), _) => Some((Bytes::Resident(Arc::clone(resident)), Tier::Ram)),
            (None, Some(mapped)) => Some((Bytes::Mapped(mapped), Tier::Disk)),
            (None, None) => None,
        };
        self.disk_order.touch(id, false);
        self.ram_order.touch(id, false);
        if let Some((bytes, tier)) = here {
            if sampled {
                self.counters.reused(tier, gap);
            }
            return Found::Here(bytes, tier);
        }
        if !self.restoring.insert(*id) {
            return Found::Busy;
        }
        if sampled {
            self.counters.reused(Tier::Disk, gap);
        }
        let room = self.make_ram_room(file_len, now_secs);
        Found::Cold(if room { self.take_memory(file_len, now_secs) } else { None })
    }

    /// Ends a read well: the block joins the RAM tier, or its mapping is shared while it lives.
    pub(crate) fn restored(&mut self, id: &BlockId, bytes: &Bytes, now_secs: u64) {
        self.restoring.remove(id);
        let Some(block) = self.blocks.get(id) else { return };
        if block.on_disk != OnDisk::Stored || block.resident.is_some() {
            return;
        }
        let parent = block.parent;
        if let Some(space) = self.spaces.get_mut(&id.space) {
            space.read_bytes[block.kind.index()] += bytes.layout().payload_len;
        }
        match bytes {
            Bytes::Mapped(mapped) => {
                if let Some(block) = self.blocks.get_mut(id) {
                    block.mapped = Arc::downgrade(mapped);
                }
            }
            Bytes::Resident(resident) => {
                if !self.make_ram_room(resident.memory_len(), now_secs) {
                    return;
                }
                if let Some(block) = self.blocks.get_mut(id) {
                    block.resident = Some(Arc::clone(resident));
                }
                self.ram_order.insert(*id, parent, 0);
                self.ram_bytes += resident.memory_len();
                self.counters.promotions += 1;
            }
        }
    }

    /// A block that was read ahead is in the RAM tier.
    pub(crate) fn await_use(&mut self, id: &BlockId, now_secs: u64) {
        if let Some(block) = self.blocks.get_mut(id) {
            block.awaited_until = now_secs + AWAITED_SECS;
        }
    }

    /// How many of `keys`, from the first, are stored as one chain; and how many of those are in
    /// memory. Counts a use of each.
    pub(crate) fn longest_prefix(
        &mut self,
        namespace: &Namespace,
        keys: &[Key],
        now_secs: u64,
    ) -> (usize, usize) {
        let Some(space) = self.find_space(namespace) else { return (0, 0) };
        let (mut matched, mut in_ram) = (0, 0);
        let mut before: Option<Key> = None;
        for &key in keys {
            let id = BlockId { space, key };
            let Some(block) = self.blocks.get_mut(&id) else { break };
            if before.is_some() && block.parent != before {
                break;
            }
            block.used_secs = now_secs;
            in_ram += usize::from(block.resident.is_some());
            self.disk_order.touch(&id, true);
            self.ram_order.touch(&id, false);
            matched += 1;
            before = Some(key);
        }
        (matched, in_ram)
    }

    pub(crate) fn pin(&mut self, id: BlockId) {
        *self.pins.entry(id).or_default() += 1;
    }

    pub(crate) fn unpin(&mut self, id: &BlockId) {
        if let Some(count) = self.pins.get_mut(id) {
            *count -= 1;
            if *count == 0 {
                self.pins.remove(id);
            }
        }
    }

    // ---- making room -------------------------------------------------------------------------

    /// Shrinks the RAM tier until `bytes` more fit its budget. What was read ahead and not yet asked
    /// for does not go: a chain longer than the tier would push out its own blocks before their use.
    pub(crate) fn make_ram_room(&mut self, bytes: u64, now_secs: u64) -> bool {
        while self.ram_bytes.saturating_add(bytes) > self.ram_budget {
            if bytes > self.ram_budget || !self.demote_one(now_secs, false) {
                return false;
            }
        }
        true
    }

    /// From now on the RAM tier may hold so many bytes. What is in use stays until it is not.
    pub(crate) fn set_ram_budget(&mut self, bytes: u64, now_secs: u64) {
        self.ram_budget = bytes;
        while self.ram_bytes > bytes && self.demote_one(now_secs, true) {}
    }

    /// Takes the least useful block out of the RAM tier, unless all are pinned or in use: a block
    /// that a guard holds would not give its memory back.
    pub(crate) fn demote_one(&mut self, now_secs: u64, even_awaited: bool) -> bool {
        let (blocks, pins) = (&self.blocks, &self.pins);
        let idle = |id: &BlockId| {
            let Some(block) = blocks.get(id) else { return false };
            let free = block.resident.as_ref().is_some_and(|own| Arc::strong_count(own) == 1);
            free && !pins.contains_key(id) && (even_awaited || block.awaited_until <= now_secs)
        };
        let Some(id) = self.ram_order.victim(idle) else { return false };
        self.forget_resident(&id, now_secs);
        self.counters.demotions += 1;
        true
    }

    /// Drops the RAM tier's copy, and the block itself if it was nowhere else.
    fn forget_resident(&mut self, id: &BlockId, now_secs: u64) {
        if !self.ram_order.contains(id) {
            return;
        }
        self.ram_order.remove(id);
        let Some(block) = self.blocks.get_mut(id) else { return };
        if let Some(resident) = &block.resident {
            self.ram_bytes -= resident.memory_len();
        }
        if is_sampled(id) {
            let idle = now_secs.saturating_sub(block.used_secs);
            self.counters.left(Tier::Ram, now_secs.saturating_sub(block.created_secs), idle);
        }
        match block.on_disk {
            OnDisk::No => drop(self.blocks.remove(id)),
            OnDisk::Queued => {} // the queue still needs the copy
            OnDisk::Stored => block.resident = None,
        }
    }

    /// Chooses the block on disk to go next, and forgets that it is there.
    pub(crate) fn evict_one(&mut self, now_secs: u64) -> Option<Delete> {
        let (blocks, pins) = (&self.blocks, &self.pins);
        let id = self.disk_order.victim(|id| {
            let stored = blocks.get(id).is_some_and(|block| block.on_disk == OnDisk::Stored);
            stored && !pins.contains_key(id)
        })?;
        self.evict(&id, EvictReason::Quota, now_secs)
    }

    /// Forgets that a stored block is on disk. The caller must see to the file. For room, a copy
    /// in the RAM tier may stay; for any other reason it goes as well.
    pub(crate) fn evict(
        &mut self,
        id: &BlockId,
        reason: EvictReason,
        now_secs: u64,
    ) -> Option<Delete> {
        let block = self.blocks.get_mut(id).filter(|block| block.on_disk == OnDisk::Stored)?;
        let physical = block.physical;
        block.on_disk = OnDisk::No;
        block.mapped = Weak::new();
        if is_sampled(id) {
            let idle = now_secs.saturating_sub(block.used_secs);
            self.counters.left(Tier::Disk, now_secs.saturating_sub(block.created_secs), idle);
        }
        self.counters.evict(reason, physical);
        self.evictions.note(*id, Departure::Evicted(reason));
        self.disk_order.remove(id);
        if !self.ram_order.contains(id) {
            self.blocks.remove(id);
        } else if reason != EvictReason::Quota {
            self.forget_resident(id, now_secs);
        }
        Some(Delete { id: *id, physical, reason })
    }

    /// Forgets a stored block and queues the removal of its file; false if it is not stored.
    pub(crate) fn discard_stored(
        &mut self,
        id: &BlockId,
        reason: EvictReason,
        now_secs: u64,
    ) -> bool {
        let Some(delete) = self.evict(id, reason, now_secs) else { return false };
        self.leaving.insert(*id);
        self.deletes.push_back(delete);
        true
    }

    /// A stored block failed its checks: it is counted, forgotten, and its file set aside.
    pub(crate) fn discard_damaged(&mut self, id: &BlockId, damage: Damage, now_secs: u64) -> bool {
        let was_stored = self.discard_stored(id, EvictReason::Corrupt, now_secs);
        if was_stored {
            self.counters.verify_failure(damage);
            self.evictions.note(*id, Departure::Damaged(damage));
        }
        was_stored
    }

    /// Forgets a block wherever it is. A save in the queue finds out by itself.
    pub(crate) fn discard(&mut self, id: &BlockId, reason: EvictReason, now_secs: u64) {
        if self.discard_stored(id, reason, now_secs) {
            return;
        }
        if self.blocks.contains_key(id) {
            self.evictions.note(*id, Departure::Evicted(reason));
        }
        self.disk_order.remove(id);
        if let Some(block) = self.blocks.get_mut(id) {
            block.on_disk = OnDisk::No;
        }
        self.forget_resident(id, now_secs);
        self.blocks.remove(id);
    }

    /// Takes in a block found on disk, in the index or by a scan.
    pub(crate) fn adopt(&mut self, id: BlockId, mut block: Block, uses: u8) {
        // A copy in the RAM tier, put before the file was found, stays.
        block.resident = self.blocks.get(&id).and_then(|known| known.resident.clone());
        self.ledger.found(Some(id.space), block.physical);
        self.disk_order.insert(id, block.parent, uses);
        self.blocks.insert(id, block);
    }

    /// A stored block's file turned out not to be there.
    pub(crate) fn lost(&mut self, id: &BlockId) {
        let Some(block) = self.blocks.get(id).filter(|block| block.on_disk == OnDisk::Stored)
        else {
            return;
        };
        self.ledger.gone(Some(id.space), block.physical);
        self.counters.discarded_blocks += 1;
        self.evictions.note(*id, Departure::Lost);
        self.disk_order.remove(id);
        if self.ram_order.contains(id) {
            if let Some(block) = self.blocks.get_mut(id) {
                block.on_disk = OnDisk::No;
            }
        } else {
            self.blocks.remove(id);
        }
    }

    /// Takes back what [`State::adopt`] took in.
    pub(crate) fn forget_stored(&mut self, id: &BlockId) {
        if let Some(block) = self.blocks.remove(id) {
            self.ledger.gone(Some(id.space), block.physical);
            self.disk_order.remove(id);
        }
    }

    /// True while the writer has something to do now.
    pub(crate) fn writer_has_work(&self) -> bool {
        let may_save = self.scanned && !self.saves.is_empty();
        may_save || self.scanning || !self.deletes.is_empty()
    }

    /// True when nothing is queued or under way.
    pub(crate) fn is_settled(&self) -> bool {
        let waiting = !self.saves.is_empty() || !self.restores.is_empty() || self.writer_has_work();
        let running = self.writer_busy || !self.restoring.is_empty() || !self.scanned;
        !waiting && !running
    }

    /// Bytes of the waiting work: restore, delete, save.
    pub(crate) fn queue_bytes(&self) -> [u64; 3] {
        let len = |id: &BlockId| self.blocks.get(id).map_or(0, |block| block.file_len);
        [
            self.restores.iter().chain(&self.restoring).map(len).sum(),
            self.deletes.iter().map(|delete| delete.physical).sum(),
            self.saves_bytes,
        ]
    }

    /// Blocks by tier and kind.
    pub(crate) fn count_blocks(&self) -> [[u64; 3]; 2] {
        let mut counts = [[0; 3]; 2];
        for block in self.blocks.values() {
            counts[0][block.kind.index()] += u64::from(block.resident.is_some());
            counts[1][block.kind.index()] += u64::from(block.on_disk == OnDisk::Stored);
        }
        counts
    }

    pub(crate) fn namespace_stats(&self) -> Vec<NamespaceStats> {
        let stats = |(space, own): (&u32, &Space)| own.stats(self.ledger.space_physical(*space));
        let mut all: Vec<_> = self.spaces.iter().map(stats).collect();
        all.sort_by_key(|space| (std::cmp::Reverse(space.physical_bytes), space.namespace));
        let mut other = self.forgotten.clone();
        let has_other = other != NamespaceStats::default();
        if all.len() + usize::from(has_other) > crate::stats::MAX_NAMESPACE_STATS {
            let rest = all.split_off(crate::stats::MAX_NAMESPACE_STATS - 1);
            rest.iter().for_each(|space| other.add(space));
        }
        if other != NamespaceStats::default() {
            all.push(other);
        }
        all
    }
}

fn is_sampled(id: &BlockId) -> bool {
    u64::from(u16::from_le_bytes([id.key.0[30], id.key.0[31]])).is_multiple_of(AGE_SAMPLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_that_hold_nothing_do_not_add_up() {
        let mut state = State::new(&StoreConfig::new("/none", 1 << 30));
        let name = |n: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&n.to_le_bytes());
            Namespace(bytes)
        };
        let kept = BlockId { space: state.space(&name(0)), key: Key([1; 32]) };
        state.pin(kept);
        for n in 1..100_000 {
            let id = BlockId { space: state.space(&name(n)), key: Key([1; 32]) };
            state.drop_save(id, DropReason::Admission);
            assert!(state.spaces.len() <= 2 * FIRST_FORGETTING);
        }
        assert_eq!(state.find_space(&name(0)), Some(kept.space));
        state.unpin(&kept);
        state.forget_empty_spaces();
        assert!(state.spaces.is_empty() && state.space_ids.is_empty() && state.broken.is_empty());
        assert_eq!(state.namespace(&kept), None);
        assert_ne!(state.space(&name(0)), kept.space, "a number is not given twice");
    }
}
