"""What schemathesis does besides its own checks: most requests reach the model, and every event of a
stream has the schema that docs/openapi.json gives it.
"""

import json
import os
from pathlib import Path

import jsonschema_rs
import schemathesis

MODEL = os.environ["OMLX_MODEL"]
# Answers are short: what is tested is not how long they can be.
MOST_TOKENS = 6
TOKENS = {"/v1/chat/completions": "max_completion_tokens", "/v1/completions": "max_tokens",
          "/v1/responses": "max_output_tokens", "/v1/messages": "max_tokens"}
DOCUMENT = json.loads((Path(__file__).resolve().parents[2] / "docs/openapi.json").read_text())
validators = {}


@schemathesis.hook
def before_call(context, case, kwargs):
    body = case.body
    if not isinstance(body, dict):
        return
    # What was left out, or is no name at all, stays so.
    if isinstance(body.get("model"), str) and body["model"]:
        body["model"] = MODEL
    # What depends on more than the schema can say: ids below the vocabulary, and `best_of` as `n`.
    if isinstance(body.get("prompt"), list):
        body["prompt"] = [small(one) for one in body["prompt"]]
    body.pop("best_of", None)
    field = TOKENS.get(case.operation.path)
    wanted = body.get(field) if field else None
    if field and (wanted is None and (field != "max_tokens" or "messages" not in body)
                  or type(wanted) is int and wanted > MOST_TOKENS):
        body[field] = MOST_TOKENS


def small(value):
    if isinstance(value, list):
        return [small(one) for one in value]
    return value % 256 if type(value) is int and value >= 0 else value


def event_schema(case):
    operation = DOCUMENT["paths"][case.operation.path][case.operation.method.lower()]
    content = operation["responses"].get("200", {}).get("content", {})
    return content.get("text/event-stream", {}).get("x-event")


def validator(schema):
    key = json.dumps(schema)
    if key not in validators:
        root = {**schema, "components": {"schemas": DOCUMENT["components"]["schemas"]}}
        validators[key] = jsonschema_rs.Draft202012Validator(root)
    return validators[key]


@schemathesis.check
def events_have_their_schema(ctx, response, case):
    kind = response.headers.get("content-type", [""])[0]
    if not kind.startswith("text/event-stream"):
        return
    schema, text = event_schema(case), response.content.decode()
    assert schema is not None, "a stream where none is described"
    assert text.endswith("\n\n"), "a stream that ends inside an event"
    for event in text.removesuffix("\n\n").split("\n\n"):
        data = [line.removeprefix("data: ") for line in event.split("\n") if line.startswith("data: ")]
        if not data or data == ["[DONE]"]:
            continue
        value = json.loads("\n".join(data))
        if "error" in value and value.get("type") != "error" and "choices" not in value:
            validator({"$ref": "#/components/schemas/Error"}).validate(value)
        else:
            validator(schema).validate(value)
