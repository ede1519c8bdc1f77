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
mod formats;
mod keywords;
mod names;
mod numbers;
mod objects;
mod references;
mod rewrite;
#[cfg(test)]
mod tests;
mod text;
mod types;

use serde_json::{Map, Value};

pub(super) use completes::children;
pub use formats::FORMATS;
pub use keywords::{KEYWORDS, Keyword, Treatment};

use super::GrammarError;
use references::Document;

/// Where a part of what [`prepare`] makes stands in the schema: a JSON pointer.
pub(super) const PLACE: &str = "$comment";
/// A longer pointer is cut. It is for people, who find the place by its beginning.
const PLACE_CHARS: usize = 200;

/// A schema that llguidance compiles, and that says the same as this one.
///
/// # Errors
/// [`GrammarError::Invalid`] when it is no schema, when nothing validates against it, or, if `exactly`,
/// when it has what cannot be enforced; otherwise that is overlooked.
pub(super) fn prepare(schema: &Value, exactly: bool) -> Result<Value, GrammarError> {
    numbers::check_divisors(schema)?;
    let document = Document::new(schema);
    let mut pass =
        Pass { document: &document, exactly, definitions: Vec::new(), reason: None, variants: 0 };
    let root = pass.schema(schema, &Place::Root(""))?;
    let definitions = pass.definitions()?;
    let (root, definitions) = choices::decide(root, definitions, exactly)?;
    let root = completes::prune(root, definitions);
    match root {
        Value::Bool(false) => {
            let endless = || {
                "what has to be there has no value, or contains itself without end, at the root"
                    .to_owned()
            };
            let why = pass.reason.unwrap_or_else(endless);
            Err(GrammarError::Invalid(format!("the schema allows nothing: {why}")))
        }
        Value::Object(fields) => Ok(Value::Object(fields)),
        _ => Ok(Value::Object(Map::new())),
    }
}

/// Where a part stands.
enum Place<'a> {
    /// Where a definition, or the whole, begins: a JSON pointer.
    Root(&'a str),
    /// A field of what stands there.
    Field(&'a Place<'a>, &'a str),
}

impl Place<'_> {
    fn field<'a>(&'a self, name: &'a str) -> Place<'a> {
        Place::Field(self, name)
    }

    /// The JSON pointer.
    fn pointer(&self) -> String {
        let mut pointer = self.whole();
        if let Some((end, _)) = pointer.char_indices().nth(PLACE_CHARS) {
            pointer.truncate(end);
            pointer.push_str("...");
        }
        pointer
    }

    fn whole(&self) -> String {
        match self {
            Self::Root(pointer) => (*pointer).to_owned(),
            Self::Field(parent, name) => {
                format!("{}/{}", parent.whole(), references::escape(name))
            }
        }
    }
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&named(&self.pointer()))
    }
}

/// A pointer, as an error names it.
pub(super) fn named(pointer: &str) -> String {
    if pointer.is_empty() { "the root".to_owned() } else { pointer.to_owned() }
}

/// It is wrong, whoever reads it.
fn wrong(place: &Place<'_>, what: impl std::fmt::Display) -> GrammarError {
    GrammarError::Invalid(format!("{what}, at {place}"))
}

/// One pass over a schema.
struct Pass<'d> {
    document: &'d Document<'d>,
    exactly: bool,
    /// What is referred to: pointers into the document, and what becomes of them.
    definitions: Vec<(String, Option<Value>)>,
    /// Why the first part that allows nothing does so.
    reason: Option<String>,
    /// How many variants of objects were written out.
    variants: usize,
}

impl Pass<'_> {
    /// What cannot be enforced is an error, or overlooked where that was asked for.
    fn cannot(&self, place: &Place<'_>, keyword: &str, why: &str) -> Result<(), GrammarError> {
        match self.exactly {
            true => {
                let what = format!("{keyword} at {place} cannot be enforced: {why}");
                Err(GrammarError::Invalid(what))
            }
            false => Ok(()),
        }
    }

    /// Nothing validates here; the first reason is told.
    fn nothing(&mut self, place: &Place<'_>, why: impl std::fmt::Display) -> Value {
        self.reason.get_or_insert_with(|| format!("{why}, at {place}"));
        Value::Bool(false)
    }
}
