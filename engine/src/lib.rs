//! Runs language models on MLX: loads them, tokenizes, schedules, generates.
//!
//! The shape of the crate: [`Engine`] owns one plain OS thread on which every MLX array lives and
//! dies. [`Engine::load`] gives a [`Model`], a cheap handle that holds what needs no MLX (tokenizer,
//! chat template, sampling defaults, limits). [`Model::generate`] queues a [`GenerateRequest`] and
//! gives a [`Generation`], a stream of [`Event`]s; dropping it cancels the request within one decode
//! step or one prefill chunk.
//!
//! This crate knows nothing of HTTP, sockets or configuration files.

mod attention;
mod batch;
mod bridge;
mod cache;
mod detokenize;
mod engine;
mod error;
mod gated_delta;
mod generation;
mod grammar;
mod inspect;
pub mod limits;
mod loaded;
mod memory;
mod model;
mod models;
mod nn;
mod output;
mod panic_text;
mod platform;
mod python_json;
mod quantization;
mod reuse;
mod rope;
mod row;
mod sampling;
mod schedule;
mod small_file;
mod step;
mod stop;
mod template;
mod thoughts;
mod tokenizer;
mod weights;
mod worker;

pub use bridge::{metal_is_available as has_metal, version as mlx_version};
pub use engine::{
    ComputeDtype, Engine, EngineConfig, GuardAction, MemoryUse, NoObserver, Observer, Phase,
    Progress, StepName, StepReport,
};
pub use error::{GenerateError, LoadError, SubmitError, TemplateError, TokenizeError};
pub use generation::{
    Delta, Event, FinishReason, GenerateRequest, Generation, Mark, Outcome, PhaseReader, RowPhase,
    Timings, TokenLogprob, TokenLogprobs, TokenOutput, Usage,
};
pub use grammar::{
    Grammar, GrammarError, Keyword, Pattern, SCHEMA_FORMATS, SCHEMA_KEYWORDS, Treatment,
};
pub use inspect::{ConfigFacts, ModelFacts, inspect, read_config};
pub use memory::{MemorySensor, Pressure, SystemSensor};
pub use model::{KvDtype, LoadOptions, Model, ModelInfo};
#[cfg(debug_assertions)]
pub use output::fuzz;
pub use output::{Call, CallIds, Expected, LostThought, OutputFormat, OutputParser, Part};
pub use panic_text::panic_text;
pub use platform::{Severity, StayAwake, end_process, give_back_memory, system_log};
pub use quantization::Quantization;
pub use reuse::{Cause, Divergence, MissReason, ReuseConfig, ReuseReport};
pub use sampling::{SamplingDefaults, SamplingParams};
#[cfg(debug_assertions)]
pub use template::fuzz as template_fuzz;
pub use template::{ChatInputs, ChatTemplate, EFFORTS, TakenArguments, Takes, template_json};
pub use thoughts::ThinkingBudget;
pub use tokenizer::Tokenizer;
#[cfg(debug_assertions)]
pub use tokenizer::fuzz as tokenizer_fuzz;
pub use weights::{NoWeightFiles, WeightFiles, choose_weight_files};
