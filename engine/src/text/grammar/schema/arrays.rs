//! Keywords of arrays.

use serde_json::{Map, Value};

use super::pass::{Pass, Place, wrong};
use super::rewrite::{Parts, is_true};
use super::types::Types;
use crate::text::grammar::error::GrammarError;

impl Pass<'_> {
    /// Handles `items`, `prefixItems`, their older forms, and the limits on the number of items.
    pub(super) fn array(
        &mut self,
        fields: &Map<String, Value>,
        parts: &mut Parts,
        place: &Place<'_>,
    ) -> Result<(), GrammarError> {
        if !parts.types.has(Types::ARRAY) {
            return Ok(());
        }
        let (prefix, items) = match (fields.get("prefixItems"), fields.get("items")) {
            (None, Some(list @ Value::Array(_))) => {
                (Some((list, "items")), self.rest(fields, "additionalItems", place)?)
            }
            (Some(list), Some(Value::Object(_) | Value::Bool(_)) | None) => {
                (Some((list, "prefixItems")), self.rest(fields, "items", place)?)
            }
            (None, _) => (None, self.rest(fields, "items", place)?),
            (Some(_), Some(_)) => {
                return Err(wrong(&place.field("items"), "a schema is an object or a boolean"));
            }
        };
        if let Some((list, name)) = prefix {
            let place = place.field(name);
            let list =
                list.as_array().ok_or_else(|| wrong(&place, "a list of schemas is needed"))?;
            let step = |(n, item)| self.schema(item, &place.field(&usize::to_string(&n)));
            let list: Result<Vec<Value>, _> = list.iter().enumerate().map(step).collect();
            let list = list?;
            if !list.is_empty() {
                parts.own.insert("prefixItems".to_owned(), Value::Array(list));
            }
        }
        if let Some(items) = items.filter(|items| *items != Value::Bool(true)) {
            parts.own.insert("items".to_owned(), items);
        }
        let mut least = self.count(fields, "minItems", place)?.unwrap_or(0);
        let mut most = self.count(fields, "maxItems", place)?;
        if fields.get("contains").is_some_and(is_true) {
            least = least.max(self.count(fields, "minContains", place)?.unwrap_or(1));
            let others = self.count(fields, "maxContains", place)?;
            most = most.into_iter().chain(others).min();
        }
        if most.is_some_and(|most| most < least) {
            parts.types = parts.types.without(Types::ARRAY);
            if parts.types == Types::NONE {
                parts.also.push(self.nothing(place, "minItems is more than maxItems"));
            }
            return Ok(());
        }
        if least > 0 {
            parts.own.insert("minItems".to_owned(), least.into());
        }
        if let Some(most) = most {
            parts.own.insert("maxItems".to_owned(), most.into());
        }
        Ok(())
    }

    /// The schema of all items after the first ones.
    fn rest(
        &mut self,
        fields: &Map<String, Value>,
        name: &str,
        place: &Place<'_>,
    ) -> Result<Option<Value>, GrammarError> {
        if let Some(items) = fields.get(name) {
            return self.schema(items, &place.field(name)).map(Some);
        }
        let Some(items) = fields.get("unevaluatedItems").filter(|items| !is_true(items)) else {
            return Ok(None);
        };
        let name = "unevaluatedItems";
        let evaluates = ["$ref", "allOf", "anyOf", "oneOf", "if", "contains", "$dynamicRef"];
        if evaluates.iter().any(|name| fields.contains_key(*name)) {
            self.cannot(place, name, "other keywords beside it say what items there are")?;
            return Ok(None);
        }
        self.schema(items, &place.field(name)).map(Some)
    }
}
