"""openai-python against a running omlxd: OPENAI_BASE_URL, OPENAI_API_KEY and OMLX_MODEL say where.

Each check is a function; the first that fails ends the run with its traceback.
"""

import os
import time

import openai

MODEL = os.environ["OMLX_MODEL"]
MESSAGES = [{"role": "user", "content": "Say something, anything at all."}]
client = openai.OpenAI(max_retries=0, timeout=60)


def models():
    listed = client.models.list().data
    assert MODEL in [model.id for model in listed], listed
    one = client.models.retrieve(MODEL)
    assert (one.id, one.object) == (MODEL, "model") and one.created > 0 and one.owned_by


def chat():
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_completion_tokens=12, temperature=0)
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
        model=MODEL, messages=MESSAGES, max_completion_tokens=12, temperature=0,
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
           ask(messages=[{"role": "user", "content": "word " * 5000}]))


def cancel():
    """Closing a stream stops the generation: the next answer does not wait for the old one."""
    stream = client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
    next(iter(stream))
    stream.close()
    started = time.monotonic()
    chat()
    assert time.monotonic() - started < 30


for check in (models, chat, stream_equals_whole, stream_without_usage, logprobs, several_choices,
              completions, errors, cancel):
    check()
    print("ok", check.__name__)
