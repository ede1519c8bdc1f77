"""openai-python against a running omlxd: OPENAI_BASE_URL, OPENAI_API_KEY and OMLX_MODEL say where.

Each check is a function; the first that fails ends the run with its traceback. Arguments name those to run.
"""

import json
import os
import sys
import threading
import time
from typing import Literal

import openai
import pydantic

from attempts import Attempts

MODEL = os.environ["OMLX_MODEL"]
MESSAGES = [{"role": "user", "content": "Say something, anything at all."}]
client = openai.OpenAI(max_retries=0, timeout=60)
# No end of sequence ends these: how long they are is known.
ENDLESS = {"ignore_eos": True}


def models():
    listed = client.models.list().data
    assert MODEL in [model.id for model in listed], listed
    one = client.models.retrieve(MODEL)
    assert (one.id, one.object) == (MODEL, "model") and one.created > 0 and one.owned_by


def chat():
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_completion_tokens=12, temperature=0,
                                            extra_body=ENDLESS)
    assert answer.id.startswith("chatcmpl-") and answer.object == "chat.completion"
    assert answer.model == MODEL
    [choice] = answer.choices
    assert choice.message.role == "assistant" and choice.message.refusal is None
    assert choice.finish_reason == "length", choice
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    assert answer.usage.prompt_tokens_details.cached_tokens is not None
    return choice.message.content


def stream_equals_whole():
    whole = chat()
    stream = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_completion_tokens=12, temperature=0, extra_body=ENDLESS,
        stream=True, stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)
    first, last = chunks[0], chunks[-1]
    assert first.choices[0].delta.role == "assistant" and first.choices[0].delta.content == ""
    assert last.choices == [] and last.usage.completion_tokens == 12
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-2].choices[0].finish_reason == "length"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == whole, (text, whole)


def stream_without_usage():
    stream = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=3, stream=True)
    chunks = list(stream)
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def logprobs():
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3,
        extra_body=ENDLESS,
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == 4
    for token in content:
        assert len(token.top_logprobs) == 3 and token.logprob == token.top_logprobs[0].logprob
        assert token.bytes is None or isinstance(token.bytes, list)


def several_choices():
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=4, n=3, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage.completion_tokens <= 12


def completions():
    answer = client.completions.create(model=MODEL, prompt="The cache", max_tokens=8, temperature=0)
    assert answer.object == "text_completion" and answer.choices[0].finish_reason in ("length", "stop")
    stream = client.completions.create(model=MODEL, prompt="The cache", max_tokens=8, temperature=0, stream=True)
    text = "".join(chunk.choices[0].text for chunk in stream if chunk.choices)
    assert text == answer.choices[0].text, (text, answer.choices[0].text)
    both = client.completions.create(model=MODEL, prompt=["The cache", "A block"], max_tokens=2)
    assert [choice.index for choice in both.choices] == [0, 1]


def raises(kind, status, code, param, call):
    try:
        call()
    except kind as error:
        assert type(error) is kind, error
        body = error.body
        assert error.status_code == status, error
        assert set(body) >= {"message", "type", "param", "code"}, body
        assert (body["code"], body["param"]) == (code, param), body
        assert error.request_id, "no x-request-id"
        return
    raise AssertionError(f"no {kind.__name__}")


def errors():
    def ask(of=client, **changes):
        return lambda: of.chat.completions.create(**({"model": MODEL, "messages": MESSAGES, "max_tokens": 2} | changes))

    raises(openai.NotFoundError, 404, "model_not_found", "model", ask(model="no/such-model"))
    raises(openai.NotFoundError, 404, "model_not_found", "model", lambda: client.models.retrieve("no/such-model"))
    raises(openai.AuthenticationError, 401, "invalid_api_key", None, ask(of=client.with_options(api_key="sk-wrong")))
    raises(openai.BadRequestError, 400, "invalid_value", "messages", ask(messages=[]))
    raises(openai.BadRequestError, 400, "invalid_value", "temperature", ask(temperature=3))
    raises(openai.BadRequestError, 400, "invalid_type", "max_tokens", ask(max_tokens="two"))
    raises(openai.BadRequestError, 400, "context_length_exceeded", "messages",
           ask(messages=[{"role": "user", "content": "word " * 140_000}]))


TOOLS = [
    {"type": "function", "function": {"name": name, "description": what, "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"], "additionalProperties": False}}}
    for name, what in (("get_weather", "Weather of a city."), ("get_time", "Time in a city."))
]
NAMED = {"type": "function", "function": {"name": "get_weather"}}


def is_call(call):
    assert call.id.startswith("call_") and call.type == "function", call
    assert call.function.name in ("get_weather", "get_time"), call
    assert isinstance(json.loads(call.function.arguments)["city"], str), call


def tools_round_trip():
    """A call that must be made, its result, and an answer to it."""
    asked = [{"role": "user", "content": "What is the weather in Oslo?"}]
    first = client.chat.completions.create(
        model=MODEL, messages=asked, tools=TOOLS, tool_choice=NAMED, temperature=0, max_tokens=200)
    [choice] = first.choices
    assert choice.finish_reason == "tool_calls", choice
    [call] = choice.message.tool_calls
    is_call(call)
    assert call.function.name == "get_weather"
    asked += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "3 degrees, rain"}]
    second = client.chat.completions.create(model=MODEL, messages=asked, tools=TOOLS, temperature=0, max_tokens=40)
    assert second.usage.prompt_tokens > first.usage.prompt_tokens
    assert second.choices[0].message.role == "assistant"


