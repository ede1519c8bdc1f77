//! The types of JSON values that a schema allows, and its parameters.

use regex::RegexBuilder;
use serde_json::{Map, Value};

use super::json::{is_beyond_numbers, whole_value};
use crate::limits::{KEY_PATTERN_BYTES, PATTERNS_SEARCHED, SCHEMAS_SEARCHED};

/// Keywords whose schemas apply to the same value.
const LISTS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
/// Keywords with one schema each that may apply to the same value.
const BRANCHES: [&str; 3] = ["if", "then", "else"];
/// Keywords for properties that `properties` and `patternProperties` do not name.
const OTHERS: [&str; 2] = ["additionalProperties", "unevaluatedProperties"];

/// A set of types of JSON values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Kinds(u8);

impl Kinds {
    const STRING: u8 = 1;
    const NUMBER: u8 = 1 << 1;
    const BOOLEAN: u8 = 1 << 2;
    const NULL: u8 = 1 << 3;
    const OBJECT: u8 = 1 << 4;
    const ARRAY: u8 = 1 << 5;
    /// Flag: a string is written in JSON's quotes, too.
    const QUOTED: u8 = 1 << 6;

    /// The types of a value that is marked as text.
    pub(super) const TEXT: Self = Self(Self::STRING);
    /// The types of a value that is marked as JSON.
    pub(super) const JSON: Self = Self(u8::MAX >> 1);

    fn of_type(name: &str) -> u8 {
        match name {
            "string" => Self::STRING,
            "number" | "integer" => Self::NUMBER,
            "boolean" => Self::BOOLEAN,
            "null" => Self::NULL,
            "object" => Self::OBJECT,
            "array" => Self::ARRAY,
            _ => 0,
        }
    }

    fn of_value(value: &Value) -> u8 {
        match value {
            Value::Null => Self::NULL,
            Value::Bool(_) => Self::BOOLEAN,
            Value::Number(_) => Self::NUMBER,
            Value::String(_) => Self::STRING,
            Value::Array(_) => Self::ARRAY,
            Value::Object(_) => Self::OBJECT,
        }
    }

    /// The type of a JSON text.
    fn of_json(json: &str) -> u8 {
        match json.as_bytes().first() {
            Some(b'"') => Self::STRING,
            Some(b'{') => Self::OBJECT,
            Some(b'[') => Self::ARRAY,
            Some(b't' | b'f') => Self::BOOLEAN,
            Some(b'n') => Self::NULL,
            _ => Self::NUMBER,
        }
    }

    /// Whether a value is always text.
    pub(super) fn is_text(self) -> bool {
        self.0 & !Self::STRING == 0
    }

    /// Whether a value can be text.
    pub(super) fn may_be_text(self) -> bool {
        self.0 == 0 || self.0 & Self::STRING != 0
    }

    /// The JSON value of a text: its parsed value if that is one of these types, else the text as a
    /// string.
    pub(super) fn value(self, text: &str) -> String {
        let word = match text.trim() {
            word if word.eq_ignore_ascii_case("true") => "true",
            word if word.eq_ignore_ascii_case("false") => "false",
            word => word,
        };
        if is_beyond_numbers(word) {
            let is_number = self.0 & Self::NUMBER != 0 && !self.may_be_text();
            return if is_number { "null".to_owned() } else { Value::from(text).to_string() };
        }
        let allows = |json: &String| self.0 & Self::of_json(json) != 0;
        let is_quoted = self.0 & Self::QUOTED != 0;
        let said =
            whole_value(word).filter(|json| (is_quoted || !json.starts_with('"')) && allows(json));
        let inner = || {
            // It has quotes, but no string is allowed.
            let inner: String = serde_json::from_str(word).ok().filter(|_| self.0 & 1 == 0)?;
            whole_value(inner.trim()).filter(allows)
        };
        said.or_else(inner).unwrap_or_else(|| Value::from(text).to_string())
    }
}

/// A search through one schema, into which its references point. It is bounded, because schemas may
/// refer to each other in circles.
pub(super) struct Search<'s> {
    root: &'s Value,
    /// Number of schemas that may still be visited.
    left: usize,
}

impl<'s> Search<'s> {
    pub(super) fn new(root: &'s Value) -> Self {
        Self { root, left: SCHEMAS_SEARCHED }
    }

    /// The types that a value of `schema` may have.
    pub(super) fn kinds(&mut self, schema: &'s Value) -> Kinds {
        let mut kinds = Kinds::default();
        self.each(schema, &mut |schema| kinds.0 |= own(schema));
        kinds
    }

