//! Keywords of objects.

use serde_json::{Map, Value, json};

use super::keywords::row;
use super::pass::{Pass, Place, wrong};
use super::rewrite::{Parts, is_true};
use super::types::Types;
use crate::text::grammar::error::GrammarError;

/// The properties of an object, each with its schema.
pub(super) struct Properties {
    pub(super) declared: Map<String, Value>,
    /// Regular expressions of names. They apply to declared names as well.
    pub(super) patterns: Vec<(String, Value)>,
    /// The schema of all other properties.
    pub(super) others: Value,
    pub(super) required: Vec<String>,
}

/// The names that a schema evaluates.
#[derive(Default)]
struct Evaluated {
    names: Vec<String>,
    /// Patterns of names, as written in the schema.
    patterns: Vec<String>,
    has_all: bool,
}

impl Properties {
    /// Whether undeclared names are possible.
    pub(super) fn is_open(&self) -> bool {
        let all = self.patterns.iter().map(|(_, schema)| schema).chain([&self.others]);
        all.into_iter().any(|schema| *schema != Value::Bool(false))
    }

    /// The schema for an undeclared name, from the patterns and `others`.
    pub(super) fn undeclared(&self, name: &str) -> Value {
        let matching =
            self.patterns.iter().filter(|(regex, _)| super::automaton::matches(regex, name));
        let all: Vec<Value> = matching.map(|(_, schema)| schema.clone()).collect();
        match all.len() {
            0 => self.others.clone(),
            1 => all.into_iter().next().unwrap_or(Value::Bool(true)),
            _ => json!({"allOf": all}),
        }
    }
}

