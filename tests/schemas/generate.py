"""Writes corpus.jsonl: JSON schemas of growing difficulty, one a line, as {"level", "schema"}.

The same seed gives the same file; `python3 tests/schemas/generate.py` writes it anew. Level 0 holds
schemas as people and SDKs write them; levels 1 to 9 are drawn at random, each deeper, wider and with
more keywords than the one before. All of them can be satisfied and use only what can be enforced.
"""

import json
import random
from pathlib import Path

PER_LEVEL = 32
NAMES = [
    "id", "name", "title", "kind", "tags", "city", "unit", "value", "items", "owner", "note", "path",
    "start", "end", "status", "is_open", "first name", "größe", "naïve", "数量", "a/b", "x-y", "$ref2",
    "with \"quotes\"", "back\\slash", "tab\tin", "é\u0301", "", "0", "emoji 🙂",
]
WORDS = ["red", "green", "blue", "low", "high", "naïve", "日本", "a b", "\"", "\\", "/", "🙂", "", "\n"]
PATTERNS = [
    "^[a-z]{2,5}$", "^[A-Z][a-z]+$", "^\\d{3}-\\d{2}$", "^(on|off|auto)$", "^#[0-9a-f]{6}$",
    "^[^\\s]{1,6}$", "^v\\d{1,2}(\\.\\d{1,2}){0,2}$", "[0-9]", "^\\w+@\\w+$", "^(a|b)*c$",
]
FORMATS = ["date", "date-time", "time", "uuid", "ipv4", "email", "hostname", "duration"]


def string(rng, level):
    schema = {"type": "string"}
    choice = rng.randrange(6 if level > 1 else 2)
    if choice == 1:
        low = rng.randrange(4)
        schema["minLength"] = low
        schema["maxLength"] = low + rng.randrange(1, 12)
    elif choice == 2:
        schema["pattern"] = rng.choice(PATTERNS)
    elif choice == 3:
        schema["format"] = rng.choice(FORMATS)
    elif choice == 4:
        schema["maxLength"] = rng.randrange(1, 20)
    elif choice == 5:
        return {"enum": rng.sample(WORDS, rng.randrange(1, 6))}
    return schema


def number(rng, level):
    schema = {"type": rng.choice(["integer", "number"])}
    choice = rng.randrange(5 if level > 1 else 2)
    low = rng.randrange(-1000, 1000)
    if choice == 1:
        schema["minimum"] = low
        schema["maximum"] = low + rng.randrange(5000)
    elif choice == 2:
        schema["exclusiveMinimum"] = low
        schema["exclusiveMaximum"] = low + 2 + rng.randrange(100)
    elif choice == 3:
        schema = {"type": "integer", "multipleOf": rng.choice([2, 3, 5, 10, 25])}
        schema["minimum"] = 0
        schema["maximum"] = 100 * schema["multipleOf"]
    elif choice == 4 and schema["type"] == "number":
        schema["minimum"] = low / 8
        schema["maximum"] = low / 8 + rng.randrange(1, 64) / 4
    else:
        schema["minimum"], schema["maximum"] = -10**6, 10**6
    return schema


def leaf(rng, level):
    choice = rng.randrange(10)
    if choice < 4:
        return string(rng, level)
    if choice < 7:
        return number(rng, level)
    if choice == 7:
        return {"type": "boolean"}
    if choice == 8:
        return {"const": rng.choice([None, True, 3, -2.5, "fixed", ["a", 1], {"k": [None]}])}
    if level > 2:
        return {"type": [rng.choice(["string", "integer"]), "null"], "maxLength": 8,
                "minimum": 0, "maximum": 99}
    return {"type": "null"}


def obj(rng, level, depth, defs):
    names = rng.sample(NAMES, rng.randrange(1, min(9, 2 + level)))
    schema = {"type": "object",
              "properties": {name: any_schema(rng, level, depth - 1, defs) for name in names}}
    required = [name for name in names if rng.random() < 0.7]
    if required:
        schema["required"] = required
    if level > 4 and rng.random() < 0.25:
        schema["additionalProperties"] = leaf(rng, level)
    elif level > 5 and rng.random() < 0.2:
        schema["patternProperties"] = {"^zz_[a-z]{1,3}$": leaf(rng, level)}
        schema["additionalProperties"] = False
    else:
        schema["additionalProperties"] = False
    return schema


def array(rng, level, depth, defs):
    schema = {"type": "array", "items": any_schema(rng, level, depth - 1, defs)}
    low = rng.randrange(3)
    if rng.random() < 0.8:
        schema["minItems"], schema["maxItems"] = low, low + rng.randrange(4)
    if level > 4 and rng.random() < 0.3:
        schema["prefixItems"] = [leaf(rng, level) for _ in range(rng.randrange(1, 3))]
        schema["items"] = False
        schema["minItems"] = len(schema["prefixItems"])
        schema.pop("maxItems", None)
    return schema


