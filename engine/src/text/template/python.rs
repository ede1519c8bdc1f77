//! Differences between Python's values and minijinja's: printing, the output of `tojson`, and the
//! results of tests. Fuel bounds what a template can build: each value that is written costs one
//! unit.

use std::fmt::Write;

use minijinja::value::{Kwargs, Rest, Serde, Tuple, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State};

use super::clock;
use super::namespace::attributes;
use crate::limits::TEMPLATE_VALUE_LEVELS;

/// Maximum indentation of `tojson`.
const MAX_INDENT: usize = 64;
/// Maximum number of bytes written for one byte of a text.
const ESCAPED: usize = 6;

/// Makes an environment print and test values like Python.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.set_formatter(format);
    environment.add_filter("string", string);
    environment.add_filter("tojson", to_json);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", |value: &Value| {
        value.as_str().is_some() || (!value.is_none() && value.try_iter().is_ok())
    });
    // Jinja has no such function, and it would print all variables.
    environment.remove_global("debug");
    for name in ["tools", "documents"] {
        // Defined, with the value None if a model has none.
        environment.add_global(name, ());
    }
}

fn invalid(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

fn unwritten(_: std::fmt::Error) -> Error {
    ErrorKind::WriteFailure.into()
}

fn format(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => out.write_str(text).map_err(unwritten),
        None if value.is_undefined() => Ok(()),
        None => Printer { out, state }.value(value, 0),
    }
}

/// `str(value)`.
pub(super) fn string(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    if value.as_str().is_some() {
        return Ok(value.clone());
    }
    let mut text = String::new();
    if !value.is_undefined() {
        Printer { out: &mut text, state }.value(value, 0)?;
    }
    Ok(Value::from(text))
}

/// Jinja's `default(value, default_value, boolean)`.
fn default(
    value: &Value,
    other: Option<Value>,
    boolean: Option<bool>,
    args: Kwargs,
) -> Result<Value, Error> {
    let other = match other {
        Some(other) => other,
        None => args.get::<Option<Value>>("default_value")?.unwrap_or_else(|| Value::from("")),
    };
    let boolean = boolean.or(args.get("boolean")?).unwrap_or(false);
    args.assert_all_used()?;
    let is_absent = value.is_undefined() || (boolean && !value.is_true());
    Ok(if is_absent { other } else { value.clone() })
}

/// Whether Python can iterate the value and take its length: true for texts and dicts too.
fn is_sequence(value: &Value) -> bool {
    match value.kind() {
        ValueKind::String | ValueKind::Map | ValueKind::Seq | ValueKind::Undefined => true,
        // The sum of two lists is a list; the result of `map` is not.
        ValueKind::Iterable => {
            let first = value.get_item_by_index(0);
            value.len() == Some(0) || first.is_ok_and(|first| !first.is_undefined())
        }
        _ => false,
    }
}

/// Writes `repr(value)`.
struct Printer<'a, W, S> {
    out: &'a mut W,
    state: S,
}

/// The source of fuel.
trait Tank {
    fn burn(&self, units: usize) -> Result<(), Error>;
}

impl Tank for &State<'_, '_> {
    fn burn(&self, units: usize) -> Result<(), Error> {
        clock::burn(self, units)
    }
}

impl Tank for &mut State<'_, '_> {
    fn burn(&self, units: usize) -> Result<(), Error> {
        clock::burn(self, units)
    }
}

