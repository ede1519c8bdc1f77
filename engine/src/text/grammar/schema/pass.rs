//! A pass over a schema, and the locations in it for error messages.

use serde_json::Value;

use super::document::{Document, escape};
use crate::text::grammar::error::GrammarError;

/// The keyword that holds the JSON pointer to a part's origin in the schema.
pub(in crate::text::grammar) const PLACE: &str = "$comment";

/// Longer pointers are truncated. People find the location by its beginning.
pub(super) const PLACE_CHARS: usize = 200;

/// The location of a part.
pub(super) enum Place<'a> {
    /// The start of a definition or of the whole schema: a JSON pointer.
    Root(&'a str),
    /// A field of another location.
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

/// A pointer as shown in an error.
pub(in crate::text::grammar) fn named(pointer: &str) -> String {
    if pointer.is_empty() { "the root".to_owned() } else { pointer.to_owned() }
}

/// The error for a schema that is invalid for every reader.
pub(super) fn wrong(place: &Place<'_>, what: impl std::fmt::Display) -> GrammarError {
    GrammarError::Invalid(format!("{what}, at {place}"))
}

/// A pass over a schema.
pub(super) struct Pass<'d> {
    pub(super) document: &'d Document<'d>,
    pub(super) exactly: bool,
    /// Referenced definitions: pointers into the document, and the rewritten schemas.
    pub(super) definitions: Vec<(String, Option<Value>)>,
    /// Why the first part that allows no value does so.
    pub(super) reason: Option<String>,
    /// Number of object variants that were written out.
    pub(super) variants: usize,
}

impl Pass<'_> {
    /// Handles what cannot be enforced: an error, unless the request allows to ignore it.
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

    /// A schema that allows no value. The first reason is reported.
    pub(super) fn nothing(&mut self, place: &Place<'_>, why: impl std::fmt::Display) -> Value {
        self.reason.get_or_insert_with(|| format!("{why}, at {place}"));
        Value::Bool(false)
    }
}