impl Pass<'_> {
    /// Handles all keywords of objects.
    pub(super) fn object(
        &mut self,
        fields: &Map<String, Value>,
        parts: &mut Parts,
        place: &Place<'_>,
    ) -> Result<(), GrammarError> {
        if !parts.types.has(Types::OBJECT) {
            return Ok(());
        }
        let mut properties = Properties {
            declared: self.map(fields, "properties", place)?,
            patterns: self.patterns(fields, place)?,
            others: match fields.get("additionalProperties") {
                Some(others) => self.schema(others, &place.field("additionalProperties"))?,
                None => Value::Bool(true),
            },
            required: required(fields, place)?,
        };
        self.unevaluated(fields, &mut properties, place)?;
        let mut most = self.count(fields, "maxProperties", place)?;
        if !self.names(fields, &mut properties, place)? {
            most = Some(0);
        }
        self.tell_patterns_apart(&mut properties, place)?;
        let least = self.count(fields, "minProperties", place)?.unwrap_or(0);
        self.counts(&properties, (least, most), parts, place)?;
        self.dependencies(fields, parts, place)?;
        let Properties { declared, patterns, others, required } = properties;
        let mut put = |name: &str, value: Value, is_needed: bool| {
            if is_needed {
                parts.own.insert(name.to_owned(), value);
            }
        };
        put("required", required.clone().into(), !required.is_empty());
        let has_declared = !declared.is_empty();
        put("properties", Value::Object(declared), has_declared);
        let has_patterns = !patterns.is_empty();
        put("patternProperties", Value::Object(patterns.into_iter().collect()), has_patterns);
        let is_needed = others != Value::Bool(true);
        put("additionalProperties", others, is_needed);
        Ok(())
    }

    /// Rewrites a map of schemas.
    fn map(
        &mut self,
        fields: &Map<String, Value>,
        name: &str,
        place: &Place<'_>,
    ) -> Result<Map<String, Value>, GrammarError> {
        let Some(value) = fields.get(name) else { return Ok(Map::new()) };
        let place = place.field(name);
        let map =
            value.as_object().ok_or_else(|| wrong(&place, "an object of schemas is needed"))?;
        let step = |(name, schema): (&String, &Value)| {
            Ok((name.clone(), self.schema(schema, &place.field(name))?))
        };
        map.iter().map(step).collect()
    }

    fn patterns(
        &mut self,
        fields: &Map<String, Value>,
        place: &Place<'_>,
    ) -> Result<Vec<(String, Value)>, GrammarError> {
        let schemas = self.map(fields, "patternProperties", place)?;
        let place = place.field("patternProperties");
        let mut all = Vec::new();
        for (pattern, schema) in schemas {
            let place = place.field(&pattern);
            all.extend(self.name_regex(&pattern, &place)?.map(|regex| (regex, schema)));
        }
        Ok(all)
    }

    /// `unevaluatedProperties`, applied to the names that no other keyword evaluates.
    fn unevaluated(
        &mut self,
        fields: &Map<String, Value>,
        properties: &mut Properties,
        place: &Place<'_>,
    ) -> Result<(), GrammarError> {
        let name = "unevaluatedProperties";
        let Some(others) = fields.get(name).filter(|others| !is_true(others)) else {
            return Ok(());
        };
        if fields.contains_key("additionalProperties") {
            return Ok(());
        }
        let mut evaluated = Evaluated::default();
        if !self.evaluated(fields, &mut evaluated, 0) {
            return self.cannot(place, name, row(name).map_or("", |row| row.says));
        }
        if evaluated.has_all {
            return Ok(());
        }
        for name in evaluated.names {
            properties.declared.entry(name).or_insert(Value::Bool(true));
        }
        for pattern in evaluated.patterns {
            let regex = self.name_regex(&pattern, place)?;
            properties.patterns.extend(regex.map(|regex| (regex, Value::Bool(true))));
        }
        properties.others = self.schema(others, &place.field(name))?;
        Ok(())
    }

    /// Collects the names that a schema evaluates. Returns whether they are known completely.
    fn evaluated(&self, fields: &Map<String, Value>, found: &mut Evaluated, depth: usize) -> bool {
        const MOST_LEVELS: usize = 8;
        const UNTOLD: [&str; 6] =
            ["anyOf", "oneOf", "if", "dependentSchemas", "$dynamicRef", "$recursiveRef"];
        if depth > MOST_LEVELS || UNTOLD.iter().any(|name| fields.contains_key(*name)) {
            return false;
        }
        let own = |name: &str| fields.get(name).and_then(Value::as_object);
        found.names.extend(own("properties").into_iter().flat_map(Map::keys).cloned());
        if depth > 0 {
            found
                .patterns
                .extend(own("patternProperties").into_iter().flat_map(Map::keys).cloned());
            let is_open = |name: &str| fields.contains_key(name);
            found.has_all |= is_open("additionalProperties") || is_open("unevaluatedProperties");
        }
        let all_of = fields.get("allOf").and_then(Value::as_array).into_iter().flatten();
        let target = fields
            .get("$ref")
            .map(|reference| reference.as_str().and_then(|reference| self.document.get(reference)));
        let target = target.map(|target| target.unwrap_or(&Value::Null));
        all_of.chain(target).all(|part| match part {
            Value::Object(fields) => self.evaluated(fields, found, depth + 1),
            part => part.is_boolean(),
        })
    }

    /// Handles requirements that depend on the presence of a property.
    fn dependencies(
        &mut self,
        fields: &Map<String, Value>,
        parts: &mut Parts,
        place: &Place<'_>,
    ) -> Result<(), GrammarError> {
        for keyword in ["dependentRequired", "dependentSchemas", "dependencies"] {
            let Some(value) = fields.get(keyword) else { continue };
            let place = place.field(keyword);
            let map = value.as_object().ok_or_else(|| wrong(&place, "an object is needed"))?;
            for (name, needed) in map {
                let place = place.field(name);
                let needed = match needed {
                    Value::Array(_) => json!({"required": needed}),
                    schema => self.schema(schema, &place)?,
                };
                if needed == Value::Bool(true) || needed == json!({"required": []}) {
                    continue;
                }
                let without = json!({"properties": {name: false}});
                let with = json!({"allOf": [{"required": [name]}, needed]});
                parts.also.push(json!({"anyOf": [without, with]}));
            }
        }
        Ok(())
    }
}

fn required(fields: &Map<String, Value>, place: &Place<'_>) -> Result<Vec<String>, GrammarError> {
    let Some(value) = fields.get("required") else { return Ok(Vec::new()) };
    let place = place.field("required");
    let wrong = || wrong(&place, "a list of names is needed");
    let mut names: Vec<String> = Vec::new();
    for name in value.as_array().ok_or_else(wrong)? {
        let name = name.as_str().ok_or_else(wrong)?;
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
