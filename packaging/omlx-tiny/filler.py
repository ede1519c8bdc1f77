"""Text between the facts: prose, logs, JSON, shell and random words, all from templates."""

from __future__ import annotations

import json
import random

import words

SENTENCES = (
    "The {a} {n} stands near the {n2}.",
    "In the morning the {n} was {a}, and nobody asked why.",
    "We walked past the {a} {n} and talked about the {n2}.",
    "A {n} is not a {n2}, but both can be {a}.",
    "{p} bought a {a} {n} in {c} for {d} coins.",
    "{p} said that the {n} would {v} before {d} o'clock.",
    "If the {n} is {a}, {v} it and then {v2} the {n2}.",
    "They had to {v} the {n} because the {n2} was too {a}.",
    "There were {d} {n}s in the {n2}, most of them {a}.",
    "The way from {c} to the {n} is long, {a} and {a2}.",
    "It is easy to {v} a {n}, harder to {v2} it well.",
    "You should {v} the {n} first; the {n2} can wait until later.",
    "When the work was done, {p} went home and read about the {n}.",
    "Please {v} the {n} when you have time, it has been {a} for days.",
    "Each {n} has its own {n2}, which makes the {a} one easy to find.",
    "The committee will {v} the {n} in {c} on {y}.",
    "Do not {v} the {n} unless the {n2} is {a} and the lights are on.",
    "This section is about the {n}; the next one is about the {n2}.",
    "My notes say that {p} likes the {a} {n} more than the {n2}.",
    "The report mentions {d} cases of {a} {n}s and {d2} others.",
    "Nothing here is important, it is only about the {n}.",
    "What would {p} do with a {a} {n}? Probably {v} it.",
    "The instructions are short: use the {n}, do not {v} the {n2}, and always check the result.",
    "Most people think that every {n} must be {a}, which is not true.",
)


def _fields(rng: random.Random) -> dict[str, str]:
    pick = rng.choice
    return {
        "a": pick(words.ADJECTIVES), "a2": pick(words.ADJECTIVES), "n": pick(words.NOUNS),
        "n2": pick(words.NOUNS), "v": pick(words.VERBS), "v2": pick(words.VERBS),
        "p": pick(words.FIRST_NAMES), "c": pick(words.CITIES), "d": str(rng.randrange(2, 5000)),
        "d2": str(rng.randrange(2, 100)), "y": words.date(rng),
    }  # fmt: skip


def sentence(rng: random.Random) -> str:
    """One sentence of prose."""
    return rng.choice(SENTENCES).format(**_fields(rng))


def log_line(rng: random.Random) -> str:
    """A line as a server would log it."""
    level = rng.choice(("INFO", "WARN", "ERROR", "DEBUG"))
    clock = f"{rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02}"
    rest = f"{rng.choice(words.VERBS)} {rng.choice(words.NOUNS)} id={rng.randrange(10000)}"
    return f"{words.date(rng)}T{clock}Z {level} {rest} {rng.choice(words.ADJECTIVES)} in {rng.randrange(900)} ms"


def json_line(rng: random.Random) -> str:
    """A small JSON object, sometimes a nested one."""
    row = {
        rng.choice(words.NOUNS): rng.choice((words.value(rng), rng.randrange(1000), True, None))
        for _ in range(rng.randint(1, 4))
    }
    if rng.random() < 0.3:
        row["items"] = [words.word(rng) for _ in range(rng.randint(1, 4))]
    return json.dumps(row, indent=rng.choice((None, None, 2)))


def shell_line(rng: random.Random) -> str:
    """A shell command or a line of a script."""
    n, v, p = rng.choice(words.NOUNS), rng.choice(words.VERBS), words.path(rng)
    return rng.choice((
        f"$ ls -la {p}", f"cd {n} && git status", f"for f in *.{n}; do {v} \"$f\"; done",
        f"cat {p} | grep -v {n} | sort | uniq -c", f"curl -s http://127.0.0.1:{rng.randrange(9000)}/{n}",
        f"if [ -f {p} ]; then rm {p}; fi", f"echo \"{v} {n}\" >> {p}", f"sudo apt install {n}",
        f"def {v}_{n}(x):\n    return x + {rng.randrange(100)}", f"let {n} = {v}({rng.randrange(100)});",
        f"- {v} the {n}", f"# {n.capitalize()} and {v}", f"{n.upper()}_{v.upper()}={rng.randrange(100)}",
        f"* {n.capitalize()}: see {p}.", f"    if {v} == {rng.randrange(20)} && {n} != null {{\n        return {n};\n    }}",
        f"    // {v} the {n}\n    {n}.{v}(|x| x + 1)?;", f"async fn {v}() -> Result<{n.capitalize()}> {{",
        f"<{n}>{v}</{n}>", f"  - name: {n}\n    {v}: true", f"## {n.capitalize()}\n\n1. {v.capitalize()} it.",
        f"const {n} = await {v}(`${{x}}`) || [];\nfor (let i = 0; i < 10; i++) {{", f"`{n} --{v} <{n}>`: {v}s", f"fn {v}({n}: u32) -> u32 {{ {n} + 1 }}",
    ))  # fmt: skip


def word_salad(rng: random.Random) -> str:
    """Words, codes and numbers without any order."""
    makers = (words.common, words.common, words.common, words.word, words.code, words.digits, words.path, words.city)
    salad = [rng.choice(makers)(rng) for _ in range(rng.randint(4, 16))]
    if rng.random() < 0.2:
        salad = [part.capitalize() for part in salad]
    return rng.choice((" ", " ", " ", ", ", "\n", "_", "/", '", "')).join(salad)


STYLES = (
    (sentence, sentence, sentence, sentence, log_line, json_line, shell_line, word_salad),
    (sentence,),
    (log_line, log_line, shell_line),
    (shell_line, json_line, sentence),
    (word_salad, sentence),
)


def pieces(rng: random.Random, count: int) -> list[str]:
    """`count` pieces of filler in one style."""
    style = rng.choice(STYLES)
    return [rng.choice(style)(rng) for _ in range(count)]
