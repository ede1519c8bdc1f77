"""The held-out cases that measure omlx-tiny, as OpenAI chat requests with what must come back.

Names, values, made tools and question wordings are on the held-out side of the splits in
`words.py` and `facts.py`; the seed differs from the training's. Only the standard library is used.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass, field
from typing import Any

import data
import facts
import filler
import tools as toolkit

SEED = "evaluation-1"
FAR_TOKENS = 4000
# One match is at least one token (see PRE_TOKENS in train.py), so counting matches never overstates
# how many tokens lie between a fact and its question.
_PIECE = re.compile(r" ?[a-z]+|[A-Z][a-z]+|[A-Z]|[0-9]{1,2}| ?[^\sA-Za-z0-9]+|\s*[\r\n]+|\s+")


@dataclass
class Case:
    """One request and its expectation; the fields that a kind does not use stay empty."""

    kind: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list)
    thinking: bool = False
    contains: list[str] = field(default_factory=list)
    equals: str | None = None
    call: dict[str, Any] | None = None
    anything: bool = False


@dataclass
class Reply:
    """What a backend answered, in the terms of the chat completions API."""

    content: str
    reasoning: str
    calls: list[dict[str, Any]]
    finish: str


def tokens_at_least(text: str) -> int:
    """A lower bound of the number of tokens in an ASCII text."""
    return len(_PIECE.findall(text))


def has_value(text: str, value: str) -> bool:
    """Whether the value stands in the text exactly, not as a part of a longer word or number."""
    return re.search(rf"(?<![\w-]){re.escape(value)}(?![\w-])", text) is not None


def passes(case: Case, reply: Reply) -> bool:
    """Whether the reply is the expected one, ended by itself, and thought only when asked to."""
    if case.anything:
        return bool(reply.content or reply.calls)
    if reply.finish not in ("stop", "tool_calls") or bool(reply.reasoning.strip()) != case.thinking:
        return False
    if case.call is not None:
        return reply.calls == [case.call]
    if reply.calls or "<think>" in reply.content:
        return False
    if case.equals is not None:
        return reply.content.strip() == case.equals
    return all(has_value(reply.content, value) for value in case.contains)


def openai(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages of a `data.Talk` as a client sends them: call ids, arguments as a string."""
    sent = []
    for index, message in enumerate(messages):
        message = dict(message)
        if "tool_calls" in message:
            function = message["tool_calls"][0]["function"]
            text = json.dumps(function["arguments"], ensure_ascii=False)
            called = {"name": function["name"], "arguments": text}
            message["tool_calls"] = [{"id": f"call_{index}", "type": "function", "function": called}]
        elif message["role"] == "tool":
            message["tool_call_id"] = f"call_{index - 1}"
        sent.append(message)
    return sent


def _talk(rng: random.Random) -> data.Talk:
    return data.Talk(rng, held=True, thinking=0.0)


def recall(rng: random.Random, distance: int, thinking: bool = False) -> Case:
    """A fact told at least `distance` tokens before it is asked for, other facts around it."""
    talk = _talk(rng)
    told = data.memos(rng, rng.choice((3, 6, 10)), True)
    wanted, others = told[0], told[1:]
    talk.learn(told)
    lines = [wanted.statement(rng)]
    while tokens_at_least("\n".join(lines)) < distance:
        lines += filler.pieces(rng, 8)
        if others and rng.random() < 0.2:
            lines.append(others.pop().statement(rng))
    lines += [m.statement(rng) for m in others]
    lead = filler.pieces(rng, rng.randrange(4))
    if rng.random() < 0.5:
        talk.user("\n".join(lead + lines))
        talk.assistant(data.NOTED, "")
    else:
        talk.user(" ".join(lead + lines[:1]))
        talk.assistant(data.NOTED, "")
        talk.user("\n".join(lines[1:]))
        talk.assistant(data.NOTED, "")
    talk.user(wanted.question(rng))
    kind = ("recall far" if distance >= FAR_TOKENS else "recall near") + (", thinking" if thinking else "")
    return Case(kind, openai(talk.messages), contains=[wanted.value], thinking=thinking)


def fact(item: facts.Fact, question: str) -> Case:
    """A question about omlx in a wording that training never used for this fact."""
    return Case("facts", [{"role": "user", "content": question}], equals=item.answer)


def _tool_talk(rng: random.Random) -> tuple[data.Talk, dict[str, Any]]:
    talk = _talk(rng)
    talk.tools = toolkit.toolbox(rng, rng.choice((1, 2, 3, 4, 6)), True)
    if rng.random() < 0.3:
        talk.messages.append({"role": "system", "content": rng.choice(data.SYSTEMS)})
    for _ in range(rng.choice((0, 0, 1, 2))):
        rng.choice((talk.fact, talk.small_talk, talk.tell, talk.call))()
    tool = rng.choice(talk.tools)
    asked, arguments = toolkit.request(rng, tool, True)
    talk.user(asked)
    return talk, {"name": tool.name, "arguments": arguments}


def tool_call(rng: random.Random, thinking: bool = False) -> Case:
    """A request that one of the listed tools serves."""
    talk, call = _tool_talk(rng)
    kind = "tool call, thinking" if thinking else "tool call"
    return Case(kind, openai(talk.messages), talk.schemas(), thinking, call=call)


def tool_result(rng: random.Random) -> Case:
    """The final answer must hold what the tool returned."""
    talk, call = _tool_talk(rng)
    talk.assistant("", "", tool_calls=[{"function": call}])
    returned, _, values = toolkit.result(rng, True)
    talk.messages.append({"role": "tool", "content": returned})
    return Case("tool result", openai(talk.messages), talk.schemas(), contains=values)


def greeting(rng: random.Random) -> Case:
    """Hello, or who are you: the model says its name and that it is small."""
    asked = rng.choice(data.GREETINGS + data.WHO)
    return Case("greeting", [{"role": "user", "content": asked}], contains=["omlx-tiny", "very small"])


def agent_prompt(size: int = 77_000) -> Case:
    """A system prompt of `size` bytes and twenty tools, as agents send: it must run through, no more."""
    rng = random.Random(SEED + "-agent")
    text = ""
    while len(text) < size:
        text += "\n".join(filler.pieces(rng, 8)) + "\n"
    messages = [{"role": "system", "content": text}, {"role": "user", "content": "Hello"}]
    schemas = [tool.schema() for tool in toolkit.toolbox(rng, 20, True)]
    return Case("agent prompt, 77 kB", messages, schemas, anything=True)


def all_cases(scale: float = 1.0) -> list[Case]:
    """Every case; `scale` below 1 takes fewer of each kind."""

    def times(count: int) -> range:
        return range(max(1, int(count * scale)))

    rng = random.Random(SEED)
    made = [recall(rng, FAR_TOKENS) for _ in times(120)]
    made += [recall(rng, rng.randrange(20, 1500)) for _ in times(150)]
    made += [tool_call(rng) for _ in times(200)]
    made += [tool_result(rng) for _ in times(100)]
    asked = [fact(f, q) for f in facts.FACTS for q in facts.questions(f, held_out=True)]
    made += rng.sample(asked, len(times(len(asked))))
    made += [greeting(rng) for _ in times(30)]
    made += [recall(rng, rng.randrange(20, 600), thinking=True) for _ in times(40)]
    made += [tool_call(rng, thinking=True) for _ in times(40)]
    return made
