//! Which requests run, and what each step computes.
//!
//! A pure core: requests, budgets and the clock go in, decisions come out. It holds no array, takes
//! no lock and reads no clock, so that a simulation can drive it through years of arrivals. The
//! engine thread asks for a [`Decision`], carries it out, and says what came of it.
//!
//! - **Admission** is first come, first served within a tenant (an API key), and goes to the tenant
//!   with the fewest running rows. A request that does not fit into memory now may be overtaken, but
//!   only so many times.
//! - **A step** is one token for every row that decodes, and at most one chunk of one prompt. While
//!   others decode, the chunk is cut so that the step takes no longer than the stall allowed.
//! - **Among prompts** the one with the least left to compute goes first. After a while, every fourth
//!   chunk goes to the one that has waited longest.
//! - **Memory** is reserved before it is used. When a row cannot grow, whatever can be given back is;
//!   then the youngest row is put back into the queue, to be resumed later.

mod cost;
mod memory;
#[cfg(test)]
mod simulation;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cost::CostModel;
pub(crate) use cost::StepCost;
pub(crate) use memory::{KvCost, Memory};

/// Names a request from its arrival to its end.
pub(crate) type RowId = u64;

/// Who a request belongs to, for fairness.
pub(crate) type Tenant = u64;

/// Others may be admitted before a request that does not fit now, but no more than this many.
const MAX_OVERTAKEN: u32 = 32;
/// Where prompts contend for long, one of so many chunks goes to the one that has waited longest.
const OLDEST_CHUNK: u32 = 4;
/// Before that, so many chunks may go to shorter prompts: a short question is not held up by a long
/// prompt even where a chunk is a token or two. Chunks of the one that waited earn this again.
const SHORT_CHUNKS: u32 = 100;
/// How long a request that does not fit waits for others to give memory back when nothing runs.
const ROOM_WAIT: Duration = Duration::from_secs(20);
/// A row's reservation grows by so many tokens at a time.
pub(crate) const GROW_TOKENS: usize = 256;

/// What bounds a step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Limits {
    /// Rows at once.
    pub(crate) max_batch: usize,
    /// Prompt tokens in a step.
    pub(crate) prefill_chunk: usize,
    /// How long a step may take while rows decode; `None`: twice what it takes without a prompt.
    pub(crate) decode_stall: Option<Duration>,
}

/// What the scheduler must know of a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SchedRequest {
    pub(crate) tenant: Tenant,
    /// Rows of different models never share a step.
    pub(crate) model: u64,
    /// Tokens to compute before the first new one: the prompt, and after a preemption what was
    /// generated too.
    pub(crate) tokens: usize,
    /// New tokens that may still come.
    pub(crate) left: usize,
    /// When it fails if it has not ended.
    pub(crate) deadline: Option<Duration>,
    /// Memory that its caches take.
    pub(crate) cost: KvCost,
    /// It computes alone, because a step that it was part of failed.
    pub(crate) solo: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Decision {
    /// The request's deadline has passed: it ends now.
    Expire(RowId),
    /// The request starts; [`Scheduler::started`] says how much of it was reused.
    Admit(RowId),
    /// Memory is short by so many bytes: give back what is kept for later, then tell the new
    /// [`Memory`]. Asked once for each shortage.
    Reclaim(u64),
    /// The row goes back into the queue, its KV into the cache.
    Preempt(RowId),
    /// The request does not fit, though nothing else runs and there was time to make room.
    Refuse(RowId),
    /// Compute.
    Step(StepPlan),
    /// Nothing can be done until something arrives or changes.
    Wait,
}

/// One step of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StepPlan {
    pub(crate) model: u64,
    /// One token each, oldest first.
    pub(crate) decode: Vec<RowId>,
    /// At most so many tokens of this row's prompt.
    pub(crate) prefill: Option<(RowId, usize)>,
}

