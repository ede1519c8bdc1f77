//! Splits a model's output into reasoning, text and tool calls.
//!
//! Each model family has its own format for reasoning and calls. [`OutputFormat`] detects it from
//! the chat template and the vocabulary. An [`OutputParser`] reads one answer as it arrives in
//! pieces. [`OutputFormat::pattern`] describes an answer that must follow a schema or must call a
//! tool.
//!
//! The rules for every format:
//! - Text is never lost: text that begins like a call and is none is returned as text. The only
//!   exception is an incomplete marker or key of a call at the end of a truncated answer.
//! - A call is started when its name is known to be that of an offered tool and its arguments
//!   begin. Its arguments are then returned as they arrive, and concatenate to one JSON object.
//! - An answer that ends inside a started call is cut, see [`OutputParser::is_cut`].
//! - Models make mistakes: unambiguous ones are read as intended. Text that only later text can
//!   show to be a call is read as a trial, see [`trial`].
//! - Separators between the parts are dropped: line breaks around reasoning, one line break before
//!   a call (two in formats that have two), and space between calls and after the last one.
//!   Templates write these themselves.
//! - Without tools the markers of calls are ordinary text.

mod arguments;
mod call_object;
mod emit;
mod forced;
mod format;
// Fuzz targets and tests call it; release builds do not contain it.
#[cfg(debug_assertions)]
pub mod fuzz;
mod gemma;
mod harmony;
mod input;
mod json;
mod json_calls;
mod kinds;
mod layout;
mod lost;
mod mistral;
mod pairs;
mod parser;
mod part;
mod reader;
mod sectioned;
mod tags;
#[cfg(test)]
mod tests;
mod tools;
mod trial;

pub use forced::{Call, Expected};
pub use format::{CallIds, OutputFormat};
pub use lost::LostThought;
pub use parser::OutputParser;
pub use part::Part;
