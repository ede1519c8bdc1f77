//! Simulates years of arrivals in a second: the scheduler drives an engine made of counters.

use std::collections::BTreeMap;

use super::*;

/// The result of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    Done,
    Cancelled,
    Expired,
    Refused,
}

/// A small generator, whose results for a given seed never change.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A request, as seen by its client.
struct Client {
    request: SchedRequest,
    arrival: Duration,
    /// When the client disconnects.
    leaves: Option<Duration>,
    outcome: Option<Outcome>,
    generated: usize,
    /// Number of tokens in its caches while it runs.
    cached: Option<usize>,
    preempted: usize,
    started: Option<Duration>,
}

struct World {
    random: Random,
    scheduler: Scheduler,
    memory: Memory,
    /// The part of the used memory that can be freed.
    reclaimable: u64,
    clients: BTreeMap<RowId, Client>,
    now: Duration,
    limits: Limits,
}

const FIXED: u64 = 1000;

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let limits = Limits {
            max_batch: 1 + random.below(8) as usize,
            prefill_chunk: [16, 64, 256, 2048][random.below(4) as usize],
            decode_stall: random.chance(30).then(|| Duration::from_millis(1 + random.below(100))),
        };
        let reclaimable = random.below(50_000);
        let memory = Memory {
            budget_bytes: 60_000 + random.below(60_000),
            ceiling_bytes: if random.chance(30) { random.below(90_000) } else { u64::MAX },
            used_bytes: FIXED + reclaimable,
            is_short: random.chance(20),
        };
        let scheduler = Scheduler::new(limits.clone(), memory);
        let mut world = Self {
            random,
            scheduler,
            memory,
            reclaimable,
            clients: BTreeMap::new(),
            now: Duration::ZERO,
            limits,
        };
        world.invent();
        world
    }

    fn invent(&mut self) {
        let random = &mut self.random;
        let mut at = Duration::ZERO;
        for id in 0..10 + random.below(30) {
            at += Duration::from_millis(random.below(120));
            let cost = KvCost {
                token_bytes: 1 + random.below(20),
                windows: if random.chance(30) { vec![(10, 128)] } else { Vec::new() },
                fixed_bytes: if random.chance(30) { 500 } else { 0 },
            };
            let most = cost.tokens_in(self.memory.budget_bytes - FIXED);
            let long = if random.chance(20) { 9000 } else { 800 };
            let many = if random.chance(30) { 2500 } else { 100 };
            let left = 1 + random.below(many) as usize;
            let tokens = (1 + random.below(long) as usize).min(most.saturating_sub(left));
            let request = SchedRequest {
                tenant: random.below(4),
                model: random.below(2),
                tokens: tokens.max(1),
                left,
                deadline: random
                    .chance(10)
                    .then(|| at + Duration::from_millis(random.below(20_000))),
                cost,
                solo: false,
            };
            let leaves = random.chance(15).then(|| at + Duration::from_millis(random.below(9000)));
            self.clients.insert(
                id,
                Client {
                    request,
                    arrival: at,
                    leaves,
                    outcome: None,
                    generated: 0,
                    cached: None,
                    preempted: 0,
                    started: None,
                },
            );
        }
    }

    fn end(&mut self, id: RowId, outcome: Outcome) {
        let client = self.clients.get_mut(&id).unwrap();
        assert_eq!(client.outcome, None, "request {id} ends twice");
        client.outcome = Some(outcome);
        client.cached = None;
        self.scheduler.end(id);
    }

    /// Adds and removes the clients that are due.
    fn arrivals_and_departures(&mut self, arrived: &mut RowId) {
        while let Some(client) = self.clients.get(arrived)
            && client.arrival <= self.now
        {
            self.scheduler.arrive(*arrived, client.request.clone());
            *arrived += 1;
        }
        let gone = |(id, client): (&RowId, &Client)| {
            let leaves = client.leaves.is_some_and(|at| at <= self.now);
            (id < arrived && leaves && client.outcome.is_none()).then_some(*id)
        };
        let gone: Vec<RowId> = self.clients.iter().filter_map(gone).collect();
        gone.into_iter().for_each(|id| self.end(id, Outcome::Cancelled));
    }

    fn step(&mut self, plan: &StepPlan) {
        let rows = plan.decode.len() + usize::from(plan.prefill.is_some());
        assert!(rows > 0 && rows <= self.limits.max_batch, "{rows} rows");
        let mut tokens = plan.decode.len();
        let mut given: Vec<RowId> = plan.decode.clone();
        for id in &plan.decode {
            self.scheduler.computing(*id, 1);
            *self.clients.get_mut(id).unwrap().cached.as_mut().expect("it runs") += 1;
        }
        let (mut prompt_tokens, mut depth) = (0, 0);
        if let Some((id, most)) = plan.prefill {
            assert!((1..=self.limits.prefill_chunk).contains(&most));
            let client = self.clients.get_mut(&id).unwrap();
            let cached = client.cached.as_mut().expect("it runs");
            let target = client.request.tokens;
            depth = *cached;
            prompt_tokens = most.min(target - *cached);
            assert!(prompt_tokens > 0);
            *cached += prompt_tokens;
            tokens += prompt_tokens;
            if *cached == target {
                given.push(id);
            }
            self.scheduler.computing(id, prompt_tokens);
        }
        let duration = Duration::from_micros(500 + 100 * tokens as u64);
        self.now += duration;
        let cost = StepCost { decoding: plan.decode.len(), prompt_tokens, depth, duration };
        self.scheduler.observe(plan.model, cost);
        for id in given {
            let client = self.clients.get_mut(&id).unwrap();
            client.generated += 1;
            client.request.left -= 1;
            // Some requests end early on their own.
            if client.request.left == 0 || self.random.chance(1) {
                self.end(id, Outcome::Done);
            }
        }
        if self.random.chance(3) {
            self.toggle_a_reader();
        }
    }

    /// Blocks one reader and unblocks all others.
    fn toggle_a_reader(&mut self) {
        let running: Vec<RowId> = self.scheduler.running().map(|(id, _)| id).collect();
        running.iter().for_each(|id| self.scheduler.set_blocked(*id, false));
        if let Some(&id) = running.get(self.random.below(4) as usize) {
            self.scheduler.set_blocked(id, true);
        }
    }

    fn check(&self) {
        let used = self.memory.used_bytes + self.scheduler.reserved_bytes();
        assert!(
            used <= self.memory.budget_bytes.max(self.memory.used_bytes),
            "the budget is passed"
        );
        let mut reserved = 0;
        for (id, entry) in self.scheduler.running() {
            let State::Running { reserved: tokens, .. } = entry.state else { unreachable!() };
            let cached = self.clients[&id].cached.expect("it runs");
            assert!(cached <= tokens, "row {id} holds {cached} tokens with room for {tokens}");
            reserved += entry.request.cost.bytes(tokens);
        }
        assert_eq!(reserved, self.scheduler.reserved_bytes(), "memory leaks");
    }

    /// Runs to the end. Returns the number of preemptions.
    fn run(mut self) -> usize {
        let mut arrived = 0;
        let mut decisions = 0u64;
        while self.clients.values().any(|client| client.outcome.is_none()) {
            decisions += 1;
            assert!(decisions < 2_000_000, "nothing gets on at {:?}", self.now);
            self.arrivals_and_departures(&mut arrived);
            self.check();
            match self.scheduler.next(self.now, &mut |_| true) {
                Decision::Expire(id) => self.end(id, Outcome::Expired),
                Decision::Refuse(id) => self.end(id, Outcome::Refused),
                Decision::Admit(id) => {
                    let reused = self.random.below(100) as usize;
                    let client = self.clients.get_mut(&id).unwrap();
                    let reused = reused.min(client.request.tokens - 1);
                    client.cached = Some(reused);
                    client.started.get_or_insert(self.now);
                    self.scheduler.started(id, reused);
                }
                Decision::Reclaim(bytes) => {
                    let given = self.reclaimable.min(bytes);
                    self.reclaimable -= given;
                    self.memory.used_bytes -= given;
                    self.scheduler.set_memory(self.memory);
                }
                Decision::Preempt(id) => {
                    let client = self.clients.get_mut(&id).unwrap();
                    client.cached = None;
                    client.preempted += 1;
                    // The generated tokens are computed again.
                    client.request.tokens += std::mem::take(&mut client.generated);
                    let request = client.request.clone();
                    self.scheduler.arrive(id, request);
                }
                Decision::Step(plan) => self.step(&plan),
                Decision::Wait => {
                    self.now += Duration::from_millis(10);
                    self.toggle_a_reader();
                }
            }
        }
        assert_eq!(self.scheduler.reserved_bytes(), 0);
        assert!(self.scheduler.entries.is_empty());
        for (id, client) in &self.clients {
            let outcome = client.outcome.unwrap();
            // Each request fits when it is alone.
            assert_ne!(outcome, Outcome::Refused, "request {id}");
            assert!(
                outcome != Outcome::Expired || client.request.deadline.is_some(),
                "request {id}"
            );
        }
        self.clients.values().map(|client| client.preempted).sum()
    }
}

