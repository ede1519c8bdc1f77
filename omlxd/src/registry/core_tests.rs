//! The state machine against a world that checks it at every step.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const BUDGET: u64 = 100;

fn secs(n: u64) -> Time {
    Duration::from_secs(n)
}

/// What the owner of a [`Core`] does, with memory that is only counted.
#[derive(Default)]
struct World {
    core: Core,
    now: Time,
    /// Bytes that are really taken.
    memory: BTreeMap<String, u64>,
    loading: Vec<String>,
    unloading: Vec<String>,
    waiting: Vec<(Ticket, String)>,
    leases: Vec<String>,
    granted: usize,
}

impl World {
    fn room(&self) -> Room {
        Room { budget_bytes: BUDGET, used_bytes: self.core.resident_bytes() }
    }

    fn plan(&mut self) {
        for action in self.core.plan(self.room(), self.now) {
            match action {
                Action::Load(id) => {
                    assert!(!self.memory.contains_key(&id), "{id} is loaded twice");
                    let bytes = self.core.get(&id).unwrap().bytes;
                    self.memory.insert(id.clone(), bytes);
                    self.loading.push(id);
                }
                Action::Unload(id) => {
                    assert!(!self.leases.contains(&id), "{id} is unloaded although it is leased");
                    assert!(
                        !self.core.get(&id).unwrap().pinned,
                        "{id} is unloaded although pinned"
                    );
                    self.unloading.push(id);
                }
            }
        }
        self.poll();
    }

    fn poll(&mut self) {
        for (ticket, id) in std::mem::take(&mut self.waiting) {
            match self.core.turn(ticket, self.room(), self.now) {
                Turn::Granted => {
                    assert!(self.memory.contains_key(&id), "{id} is granted but not in memory");
                    self.granted += 1;
                    self.leases.push(id);
                }
                Turn::Wait => self.waiting.push((ticket, id)),
                Turn::Failed(_) | Turn::TooLarge | Turn::Gone => {}
            }
        }
    }

    fn ask(&mut self, id: &str, bytes: u64) {
        if self.core.lease(id, self.now) {
            self.granted += 1;
            return self.leases.push(id.to_owned());
        }
        let ticket = self.core.ask(id, bytes, self.now);
        self.waiting.push((ticket, id.to_owned()));
    }

    fn release(&mut self, n: usize) {
        if !self.leases.is_empty() {
            let id = self.leases.swap_remove(n % self.leases.len());
            self.core.release(&id, self.now);
        }
    }

    fn finish_load(&mut self, n: usize, fails: bool) {
        if self.loading.is_empty() {
            return;
        }
        let id = self.loading.remove(n % self.loading.len());
        if fails {
            self.memory.remove(&id);
            self.core.load_failed(&id, "it is broken".to_owned(), self.now);
        } else {
            self.core.loaded(&id, self.memory[&id], self.now);
        }
    }

    fn finish_unload(&mut self, n: usize) {
        if !self.unloading.is_empty() {
            let id = self.unloading.remove(n % self.unloading.len());
            self.memory.remove(&id);
            self.core.unloaded(&id);
        }
    }

    fn check(&self) {
        assert!(self.memory.values().sum::<u64>() <= BUDGET, "over budget: {:?}", self.memory);
        assert_eq!(self.core.resident_bytes(), self.memory.values().sum::<u64>());
        for (id, entry) in self.core.iter() {
            let leases = self.leases.iter().filter(|leased| *leased == id).count();
            assert_eq!(entry.leases, leases, "leases of {id}");
            let waiting = self.waiting.iter().filter(|(_, waited)| waited == id).count();
            assert_eq!(self.core.waiting(id), waiting, "those who wait for {id}");
            assert_eq!(entry.is_resident(), self.memory.contains_key(id), "{id}: {entry:?}");
        }
    }

