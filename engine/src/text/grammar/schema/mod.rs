//! Prepares a JSON schema for its translation to a grammar.
//!
//! [`prepare`] removes what restricts nothing, replaces keywords that llguidance supports only in
//! part by simpler ones, and rejects what cannot be enforced, following the table [`KEYWORDS`]. The
//! result uses `type`, `properties`, `patternProperties`, `additionalProperties`, `required`,
//! `minProperties`, `maxProperties`, `prefixItems`, `items`, `minItems`, `maxItems`, `minLength`,
//! `maxLength`, `pattern`, the bounds of numbers, `multipleOf`, `enum`, `const`, `allOf`, `anyOf`
//! and `$ref` into its own `$defs`. Each part has its origin in `$comment`.
//!
//! An answer can always be completed, from any point in it: a part without a value, or without a
//! value of finite length, is removed from choices, and rejected where it is required.

mod arrays;
mod automaton;
mod choices;
mod completes;
mod counts;
mod document;
mod formats;
mod keywords;
mod names;
mod numbers;
mod objects;
mod pass;
mod prepare;
mod references;
mod rewrite;
#[cfg(test)]
mod tests;
mod text;
mod types;

pub(super) use completes::children;
pub use formats::FORMATS;
pub use keywords::{KEYWORDS, Keyword, Treatment};
pub(super) use pass::{PLACE, named};
pub(super) use prepare::prepare;
