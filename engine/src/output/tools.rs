//! The functions that a request offers, and what their parameters are.

use serde_json::{Map, Value};

use super::json::whole_value;

/// Schemas within schemas that are looked through for a parameter's kinds.
const MAX_SCHEMA_DEPTH: usize = 16;

/// Names and parameters of the functions that may be called.
#[derive(Debug, Default)]
pub(super) struct Tools {
    functions: Map<String, Value>,
}

impl Tools {
    /// From `{"type": "function", "function": {"name": .., "parameters": ..}}`.
    pub(super) fn new(tools: &[Value]) -> Self {
        let functions = tools.iter().filter_map(|tool| {
            let function = tool.get("function")?;
            let parameters = function.get("parameters").cloned().unwrap_or_default();
            Some((function.get("name")?.as_str()?.to_owned(), parameters))
        });
        Self { functions: functions.collect() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// Whether a function of this name may be called.
    pub(super) fn offers(&self, name: &str) -> bool {
        self.functions.contains_key(name)
    }

    /// What a function's parameter may be by its schema. Text, where that does not say.
    pub(super) fn kinds(&self, function: &str, key: &str) -> Kinds {
        let mut kinds = Kinds::default();
        if let Some(parameters) = self.functions.get(function) {
            let schema = parameters.get("properties").and_then(|properties| properties.get(key));
            collect(schema.unwrap_or(&Value::Null), parameters, 0, &mut kinds);
        }
        kinds
    }
}

/// Kinds of JSON values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Kinds(u8);

impl Kinds {
    const STRING: u8 = 1;
    const NUMBER: u8 = 1 << 1;
    const BOOLEAN: u8 = 1 << 2;
    const NULL: u8 = 1 << 3;
    const OBJECT: u8 = 1 << 4;
    const ARRAY: u8 = 1 << 5;
    /// A string is written as in JSON, too.
    const QUOTED: u8 = 1 << 6;

    /// Those of a value that is marked as text.
    pub(super) const TEXT: Self = Self(Self::STRING);
    /// Those of a value that is marked as JSON.
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

    /// The kind of a JSON text.
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

    /// Whether a value is text and nothing else.
    pub(super) fn is_text(self) -> bool {
        self.0 & !Self::STRING == 0
    }

    /// The JSON value that a text stands for: what it says, where that is of these kinds, else the
    /// text itself as a string.
    pub(super) fn value(self, text: &str) -> String {
        let word = match text.trim() {
            word if word.eq_ignore_ascii_case("true") => "true",
            word if word.eq_ignore_ascii_case("false") => "false",
            word => word,
        };
        let allows = |json: &String| self.0 & Self::of_json(json) != 0;
        let is_quoted = self.0 & Self::QUOTED != 0;
        let said =
            whole_value(word).filter(|json| (is_quoted || !json.starts_with('"')) && allows(json));
        let inner = || {
            // In quotes where no string may be.
            let inner: String = serde_json::from_str(word).ok().filter(|_| self.0 & 1 == 0)?;
            whole_value(inner.trim()).filter(allows)
        };
        said.or_else(inner).unwrap_or_else(|| Value::from(text).to_string())
    }
}

/// Adds what `schema` allows. `root` is what its references point into.
fn collect(schema: &Value, root: &Value, depth: usize, kinds: &mut Kinds) {
    if depth == MAX_SCHEMA_DEPTH {
        return;
    }
    let mut add = |more: u8| kinds.0 |= more;
    match schema.get("type") {
        Some(Value::String(name)) => add(Kinds::of_type(name)),
        Some(Value::Array(names)) => {
            names.iter().filter_map(Value::as_str).for_each(|name| add(Kinds::of_type(name)));
        }
        _ => {
            schema.get("const").into_iter().for_each(|value| add(Kinds::of_value(value)));
            let listed = schema.get("enum").and_then(Value::as_array);
            listed.into_iter().flatten().for_each(|value| add(Kinds::of_value(value)));
            add(if schema.get("properties").is_some() { Kinds::OBJECT } else { 0 });
            add(if schema.get("items").is_some() { Kinds::ARRAY } else { 0 });
        }
    }
    if let Some(pointer) = schema.get("$ref").and_then(Value::as_str)
        && let Some(target) = pointer.strip_prefix('#').and_then(|pointer| root.pointer(pointer))
    {
        collect(target, root, depth + 1, kinds);
    }
    for name in ["anyOf", "oneOf", "allOf"] {
        for inner in schema.get(name).and_then(Value::as_array).into_iter().flatten() {
            collect(inner, root, depth + 1, kinds);
        }
    }
}
