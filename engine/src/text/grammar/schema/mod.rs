//! What is made of a JSON schema before it becomes a grammar.
//!
//! [`prepare`] takes out what restricts nothing, says in simpler keywords what llguidance knows in
//! part only, and refuses what cannot be enforced, by the table [`KEYWORDS`]. What comes out has
//! `type`, `properties`, `patternProperties`, `additionalProperties`, `required`, `minProperties`,
//! `maxProperties`, `prefixItems`, `items`, `minItems`, `maxItems`, `minLength`, `maxLength`, `pattern`,
//! the bounds of numbers, `multipleOf`, `enum`, `const`, `allOf`, `anyOf` and `$ref` into its own `$defs`,
//! and each part says in `$comment` where it comes from.
//!
//! Every schema that comes out can be completed, from wherever an answer stands: a part that has no
//! value, or none of finite length, is left out of choices, and refused where it has to be.

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
