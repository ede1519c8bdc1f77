//! Rewrites one schema: each keyword, and the combination of all.

use serde_json::{Map, Value, json};

use super::keywords::{Treatment, row};
use super::pass::{PLACE, Pass, Place, wrong};
use super::types::Types;
use crate::text::grammar::error::GrammarError;

/// Up to this number every integer has an exact float.
pub(super) const EXACT: f64 = 9_007_199_254_740_992.0;

/// The restrictions at one location.
pub(super) struct Parts {
    /// The possible types of a value.
    pub(super) types: Types,
    /// Keywords of the rewritten schema itself.
    pub(super) own: Map<String, Value>,
    /// Other schemas that apply as well.
    pub(super) also: Vec<Value>,
}

impl Pass<'_> {
    /// Rewrites a schema and its parts.
    pub(super) fn schema(
        &mut self,
        schema: &Value,
        place: &Place<'_>,
    ) -> Result<Value, GrammarError> {
        let fields = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(fields) => fields,
            _ => return Err(wrong(place, "a schema is an object or a boolean")),
        };
        self.check_refused(fields, place)?;
        let types = self.types(fields, place)?;
        let mut parts = Parts { types, own: Map::new(), also: Vec::new() };
        self.text(fields, &mut parts, place)?;
        self.numbers(fields, &mut parts, place)?;
        self.array(fields, &mut parts, place)?;
        self.object(fields, &mut parts, place)?;
        self.not(fields, &mut parts, place)?;
        // Properties keep the order of the schema, whether they come from itself or from its parts.
        let begin = fields.keys().position(|name| name == "properties").unwrap_or(usize::MAX);
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for (n, (name, value)) in fields.iter().enumerate() {
            let place = place.field(name);
            let side = if n < begin { &mut before } else { &mut after };
            match name.as_str() {
                "$ref" | "$dynamicRef" | "$recursiveRef" => {
                    side.push(self.reference(value, &place)?);
                }
                "allOf" => side.extend(self.list(value, &place)?),
                "anyOf" => side.push(json!({"anyOf": self.list(value, &place)?})),
                "oneOf" => {
                    let list = self.list(value, &place)?;
                    side.push(json!({"oneOf": list, PLACE: place.pointer()}));
                }
                "const" | "enum" => {
                    let not = fields.get("not");
                    side.push(self.values(name, value, not, parts.types, &place)?);
                }
                "if" => side.extend(self.condition(fields, &place)?),
                _ => {}
            }
        }
        if parts.types == Types::NONE {
            return Ok(self.nothing(place, "no type is left"));
        }
        if let Some(types) = parts.types.write() {
            parts.own.insert("type".to_owned(), types);
        }
        let own = if parts.own.is_empty() {
            Value::Bool(true)
        } else {
            parts.own.insert(PLACE.to_owned(), place.pointer().into());
            Value::Object(parts.own)
        };
        let all = before.into_iter().chain([own]).chain(after).chain(parts.also);
        Ok(all_of(all.collect(), place))
    }

    /// Checks keywords that the table rejects, unless they restrict nothing.
    fn check_refused(
        &self,
        fields: &Map<String, Value>,
        place: &Place<'_>,
    ) -> Result<(), GrammarError> {
        for name in fields.keys() {
            let refused = row(name).filter(|row| row.treatment == Treatment::Refused);
            let Some(row) = refused else { continue };
            let is_neutral = match name.as_str() {
                "uniqueItems" => is_unique_anyway(fields),
                "contains" => fields.get("contains").is_some_and(is_true) || none_needed(fields),
                "if" => {
                    let branches = [fields.get("then"), fields.get("else")];
                    fields["if"].is_boolean() || branches.into_iter().flatten().all(is_true)
                }
                _ => false,
            };
            if !is_neutral {
                self.cannot(place, name, row.says)?;
            }
        }
        Ok(())
    }

    /// Rewrites a list of schemas.
    fn list(&mut self, value: &Value, place: &Place<'_>) -> Result<Vec<Value>, GrammarError> {
        let Some(schemas) = value.as_array().filter(|schemas| !schemas.is_empty()) else {
            return Err(wrong(place, "a list of schemas is needed"));
        };
        let step = |(n, schema)| self.schema(schema, &place.field(&usize::to_string(&n)));
        schemas.iter().enumerate().map(step).collect()
    }

    /// Handles `const` and `enum`: keeps the possible values.
    fn values(
        &mut self,
        name: &str,
        value: &Value,
        not: Option<&Value>,
        types: Types,
        place: &Place<'_>,
    ) -> Result<Value, GrammarError> {
        let one = std::slice::from_ref(value);
        let all = if name == "const" { Some(one) } else { value.as_array().map(Vec::as_slice) };
        let all = all.ok_or_else(|| wrong(place, "an enum is a list of values"))?;
        let is_excluded = |value: &&Value| {
            let listed = |list: &Value| list.as_array().is_some_and(|list| list.contains(value));
            not.is_some_and(|not| {
                not.get("const") == Some(value) || not.get("enum").is_some_and(listed)
            })
        };
        let mut left: Vec<&Value> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for value in all.iter().filter(|value| types.has(Types::of(value)) && !is_excluded(value)) {
            if !can_be_written(value) {
                let why = "a number beyond 2^53, or a character that JSON writes by its code";
                self.cannot(place, name, why)?;
            } else if seen.insert(value.to_string()) {
                left.push(value);
            }
        }
        if left.is_empty() {
            return Ok(self.nothing(place, format_args!("no value of {name} is of the type")));
        }
        Ok(json!({"enum": left}))
    }

    /// Handles `not`, if it can be expressed without it.
    fn not(
        &mut self,
        fields: &Map<String, Value>,
        parts: &mut Parts,
        place: &Place<'_>,
    ) -> Result<(), GrammarError> {
        let Some(not) = fields.get("not") else { return Ok(()) };
        let place = place.field("not");
        if is_true(not) {
            parts.also.push(self.nothing(&place, "not everything"));
            return Ok(());
        }
        // These are already handled by `types` and `values`.
        let is_values = not.as_object().is_some_and(|not| {
            not.keys().all(|name| matches!(name.as_str(), "const" | "enum" | "type"))
                && (not.contains_key("const") ^ not.contains_key("enum"))
                && ["const", "enum"].iter().any(|name| fields.contains_key(*name))
        });
        let is_text = self.never(fields, parts.types, &place)?.is_some();
        if *not == Value::Bool(false)
            || super::types::only_type(not).is_some()
            || is_values
            || is_text
        {
            return Ok(());
        }
        let twice = not.as_object().filter(|fields| fields.len() == 1);
        if let Some(schema) = twice.and_then(|fields| fields.get("not")) {
            parts.also.push(self.schema(schema, &place.field("not"))?);
            return Ok(());
        }
        self.cannot(&place, "not", row("not").map_or("", |row| row.says))
    }

    /// Handles an `if` whose result is known.
    fn condition(
        &mut self,
        fields: &Map<String, Value>,
        place: &Place<'_>,
    ) -> Result<Option<Value>, GrammarError> {
        let Some(holds) = fields.get("if").and_then(Value::as_bool) else { return Ok(None) };
        let branch = fields.get(if holds { "then" } else { "else" });
        branch.map(|branch| self.schema(branch, place)).transpose()
    }

    /// Reads a size or a count, if present.
    pub(super) fn count(
        &self,
        fields: &Map<String, Value>,
        name: &str,
        place: &Place<'_>,
    ) -> Result<Option<u64>, GrammarError> {
        let Some(value) = fields.get(name) else { return Ok(None) };
        let whole = |n: f64| (n.fract() == 0.0 && n >= 0.0).then_some(n as u64);
        match value.as_u64().or_else(|| value.as_f64().and_then(whole)) {
            Some(count) => Ok(Some(count)),
            None => {
                let place = place.field(name);
                Err(wrong(&place, format!("{value} is not an integer of 0 or more")))
            }
        }
    }
}

