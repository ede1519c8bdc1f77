//! The series that exist once for each model.

use super::endpoint::Endpoint;
use engine::{MissReason, Phase, ReuseReport, StepReport};
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::buckets;
use super::make::Make;

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// At an end of sequence or a stop string.
    Stop,
    /// At the limit of tokens.
    Length,
    /// With tool calls.
    ToolCalls,
    /// The client went away, or an administrator ended it.
    Cancelled,
    /// It failed.
    Error,
}

impl Finish {
    const ALL: [Finish; 5] =
        [Finish::Stop, Finish::Length, Finish::ToolCalls, Finish::Cancelled, Finish::Error];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::ToolCalls => "tool_calls",
            Finish::Cancelled => "cancelled",
            Finish::Error => "error",
        }
    }
}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// Too many wait already.
    QueueFull,
    /// Its key has had its share.
    RateLimit,
    /// There is no memory for it.
    Memory,
    /// Its model is not loaded, or cannot be.
    Loading,
    /// It came without a valid key.
    Auth,
}

impl Rejection {
    const ALL: [Rejection; 5] = [
        Rejection::QueueFull,
        Rejection::RateLimit,
        Rejection::Memory,
        Rejection::Loading,
        Rejection::Auth,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Rejection::QueueFull => "queue_full",
            Rejection::RateLimit => "rate_limit",
            Rejection::Memory => "memory",
            Rejection::Loading => "loading",
            Rejection::Auth => "auth",
        }
    }
}

/// What was reused of all prompts of a model since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReuseTotals {
    /// Tokens of the prompts.
    pub prompt_tokens: u64,
    /// Tokens whose KV was in memory.
    pub ram_tokens: u64,
    /// Tokens whose KV came from SSD.
    pub ssd_tokens: u64,
    /// Prompts of which less than possible was reused, by [`MissReason`].
    pub misses: [u64; 8],
}

/// The families, of which each model has one child.
#[derive(Debug)]
pub(super) struct ModelFamilies {
    load_duration: HistogramVec,
    running: IntGaugeVec,
    waiting: IntGaugeVec,
    requests: IntCounterVec,
    rejected: IntCounterVec,
    preemptions: IntCounterVec,
    prompt_tokens: IntCounterVec,
    generation_tokens: IntCounterVec,
    cached_tokens: IntCounterVec,
    prefix_queries: IntCounterVec,
    prefix_hits: IntCounterVec,
    prefix_misses: IntCounterVec,
    first_token: HistogramVec,
    inter_token: HistogramVec,
    end_to_end: HistogramVec,
    queue_time: HistogramVec,
    prefill_time: HistogramVec,
    decode_time: HistogramVec,
    restore_time: HistogramVec,
    request_prompt_tokens: HistogramVec,
    request_generation_tokens: HistogramVec,
    max_tokens: HistogramVec,
    constrained_mask: HistogramVec,
    step_duration: HistogramVec,
    step_host: HistogramVec,
    step_idle: HistogramVec,
    step_tokens: HistogramVec,
    step_rows: HistogramVec,
}

/// One model's series, ready to be counted up without a look-up.
#[derive(Debug)]
pub struct ModelMetrics {
    /// Time to load the model.
    pub load_duration: Histogram,
    /// Requests being computed.
    pub running: IntGauge,
    /// Requests waiting.
    pub waiting: IntGauge,
    /// Requests put back into the queue for lack of memory.
    pub preemptions: IntCounter,
    /// Tokens of prompts that were computed or restored.
    pub prompt_tokens: IntCounter,
    /// Tokens generated.
    pub generation_tokens: IntCounter,
    /// Time between two tokens of one answer.
    pub inter_token: Histogram,
    /// A whole request.
    pub end_to_end: Histogram,
    /// Submitted to scheduled.
    pub queue_time: Histogram,
    /// Scheduled to first token.
    pub prefill_time: Histogram,
    /// First token to last.
    pub decode_time: Histogram,
    /// Time to restore KV.
    pub restore_time: Histogram,
    /// Tokens of each prompt.
    pub request_prompt_tokens: Histogram,
    /// Tokens of each answer.
    pub request_generation_tokens: Histogram,
    /// `max_tokens` of requests that set it.
    pub max_tokens: Histogram,
    /// Time to find the tokens that a grammar allows next.
    pub constrained_mask: Histogram,
    cached_ram: IntCounter,
    cached_ssd: IntCounter,
    prefix_queries: [IntCounter; 2],
    prefix_hits: [IntCounter; 2],
    prefix_misses: [IntCounter; 8],
    first_token: [Histogram; 3],
    steps: [StepTimes; 2],
    step_tokens: Histogram,
    step_rows: Histogram,
    finished: Vec<IntCounter>,
    rejected: Vec<IntCounter>,
}

/// How long the steps of one phase take.
#[derive(Debug)]
struct StepTimes {
    duration: Histogram,
    host: Histogram,
    idle: Histogram,
}

