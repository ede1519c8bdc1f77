"""Cuts the schemas of what we serve out of OpenAI's own document.

    python3 tests/oracle/extract_openai_schemas.py path/to/openai-openapi/openapi.json COMMIT

Writes tests/fixtures/openai/schemas.json: the roots below and what they refer to, without prose. Of a
choice between many kinds (items of a response, events of its stream) only those that we send are kept.
"""

import json
import sys
from pathlib import Path

ROOTS = [
    "CreateChatCompletionResponse", "CreateChatCompletionStreamResponse", "CreateCompletionResponse",
    "ListModelsResponse", "ErrorResponse", "Response", "ResponseStreamEvent", "TokenCountsResource",
]
# Branches of anyOf and oneOf that are kept, for schemas with more than a few.
SENT = {
    "OutputItem": ["OutputMessage", "FunctionToolCall", "ReasoningItem"],
    "OutputMessageContent": ["OutputTextContent", "RefusalContent"],
    "Tool": ["FunctionTool", "NamespaceToolParam", "WebSearchTool"],
    "ToolChoiceParam": ["ToolChoiceOptions", "ToolChoiceAllowed", "ToolChoiceFunction"],
    "ResponseStreamEvent": [
        "ResponseCreatedEvent", "ResponseInProgressEvent", "ResponseCompletedEvent", "ResponseIncompleteEvent",
        "ResponseFailedEvent", "ResponseErrorEvent", "ResponseOutputItemAddedEvent", "ResponseOutputItemDoneEvent",
        "ResponseContentPartAddedEvent", "ResponseContentPartDoneEvent", "ResponseTextDeltaEvent",
        "ResponseTextDoneEvent", "ResponseFunctionCallArgumentsDeltaEvent", "ResponseFunctionCallArgumentsDoneEvent",
        "ResponseReasoningTextDeltaEvent", "ResponseReasoningTextDoneEvent",
        "ResponseReasoningSummaryPartAddedEvent", "ResponseReasoningSummaryPartDoneEvent",
        "ResponseReasoningSummaryTextDeltaEvent", "ResponseReasoningSummaryTextDoneEvent",
    ],
}
# What no answer of ours holds.
OPAQUE = ["InputItem", "Prompt", "ChatCompletionModeration", "Moderation", "Annotation"]
PROSE = {"description", "example", "examples", "title", "deprecated", "discriminator", "externalDocs"}


def strip(value, inside_properties=False):
    """Without prose and vendor extensions; names of properties are no keywords. `nullable`, which JSON Schema
    does not know, becomes a choice."""
    if isinstance(value, list):
        return [strip(one) for one in value]
    if not isinstance(value, dict):
        return value
    keep = value if inside_properties else {
        key: one for key, one in value.items() if key not in PROSE | {"nullable"} and not key.startswith("x-")}
    kept = {key: strip(one, key == "properties" and not inside_properties) for key, one in keep.items()}
    nullable = not inside_properties and value.get("nullable") is True
    return {"anyOf": [kept, {"type": "null"}]} if nullable else kept


def references(value):
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"].rsplit("/", 1)[-1]
        for one in value.values():
            yield from references(one)
    elif isinstance(value, list):
        for one in value:
            yield from references(one)


def pruned(name, schema):
    if name in OPAQUE:
        return True
    kinds = SENT.get(name)
    for keyword in ("anyOf", "oneOf"):
        if kinds and keyword in schema:
            branches = [one for one in schema[keyword] if one.get("$ref", "").rsplit("/", 1)[-1] in kinds]
            schema = {**schema, keyword: branches}
    return schema


def main():
    document = json.loads(Path(sys.argv[1]).read_text())
    schemas, found, todo = document["components"]["schemas"], {}, list(ROOTS)
    while todo:
        name = todo.pop()
        if name not in found:
            found[name] = pruned(name, strip(schemas[name]))
            todo += references(found[name])
    folder = Path(__file__).resolve().parents[1] / "fixtures/openai"
    folder.mkdir(exist_ok=True)
    extract = {"commit": sys.argv[2], "components": {"schemas": dict(sorted(found.items()))}}
    lines = [f"{json.dumps(name)}: {json.dumps(schema)}" for name, schema in extract["components"]["schemas"].items()]
    (folder / "schemas.json").write_text(
        f'{{"commit": "{sys.argv[2]}", "components": {{"schemas": {{\n' + ",\n".join(lines) + "\n}}}\n")
    print(len(found), "schemas:", ", ".join(sorted(found)))


if __name__ == "__main__":
    main()