#[derive(Debug, Clone)]
struct Entry {
    asking: SchedRequest,
    /// Ids grow with arrival, but a preempted request keeps its own place.
    overtaken: u32,
    state: State,
}

/// A prompt that is to be computed, or its rest.
#[derive(Debug, Clone, Copy)]
struct Prompt {
    id: RowId,
    computed: usize,
    left: usize,
    passed: u32,
    /// It was passed over for long enough.
    is_overdue: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Waiting,
    Running {
        /// Tokens in its caches.
        computed: usize,
        /// Of these, so many before it decodes.
        target: usize,
        /// Tokens that memory is reserved for.
        reserved: usize,
        /// Its reader has no room: it pauses.
        blocked: bool,
        /// What it may say next is not known yet: it pauses.
        held: bool,
        /// Chunks that went to others since it had one.
        passed: u32,
    },
}

/// The scheduler.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    entries: BTreeMap<RowId, Entry>,
    memory: Memory,
    /// Bytes reserved by running rows.
    reserved: u64,
    /// A shortage that was told and not answered yet, so that it is not told twice.
    told: Option<u64>,
    /// Nobody could be admitted, and nothing that this depends on has changed since.
    is_settled: bool,
    /// Since when nothing runs and what waits does not fit.
    stuck_since: Option<Duration>,
    costs: CostModel,
    /// Time that each model computed, since it had work.
    turns: BTreeMap<u64, Duration>,
    chunks: u32,
    /// Chunks that may still pass over the prompt that has waited longest.
    may_pass: u32,
}

impl Scheduler {
    pub(crate) fn new(limits: Limits, memory: Memory) -> Self {
        let limits = Limits {
            max_batch: limits.max_batch.max(1),
            prefill_chunk: limits.prefill_chunk.max(1),
            ..limits
        };
        Self {
            limits,
            entries: BTreeMap::new(),
            memory,
            reserved: 0,
            told: None,
            is_settled: false,
            stuck_since: None,
            costs: CostModel::default(),
            turns: BTreeMap::new(),
            chunks: 0,
            may_pass: SHORT_CHUNKS,
        }
    }

    /// A request arrives, or comes back after a preemption under its old id.
    pub(crate) fn arrive(&mut self, id: RowId, asking: SchedRequest) {
        self.is_settled = false;
        let old = self.leave(id);
        let overtaken = old.map_or(0, |entry| entry.overtaken);
        self.entries.insert(id, Entry { asking, overtaken, state: State::Waiting });
    }

    /// The request is over, however it ended.
    pub(crate) fn end(&mut self, id: RowId) {
        self.leave(id);
    }

