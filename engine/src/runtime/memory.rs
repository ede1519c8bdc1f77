//! The engine's memory: one budget for weights, KV in flight, caches kept for later, MLX's own cache
//! and what a step needs for its time.

use crate::runtime::sensor::MemorySensor;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvstore::Store;
use kvstore::platform::Pressure;

use crate::mlx::bridge;
use crate::runtime::config::EngineConfig;
use crate::runtime::loaded::Loaded;
use crate::sched::Memory;
use crate::text::tokenizer;

/// How often the system is asked how it does.
const POLL: Duration = Duration::from_secs(1);
/// Under critical pressure the engine gives back this part of what it uses, every [`POLL`].
const CRITICAL_DIVISOR: u64 = 8;
/// What the process may take beside the budget: code, tokenizers, connections, the heap's gaps.
const PROCESS_OVERHEAD_BYTES: u64 = 512 << 20;
/// Memory is no longer short when this part of the budget is free.
const RELAXED_DIVISOR: u64 = 8;

/// Who uses what of the budget.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    budget_bytes: u64,
    /// What each model's weights take, for as long as anything holds them.
    models: Vec<(Weak<Loaded>, u64)>,
    /// Caches of finished turns.
    pub(crate) live_bytes: u64,
    /// Bodies of requests, and what is made of them.
    pub(crate) request_bytes: u64,
    store: Option<Arc<Store>>,
    /// What the store's RAM tier may hold now, and by its configuration.
    ram_tier_bytes: u64,
    ram_tier_most: u64,
    /// What a step was seen to take for its time.
    staging_bytes: u64,
    /// The most that was ever active, up to the last time that MLX's own mark was reset.
    peak_bytes: u64,
    pressure: Pressure,
    /// Under pressure, less than the budget.
    ceiling_bytes: Option<u64>,
    is_short: bool,
    polled: Instant,
}

impl MemoryBudget {
    pub(crate) fn new(config: &EngineConfig) -> Self {
        let store = config.reuse.store.clone();
        let ram_tier_most = store.as_ref().map_or(0, |store| store.ram_budget_bytes());
        Self {
            budget_bytes: config.memory_budget.unwrap_or(u64::MAX),
            models: Vec::new(),
            live_bytes: 0,
            request_bytes: 0,
            store,
            ram_tier_bytes: ram_tier_most,
            ram_tier_most,
            staging_bytes: 0,
            peak_bytes: 0,
            pressure: Pressure::Normal,
            ceiling_bytes: None,
            is_short: false,
            polled: Instant::now(),
        }
    }

    /// As the scheduler sees it.
    pub(crate) fn memory(&self) -> Memory {
        Memory {
            budget_bytes: self.budget_bytes,
            ceiling_bytes: self.ceiling_bytes.unwrap_or(u64::MAX),
            used_bytes: self.used_bytes(),
            is_short: self.is_short,
        }
    }

    pub(crate) fn pressure(&self) -> Pressure {
        self.pressure
    }

    pub(crate) fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// Everything but the rows' own.
    pub(crate) fn used_bytes(&self) -> u64 {
        let held = self.weight_bytes() + self.live_bytes + self.ram_tier_bytes;
        held + self.step_bytes() + self.request_bytes + tokenizer::bytes_in_use()
    }

    /// What can be given back without anybody waiting longer than for a computation.
    pub(crate) fn kept_bytes(&self) -> u64 {
        self.live_bytes + self.ram_tier_bytes
    }

    /// By how much the budget is passed, when the rows have reserved so much.
    pub(crate) fn over_bytes(&self, reserved: u64) -> u64 {
        (self.used_bytes() + reserved).saturating_sub(self.budget_bytes)
    }

    fn weight_bytes(&self) -> u64 {
        let held = self.models.iter().filter(|(model, _)| model.strong_count() > 0);
        held.map(|(_, bytes)| bytes).sum()
    }

    /// What a step takes, and MLX keeps of it for the next.
    pub(crate) fn step_bytes(&self) -> u64 {
        self.staging_bytes.max(bridge::cache_limit_bytes())
    }