/// A schema that requires all of these.
fn all_of(parts: Vec<Value>, place: &Place<'_>) -> Value {
    if parts.contains(&Value::Bool(false)) {
        return Value::Bool(false);
    }
    let mut parts: Vec<Value> =
        parts.into_iter().filter(|part| *part != Value::Bool(true)).collect();
    match parts.len() {
        0 => Value::Bool(true),
        1 => parts.remove(0),
        _ => json!({"allOf": parts, PLACE: place.pointer()}),
    }
}

/// Whether a schema obviously allows everything.
pub(super) fn is_true(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => {
            fields.keys().all(|name| row(name).is_none_or(|row| row.treatment == Treatment::Note))
        }
        schema => *schema == Value::Bool(true),
    }
}

fn is_unique_anyway(fields: &Map<String, Value>) -> bool {
    let is_short = fields.get("maxItems").and_then(Value::as_f64).is_some_and(|most| most <= 1.0);
    fields.get("uniqueItems") == Some(&Value::Bool(false)) || is_short
}

fn none_needed(fields: &Map<String, Value>) -> bool {
    fields.get("minContains").and_then(Value::as_u64) == Some(0)
        && !fields.contains_key("maxContains")
}

/// Whether an answer can contain this value: numbers must fit a float, and strings must not have
/// characters that JSON can only write as `\u` escapes.
fn can_be_written(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) => true,
        Value::Number(number) => number.as_f64().is_some_and(|number| number.abs() <= EXACT),
        Value::String(text) => {
            text.chars().all(|c| !c.is_ascii_control() || "\n\r\t\u{8}\u{c}".contains(c))
        }
        Value::Array(items) => items.iter().all(can_be_written),
        Value::Object(fields) => fields.values().all(can_be_written),
    }
}
