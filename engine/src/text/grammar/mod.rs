//! Grammar-constrained answers: llguidance computes which tokens may come next.
//!
//! A [`Pattern`] describes an answer. [`Model::compile`](crate::Model::compile) compiles it to a
//! [`Grammar`], off the engine thread. A request with a grammar has a [`Constraint`]: its state in
//! the grammar, and the tokens allowed there. After each token the constraint goes to a thread of
//! [`Masks`], which advances it. The row's next token cannot be sampled meanwhile, so such a row is
//! not computed ahead.
//!
//! llguidance gets limits on everything that a grammar can make large, its panics are caught, and
//! it runs on stacks of [`STACK_BYTES`].

mod blame;
mod compiled;
mod constraint;
mod error;
#[cfg(test)]
mod libraries_tests;
mod masks;
mod pattern;
mod schema;
#[cfg(test)]
mod tests;
mod vocabulary;

pub use compiled::Grammar;
pub(crate) use constraint::Constraint;
pub use error::GrammarError;
#[cfg(test)]
pub(crate) use masks::faults;
pub(crate) use masks::{Advanced, MaskState, Masks};
pub use pattern::Pattern;
pub use schema::{FORMATS as SCHEMA_FORMATS, KEYWORDS as SCHEMA_KEYWORDS, Keyword, Treatment};
pub(crate) use vocabulary::TokenTrie;