    /// The types of a property of the root, and whether the schema names it.
    pub(super) fn property(&mut self, key: &str) -> (Kinds, bool) {
        let (mut named, mut others) = (Vec::new(), Vec::new());
        let mut patterns = PATTERNS_SEARCHED;
        self.each(self.root, &mut |schema| {
            let found = named_by(schema, key, &mut patterns);
            if found.is_empty() {
                others.extend(OTHERS.iter().filter_map(|name| schema.get(name)));
            }
            named.extend(found);
        });
        let is_named = !named.is_empty();
        let schemas = if is_named { named } else { others };
        let all = schemas.into_iter().map(|schema| self.kinds(schema).0);
        (Kinds(all.fold(0, |all, one| all | one)), is_named)
    }

    /// The root's properties in their order, and the names of the required ones.
    pub(super) fn properties(&mut self) -> (Vec<(&'s String, &'s Value)>, Vec<&'s str>) {
        let (mut properties, mut required) = (Vec::new(), Vec::new());
        self.each(self.root, &mut |schema| {
            let fields = schema.get("properties").and_then(Value::as_object);
            for (key, field) in fields.into_iter().flatten() {
                if properties.iter().all(|(known, _)| *known != key) {
                    properties.push((key, field));
                }
            }
        });
        self.certain(self.root, &mut |schema| {
            let names = schema.get("required").and_then(Value::as_array);
            required.extend(names.into_iter().flatten().filter_map(Value::as_str));
        });
        (properties, required)
    }

    /// `schema`, or the target of its reference if it has no other keyword.
    pub(super) fn target(&mut self, mut schema: &'s Value) -> &'s Value {
        while let Some(target) = self.referred(schema)
            && self.spend()
        {
            schema = target;
        }
        schema
    }

    /// Visits `schema` and every schema that applies, or may apply, to the same value.
    fn each(&mut self, schema: &'s Value, visit: &mut impl FnMut(&'s Value)) {
        let mut ahead = vec![schema];
        while let Some(schema) = ahead.pop()
            && self.spend()
        {
            visit(schema);
            let mut next: Vec<&Value> = self.referred(schema).into_iter().collect();
            for name in LISTS {
                next.extend(schema.get(name).and_then(Value::as_array).into_iter().flatten());
            }
            next.extend(BRANCHES.iter().filter_map(|name| schema.get(name)));
            let dependent = schema.get("dependentSchemas").and_then(Value::as_object);
            next.extend(dependent.into_iter().flat_map(Map::values));
            ahead.extend(next.into_iter().rev());
        }
    }

    /// Visits `schema` and every schema that always applies to the same value.
    fn certain(&mut self, schema: &'s Value, visit: &mut impl FnMut(&'s Value)) {
        let mut ahead = vec![schema];
        while let Some(schema) = ahead.pop()
            && self.spend()
        {
            visit(schema);
            let all = schema.get("allOf").and_then(Value::as_array);
            ahead.extend(self.referred(schema));
            ahead.extend(all.into_iter().flatten());
        }
    }

    fn referred(&self, schema: &Value) -> Option<&'s Value> {
        let pointer = schema.get("$ref")?.as_str()?.strip_prefix('#')?;
        self.root.pointer(pointer)
    }

    fn spend(&mut self) -> bool {
        let any = self.left > 0;
        self.left = self.left.saturating_sub(1);
        any
    }
}

/// The types that a schema itself allows.
fn own(schema: &Value) -> u8 {
    let names = |names: &Vec<Value>| {
        names.iter().filter_map(Value::as_str).fold(0, |all, name| all | Kinds::of_type(name))
    };
    match schema.get("type") {
        Some(Value::String(name)) => Kinds::of_type(name),
        Some(Value::Array(list)) => names(list),
        _ => {
            let listed = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
            let values = schema.get("const").into_iter().chain(listed);
            let kinds = values.fold(0, |all, value| all | Kinds::of_value(value));
            let has = |name: &str, kind: u8| if schema.get(name).is_some() { kind } else { 0 };
            kinds | has("properties", Kinds::OBJECT) | has("items", Kinds::ARRAY)
        }
    }
}

