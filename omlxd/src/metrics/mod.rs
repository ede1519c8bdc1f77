//! Everything that `/metrics` shows. Names and meanings are in `docs/metrics.md`; labels hold no
//! key, user, prompt or request id.

mod buckets;
mod cache;
mod endpoint;
mod make;
mod model;
mod process;

use make::Make;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error_code::{Code, INVALID};
use engine::{GuardAction, ModelInfo, Pressure, StepReport};
use omlxctl::protocol::Activity;
use prometheus::{
    Encoder, Gauge, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder,
};

pub use cache::CacheSnapshot;
pub use endpoint::Endpoint;
use model::ModelFamilies;
pub use model::{Finish, ModelMetrics, Rejection, ReuseTotals};

/// What Prometheus asks for.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The commit that was built, if the build named it.
const COMMIT: &str = match option_env!("OMLX_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};
/// The label of requests for models that do not exist.
const OTHER: &str = "other";
const MODEL_STATES: [&str; 5] = ["unloaded", "loading", "ready", "draining", "failed"];
const DISCONNECT_PHASES: [&str; 4] = ["prepare", "queue", "prefill", "decode"];
/// What is done when memory is short.
const GUARD_ACTIONS: [&str; 4] = ["pause", "evict_model", "shrink_cache", "abort"];
/// The series. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    registry: Registry,
    families: ModelFamilies,
    models: RwLock<BTreeMap<String, Arc<ModelMetrics>>>,
    other: Arc<ModelMetrics>,
    model_info: IntGaugeVec,
    /// The labels of the models in memory.
    model_infos: Mutex<BTreeMap<String, [String; 6]>>,
    model_state: IntGaugeVec,
    errors: IntCounterVec,
    ignored_fields: IntCounterVec,
    auth_failures: IntCounterVec,
    http: HttpMetrics,
    guard_actions: IntCounterVec,
    pressure: IntGauge,
    last_progress: Gauge,
    memory: [IntGauge; 4],
    process: process::ProcessMetrics,
}

/// Series of the HTTP server.
#[derive(Debug)]
pub struct HttpMetrics {
    requests: IntCounterVec,
    duration: HistogramVec,
    body_bytes: HistogramVec,
    disconnects: IntCounterVec,
    /// Requests being answered.
    pub in_flight: IntGauge,
    /// Open connections.
    pub connections: IntGauge,
}

