use serde_json::{Value, json};

use super::prepare;

/// The prepared schema, without the origins of its parts.
fn prepared(schema: Value) -> Value {
    let mut made = prepare(&schema, true).unwrap_or_else(|error| panic!("{error}: {schema}"));
    without_places(&mut made);
    made
}

fn without_places(schema: &mut Value) {
    if let Some(fields) = schema.as_object_mut() {
        fields.remove(super::PLACE);
        fields.values_mut().for_each(without_places);
    } else if let Some(items) = schema.as_array_mut() {
        items.iter_mut().for_each(without_places);
    }
}

#[test]
fn keywords_without_effect_are_removed() {
    for neutral in [
        json!({"propertyNames": {"type": "string"}}),
        json!({"propertyNames": {"description": "any"}}),
        json!({"uniqueItems": false}),
        json!({"uniqueItems": true, "maxItems": 1, "type": "string"}),
        json!({"additionalProperties": true, "unevaluatedProperties": {}}),
        json!({"additionalProperties": {"title": "x"}}),
        json!({"minLength": 0, "minItems": 0, "minProperties": 0, "required": []}),
        json!({"not": false}),
        json!({"if": {"type": "null"}, "then": true}),
        json!({"then": {"type": "null"}, "else": false}),
        json!({"allOf": [{}, true, {"title": "x"}]}),
        json!({"$schema": "http://json-schema.org/draft-07/schema#", "$id": "x", "$comment": "y",
               "examples": [1], "default": {"type": 3}, "deprecated": true, "readOnly": true,
               "contentEncoding": "7bit", "nullable": true, "x-order": 1, "title": "t"}),
        json!({"format": "ssn"}),
        json!({"format": "uuid9", "minContains": 2}),
        json!({"contains": {"type": "null"}, "minContains": 0}),
        json!({"patternProperties": {}, "properties": {}, "$defs": {"a": false}}),
        json!({"type": ["null", "boolean", "integer", "number", "string", "array", "object"]}),
    ] {
        let mut made = prepared(neutral.clone());
        let fields = made.as_object_mut().unwrap();
        fields
            .retain(|name, value| !(name == "maxItems" || (name == "type" && *value == "string")));
        assert_eq!(made, json!({}), "{neutral}");
    }
}

/// The error for a rejected schema.
fn refusal(schema: Value) -> String {
    match prepare(&schema, true) {
        Err(error) => error.to_string(),
        Ok(made) => panic!("{schema} became {made}"),
    }
}

#[test]
fn a_refusal_names_keyword_and_place() {
    let in_tags = |schema: Value| json!({"type": "object", "properties": {"a/b": {"type": "array", "items": schema}}});
    let place = "at /properties/a~1b/items";
    for (schema, words) in [
        (json!({"uniqueItems": true, "type": "array"}), "uniqueItems"),
        (json!({"if": {"type": "null"}, "then": false}), "if"),
        (json!({"contains": {"type": "null"}}), "contains"),
        (json!({"not": {"required": ["a"]}}), "not"),
        (json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}), "schemas 0 and 1"),
        (json!({"type": "strin"}), "\"strin\""),
        (json!({"type": "string", "pattern": "("}), "unclosed"),
        (json!({"type": "string", "pattern": "(?<=a)b"}), "look-around"),
        (json!({"type": "string", "pattern": "a(?=b)"}), "look-around"),
        (json!({"type": "string", "pattern": "\\bword"}), "word boundaries"),
        (json!({"type": "string", "pattern": "^(a|b)\\1$"}), "backreferences"),
        (json!({"type": "string", "pattern": "a$b"}), "'^' and '$'"),
        (json!({"minProperties": 2}), "minProperties"),
        (json!({"unevaluatedProperties": false, "anyOf": [{}]}), "unevaluatedProperties"),
        (json!({"propertyNames": {"not": {"const": "x"}}}), "not"),
        (json!({"minLength": -1}), "minLength"),
        (json!({"minimum": "3"}), "minimum"),
        (json!({"multipleOf": -3}), "multipleOf"),
        (json!({"multipleOf": 0}), "multipleOf"),
        (json!({"required": true}), "list of names"),
        (json!({"anyOf": []}), "list of schemas"),
        (json!({"$ref": "#/none"}), "leads to nothing"),
        (json!({"const": 1e300}), "const"),
        (json!(3), "object or a boolean"),
    ] {
        let what = refusal(in_tags(schema.clone()));
        assert!(what.contains(words) && what.contains(place), "{schema}: {what}");
    }
    // An error behind a reference names the location of the referenced part.
    let behind = json!({"$ref": "#/$defs/a", "$defs": {"a": {"items": {"uniqueItems": true}}}});
    assert!(refusal(behind).contains("uniqueItems at /$defs/a/items"));
    let long = json!({"properties": {"n".repeat(900): {"uniqueItems": true}}});
    assert!(refusal(long).len() < 500);
}

