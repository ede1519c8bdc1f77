//! What a client asks the text of an answer to be held to: `response_format`, and vLLM's
//! `structured_outputs` with its older names.

use engine::{GrammarError, Pattern};
use serde_json::Value;

use super::read::{Fields, Path, not_one_of, wrong};
use super::reading::Reading;
use crate::error::ApiError;
use crate::limits::SCHEMA_TEXT_BYTES;

/// Longest name of a schema, in bytes.
const NAME_BYTES: usize = 64;

/// What an answer is held to, and where the client said so.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Constraint {
    /// What the answer must look like.
    pub pattern: Pattern,
    /// The field that holds it.
    param: String,
    /// What to call it.
    subject: String,
}

impl Constraint {
    /// Reads the fields that constrain an answer, of which only one may be there. E3 to E7.
    pub(super) fn read(
        fields: &Fields<'_, '_>,
        reading: &Reading,
    ) -> Result<Option<Self>, ApiError> {
        let path = fields.path().field("response_format");
        let mut found = match fields.get("response_format") {
            Some(format) => output_format(&Fields::of(format, &path)?, Layout::Nested, reading)?,
            None => None,
        };
        let structured = structured_outputs(fields, reading)?;
        for other in std::iter::once(structured).chain(guided(fields)?).flatten() {
            if found.is_some() {
                let what = "an answer can be held to one thing only";
                return Err(ApiError::invalid_value(other.param, what));
            }
            found = Some(other);
        }
        Ok(found)
    }

    /// One that stands at `path`.
    pub(super) fn new(pattern: Pattern, path: &Path<'_>) -> Self {
        let param = path.to_string();
        let subject = match &pattern {
            Pattern::Json { .. } => format!("schema for {param}"),
            Pattern::Regex(_) => format!("regular expression for {param}"),
            Pattern::Choice(_) => format!("choices for {param}"),
            _ => format!("grammar for {param}"),
        };
        Self { pattern, param, subject }
    }

    /// E13: it cannot be compiled.
    pub(super) fn refused(&self, error: &GrammarError) -> ApiError {
        ApiError::invalid_grammar(&self.param, &self.subject, error)
    }
}

/// Where a format keeps its schema.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// `{"type": "json_schema", "json_schema": {"name": ..., "schema": ...}}`, as in chat requests.
    Nested,
    /// `{"type": "json_schema", "name": ..., "schema": ...}`, as in Responses requests.
    Flat,
}

/// What a format holds an answer to; `None` for text. E3 to E7.
pub(super) fn output_format(
    format: &Fields<'_, '_>,
    layout: Layout,
    reading: &Reading,
) -> Result<Option<Constraint>, ApiError> {
    let path = format.path();
    // The field that an error of the schema names.
    let param = match layout {
        Layout::Nested => path.to_string(),
        Layout::Flat => path.field("schema").to_string(),
    };
    match format.required_string("type")? {
        "text" => {
            reading.known(format, &["type"])?;
            Ok(None)
        }
        // A schema here is what llama.cpp and others take.
        "json_object" => {
            reading.known(format, &["type", "schema"])?;
            let pattern = match format.object("schema")? {
                Some(schema) => {
                    let mut schema = schema.clone();
                    // The name of the format says so already.
                    schema.entry("type").or_insert_with(|| "object".into());
                    Pattern::Json { schema: schema.into(), exactly: true }
                }
                None => Pattern::json_object(),
            };
            let subject = format!("schema for {path}");
            Ok(Some(Constraint { pattern, param, subject }))
        }
        "json_schema" if layout == Layout::Flat => {
            reading.known(format, &["type", "name", "description", "schema", "strict"])?;
            for name in ["name", "schema"] {
                format.required(name)?;
            }
            json_schema(format, param).map(Some)
        }
        "json_schema" => {
            reading.known(format, &["type", "json_schema"])?;
            let path = path.field("json_schema");
            let schema = Fields::of(format.required("json_schema")?, &path)?;
            schema.required_string("name")?;
            reading.known(&schema, &["name", "description", "schema", "strict"])?;
            json_schema(&schema, param).map(Some)
        }
        kind => Err(not_one_of(&path.field("type"), kind, &["text", "json_object", "json_schema"])),
    }
}

/// A schema with a name.
fn json_schema(fields: &Fields<'_, '_>, param: String) -> Result<Constraint, ApiError> {
    let name = fields.required_string("name")?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if name.is_empty() || name.len() > NAME_BYTES || !name.bytes().all(plain) {
        let what =
            format_args!("a name has 1 to {NAME_BYTES} characters of A-Z, a-z, 0-9, _ and -");
        return Err(ApiError::invalid_value(fields.path().field("name"), what));
    }
    fields.string("description")?;
    fields.boolean("strict")?;
    let pattern = match fields.get("schema") {
        Some(schema) => Pattern::Json { schema: schema.clone(), exactly: true },
        None => Pattern::json_object(),
    };
    let subject = format!("schema for response_format '{name}'");
    Ok(Constraint { pattern, param, subject })
}