impl<W: Write, S: Tank> Printer<'_, W, S> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.state.burn(1)?;
        if depth > TEMPLATE_VALUE_LEVELS {
            return Err(invalid("a value is nested too deep"));
        }
        match value.kind() {
            ValueKind::Undefined => self.put("Undefined"),
            ValueKind::Number => match float(value) {
                Some(number) => self.put(&float_text(number)),
                None => self.display(value),
            },
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Seq if value.downcast_object_ref::<Tuple>().is_some() => {
                let end = if value.len() == Some(1) { ",)" } else { ")" };
                self.list("(", value, end, depth)
            }
            ValueKind::Seq | ValueKind::Iterable => self.list("[", value, "]", depth),
            ValueKind::Map => {
                let pairs =
                    value.try_iter()?.map(|key| value.get_item(&key).map(|item| (key, item)));
                self.map(pairs, depth)
            }
            _ => match attributes(value) {
                Some(pairs) => {
                    self.put("<Namespace ")?;
                    self.map(pairs.into_iter().map(Ok), depth)?;
                    self.put(">")
                }
                None => self.display(value),
            },
        }
    }

    fn list(&mut self, open: &str, value: &Value, close: &str, depth: usize) -> Result<(), Error> {
        self.put(open)?;
        for (index, item) in value.try_iter()?.enumerate() {
            if index > 0 {
                self.put(", ")?;
            }
            self.value(&item, depth + 1)?;
        }
        self.put(close)
    }

    fn map(
        &mut self,
        pairs: impl Iterator<Item = Result<(Value, Value), Error>>,
        depth: usize,
    ) -> Result<(), Error> {
        self.put("{")?;
        for (index, pair) in pairs.enumerate() {
            let (key, value) = pair?;
            if index > 0 {
                self.put(", ")?;
            }
            self.value(&key, depth + 1)?;
            self.put(": ")?;
            self.value(&value, depth + 1)?;
        }
        self.put("}")
    }

    /// Writes a text in quotes: single ones, unless it contains single but no double quotes.
    fn text(&mut self, text: &str) -> Result<(), Error> {
        self.state.burn(text.len() * ESCAPED / 64)?;
        let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
        let mut quoted = String::with_capacity(text.len() + 2);
        quoted.push(quote);
        for c in text.chars() {
            match c {
                '\\' => quoted.push_str("\\\\"),
                '\n' => quoted.push_str("\\n"),
                '\r' => quoted.push_str("\\r"),
                '\t' => quoted.push_str("\\t"),
                c if c == quote => quoted.extend(['\\', c]),
                c if is_printable(c) => quoted.push(c),
                c => escape(&mut quoted, c),
            }
        }
        quoted.push(quote);
        self.put(&quoted)
    }

    fn put(&mut self, text: &str) -> Result<(), Error> {
        self.out.write_str(text).map_err(unwritten)
    }

    fn display(&mut self, value: &Value) -> Result<(), Error> {
        write!(self.out, "{value}").map_err(unwritten)
    }
}

/// Python and Rust agree on printable characters; Rust shows them only through its escaping.
fn is_printable(c: char) -> bool {
    // After another character, combining marks are not escaped.
    if c.is_ascii() {
        return (' '..='~').contains(&c);
    }
    let mut bytes = [b'x'; 5];
    let length = c.encode_utf8(&mut bytes[1..]).len();
    let text = std::str::from_utf8(&bytes[..=length]).unwrap_or_default();
    text.escape_debug().nth(1) != Some('\\')
}

fn escape(out: &mut String, c: char) {
    let code = u32::from(c);
    let written = match code {
        0..=0xff => write!(out, "\\x{code:02x}"),
        0x100..=0xffff => write!(out, "\\u{code:04x}"),
        _ => write!(out, "\\U{code:08x}"),
    };
    written.expect("writing to memory does not fail");
}

fn float(value: &Value) -> Option<f64> {
    if value.is_integer() { None } else { f64::try_from(value.clone()).ok() }
}