#[test]
fn unenforceable_keywords_are_ignored_on_request() {
    let schema = json!({"type": "array", "uniqueItems": true, "items": {
        "oneOf": [{"type": "integer"}, {"type": "number"}], "if": {"type": "null"}, "then": false}});
    let made = prepare(&schema, false).unwrap();
    assert!(made["items"].get("anyOf").is_some(), "{made}");
}

#[test]
fn a_divisor_at_its_limit() {
    use crate::limits::SCHEMA_DIVISOR;
    let multiple = |n: u128| json!({"type": "integer", "multipleOf": n as u64});
    assert!(prepare(&multiple(SCHEMA_DIVISOR), true).is_ok());
    assert!(refusal(multiple(SCHEMA_DIVISOR + 1)).contains("multipleOf at the root"));
    // For two divisors, their least common multiple counts.
    let two = |n: u128| json!({"allOf": [multiple(2), multiple(n)]});
    assert!(prepare(&two(SCHEMA_DIVISOR), true).is_ok());
    assert!(refusal(two(SCHEMA_DIVISOR / 2 + 1)).contains("least common multiple"));
}

#[test]
fn selections_at_their_limit() {
    use crate::limits::SCHEMA_VARIANTS;
    // Three of four properties, in the maximum number of objects, and one more.
    let one = json!({"type": "object", "additionalProperties": false, "minProperties": 3,
                     "properties": {"a": {}, "b": {}, "c": {}, "d": {}}});
    let many = |objects: usize| json!({"anyOf": vec![one.clone(); objects]});
    assert!(prepare(&many(SCHEMA_VARIANTS / 4), true).is_ok());
    let what = refusal(many(SCHEMA_VARIANTS / 4 + 1));
    assert!(what.contains("minProperties at /anyOf/128"), "{what}");
}

#[test]
fn parts_that_cannot_be_completed_are_removed() {
    let endless =
        json!({"type": "object", "required": ["n"], "properties": {"n": {"$ref": "#/$defs/n"}}});
    let definitions = json!({"n": endless});
    let made =
        prepared(json!({"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}], "$defs": definitions}));
    assert_eq!(made["anyOf"], json!([false, {"type": "null"}]));
    let optional =
        json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": definitions});
    assert_eq!(prepared(optional)["properties"], json!({"a": false}));
    assert!(refusal(json!({"$ref": "#/$defs/n", "$defs": definitions})).contains("without end"));
    for nothing in [
        json!({"type": "integer", "minimum": 3, "maximum": 1}),
        json!({"type": "integer", "minimum": 43, "maximum": 47, "multipleOf": 6}),
        json!({"type": "string", "minLength": 3, "maxLength": 2}),
        json!({"type": "array", "minItems": 1, "items": false}),
        json!({"type": "object", "required": ["a"], "additionalProperties": false}),
        json!({"type": "object", "minProperties": 1, "additionalProperties": false}),
        json!({"type": "string", "enum": [1, null]}),
        json!({"not": {}}),
    ] {
        assert!(refusal(nothing.clone()).contains("allows nothing"), "{nothing}");
    }
}

#[test]
fn patterns_of_names_are_told_apart() {
    // All names that match the pattern are declared, so no other name is left.
    let made = prepared(json!({"type": "object", "properties": {"score": {"type": "integer"}},
                               "patternProperties": {"^score$": {"minimum": 0}}}));
    assert!(made.get("patternProperties").is_none(), "{made}");
    let made =
        prepared(json!({"type": "object", "patternProperties": {"^[xy]$": {"type": "null"}}}));
    assert_eq!(made["properties"], json!({"x": {"type": "null"}, "y": {"type": "null"}}));
    let made = prepared(
        json!({"type": "object", "patternProperties": {"^a": true, "b$": {"type": "null"}}}),
    );
    assert_eq!(made["patternProperties"].as_object().unwrap().len(), 3, "{made}");
}

#[test]
fn a_class_without_quotes_has_none() {
    // llguidance assumes that a class with all control characters also has quotes and backslashes.
    for (pattern, regex) in [
        ("^[^\"]+$", r#"^[^\x00"]+$"#),
        ("[\\d.]", r"[[0-9.]&&[^\x00]]"),
        (
            "\\S\\D",
            r"[^\x00\t\n\x0B\x0C\r\x20\u{A0}\u{1680}\u{2000}-\u{200A}\u{2028}\u{2029}\u{202F}\u{205F}\u{3000}\u{FEFF}][^\x000-9]",
        ),
    ] {
        let made = prepared(json!({"type": "string", "pattern": pattern}));
        assert_eq!(made["pattern"], regex);
    }
}

#[test]
fn optional_properties_at_their_limit() {
    use crate::limits::SCHEMA_OPTIONAL;
    let wide = |count: usize| {
        let properties = (0..count).map(|n| (format!("p{n}"), json!({"type": "null"})));
        let inner: serde_json::Map<String, Value> = properties.collect();
        json!({"type": "object", "properties": {"a": {"type": "object", "properties": inner}}})
    };
    assert!(prepare(&wide(SCHEMA_OPTIONAL), true).is_ok());
    let what = refusal(wide(SCHEMA_OPTIONAL + 1));
    assert!(what.contains("optional properties in one object, at /properties/a"), "{what}");
}
