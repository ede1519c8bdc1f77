//! A request body as JSON, strictly: UTF-8, one value, no duplicate keys, no NaN, bounded depth, and a
//! bounded number of values, each of which takes far more memory than it took bytes.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

use crate::error::ApiError;
use crate::limits::JSON_VALUES;

/// What an object counts beside its members: the smallest takes as much memory as several numbers.
const OBJECT_VALUES: usize = 2;
/// Values between two looks whether the request is still wanted.
const LOOK_EVERY: usize = 4096;
/// Characters of a key that an error repeats.
const SHOWN_KEY_CHARS: usize = 64;

/// A parsed body.
#[derive(Debug)]
pub(crate) struct Parsed {
    /// Its members.
    pub(crate) map: Map<String, Value>,
    /// How many values it holds, itself included; an object counts as three.
    pub(crate) values: usize,
}

/// Parses a body for as long as `is_wanted` says so. `serde_json` refuses NaN, infinities and more than
/// 127 levels of nesting by itself; duplicate keys, which it would let pass, are refused here.
///
/// # Errors
/// E1 with the byte offset, E2 for JSON that is not an object, E23 for too many values, E36 when it is
/// wanted no more.
pub(crate) fn parse(body: &[u8], is_wanted: &dyn Fn() -> bool) -> Result<Parsed, ApiError> {
    let text = std::str::from_utf8(body)
        .map_err(|error| ApiError::not_json(error.valid_up_to(), "invalid UTF-8"))?;
    let text = &*without_lone_surrogates(text);
    let mut reader = serde_json::Deserializer::from_str(text);
    let count = Count { values: Cell::new(0), is_wanted };
    let value = Unique(&count).deserialize(&mut reader);
    match value.and_then(|value| reader.end().map(|()| value)) {
        Ok(Value::Object(map)) => Ok(Parsed { map, values: count.values.get() }),
        Ok(other) => Err(ApiError::not_an_object(type_name(&other))),
        Err(_) if count.values.get() > JSON_VALUES => Err(ApiError::too_many_values(JSON_VALUES)),
        Err(_) if !is_wanted() => Err(ApiError::cancelled()),
        Err(error) => Err(ApiError::not_json(offset(text, &error), reason(&error))),
    }
}

/// Half of a surrogate pair, which clients send that cut a text in the middle of one, made the sign for
/// what is no character, U+FFFD. What is written takes as many bytes as before.
fn without_lone_surrogates(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    // The code unit of an escape `\uXXXX` that begins at a byte, if it is a surrogate.
    let surrogate = |at: usize| {
        let escape = bytes.get(at..at + 6).filter(|escape| escape.starts_with(b"\\u"))?;
        let digits = std::str::from_utf8(&escape[2..]).ok()?;
        let unit = u32::from_str_radix(digits, 16).ok()?;
        (0xd800..=0xdfff).contains(&unit).then_some(unit)
    };
    let is_leading = |unit: u32| unit < 0xdc00;
    let mut mended: Cow<'_, str> = Cow::Borrowed(text);
    let mut at = 0;
    while let Some(found) = bytes[at..].iter().position(|byte| *byte == b'\\') {
        at += found;
        at += match (surrogate(at), surrogate(at + 6)) {
            (None, _) => 2,
            (Some(first), Some(second)) if is_leading(first) && !is_leading(second) => 12,
            (Some(_), _) => {
                mended.to_mut().replace_range(at..at + 6, "\\ufffd");
                6
            }
        };
        if at >= bytes.len() {
            break;
        }
    }
    mended
}

/// Whether a text is JSON to its end. What a model writes may be out of every range.
pub(super) fn is_whole(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(&mended(text)).is_ok()
}

/// JSON that a model or a client wrote with less care than a body is: as Python and others take it.
/// Half of a surrogate pair is U+FFFD, NaN and the infinities are null, a number that no integer or
/// double holds is a string of what was written, and strings may hold control characters.
pub(super) fn as_written(text: &str) -> Option<Value> {
    serde_json::from_str(&mended(text)).ok()
}

