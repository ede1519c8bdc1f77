//! Which model may be in memory: one state machine for each, decided in one place.
//!
//! Pure: no clock, no thread, no file. The owner reports what happened and how much room there
//! is, and carries out the [`Action`]s of [`Core::plan`]:
//!
//! ```text
//!                ask            loaded           unload, idle too long, room wanted
//!   available ---------> loading ------> ready ------------------------------> draining
//!     ^   ^                 |                                                     |
//!     |   '-- retry --- failed                   last lease given back, unloaded  |
//!     '---------------------------------------------------------------------------'
//! ```
//!
//! A model that is not here is absent. Rules:
//! - A leased model stays in memory: it may drain, but it is unloaded when the last lease is back.
//! - A pinned model is unloaded by nothing.
//! - Who asks for what is not in memory waits in one line; the first in it gets room first, so that
//!   nobody waits for ever behind those who came later.
//! - Room is made by the idle models used least recently, and only when that is enough. When the
//!   first in line has waited for [`PATIENCE`], models in use stop taking requests as well.

use std::collections::BTreeMap;
use std::time::Duration;

/// How long the first in line waits before models in use are drained for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// After a failed load, the same folder is not tried again for this long; each further failure
/// doubles it.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// A time, since some start.
pub(super) type Time = Duration;

/// Memory for models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The most that may be used.
    pub budget_bytes: u64,
    /// What is used, models that are being loaded or unloaded included.
    pub used_bytes: u64,
}

impl Room {
    fn free_bytes(&self) -> u64 {
        self.budget_bytes.saturating_sub(self.used_bytes)
    }
}

/// Someone's place in the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// The state of a waiting request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
    /// The model is in memory, and stays there until the lease is given back.
    Granted,
    /// Not yet.
    Wait,
    /// It cannot be loaded; this is why.
    Failed(String),
    /// It needs more than there ever is.
    TooLarge,
    /// It is being removed from disk.
    Gone,
}

/// What the owner must do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Load it, then say [`Core::loaded`] or [`Core::load_failed`].
    Load(String),
    /// Unload it, then say [`Core::unloaded`].
    Unload(String),
}

/// What a model is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// On disk only.
    Available,
    /// Being loaded.
    Loading,
    /// In memory.
    Ready,
    /// In memory, takes no more requests. `unloading`: [`Action::Unload`] was given.
    Draining { unloading: bool },
    /// Could not be loaded.
    Failed { why: String, retry_at: Time },
    /// Being removed from disk.
    Removing,
}

/// Why a model cannot be unloaded or removed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is not in memory.
    NotLoaded,
    /// It is being loaded.
    Loading,
    /// It is pinned.
    Pinned,
    /// So many requests hold or wait for it.
    InUse(usize),
}

/// A model's entry.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) state: State,
    pub(super) leases: usize,
    pub(super) pinned: bool,
    /// What it takes while it is in memory or on its way there; a prediction until it was loaded.
    pub(super) bytes: u64,
    pub(super) last_used: Time,
    /// Unloaded after this long without a request.
    idle_ttl: Option<Duration>,
    failures: u32,
}

impl Entry {
    fn is_resident(&self) -> bool {
        matches!(self.state, State::Loading | State::Ready | State::Draining { .. })
    }
}

#[derive(Debug, Clone)]
struct Waiter {
    model: String,
    since: Time,
}

/// All models that were ever asked for or pinned.
#[derive(Debug, Default)]
pub(super) struct Core {
    models: BTreeMap<String, Entry>,
    line: BTreeMap<Ticket, Waiter>,
    next_ticket: u64,
}