def union(rng, level, depth, defs):
    if level > 6 and rng.random() < 0.4:
        kinds = rng.sample(["circle", "square", "line", "text", "group"], rng.randrange(2, 4))
        options = []
        for kind in kinds:
            option = obj(rng, level - 3, depth - 1, defs)
            option["properties"]["kind"] = {"const": kind}
            option["required"] = sorted(set(option.get("required", []) + ["kind"]))
            options.append(option)
        return {"oneOf": options}
    return {"anyOf": [any_schema(rng, level, depth - 1, defs) for _ in range(rng.randrange(2, 4))]}


def any_schema(rng, level, depth, defs):
    if depth <= 0:
        return leaf(rng, level)
    choice = rng.random()
    if choice < 0.35:
        return leaf(rng, level)
    if choice < 0.6:
        return obj(rng, level, depth, defs)
    if choice < 0.8:
        return array(rng, level, depth, defs)
    if level > 3 and choice < 0.88:
        return union(rng, level, depth, defs)
    if level > 5 and defs is not None and choice < 0.96:
        return {"$ref": "#/$defs/" + rng.choice(list(defs))}
    if level > 6:
        name = rng.choice(["p", "q"])
        return {"allOf": [
            {"type": "object", "properties": {name: {"type": "integer", "minimum": 0, "maximum": 99}},
             "required": [name]},
            {"type": "object", "properties": {"r": {"type": "boolean"}},
             "additionalProperties": {"type": ["integer", "string", "boolean", "null"],
                                      "maximum": 999, "minimum": -999, "maxLength": 9}},
        ]}
    return obj(rng, level, depth, defs)


