"""Renders the corpus of tests/fixtures/templates with transformers, the oracle of chat templates.

    python3 -m venv .venv/templates
    .venv/templates/bin/python -m pip install -r tests/oracle/template_requirements.txt
    .venv/templates/bin/python tests/oracle/make_template_goldens.py [FOLDER]

FOLDER holds published models' templates (default: ../shared/templates beside the checkout). They are
not ours to store: of what they render, expected.json keeps length and SHA-256. What our own snippets
and omlx-tiny's template render is kept as text.
"""

import hashlib
import json
import sys
from datetime import datetime
from pathlib import Path

import jinja2
import transformers
from transformers.utils import chat_template_utils

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests/fixtures/templates"
# Templates are told the day, not the time.
NOW = datetime(2026, 3, 7)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
FORMATS = ["%Y-%m-%d", "%d %b %Y", "%B %-d, %Y", "%A %a %j %U %W %u %w", "%H:%M:%S.%f", "%I:%M %p", "%y/%m/%d", "%e",
           "%Z|%z|", "%c", "%x %X", "%D %T %R %F", "%G-%V", "%C %h %n%t%%", "%k|%l|%P", "%-m/%-d/%-y %-H:%-M"]


class Clock(datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


chat_template_utils.datetime = Clock


tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(ROOT / "tests/fixtures/tokenizer.json"), **TOKENS)


def render(source, messages, tools=None, add_generation_prompt=True, **variables):
    return tokenizer.apply_chat_template(
        messages, tools=tools, chat_template=source, tokenize=False,
        add_generation_prompt=add_generation_prompt, **variables)


def outcome(keep, *args, **variables):
    try:
        text = render(*args, **variables)
    except jinja2.exceptions.TemplateError as error:
        raised = type(error) is jinja2.exceptions.TemplateError
        return {"raised": error.message} if raised and keep else {"raised": True} if raised else {"failed": True}
    except Exception:
        return {"failed": True}
    if keep:
        return {"text": text}
    return {"bytes": len(text.encode()), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def templates(folder):
    """Name to source, of every file of the folder."""
    for path in sorted(folder.iterdir()):
        if path.suffix == ".jinja":
            yield path.name, path.read_text()
        elif path.suffix == ".json":
            yield path.name, json.loads(path.read_text())["chat_template"]


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT.parent / "shared/templates"
    corpus = json.loads((FIXTURES / "conversations.json").read_text())
    snippets = json.loads((FIXTURES / "snippets.json").read_text())

    def conversations(source, keep):
        found = {}
        for case in corpus:
            rest = {key: value for key, value in case.items() if key not in ("name", "messages", "kwargs")}
            found[case["name"]] = outcome(keep, source, case["messages"], **rest, **case.get("kwargs", {}))
        return found

    tiny = (ROOT / "packaging/omlx-tiny/chat_template.jinja").read_text()
    hello = [{"role": "user", "content": "Hello"}]
    expected = {
        "made_by": {"transformers": transformers.__version__, "jinja2": jinja2.__version__},
        "day": NOW.strftime("%Y-%m-%d"),
        "omlx-tiny": conversations(tiny, True),
        "snippets": {source: outcome(True, source, hello, **snippets["context"]) for source in snippets["snippets"]},
        "strftime": {form: NOW.strftime(form) for form in FORMATS},
        "published": {
            name: {"sha256": hashlib.sha256(source.encode()).hexdigest(), "renders": conversations(source, False)}
            for name, source in templates(folder)
        },
    }
    (FIXTURES / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    for name, renders in [("omlx-tiny", expected["omlx-tiny"]), ("snippets", expected["snippets"]),
                          *((name, one["renders"]) for name, one in expected["published"].items())]:
        kinds = [next(iter(one)) for one in renders.values()]
        print(f"{name}: {len(kinds)} cases, {kinds.count('raised')} raise, {kinds.count('failed')} fail")


if __name__ == "__main__":
    main()