impl Core {
    pub(super) fn get(&self, id: &str) -> Option<&Entry> {
        self.models.get(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Entry)> {
        self.models.iter()
    }

    /// Bytes of all models in memory, on their way there, and on their way out.
    pub(super) fn resident_bytes(&self) -> u64 {
        self.models.values().filter(|entry| entry.is_resident()).map(|entry| entry.bytes).sum()
    }

    /// How many wait for a model.
    pub(super) fn waiting(&self, id: &str) -> usize {
        self.line.values().filter(|waiter| waiter.model == id).count()
    }

    /// A model's pin and idle time, from its settings.
    pub(super) fn set(&mut self, id: &str, pinned: bool, idle_ttl: Option<Duration>) {
        let entry = self.entry(id);
        (entry.pinned, entry.idle_ttl) = (pinned, idle_ttl);
    }

    /// Keeps a model in memory once it is there, or no longer. False when nothing changes.
    pub(super) fn pin(&mut self, id: &str, pinned: bool) -> bool {
        std::mem::replace(&mut self.entry(id).pinned, pinned) != pinned
    }

    /// A lease on a model that is in memory already.
    pub(super) fn lease(&mut self, id: &str, now: Time) -> bool {
        let ready = self.models.get_mut(id).filter(|entry| entry.state == State::Ready);
        let Some(entry) = ready else { return false };
        entry.leases += 1;
        entry.last_used = now;
        true
    }

    /// Takes a place in the line for a model that is predicted to take `bytes`.
    pub(super) fn ask(&mut self, id: &str, bytes: u64, now: Time) -> Ticket {
        let entry = self.entry(id);
        if !entry.is_resident() {
            entry.bytes = bytes;
        }
        if matches!(entry.state, State::Failed { retry_at, .. } if now >= retry_at) {
            entry.state = State::Available;
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.line.insert(ticket, Waiter { model: id.to_owned(), since: now });
        ticket
    }

    /// Leaves the line.
    pub(super) fn give_up(&mut self, ticket: Ticket) {
        self.line.remove(&ticket);
    }

    /// What the holder of this ticket may do. Anything but [`Turn::Wait`] takes the ticket back.
    pub(super) fn turn(&mut self, ticket: Ticket, room: Room, now: Time) -> Turn {
        let Some(waiter) = self.line.get(&ticket) else { return Turn::Gone };
        let Some(entry) = self.models.get_mut(&waiter.model) else { return Turn::Gone };
        let turn = match &entry.state {
            State::Ready => {
                entry.leases += 1;
                entry.last_used = now;
                Turn::Granted
            }
            State::Failed { why, .. } => Turn::Failed(why.clone()),
            State::Removing => Turn::Gone,
            State::Available if entry.bytes > room.budget_bytes => Turn::TooLarge,
            State::Available | State::Loading | State::Draining { .. } => return Turn::Wait,
        };
        self.line.remove(&ticket);
        turn
    }

    /// A lease is given back.
    pub(super) fn release(&mut self, id: &str, now: Time) {
        if let Some(entry) = self.models.get_mut(id) {
            entry.leases = entry.leases.saturating_sub(1);
            entry.last_used = now;
        }
    }

    /// A load that was asked for is done. `bytes`: what it really takes.
    pub(super) fn loaded(&mut self, id: &str, bytes: u64, now: Time) {
        let entry = self.entry(id);
        entry.state = State::Ready;
        (entry.bytes, entry.last_used, entry.failures) = (bytes, now, 0);
    }

    /// A load that was asked for, or what precedes it, failed.
    pub(super) fn load_failed(&mut self, id: &str, why: String, now: Time) {
        let entry = self.entry(id);
        if matches!(entry.state, State::Ready | State::Draining { .. } | State::Removing) {
            // Its files may have gone since it was loaded.
            return;
        }
        let wait = FIRST_RETRY * 2u32.saturating_pow(entry.failures.min(6));
        entry.failures += 1;
        entry.state = State::Failed { why, retry_at: now + wait.min(LAST_RETRY) };
    }

    /// A load that was asked for found its memory taken: the requests that wait for it keep waiting.
    pub(super) fn load_postponed(&mut self, id: &str) {
        let entry = self.entry(id);
        if entry.state == State::Loading {
            entry.state = State::Available;
        }
    }

    /// The files of a model that failed are others now: it may be tried at once.
    pub(super) fn files_changed(&mut self, id: &str) {
        let entry = self.entry(id);
        if matches!(entry.state, State::Failed { .. }) {
            (entry.state, entry.failures) = (State::Available, 0);
        }
    }

    /// An unload that was asked for is done.
    pub(super) fn unloaded(&mut self, id: &str) {
        self.entry(id).state = State::Available;
    }

    /// Takes a model out of memory when the requests on it have ended.
    pub(super) fn unload(&mut self, id: &str) -> Result<(), Refused> {
        let Some(entry) = self.models.get_mut(id) else { return Err(Refused::NotLoaded) };
        match entry.state {
            State::Loading => Err(Refused::Loading),
            State::Ready if entry.pinned => Err(Refused::Pinned),
            State::Ready => {
                entry.state = State::Draining { unloading: false };
                Ok(())
            }
            State::Draining { .. } => Ok(()),
            State::Available | State::Failed { .. } | State::Removing => Err(Refused::NotLoaded),
        }
    }

    /// Begins to remove a model that is not in memory: until [`Core::removed`] it cannot be asked
    /// for.
    pub(super) fn remove(&mut self, id: &str) -> Result<(), Refused> {
        let waiting = self.waiting(id);
        let entry = self.entry(id);
        match entry.state {
            _ if entry.leases + waiting > 0 => Err(Refused::InUse(entry.leases + waiting)),
            State::Loading => Err(Refused::Loading),
            State::Ready | State::Draining { .. } => Err(Refused::InUse(0)),
            State::Available | State::Failed { .. } | State::Removing => {
                entry.state = State::Removing;
                Ok(())
            }
        }
    }

    /// It is gone; or it stays, and can be asked for again.
    pub(super) fn removed(&mut self, id: &str, gone: bool) {
        if gone { drop(self.models.remove(id)) } else { self.entry(id).state = State::Available }
    }

    /// Drains idle models, least recently used first, until they come to `bytes`. Gives how many
    /// bytes will become free, those that drain already included.
    pub(super) fn make_room(&mut self, bytes: u64) -> u64 {
        let mut freed = self.draining_bytes();
        for id in self.victims(false) {
            if freed >= bytes {
                break;
            }
            freed += self.drain(&id);
        }
        freed
    }

    /// What is to be done now. Gives each action once.
    pub(super) fn plan(&mut self, room: Room, now: Time) -> Vec<Action> {
        self.expire(now);
        let mut actions = Vec::new();
        let mut room = room;
        let line: Vec<Waiter> = self.line.values().cloned().collect();
        for Waiter { model, since } in line {
            let Some(entry) = self.models.get(&model) else { continue };
            if entry.state != State::Available || entry.bytes > room.budget_bytes {
                continue;
            }
            let bytes = entry.bytes;
            if bytes <= room.free_bytes() {
                room.used_bytes += bytes;
                self.entry(&model).state = State::Loading;
                actions.push(Action::Load(model));
                continue;
            }
            self.drain_for(bytes - room.free_bytes(), now.saturating_sub(since) >= PATIENCE);
            // Those behind do not take what the first in line waits for.
            break;
        }
        actions.extend(self.unloads());
        actions
    }

    /// When [`Core::plan`] has something to do for a model that nobody uses meanwhile.
    pub(super) fn expires_at(&self, id: &str) -> Option<Time> {
        let entry = self.models.get(id).filter(|entry| entry.state == State::Ready)?;
        Some(entry.last_used + entry.idle_ttl?)
    }

    /// Drains what was idle for too long.
    fn expire(&mut self, now: Time) {
        for id in self.victims(false) {
            if self.expires_at(&id).is_some_and(|at| now >= at) {
                self.drain(&id);
            }
        }
    }

    /// Drains what makes `missing` bytes free, if anything does.
    fn drain_for(&mut self, missing: u64, in_use_too: bool) {
        let mut freed = self.draining_bytes();
        let mut chosen = Vec::new();
        let mut candidates = self.victims(false);
        if in_use_too {
            candidates.extend(self.victims(true));
        }
        for id in candidates {
            if freed >= missing {
                break;
            }
            freed += self.models[&id].bytes;
            chosen.push(id);
        }
        if freed >= missing {
            for id in chosen {
                self.drain(&id);
            }
        }
    }

    /// Models that may leave, least recently used first: the idle ones, or those in use.
    fn victims(&self, in_use: bool) -> Vec<String> {
        let may_leave = |(id, entry): &(&String, &Entry)| {
            // The requests that waited for it are served first: else models would be loaded and unloaded unused.
            let is_due = self.waiting(id) > 0;
            let may_leave = entry.state == State::Ready && !entry.pinned && !is_due;
            may_leave && (entry.leases > 0) == in_use
        };
        let mut found: Vec<_> = self.models.iter().filter(may_leave).collect();
        found.sort_by_key(|(_, entry)| entry.last_used);
        found.into_iter().map(|(id, _)| id.clone()).collect()
    }

    fn drain(&mut self, id: &str) -> u64 {
        let entry = self.entry(id);
        entry.state = State::Draining { unloading: false };
        entry.bytes
    }

    fn draining_bytes(&self) -> u64 {
        let draining = |entry: &&Entry| matches!(entry.state, State::Draining { .. });
        self.models.values().filter(draining).map(|entry| entry.bytes).sum()
    }

    fn unloads(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        for (id, entry) in &mut self.models {
            if entry.state == (State::Draining { unloading: false }) && entry.leases == 0 {
                entry.state = State::Draining { unloading: true };
                actions.push(Action::Unload(id.clone()));
            }
        }
        actions
    }

    fn entry(&mut self, id: &str) -> &mut Entry {
        self.models.entry(id.to_owned()).or_insert_with(|| Entry {
            state: State::Available,
            leases: 0,
            pinned: false,
            bytes: 0,
            last_used: Time::ZERO,
            idle_ttl: None,
            failures: 0,
        })
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