/// The text as strict JSON, where it differs from that only in what [`as_written`] takes.
fn mended(text: &str) -> String {
    let text = &*without_lone_surrogates(text);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => string(rest, &mut out),
            '-' | '0'..='9' | 'A'..='Z' | 'a'..='z' => word(rest, &mut out),
            other => {
                out.push(other);
                other.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    out
}

/// Writes the string that a text begins with, its control characters escaped. Returns its bytes.
fn string(text: &str, out: &mut String) -> usize {
    let mut is_escaped = false;
    for (at, char) in text.char_indices() {
        match char {
            '\0'..='\x1f' if !is_escaped => out.push_str(&format!("\\u{:04x}", u32::from(char))),
            _ => out.push(char),
        }
        match char {
            '"' if at > 0 && !is_escaped => return at + 1,
            _ => is_escaped = char == '\\' && !is_escaped,
        }
    }
    text.len()
}

/// Writes the number or the word that a text begins with. Returns its bytes.
fn word(text: &str, out: &mut String) -> usize {
    let is_end = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.'));
    let word = &text[..text.find(is_end).unwrap_or(text.len())];
    // It is written as a number is; whether one holds it is another question.
    let is_number = serde_json::from_str::<&RawValue>(word).is_ok()
        && word.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    let is_integer = !word.contains(['.', 'e', 'E']);
    let is_held = || match serde_json::from_str::<Number>(word) {
        Ok(number) => !(is_integer && number.is_f64() && word != "-0"),
        Err(_) => false,
    };
    match word {
        "NaN" | "Infinity" | "-Infinity" => out.push_str("null"),
        _ if is_number && !is_held() => out.extend(["\"", word, "\""]),
        _ => out.push_str(word),
    }
    word.len()
}

/// Counts the values of a body, and ends it when there are too many or nobody waits for it.
struct Count<'a> {
    values: Cell<usize>,
    is_wanted: &'a dyn Fn() -> bool,
}

impl Count<'_> {
    fn add<E: Error>(&self, more: usize) -> Result<(), E> {
        let before = self.values.get();
        let values = before + more;
        self.values.set(values);
        let is_time = values / LOOK_EVERY > before / LOOK_EVERY;
        let may_go_on = !is_time || (self.is_wanted)();
        if values <= JSON_VALUES && may_go_on { Ok(()) } else { Err(E::custom("ended")) }
    }
}

/// As many values as a text can hold at most if it is JSON; an object counts as three, as in a body.
pub(super) fn most_values(text: &str) -> usize {
    let (mut values, mut in_string, mut is_escaped) = (1, false, false);
    for byte in text.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b',' | b':' | b'[' => values += 1,
            b'{' => values += 3,
            _ => {}
        }
    }
    values
}

/// What a value is, with its article, for messages.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a decimal number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The byte where the parser stood: serde_json tells line and column, both from 1.
fn offset(text: &str, error: &serde_json::Error) -> usize {
    let lines = text.split_inclusive('\n').take(error.line().saturating_sub(1));
    let before: usize = lines.map(str::len).sum();
    (before + error.column().saturating_sub(1)).min(text.len())
}

/// The parser's message without the position that it appends.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// Builds a `Value` and refuses an object that names a key twice.
#[derive(Clone, Copy)]
struct Unique<'a>(&'a Count<'a>);