def drawn(level, rng):
    defs = None
    if level > 5:
        defs = {"leaf": leaf(rng, level), "pair": obj(rng, 2, 1, None)}
        if level > 7:
            defs["tree"] = {"type": "object", "properties": {
                "label": {"type": "string", "maxLength": 5},
                "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}},
                "required": ["label"], "additionalProperties": False}
    depth = 1 + level // 3
    schema = obj(rng, level, depth, defs) if level < 9 else any_schema(rng, level, depth, defs)
    if defs:
        schema["$defs"] = defs
    return schema


WRITTEN = [
    {},
    True,
    {"type": "object"},
    {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 5},
    {"type": "string", "maxLength": 10},
    {"type": "boolean"},
    {"type": "null"},
    {"enum": ["yes", "no", "maybe"]},
    {"enum": [1, "one", None, True, [1], {"one": 1}]},
    {"const": {"deep": {"er": ["x", {"y": None}]}}},
    # A person, as in every tutorial.
    {"title": "Person", "type": "object", "properties": {
        "name": {"title": "Name", "type": "string", "maxLength": 12},
        "age": {"title": "Age", "type": "integer", "minimum": 0, "maximum": 150},
        "email": {"anyOf": [{"type": "string", "format": "email"}, {"type": "null"}], "default": None}},
     "required": ["name", "age"]},
    # A calendar event: what OpenAI's own examples parse.
    {"type": "object", "properties": {
        "name": {"type": "string", "maxLength": 20}, "date": {"type": "string", "format": "date"},
        "participants": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 4}},
     "required": ["name", "date", "participants"], "additionalProperties": False},
    # Steps of a solution, with definitions as pydantic writes them.
    {"$defs": {"Step": {"properties": {
        "explanation": {"title": "Explanation", "type": "string", "maxLength": 16},
        "output": {"title": "Output", "type": "string", "maxLength": 16}},
        "required": ["explanation", "output"], "title": "Step", "type": "object",
        "additionalProperties": False}},
     "properties": {"steps": {"items": {"$ref": "#/$defs/Step"}, "title": "Steps", "type": "array",
                              "maxItems": 3},
                    "final_answer": {"title": "Final Answer", "type": "string", "maxLength": 16}},
     "required": ["steps", "final_answer"], "title": "MathResponse", "type": "object",
     "additionalProperties": False},
    # A user interface that contains itself.
    {"$defs": {"UI": {"type": "object", "properties": {
        "type": {"type": "string", "enum": ["div", "button", "header", "section", "field", "form"]},
        "label": {"type": "string", "maxLength": 6},
        "children": {"type": "array", "items": {"$ref": "#/$defs/UI"}, "maxItems": 2},
        "attributes": {"type": "array", "maxItems": 2, "items": {"type": "object", "properties": {
            "name": {"type": "string", "maxLength": 6}, "value": {"type": "string", "maxLength": 6}},
            "required": ["name", "value"], "additionalProperties": False}}},
        "required": ["type", "label", "children", "attributes"], "additionalProperties": False}},
     "$ref": "#/$defs/UI"},
    # A linked list by the root.
    {"type": "object", "properties": {"value": {"type": "integer", "minimum": 0, "maximum": 9},
                                      "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
     "required": ["value", "next"], "additionalProperties": False},
    # Draft 7, as zod-to-json-schema writes it.
    {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": {
        "action": {"type": "string", "const": "move"},
        "to": {"type": "array", "items": [{"type": "number", "minimum": -9, "maximum": 9},
                                          {"type": "number", "minimum": -9, "maximum": 9}],
               "minItems": 2, "maxItems": 2, "additionalItems": False}},
     "required": ["action", "to"], "additionalProperties": False},
    {"$schema": "http://json-schema.org/draft-07/schema#",
     "definitions": {"positive": {"type": "integer", "exclusiveMinimum": 0, "maximum": 1000}},
     "type": "object", "properties": {"w": {"$ref": "#/definitions/positive"},
                                      "h": {"$ref": "#/definitions/positive"}},
     "required": ["w", "h"], "additionalProperties": False},
    # Shapes told apart by a constant.
    {"oneOf": [
        {"type": "object", "properties": {"kind": {"const": "circle"},
                                          "r": {"type": "number", "minimum": 0, "maximum": 10}},
         "required": ["kind", "r"], "additionalProperties": False},
        {"type": "object", "properties": {"kind": {"const": "rect"},
                                          "w": {"type": "number", "minimum": 0, "maximum": 10},
                                          "h": {"type": "number", "minimum": 0, "maximum": 10}},
         "required": ["kind", "w", "h"], "additionalProperties": False}]},
    # Maps.
    {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 99}},
    {"type": "object", "patternProperties": {"^[a-z]{2}$": {"type": "string", "maxLength": 4}},
     "additionalProperties": False},
    # Agents' tools.
    {"type": "object", "properties": {"command": {"type": "array", "items": {"type": "string",
        "maxLength": 6}, "maxItems": 3}, "workdir": {"type": "string", "maxLength": 12},
        "timeout_ms": {"type": "number", "minimum": 0, "maximum": 60000}}, "required": ["command"],
     "additionalProperties": False},
    {"type": "object", "properties": {"file_path": {"type": "string", "maxLength": 12},
        "old_string": {"type": "string", "maxLength": 12}, "new_string": {"type": "string",
        "maxLength": 12}, "replace_all": {"type": "boolean", "default": False}},
     "required": ["file_path", "old_string", "new_string"], "additionalProperties": False,
     "$schema": "https://json-schema.org/draft/2020-12/schema"},
    {"type": "object", "properties": {"todos": {"type": "array", "maxItems": 3, "items": {
        "type": "object", "properties": {"content": {"type": "string", "minLength": 1, "maxLength": 9},
        "status": {"type": "string", "enum": ["pending", "in_progress", "completed"]},
        "id": {"type": "string", "pattern": "^[0-9]{1,3}$"}}, "required": ["content", "status", "id"],
        "additionalProperties": False}}}, "required": ["todos"], "additionalProperties": False},
    # Wide: sixty optional fields; an enumeration of three hundred.
    {"type": "object", "properties": {f"field_{n:02}": {"type": "boolean"} for n in range(60)},
     "additionalProperties": False},
    {"enum": [f"option number {n}" for n in range(300)]},
    # Deep: twenty-four objects in each other.
    None,
    # Bounds at the edges of numbers.
    {"type": "array", "items": {"type": "integer", "minimum": -1, "maximum": 1}, "minItems": 6,
     "maxItems": 6},
    {"type": "number", "minimum": 0.1, "maximum": 0.125},
    {"type": "integer", "minimum": 999999999999, "maximum": 1000000000001},
    {"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 4},
    {"type": "string", "minLength": 3, "maxLength": 3},
    {"type": "string", "pattern": "^(?:[01]\\d|2[0-3]):[0-5]\\d$"},
    {"type": "array", "items": {"type": "array", "items": {"type": "array", "items": {
        "type": "boolean"}, "maxItems": 2}, "maxItems": 2}, "maxItems": 2},
    {"anyOf": [{"type": "string", "maxLength": 4}, {"type": "integer", "minimum": 0, "maximum": 9},
               {"type": "array", "items": {"type": "null"}, "maxItems": 3}]},
    {"allOf": [{"type": "object", "properties": {"a": {"type": "integer", "minimum": 0}},
                "required": ["a"]},
               {"type": "object", "properties": {"a": {"maximum": 7},
                                                 "b": {"type": "boolean"}}, "required": ["b"],
                "additionalProperties": {"type": "boolean"}}]},
    {"type": ["object", "null"], "properties": {"x": {"type": "boolean"}}, "required": ["x"],
     "additionalProperties": False},
]


def deep(levels):
    schema = {"type": "integer", "minimum": 0, "maximum": 9}
    for n in range(levels):
        schema = {"type": "object", "properties": {f"l{n}": schema}, "required": [f"l{n}"],
                  "additionalProperties": False}
    return schema


def main():
    lines = []
    for schema in WRITTEN:
        schema = deep(24) if schema is None else schema
        lines.append({"level": 0, "schema": schema})
    for level in range(1, 10):
        for n in range(PER_LEVEL):
            rng = random.Random(level * 1000 + n)
            lines.append({"level": level, "schema": drawn(level, rng)})
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    Path(__file__).with_name("corpus.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