    /// The most that was active before MLX's own mark was last reset.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.peak_bytes
    }

    /// A model was loaded.
    pub(crate) fn add_model(&mut self, model: &Rc<Loaded>, bytes: u64) {
        self.models.retain(|(model, _)| model.strong_count() > 0);
        self.models.push((Rc::downgrade(model), bytes));
    }

    /// A step with a prompt was computed: sees what it took.
    pub(crate) fn note_staging(&mut self) {
        let read =
            || Some((mlx_rs::memory::peak_memory().ok()?, mlx_rs::memory::active_memory().ok()?));
        if let Some((peak, active)) = read() {
            self.note_peak(peak as u64, active as u64);
            let _ = mlx_rs::memory::reset_peak_memory();
        }
    }

    /// MLX's mark says `peak`, and so much is active now.
    fn note_peak(&mut self, peak: u64, active: u64) {
        self.staging_bytes = self.staging_bytes.max(peak.saturating_sub(active));
        self.peak_bytes = self.peak_bytes.max(peak);
    }

    /// Takes memory from the store's RAM tier; says how much.
    pub(crate) fn shrink_ram_tier(&mut self, bytes: u64) -> u64 {
        let given = bytes.min(self.ram_tier_bytes);
        if let Some(store) = self.store.as_ref().filter(|_| given > 0) {
            self.ram_tier_bytes = store.set_ram_budget(self.ram_tier_bytes - given);
        }
        given
    }

    pub(crate) fn set_short(&mut self, is_short: bool) {
        self.is_short = is_short;
    }

    /// Asks the system how it does, if it is time to; says so when that calls for something.
    pub(crate) fn poll(&mut self, sensor: &dyn MemorySensor) -> Option<Pressure> {
        if self.polled.elapsed() < POLL {
            return None;
        }
        self.polled = Instant::now();
        let most = self.budget_bytes.saturating_add(PROCESS_OVERHEAD_BYTES);
        let too_large = sensor.footprint().is_some_and(|bytes| bytes > most);
        let own = if too_large { Pressure::Warning } else { Pressure::Normal };
        let before = std::mem::replace(&mut self.pressure, sensor.pressure().max(own));
        let calls = self.pressure != before || self.pressure == Pressure::Critical;
        (calls || self.is_short).then_some(self.pressure)
    }

    /// Adapts to the pressure, when the rows have reserved so much. Says what is to be given back
    /// now.
    pub(crate) fn adapt(&mut self, reserved: u64) -> u64 {
        if let Some(store) = self.store.as_ref().filter(|_| self.pressure != Pressure::Normal) {
            // It grows no more.
            let held = store.ram_used_bytes().min(self.ram_tier_bytes);
            self.ram_tier_bytes = store.set_ram_budget(held);
        }
        let in_use = self.used_bytes() + reserved;
        self.ceiling_bytes = match self.pressure {
            Pressure::Normal => None,
            Pressure::Warning => Some(self.ceiling_bytes.unwrap_or(in_use)),
            Pressure::Critical => Some(in_use - in_use / CRITICAL_DIVISOR),
        };
        let free = self.memory().free_bytes(reserved, false);
        self.is_short = self.pressure != Pressure::Normal
            || (self.is_short && free < self.budget_bytes / RELAXED_DIVISOR);
        if !self.is_short && self.ram_tier_bytes < self.ram_tier_most {
            let back = (self.ram_tier_most - self.ram_tier_bytes).min(free / 2);
            if let Some(store) = &self.store {
                self.ram_tier_bytes = store.set_ram_budget(self.ram_tier_bytes + back);
            }
        }
        let ceiling = self.ceiling_bytes.unwrap_or(u64::MAX);
        (self.used_bytes() + reserved).saturating_sub(ceiling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_outlives_the_reset_of_mlxs_mark() {
        let mut account = MemoryBudget::new(&EngineConfig::default());
        account.note_peak(900, 400);
        account.note_peak(700, 450);
        assert_eq!((account.peak_bytes(), account.staging_bytes), (900, 500));
        account.note_peak(950, 900);
        assert_eq!((account.peak_bytes(), account.staging_bytes), (950, 500));
    }
}