#[test]
fn a_thousand_worlds() {
    let preempted: usize = (0..1000).map(|seed| World::new(seed).run()).sum();
    assert!(preempted > 100, "the simulation hardly ever ran out of memory: {preempted}");
}

fn limits() -> Limits {
    Limits { max_batch: 4, prefill_chunk: 256, decode_stall: None }
}

fn roomy() -> Memory {
    Memory { budget_bytes: 1 << 40, ceiling_bytes: u64::MAX, used_bytes: 0, is_short: false }
}

fn sched_request(tenant: Tenant, tokens: usize, left: usize) -> SchedRequest {
    let cost = KvCost { token_bytes: 1, ..KvCost::default() };
    SchedRequest { tenant, model: 0, tokens, left, deadline: None, cost, solo: false }
}

/// Admits all requests that can be admitted. Returns their ids.
fn admit(scheduler: &mut Scheduler) -> Vec<RowId> {
    let mut admitted = Vec::new();
    while let Some(Decision::Admit(id)) = scheduler.admit(&mut |_| true) {
        scheduler.started(id, 0);
        admitted.push(id);
    }
    admitted
}

#[test]
fn a_tenant_with_many_requests_does_not_block_another() {
    let mut scheduler = Scheduler::new(limits(), roomy());
    (0..10).for_each(|id| scheduler.arrive(id, sched_request(1, 10, 5)));
    (10..12).for_each(|id| scheduler.arrive(id, sched_request(2, 10, 5)));
    assert_eq!(admit(&mut scheduler), [0, 10, 1, 11]);
    scheduler.end(10);
    scheduler.arrive(12, sched_request(2, 10, 5));
    assert_eq!(admit(&mut scheduler), [12]);
}