/// `repr` of a float: the shortest digits that identify it, with an exponent from 1e16 and below
/// 1e-4.
fn float_text(number: f64) -> String {
    if !number.is_finite() {
        return number.to_string().to_lowercase();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').expect("it was asked for");
    let exponent: i32 = exponent.parse().expect("a number");
    if (-4..16).contains(&exponent) {
        return format!("{number:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// `tojson` as overridden by transformers: `json.dumps` with four of its arguments. It escapes
/// neither HTML nor, unless requested, characters beyond ASCII.
fn to_json(
    state: &State<'_, '_>,
    value: &Value,
    args: Rest<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let mut positional = args.0.into_iter();
    let mut take = |name: &'static str| -> Result<Option<Value>, Error> {
        let value = match positional.next() {
            Some(value) => Some(value),
            None => named.get::<Option<Value>>(name)?,
        };
        Ok(value.filter(|value| !value.is_none()))
    };
    let ascii = take("ensure_ascii")?.is_some_and(|value| value.is_true());
    let indent = take("indent")?.map(indentation).transpose()?;
    let item = if indent.is_some() { "," } else { ", " };
    let (item, key) = match take("separators")? {
        Some(pair) => {
            (pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string())
        }
        None => (item.to_owned(), ": ".to_owned()),
    };
    let sort = take("sort_keys")?.is_some_and(|value| value.is_true());
    if positional.next().is_some() {
        return Err(ErrorKind::TooManyArguments.into());
    }
    named.assert_all_used()?;
    let out = String::new();
    let mut writer = Json { out, state: Some(state), ascii, indent, item, key, sort };
    writer.value(value, 0)?;
    Ok(Value::from(writer.out))
}

/// A value as `tojson` writes it in templates: on one line, with a space after commas and colons.
pub fn template_json(value: &serde_json::Value) -> String {
    let (item, key) = (", ".to_owned(), ": ".to_owned());
    let out = String::new();
    let mut writer = Json { out, state: None, ascii: false, indent: None, item, key, sort: false };
    match writer.value(&Value::from(Serde(value)), 0) {
        Ok(()) => writer.out,
        // It is nested deeper than any request body that can be parsed.
        Err(_) => value.to_string(),
    }
}

/// The indentation: a number of spaces, or the text itself.
fn indentation(value: Value) -> Result<String, Error> {
    if let Some(text) = value.as_str().filter(|text| text.len() <= MAX_INDENT) {
        return Ok(text.to_owned());
    }
    match i64::try_from(value) {
        Ok(width) if width <= MAX_INDENT as i64 => Ok(" ".repeat(width.max(0) as usize)),
        _ => Err(invalid(format!("tojson: an indentation is at most {MAX_INDENT} wide"))),
    }
}

struct Json<'a, 'e, 't> {
    out: String,
    /// The source of fuel.
    state: Option<&'a State<'e, 't>>,
    ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort: bool,
}

impl Json<'_, '_, '_> {
    fn burn(&self, units: usize) -> Result<(), Error> {
        self.state.map_or(Ok(()), |state| clock::burn(state, units))
    }

    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.burn(1)?;
        if depth > TEMPLATE_VALUE_LEVELS {
            return Err(invalid("tojson: a value is nested too deep"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)),
            ValueKind::String => self.text(value.as_str().unwrap_or_default())?,
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.all(b"[]", items, depth, |json, item| json.value(&item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<(String, Value)> = value
                    .try_iter()?
                    .map(|key| Ok((key_text(&key)?, key)))
                    .collect::<Result<_, Error>>()?;
                if self.sort {
                    keys.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.all(b"{}", keys, depth, |json, (text, key)| {
                    json.text(&text)?;
                    json.burn(json.key.len() / 64)?;
                    json.out.push_str(&json.key.clone());
                    json.value(&value.get_item(&key)?, depth + 1)
                })?;
            }
            kind => return Err(invalid(format!("tojson: {kind} is not JSON"))),
        }
        Ok(())
    }

    fn all<T>(
        &mut self,
        brackets: &[u8; 2],
        items: Vec<T>,
        depth: usize,
        mut write: impl FnMut(&mut Self, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(brackets[0].into());
        let is_empty = items.is_empty();
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                self.burn(self.item.len() / 64)?;
                self.out.push_str(&self.item);
            }
            self.line(depth + 1)?;
            write(self, item)?;
        }
        if !is_empty {
            self.line(depth)?;
        }
        self.out.push(brackets[1].into());
        Ok(())
    }

    fn line(&mut self, depth: usize) -> Result<(), Error> {
        let Some(indent) = &self.indent else { return Ok(()) };
        self.burn(indent.len() * depth / 64)?;
        self.out.push('\n');
        (0..depth).for_each(|_| self.out.push_str(indent));
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), Error> {
        self.burn(text.len() * ESCAPED / 64)?;
        let out = &mut self.out;
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(out, "\\u{unit:04x}").expect("writing to memory does not fail");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
        Ok(())
    }
}

fn number(value: &Value) -> String {
    match float(value) {
        None => value.to_string(),
        Some(number) if number.is_nan() => "NaN".to_owned(),
        Some(f64::INFINITY) => "Infinity".to_owned(),
        Some(f64::NEG_INFINITY) => "-Infinity".to_owned(),
        Some(number) => float_text(number),
    }
}

/// Keys that are not texts are written as texts.
fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.to_string()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(key.is_true().to_string()),
        ValueKind::Number => Ok(number(key)),
        kind => Err(invalid(format!("tojson: {kind} is no key"))),
    }
}
