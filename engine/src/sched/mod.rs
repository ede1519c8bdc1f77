//! Decides which requests run and what each step computes.
//!
//! A pure core: its inputs are requests, budgets and the time, and its outputs are decisions. It
//! holds no array, takes no lock and reads no clock, so a simulation can run it through years of
//! arrivals. The engine thread requests a [`Decision`], carries it out, and reports the result.
//!
//! - **Admission** is first come, first served within a tenant (an API key). The tenant with the
//!   fewest running rows is next. Other requests may overtake one that does not fit in memory now,
//!   but only a limited number of times.
//! - **A step** is one token for every decoding row, and at most one chunk of one prompt. While
//!   other rows decode, the chunk is limited so that the step stays within the allowed stall.
//! - **Among prompts** the one with the fewest tokens left goes first. After a while, every fourth
//!   chunk goes to the one that has waited longest.
//! - **Memory** is reserved before it is used. If a row cannot grow, everything kept for later is
//!   freed; then the youngest row is put back into the queue, to be resumed later.

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

/// Identifies a request from its arrival to its end.
pub(crate) type RowId = u64;

/// Identifies the owner of a request, for fairness.
pub(crate) type Tenant = u64;

/// Limit on the requests that may overtake one that does not fit in memory.
const MAX_OVERTAKEN: u32 = 32;
/// If prompts wait for long, one in this many chunks goes to the one that has waited longest.
const OLDEST_CHUNK: u32 = 4;
/// Number of chunks that may go to shorter prompts before that rule applies. A short question is
/// then not delayed by a long prompt, even if a chunk is only a token or two. Chunks of the prompt
/// that waited refill this number.
const SHORT_CHUNKS: u32 = 100;
/// How long a request waits for memory when no request runs.
const ROOM_WAIT: Duration = Duration::from_secs(20);
/// A row's reservation grows by this many tokens at a time.
pub(crate) const GROW_TOKENS: usize = 256;

/// Limits on a step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Limits {
    /// Maximum number of rows.
    pub(crate) max_batch: usize,
    /// Maximum number of prompt tokens.
    pub(crate) prefill_chunk: usize,
    /// Maximum duration while rows decode; `None`: twice that of a step without a prompt.
    pub(crate) decode_stall: Option<Duration>,
}

/// The facts about a request that the scheduler needs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SchedRequest {
    pub(crate) tenant: Tenant,
    /// Rows of different models never share a step.
    pub(crate) model: u64,
    /// Number of tokens to compute before the first new one: the prompt, and after a preemption
    /// also the generated tokens.
    pub(crate) tokens: usize,
    /// Number of tokens that may still be generated.
    pub(crate) left: usize,
    /// The time at which the request fails if it has not ended.
    pub(crate) deadline: Option<Duration>,
    /// The memory cost of its caches.
    pub(crate) cost: KvCost,
    /// It computes alone, because a step with it and other rows failed.
    pub(crate) solo: bool,
}

/// The engine's next action.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Decision {
    /// End the request, because its deadline has passed.
    Expire(RowId),
    /// Start the request. [`Scheduler::started`] then reports its reused tokens.
    Admit(RowId),
    /// Free this many bytes of memory kept for later, then report the new [`Memory`]. Each shortage
    /// is reported once.
    Reclaim(u64),
    /// Put the row back into the queue and its KV cache into the store.
    Preempt(RowId),
    /// Reject the request: it does not fit although no other request runs and time passed to free
    /// memory.
    Refuse(RowId),
    /// Compute this step.
    Step(StepPlan),
    /// Wait until a request arrives or the state changes.
    Wait,
}

/// One step of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StepPlan {
    pub(crate) model: u64,
    /// Rows that decode one token each, oldest first.
    pub(crate) decode: Vec<RowId>,
    /// The row with a prompt chunk, and the chunk's maximum number of tokens.
    pub(crate) prefill: Option<(RowId, usize)>,
}

