//! `oneOf`: allowed if no value can match two of its schemas.

use serde_json::{Map, Value, json};

use super::automaton::{matches, overlap};
use super::pass::{PLACE, named};
use super::references::target;
use super::types::Types;
use crate::text::grammar::error::GrammarError;

/// Limit on all comparisons of two schemas. A choice with 500 options takes a quarter of it.
const COMPARISONS: usize = 500_000;
/// Limit on the length of a chain of references.
const REFERENCES: usize = 16;

/// Replaces every `oneOf` by `anyOf`.
///
/// # Errors
/// If `exactly`, when two of its schemas may match the same value.
pub(super) fn decide(
    mut root: Value,
    mut definitions: Vec<Value>,
    exactly: bool,
) -> Result<(Value, Vec<Value>), GrammarError> {
    let before = definitions.clone();
    let mut compare = Compare { definitions: &before, left: COMPARISONS };
    for schema in definitions.iter_mut().chain([&mut root]) {
        compare.decide(schema, exactly)?;
    }
    Ok((root, definitions))
}

type Fields = Map<String, Value>;

struct Compare<'d> {
    definitions: &'d [Value],
    left: usize,
}

impl<'d> Compare<'d> {
    fn decide(&mut self, schema: &mut Value, exactly: bool) -> Result<(), GrammarError> {
        match schema {
            Value::Array(parts) => parts.iter_mut().try_for_each(|part| self.decide(part, exactly)),
            Value::Object(fields) => {
                if let Some(Value::Array(mut options)) = fields.remove("oneOf") {
                    if !exclude_each_other(&mut options) && exactly {
                        let place = fields.get(PLACE).and_then(Value::as_str).unwrap_or_default();
                        self.check(&options, place)?;
                    }
                    fields.insert("anyOf".to_owned(), Value::Array(options));
                }
                let parts = fields.iter_mut().filter(|(name, _)| *name != "enum");
                parts.into_iter().try_for_each(|(_, part)| self.decide(part, exactly))
            }
            _ => Ok(()),
        }
    }

    fn check(&mut self, options: &[Value], place: &str) -> Result<(), GrammarError> {
        for (n, one) in options.iter().enumerate() {
            for (m, other) in options.iter().enumerate().skip(n + 1) {
                if !self.are_apart(one, other) {
                    let place = named(place);
                    let what = format!(
                        "oneOf at {place} cannot be enforced: a value may match both of its schemas {n} \
                         and {m}; tell them apart by a required property with a const, or say anyOf"
                    );
                    return Err(GrammarError::Invalid(what));
                }
            }
        }
        Ok(())
    }

    /// Whether it is certain that no value matches both schemas.
    fn are_apart(&mut self, one: &Value, other: &Value) -> bool {
        if *one == Value::Bool(false) || *other == Value::Bool(false) {
            return true;
        }
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        let (ours, theirs) = (self.all_of(one), self.all_of(other));
        let types = types(&ours).and(types(&theirs));
        types == Types::NONE
            || self.options_are_apart(&ours, other)
            || self.options_are_apart(&theirs, one)
            || has_no_value_in(&ours, &theirs)
            || has_no_value_in(&theirs, &ours)
            || (types == Types::OBJECT && self.objects_are_apart(&ours, &theirs))
            || (types == Types::ARRAY && self.arrays_are_apart(&ours, &theirs))
            || (types == Types::STRING && texts_are_apart(&ours, &theirs))
            || (types.without(Types::NUMBER) == Types::NONE && numbers_are_apart(&ours, &theirs))
    }

