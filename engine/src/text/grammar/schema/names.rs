//! Property names: those that `propertyNames` allows, and those that patterns match.

use serde_json::{Map, Value, json};

use super::automaton::{Combined, all_texts, combine, matches, overlap};
use super::formats;
use super::objects::Properties;
use super::pass::{Pass, Place, wrong};
use super::rewrite::is_true;
use super::types::Types;
use crate::text::grammar::error::GrammarError;

/// A pattern that matches at most this many undeclared names is written as properties.
const FEW_NAMES: usize = 6;

/// The restrictions of `propertyNames`.
#[derive(Default)]
struct Names {
    /// One of these names.
    listed: Option<Vec<String>>,
    /// A name that all of these match.
    regexes: Vec<String>,
}

impl Pass<'_> {
    /// Applies `propertyNames` to the properties. Returns whether any property is possible.
    pub(super) fn names(
        &mut self,
        fields: &Map<String, Value>,
        properties: &mut Properties,
        place: &Place<'_>,
    ) -> Result<bool, GrammarError> {
        let Some(schema) = fields.get("propertyNames") else { return Ok(true) };
        let place = place.field("propertyNames");
        let mut names = Names::default();
        match self.read_names(schema, &mut names, &place, 0)? {
            Some(true) => {}
            Some(false) => return Ok(false),
            None => return Ok(true),
        }
        let Names { listed, regexes } = names;
        let fits = |name: &str| {
            listed.as_ref().is_none_or(|listed| listed.iter().any(|known| known == name))
                && regexes.iter().all(|regex| matches(regex, name))
        };
        for (name, schema) in &mut properties.declared {
            if !fits(name) {
                *schema = Value::Bool(false);
            }
        }
        if let Some(listed) = &listed {
            for name in listed.iter().filter(|name| fits(name)) {
                if !properties.declared.contains_key(name) {
                    let schema = properties.undeclared(name);
                    properties.declared.insert(name.clone(), schema);
                }
            }
            properties.patterns.clear();
            properties.others = Value::Bool(false);
        } else if !regexes.is_empty() {
            self.hold_names(&regexes, properties, &place)?;
        }
        Ok(true)
    }

    /// Reads a schema of names. `None`: it is ignored; `false`: no name matches.
    fn read_names(
        &mut self,
        schema: &Value,
        names: &mut Names,
        place: &Place<'_>,
        depth: usize,
    ) -> Result<Option<bool>, GrammarError> {
        const MOST_REFERENCES: usize = 8;
        if is_true(schema) {
            return Ok(Some(true));
        }
        let Value::Object(fields) = schema else {
            return match schema {
                Value::Bool(is_any) => Ok(Some(*is_any)),
                _ => Err(wrong(place, "a schema is an object or a boolean")),
            };
        };
        if !self.types(fields, place)?.has(Types::STRING) {
            return Ok(Some(false));
        }
        for (name, value) in fields {
            match name.as_str() {
                "type" | "minLength" | "maxLength" | "pattern" => {}
                "enum" | "const" => {
                    let one = vec![value.clone()];
                    let all = if name == "const" { Some(&one) } else { value.as_array() };
                    let texts = all.into_iter().flatten().filter_map(Value::as_str);
                    let texts = texts.map(str::to_owned).filter(|text| {
                        names.listed.as_ref().is_none_or(|listed| listed.contains(text))
                    });
                    names.listed = Some(texts.collect());
                }
                "format" => {
                    let regex = value.as_str().and_then(|name| formats::regex(name, true));
                    // Next to a pattern, the format is handled as part of the pattern.
                    if !fields.contains_key("pattern") {
                        names.regexes.extend(regex.map(|regex| format!("^(?:{regex})$")));
                    }
                }
                "$ref" if depth < MOST_REFERENCES => {
                    let target = value.as_str().and_then(|name| self.document.get(name));
                    let target = target.ok_or_else(|| wrong(place, "it leads to nothing"))?;
                    match self.read_names(target, names, place, depth + 1)? {
                        Some(true) => {}
                        other => return Ok(other),
                    }
                }
                "allOf" if depth < MOST_REFERENCES => {
                    for schema in value.as_array().into_iter().flatten() {
                        match self.read_names(schema, names, place, depth + 1)? {
                            Some(true) => {}
                            other => return Ok(other),
                        }
                    }
                }
                name if is_true(&json!({name: value})) => {}
                _ => {
                    let why = "of names it is enum, const, pattern, format and lengths";
                    self.cannot(place, name, why)?;
                    return Ok(None);
                }
            }
        }
        names.regexes.extend(self.pattern(fields, place)?);
        let least = self.count(fields, "minLength", place)?.unwrap_or(0);
        let most = self.count(fields, "maxLength", place)?;
        if least > 0 || most.is_some() {
            let most = most.map_or(String::new(), |most| most.to_string());
            names.regexes.push(format!("^(?s:.{{{least},{most}}})$"));
        }
        Ok(Some(true))
    }

    /// Requires all names to match these expressions.
    fn hold_names(
        &mut self,
        regexes: &[String],
        properties: &mut Properties,
        place: &Place<'_>,
    ) -> Result<(), GrammarError> {
        let mut held = Vec::new();
        let all: Vec<String> =
            properties.patterns.iter().map(|(pattern, _)| pattern.clone()).collect();
        for (pattern, schema) in std::mem::take(&mut properties.patterns) {
            let must: Vec<String> = [pattern].into_iter().chain(regexes.iter().cloned()).collect();
            held.extend(self.combined(&must, &[], schema, place)?);
        }
        let others = std::mem::replace(&mut properties.others, Value::Bool(false));
        if others != Value::Bool(false) {
            held.extend(self.combined(regexes, &all, others, place)?);
        }
        properties.patterns = held;
        Ok(())
    }

    /// The expression for a pattern of names. `None`: the pattern is ignored.
    pub(super) fn name_regex(
        &mut self,
        pattern: &str,
        place: &Place<'_>,
    ) -> Result<Option<String>, GrammarError> {
        let regexes = self.regexes(pattern, place)?;
        if regexes.is_empty() {
            return Ok(None);
        }
        let held = self.combined(&regexes, &[], Value::Bool(true), place)?;
        Ok(held.map(|(regex, _)| regex))
    }

    fn combined(
        &mut self,
        must: &[String],
        never: &[String],
        schema: Value,
        place: &Place<'_>,
    ) -> Result<Option<(String, Value)>, GrammarError> {
        if let ([regex], []) = (must, never) {
            return Ok(Some((regex.clone(), schema)));
        }
        match combine(must, never) {
            Ok(Combined::Text(regex)) => Ok(Some((regex, schema))),
            Ok(Combined::Nothing) => Ok(None),
            Ok(Combined::TooComplex) => {
                let why = "the patterns of names are too complex to hold together";
                self.cannot(place, "pattern", why)?;
                Ok(None)
            }
            Err(error) => Err(wrong(place, error)),
        }
    }

    /// Replaces patterns that match few names by properties with these names, and makes patterns
    /// with common names disjoint. llguidance supports only disjoint patterns, and does not notice
    /// when a pattern matches no undeclared name.
    pub(super) fn tell_patterns_apart(
        &mut self,
        properties: &mut Properties,
        place: &Place<'_>,
    ) -> Result<(), GrammarError> {
        let place = place.field("patternProperties");
        let mut left: Vec<(String, Value)> = Vec::new();
        for (regex, schema) in std::mem::take(&mut properties.patterns) {
            let most = FEW_NAMES + properties.declared.len();
            let is_new = |name: &&String| !properties.declared.contains_key(*name);
            let names = all_texts(&regex, most)
                .filter(|names| names.iter().filter(is_new).count() <= FEW_NAMES);
            let Some(names) = names else {
                self.add_pattern(&mut left, regex, schema, &place)?;
                continue;
            };
            for name in names {
                let held = properties.declared.entry(name).or_insert(Value::Bool(true));
                *held = both(held.take(), schema.clone());
            }
        }
        properties.patterns = left;
        Ok(())
    }

    /// Adds a pattern to the disjoint patterns.
    fn add_pattern(
        &mut self,
        all: &mut Vec<(String, Value)>,
        regex: String,
        schema: Value,
        place: &Place<'_>,
    ) -> Result<(), GrammarError> {
        const MOST_PATTERNS: usize = 16;
        let mut rest = regex;
        let mut shared = Vec::new();
        for (n, (known, held)) in all.iter_mut().enumerate() {
            match overlap(known, &rest) {
                Some(false) => continue,
                Some(true) if *held == schema => {
                    *known = format!("(?:{known})|(?:{rest})");
                    return Ok(());
                }
                _ => {}
            }
            let (known, held) = (known.clone(), held.clone());
            let one = [known.clone()];
            let other = [rest.clone()];
            let both_match = [known.clone(), rest.clone()];
            let split = [
                self.combined(&one, &other, held.clone(), place)?,
                self.combined(&both_match, &[], both(held, schema.clone()), place)?,
            ];
            shared.push((n, split));
            match self.combined(&other, &one, schema.clone(), place)? {
                Some((regex, _)) => rest = regex,
                None => {
                    rest.clear();
                    break;
                }
            }
        }
        for (n, split) in shared.into_iter().rev() {
            all.splice(n..=n, split.into_iter().flatten());
        }
        if !rest.is_empty() {
            all.push((rest, schema));
        }
        if all.len() > MOST_PATTERNS {
            let why = "too many patterns share names";
            self.cannot(place, "patternProperties", why)?;
            all.truncate(MOST_PATTERNS);
        }
        Ok(())
    }
}

/// A schema that requires both.
fn both(one: Value, other: Value) -> Value {
    match (one, other) {
        (Value::Bool(true), schema) | (schema, Value::Bool(true)) => schema,
        (one, other) if one == Value::Bool(false) || other == Value::Bool(false) => {
            Value::Bool(false)
        }
        (one, other) => json!({"allOf": [one, other]}),
    }
}
