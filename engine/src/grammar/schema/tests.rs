use serde_json::{Value, json};

use super::prepare;

/// What a schema becomes, without where its parts come from.
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
fn what_restricts_nothing_is_taken_out() {
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
               "contentEncoding": "base64", "nullable": true, "x-order": 1, "title": "t"}),
        json!({"format": "ssn"}),
        json!({"format": "uuid9", "minContains": 2}),
        json!({"contains": {"type": "null"}, "minContains": 0}),
        json!({"patternProperties": {}, "properties": {}, "$defs": {"a": false}}),
        json!({"type": ["null", "boolean", "integer", "number", "string", "array", "object"]}),
    ] {
        let mut made = prepared(neutral.clone());
        let fields = made.as_object_mut().unwrap();
        fields.retain(|name, value| !(name == "maxItems" || (name == "type" && *value == "string")));
        assert_eq!(made, json!({}), "{neutral}");
    }
}
