//! Reads a model folder's JSON files with the rules of Python's `json`, with which they are
//! written.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::LoadError;

/// Numbers that Python's `json` writes and that are not valid JSON.
const NO_NUMBERS: [&str; 3] = ["NaN", "-Infinity", "Infinity"];

/// Parses a file that must contain an object. For a repeated key the last value counts. NaN and the
/// infinities become strings with their names: this is harmless in a field that is not read, and a
/// field that must be a number rejects them by name.
///
/// # Errors
/// Names the position at which the text is not JSON. The text itself is not quoted.
pub(crate) fn object(path: &Path, text: &str) -> Result<Map<String, Value>, LoadError> {
    let parsed = serde_json::from_str::<Value>(text).or_else(|error| match quoted(text) {
        Some(quoted) => serde_json::from_str(&quoted),
        None => Err(error),
    });
    let invalid = |what: String| LoadError::Invalid { path: path.to_owned(), what };
    match parsed {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(invalid("it does not hold a JSON object".to_owned())),
        Err(_) if text.starts_with('\u{feff}') => {
            Err(invalid("it begins with a byte order mark; save it without one".to_owned()))
        }
        Err(error) => Err(invalid(format!("it is not valid JSON: {error}"))),
    }
}

/// Returns the text with quotes around NaN and the infinities; `None` if it has none outside
/// strings. Line numbers do not change.
fn quoted(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut changed) = (text, false);
    while let Some(at) = rest.find(['"', 'N', 'I', '-']) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let length = match NO_NUMBERS.iter().find(|word| from.starts_with(**word)) {
            Some(word) => {
                out.extend(["\"", word, "\""]);
                rest = &from[word.len()..];
                changed = true;
                continue;
            }
            None if from.starts_with('"') => string_end(from),
            None => 1,
        };
        out.push_str(&from[..length]);
        rest = &from[length..];
    }
    out.push_str(rest);
    changed.then_some(out)
}

/// The length in bytes of the string at the start of `text`, including both quotes.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |at| at + 2)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Result<Map<String, Value>, String> {
        object(Path::new("config.json"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn json_that_python_accepts_is_accepted() {
        let wanted =
            json!({"a": "NaN", "b": [1, "Infinity", "-Infinity"], "c": "NaN \\\"Infinity"});
        let text = r#"{"a": NaN, "b": [1,Infinity,-Infinity], "c": "NaN \\\"Infinity"}"#;
        assert_eq!(Value::Object(read(text).unwrap()), wanted);
        let twice = read(r#"{"a": -1, "a": 2}"#).unwrap();
        assert_eq!(Value::Object(twice), json!({"a": 2}));
        assert_eq!(
            Value::Object(read(r#"{"Infinity": -Infinity}"#).unwrap()),
            json!({"Infinity": "-Infinity"})
        );
    }

    #[test]
    fn json_that_python_rejects_is_rejected_with_its_line() {
        for (text, words) in [
            ("{\"a\": 1,\n}", "line 2"),
            ("{\"a\": NaN,\n \"b\": [1,]}", "line 2"),
            ("\u{feff}{}", "byte order mark"),
            ("[]", "object"),
            ("{\"a\": nan}", "line 1"),
            ("{\"a\": NaNN}", "line 1"),
            ("{\"a\": --Infinity}", "line 1"),
            ("{\"a\": \"NaN", "line 1"),
            ("secret words", "line 1"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