def tools_streamed():
    """The pieces of a call make the same call, in the order that the SDK's own helper expects."""
    with client.chat.completions.stream(
        model=MODEL, messages=MESSAGES, tools=TOOLS, tool_choice=NAMED, temperature=0, max_tokens=200,
    ) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    [call] = final.choices[0].message.tool_calls
    is_call(call)
    assert final.choices[0].finish_reason == "tool_calls"
    pieces = [event for event in events if event.type == "tool_calls.function.arguments.delta"]
    assert "".join(piece.arguments_delta for piece in pieces) == call.function.arguments
    assert len(pieces) > 1, "arguments come as they are made"


def parallel_tools():
    for several in (True, False):
        answer = client.chat.completions.create(
            model=MODEL, messages=MESSAGES, tools=TOOLS, tool_choice="required", parallel_tool_calls=several,
            temperature=0, max_tokens=400)
        calls = answer.choices[0].message.tool_calls
        for call in calls:
            is_call(call)
        assert len({call.id for call in calls}) == len(calls) and (several or len(calls) == 1)
    made = [{"id": f"call_{n}", "type": "function",
             "function": {"name": "get_weather", "arguments": json.dumps({"city": city})}}
            for n, city in enumerate(("Oslo", "Rome"))]
    results = [{"role": "tool", "tool_call_id": f"call_{n}", "content": "rain"} for n in (1, 0)]
    answer = client.chat.completions.create(
        model=MODEL, messages=[*MESSAGES, {"role": "assistant", "tool_calls": made}, *results], tools=TOOLS, max_tokens=4)
    assert answer.usage.completion_tokens > 0


class Place(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    name: Literal["Oslo", "Rome"]
    size: int = pydantic.Field(ge=0, le=9)
    old: bool


def parse_with_schema():
    answer = client.chat.completions.parse(
        model=MODEL, messages=MESSAGES, response_format=Place, temperature=0, max_tokens=300)
    assert isinstance(answer.choices[0].message.parsed, Place), answer
    json_object = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, response_format={"type": "json_object"}, max_tokens=3, temperature=0)
    assert json_object.choices[0].message.content.lstrip().startswith("{")
    raises(openai.BadRequestError, 400, None, "response_format",
           lambda: client.chat.completions.create(
               model=MODEL, messages=MESSAGES, max_tokens=2, response_format={
                   "type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}}}))


def timeout():
    """The client gives up; the daemon notices, and goes on with others."""
    impatient = client.with_options(timeout=openai.Timeout(30, read=0.3))
    try:
        impatient.chat.completions.create(model=MODEL, messages=MESSAGES, extra_body=ENDLESS)
    except openai.APITimeoutError:
        chat()
        return
    raise AssertionError("no timeout")


def cancel():
    """Closing a stream stops the generation: the next answer does not wait for the old one."""
    stream = client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True, extra_body=ENDLESS)
    next(iter(stream))
    stream.close()
    started = time.monotonic()
    chat()
    assert time.monotonic() - started < 30


def waits_as_told(which, count, kind, status, code):
    """A daemon that has no room for more than `count` requests refuses one; the SDK waits as it is told, and gets
    its answer when there is room."""
    base_url = os.environ.get(f"OMLX_{which}_BASE_URL")
    if not base_url:
        return
    attempts = Attempts()
    http = openai.DefaultHttpxClient(event_hooks={"response": [attempts.note]})
    busy = client.with_options(base_url=base_url, api_key=os.environ[f"OMLX_{which}_API_KEY"])
    endless = {"model": MODEL, "messages": MESSAGES, "stream": True, "extra_body": ENDLESS}
    held = [busy.chat.completions.create(**endless)]
    # With its first text it has left the queue.
    next(chunk for chunk in held[0] if chunk.choices and chunk.choices[0].delta.content)
    held += [busy.chat.completions.create(**endless) for _ in range(count - 1)]
    raises(kind, status, code, None,
           lambda: busy.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=2))
    threading.Timer(0.5, lambda: [stream.close() for stream in held]).start()
    patient = busy.with_options(max_retries=5, http_client=http)
    patient.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=2)
    attempts.assert_waited(status)


def retries():
    """One request of a key at a time."""
    waits_as_told("BUSY", 1, openai.RateLimitError, 429, "rate_limit_exceeded")


def full_queue():
    """One request runs, one waits."""
    waits_as_told("FULL", 2, openai.InternalServerError, 503, "server_overloaded")


CHECKS = (models, chat, stream_equals_whole, stream_without_usage, logprobs, several_choices, completions, errors,
          tools_round_trip, tools_streamed, parallel_tools, parse_with_schema, timeout, retries, full_queue,
          cancel)
named = {check.__name__: check for check in CHECKS}
for name in sys.argv[1:] or named:
    named[name]()
    print("ok", name, flush=True)
