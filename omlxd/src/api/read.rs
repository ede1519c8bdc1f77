//! Reading fields out of a JSON object with the exact path of what is wrong.

use std::fmt;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::json::type_name;
use super::vendor_fields::known_name;
use crate::error::ApiError;

/// Where a value stands: `messages[2].content[0].type`.
#[derive(Clone, Copy)]
pub(super) enum Path<'a> {
    /// The body itself.
    Root,
    /// A field of an object.
    Field(&'a Path<'a>, &'a str),
    /// An element of an array.
    Index(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    /// The path of a field.
    pub(super) fn field(&'a self, name: &'a str) -> Path<'a> {
        Path::Field(self, name)
    }

    /// The path in words that may stand in a log: a name that no server of this kind knows is the
    /// client's own text, and shown as `?`. Elements are not numbered: `tools[3]` and `tools[4]` are one
    /// thing to tell.
    pub(super) fn known(&self) -> String {
        match self {
            Path::Root => String::new(),
            Path::Field(Path::Root, name) => known_name(name).to_owned(),
            Path::Field(parent, name) => format!("{}.{}", parent.known(), known_name(name)),
            Path::Index(parent, _) => format!("{}[]", parent.known()),
        }
    }

    /// The path of an element.
    pub(super) fn index(&'a self, index: usize) -> Path<'a> {
        Path::Index(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// An object being read. A field that is `null` counts as absent.
#[derive(Clone, Copy)]
pub(super) struct Fields<'v, 'p> {
    map: &'v Map<String, Value>,
    path: &'p Path<'p>,
    /// Where not all fields are to be seen: the names of those that are.
    only: Option<&'static [&'static str]>,
}

impl<'v, 'p> Fields<'v, 'p> {
    /// Reads `map`, which stands at `path`.
    pub(super) fn new(map: &'v Map<String, Value>, path: &'p Path<'p>) -> Self {
        Fields { map, path, only: None }
    }

    /// Reads a value that must be an object (E4).
    pub(super) fn of(value: &'v Value, path: &'p Path<'p>) -> Result<Self, ApiError> {
        let map = value.as_object().ok_or_else(|| wrong(path, "an object", value))?;
        Ok(Self::new(map, path))
    }

    /// The same object with these fields only: the others count as absent.
    pub(super) fn only(self, names: &'static [&'static str]) -> Self {
        Fields { only: Some(names), ..self }
    }

    /// Where this object stands.
    pub(super) fn path(&self) -> &'p Path<'p> {
        self.path
    }

    /// All fields that are not null, in the body's order.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'v str, &'v Value)> {
        let entries = self.map.iter().map(|(name, value)| (name.as_str(), value));
        entries.filter(|(_, value)| !value.is_null())
    }

    /// The field unless it is absent or null.
    pub(super) fn get(&self, name: &str) -> Option<&'v Value> {
        let is_seen = self.only.is_none_or(|names| names.contains(&name));
        self.map.get(name).filter(|value| is_seen && !value.is_null())
    }

    /// The field, or E3.
    pub(super) fn required(&self, name: &str) -> Result<&'v Value, ApiError> {
        self.get(name).ok_or_else(|| ApiError::missing(self.path.field(name)))
    }

    /// A string (E4).
    pub(super) fn string(&self, name: &str) -> Result<Option<&'v str>, ApiError> {
        self.typed(name, "a string", Value::as_str)
    }

    /// A string that must be there (E3, E4).
    pub(super) fn required_string(&self, name: &str) -> Result<&'v str, ApiError> {
        self.required(name)?;
        Ok(self.string(name)?.expect("present"))
    }

    /// A boolean (E4).
    pub(super) fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        self.typed(name, "a boolean", Value::as_bool)
    }

    /// An array (E4).
    pub(super) fn array(&self, name: &str) -> Result<Option<&'v Vec<Value>>, ApiError> {
        self.typed(name, "an array", Value::as_array)
    }

    /// An object (E4).
    pub(super) fn object(&self, name: &str) -> Result<Option<&'v Map<String, Value>>, ApiError> {
        self.typed(name, "an object", Value::as_object)
    }

    /// A number in a range (E4, E6).
    pub(super) fn number(
        &self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>, ApiError> {
        let Some(number) = self.typed(name, "a number", Value::as_f64)? else { return Ok(None) };
        if range.contains(&number) {
            return Ok(Some(number));
        }
        Err(out_of_range(&self.path.field(name), number, range.start(), range.end()))
    }

    /// An integer in a range (E4, E6). `5.0` is an integer too, as some clients write it.
    pub(super) fn integer(
        &self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let Some(integer) = self.typed(name, "an integer", as_integer)? else { return Ok(None) };
        match i64::try_from(integer) {
            Ok(integer) if range.contains(&integer) => Ok(Some(integer)),
            _ => Err(out_of_range(&self.path.field(name), integer, range.start(), range.end())),
        }
    }

    /// One of a list of words (E4, E5).
    pub(super) fn choice(
        &self,
        name: &str,
        supported: &[&'static str],
    ) -> Result<Option<&'static str>, ApiError> {
        let Some(word) = self.string(name)? else { return Ok(None) };
        match supported.iter().find(|known| **known == word) {
            Some(known) => Ok(Some(known)),
            None => Err(not_one_of(&self.path.field(name), word, supported)),
        }
    }

    /// Names of fields that are not in `known`, in the body's order.
    pub(super) fn unknown(&self, known: &[&str]) -> impl Iterator<Item = &'v str> {
        self.map.keys().map(String::as_str).filter(|name| !known.contains(name))
    }

    fn typed<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&'v Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(wrong(&self.path.field(name), expected, value)),
        }
    }
}

