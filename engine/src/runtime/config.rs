//! How the engine runs.

use std::sync::Arc;
use std::time::Duration;

use crate::kv::ReuseConfig;
use crate::runtime::report::{NoObserver, Observer};
use crate::runtime::sensor::{MemorySensor, SystemSensor};
use crate::types::ComputeDtype;

/// How the engine runs.
#[derive(Clone)]
pub struct EngineConfig {
    /// The most prompt tokens computed in one step. Cancellation is noticed between steps.
    pub prefill_chunk: usize,
    /// Requests computed at once.
    pub max_batch: usize,
    /// How long a step with a part of a prompt may take while others decode; `None`: twice what it
    /// takes without.
    pub decode_stall: Option<Duration>,
    /// The part of the time that the engine computes, when it has something to: less than 1 leaves
    /// the rest to other programs.
    pub duty_cycle: f64,
    /// What weights, KV, caches and steps may take together, in bytes; `None`: no limit.
    pub memory_budget: Option<u64>,
    /// Says how the system's memory does.
    pub sensor: Arc<dyn MemorySensor>,
    /// Requests beyond `max_batch` that may wait; more are refused.
    pub max_queue: usize,
    /// How long a request may stand still because nobody reads its tokens.
    pub slow_reader: Duration,
    /// What models compute in that are stored in 16 bits.
    pub compute_dtype: ComputeDtype,
    /// How prefixes are reused.
    pub reuse: ReuseConfig,
    /// Told about every step.
    pub observer: Arc<dyn Observer>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            prefill_chunk: 256,
            max_batch: 8,
            decode_stall: None,
            duty_cycle: 1.0,
            memory_budget: None,
            sensor: Arc::new(SystemSensor),
            max_queue: 256,
            slow_reader: Duration::from_secs(30),
            compute_dtype: ComputeDtype::Auto,
            reuse: ReuseConfig::default(),
            observer: Arc::new(NoObserver),
        }
    }
}

impl std::fmt::Debug for EngineConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineConfig")
            .field("prefill_chunk", &self.prefill_chunk)
            .field("max_batch", &self.max_batch)
            .field("decode_stall", &self.decode_stall)
            .field("duty_cycle", &self.duty_cycle)
            .field("memory_budget", &self.memory_budget)
            .field("max_queue", &self.max_queue)
            .field("slow_reader", &self.slow_reader)
            .field("compute_dtype", &self.compute_dtype)
            .field("reuse", &self.reuse)
            .finish_non_exhaustive()
    }
}
