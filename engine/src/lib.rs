//! Runs language models on MLX: loads them, tokenizes, schedules and generates.
//!
//! The structure of the crate: [`Engine`] owns one OS thread, and every MLX array lives on it.
//! [`Engine::load`] returns a [`Model`], a cheap handle with everything that needs no MLX
//! (tokenizer, chat template, sampling defaults, limits). [`Model::generate`] queues a
//! [`GenerateRequest`] and returns a [`Generation`], a stream of [`Event`]s. Dropping the stream
//! cancels the request within one decode step or one prefill chunk.
//!
//! This crate does not deal with HTTP, sockets or configuration files.

mod error;
mod kv;
pub mod limits;
mod mlx;
mod models;
mod panic_text;
mod runtime;
mod sched;
mod small_file;
mod text;
mod types;
mod weights;

pub use error::{GenerateError, LoadError, SubmitError, TemplateError, TokenizeError};
pub use kv::{Cause, Divergence, MissReason, ReuseConfig, ReuseReport};
pub use kvstore::platform::Pressure;
pub use mlx::bridge::{metal_is_available as has_metal, version as mlx_version};
pub use panic_text::panic_text;
pub use runtime::config::EngineConfig;
pub use runtime::files::LoadOptions;
pub use runtime::generation::{Delta, Event, GenerateRequest, Generation, Outcome, PhaseReader};
pub use runtime::handle::Engine;
pub use runtime::inspect::{ConfigFacts, ModelFacts, inspect, read_config};
pub use runtime::model::Model;
pub use runtime::report::{
    GuardAction, MemoryUse, NoObserver, Observer, Phase, Progress, StepName, StepReport,
};
pub use runtime::sampling::{SamplingDefaults, SamplingParams};
pub use runtime::sensor::{MemorySensor, SystemSensor};
pub use text::grammar::{
    Grammar, GrammarError, Keyword, Pattern, SCHEMA_FORMATS, SCHEMA_KEYWORDS, Treatment,
};
#[cfg(debug_assertions)]
pub use text::output::fuzz;
pub use text::output::{Call, CallIds, Expected, LostThought, OutputFormat, OutputParser, Part};
#[cfg(debug_assertions)]
pub use text::template::fuzz as template_fuzz;
pub use text::template::{ChatInputs, ChatTemplate, EFFORTS, TakenArguments, Takes, template_json};
pub use text::tokenizer::Tokenizer;
#[cfg(debug_assertions)]
pub use text::tokenizer::fuzz as tokenizer_fuzz;
pub use types::{
    ComputeDtype, FinishReason, KvDtype, Mark, MarkedText, ModelInfo, Quantization, RowPhase,
    ThinkingBudget, Timings, TokenLogprob, TokenLogprobs, TokenOutput, Usage,
};
pub use weights::{NoWeightFiles, WeightFiles, choose_weight_files};