#[derive(Debug, Clone)]
struct Entry {
    request: SchedRequest,
    /// Number of requests that overtook this one. Ids grow with arrival, but a preempted request
    /// keeps its id and so its position.
    overtaken: u32,
    state: State,
}

/// A prompt, or the remaining part of one, that must be computed.
#[derive(Debug, Clone, Copy)]
struct Prompt {
    id: RowId,
    computed: usize,
    left: usize,
    passed: u32,
    /// It has been passed over for long enough.
    is_overdue: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Waiting,
    Running {
        /// Number of tokens in its caches.
        computed: usize,
        /// Number of tokens that must be in the caches before it decodes.
        target: usize,
        /// Number of tokens for which memory is reserved.
        reserved: usize,
        /// Its reader is behind, so it pauses.
        blocked: bool,
        /// Its token mask is not ready, so it pauses.
        awaits_mask: bool,
        /// Number of chunks that went to other prompts since it had one.
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
    /// A shortage that was reported and is not resolved yet, so that it is not reported again.
    reported_shortage: Option<u64>,
    /// No request could be admitted, and nothing that this depends on has changed since then.
    is_settled: bool,
    /// Since when no request runs and the waiting ones do not fit.
    stuck_since: Option<Duration>,
    costs: CostModel,
    /// Compute time of each model since it had work.
    turns: BTreeMap<u64, Duration>,
    chunks: u32,
    /// Number of chunks that may still pass over the prompt that has waited longest.
    passes_left: u32,
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
            reported_shortage: None,
            is_settled: false,
            stuck_since: None,
            costs: CostModel::default(),
            turns: BTreeMap::new(),
            chunks: 0,
            passes_left: SHORT_CHUNKS,
        }
    }

    /// Adds a request, or a preempted request under its old id.
    pub(crate) fn arrive(&mut self, id: RowId, request: SchedRequest) {
        self.is_settled = false;
        let old = self.leave(id);
        let overtaken = old.map_or(0, |entry| entry.overtaken);
        self.entries.insert(id, Entry { request, overtaken, state: State::Waiting });
    }

    /// Removes a request, however it ended.
    pub(crate) fn end(&mut self, id: RowId) {
        self.leave(id);
    }

    fn leave(&mut self, id: RowId) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.is_settled = false;
        if let State::Running { reserved, .. } = entry.state {
            self.reserved -= entry.request.cost.bytes(reserved);
            self.reported_shortage = None;
        }
        Some(entry)
    }

    /// Records that an admitted request has caches with `computed` tokens.
    pub(crate) fn started(&mut self, id: RowId, computed: usize) {
        self.is_settled = false;
        if let Some(State::Running { computed: now, .. }) = self.state_mut(id) {
            *now = computed;
        }
    }

    /// Records that a step computes `tokens` of the row's tokens. From the last prompt token on,
    /// each step yields a new token.
    pub(crate) fn computing(&mut self, id: RowId, tokens: usize) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let State::Running { computed, target, passed, .. } = &mut entry.state else { return };
        if *computed < *target {
            // Requests that wait for this prompt may start.
            self.is_settled = false;
        }
        *computed += tokens;
        *passed = 0;
        if *computed >= *target {
            entry.request.left = entry.request.left.saturating_sub(1);
        }
    }

    /// Sets whether the row's reader is behind.
    pub(crate) fn set_blocked(&mut self, id: RowId, is_blocked: bool) {
        if let Some(State::Running { blocked, .. }) = self.state_mut(id) {
            *blocked = is_blocked;
        }
    }

    /// Sets whether the row waits for its token mask.
    pub(crate) fn set_awaits_mask(&mut self, id: RowId, awaits: bool) {
        if let Some(State::Running { awaits_mask, .. }) = self.state_mut(id) {
            *awaits_mask = awaits;
        }
    }

    /// Lets the row compute with others again.
    pub(crate) fn trust(&mut self, id: RowId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.request.solo = false;
        }
    }

    /// Records how long a step took.
    pub(crate) fn observe(&mut self, model: u64, cost: StepCost) {
        self.costs.observe(model, cost);
        let least = self.turns.values().min().copied().unwrap_or_default();
        *self.turns.entry(model).or_insert(least) += cost.duration;
    }

    /// Sets the memory used by everything but rows, and the limits.
    pub(crate) fn set_memory(&mut self, memory: Memory) {
        if memory != self.memory {
            self.is_settled = false;
            self.reported_shortage = None;
        }
        self.memory = memory;
    }

    /// Keeps the step costs only of models for which `is_loaded` is true.
    pub(crate) fn keep_costs(&mut self, is_loaded: impl Fn(u64) -> bool) {
        self.costs.keep(is_loaded);
    }

    /// Bytes reserved by running rows.
    pub(crate) fn reserved_bytes(&self) -> u64 {
        self.reserved
    }

    /// The numbers of running and waiting requests.
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

    /// Returns the next decision. `may_start` tells whether the engine allows a waiting request to
    /// start. Its answer may change only when a request arrives or ends, or when a prompt
    /// progresses; it is not called again before that.
    pub(crate) fn next(
        &mut self,
        now: Duration,
        may_start: &mut dyn FnMut(RowId) -> bool,
    ) -> Decision {
        let late = |entry: &Entry| entry.request.deadline.is_some_and(|deadline| deadline <= now);
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

    /// Reserves memory for the running rows' next tokens.
    fn grow(&mut self) -> Option<Decision> {
        let mut short = None;
        let alone = self.running().count() == 1;
        for (&id, entry) in &mut self.entries {
            let State::Running { computed, target, reserved, .. } = &mut entry.state else {
                continue;
            };
            let needed = (*computed).max(*target) + 1;
            if needed <= *reserved || entry.request.left == 0 {
                continue;
            }
            let wanted = entry.request.reservation(needed);
            let more = entry.request.cost.bytes(wanted) - entry.request.cost.bytes(*reserved);
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
        if self.reported_shortage.is_none_or(|reported| reported < bytes) {
            self.reported_shortage = Some(bytes);
            return Some(Decision::Reclaim(bytes));
        }
        let youngest = self.running().map(|(id, _)| id).max()?;
        if alone {
            // Its length was checked against the whole budget, so other rows hold the missing
            // memory for now. It waits in the queue until they free it.
            return Some(Decision::Preempt(id));
        }
        Some(Decision::Preempt(youngest))
    }

    /// Starts the next waiting request if there is a free row and memory for it.
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
            *rows.entry(entry.request.tenant).or_default() += 1;
        }
        let mut order: Vec<(usize, RowId)> = self
            .waiting()
            .map(|(id, entry)| (rows.get(&entry.request.tenant).copied().unwrap_or(0), id))
            .collect();
        // A request that was overtaken too often goes first, and no other request overtakes it.
        let exhausted = |id: &RowId| self.entries[id].overtaken >= MAX_OVERTAKEN;
        order.sort_unstable_by_key(|&(rows, id)| (!exhausted(&id), rows, id));
        let mut overtaken: Vec<RowId> = Vec::new();
        // Within a tenant, requests behind one that is held back keep their order.
        let mut held_back: BTreeSet<Tenant> = BTreeSet::new();
        for (_, id) in order {
            let entry = &self.entries[&id];
            if !may_start(id) {
                continue;
            }
            if held_back.contains(&entry.request.tenant) {
                continue;
            }
            let tokens = entry.request.reservation(entry.request.tokens + 1);
            let bytes = entry.request.cost.bytes(tokens);
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
            if self.reported_shortage.is_none_or(|reported| reported < bytes - free) {
                self.reported_shortage = Some(bytes - free);
                return Some(Decision::Reclaim(bytes - free));
            }
            if entry.overtaken >= MAX_OVERTAKEN {
                return None;
            }
            held_back.insert(entry.request.tenant);
            overtaken.push(id);
        }
        None
    }

    fn begin(&mut self, id: RowId, reserved: usize, bytes: u64) {
        self.reserved += bytes;
        if let Some(entry) = self.entries.get_mut(&id) {
            let target = entry.request.tokens;
            let (blocked, awaits_mask) = (false, false);
            entry.state =
                State::Running { computed: 0, target, reserved, blocked, awaits_mask, passed: 0 };
        }
    }

    /// Plans the next step for the model with the least compute time.
    fn step(&mut self) -> Decision {
        let mut models: BTreeSet<u64> = BTreeSet::new();
        for (_, entry) in self.running() {
            if entry.has_work() {
                models.insert(entry.request.model);
            }
        }
        self.turns.retain(|model, _| models.contains(model));
        let turns = &self.turns;
        let turn = |model: &&u64| turns.get(model).copied().unwrap_or_default();
        let Some(&model) = models.iter().min_by_key(turn) else { return Decision::Wait };
        let of_model = |(_, entry): &(RowId, &Entry)| entry.request.model == model;
        let rows: Vec<(RowId, &Entry)> =
            self.running().filter(of_model).filter(|(_, entry)| entry.has_work()).collect();
        if let Some((id, entry)) = rows.iter().find(|(_, entry)| entry.request.solo) {
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

    /// The prompt with the fewest tokens left, or the one that has waited longest.
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
        let is_overdue = self.passes_left == 0 && oldest.passed + 1 >= OLDEST_CHUNK;
        Some(if is_overdue { Prompt { is_overdue, ..oldest } } else { shortest })
    }

    /// Records that the chosen prompt has a chunk and that the model's other prompts were passed
    /// over.
    fn pass_over(&mut self, model: u64, chosen: &Prompt) {
        self.chunks = self.chunks.wrapping_add(1);
        let mut passes = false;
        for (&id, entry) in &mut self.entries {
            let is_prompt = entry.request.model == model && entry.prompt_left() > 0;
            if let State::Running { passed, .. } = &mut entry.state
                && is_prompt
                && id != chosen.id
            {
                passes = !chosen.is_overdue;
                *passed = passed.saturating_add(1);
            }
        }
        self.passes_left = if passes {
            self.passes_left.saturating_sub(1)
        } else {
            (self.passes_left + OLDEST_CHUNK - 1).min(SHORT_CHUNKS)
        };
    }

    /// The size of a prompt chunk after `depth` tokens, for a step with `decoding` decoding rows.
    fn chunk(&self, model: u64, decoding: usize, depth: usize) -> usize {
        let most = self.memory.chunk(self.limits.prefill_chunk);
        if decoding == 0 {
            return most;
        }
        let fits = self.costs.chunk(model, decoding, depth, self.limits.decode_stall);
        // A fraction is rounded up in a matching share of every four chunks.
        let quarter = f64::from(self.chunks % 4) / 4.0;
        ((fits + quarter) as usize).min(most)
    }
}

impl SchedRequest {
    /// Number of tokens to reserve memory for when `needed` are needed: with space to decode, but
    /// no more than the request can use.
    fn reservation(&self, needed: usize) -> usize {
        let most = needed.max(self.tokens + self.left);
        needed.next_multiple_of(GROW_TOKENS).min(most)
    }
}

impl Entry {
    /// Number of tokens to compute before the row decodes.
    fn prompt_left(&self) -> usize {
        match self.state {
            State::Running { computed, target, .. } => target.saturating_sub(computed),
            State::Waiting => 0,
        }
    }

    /// Whether the row can be part of a step.
    fn has_work(&self) -> bool {
        match self.state {
            State::Running { blocked, awaits_mask, .. } => {
                !blocked && !awaits_mask && self.request.left > 0
            }
            State::Waiting => false,
        }
    }
}
