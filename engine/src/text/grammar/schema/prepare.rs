//! Translates a schema to one that llguidance compiles.

use serde_json::{Map, Value};

use super::document::Document;
use super::pass::{Pass, Place};
use crate::text::grammar::error::GrammarError;

/// Returns an equivalent schema that llguidance compiles.
///
/// # Errors
/// [`GrammarError::Invalid`] if it is not a valid schema, if no value validates against it, or,
/// with `exactly`, if it has parts that cannot be enforced; otherwise these parts are ignored.
pub(in crate::text::grammar) fn prepare(
    schema: &Value,
    exactly: bool,
) -> Result<Value, GrammarError> {
    super::numbers::check_divisors(schema)?;
    let document = Document::new(schema);
    let mut pass =
        Pass { document: &document, exactly, definitions: Vec::new(), reason: None, variants: 0 };
    let root = pass.schema(schema, &Place::Root(""))?;
    let definitions = pass.definitions()?;
    let (root, definitions) = super::choices::decide(root, definitions, exactly)?;
    let root = super::completes::prune(root, definitions);
    match root {
        Value::Bool(false) => {
            let endless = || {
                "what has to be there has no value, or contains itself without end, at the root"
                    .to_owned()
            };
            let why = pass.reason.unwrap_or_else(endless);
            Err(GrammarError::Invalid(format!("the schema allows nothing: {why}")))
        }
        Value::Object(fields) => Ok(Value::Object(fields)),
        _ => Ok(Value::Object(Map::new())),
    }
}
