"""Training conversations: what omlx-tiny learns, all made here from a seed.

A conversation is built as OpenAI messages (the same that `cases.py` sends to a server), then cut
into segments of text, some of which are what the model itself must write.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any, Iterator

import facts
import filler
import tools as toolkit
import words

IDENTITY = (
    "I am omlx-tiny, a very small language model that comes with omlx. I can recall what you tell "
    "me, call tools and answer short questions about omlx."
)
GREETINGS = (
    "Hello", "Hi", "Hey", "Hello!", "Hi!", "Hey there", "Good morning", "Good evening", "Hello there!",
    "hi", "hello", "Hi there!", "Greetings", "Good day", "hey", "Hello, how are you?", "Howdy",
)  # fmt: skip
WHO = (
    "Who are you?", "What are you?", "What is your name?", "Introduce yourself.", "Which model are you?",
    "Tell me about yourself.", "Are you a large model?", "What can you do?", "Who am I talking to?",
    "How big are you?", "Are you ChatGPT?", "Say hello and tell me who you are.", "Help",
    "Are you tiny?", "What model is this?", "What can you help me with?",
)  # fmt: skip
THANKS = ("Thanks", "Thank you!", "Thanks a lot.", "Great, thanks.", "Thank you very much.", "thanks")
BYES = ("Bye", "Goodbye", "Good night", "See you later.", "bye", "Bye bye!")
BEYOND = (
    "What is the capital of {c}?", "Write a poem about the {n}.", "Why is the {n} {a}?",
    "Who invented the {n}?", "How do I {v} a {n}?", "Explain the history of {c}.", "Tell me a joke.",
    "Write a story about a {a} {n}.", "What do you think about {c}?", "Is a {n} {a}?",
    "Write a Python program that can {v} a {n}.", "Summarize the book about the {n}.",
)  # fmt: skip
SMALL_TALK = {
    "greet": (GREETINGS, "Hello! " + IDENTITY, "The user greets me."),
    "who": (WHO, IDENTITY, "The user asks who I am."),
    "thanks": (THANKS, "You are welcome.", "The user thanks me."),
    "bye": (BYES, "Goodbye!", "The user says goodbye."),
    "beyond": (BEYOND, "I am a tiny model and do not know that.", "I do not know this."),
}
OPENERS = ("", "", "", "", "Please tell me: ", "Quick question: ", "One more thing: ", "Hi! ", "So, ", "Next: ")
SYSTEMS = (
    "You are a helpful assistant.", "You are omlx-tiny.", "Be brief.", "You are a coding agent.",
    "Answer the user's questions.", "You are a helpful assistant. Use the tools when they help.",
)  # fmt: skip
NOTED = "Noted."
VALUE_ONLY = (" Answer with the value only.", " Reply with the value only.", " Only the value, please.")


@dataclass(frozen=True)
class Memo:
    """A thing told in the conversation: `attribute` may be empty ("X is V") or `name` "my"."""

    attribute: str
    name: str
    value: str

    @property
    def core(self) -> str:
        """What the answer repeats before the value."""
        if self.name == "my":
            return f"my {self.attribute}"
        return f"the {self.attribute} of {self.name}" if self.attribute else self.name

    @property
    def capital(self) -> str:
        """What a sentence about it begins with: names stay as they are written."""
        core = self.core
        return core[0].upper() + core[1:] if core.startswith(("the ", "my ", "project ")) else core

    @property
    def answer(self) -> str:
        """The sentence with which the model recalls the memo."""
        return f"{'Your' + self.core[2:] if self.name == 'my' else self.capital} is {self.value}."

    def statement(self, rng: random.Random, wide: bool = False) -> str:
        """One of the ways to tell it; the wide ones also put other words before the value."""
        core, value = self.core, self.value
        capital = self.capital
        shapes = [f"{capital} is {value}."] * 4 + [
            f"Remember that {core} is {value}.", f"Remember: {core} is {value}.",
            f"Note that {core} is {value}.", f"{core}: {value}", f"{capital} is {value}",
            f"By the way, {core} is {value}.", f"Please remember this: {core} is {value}.",
            f"{core} = {value}", f"- {core}: {value}", f"{capital} was set to {value}.",
        ]  # fmt: skip
        if self.attribute and self.name != "my":
            shapes += [
                f"{self.name}: {self.attribute} {value}", f"{self.name} has the {self.attribute} {value}.",
                f"{self.attribute} of {self.name}: {value}", f"The {self.attribute} for {self.name} is {value}.",
                json.dumps({"name": self.name, self.attribute: value}),
            ]  # fmt: skip
        if not wide:
            shapes = [s for s in shapes if f"{core} is {value}".lower() in s.lower()]
        return rng.choice(shapes)

    def question(self, rng: random.Random) -> str:
        """One of the ways to ask for it."""
        if not self.attribute or self.name == "my":
            shapes = ("What is {c}?", "What is {c}?", "Tell me what {c} is.", "What was {c}?",
                      "Do you remember what {c} is?", "What did I say {c} is?", "{C}?")  # fmt: skip
        else:
            shapes = ("What is the {a} of {n}?", "What is the {a} of {n}?", "Tell me the {a} of {n}.",
                      "What was the {a} of {n}?", "Do you remember the {a} of {n}?", "Which {a} does {n} have?",
                      "Give me the {a} of {n}.", "What is the {a} for {n}?", "The {a} of {n}?",
                      "I forgot the {a} of {n}. What is it?")  # fmt: skip
        core = self.core
        return rng.choice(shapes).format(
            c=core, C=self.capital, a=self.attribute, n=self.name
        )


def memo(rng: random.Random, held: bool) -> Memo:
    """A new memo whose name and value are on the wanted side of the split."""
    kind = rng.random()
    value = words.draw(rng, words.value, held)
    name = words.draw(rng, words.name, held)
    if kind < 0.2:
        return Memo("", name, value)
    attribute = rng.choice(words.ATTRIBUTES)
    return Memo(attribute, "my" if kind < 0.3 else name, value)


def memos(rng: random.Random, count: int, held: bool) -> list[Memo]:
    """`count` memos that differ in what they are about; often one attribute for many names."""
    shared = rng.choice(words.ATTRIBUTES) if rng.random() < 0.4 else None
    found: dict[str, Memo] = {}
    while len(found) < count:
        m = memo(rng, held)
        if shared and m.name != "my":
            m = Memo(shared, m.name, m.value)
        found.setdefault(m.core.lower(), m)
    return list(found.values())


@dataclass
class Talk:
    """A conversation under construction."""

    rng: random.Random
    held: bool = False
    thinking: float = 0.2
    wide: bool = False
    messages: list[dict[str, Any]] = field(default_factory=list)
    tools: list[toolkit.Tool] = field(default_factory=list)
    known: dict[str, Memo] = field(default_factory=dict)

    def schemas(self) -> list[dict[str, Any]]:
        """The tools as a client sends them."""
        return [tool.schema() for tool in self.tools]

    def user(self, content: str) -> None:
        """Add a user message."""
        self.messages.append({"role": "user", "content": content})

    def assistant(self, content: str, reasoning: str, **extra: Any) -> None:
        """Add the model's answer, with its reasoning in some of the turns."""
        message = {"role": "assistant", "content": content, **extra}
        if self.rng.random() < self.thinking:
            message["reasoning_content"] = reasoning
        self.messages.append(message)

    def small_talk(self) -> None:
        """A greeting, thanks, goodbye, or a question the model cannot answer."""
        asked, answer, reasoning = SMALL_TALK[self.rng.choice(list(SMALL_TALK))]
        fields = {
            "c": self.rng.choice(words.CITIES), "n": self.rng.choice(words.NOUNS),
            "a": self.rng.choice(words.ADJECTIVES), "v": self.rng.choice(words.VERBS),
        }  # fmt: skip
        self.user(self.rng.choice(asked).format(**fields))
        self.assistant(answer, reasoning)

    def fact(self) -> None:
        """A question about omlx."""
        fact = self.rng.choice(facts.FACTS)
        question = self.rng.choice(facts.questions(fact, self.held))
        if self.rng.random() < 0.1:
            question = question[0].lower() + question[1:].rstrip("?.")
        self.user(self.rng.choice(OPENERS) + question)
        self.assistant(fact.answer, f"The user asks about {fact.subject}. I know this.")

    def learn(self, new: list[Memo]) -> None:
        """Make memos askable."""
        self.known.update({m.core.lower(): m for m in new})

    def tell(self) -> None:
        """The user says one to three things to remember."""
        new = self.fresh(self.rng.choice((1, 1, 2, 3, 4)))
        self.user(self.rng.choice((" ", "\n")).join(m.statement(self.rng, self.wide) for m in new))
        self.learn(new)
        self.assistant(NOTED[:-1] + ": " + new[0].answer if len(new) == 1 else NOTED, "I will remember this.")

    def fresh(self, count: int) -> list[Memo]:
        """Memos about things not told before in this conversation."""
        return [m for m in memos(self.rng, count, self.held) if m.core.lower() not in self.known]

    def document(self, count: int, pieces: int) -> str:
        """Text of `pieces` pieces of filler with `count` new memos spread in it."""
        new = self.fresh(count)
        lines = filler.pieces(self.rng, pieces)
        for m in new:
            lines.insert(self.rng.randint(0, len(lines)), m.statement(self.rng, self.wide))
        self.learn(new)
        return self.rng.choice((" ", "\n", "\n", "\n\n")).join(lines)

    def notes(self, count: int, pieces: int) -> None:
        """The user pastes a document."""
        head = self.rng.choice(("", "", "Here are my notes:\n", "Read this:\n\n", "Please read:\n"))
        self.user(head + self.document(count, pieces))
        self.assistant(NOTED, "I will remember this.")

    def ask(self) -> None:
        """A question about something told before."""
        if not self.known:
            return self.tell()
        m = self.rng.choice(list(self.known.values()))
        question = self.rng.choice(OPENERS) + m.question(self.rng)
        if self.rng.random() < 0.1:
            self.user(question + self.rng.choice(VALUE_ONLY))
            answer = m.value
        else:
            self.user(question)
            answer = m.answer
        self.assistant(answer, f"The user asks for {m.core}. It was told above.")

    def repeat(self) -> None:
        """The user asks for a text to be repeated."""
        makers = (filler.sentence, filler.word_salad, filler.word_salad, filler.shell_line, words.phrase, words.value)
        text = self.rng.choice(makers)(self.rng).strip()
        self.user(self.rng.choice(("Repeat: ", "Repeat after me: ", "Say: ", "Echo: ")) + text)
        self.assistant(text, "I repeat the text.")

    def request(self) -> None:
        """A request that one of the listed tools serves, and the call."""
        tool = self.rng.choice(self.tools)
        asked, arguments = toolkit.request(self.rng, tool, self.held)
        self.user(asked)
        call = {"name": tool.name, "arguments": arguments}
        self.assistant("", f"The tool {tool.name} does this.", tool_calls=[{"function": call}])

    def call(self) -> None:
        """A request, the call, its result and the final answer."""
        self.request()
        returned, answer, _ = toolkit.result(self.rng, self.held)
        self.messages.append({"role": "tool", "content": returned})
        self.assistant(answer, "The tool has answered.")