/// vLLM's object: one of `json`, `regex`, `choice`, `grammar`, `json_object`.
fn structured_outputs(
    fields: &Fields<'_, '_>,
    reading: &Reading,
) -> Result<Option<Constraint>, ApiError> {
    let path = fields.path().field("structured_outputs");
    let Some(value) = fields.get("structured_outputs") else { return Ok(None) };
    let outputs = Fields::of(value, &path)?;
    if outputs.get("structural_tag").is_some() {
        let hint = "; offer functions in 'tools' instead";
        return Err(ApiError::unsupported_parameter(path.field("structural_tag"), hint));
    }
    let known = ["json", "regex", "choice", "grammar", "json_object", "structural_tag"];
    for name in outputs.unknown(&known) {
        reading.ignore(&path.field(name))?;
    }
    let any_object = outputs.boolean("json_object")?.unwrap_or(false);
    let any_object = any_object.then(|| Constraint::new(Pattern::json_object(), &path));
    let found = [
        json(&outputs, "json")?,
        regex(&outputs, "regex")?,
        choice(&outputs, "choice")?,
        grammar(&outputs, "grammar")?,
        any_object,
    ];
    let mut found = found.into_iter().flatten();
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(Some(one)),
        _ => {
            let what =
                "exactly one of 'json', 'regex', 'choice', 'grammar', 'json_object' is needed";
            Err(ApiError::invalid_value(path, what))
        }
    }
}

/// The same by its older names.
fn guided(fields: &Fields<'_, '_>) -> Result<[Option<Constraint>; 4], ApiError> {
    Ok([
        json(fields, "guided_json")?,
        regex(fields, "guided_regex")?,
        choice(fields, "guided_choice")?,
        grammar(fields, "guided_grammar")?,
    ])
}

/// A schema, as JSON or as text that holds it.
fn json(fields: &Fields<'_, '_>, name: &str) -> Result<Option<Constraint>, ApiError> {
    let path = fields.path().field(name);
    let schema = match fields.get(name) {
        None => return Ok(None),
        Some(Value::String(text)) if text.len() > SCHEMA_TEXT_BYTES => {
            let what = format_args!("a schema has at most {SCHEMA_TEXT_BYTES} bytes as text");
            return Err(ApiError::invalid_value(path, what));
        }
        Some(Value::String(text)) => serde_json::from_str(text)
            .map_err(|error| ApiError::invalid_value(path, format_args!("no JSON: {error}")))?,
        Some(schema @ (Value::Object(_) | Value::Bool(_))) => schema.clone(),
        Some(other) => return Err(wrong(&path, "a JSON schema", other)),
    };
    Ok(Some(Constraint::new(Pattern::Json { schema, exactly: true }, &path)))
}

fn regex(fields: &Fields<'_, '_>, name: &str) -> Result<Option<Constraint>, ApiError> {
    let regex = fields.string(name)?.map(|regex| Pattern::Regex(regex.to_owned()));
    Ok(regex.map(|regex| Constraint::new(regex, &fields.path().field(name))))
}

fn choice(fields: &Fields<'_, '_>, name: &str) -> Result<Option<Constraint>, ApiError> {
    let path = fields.path().field(name);
    let Some(list) = fields.array(name)? else { return Ok(None) };
    if list.is_empty() {
        return Err(ApiError::invalid_value(path, "at least one choice is needed"));
    }
    let text = |(index, value): (usize, &Value)| match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(wrong(&path.index(index), "a string", value)),
    };
    let texts: Result<Vec<String>, ApiError> = list.iter().enumerate().map(text).collect();
    Ok(Some(Constraint::new(Pattern::Choice(texts?), &path)))
}