#[test]
fn a_short_prompt_goes_before_a_long_one_that_still_progresses() {
    let mut scheduler = Scheduler::new(limits(), roomy());
    let chunk = |scheduler: &mut Scheduler| {
        let Decision::Step(plan) = scheduler.step() else { panic!("there is work") };
        let (id, tokens) = plan.prefill.unwrap();
        scheduler.computing(id, tokens);
        id
    };
    scheduler.arrive(0, sched_request(1, 1_000_000, 5));
    scheduler.arrive(1, sched_request(1, 100_000, 5));
    admit(&mut scheduler);
    let first = (0..SHORT_CHUNKS).map(|_| chunk(&mut scheduler)).all(|id| id == 1);
    assert!(first, "the short one is not held up");
    let chosen: Vec<RowId> = (0..8).map(|_| chunk(&mut scheduler)).collect();
    assert_eq!(chosen, [0, 1, 1, 1, 0, 1, 1, 1]);
    scheduler.end(1);
    (0..SHORT_CHUNKS).for_each(|_| assert_eq!(chunk(&mut scheduler), 0));
    scheduler.arrive(2, sched_request(1, 10_000, 5));
    admit(&mut scheduler);
    assert!((0..39).all(|_| chunk(&mut scheduler) == 2), "its own chunks earned it again");
}

