//! The engine's configuration.

use std::sync::Arc;
use std::time::Duration;

use crate::kv::ReuseConfig;
use crate::runtime::report::{NoObserver, Observer};
use crate::runtime::sensor::{MemorySensor, SystemSensor};
use crate::types::ComputeDtype;

/// The engine's configuration.
#[derive(Clone)]
pub struct EngineConfig {
    /// Limit on the prompt tokens computed in one step. Cancellation takes effect between steps.
    pub prefill_chunk: usize,
    /// Number of requests computed at once.
    pub max_batch: usize,
    /// Limit on the duration of a step with a prompt chunk while other rows decode. `None`: twice
    /// the duration of a step without one.
    pub decode_stall: Option<Duration>,
    /// The fraction of time in which the engine computes while it has work. Less than 1 leaves time
    /// to other programs.
    pub duty_cycle: f64,
    /// Limit in bytes on weights, KV cache, kept caches and step memory together; `None`: no limit.
    pub memory_budget: Option<u64>,
    /// Reports the system's memory pressure.
    pub sensor: Arc<dyn MemorySensor>,
    /// Number of requests that may wait beyond `max_batch`. Further requests are rejected.
    pub max_queue: usize,
    /// How long a request may be blocked because its client reads no tokens.
    pub slow_reader: Duration,
    /// The dtype in which models with 16-bit weights are computed.
    pub compute_dtype: ComputeDtype,
    /// Configuration of prefix reuse.
    pub reuse: ReuseConfig,
    /// Notified of every step.
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