impl ModelFamilies {
    pub(super) fn new(registry: &prometheus::Registry) -> Self {
        let make = Make { registry };
        let whole = buckets::end_to_end;
        let counts = || buckets::COUNTS.to_vec();
        let times = |name: &str, help: &str| make.histograms(name, help, &["model"], whole());
        let tokens = |name: &str, help: &str| make.histograms(name, help, &["model"], counts());
        let gauges = |name: &str, help: &str| make.gauges(name, help, &["model"]);
        let counters = |name: &str, help: &str, labels: &[&str]| make.counters(name, help, labels);
        ModelFamilies {
            load_duration: times("omlx_model_load_duration_seconds", "Time to load a model."),
            running: gauges("omlx_requests_running", "Requests being computed."),
            waiting: gauges("omlx_requests_waiting", "Requests waiting for their turn."),
            requests: counters(
                "omlx_requests_total",
                "Finished requests.",
                &["model", "endpoint", "finish_reason"],
            ),
            rejected: counters(
                "omlx_requests_rejected_total",
                "Requests that were not taken.",
                &["model", "reason"],
            ),
            preemptions: counters(
                "omlx_preemptions_total",
                "Requests that were put back into the queue for lack of memory.",
                &["model"],
            ),
            prompt_tokens: counters("omlx_prompt_tokens_total", "Prompt tokens.", &["model"]),
            generation_tokens: counters(
                "omlx_generation_tokens_total",
                "Generated tokens.",
                &["model"],
            ),
            cached_tokens: counters(
                "omlx_prompt_tokens_cached_total",
                "Prompt tokens whose KV was restored.",
                &["model", "tier"],
            ),
            prefix_queries: counters(
                "omlx_prefix_cache_queries_tokens_total",
                "Prompt tokens looked up.",
                &["model", "tier"],
            ),
            prefix_hits: counters(
                "omlx_prefix_cache_hits_tokens_total",
                "Prompt tokens found.",
                &["model", "tier"],
            ),
            prefix_misses: counters(
                "omlx_prefix_cache_miss_total",
                "Prompts of which less than possible was reused, by the reason.",
                &["model", "reason"],
            ),
            first_token: make.histograms(
                "omlx_request_time_to_first_token_seconds",
                "From a request's head to its first token, by where the prompt's KV came from.",
                &["model", "cache"],
                buckets::FIRST_TOKEN.to_vec(),
            ),
            inter_token: make.histograms(
                "omlx_request_inter_token_latency_seconds",
                "Between two tokens of one answer.",
                &["model"],
                buckets::INTER_TOKEN.to_vec(),
            ),
            end_to_end: times("omlx_request_e2e_latency_seconds", "A whole request."),
            queue_time: times("omlx_request_queue_time_seconds", "Submitted to scheduled."),
            prefill_time: times("omlx_request_prefill_time_seconds", "Scheduled to first token."),
            decode_time: times("omlx_request_decode_time_seconds", "First token to last."),
            restore_time: times("omlx_request_restore_time_seconds", "Time to restore KV."),
            request_prompt_tokens: tokens("omlx_request_prompt_tokens", "Tokens of a prompt."),
            request_generation_tokens: tokens(
                "omlx_request_generation_tokens",
                "Tokens of an answer.",
            ),
            max_tokens: tokens("omlx_request_params_max_tokens", "max_tokens, where it is set."),
            constrained_mask: make.histograms(
                "omlx_constrained_mask_seconds",
                "Time to find the tokens that a grammar allows next.",
                &["model"],
                buckets::scheduler(),
            ),
            step_duration: make.histograms(
                "omlx_engine_step_duration_seconds",
                "One step of the engine.",
                &["model", "phase"],
                buckets::step(),
            ),
            step_host: make.histograms(
                "omlx_engine_step_host_seconds",
                "The host's part of a step: building graphs, reading and sending tokens. In a \
                 decode step MLX computes meanwhile.",
                &["model", "phase"],
                buckets::scheduler(),
            ),
            step_idle: make.histograms(
                "omlx_scheduler_overhead_seconds",
                "How long MLX had nothing to compute in a step because of the host, at most.",
                &["model", "phase"],
                buckets::scheduler(),
            ),
            step_tokens: tokens("omlx_engine_step_tokens", "Tokens computed in a step."),
            step_rows: tokens("omlx_engine_batch_size", "Sequences in a step."),
        }
    }