    /// All schemas that apply at once: the schema itself, `allOf`, and the target of `$ref`.
    fn all_of<'v>(&self, schema: &'v Value) -> Vec<&'v Fields>
    where
        'd: 'v,
    {
        let mut all: Vec<&'v Fields> = Vec::new();
        let mut open = vec![(schema, 0)];
        while let Some((schema, depth)) = open.pop() {
            let Value::Object(fields) = schema else { continue };
            all.push(fields);
            if depth == REFERENCES {
                continue;
            }
            let parts = fields.get("allOf").and_then(Value::as_array);
            open.extend(parts.into_iter().flatten().map(|part| (part, depth + 1)));
            let definition = fields.get("$ref").and_then(target);
            let definition = definition.and_then(|n| self.definitions.get(n));
            open.extend(definition.map(|schema| (schema, depth + 1)));
        }
        all
    }

    fn options_are_apart(&mut self, all: &[&Fields], other: &Value) -> bool {
        let options = |fields: &&Fields| {
            let options = fields.get("anyOf").or_else(|| fields.get("oneOf"));
            options.and_then(Value::as_array).cloned()
        };
        let all: Vec<Vec<Value>> = all.iter().filter_map(options).collect();
        all.iter().any(|options| options.iter().all(|option| self.are_apart(option, other)))
    }

    fn objects_are_apart(&mut self, ours: &[&Fields], theirs: &[&Fields]) -> bool {
        let required: Vec<&str> = ours.iter().chain(theirs).flat_map(|f| names(f)).collect();
        required.iter().any(|name| {
            let (one, other) = (properties(ours, name), properties(theirs, name));
            let forbids = |all: &[&Value]| all.iter().any(|schema| **schema == Value::Bool(false));
            forbids(&one)
                || forbids(&other)
                || one.iter().any(|one| other.iter().any(|other| self.are_apart(one, other)))
        })
    }

    fn arrays_are_apart(&mut self, ours: &[&Fields], theirs: &[&Fields]) -> bool {
        if ranges_are_apart((ours, theirs), "minItems", "maxItems") {
            return true;
        }
        let least = |all| bound(all, "minItems", f64::max).unwrap_or(0.0);
        let needed = f64::max(least(ours), least(theirs)) as usize;
        let items = |all: &[&Fields], n: usize| -> Vec<Value> {
            let item = |fields: &&Fields| {
                fields
                    .get("prefixItems")
                    .and_then(|items| items.get(n))
                    .or_else(|| fields.get("items"))
                    .cloned()
            };
            all.iter().filter_map(item).collect()
        };
        (0..needed.min(REFERENCES)).any(|n| {
            let (one, other) = (items(ours, n), items(theirs, n));
            one.iter().any(|one| other.iter().any(|other| self.are_apart(one, other)))
        })
    }
}

/// Handles options that only require one property each: each option then forbids the properties of
/// the others.
fn exclude_each_other(options: &mut [Value]) -> bool {
    let says_only = |fields: &Fields| {
        fields.keys().all(|name| ["required", "type", PLACE].contains(&name.as_str()))
            && fields.get("type").is_none_or(|kind| kind == "object")
    };
    let single = |option: &Value| {
        let fields = option.as_object().filter(|fields| says_only(fields))?;
        match fields.get("required")?.as_array()?.as_slice() {
            [Value::String(name)] => Some(name.clone()),
            _ => None,
        }
    };
    let Some(names) = options.iter().map(single).collect::<Option<Vec<String>>>() else {
        return false;
    };
    let are_different = names.iter().enumerate().all(|(n, name)| !names[..n].contains(name));
    if are_different {
        for (option, name) in options.iter_mut().zip(&names) {
            let others = names.iter().filter(|other| *other != name);
            let absent: Fields = others.map(|other| (other.clone(), Value::Bool(false))).collect();
            option["properties"] = Value::Object(absent);
            // A value that is not an object would match all of them.
            option["type"] = json!("object");
        }
    }
    are_different
}

fn types(all: &[&Fields]) -> Types {
    let own = |fields: &&Fields| {
        let kind = fields.get("type").and_then(Types::read).unwrap_or(Types::ALL);
        let values = fields.get("enum").and_then(Value::as_array);
        let values = values.map(|values| values.iter().map(Types::of).fold(Types::NONE, Types::or));
        kind.and(values.unwrap_or(Types::ALL))
    };
    all.iter().map(own).fold(Types::ALL, Types::and)
}

fn names(fields: &Fields) -> Vec<&str> {
    let names = fields.get("required").and_then(Value::as_array);
    names.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The schemas that apply to a property.
fn properties<'v>(all: &[&'v Fields], name: &str) -> Vec<&'v Value> {
    let property = |fields: &&'v Fields| {
        let declared = fields.get("properties").and_then(|properties| properties.get(name));
        let others = || {
            if fields.contains_key("patternProperties") {
                None
            } else {
                fields.get("additionalProperties")
            }
        };
        declared.or_else(others)
    };
    all.iter().filter_map(property).collect()
}

