//! Finds the part of a schema that llguidance rejects, and explains the reason in our own words.

use llguidance::Matcher;
use llguidance::api::TopLevelGrammar;
use serde_json::Value;

use super::error::{GrammarError, compile_error, run_error};
use super::pattern::Pattern;
use super::pattern::json_part;
use super::schema::{PLACE, children, named, prepare};
use super::vocabulary::TokenTrie;

/// Limit on the parts that are compiled to find the rejected one. A level of nesting needs one
/// attempt for each part before that one.
const ATTEMPTS: usize = 200;

/// The error for a pattern that llguidance rejects with this message.
pub(super) fn explain(vocabulary: &TokenTrie, pattern: &Pattern, error: &str) -> GrammarError {
    let found = find(vocabulary, pattern);
    found.unwrap_or_else(|| run_error(error))
}

fn find(vocabulary: &TokenTrie, pattern: &Pattern) -> Option<GrammarError> {
    match pattern {
        Pattern::Json { schema, exactly } => {
            let schema = prepare(schema, *exactly).ok()?;
            let error = refusal(vocabulary, schema.clone())?;
            let (place, error) = narrow(vocabulary, &schema, error);
            Some(in_words(&place, &error))
        }
        Pattern::All(patterns) | Pattern::Any(patterns) => {
            patterns.iter().find_map(|pattern| find(vocabulary, pattern))
        }
        Pattern::Maybe(pattern) | Pattern::Many(pattern) => find(vocabulary, pattern),
        _ => None,
    }
}

/// The pointer to the innermost rejected part, and its error.
fn narrow(vocabulary: &TokenTrie, schema: &Value, mut error: String) -> (String, String) {
    let definitions = schema.get("$defs");
    let (mut part, mut place, mut left) = (schema, String::new(), ATTEMPTS);
    'deeper: loop {
        if let Some(pointer) = part.get(PLACE).and_then(Value::as_str) {
            pointer.clone_into(&mut place);
        }
        for child in children(part) {
            if left == 0 {
                return (place, error);
            }
            left -= 1;
            let mut alone = child.clone();
            if let Some(definitions) = definitions {
                alone["$defs"] = definitions.clone();
            }
            if let Some(refusal) = refusal(vocabulary, alone) {
                (part, error) = (child, refusal);
                continue 'deeper;
            }
        }
        return (place, error);
    }
}

fn refusal(vocabulary: &TokenTrie, schema: Value) -> Option<String> {
    let grammar = TopLevelGrammar::from_grammar(json_part(schema));
    Matcher::new(vocabulary.factory().create_parser(grammar)).get_error()
}

/// Our explanations of llguidance's errors, by words in them. The last lines of an error say the
/// most.
const WORDS: [(&str, &str); 9] = [
    ("min/maxProperties", "properties are counted that stand in another part of an allOf"),
    ("Unsatisfiable", "no value matches all that is asked for"),
    ("determine if regex", "the pattern, the format and the lengths together are too complex"),
    ("is empty", "no text matches all that is asked for"),
    ("circular references", "a reference that leads back to itself stands beside other keywords"),
    ("are disjoint", "the patterns are too complex to be told apart"),
    ("not disjoint", "the patterns match common names"),
    ("multipleOf", "a divisor of so many digits cannot be enforced"),
    ("too many digits", "a divisor of so many digits cannot be enforced"),
];

fn in_words(place: &str, error: &str) -> GrammarError {
    if let internal @ GrammarError::Internal(_) = compile_error(error) {
        return internal;
    }
    let known = WORDS.iter().find(|(words, _)| error.contains(words)).map(|(_, says)| *says);
    let why = known.unwrap_or("it is too complex to be compiled");
    GrammarError::Invalid(format!("the schema at {} cannot be enforced: {why}", named(place)))
}
