//! Sets of JSON types.

use serde_json::{Map, Value};

use super::pass::{Pass, Place, wrong};
use crate::text::grammar::error::GrammarError;

/// A set of types. Integers and other numbers are separate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Types(u8);

const NAMES: [(&str, u8); 7] = [
    ("null", 1),
    ("boolean", 2),
    ("integer", 4),
    ("number", 12),
    ("string", 16),
    ("array", 32),
    ("object", 64),
];

impl Types {
    pub(super) const ALL: Self = Self(127);
    pub(super) const NONE: Self = Self(0);
    pub(super) const INTEGER: Self = Self(4);
    pub(super) const NUMBER: Self = Self(12);
    pub(super) const STRING: Self = Self(16);
    pub(super) const ARRAY: Self = Self(32);
    pub(super) const OBJECT: Self = Self(64);

    fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, bits)| Self(*bits))
    }

    /// Reads the value of `type`. Returns `None` for names that are not types.
    pub(super) fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(name) => Self::named(name),
            Value::Array(names) if !names.is_empty() => names
                .iter()
                .try_fold(Self::NONE, |all, name| Some(all.or(Self::named(name.as_str()?)?))),
            _ => None,
        }
    }

    /// The type of one value.
    pub(super) fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self(1),
            Value::Bool(_) => Self(2),
            Value::Number(number) => {
                if number.as_f64().is_some_and(|n| n.fract() == 0.0) {
                    Self::INTEGER
                } else {
                    Self(8)
                }
            }
            Value::String(_) => Self::STRING,
            Value::Array(_) => Self::ARRAY,
            Value::Object(_) => Self::OBJECT,
        }
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(super) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(super) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Returns the value of `type`; `None` for all types.
    pub(super) fn write(self) -> Option<Value> {
        if self == Self::ALL {
            return None;
        }
        let is_number = self.0 & 12 == 12;
        let names = NAMES.iter().filter(|(name, bits)| match *name {
            "integer" => self.0 & 12 == 4,
            "number" => is_number,
            _ => self.0 & bits != 0,
        });
        let mut names: Vec<Value> = names.map(|(name, _)| Value::from(*name)).collect();
        if names.len() == 1 { names.pop() } else { Some(Value::Array(names)) }
    }
}

impl Pass<'_> {
    /// The types that `type` and `not` allow.
    pub(super) fn types(
        &self,
        fields: &Map<String, Value>,
        place: &Place<'_>,
    ) -> Result<Types, GrammarError> {
        let mut types = match fields.get("type") {
            None => Types::ALL,
            Some(value) => Types::read(value).ok_or_else(|| {
                let place = place.field("type");
                wrong(
                    &place,
                    format!("{value} is not the name of a type, nor a list of such names"),
                )
            })?,
        };
        if let Some(not) = fields.get("not").and_then(only_type) {
            let left = types.without(not);
            // The set of all numbers except integers cannot be expressed.
            if left.has(Types::NUMBER) && !left.has(Types::INTEGER) {
                self.cannot(place, "not", "numbers that are no integers cannot be told")?
            } else {
                types = left
            }
        }
        Ok(types)
    }
}

/// The types of a schema without any other keyword.
pub(super) fn only_type(schema: &Value) -> Option<Types> {
    let fields = schema.as_object()?;
    let restricts = |name: &str| {
        super::keywords::row(name).is_some_and(|row| row.treatment != super::Treatment::Note)
    };
    if fields.keys().all(|name| name == "type" || !restricts(name)) {
        fields.get("type").and_then(Types::read)
    } else {
        None
    }
}