/// Whether our schema lists its values and the other one rejects all of them.
fn has_no_value_in(ours: &[&Fields], theirs: &[&Fields]) -> bool {
    let values = ours.iter().find_map(|fields| fields.get("enum").and_then(Value::as_array));
    let refused = |value: &Value| theirs.iter().any(|fields| refuses(fields, value));
    values.is_some_and(|values| values.iter().all(refused))
}

/// Whether it is certain that a value does not match.
fn refuses(fields: &Fields, value: &Value) -> bool {
    let kind = fields.get("type").and_then(Types::read).unwrap_or(Types::ALL);
    let listed = fields.get("enum").and_then(Value::as_array);
    if !kind.has(Types::of(value)) || listed.is_some_and(|listed| !listed.contains(value)) {
        return true;
    }
    let all = [fields];
    let is_outside = |n: f64, low: &str, high: &str| {
        bound(&all, low, f64::max).is_some_and(|low| n < low)
            || bound(&all, high, f64::min).is_some_and(|high| n > high)
    };
    match value {
        Value::Number(n) => is_outside(n.as_f64().unwrap_or(0.0), "minimum", "maximum"),
        Value::String(text) => {
            let pattern = fields.get("pattern").and_then(Value::as_str);
            is_outside(text.chars().count() as f64, "minLength", "maxLength")
                || pattern.is_some_and(|pattern| !matches(pattern, text))
        }
        Value::Array(items) => is_outside(items.len() as f64, "minItems", "maxItems"),
        Value::Object(values) => {
            names(fields).iter().any(|name| !values.contains_key(*name))
                || values.iter().any(|(name, value)| {
                    properties(&all, name).iter().any(|schema| match schema {
                        Value::Object(fields) => refuses(fields, value),
                        schema => **schema == Value::Bool(false),
                    })
                })
        }
        _ => false,
    }
}

fn bound(all: &[&Fields], name: &str, nearer: fn(f64, f64) -> f64) -> Option<f64> {
    all.iter().filter_map(|fields| fields.get(name).and_then(Value::as_f64)).reduce(nearer)
}

fn ranges_are_apart((ours, theirs): (&[&Fields], &[&Fields]), low: &str, high: &str) -> bool {
    let above = |one, other| {
        let ends = bound(one, low, f64::max).zip(bound(other, high, f64::min));
        ends.is_some_and(|(low, high)| low > high)
    };
    above(ours, theirs) || above(theirs, ours)
}

fn numbers_are_apart(ours: &[&Fields], theirs: &[&Fields]) -> bool {
    // An exclusive bound may equal the other's bound.
    let touches = |one, other, low: [&str; 2], high: [&str; 2]| {
        let low = bound(one, low[0], f64::max).or(bound(one, low[1], f64::max));
        let high = bound(other, high[0], f64::min).or(bound(other, high[1], f64::min));
        low.zip(high).is_some_and(|(low, high)| low >= high)
    };
    let outside = ["exclusiveMinimum", "exclusiveMaximum"];
    let either = |one, other| {
        touches(one, other, [outside[0], outside[0]], ["maximum", outside[1]])
            || touches(one, other, ["minimum", outside[0]], [outside[1], outside[1]])
    };
    ranges_are_apart((ours, theirs), "minimum", "maximum")
        || either(ours, theirs)
        || either(theirs, ours)
}

fn texts_are_apart(ours: &[&Fields], theirs: &[&Fields]) -> bool {
    let patterns = |all: &[&Fields]| -> Vec<String> {
        let pattern = |fields: &&Fields| fields.get("pattern")?.as_str().map(str::to_owned);
        all.iter().filter_map(pattern).collect()
    };
    let (one, other) = (patterns(ours), patterns(theirs));
    ranges_are_apart((ours, theirs), "minLength", "maxLength")
        || one.iter().any(|one| other.iter().any(|other| overlap(one, other) == Some(false)))
}