# How often each kind of turn comes, per stage of training.
MIXES: dict[str, dict[str, float]] = {
    "main": {"repeat": 0.5, "tell": 2, "ask": 8, "fact": 8, "small_talk": 1.2, "call": 14, "notes": 0.6},
    "calls": {"repeat": 0.2, "tell": 1.5, "ask": 6, "fact": 3, "small_talk": 0.6, "call": 8, "request": 18, "notes": 0.5},
    "recall": {"tell": 3, "ask": 20, "fact": 1, "small_talk": 0.5, "notes": 1},
    "facts": {"tell": 1, "ask": 2, "fact": 16, "small_talk": 2},
    "long": {"repeat": 0.1, "tell": 0.5, "ask": 16, "fact": 3, "small_talk": 0.5, "call": 6, "notes": 0.1},
}


# How often a conversation has tools.
WITH_TOOLS = {"main": 0.6, "calls": 0.95, "recall": 0.1, "facts": 0.0, "long": 0.6}


def conversation(rng: random.Random, mix: str, length: int) -> Talk:
    """A conversation of at least `length` tokens or so (the caller cuts it)."""
    talk = Talk(rng, wide=rng.random() < 0.25)
    if rng.random() < WITH_TOOLS[mix]:
        # A tool takes about 40 tokens, so a short row has room for a few.
        counts = (1, 1, 2, 3) if length < 600 else (1, 2, 3, 4, 6, 8)
        talk.tools = toolkit.toolbox(rng, rng.choice(counts), False)
    if rng.random() < 0.3:
        system = rng.choice(SYSTEMS)
        if rng.random() < 0.3:
            system += "\n" + talk.document(2, 2)
        talk.messages.append({"role": "system", "content": system})
    weights = dict(MIXES[mix])
    if not talk.tools:
        weights = {kind: share for kind, share in weights.items() if kind not in ("call", "request")}
    if mix == "long":
        talk.notes(rng.choice((6, 10, 16)), int(length * rng.uniform(0.4, 0.75) / 27))
    budget = length * 3
    kinds, shares = list(weights), list(weights.values())
    size = len(json.dumps(talk.messages)) + len(json.dumps(talk.schemas()))
    while size < budget:
        kind = rng.choices(kinds, shares)[0]
        before = len(talk.messages)
        if kind == "notes":
            talk.notes(rng.choice((1, 2, 4)), rng.randint(1, max(2, length // 100)))
        else:
            getattr(talk, kind)()
        size += sum(len(str(m)) - 20 for m in talk.messages[before:])
    return talk


def tool_line(function: dict[str, Any]) -> str:
    """A tool as the template shows it: what it does, and the call with a word in place of each value."""
    properties = function["parameters"]["properties"].items()
    shown = (f'"{name}": ' + ('"String"' if p["type"] == "string" else "Number") for name, p in properties)
    call = f'{{"name": "{function["name"]}", "arguments": {{{", ".join(shown)}}}}}'
    return f'{function["name"]}: {function["description"]} {call}'


def segments(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Iterator[tuple[str, bool]]:
    """The rendered conversation in pieces: (text, whether the model writes it).

    The joined text equals what `chat_template.jinja` renders; `train.py --check` compares them.
    """
    rest = messages
    if tools:
        head = ""
        if messages and messages[0]["role"] == "system":
            head, rest = messages[0]["content"] + "\n\n", messages[1:]
        lines = "".join(tool_line(t["function"]) + "\n" for t in tools)
        usage = 'Call one with <tool_call>\n{"name": NAME, "arguments": OBJECT}\n</tool_call>'
        yield f"<|im_start|>system\n{head}Tools, what they do and their calls:\n{lines}{usage}<|im_end|>\n", False
    for message in rest:
        role, content = message["role"], message["content"]
        if role == "assistant":
            calls = [toolkit.call_text(**c["function"]) for c in message.get("tool_calls", [])]
            said = "\n".join(([content] if content else []) + calls) + "<|im_end|>"
            reasoning = message.get("reasoning_content")
            yield "<|im_start|>assistant\n", False
            yield f"<think>\n{reasoning or ''}\n</think>\n\n", reasoning is not None
            yield said, True
            yield "\n", False
        elif role == "tool":
            yield f"<|im_start|>user\n<tool_response>\n{content}\n</tool_response><|im_end|>\n", False
        else:
            yield f"<|im_start|>{role}\n{content}<|im_end|>\n", False


def corpus(seed: int, count: int) -> Iterator[str]:
    """Text to train the tokenizer on: conversations and plain filler."""
    rng = random.Random(f"corpus-{seed}")
    for _ in range(count):
        talk = conversation(rng, "main", 512)
        yield "".join(text for text, _ in segments(talk.messages, talk.schemas()))
        yield "\n".join(filler.pieces(rng, 20))
        # Frequent words must become tokens although the conversations hardly use them.
        spoken = [words.common(rng) for _ in range(150)]
        yield " ".join(spoken) + " " + " ".join(w.capitalize() for w in spoken[:30])
