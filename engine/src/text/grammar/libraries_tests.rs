//! Schemas written by common libraries (`tests/fixtures/schemas`): each is compiled, or rejected
//! with the location of the problem, and random answers drawn from its grammar validate.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jsonschema::{Draft, Validator};
use serde_json::{Map, Value};

use super::tests::{Random, SMALL, schema, text_of, walk};
use super::{Grammar, GrammarError};

/// The schemas that cannot be enforced: file, name of the type, and text of the error.
const REFUSED: &[(&str, &str, &str)] = &[
    ("pydantic", "set", "uniqueItems"),
    ("pydantic", "frozen set", "uniqueItems"),
    ("pydantic", "two of a dict", "minProperties"),
    ("zod", "literal null, openapi-3.0", "no value of enum"),
    ("zod", "empty tuple, openapi-3.0", "list of schemas"),
    // It ends at `nullable`, which is not JSON Schema.
    ("zod", "getter recursion, openapi-3.0", "without end"),
    ("zod-to-json-schema", "set", "uniqueItems"),
    ("zod-to-json-schema", "undefined, openAi", "not"),
    ("typebox", "set", "uniqueItems"),
    ("typebox", "contains", "contains"),
    ("typebox", "regex, old", "RegExp"),
    ("typebox", "bigint", "bigint"),
    ("typebox", "date, old", "Date"),
    ("typebox", "bytes, old", "Uint8Array"),
    ("typebox", "not an object, old", "not"),
    ("typebox", "undefined", "undefined"),
    ("effect", "unique array", "uniqueItems"),
    ("shapes", "patterns of single letters", "too complex"),
    ("shapes", "one of overlapping", "oneOf"),
    ("shapes", "unevaluated beside a choice", "unevaluatedProperties"),
    ("shapes", "if", "if"),
    ("shapes", "not what has a property", "not"),
    ("shapes", "unique", "uniqueItems at /properties/tags"),
    ("shapes", "contains", "contains"),
    ("shapes", "no sixes at all", "allows nothing"),
    ("shapes", "sevenths", "multipleOf"),
    ("shapes", "below and above", "allows nothing"),
    ("shapes", "length, pattern and format", "too complex"),
    ("shapes", "pattern without a text", "no value"),
    ("shapes", "look behind", "look-around"),
    ("shapes", "word boundary", "word boundaries"),
    ("shapes", "back reference", "backreferences"),
    ("shapes", "reference elsewhere", "/properties/a/$ref"),
    ("shapes", "reference to nothing", "/properties/a/$ref"),
    ("shapes", "contains itself", "without end"),
    ("shapes", "contains itself with neighbours", "/$defs/n/properties/next"),
    ("shapes", "two trees at once", "too complex"),
    ("shapes", "type of no kind", "/type"),
    ("shapes", "nothing", "allows nothing"),
];

/// Limit on an answer's tokens. Ends of strings and lists are likely, so most answers end earlier.
const MOST_TOKENS: usize = 300;

fn files() -> Vec<PathBuf> {
    if let Some(path) = std::env::var_os("OMLX_SCHEMAS") {
        return vec![path.into()];
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/schemas");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn read(file: &Path) -> Map<String, Value> {
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// The independent validator. Formats are assertions for it.
fn validator(schema: &Value, name: &str) -> Result<Validator, String> {
    // No regular expression describes the valid regular expressions, so this format is not checked.
    let options = jsonschema::options().should_validate_formats(true);
    let mut options = options.with_format("regex", |_: &str| true);
    if name.contains("openapi-3.0") || name.contains("openApi3") || name.contains("draft-4") {
        options = options.with_draft(Draft::Draft4);
    }
    options.build(schema).map_err(|error| error.to_string())
}

/// Draws answers and validates the complete ones. Returns the numbers of complete and of all
/// answers.
fn draw(name: &str, wanted: &Value, seeds: u64) -> Result<(usize, usize), String> {
    let pattern = schema(wanted.clone());
    let grammar = match Grammar::compile(&SMALL, &pattern) {
        Ok(grammar) => grammar,
        Err(GrammarError::Invalid(what)) => return Err(what),
        Err(error) => panic!("{name}: {error}: {wanted}"),
    };
    let validator = validator(wanted, name);
    let mut complete = 0;
    for seed in 0..seeds {
        let mut times = Vec::new();
        let mut random = Random(seed * 7919 + 1);
        let Some(tokens) = walk(&SMALL, grammar.begin(), &mut random, (MOST_TOKENS, &mut times))
        else {
            continue;
        };
        let text = text_of(&SMALL, &tokens);
        let value: Value = match serde_json::from_str(&text) {
            Ok(value) => value,
            // JSON allows 2e999, but this reader does not.
            Err(error) if error.to_string().contains("out of range") => continue,
            Err(error) => panic!("{name}: {error}: {text:?} for {wanted}"),
        };
        complete += 1;
        if let Ok(validator) = &validator
            && let Err(error) = validator.validate(&value)
        {
            panic!("{name}: {error}: {text} for {wanted}");
        }
    }
    Ok((complete, seeds as usize))
}

#[test]
#[expect(clippy::print_stderr, reason = "the figures are for who runs it")]
fn schemas_of_libraries_compile_or_are_rejected_with_a_location() {
    let is_long =
        std::env::var_os("OMLX_SOAK").is_some() || std::env::var_os("OMLX_SCHEMAS").is_some();
    let seeds = if is_long { 20 } else { 4 };
    let (mut served, mut complete, mut all) = (0, 0, 0);
    let mut refused: BTreeMap<(String, String), String> = BTreeMap::new();
    for file in files() {
        let from = file.file_stem().unwrap().to_string_lossy().into_owned();
        for (name, wanted) in read(&file) {
            match draw(&format!("{from}: {name}"), &wanted, seeds) {
                Ok((ended, drawn)) => {
                    served += 1;
                    complete += ended;
                    all += drawn;
                }
                Err(what) => {
                    assert!(what.contains('/') || what.contains("the root"), "{name}: {what}");
                    for theirs in ["Unimplemented", "coerce", "x-guidance", "lenient", "option"] {
                        assert!(!what.contains(theirs), "{name}: {what}");
                    }
                    refused.insert((from.clone(), name), what);
                }
            }
        }
    }
    eprintln!("{served} schemas served; {complete} of {all} answers ended and validate");
    for ((from, name), what) in &refused {
        eprintln!("refused: {from}: {name}: {what}");
    }
    if std::env::var_os("OMLX_SCHEMAS").is_none() {
        let is_known = |from: &str, name: &str, what: &str| {
            REFUSED
                .iter()
                .any(|row| row.0 == from && name.starts_with(row.1) && what.contains(row.2))
        };
        for ((from, name), what) in &refused {
            assert!(is_known(from, name, what), "{from}: {name}: {what}");
        }
    }
}
