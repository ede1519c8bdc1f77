"""anthropic-python against a running omlxd: ANTHROPIC_BASE_URL, ANTHROPIC_API_KEY and OMLX_MODEL say where.

Each check is a function; the first that fails ends the run with its traceback. Arguments name those to run.
"""

import os
import sys
import threading
import time

import anthropic

from attempts import Attempts

MODEL = os.environ["OMLX_MODEL"]
MESSAGES = [{"role": "user", "content": "Say something, anything at all."}]
client = anthropic.Anthropic(max_retries=0, timeout=60)
# What the SDK has no parameter for.
GREEDY = {"temperature": 0}
ENDLESS = {"ignore_eos": True}
TOOLS = [
    {"name": name, "description": what, "input_schema": {
        "type": "object", "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"], "additionalProperties": False}}
    for name, what in (("get_weather", "Weather of a city."), ("get_time", "Time in a city."))
]


def message():
    answer = client.messages.create(model=MODEL, max_tokens=12, extra_body=GREEDY, system="Be brief.", messages=MESSAGES)
    assert answer.id.startswith("msg_") and (answer.type, answer.role, answer.model) == ("message", "assistant", MODEL)
    assert answer.stop_reason in ("end_turn", "max_tokens"), answer
    assert answer.usage.input_tokens > 0 and 0 < answer.usage.output_tokens <= 12
    return "".join(block.text for block in answer.content if block.type == "text")


def stream_equals_whole():
    whole = message()
    with client.messages.stream(
        model=MODEL, max_tokens=12, extra_body=GREEDY, system="Be brief.", messages=MESSAGES,
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop", kinds
    text = "".join(block.text for block in final.content if block.type == "text")
    assert text == whole, (text, whole)
    assert final.usage.output_tokens <= 12


def blocks_and_cache_markers():
    """A marker that moves between turns does not change the prompt."""
    counts = set()
    for marker in ({}, {"cache_control": {"type": "ephemeral"}}):
        counted = client.messages.count_tokens(
            model=MODEL, system=[{"type": "text", "text": "Be brief.", **marker}],
            messages=[{"role": "user", "content": [{"type": "text", "text": "Hello", **marker}]}])
        counts.add(counted.input_tokens)
    assert len(counts) == 1 and counts.pop() > 0


def tools_round_trip():
    asked = [{"role": "user", "content": "What is the weather in Oslo?"}]
    first = client.messages.create(
        model=MODEL, max_tokens=200, extra_body=GREEDY, messages=asked, tools=TOOLS,
        tool_choice={"type": "tool", "name": "get_weather"})
    assert first.stop_reason == "tool_use", first
    [call] = [block for block in first.content if block.type == "tool_use"]
    assert call.name == "get_weather" and isinstance(call.input["city"], str)
    asked += [{"role": "assistant", "content": first.content},
              {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "3 degrees"}]}]
    second = client.messages.create(model=MODEL, max_tokens=20, extra_body=GREEDY, messages=asked, tools=TOOLS)
    total = second.usage.input_tokens + (second.usage.cache_read_input_tokens or 0)
    assert total > first.usage.input_tokens
    with client.messages.stream(
        model=MODEL, max_tokens=200, extra_body=GREEDY, messages=asked[:1], tools=TOOLS,
        tool_choice={"type": "tool", "name": "get_weather"},
    ) as stream:
        final = stream.get_final_message()
    [streamed] = [block for block in final.content if block.type == "tool_use"]
    assert streamed.input == call.input and final.stop_reason == "tool_use"


def parallel_tools():
    answer = client.messages.create(
        model=MODEL, max_tokens=400, extra_body=GREEDY, messages=MESSAGES, tools=TOOLS, tool_choice={"type": "any"})
    calls = [block for block in answer.content if block.type == "tool_use"]
    assert calls and len({call.id for call in calls}) == len(calls)
    one = client.messages.create(
        model=MODEL, max_tokens=400, extra_body=GREEDY, messages=MESSAGES, tools=TOOLS,
        tool_choice={"type": "any", "disable_parallel_tool_use": True})
    assert len([block for block in one.content if block.type == "tool_use"]) == 1
    made = [{"type": "tool_use", "id": f"toolu_{n}", "name": "get_weather", "input": {"city": city}}
            for n, city in enumerate(("Oslo", "Rome"))]
    results = [{"type": "tool_result", "tool_use_id": f"toolu_{n}", "content": "rain"} for n in (0, 1)]
    history = [*MESSAGES, {"role": "assistant", "content": made}, {"role": "user", "content": results}]
    assert client.messages.create(model=MODEL, max_tokens=4, messages=history, tools=TOOLS).usage.output_tokens > 0