/// The schemas that `properties` and `patternProperties` of one schema have for a key. `patterns`
/// counts the patterns that may still be tried.
fn named_by<'s>(schema: &'s Value, key: &str, patterns: &mut usize) -> Vec<&'s Value> {
    let declared = schema.get("properties").and_then(|properties| properties.get(key));
    let mut found: Vec<&Value> = declared.into_iter().collect();
    let all = schema.get("patternProperties").and_then(Value::as_object);
    for (pattern, schema) in all.into_iter().flatten().take(*patterns) {
        *patterns -= 1;
        // A pattern that is invalid here, for example with a look-ahead, names no property.
        let pattern = RegexBuilder::new(pattern).size_limit(KEY_PATTERN_BYTES).build();
        found.extend(pattern.is_ok_and(|pattern| pattern.is_match(key)).then_some(schema));
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value(schema: &Value, key: &str, text: &str) -> String {
        Search::new(schema).property(key).0.value(text)
    }

    #[test]
    fn kinds_are_found_wherever_a_schema_says_them() {
        let numbers = json!({"n": {"type": "integer"}, "on": {"type": "boolean"}});
        let plain = json!({"type": "object", "properties": numbers});
        for schema in [
            plain.clone(),
            json!({"$defs": {"A": plain}, "$ref": "#/$defs/A"}),
            json!({"definitions": {"a/b": plain}, "$ref": "#/definitions/a~1b"}),
            json!({"$defs": {"A": {"$ref": "#/$defs/B"}, "B": plain}, "allOf": [{"$ref": "#/$defs/A"}]}),
            json!({"anyOf": [{"properties": {"n": {"type": "integer"}}}, {"oneOf": [plain]}]}),
            json!({"if": {"properties": {}}, "then": plain, "else": false}),
            json!({"patternProperties": {"^n$": {"type": "number"}, "^o": {"enum": [true, false]}}}),
            json!({"additionalProperties": {"anyOf": [{"type": "integer"}, {"const": true}]}}),
            json!({"properties": {"n": {"$ref": "#/$defs/N"}, "on": {"allOf": [{"type": "boolean"}]}},
                   "$defs": {"N": {"type": ["integer", "null"]}}}),
            // Schemas of named properties have priority over those for all others.
            json!({"properties": numbers, "additionalProperties": {"type": "string"}}),
        ] {
            assert_eq!(value(&schema, "n", "40"), "40", "{schema}");
            assert_eq!(value(&schema, "on", "true"), "true", "{schema}");
        }
        for schema in [
            json!({"properties": {"n": {"type": "string"}}}),
            json!({"properties": {"n": {}}}),
            json!({"additionalProperties": {"type": "string"}}),
            json!({"additionalProperties": true}),
            json!({"patternProperties": {"^m": {"type": "integer"}, "(?=n)": {"type": "integer"}}}),
            json!({"$ref": "#/nowhere"}),
            json!({"$ref": "https://example.com/schema"}),
            json!(true),
        ] {
            assert_eq!(value(&schema, "n", "40"), "\"40\"", "{schema}");
        }
    }

    #[test]
    fn a_schema_at_its_search_limit() {
        let chain = |length: usize| {
            let link = |n: usize| json!({"$ref": format!("#/$defs/{}", n + 1)});
            let mut defs: Map<String, Value> =
                (0..length - 1).map(|n| (n.to_string(), link(n))).collect();
            defs.insert((length - 1).to_string(), json!({"type": "integer"}));
            json!({"properties": {"n": {"$ref": "#/$defs/0"}}, "$defs": defs})
        };
        // The root and the property itself are two of the schemas.
        assert_eq!(value(&chain(SCHEMAS_SEARCHED - 2), "n", "40"), "40");
        assert_eq!(value(&chain(SCHEMAS_SEARCHED - 1), "n", "40"), "\"40\"");
    }

    #[test]
    fn patterns_at_their_search_limit() {
        let schema = |before: usize| {
            let mut patterns: Map<String, Value> =
                (0..before).map(|n| (format!("^m{n}"), json!({"type": "null"}))).collect();
            patterns.insert("^n".to_owned(), json!({"type": "integer"}));
            json!({"patternProperties": patterns})
        };
        assert_eq!(value(&schema(PATTERNS_SEARCHED - 1), "n", "40"), "40");
        assert_eq!(value(&schema(PATTERNS_SEARCHED), "n", "40"), "\"40\"");
    }

    #[test]
    fn a_pattern_at_its_size_limit() {
        let schema = |pattern: &str| json!({"patternProperties": {pattern: {"type": "integer"}}});
        let compiles = |length: usize| {
            let pattern = format!("^n{}", "o?".repeat(length));
            let built = RegexBuilder::new(&pattern).size_limit(KEY_PATTERN_BYTES).build().is_ok();
            assert_eq!(value(&schema(&pattern), "n", "40") == "40", built);
            built
        };
        // The longest pattern of this form that is within the limit, and one more.
        let longest = (0..20_000).collect::<Vec<_>>().partition_point(|length| compiles(*length));
        assert!(longest > 100 && compiles(longest - 1) && !compiles(longest), "{longest}");
    }

    #[test]
    fn circles_end() {
        let branches: Vec<Value> = (0..10).map(|_| json!({"$ref": "#/$defs/A"})).collect();
        let schema = json!({"$defs": {"A": {"anyOf": branches}}, "$ref": "#/$defs/A",
                            "properties": {"n": {"$ref": "#/$defs/A"}}});
        assert_eq!(value(&schema, "n", "40"), "\"40\"");
        let itself = json!({"$ref": "#"});
        assert_eq!(Search::new(&itself).target(&itself), &itself);
    }
}
