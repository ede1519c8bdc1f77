//! One pass over a schema, and the places in it that errors name.

use serde_json::Value;

use super::document::{Document, escape};
use crate::text::grammar::error::GrammarError;

/// Where a part of what [`super::prepare`] makes stands in the schema: a JSON pointer.
pub(in crate::text::grammar) const PLACE: &str = "$comment";

/// A longer pointer is cut. It is for people, who find the place by its beginning.
pub(super) const PLACE_CHARS: usize = 200;

/// Where a part stands.
pub(super) enum Place<'a> {
    /// Where a definition, or the whole, begins: a JSON pointer.
    Root(&'a str),
    /// A field of what stands there.
    Field(&'a Place<'a>, &'a str),
}

impl Place<'_> {
    pub(super) fn field<'a>(&'a self, name: &'a str) -> Place<'a> {
        Place::Field(self, name)
    }

    /// The JSON pointer.
    pub(super) fn pointer(&self) -> String {
        let mut pointer = self.whole();
        if let Some((end, _)) = pointer.char_indices().nth(PLACE_CHARS) {
            pointer.truncate(end);
            pointer.push_str("...");
        }
        pointer
    }

    pub(super) fn whole(&self) -> String {
        match self {
            Self::Root(pointer) => (*pointer).to_owned(),
            Self::Field(parent, name) => {
                format!("{}/{}", parent.whole(), escape(name))
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
pub(in crate::text::grammar) fn named(pointer: &str) -> String {
    if pointer.is_empty() { "the root".to_owned() } else { pointer.to_owned() }
}

/// It is wrong, whoever reads it.
pub(super) fn wrong(place: &Place<'_>, what: impl std::fmt::Display) -> GrammarError {
    GrammarError::Invalid(format!("{what}, at {place}"))
}

/// One pass over a schema.
pub(super) struct Pass<'d> {
    pub(super) document: &'d Document<'d>,
    pub(super) exactly: bool,
    /// What is referred to: pointers into the document, and what becomes of them.
    pub(super) definitions: Vec<(String, Option<Value>)>,
    /// Why the first part that allows nothing does so.
    pub(super) reason: Option<String>,
    /// How many variants of objects were written out.
    pub(super) variants: usize,
}

impl Pass<'_> {
    /// What cannot be enforced is an error, or overlooked where that was asked for.
    pub(super) fn cannot(
        &self,
        place: &Place<'_>,
        keyword: &str,
        why: &str,
    ) -> Result<(), GrammarError> {
        if self.exactly {
            let what = format!("{keyword} at {place} cannot be enforced: {why}");
            Err(GrammarError::Invalid(what))
        } else {
            Ok(())
        }
    }

    /// Nothing validates here; the first reason is told.
    pub(super) fn nothing(&mut self, place: &Place<'_>, why: impl std::fmt::Display) -> Value {
        self.reason.get_or_insert_with(|| format!("{why}, at {place}"));
        Value::Bool(false)
    }
}