#[test]
fn a_row_of_a_failed_step_computes_alone_until_it_is_trusted() {
    let mut scheduler = Scheduler::new(limits(), roomy());
    scheduler.arrive(0, sched_request(1, 10, 5));
    scheduler.arrive(1, SchedRequest { solo: true, ..sched_request(1, 10, 5) });
    admit(&mut scheduler);
    let plan = |scheduler: &mut Scheduler| match scheduler.step() {
        Decision::Step(plan) => plan,
        other => panic!("{other:?}"),
    };
    let alone = plan(&mut scheduler);
    assert_eq!((alone.decode, alone.prefill), (vec![], Some((1, 256))));
    scheduler.computing(1, 10);
    assert_eq!(plan(&mut scheduler).decode, [1]);
    scheduler.trust(1);
    let together = plan(&mut scheduler);
    assert_eq!((together.decode, together.prefill.unwrap().0), (vec![1], 0));
}

#[test]
fn a_request_that_does_not_fit_is_overtaken_a_limited_number_of_times() {
    let memory = Memory { budget_bytes: 2048, ..roomy() };
    let mut scheduler = Scheduler::new(limits(), memory);
    scheduler.arrive(0, sched_request(1, 200, 1));
    assert_eq!(admit(&mut scheduler), [0]);
    scheduler.arrive(1, sched_request(3, 1990, 1));
    let mut overtook = 0;
    for id in 2..200 {
        scheduler.arrive(id, sched_request(2, 200, 1));
        scheduler.set_memory(memory);
        if let Some(Decision::Reclaim(_)) = scheduler.admit(&mut |_| true) {}
        if admit(&mut scheduler) == [id] {
            overtook += 1;
            scheduler.end(id);
        }
    }
    assert_eq!(overtook, MAX_OVERTAKEN);
    scheduler.end(0);
    assert_eq!(admit(&mut scheduler), [1]);
}

#[test]
fn bytes_and_tokens_are_each_others_inverse() {
    let cost = KvCost { token_bytes: 7, windows: vec![(3, 300)], fixed_bytes: 50 };
    assert_eq!(cost.bytes(0), 0);
    assert_eq!(cost.bytes(1), 50 + 256 * 7 + 256 * 3);
    assert_eq!(cost.bytes(257), 50 + 512 * 7 + 300 * 3);
    for bytes in [0, 949, 950, 5000, 100_000] {
        let tokens = cost.tokens_in(bytes);
        assert!(tokens == 0 || cost.bytes(tokens) <= bytes);
        assert!(cost.bytes(tokens + 256) > bytes.min(cost.bytes(tokens + 256) - 1));
    }
}

#[test]
fn waiting_requests_are_checked_again_only_after_a_change() {
    let mut scheduler = Scheduler::new(Limits { max_batch: 4, ..limits() }, roomy());
    scheduler.arrive(0, sched_request(1, 1000, 1000));
    assert_eq!(admit(&mut scheduler), [0]);
    (1..=100).for_each(|id| scheduler.arrive(id, sched_request(1, 1000, 5)));
    let asked = std::cell::Cell::new(0);
    let mut may_start = |_| {
        asked.set(asked.get() + 1);
        false
    };
    let mut next = |scheduler: &mut Scheduler| {
        let before = asked.get();
        let Decision::Step(plan) = scheduler.next(Duration::ZERO, &mut may_start) else {
            panic!("a step");
        };
        for id in plan.decode {
            scheduler.computing(id, 1);
        }
        if let Some((id, tokens)) = plan.prefill {
            scheduler.computing(id, tokens);
        }
        asked.get() - before
    };
    // Each chunk of the prompt may contain the prefix that they wait for.
    for _ in 0..4 {
        assert_eq!(next(&mut scheduler), 100);
    }
    assert_eq!(next(&mut scheduler), 100);
    for _ in 0..50 {
        assert_eq!(next(&mut scheduler), 0, "nothing changed");
    }
    scheduler.end(7);
    assert_eq!(next(&mut scheduler), 99);
    assert_eq!(next(&mut scheduler), 0);
    scheduler.arrive(101, sched_request(2, 10, 5));
    assert_eq!(next(&mut scheduler), 100);
    scheduler.set_memory(Memory { used_bytes: 1, ..roomy() });
    assert_eq!(next(&mut scheduler), 100);
    scheduler.set_memory(Memory { used_bytes: 1, ..roomy() });
    assert_eq!(next(&mut scheduler), 0);
}