    /// Lets everything that was begun end, and gives all leases back: whoever waits for what is not
    /// pinned out must get it.
    fn settle(&mut self) {
        for id in ["a", "b", "c", "d"] {
            self.core.pin(id, false);
        }
        for _ in 0..200 {
            self.now += PATIENCE;
            self.finish_load(0, false);
            self.finish_unload(0);
            self.plan();
            self.release(0);
            self.check();
        }
        assert!(self.waiting.is_empty(), "somebody waits for ever: {:?}", self.core);
        assert!(self.loading.is_empty() && self.unloading.is_empty() && self.leases.is_empty());
    }
}

#[derive(Debug, Clone)]
enum Op {
    Ask(usize),
    GiveUp(usize),
    Release(usize),
    Loaded(usize, bool),
    Unloaded(usize),
    Unload(usize),
    Pin(usize, bool),
    Remove(usize, bool),
    MakeRoom(u64),
    Changed(usize),
    Pass(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let model = 0..4usize;
    let index = 0..8usize;
    let op = prop_oneof![
        6 => model.clone().prop_map(Op::Ask),
        1 => index.clone().prop_map(Op::GiveUp),
        5 => index.clone().prop_map(Op::Release),
        5 => (index.clone(), prop::bool::weighted(0.2)).prop_map(|(n, fails)| Op::Loaded(n, fails)),
        4 => index.prop_map(Op::Unloaded),
        2 => model.clone().prop_map(Op::Unload),
        1 => (model.clone(), any::<bool>()).prop_map(|(n, pin)| Op::Pin(n, pin)),
        1 => (model.clone(), any::<bool>()).prop_map(|(n, gone)| Op::Remove(n, gone)),
        1 => (1..120u64).prop_map(Op::MakeRoom),
        1 => model.prop_map(Op::Changed),
        3 => (1..20u64).prop_map(Op::Pass),
    ];
    prop::collection::vec(op, 500..700)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Three models of which two fit, and a small one with an idle time, under any order of events.
    #[test]
    fn memory_leases_and_pins_hold_under_any_order(ops in ops()) {
        let models = [("a", 45), ("b", 40), ("c", 50), ("d", 10)];
        let mut world = World::default();
        world.core.set("d", false, Some(secs(30)));
        for op in ops {
            match op {
                Op::Ask(n) => world.ask(models[n].0, models[n].1),
                Op::GiveUp(n) => if !world.waiting.is_empty() {
                    let (ticket, _) = world.waiting.remove(n % world.waiting.len());
                    world.core.give_up(ticket);
                },
                Op::Release(n) => world.release(n),
                Op::Loaded(n, fails) => world.finish_load(n, fails),
                Op::Unloaded(n) => world.finish_unload(n),
                Op::Unload(n) => {
                    let pinned = world.core.get(models[n].0).is_some_and(|entry| entry.pinned);
                    let ready = world.core.get(models[n].0).map(|e| e.state == State::Ready);
                    let answer = world.core.unload(models[n].0);
                    if pinned && ready == Some(true) {
                        prop_assert_eq!(answer, Err(Refused::Pinned));
                    }
                }
                Op::Pin(n, pin) => {
                    // What drains already leaves all the same.
                    let ready = |e: &Entry| !matches!(e.state, State::Draining { .. });
                    if world.core.get(models[n].0).is_none_or(ready) {
                        world.core.pin(models[n].0, pin);
                    }
                }
                Op::Remove(n, gone) => if world.core.remove(models[n].0).is_ok() {
                    prop_assert!(!world.memory.contains_key(models[n].0));
                    let pin = world.core.get(models[n].0).unwrap().pinned;
                    world.core.removed(models[n].0, gone);
                    prop_assert_eq!(gone, world.core.get(models[n].0).is_none());
                    let ttl = (n == 3).then(|| secs(30));
                    world.core.set(models[n].0, pin, ttl);
                },
                Op::MakeRoom(bytes) => {
                    let freed = world.core.make_room(bytes);
                    let idle = world.core.victims(false);
                    prop_assert!(freed >= bytes || idle.is_empty());
                }
                Op::Changed(n) => world.core.files_changed(models[n].0),
                Op::Pass(n) => world.now += secs(n),
            }
            world.plan();
            world.check();
        }
        world.settle();
        prop_assert!(world.granted > 0);
    }
}

fn ready(world: &mut World, id: &str, bytes: u64) {
    world.ask(id, bytes);
    world.plan();
    world.finish_load(0, false);
    world.plan();
    assert_eq!(world.leases.last().map(String::as_str), Some(id));
}

#[test]
fn the_least_recently_used_idle_model_makes_room() {
    let mut world = World::default();
    ready(&mut world, "a", 40);
    world.now += secs(1);
    ready(&mut world, "b", 40);
    world.now += secs(1);
    world.release(1);
    world.now += secs(1);
    world.release(0);
    world.ask("c", 40);
    world.plan();
    assert_eq!(world.unloading, ["b"], "a was used last");
    assert!(world.loading.is_empty(), "there is no room before b has left");
    world.finish_unload(0);
    world.plan();
    assert_eq!(world.loading, ["c"]);
}

#[test]
fn nothing_is_unloaded_for_what_still_does_not_fit() {
    let mut world = World::default();
    ready(&mut world, "a", 60);
    ready(&mut world, "b", 20);
    world.release(1);
    world.ask("c", 70);
    world.plan();
    assert!(world.unloading.is_empty(), "b alone is not enough, and a is leased");
    world.now += PATIENCE;
    world.plan();
    assert_eq!(world.unloading, ["b"]);
    assert!(!world.core.lease("a", world.now), "a takes no more requests");
    world.release(0);
    world.plan();
    assert_eq!(world.unloading, ["b", "a"]);
}

#[test]
fn what_never_fits_is_told_at_once_and_blocks_nobody() {
    let mut world = World::default();
    world.ask("a", BUDGET + 1);
    world.ask("b", 10);
    world.plan();
    assert_eq!(world.waiting.len(), 1, "a was refused");
    assert_eq!(world.loading, ["b"]);
}

#[test]
fn a_load_whose_room_was_taken_is_tried_again() {
    let mut world = World::default();
    world.ask("a", 40);
    world.plan();
    let id = world.loading.remove(0);
    world.memory.remove(&id);
    world.core.load_postponed(&id);
    assert_eq!(world.core.resident_bytes(), 0);
    world.plan();
    assert_eq!(world.loading, ["a"]);
    world.finish_load(0, false);
    world.plan();
    assert_eq!(world.leases, ["a"], "whoever asked first has it");
}

#[test]
fn a_failure_is_repeated_until_it_is_time_or_the_files_change() {
    let mut world = World::default();
    for (wait, next) in [(1, 1), (2, 3), (4, 7)] {
        world.ask("a", 10);
        world.plan();
        assert_eq!(world.loading, ["a"], "at {next}");
        world.finish_load(0, true);
        world.plan();
        world.now += secs(wait) - Duration::from_millis(1);
        let ticket = world.core.ask("a", 10, world.now);
        let turn = world.core.turn(ticket, world.room(), world.now);
        assert_eq!(turn, Turn::Failed("it is broken".to_owned()));
        world.now += Duration::from_millis(1);
    }
    world.ask("a", 10);
    world.plan();
    world.finish_load(0, true);
    world.core.files_changed("a");
    world.plan();
    assert_eq!(world.loading, ["a"], "whoever waits gets the new files");
}

#[test]
fn an_idle_model_leaves_after_its_time_unless_pinned() {
    let mut world = World::default();
    for id in ["a", "b"] {
        world.core.set(id, id == "b", Some(secs(60)));
        ready(&mut world, id, 10);
        world.release(0);
    }
    assert_eq!(world.core.expires_at("a"), Some(secs(60)));
    world.now = secs(59);
    world.plan();
    assert!(world.unloading.is_empty());
    world.now = secs(60);
    world.plan();
    assert_eq!(world.unloading, ["a"]);
}
