//! What a model wrote, taken apart: thoughts, text, tool calls.
//!
//! Each family of models writes thoughts and calls in a format of its own. [`OutputFormat`] finds a
//! model's by what its chat template says and its vocabulary has; an [`OutputParser`] reads one
//! answer, piece by piece as it comes. [`OutputFormat::pattern`] says what an answer looks like that
//! is held to a schema or must call a tool.
//!
//! The rules for every format:
//! - Text is never lost: what begins like a call and is none comes out as the text that it is.
//!   Only what is left of a marker or key of a call, where the answer's length cut it, is no text.
//! - A call is announced when its name is known to be that of an offered tool and its arguments
//!   begin. Its arguments then go out as they come, and concatenate to one JSON object.
//! - An answer that ends inside a call which was announced is cut, see [`OutputParser::is_cut`].
//! - Models err: what leaves no doubt is read as it was meant. What may be a call by what follows only
//!   is tried, see [`trial`].
//! - What stands between the parts is no part: line breaks around thoughts, one line break before a
//!   call (two where the format has two), and blank space between calls and after the last. Templates
//!   write those themselves.
//! - Without tools the markers of calls are text like any other.

mod arguments;
mod call_object;
mod emit;
mod forced;
mod format;
// Not in release builds: fuzz targets and their twins in tests call it.
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