    /// Every series of one model.
    pub(super) fn of(&self, model: &str) -> ModelMetrics {
        let one = [model];
        let finished = Endpoint::GENERATING.iter().flat_map(|endpoint| {
            Finish::ALL.iter().map(|finish| {
                self.requests.with_label_values(&[model, endpoint.as_str(), finish.as_str()])
            })
        });
        let rejected = Rejection::ALL.iter();
        ModelMetrics {
            load_duration: self.load_duration.with_label_values(&one),
            running: self.running.with_label_values(&one),
            waiting: self.waiting.with_label_values(&one),
            preemptions: self.preemptions.with_label_values(&one),
            prompt_tokens: self.prompt_tokens.with_label_values(&one),
            generation_tokens: self.generation_tokens.with_label_values(&one),
            inter_token: self.inter_token.with_label_values(&one),
            end_to_end: self.end_to_end.with_label_values(&one),
            queue_time: self.queue_time.with_label_values(&one),
            prefill_time: self.prefill_time.with_label_values(&one),
            decode_time: self.decode_time.with_label_values(&one),
            restore_time: self.restore_time.with_label_values(&one),
            request_prompt_tokens: self.request_prompt_tokens.with_label_values(&one),
            request_generation_tokens: self.request_generation_tokens.with_label_values(&one),
            max_tokens: self.max_tokens.with_label_values(&one),
            constrained_mask: self.constrained_mask.with_label_values(&one),
            cached_ram: self.cached_tokens.with_label_values(&[model, "ram"]),
            cached_ssd: self.cached_tokens.with_label_values(&[model, "ssd"]),
            prefix_queries: ["ram", "ssd"]
                .map(|tier| self.prefix_queries.with_label_values(&[model, tier])),
            prefix_hits: ["ram", "ssd"]
                .map(|tier| self.prefix_hits.with_label_values(&[model, tier])),
            prefix_misses: MissReason::ALL
                .map(|reason| self.prefix_misses.with_label_values(&[model, reason.name()])),
            first_token: ["none", "ram", "ssd"]
                .map(|cache| self.first_token.with_label_values(&[model, cache])),
            steps: ["prefill", "decode"].map(|phase| StepTimes {
                duration: self.step_duration.with_label_values(&[model, phase]),
                host: self.step_host.with_label_values(&[model, phase]),
                idle: self.step_idle.with_label_values(&[model, phase]),
            }),
            step_tokens: self.step_tokens.with_label_values(&one),
            step_rows: self.step_rows.with_label_values(&one),
            finished: finished.collect(),
            rejected: rejected
                .map(|reason| self.rejected.with_label_values(&[model, reason.as_str()]))
                .collect(),
        }
    }
}

impl ModelMetrics {
    /// A request for an answer ended.
    pub fn finished(&self, endpoint: Endpoint, finish: Finish) {
        self.finished[endpoint as usize * Finish::ALL.len() + finish as usize].inc();
    }

    /// A request was not taken.
    pub fn rejected(&self, reason: Rejection) {
        self.rejected[reason as usize].inc();
    }

    /// Prompt tokens were restored.
    pub fn cached(&self, ram_tokens: usize, ssd_tokens: usize) {
        self.cached_ram.inc_by(ram_tokens as u64);
        self.cached_ssd.inc_by(ssd_tokens as u64);
    }

    /// What of a prompt was reused, and why not more.
    pub fn reused(&self, report: &ReuseReport) {
        let hits = [report.ram_tokens, report.ssd_tokens];
        for (tier, hits) in hits.into_iter().enumerate() {
            self.prefix_queries[tier].inc_by(report.prompt_tokens as u64);
            self.prefix_hits[tier].inc_by(hits as u64);
        }
        if let Some(reason) = report.miss {
            self.prefix_misses[reason as usize].inc();
        }
    }

    /// What was reused so far.
    pub fn reuse_totals(&self) -> ReuseTotals {
        ReuseTotals {
            prompt_tokens: self.prefix_queries[0].get(),
            ram_tokens: self.prefix_hits[0].get(),
            ssd_tokens: self.prefix_hits[1].get(),
            misses: MissReason::ALL.map(|reason| self.prefix_misses[reason as usize].get()),
        }
    }

    /// An answer had its first token after `seconds`.
    pub fn first_token(&self, seconds: f64, ram_tokens: usize, ssd_tokens: usize) {
        let slowest = if ssd_tokens > 0 { 2 } else { usize::from(ram_tokens > 0) };
        self.first_token[slowest].observe(seconds);
    }

    /// A step was computed.
    pub(super) fn step(&self, report: &StepReport) {
        let times = match report.phase {
            Phase::Prefill => &self.steps[0],
            Phase::Decode => &self.steps[1],
        };
        times.duration.observe(report.duration.as_secs_f64());
        times.host.observe(report.host.as_secs_f64());
        times.idle.observe(report.idle.as_secs_f64());
        self.step_tokens.observe((report.prompt_tokens + report.new_tokens) as f64);
        self.step_rows.observe(report.rows as f64);
    }

    /// Mean seconds of a request so far; 1 before there was one.
    pub fn mean_request_seconds(&self) -> f64 {
        match self.end_to_end.get_sample_count() {
            0 => 1.0,
            count => self.end_to_end.get_sample_sum() / count as f64,
        }
    }
}