/// A Lark grammar. The other dialect that clients of vLLM write is recognized by its `::=`.
fn grammar(fields: &Fields<'_, '_>, name: &str) -> Result<Option<Constraint>, ApiError> {
    let path = fields.path().field(name);
    let Some(text) = fields.string(name)? else { return Ok(None) };
    if text.contains("::=") {
        let what = "grammars are written in Lark here (rule: expansion), not in EBNF with '::='";
        return Err(ApiError::unsupported_value(path, what));
    }
    Ok(Some(Constraint::new(Pattern::Lark(text.to_owned()), &path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(body: Value) -> Result<Option<Pattern>, ApiError> {
        let path = Path::Root;
        let fields = Fields::of(&body, &path)?;
        let read = Constraint::read(&fields, &Reading::new(false, 8, 4))?;
        Ok(read.map(|constraint| constraint.pattern))
    }

    #[test]
    fn a_schema_as_text_at_its_limit() {
        let schema = r#"{"type":"integer"}"#;
        let text = |bytes: usize| " ".repeat(bytes - schema.len()) + schema;
        for name in ["guided_json", "structured_outputs"] {
            let body = |text: String| match name {
                "guided_json" => json!({ name: text }),
                _ => json!({ name: {"json": text} }),
            };
            assert!(read(body(text(SCHEMA_TEXT_BYTES))).unwrap().is_some());
            let error = read(body(text(SCHEMA_TEXT_BYTES + 1))).unwrap_err();
            assert!(error.message().contains("at most 1048576 bytes"), "{}", error.message());
        }
    }

    #[test]
    fn each_name_is_read() {
        let schema = json!({"type": "integer"});
        let exactly = Pattern::Json { schema: schema.clone(), exactly: true };
        let wanted = json!({"name": "n-1_X", "schema": schema, "strict": true});
        for (body, pattern) in [
            (json!({}), None),
            (json!({"response_format": null}), None),
            (json!({"response_format": {"type": "text"}}), None),
            (
                json!({"response_format": {"type": "json_object", "schema": schema}}),
                Some(exactly.clone()),
            ),
            (
                json!({"response_format": {"type": "json_object", "schema": {}}}),
                Some(Pattern::json_object()),
            ),
            (
                json!({"response_format": {"type": "json_object", "schema": {"minProperties": 1}}}),
                Some(Pattern::Json {
                    schema: json!({"minProperties": 1, "type": "object"}),
                    exactly: true,
                }),
            ),
            (json!({"response_format": {"type": "json_object"}}), Some(Pattern::json_object())),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": wanted}}),
                Some(exactly.clone()),
            ),
            (json!({"structured_outputs": {"json": schema}}), Some(exactly.clone())),
            (json!({"structured_outputs": {"json": schema.to_string()}}), Some(exactly.clone())),
            (json!({"guided_json": schema}), Some(exactly)),
            (json!({"guided_regex": "a+"}), Some(Pattern::Regex("a+".into()))),
            (json!({"structured_outputs": {"regex": "a+"}}), Some(Pattern::Regex("a+".into()))),
            (json!({"guided_choice": ["a"]}), Some(Pattern::Choice(vec!["a".into()]))),
            (
                json!({"structured_outputs": {"grammar": "start: \"a\"", "choice": null}}),
                Some(Pattern::Lark("start: \"a\"".into())),
            ),
            (
                json!({"structured_outputs": {"json_object": true, "whitespace_pattern": "x"}}),
                Some(Pattern::json_object()),
            ),
        ] {
            assert_eq!(read(body.clone()).unwrap(), pattern, "{body}");
        }
    }

    #[test]
    fn each_refusal_names_its_path() {
        let named = |name: &str| json!({"response_format": {"type": "json_schema", "json_schema": {"name": name}}});
        let name = "response_format.json_schema.name";
        for (body, code, param) in [
            (json!({"response_format": "json"}), "invalid_type", "response_format"),
            (json!({"response_format": {}}), "missing_required_parameter", "response_format.type"),
            (json!({"response_format": {"type": "xml"}}), "invalid_value", "response_format.type"),
            (
                json!({"response_format": {"type": "json_object", "schema": 3}}),
                "invalid_type",
                "response_format.schema",
            ),
            (
                json!({"response_format": {"type": "json_schema"}}),
                "missing_required_parameter",
                "response_format.json_schema",
            ),
            (named(""), "invalid_value", name),
            (named("a b"), "invalid_value", name),
            (named(&"n".repeat(65)), "invalid_value", name),
            (json!({"structured_outputs": {}}), "invalid_value", "structured_outputs"),
            (
                json!({"structured_outputs": {"regex": "a", "choice": ["a"]}}),
                "invalid_value",
                "structured_outputs",
            ),
            (
                json!({"structured_outputs": {"structural_tag": "x"}}),
                "unsupported_parameter",
                "structured_outputs.structural_tag",
            ),
            (json!({"guided_json": "{"}), "invalid_value", "guided_json"),
            (json!({"guided_json": 3}), "invalid_type", "guided_json"),
            (json!({"guided_choice": []}), "invalid_value", "guided_choice"),
            (json!({"guided_choice": ["a", 1]}), "invalid_type", "guided_choice[1]"),
            (json!({"guided_grammar": "root ::= \"a\""}), "unsupported_value", "guided_grammar"),
            (
                json!({"guided_regex": "a", "response_format": {"type": "json_object"}}),
                "invalid_value",
                "guided_regex",
            ),
        ] {
            let error = read(body.clone()).unwrap_err();
            assert_eq!((error.label(), error.param()), (code, Some(param)), "{body}");
        }
    }
}