impl<'de> DeserializeSeed<'de> for Unique<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.0.add(1)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Deserialize::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            array.push(item);
        }
        // A list grows by doubling: of many short ones most would be room for nothing.
        array.shrink_to_fit();
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.0.add(OBJECT_VALUES)?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                let shown: String = key.chars().take(SHOWN_KEY_CHARS).collect();
                return Err(A::Error::custom(format_args!("duplicate key {shown:?}")));
            }
            let value = entries.next_value_seed(self)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
        parse(body, &|| true).map(|parsed| parsed.map)
    }

    #[test]
    fn a_text_has_no_more_values_than_it_is_counted_for() {
        for (text, values) in [
            ("1", 1),
            (r#""a,b:[{\",""#, 1),
            ("[1,2,3]", 4),
            (r#"{"a":[1,{"b":null}]}"#, 11),
            (r#"{"a":"\\","b":1}"#, 7),
        ] {
            assert_eq!(most_values(text), values, "{text}");
            let body = format!(r#"{{"x":{text}}}"#);
            let parsed = parse(body.as_bytes(), &|| true).unwrap();
            assert!(parsed.values - 3 <= values, "{text}: {}", parsed.values);
        }
    }

    #[test]
    fn a_valid_object_keeps_the_order_of_its_keys() {
        let map = object(br#" {"z":1,"a":{"y":[1,2.5,null,true,"x"]},"b":-3} "#).unwrap();
        assert_eq!(map.keys().collect::<Vec<_>>(), ["z", "a", "b"]);
        assert_eq!(map["a"], serde_json::json!({"y": [1, 2.5, null, true, "x"]}));
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_offset() {
        let deep = [b"{\"a\":".as_slice(), &[b'['; 200]].concat();
        let cases: [(&[u8], &str); 9] = [
            (b"", "EOF while parsing a value at byte 0"),
            (b"{\"a\":1,\"a\":2}", "duplicate key \"a\" at byte 9"),
            (b"{\"a\":NaN}", "expected value at byte 5"),
            (b"{\"a\":1e999}", "number out of range at byte 9"),
            (b"{\n\"a\":1} x", "trailing characters at byte 9"),
            (b"{\"a\":\"\xff\"}", "invalid UTF-8 at byte 6"),
            (b"{\"a\":\"\\ud8\"}", "invalid escape"),
            (b"{\"a\":1", "EOF while parsing an object at byte 5"),
            (&deep, "recursion limit exceeded"),
        ];
        for (body, expected) in cases {
            let error = object(body).unwrap_err();
            assert!(error.message().contains(expected), "{expected}: {}", error.message());
            assert_eq!(error.status(), 400);
        }
    }

    #[test]
    fn half_of_a_surrogate_pair_is_no_character() {
        for (written, read) in [
            (r"\ud800", "\u{fffd}"),
            (r"\uDFFF", "\u{fffd}"),
            (r"a\ud83d\n", "a\u{fffd}\n"),
            (r"\ud83d\ud83d\ude00", "\u{fffd}\u{1f600}"),
            (r"\ude00\ud83d", "\u{fffd}\u{fffd}"),
            (r"\ud83d\ude00", "\u{1f600}"),
            (r"\\ud800", "\\ud800"),
            (r"\\\ud800 \u00e9", "\\\u{fffd} \u{e9}"),
        ] {
            let body = format!("{{\"a\":\"{written}\"}}");
            assert_eq!(object(body.as_bytes()).unwrap()["a"], read, "{written}");
            let body = format!("{{\"{written}\":1}}");
            assert_eq!(object(body.as_bytes()).unwrap()[read], 1, "{written}");
        }
        let error = object(b"{\"a\":\"\\ud800\" x}").unwrap_err();
        assert!(error.message().contains("at byte 14"), "{}", error.message());
    }

    #[test]
    fn what_a_model_wrote_is_read_as_others_read_it() {
        let long = "123456789012345678901234567890";
        for (text, read) in [
            (r#"{"a": "\ud83d"}"#, serde_json::json!({"a": "\u{fffd}"})),
            (
                "{\"a\":NaN, \"NaN\": [-Infinity,Infinity]}",
                serde_json::json!({"a": null, "NaN": [null, null]}),
            ),
            ("{\"a\": \"x\n\ty\\\"\u{1}\"}", serde_json::json!({"a": "x\n\ty\"\u{1}"})),
            ("{\"a\": [1e999,-1E+999, 1e3]}", serde_json::json!({"a": ["1e999", "-1E+999", 1e3]})),
            (
                &format!("[{long}, -{long},-0, {}]", u64::MAX),
                serde_json::json!([long, format!("-{long}"), -0.0, u64::MAX]),
            ),
            (
                r#"{"a\\": "NaN 1e999 \" \\", "b": true}"#,
                serde_json::json!({"a\\": "NaN 1e999 \" \\", "b": true}),
            ),
        ] {
            assert!(is_whole(text), "{text}");
            assert_eq!(as_written(text), Some(read), "{text}");
        }
        for text in [
            "",
            "{",
            "{\"a",
            "{\"a\": \"\\",
            "{\"a\": NaNs}",
            "{\"a\": 1e}",
            "{\"a\": 01}",
            "nan",
            "{} {}",
            "\\",
        ] {
            assert!(!is_whole(text), "{text}");
            assert_eq!(as_written(text), None, "{text}");
        }
    }

    #[test]
    fn json_that_is_not_an_object_is_refused() {
        for body in ["[]", "3", "null", "\"x\""] {
            assert_eq!(object(body.as_bytes()).unwrap_err().label(), "invalid_type");
        }
    }

    #[test]
    fn a_body_has_values_up_to_its_limit() {
        let body = |values: usize| format!("{{\"a\":[{}0]}}", "0,".repeat(values - 5));
        assert_eq!(parse(body(JSON_VALUES).as_bytes(), &|| true).unwrap().values, JSON_VALUES);
        for shape in ["0,", "[],", "{},", "\"\",", "null,", "[0],", "{\"\":0},"] {
            let body = format!("{{\"a\":[{}0]}}", shape.repeat(JSON_VALUES));
            let error = object(body.as_bytes()).unwrap_err();
            assert_eq!((error.status().as_u16(), error.label()), (413, "request_too_large"));
        }
        let error = object(body(JSON_VALUES + 1).as_bytes()).unwrap_err();
        assert_eq!(error.status(), 413);
    }

    #[test]
    fn a_body_that_nobody_waits_for_is_read_no_further() {
        let looks = Cell::new(0);
        let wanted = || {
            looks.set(looks.get() + 1);
            looks.get() < 3
        };
        let body = format!("{{\"a\":[{}0]}}", "0,".repeat(JSON_VALUES - 5));
        let error = parse(body.as_bytes(), &wanted).unwrap_err();
        assert_eq!(error.label(), "request_cancelled");
        assert!(looks.get() < 6);
    }
}