def raises(kind, status, error_type, call):
    try:
        call()
    except kind as error:
        assert type(error) is kind and error.status_code == status, error
        assert error.body["type"] == "error" and error.body["error"]["type"] == error_type, error.body
        assert error.body["error"]["message"]
        return
    raise AssertionError(f"no {kind.__name__}")


def errors():
    def ask(of=client, **changes):
        return lambda: of.messages.create(**({"model": MODEL, "messages": MESSAGES, "max_tokens": 2} | changes))

    raises(anthropic.NotFoundError, 404, "not_found_error", ask(model="no/such-model"))
    raises(anthropic.AuthenticationError, 401, "authentication_error", ask(of=client.with_options(api_key="sk-wrong")))
    raises(anthropic.BadRequestError, 400, "invalid_request_error", ask(messages=[]))
    raises(anthropic.BadRequestError, 400, "invalid_request_error", ask(extra_body={"temperature": 3}))
    raises(anthropic.BadRequestError, 400, "invalid_request_error",
           ask(messages=[{"role": "user", "content": "word " * 140_000}]))


def timeout():
    impatient = client.with_options(timeout=anthropic.Timeout(30, read=0.3))
    try:
        impatient.messages.create(model=MODEL, max_tokens=100_000, messages=MESSAGES, extra_body=ENDLESS)
    except anthropic.APITimeoutError:
        message()
        return
    raise AssertionError("no timeout")


def waits_as_told(which, count, kind, status, error_type):
    """A daemon that has no room for more than `count` requests refuses one; the SDK waits as it is told, and gets
    its answer when there is room."""
    base_url = os.environ.get(f"OMLX_{which}_ROOT_URL")
    if not base_url:
        return
    attempts = Attempts()
    http = anthropic.DefaultHttpxClient(event_hooks={"response": [attempts.note]})
    busy = client.with_options(base_url=base_url, api_key=os.environ[f"OMLX_{which}_API_KEY"])
    endless = {"model": MODEL, "max_tokens": 100_000, "messages": MESSAGES, "stream": True, "extra_body": ENDLESS}
    held = [busy.messages.create(**endless)]
    # With its first text it has left the queue.
    next(event for event in held[0] if event.type == "content_block_delta")
    held += [busy.messages.create(**endless) for _ in range(count - 1)]
    raises(kind, status, error_type, lambda: busy.messages.create(model=MODEL, max_tokens=2, messages=MESSAGES))
    threading.Timer(0.5, lambda: [stream.close() for stream in held]).start()
    patient = busy.with_options(max_retries=5, http_client=http)
    patient.messages.create(model=MODEL, max_tokens=2, messages=MESSAGES)
    attempts.assert_waited(status)


def retries():
    """One request of a key at a time."""
    waits_as_told("BUSY", 1, anthropic.RateLimitError, 429, "rate_limit_error")


def full_queue():
    """One request runs, one waits."""
    waits_as_told("FULL", 2, anthropic.ServiceUnavailableError, 503, "overloaded_error")


def cancel():
    """Closing a stream stops the generation: the next answer does not wait for the old one."""
    stream = client.messages.create(
        model=MODEL, max_tokens=100_000, messages=MESSAGES, stream=True, extra_body=ENDLESS)
    next(iter(stream))
    stream.close()
    started = time.monotonic()
    message()
    assert time.monotonic() - started < 30


CHECKS = (message, stream_equals_whole, blocks_and_cache_markers, tools_round_trip, parallel_tools, errors, timeout,
          retries, full_queue, cancel)
named = {check.__name__: check for check in CHECKS}
for name in sys.argv[1:] or named:
    named[name]()
    print("ok", name, flush=True)