    fn leave(&mut self, id: RowId) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.is_settled = false;
        if let State::Running { reserved, .. } = entry.state {
            self.reserved -= entry.asking.cost.bytes(reserved);
            self.told = None;
        }
        Some(entry)
    }

    /// An admitted request has caches that hold `computed` tokens already.
    pub(crate) fn started(&mut self, id: RowId, computed: usize) {
        self.is_settled = false;
        if let Some(State::Running { computed: now, .. }) = self.state_mut(id) {
            *now = computed;
        }
    }

    /// A step with `tokens` of the row's tokens is under way; with its last prompt token or later
    /// ones a new token comes.
    pub(crate) fn computing(&mut self, id: RowId, tokens: usize) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let State::Running { computed, target, passed, .. } = &mut entry.state else { return };
        if *computed < *target {
            // Who waits for this prompt may start.
            self.is_settled = false;
        }
        *computed += tokens;
        *passed = 0;
        if *computed >= *target {
            entry.asking.left = entry.asking.left.saturating_sub(1);
        }
    }

    /// Whether the row's reader has no room.
    pub(crate) fn set_blocked(&mut self, id: RowId, is_blocked: bool) {
        if let Some(State::Running { blocked, .. }) = self.state_mut(id) {
            *blocked = is_blocked;
        }
    }

    /// Whether it is not known yet what the row may say next.
    pub(crate) fn set_held(&mut self, id: RowId, is_held: bool) {
        if let Some(State::Running { held, .. }) = self.state_mut(id) {
            *held = is_held;
        }
    }

    /// The row computes with others again.
    pub(crate) fn trust(&mut self, id: RowId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.asking.solo = false;
        }
    }

    /// How long a step took.
    pub(crate) fn observe(&mut self, model: u64, cost: StepCost) {
        self.costs.observe(model, cost);
        let least = self.turns.values().min().copied().unwrap_or_default();
        *self.turns.entry(model).or_insert(least) += cost.duration;
    }

    /// What is used beside the rows, and what may be used in all.
    pub(crate) fn set_memory(&mut self, memory: Memory) {
        if memory != self.memory {
            self.is_settled = false;
            self.told = None;
        }
        self.memory = memory;
    }

    /// What steps of other models took is forgotten.
    pub(crate) fn keep_costs(&mut self, is_loaded: impl Fn(u64) -> bool) {
        self.costs.keep(is_loaded);
    }

    /// Bytes reserved by running rows.
    pub(crate) fn reserved_bytes(&self) -> u64 {
        self.reserved
    }

    /// Requests that run, and that wait.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let running = self.running().count();
        (running, self.entries.len() - running)
    }

    fn state_mut(&mut self, id: RowId) -> Option<&mut State> {
        self.entries.get_mut(&id).map(|entry| &mut entry.state)
    }

    fn running(&self) -> impl Iterator<Item = (RowId, &Entry)> {
        let running = |entry: &Entry| matches!(entry.state, State::Running { .. });
        self.entries.iter().filter(move |(_, entry)| running(entry)).map(|(id, entry)| (*id, entry))
    }

    fn waiting(&self) -> impl Iterator<Item = (RowId, &Entry)> {
        let waiting = |entry: &Entry| entry.state == State::Waiting;
        self.entries.iter().filter(move |(_, entry)| waiting(entry)).map(|(id, entry)| (*id, entry))
    }

    /// What to do now. `may_start`: whether a waiting request may start, as far as the engine is
    /// concerned. Its answer changes only when a request comes or goes, or a prompt gets on: until then
    /// it is not asked again.
    pub(crate) fn next(
        &mut self,
        now: Duration,
        may_start: &mut dyn FnMut(RowId) -> bool,
    ) -> Decision {
        let late = |entry: &Entry| entry.asking.deadline.is_some_and(|deadline| deadline <= now);
        if let Some((&id, _)) = self.entries.iter().find(|(_, entry)| late(entry)) {
            return Decision::Expire(id);
        }
        if let Some(decision) = self.grow() {
            return decision;
        }
        if let Some(decision) = self.admit(may_start) {
            self.stuck_since = None;
            return decision;
        }
        let decision = self.step();
        let runs = self.running().next().is_some();
        let first =
            if runs { None } else { self.waiting().map(|(id, _)| id).find(|&id| may_start(id)) };
        match first {
            None => self.stuck_since = None,
            Some(id) if now >= *self.stuck_since.get_or_insert(now) + ROOM_WAIT => {
                self.stuck_since = None;
                return Decision::Refuse(id);
            }
            Some(_) => {}
        }
        decision
    }

    /// Reserves what the running rows' next tokens need.
    fn grow(&mut self) -> Option<Decision> {
        let mut short = None;
        let alone = self.running().count() == 1;
        for (&id, entry) in &mut self.entries {
            let State::Running { computed, target, reserved, .. } = &mut entry.state else {
                continue;
            };
            let needed = (*computed).max(*target) + 1;
            if needed <= *reserved || entry.asking.left == 0 {
                continue;
            }
            let wanted = entry.asking.reservation(needed);
            let more = entry.asking.cost.bytes(wanted) - entry.asking.cost.bytes(*reserved);
            let free = self.memory.free_bytes(self.reserved, alone);
            if more <= free {
                self.reserved += more;
                *reserved = wanted;
            } else {
                short = Some((id, more - free));
                break;
            }
        }
        let (id, bytes) = short?;
        if self.told.is_none_or(|told| told < bytes) {
            self.told = Some(bytes);
            return Some(Decision::Reclaim(bytes));
        }
        let youngest = self.running().map(|(id, _)| id).max()?;
        if alone {
            // Its length was checked against the whole budget: what is in its way is memory that
            // others hold for a while. It waits for it in the queue.
            return Some(Decision::Preempt(id));
        }
        Some(Decision::Preempt(youngest))
    }

    /// Starts the request whose turn it is, if there is a place and memory for it.
    fn admit(&mut self, may_start: &mut dyn FnMut(RowId) -> bool) -> Option<Decision> {
        if self.is_settled {
            return None;
        }
        let decision = self.pick_waiting(may_start);
        self.is_settled = decision.is_none();
        decision
    }

    fn pick_waiting(&mut self, may_start: &mut dyn FnMut(RowId) -> bool) -> Option<Decision> {
        let running = self.running().count();
        if running >= self.limits.max_batch {
            return None;
        }
        let mut rows: BTreeMap<Tenant, usize> = BTreeMap::new();
        for (_, entry) in self.running() {
            *rows.entry(entry.asking.tenant).or_default() += 1;
        }
        let mut order: Vec<(usize, RowId)> = self
            .waiting()
            .map(|(id, entry)| (rows.get(&entry.asking.tenant).copied().unwrap_or(0), id))
            .collect();
        // One that was overtaken for too long goes before all others, and nobody overtakes it.
        let exhausted = |id: &RowId| self.entries[id].overtaken >= MAX_OVERTAKEN;
        order.sort_unstable_by_key(|&(rows, id)| (!exhausted(&id), rows, id));
        let mut overtaken: Vec<RowId> = Vec::new();
        // Requests of a tenant that are held back stay in their order.
        let mut held: BTreeSet<Tenant> = BTreeSet::new();
        for (_, id) in order {
            let entry = &self.entries[&id];
            if !may_start(id) {
                continue;
            }
            if held.contains(&entry.asking.tenant) {
                continue;
            }
            let tokens = entry.asking.reservation(entry.asking.tokens + 1);
            let bytes = entry.asking.cost.bytes(tokens);
            let free = self.memory.free_bytes(self.reserved, running == 0);
            if bytes <= free {
                self.begin(id, tokens, bytes);
                for id in overtaken {
                    if let Some(entry) = self.entries.get_mut(&id) {
                        entry.overtaken += 1;
                    }
                }
                return Some(Decision::Admit(id));
            }
            if self.told.is_none_or(|told| told < bytes - free) {
                self.told = Some(bytes - free);
                return Some(Decision::Reclaim(bytes - free));
            }
            if entry.overtaken >= MAX_OVERTAKEN {
                return None;
            }
            held.insert(entry.asking.tenant);
            overtaken.push(id);
        }
        None
    }

    fn begin(&mut self, id: RowId, reserved: usize, bytes: u64) {
        self.reserved += bytes;
        if let Some(entry) = self.entries.get_mut(&id) {
            let target = entry.asking.tokens;
            let (blocked, held) = (false, false);
            entry.state =
                State::Running { computed: 0, target, reserved, blocked, held, passed: 0 };
        }
    }

    /// The next step: of the model that has computed least.
    fn step(&mut self) -> Decision {
        let mut models: BTreeSet<u64> = BTreeSet::new();
        for (_, entry) in self.running() {
            if entry.has_work() {
                models.insert(entry.asking.model);
            }
        }
        self.turns.retain(|model, _| models.contains(model));
        let turns = &self.turns;
        let turn = |model: &&u64| turns.get(model).copied().unwrap_or_default();
        let Some(&model) = models.iter().min_by_key(turn) else { return Decision::Wait };
        let of_model = |(_, entry): &(RowId, &Entry)| entry.asking.model == model;
        let rows: Vec<(RowId, &Entry)> =
            self.running().filter(of_model).filter(|(_, entry)| entry.has_work()).collect();
        if let Some((id, entry)) = rows.iter().find(|(_, entry)| entry.asking.solo) {
            let (decode, prefill) = match entry.prompt_left() {
                0 => (vec![*id], None),
                _ => (Vec::new(), Some((*id, self.limits.prefill_chunk))),
            };
            return Decision::Step(StepPlan { model, decode, prefill });
        }
        let decode: Vec<RowId> =
            rows.iter().filter(|(_, e)| e.prompt_left() == 0).map(|(id, _)| *id).collect();
        let prefill = self.pick_prefill(&rows).map(|chosen| {
            self.pass_over(model, &chosen);
            (chosen.id, self.chunk(model, decode.len(), chosen.computed))
        });
        Decision::Step(StepPlan { model, decode, prefill })
    }

    /// The prompt with the least to compute, or the one that has waited longest.
    fn pick_prefill(&self, rows: &[(RowId, &Entry)]) -> Option<Prompt> {
        let prompts = rows.iter().filter_map(|(id, entry)| match entry.state {
            State::Running { computed, passed, .. } if entry.prompt_left() > 0 => Some(Prompt {
                id: *id,
                computed,
                left: entry.prompt_left(),
                passed,
                is_overdue: false,
            }),
            _ => None,
        });
        let shortest = prompts.clone().min_by_key(|prompt| (prompt.left, prompt.id))?;
        let oldest = prompts.max_by_key(|prompt| (prompt.passed, Reverse(prompt.id)))?;
        let is_overdue = self.may_pass == 0 && oldest.passed + 1 >= OLDEST_CHUNK;
        Some(if is_overdue { Prompt { is_overdue, ..oldest } } else { shortest })
    }

    /// The chosen prompt has a chunk, the others of its model do not.
    fn pass_over(&mut self, model: u64, chosen: &Prompt) {
        self.chunks = self.chunks.wrapping_add(1);
        let mut passes = false;
        for (&id, entry) in &mut self.entries {
            let is_prompt = entry.asking.model == model && entry.prompt_left() > 0;
            if let State::Running { passed, .. } = &mut entry.state
                && is_prompt
                && id != chosen.id
            {
                passes = !chosen.is_overdue;
                *passed = passed.saturating_add(1);
            }
        }
        self.may_pass = if passes {
            self.may_pass.saturating_sub(1)
        } else {
            (self.may_pass + OLDEST_CHUNK - 1).min(SHORT_CHUNKS)
        };
    }

    /// Tokens of a prompt, behind `depth` of it, that a step may hold beside so many rows that decode.
    fn chunk(&self, model: u64, decoding: usize, depth: usize) -> usize {
        let most = self.memory.chunk(self.limits.prefill_chunk);
        if decoding == 0 {
            return most;
        }
        let fits = self.costs.chunk(model, decoding, depth, self.limits.decode_stall);
        // A fraction is rounded up in as many of four chunks as it has quarters.
        let quarter = f64::from(self.chunks % 4) / 4.0;
        ((fits + quarter) as usize).min(most)
    }
}

impl SchedRequest {
    /// Tokens to reserve memory for when `needed` are needed: with room to decode, but no more than
    /// can come.
    fn reservation(&self, needed: usize) -> usize {
        let most = needed.max(self.tokens + self.left);
        needed.next_multiple_of(GROW_TOKENS).min(most)
    }
}

impl Entry {
    /// Tokens to compute before the row decodes.
    fn prompt_left(&self) -> usize {
        match self.state {
            State::Running { computed, target, .. } => target.saturating_sub(computed),
            State::Waiting => 0,
        }
    }

    /// Whether the row can be part of a step.
    fn has_work(&self) -> bool {
        match self.state {
            State::Running { blocked, held, .. } => !blocked && !held && self.asking.left > 0,
            State::Waiting => false,
        }
    }
}
