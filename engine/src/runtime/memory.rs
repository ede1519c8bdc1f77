//! The engine's memory: one budget for weights, KV caches in use, caches kept for later, MLX's own
//! cache and the temporary memory of a step.

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

/// How often the system's memory pressure is polled.
const POLL: Duration = Duration::from_secs(1);
/// Under critical pressure the engine frees this fraction (1/8) of its memory every [`POLL`].
const CRITICAL_DIVISOR: u64 = 8;
/// Allowance for the process besides the budget: code, tokenizers, connections, heap fragmentation.
const PROCESS_OVERHEAD_BYTES: u64 = 512 << 20;
/// Memory is no longer short once this fraction (1/8) of the budget is free.
const RELAXED_DIVISOR: u64 = 8;

/// The use of the memory budget.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    budget_bytes: u64,
    /// Each model's weight bytes, for as long as the model is referenced.
    models: Vec<(Weak<Loaded>, u64)>,
    /// Bytes of the caches of finished turns.
    pub(crate) live_bytes: u64,
    /// Bytes of request bodies and of the data built from them.
    pub(crate) request_bytes: u64,
    store: Option<Arc<Store>>,
    /// Limits of the store's RAM tier: the current one and the configured one.
    ram_tier_bytes: u64,
    ram_tier_most: u64,
    /// The highest temporary memory of a step so far.
    staging_bytes: u64,
    /// The highest active memory up to the last reset of MLX's peak counter.
    peak_bytes: u64,
    pressure: Pressure,
    /// The reduced limit while the system is under pressure.
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

    /// The memory as the scheduler sees it.
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

    /// All used bytes except those of the rows.
    pub(crate) fn used_bytes(&self) -> u64 {
        let held = self.weight_bytes() + self.live_bytes + self.ram_tier_bytes;
        held + self.step_bytes() + self.request_bytes + tokenizer::bytes_in_use()
    }

    /// Bytes that can be freed at no other cost than computing something again.
    pub(crate) fn kept_bytes(&self) -> u64 {
        self.live_bytes + self.ram_tier_bytes
    }

    /// The bytes by which the budget is exceeded when the rows have reserved `reserved` bytes.
    pub(crate) fn over_bytes(&self, reserved: u64) -> u64 {
        (self.used_bytes() + reserved).saturating_sub(self.budget_bytes)
    }

    fn weight_bytes(&self) -> u64 {
        let held = self.models.iter().filter(|(model, _)| model.strong_count() > 0);
        held.map(|(_, bytes)| bytes).sum()
    }

    /// The temporary memory of a step, which MLX keeps for the next one.
    pub(crate) fn step_bytes(&self) -> u64 {
        self.staging_bytes.max(bridge::cache_limit_bytes())
    }

    /// The highest active memory before MLX's peak counter was last reset.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.peak_bytes
    }

    /// Adds a loaded model.
    pub(crate) fn add_model(&mut self, model: &Rc<Loaded>, bytes: u64) {
        self.models.retain(|(model, _)| model.strong_count() > 0);
        self.models.push((Rc::downgrade(model), bytes));
    }

    /// Records the temporary memory of a completed step with a prompt.
    pub(crate) fn note_staging(&mut self) {
        let read =
            || Some((mlx_rs::memory::peak_memory().ok()?, mlx_rs::memory::active_memory().ok()?));
        if let Some((peak, active)) = read() {
            self.note_peak(peak as u64, active as u64);
            let _ = mlx_rs::memory::reset_peak_memory();
        }
    }

    /// Records MLX's peak counter `peak` and the bytes that are active now.
    fn note_peak(&mut self, peak: u64, active: u64) {
        self.staging_bytes = self.staging_bytes.max(peak.saturating_sub(active));
        self.peak_bytes = self.peak_bytes.max(peak);
    }

    /// Reduces the store's RAM tier. Returns the number of bytes taken.
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

    /// Polls the system's memory pressure when it is due. Returns a pressure that requires action.
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

    /// Adapts the limits to the pressure when the rows have reserved `reserved` bytes. Returns the
    /// bytes to free now.
    pub(crate) fn adapt(&mut self, reserved: u64) -> u64 {
        if let Some(store) = self.store.as_ref().filter(|_| self.pressure != Pressure::Normal) {
            // The RAM tier must not grow.
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