/// What the engine, asked at the moment of a scrape, says.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// For each model id, how many requests run and wait.
    pub requests: BTreeMap<String, (i64, i64)>,
    /// For each model id, its state.
    pub states: Vec<(String, &'static str)>,
    /// How long ago the engine made progress.
    pub since_progress: Duration,
    /// MLX's memory.
    pub memory: engine::MemoryUse,
    /// The KV cache.
    pub cache: CacheSnapshot,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All series, at zero.
    pub fn new() -> Self {
        let registry = Registry::new();
        let families = ModelFamilies::new(&registry);
        let other = Arc::new(families.of(OTHER));
        let make = Make { registry: &registry };
        let labels = ["version", "commit", "mlx_version", "chip", "os", "arch"];
        let build = make.gauges("omlx_build_info", "What this daemon is.", &labels);
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        // MLX's version is a constant of the library: asking for it starts nothing.
        let mlx = engine::mlx_version();
        let chip = process::chip();
        let this = [env!("CARGO_PKG_VERSION"), COMMIT, &mlx, &chip, os, arch];
        build.with_label_values(&this).set(1);
        let errors = make.counters(
            "omlx_request_errors_total",
            "Refused and failed requests by error code.",
            &["endpoint", "code"],
        );
        let ignored_fields = make.counters(
            "omlx_request_ignored_fields_total",
            "Unknown request fields and tools that were ignored.",
            &["endpoint"],
        );
        for endpoint in Endpoint::ALL {
            ignored_fields.with_label_values(&[endpoint.as_str()]);
            let codes = Code::ALL.iter().map(|code| code.as_str());
            for code in codes.chain([INVALID]) {
                errors.with_label_values(&[endpoint.as_str(), code]);
            }
        }
        let auth_failures = make.counters(
            "omlx_auth_failures_total",
            "Requests without a valid key, or from a host or origin that is not served.",
            &["reason"],
        );
        for reason in ["missing", "invalid", "forbidden"] {
            auth_failures.with_label_values(&[reason]);
        }
        let guard_actions = make.counters(
            "omlx_memory_guard_actions_total",
            "Done because memory was short: pause, in each second that the system was short of it; \
             evict_model, idle models unloaded; shrink_cache, caches given up; abort, a request ended.",
            &["action"],
        );
        for action in GUARD_ACTIONS {
            guard_actions.with_label_values(&[action]);
        }
        let memory = [
            ("omlx_mlx_active_bytes", "Memory of MLX's live arrays."),
            ("omlx_mlx_cache_bytes", "Memory that MLX keeps for reuse."),
            ("omlx_mlx_peak_bytes", "The most memory of live arrays so far."),
            (
                "omlx_wired_limit_bytes",
                "What macOS may keep wired of MLX's memory while models are loaded; 0 without Metal.",
            ),
        ];
        let shared = Shared {
            model_info: make.gauges(
                "omlx_model_info",
                "What a loaded model is.",
                &["model", "revision", "quant", "kv_dtype", "block_size", "max_model_len"],
            ),
            model_state: make.gauges(
                "omlx_model_state",
                "1 for the state that a model is in.",
                &["model", "state"],
            ),
            http: HttpMetrics::new(&make),
            guard_actions,
            pressure: make.gauge(
                "omlx_memory_pressure_level",
                "The system's memory: 1 enough, 2 running short, 4 out.",
            ),
            last_progress: make.float_gauge(
                "omlx_engine_last_progress_timestamp_seconds",
                "When the engine last finished a step, or was idle.",
            ),
            memory: memory.map(|(name, help)| make.gauge(name, help)),
            process: process::ProcessMetrics::new(&make),
            model_infos: Mutex::default(),
            errors,
            ignored_fields,
            auth_failures,
            families,
            other,
            models: RwLock::default(),
            registry,
        };
        Metrics { shared: Arc::new(shared) }
    }

    /// Puts every series of a model at zero. `model` must name a model that exists: labels are
    /// bounded by what is on disk.
    pub fn add_model(&self, model: &str) -> Arc<ModelMetrics> {
        let known = self.shared.models.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = known.get(model) {
            return Arc::clone(series);
        }
        drop(known);
        for state in MODEL_STATES {
            self.shared.model_state.with_label_values(&[model, state]);
        }
        let mut models = self.shared.models.write().unwrap_or_else(PoisonError::into_inner);
        let series = || Arc::new(self.shared.families.of(model));
        Arc::clone(models.entry(model.to_owned()).or_insert_with(series))
    }

    /// The series of requests for models that do not exist.
    pub fn other_model(&self) -> &ModelMetrics {
        &self.shared.other
    }

    /// A model was loaded. Its KV is stored in blocks of `block_tokens` tokens.
    pub fn model_loaded(&self, model: &str, info: &ModelInfo, block_tokens: usize) {
        let quant = info.quantization.as_ref();
        let quant = quant.map_or("none".to_owned(), |packing| format!("{}bit", packing.bits));
        let context = info.context_tokens.to_string();
        let revision = info.digest.get(..12).unwrap_or(&info.digest);
        let block = block_tokens.to_string();
        let labels = [model, revision, &quant, &info.kv_dtype, &block, &context];
        self.shared.model_info.with_label_values(&labels).set(1);
        let labels = labels.map(str::to_owned);
        lock(&self.shared.model_infos).insert(model.to_owned(), labels);
        self.add_model(model).load_duration.observe(info.load_time.as_secs_f64());
    }

    /// A model has left memory.
    pub fn model_unloaded(&self, model: &str) {
        let mut infos = lock(&self.shared.model_infos);
        if let Some(labels) = infos.remove(model) {
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            let _ = self.shared.model_info.remove_label_values(&labels);
        }
    }

    /// The totals that `omlxctl top` shows the change of.
    pub fn activity(&self) -> Activity {
        let models = self.shared.models.read().unwrap_or_else(PoisonError::into_inner);
        models.values().fold(Activity::default(), |sum, series| {
            let reuse = series.reuse_totals();
            Activity {
                prompt_tokens: sum.prompt_tokens + reuse.prompt_tokens,
                ram_tokens: sum.ram_tokens + reuse.ram_tokens,
                ssd_tokens: sum.ssd_tokens + reuse.ssd_tokens,
                generated_tokens: sum.generated_tokens + series.generation_tokens.get(),
                requests: sum.requests + series.end_to_end.get_sample_count(),
            }
        })
    }

    /// The HTTP server's series.
    pub fn http(&self) -> &HttpMetrics {
        &self.shared.http
    }

    /// A request was refused or failed.
    pub fn error(&self, endpoint: Endpoint, code: &'static str) {
        self.shared.errors.with_label_values(&[endpoint.as_str(), code]).inc();
    }

    /// Unknown fields were ignored.
    pub fn ignored(&self, endpoint: Endpoint, fields: usize) {
        let series = self.shared.ignored_fields.with_label_values(&[endpoint.as_str()]);
        series.inc_by(fields as u64);
    }

    /// A request was not authorized: `missing`, `invalid` or `forbidden`.
    pub fn auth_failure(&self, reason: &'static str) {
        self.shared.auth_failures.with_label_values(&[reason]).inc();
    }

    /// The engine has finished a step of this model.
    pub fn step(&self, model: &str, report: &StepReport) {
        // A model that is gone by now has no name.
        let series =
            if model.is_empty() { Arc::clone(&self.shared.other) } else { self.add_model(model) };
        series.step(report);
    }

    /// Memory was short, and the engine did something about it.
    pub fn guarded(&self, action: GuardAction) {
        let action = match action {
            GuardAction::Pause => "pause",
            GuardAction::ShrinkCache => "shrink_cache",
            GuardAction::Abort => "abort",
        };
        self.shared.guard_actions.with_label_values(&[action]).inc();
    }

    /// Memory was short, and idle models are unloaded.
    pub fn models_evicted(&self) {
        self.shared.guard_actions.with_label_values(&["evict_model"]).inc();
    }

    /// All series as text. `now`: for tests.
    pub fn render(&self, snapshot: &Snapshot, now: SystemTime) -> Vec<u8> {
        let shared = &self.shared;
        let models = shared.models.read().unwrap_or_else(PoisonError::into_inner).clone();
        for (model, series) in &models {
            let (running, waiting) = snapshot.requests.get(model).copied().unwrap_or_default();
            series.running.set(running);
            series.waiting.set(waiting);
        }
        for (model, state) in &snapshot.states {
            for known in MODEL_STATES {
                let gauge = shared.model_state.with_label_values(&[model.as_str(), known]);
                gauge.set(i64::from(known == *state));
            }
        }
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        shared.last_progress.set(now.saturating_sub(snapshot.since_progress).as_secs_f64());
        let memory = &snapshot.memory;
        let bytes =
            [memory.active_bytes, memory.cache_bytes, memory.peak_bytes, memory.wired_limit_bytes];
        for (gauge, bytes) in shared.memory.iter().zip(bytes) {
            gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        shared.pressure.set(match memory.pressure {
            Pressure::Normal => 1,
            Pressure::Warning => 2,
            Pressure::Critical => 4,
        });
        shared.process.update();
        let mut text = Vec::with_capacity(64 << 10);
        let mut families = shared.registry.gather();
        families.extend(cache::families(&snapshot.cache));
        let encoded = TextEncoder::new().encode(&families, &mut text);
        encoded.expect("every family has a name, and memory can be written to");
        text
    }
}

impl HttpMetrics {
    fn new(make: &Make<'_>) -> Self {
        HttpMetrics {
            requests: make.counters(
                "omlx_http_requests_total",
                "Answered requests; 499 where the client went away.",
                &["method", "route", "status"],
            ),
            duration: make.histograms(
                "omlx_http_request_duration_seconds",
                "From a request's head to the end of its response.",
                &["route"],
                buckets::end_to_end(),
            ),
            body_bytes: make.histograms(
                "omlx_http_request_body_bytes",
                "Size of request bodies, decompressed.",
                &["route"],
                buckets::body_bytes(),
            ),
            disconnects: make.counters(
                "omlx_http_client_disconnects_total",
                "Clients that went away before their answer was complete.",
                &["route", "phase"],
            ),
            in_flight: make.gauge("omlx_http_requests_in_flight", "Requests being answered."),
            connections: make.gauge("omlx_http_connections", "Open connections."),
        }
    }

    /// Puts the series of a route at zero. `statuses`: those that it can answer with.
    pub fn add_route(&self, route: &str, method: &str, statuses: &[&str]) {
        self.duration.with_label_values(&[route]);
        for status in statuses {
            self.requests.with_label_values(&[method, route, status]);
        }
        if method == "POST" {
            self.body_bytes.with_label_values(&[route]);
            for phase in DISCONNECT_PHASES {
                self.disconnects.with_label_values(&[route, phase]);
            }
        }
    }

    /// A request was answered.
    pub fn answered(&self, method: &str, route: &str, status: u16, took: Duration) {
        let mut digits = itoa::Buffer::new();
        self.requests.with_label_values(&[method, route, digits.format(status)]).inc();
        self.duration.with_label_values(&[route]).observe(took.as_secs_f64());
    }

    /// A request's body was read.
    pub fn body(&self, route: &str, bytes: usize) {
        self.body_bytes.with_label_values(&[route]).observe(bytes as f64);
    }

    /// A client went away.
    pub fn disconnected(&self, route: &str, phase: &str) {
        self.disconnects.with_label_values(&[route, phase]).inc();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
