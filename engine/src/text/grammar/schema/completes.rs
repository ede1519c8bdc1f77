//! Removes parts that cannot be completed, because they have no value or none of finite length.

use serde_json::{Map, Value};

use super::references::target;
use super::types::Types;

/// Limit on the rounds over all definitions. Each round uses the results of the previous one.
/// Definitions that are referred to come later and are handled first, so two or three rounds
/// usually suffice.
const ROUNDS: usize = 64;

/// Removes what cannot be completed from a schema and its definitions. `false`: no value is left.
pub(super) fn prune(mut root: Value, mut definitions: Vec<Value>) -> Value {
    let mut known = vec![false; definitions.len()];
    for round in 0.. {
        let mut has_changed = false;
        for n in (0..definitions.len()).rev() {
            if !known[n] && (round == ROUNDS || completes(&definitions[n], &known, Types::ALL)) {
                known[n] = true;
                has_changed = true;
            }
        }
        if !has_changed {
            break;
        }
    }
    for schema in definitions.iter_mut().chain([&mut root]) {
        prune_one(schema, &known);
    }
    if let Value::Object(fields) = &mut root
        && !definitions.is_empty()
    {
        let named = definitions.into_iter().enumerate().map(|(n, schema)| (n.to_string(), schema));
        fields.insert("$defs".to_owned(), Value::Object(named.collect()));
    }
    root
}

/// Whether a value exists. `known`: the definitions known to have one; `within`: the types that the
/// surrounding schemas allow.
fn completes(schema: &Value, known: &[bool], within: Types) -> bool {
    let fields = match schema {
        Value::Object(fields) => fields,
        schema => return *schema != Value::Bool(false),
    };
    let types = own_types(fields).and(within);
    let any = |name: &str| fields.get(name).and_then(Value::as_array);
    if types == Types::NONE
        || fields.get("$ref").and_then(target).is_some_and(|n| !known.get(n).is_some_and(|is| *is))
        || any("allOf").is_some_and(|all| !all.iter().all(|part| completes(part, known, types)))
        || any("anyOf").is_some_and(|all| !all.iter().any(|part| completes(part, known, types)))
    {
        return false;
    }
    let others = Types::ALL.without(Types::OBJECT.or(Types::ARRAY));
    types.has(others)
        || (types.has(Types::OBJECT) && object_completes(fields, known))
        || (types.has(Types::ARRAY) && array_completes(fields, known))
}

/// The types that the fields and all parts of an `allOf` allow.
fn own_types(fields: &Map<String, Value>) -> Types {
    let kind = fields.get("type").and_then(Types::read).unwrap_or(Types::ALL);
    let values = fields.get("enum").and_then(Value::as_array);
    let values = values.map(|values| values.iter().map(Types::of).fold(Types::NONE, Types::or));
    let parts = fields.get("allOf").and_then(Value::as_array).into_iter().flatten();
    let parts = parts.filter_map(Value::as_object).map(own_types);
    parts.fold(kind.and(values.unwrap_or(Types::ALL)), Types::and)
}

fn object_completes(fields: &Map<String, Value>, known: &[bool]) -> bool {
    let has_value = |schema: &Value| completes(schema, known, Types::ALL);
    let declared = fields.get("properties").and_then(Value::as_object);
    let patterns = fields.get("patternProperties").and_then(Value::as_object);
    let others = fields.get("additionalProperties");
    let required = fields.get("required").and_then(Value::as_array);
    let names = required.map(Vec::as_slice).unwrap_or_default();
    let all_there = names.iter().filter_map(Value::as_str).all(|name| {
        match declared.and_then(|declared| declared.get(name)) {
            Some(schema) => has_value(schema),
            None => {
                let mut matching = patterns.into_iter().flatten();
                match matching.find(|(regex, _)| super::automaton::matches(regex, name)) {
                    Some((_, schema)) => has_value(schema),
                    None => others.is_none_or(has_value),
                }
            }
        }
    });
    let least = fields.get("minProperties").and_then(Value::as_u64).unwrap_or(0) as usize;
    let has_another = || {
        let is_other = |(name, _): &(&String, &Value)| !names.contains(&Value::from(name.as_str()));
        declared.into_iter().flatten().filter(is_other).any(|(_, schema)| has_value(schema))
            || patterns.into_iter().flatten().any(|(_, schema)| has_value(schema))
            || others.is_none_or(has_value)
    };
    all_there && (least <= names.len() || has_another())
}

fn array_completes(fields: &Map<String, Value>, known: &[bool]) -> bool {
    let least = fields.get("minItems").and_then(Value::as_u64).unwrap_or(0) as usize;
    let first = fields.get("prefixItems").and_then(Value::as_array);
    let first = first.map(Vec::as_slice).unwrap_or_default();
    let has_value = |schema: &Value| completes(schema, known, Types::ALL);
    first.iter().take(least).all(has_value)
        && (least <= first.len() || fields.get("items").is_none_or(has_value))
}

fn prune_one(schema: &mut Value, known: &[bool]) {
    if !completes(schema, known, Types::ALL) {
        *schema = Value::Bool(false);
        return;
    }
    let Value::Object(fields) = schema else { return };
    for (name, part) in fields {
        match (name.as_str(), part) {
            ("properties" | "patternProperties", Value::Object(parts)) => {
                parts.values_mut().for_each(|part| prune_one(part, known));
            }
            ("anyOf" | "allOf" | "prefixItems", Value::Array(parts)) => {
                parts.iter_mut().for_each(|part| prune_one(part, known));
            }
            ("items" | "additionalProperties", part) => prune_one(part, known),
            _ => {}
        }
    }
}

/// The direct parts of a schema that [`prepare`](super::prepare) made.
pub(in crate::text::grammar) fn children(schema: &Value) -> Vec<&Value> {
    let Value::Object(fields) = schema else { return Vec::new() };
    let parts = fields.iter().map(|(name, part)| match (name.as_str(), part) {
        ("properties" | "patternProperties" | "$defs", Value::Object(parts)) => {
            parts.values().collect()
        }
        ("anyOf" | "allOf" | "prefixItems", Value::Array(parts)) => parts.iter().collect(),
        ("items" | "additionalProperties", part) => vec![part],
        _ => Vec::new(),
    });
    parts.flatten().filter(|part| part.is_object()).collect()
}