/// Whether the value of a parameter that is not supported asks for nothing: an empty list, `"auto"` or
/// `"none"`.
pub(super) fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.is_empty(),
        Value::String(word) => word == "auto" || word == "none",
        _ => false,
    }
}

/// E4 for a value at a path.
pub(super) fn wrong(path: &Path<'_>, expected: &str, value: &Value) -> ApiError {
    ApiError::wrong_type(path, expected, type_name(value))
}

/// E5 for a word at a path.
pub(super) fn not_one_of(path: &Path<'_>, word: &str, supported: &[&str]) -> ApiError {
    let shown: String = word.chars().take(64).collect();
    let list = supported.join("', '");
    ApiError::invalid_value(path, format_args!("'{shown}'; supported values are: '{list}'"))
}

/// E6 for a number at a path.
pub(super) fn out_of_range(
    path: &Path<'_>,
    got: impl fmt::Display,
    min: impl fmt::Display,
    max: impl fmt::Display,
) -> ApiError {
    ApiError::invalid_value(path, format_args!("{got} is not between {min} and {max}"))
}

/// An integer of any size that JSON can hold exactly.
fn as_integer(value: &Value) -> Option<i128> {
    if let Some(integer) = value.as_i64() {
        return Some(integer.into());
    }
    if let Some(integer) = value.as_u64() {
        return Some(integer.into());
    }
    let number = value.as_f64()?;
    // Beyond 2^53 a float names no single integer.
    (number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0).then_some(number as i128)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_are_dotted_and_indexed() {
        let messages = Path::Root.field("messages");
        let second = messages.index(2);
        let content = second.field("content");
        assert_eq!(content.index(0).field("type").to_string(), "messages[2].content[0].type");
    }

    #[test]
    fn integers_may_be_written_as_decimals() {
        let value = json!({"n": 5.0, "half": 0.5, "big": 18_446_744_073_709_551_615_u64});
        let path = Path::Root;
        let fields = Fields::of(&value, &path).unwrap();
        assert_eq!(fields.integer("n", 1..=9).unwrap(), Some(5));
        assert_eq!(fields.integer("half", 0..=9).unwrap_err().label(), "invalid_type");
        let error = fields.integer("big", 0..=9).unwrap_err();
        assert!(error.message().contains("18446744073709551615 is not between 0 and 9"));
    }
}
