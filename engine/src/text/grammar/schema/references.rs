//! Resolves `$ref`.

use serde_json::{Value, json};

use super::pass::{Pass, Place, wrong};
use crate::text::grammar::error::GrammarError;

impl Pass<'_> {
    /// A reference to a definition, which is rewritten later.
    pub(super) fn reference(
        &mut self,
        value: &Value,
        place: &Place<'_>,
    ) -> Result<Value, GrammarError> {
        let Some(reference) = value.as_str() else {
            return Err(wrong(place, "a reference is a string"));
        };
        let Some(pointer) = self.document.resolve(reference) else {
            let what = format!("'{reference}' leads to nothing in this document");
            return Err(wrong(place, what));
        };
        let known = self.definitions.iter().position(|(known, _)| *known == pointer);
        let n = known.unwrap_or_else(|| {
            self.definitions.push((pointer, None));
            self.definitions.len() - 1
        });
        Ok(json!({"$ref": format!("#/$defs/{n}")}))
    }

    /// All referenced definitions, in the order of their numbers.
    pub(super) fn definitions(&mut self) -> Result<Vec<Value>, GrammarError> {
        let mut n = 0;
        while let Some((pointer, _)) = self.definitions.get(n) {
            let pointer = pointer.clone();
            let schema = self.document.root.pointer(&pointer).unwrap_or(&Value::Null);
            let schema = self.schema(schema, &Place::Root(&pointer))?;
            self.definitions[n].1 = Some(schema);
            n += 1;
        }
        let all = std::mem::take(&mut self.definitions);
        Ok(all.into_iter().map(|(_, schema)| schema.unwrap_or(Value::Bool(false))).collect())
    }
}

/// The number of the definition that a rewritten `$ref` refers to.
pub(super) fn target(reference: &Value) -> Option<usize> {
    reference.as_str()?.strip_prefix("#/$defs/")?.parse().ok()
}
