"""Prints schemas by hand, as {"name": schema}: the shapes that JSON-schema-faker's tests and people's
own schemas have and that the libraries do not write."""

import json

S, I, N, B = {"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "boolean"}


def obj(properties, required=None, **more):
    schema = {"type": "object", "properties": properties, **more}
    return schema | ({"required": required} if required else {})


SHAPES = {
    "declared beside a pattern of its name": {
        "type": "object", "properties": {"score": I}, "patternProperties": {"^score$": N},
        "additionalProperties": False},
    "pattern of few names, counted": {
        "type": "object", "patternProperties": {"^[xy]$": B}, "minProperties": 2, "maxProperties": 2,
        "additionalProperties": False},
    "pattern of few names, counted, open": {
        "type": "object", "patternProperties": {"^[xy]$": B}, "minProperties": 2, "maxProperties": 2},
    "patterns of all declared names": obj(
        {"a": I, "b": I}, patternProperties={"^(a|b)$": {"minimum": 0, "maximum": 9}}, additionalProperties=False),
    "patterns that share names": {
        "type": "object", "patternProperties": {"^hyb": I, "rid$": {"maximum": 3}}, "required": ["hybrid"]},
    "patterns that share names, closed": {
        "type": "object", "patternProperties": {"^a": {"type": "integer"}, "b$": {"enum": [1, 2, "x"]}},
        "additionalProperties": False},
    "patterns that share names and no value": {
        "type": "object", "patternProperties": {"^a": I, "z$": S}, "additionalProperties": B},
    "patterns of single letters": {
        "type": "object", "patternProperties": {"a+": S, "b+": S, "c+": S}, "minProperties": 1,
        "maxProperties": 2},
    "pattern false": {"type": "object", "patternProperties": {"^x": False}, "additionalProperties": I},
    "pattern and others": obj(
        {"count": I}, patternProperties={"^v-[0-3]$": I}, additionalProperties=False),
    "pattern beside anyOf": {
        "additionalProperties": False, "type": "object", "patternProperties": {"^k[0-9]+$": I},
        "anyOf": [{"required": ["k1"]}, {"required": ["k2"]}], "properties": {"k1": I}},
    "names by pattern and length": {
        "type": "object", "propertyNames": {"pattern": "^[a-z]+$", "maxLength": 3}, "additionalProperties": I},
    "names by pattern beside declared": obj(
        {"a": I, "B": I}, propertyNames={"pattern": "^[a-z]$"}, maxProperties=3),
    "names by enum": {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": I},
    "names by a reference": {
        "type": "object", "propertyNames": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "string", "minLength": 1}}},
    "names and patterns": {
        "type": "object", "propertyNames": {"pattern": "^x"}, "patternProperties": {"y$": I},
        "additionalProperties": B},
    "some of three": obj({"a": B, "b": B, "c": B}, minProperties=2, additionalProperties=False),
    "one of three": obj({"a": B, "b": B, "c": B}, minProperties=1, maxProperties=1),
    "some of two, open": obj({"a": B, "b": B}, minProperties=1),
    "at most, open": obj({"a": B, "b": B}, ["a"], maxProperties=2, additionalProperties=I),
    "some, in a branch": {"type": "object", "anyOf": [
        obj({"a": S, "b": S}, minProperties=1, additionalProperties=False), obj({"c": S}, ["c"])]},
    "dependencies": obj({"card": I, "address": S}, dependencies={"card": ["address"]}),
    "dependent schemas": obj(
        {"card": I}, dependentSchemas={"card": obj({"address": S}, ["address"])}),
    "dependent required, closed": obj(
        {"a": I, "b": I, "c": I}, dependentRequired={"a": ["b"], "b": ["c"]}, additionalProperties=False),
    "exactly one of": obj({"a": I, "b": I}, oneOf=[{"required": ["a"]}, {"required": ["b"]}]),
    "one of two types": {"oneOf": [B, {"type": "null"}]},
    "one of overlapping": {"oneOf": [I, N]},
    "one of ranges": {"oneOf": [I | {"maximum": 3}, I | {"minimum": 4, "maximum": 9}]},
    "one of enums": {"oneOf": [{"enum": ["a", "b"]}, {"enum": ["c", 1]}]},
    "one of patterns": {"oneOf": [{"type": "string", "pattern": "^a"}, {"type": "string", "pattern": "^b"}]},
    "one of closed objects": {"oneOf": [
        obj({"a": I}, ["a"], additionalProperties=False), obj({"b": I}, ["b"], additionalProperties=False)]},
    "one of references": {
        "$defs": {"A": obj({"t": {"const": "a"}, "n": {"$ref": "#/$defs/U"}}, ["t"]),
                  "B": obj({"t": {"const": "b"}}, ["t"]),
                  "U": {"oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}]}}, "$ref": "#/$defs/U"},
    "allOf of objects": {"allOf": [obj({"a": S, "b": I}, ["a", "b"]), obj({"b": I | {"minimum": 3}, "c": B}, ["c"])]},
    "allOf of an anyOf": {"allOf": [
        {"anyOf": [obj({"a": S}, ["a"], additionalProperties=False), obj({"c": S}, ["c"], additionalProperties=False)]},
        {"type": "object"}]},
    "allOf of tuples": {"allOf": [
        {"type": "array", "prefixItems": [{"minimum": 3}, {"minimum": 3}], "items": False, "minItems": 2},
        {"type": "array", "prefixItems": [I | {"maximum": 10}, I | {"maximum": 10}]}]},
    "allOf of numbers": {"allOf": [I | {"minimum": 10, "maximum": 40}, {"multipleOf": 15}]},
    "allOf of numbers without a value": {"type": "object", "properties": {"a": {"allOf": [
        I | {"minimum": 1, "maximum": 2}, {"multipleOf": 5}]}}},
    "closed by what is evaluated": {
        "allOf": [{"$ref": "#/$defs/base"}], "properties": {"b": I}, "required": ["b"], "type": "object",
        "unevaluatedProperties": False, "$defs": {"base": obj({"a": S}, ["a"])}},
    "unevaluated beside a choice": {
        "type": "object", "anyOf": [obj({"a": I}, ["a"])], "unevaluatedProperties": False},
    "if": obj({"country": {"enum": ["us", "other"]}, "zip": S}, ["country"],
              **{"if": {"properties": {"country": {"const": "us"}}}, "then": {"required": ["zip"]}}),
    "not enum": {"type": "string", "not": {"enum": ["foo", "bar"]}},
    "not of an enum": {"enum": ["a", "b", 1, None], "not": {"enum": ["b", None]}},
    "not a type": obj({"a": {"not": S}, "b": {"not": N}, "c": {"not": {"type": ["object", "array"]}}}, ["a", "b", "c"]),
    "not anything": obj({"a": I, "b": {"not": {}}}),
    "not what has a property": {"type": "object", "not": {"required": ["a"]}},
    "unique": obj({"tags": {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True}}),
    "unique, at most one": {"type": "array", "items": I, "uniqueItems": True, "maxItems": 1},
    "contains": {"type": "array", "items": I, "contains": {"const": 42}},
    "contains anything": {"type": "array", "items": I, "contains": {}, "minContains": 2, "maxContains": 3},
    "older list": {"type": "array", "items": [I, S], "additionalItems": B, "minItems": 3, "maxItems": 4},
    "unevaluated items": {"type": "array", "prefixItems": [I, S], "unevaluatedItems": False, "minItems": 2},
    "enum of everything": {"enum": ["", [], {}, False, None, -1, 1.5, "a\nb", {"k": [1, {"z": None}]}]},
    "const of an object": {"const": {"b": [1, 2.5, "x"], "a": {}}},
    "enum within bounds": {"type": "number", "enum": [1, 2, 3.7, 4, 5, 7], "minimum": 3.5, "maximum": 6.5},
    "floats": {"enum": [0.1, 3.141592653589793, 1e-7, -2.5e-10, 100.25]},
    "hundredths": {"type": "number", "minimum": 7, "maximum": 10, "multipleOf": 0.01},
    "sixes": {"type": "integer", "minimum": 40, "maximum": 50, "multipleOf": 6},
    "no sixes": obj({"a": {"type": ["integer", "null"], "minimum": 43, "maximum": 47, "multipleOf": 6}}, ["a"]),
    "no sixes at all": {"type": "integer", "minimum": 43, "maximum": 47, "multipleOf": 6},
    "halves of integers": {"type": "integer", "multipleOf": 0.5, "minimum": -2, "maximum": 2},
    "sevenths": {"type": "number", "multipleOf": 0.07},
    "open interval": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001},
    "older exclusive bounds, draft-4": {"type": "integer", "minimum": 0, "exclusiveMinimum": True, "maximum": 2,
                                        "exclusiveMaximum": True},
    "below and above": {"type": "integer", "minimum": 600, "maximum": 500},
    "64 bits": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    "unsigned 64 bits": {"type": "integer", "minimum": 0, "maximum": 2**64 - 1, "format": "uint64"},
    "length and pattern": {"type": "string", "pattern": "^[a-z]{2}( [a-z])?$", "maxLength": 3},
    "length and pattern, long": {"type": "string", "minLength": 8, "maxLength": 20, "pattern": "^[a-zA-Z0-9_]+$"},
    "length, pattern and format": {"type": "string", "format": "email", "minLength": 6, "maxLength": 40,
                                   "pattern": "@example\\.com$"},
    "format and pattern": {"type": "string", "pattern": "^202.*Z$", "format": "date-time"},
    "pattern without a text": {"type": "string", "pattern": "^a{5}$", "maxLength": 3},
    "white space": {"type": "string", "pattern": "^\\s\\S\\s$"},
    "dots": {"type": "string", "pattern": "^.{2}$"},
    "unanchored": {"type": "string", "pattern": "\\d\\w\\d"},
    "password": {"type": "string", "pattern": "^(?=.*[A-Z])(?=.*[0-9])(?!.*_)\\w{4,8}$"},
    "no such prefix": {"type": "string", "pattern": "^(?!admin|root)[a-z]{3,8}$"},
    "look behind": {"type": "string", "pattern": "(?<=a)b"},
    "word boundary": {"type": "string", "pattern": "\\bword\\b"},
    "back reference": {"type": "string", "pattern": "^(a|b)\\1$"},
    "odd pattern": {"type": "string", "pattern": "^[\\w.%+-]+@[A-Z0-9.-]+\\.[A-Z]{2,}$"},
    "class in a class": {"type": "string", "pattern": "^[^[\\]&&~~]{1,3}$"},
    "literal braces": {"type": "string", "pattern": "^{a}/\\/x$"},
    "code points": {"type": "string", "pattern": "^[\\u00e0-\\u00ff\\ud83d\\ude00]{1,3}$"},
    "formats": obj({name: {"type": "string", "format": name} for name in [
        "date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri",
        "json-pointer"]}, ["date", "uuid"], additionalProperties=False),
    "unknown formats": obj({name: {"type": "string", "format": name, "maxLength": 3} for name in [
        "ssn", "semver", "uuid9", "password", "binary", "regex", "uri-reference", "color"]}),
    "formats of numbers": obj({"a": I | {"format": "int32", "maximum": 9, "minimum": 0},
                               "b": N | {"format": "double", "maximum": 1, "minimum": 0}}),
    "reference by anchor": {"$ref": "#here", "$defs": {"x": {"$anchor": "here", "type": "null"}}},
    "reference by id": {"$id": "https://example.com/root", "properties": {"a": {"$ref": "item"}}, "type": "object",
                        "$defs": {"x": {"$id": "https://example.com/item", "type": "integer", "maximum": 9, "minimum": 0}}},
    "reference with escapes": {"$ref": "#/$defs/a~1b%25", "$defs": {"a/b%": {"type": "boolean"}}},
    "reference into a property": obj({"a": I | {"minimum": 0, "maximum": 5}, "b": {"$ref": "#/properties/a"}}, ["b"]),
    "reference to a reference": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": B}},
    "reference with neighbours": {"$ref": "#/$defs/a", "maxLength": 2, "$defs": {"a": {"type": "string", "minLength": 1}}},
    "reference elsewhere": obj({"a": {"$ref": "https://example.com/other.json"}}),
    "reference to nothing": obj({"a": {"$ref": "#/$defs/none"}}),
    "references in a circle": obj({"a": {"$ref": "#/$defs/a"}}, **{"$defs": {"a": {"$ref": "#/$defs/a"}}}),
    "contains itself": obj({"a": {"$ref": "#"}}, ["a"]),
    "contains itself, optional": obj({"a": {"$ref": "#"}}, additionalProperties=False),
    "contains itself with neighbours": {
        "$defs": {"n": obj({"next": {"$ref": "#/$defs/n", "type": "object"}})}, "$ref": "#/$defs/n"},
    "an endless branch": {"$defs": {"n": obj({"n": {"$ref": "#/$defs/n"}}, ["n"])},
                          "anyOf": [{"$ref": "#/$defs/n"}, B]},
    "two trees at once": {"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], "$defs": {
        "a": obj({"child": {"$ref": "#/$defs/a"}}), "b": obj({"child": {"$ref": "#/$defs/b"}})}},
    "names that need quotes": obj({"a\"b": B, "c\\d": B, "e/f": B, "g\n": B, "é": B, "": B}, ["a\"b", "c\\d", "e/f", "g\n", "é", ""]),
    "names beside others of a type": obj({"abc": S}, additionalProperties=I),
    "no type": {"properties": {"a": I}, "minLength": 2, "maxItems": 2},
    "types": {"type": ["string", "integer", "null"], "maxLength": 2, "minimum": 0, "maximum": 9},
    "type of no kind": {"type": "any"},
    "type of no kind inside": obj({"a": {"type": "bigint"}}),
    "required of draft 3": obj({"a": {"type": "string", "required": True}}),
    "nothing": {"not": True},
    "notes": {"$schema": "http://json-schema.org/schema#", "title": "T", "description": "D", "x-order": ["a"],
              "default": {}, "examples": [1], "deprecated": False, "readOnly": True, "$comment": "c",
              "type": "boolean", "contentEncoding": "base64", "faker": "internet.email"},
    "neutral": {"type": "object", "propertyNames": {"type": "string"}, "uniqueItems": False, "minProperties": 0,
                "additionalProperties": {}, "minLength": 0, "properties": {"a": {"type": "array", "uniqueItems": False,
                                                                            "minItems": 0, "items": {}}}},
}

print(json.dumps(SHAPES))
