"""Measures omlx-tiny on the held-out cases and fails when a target is missed.

    python evaluate.py                                                   the files, by transformers
    python evaluate.py --base-url http://127.0.0.1:1337 --api-key KEY    a running daemon

The second form needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import Callable

import cases
from cases import Case, Reply

TARGETS = {"recall far": 0.95, "tool call": 0.95, "facts": 0.90}
MAX_TOKENS = 160
# The agent's prompt takes minutes where MLX runs on processors.
REQUEST_TIMEOUT_SECS = 1200
Backend = Callable[[Case], Reply]


def http_backend(base_url: str, api_key: str, model: str) -> Backend:
    """Asks a server over the OpenAI chat completions API."""
    url = base_url.rstrip("/").removesuffix("/v1") + "/v1/chat/completions"
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {api_key}"}

    def ask(case: Case) -> Reply:
        body = {
            "model": model,
            "messages": case.messages,
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
            "chat_template_kwargs": {"enable_thinking": case.thinking},
        }
        if case.tools:
            body["tools"] = case.tools
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_SECS) as response:
            choice = json.load(response)["choices"][0]
        message = choice["message"]
        # A server that does not take calls and reasoning out of the text leaves them in the content.
        reply = parse(message.get("content") or "", choice["finish_reason"] != "length")
        reply.reasoning = message.get("reasoning_content") or reply.reasoning
        reply.calls = [
            {"name": c["function"]["name"], "arguments": _arguments(c["function"]["arguments"])}
            for c in message.get("tool_calls") or []
        ] or reply.calls
        return reply

    return ask


def _arguments(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def local_backend(folder: Path, threads: int) -> Backend:
    """Runs the model folder with Hugging Face transformers in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def ask(case: Case) -> Reply:
        prompt = tokenizer.apply_chat_template(
            case.messages,
            tools=case.tools or None,
            add_generation_prompt=True,
            enable_thinking=case.thinking,
            tokenize=False,
        )
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            out = model.generate(**ids, max_new_tokens=MAX_TOKENS, do_sample=False, temperature=None, top_k=None)
        written = out[0, ids["input_ids"].shape[1] :]
        stopped = written[-1].item() == tokenizer.eos_token_id
        return parse(tokenizer.decode(written, skip_special_tokens=True), stopped)

    return ask


def parse(text: str, stopped: bool) -> Reply:
    """Split generated text into reasoning, content and calls."""
    reasoning = ""
    if found := re.match(r"<think>\n(.*?)\n</think>\n\n", text, re.DOTALL):
        reasoning, text = found[1], text[found.end() :]
    calls = []
    for body in re.findall(r"<tool_call>\n(.*?)\n</tool_call>", text, re.DOTALL):
        call = _arguments(body)
        calls.append(call if isinstance(call, dict) else {"malformed": body})
    content = re.sub(r"<tool_call>.*?</tool_call>", "", text, flags=re.DOTALL)
    finish = "length" if not stopped else "tool_calls" if calls else "stop"
    return Reply(content, reasoning, calls, finish)


def measure(backend: Backend, made: list[Case], misses: Path | None) -> dict[str, tuple[int, int]]:
    """Ask all cases; returns passed and asked per kind, and writes the misses where wanted."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    missed = []
    for case in made:
        try:
            reply = backend(case)
        except OSError as error:
            print(f"{case.kind}: {error}", file=sys.stderr)
            reply = Reply("", "", [], "error")
        good = cases.passes(case, reply)
        counts[case.kind][0] += good
        counts[case.kind][1] += 1
        if not good:
            expected = case.call or case.equals or case.contains
            missed.append({"kind": case.kind, "asked": case.messages[-1]["content"][-200:],
                           "expected": expected, "reply": vars(reply)})  # fmt: skip
    if misses:
        misses.write_text("".join(json.dumps(m) + "\n" for m in missed))
    return {kind: (passed, asked) for kind, (passed, asked) in counts.items()}


def report(counts: dict[str, tuple[int, int]]) -> bool:
    """Print the table; returns whether every target is met."""
    met = True
    print(f"{'held-out cases':24}{'passed':>12}{'share':>9}{'target':>9}")
    for kind, (passed, asked) in counts.items():
        target = TARGETS.get(kind)
        low = target is not None and passed / asked < target
        met &= not low
        shown = f"{target:9.0%}" if target else f"{'-':>9}"
        print(f"{kind:24}{f'{passed}/{asked}':>12}{passed / asked:9.1%}{shown}{'  MISSED' if low else ''}")
    return met


def main() -> int:
    """Parse the command line, measure, and tell by the exit code whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", help="a server; without it the files are run here")
    parser.add_argument("--api-key", default="")
    parser.add_argument("--model", default="omlx-tiny", help="model id at the server")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the cases to ask")
    parser.add_argument("--kind", action="append", help="only cases of this kind")
    parser.add_argument("--misses", type=Path, help="write the failed cases here, one JSON object a line")
    arguments = parser.parse_args()
    if arguments.base_url:
        backend = http_backend(arguments.base_url, arguments.api_key, arguments.model)
    else:
        backend = local_backend(arguments.folder, arguments.threads)
    made = cases.all_cases(arguments.scale) + ([cases.agent_prompt()] if arguments.base_url else [])
    made = [c for c in made if not arguments.kind or c.kind in arguments.kind]
    started = time.monotonic()
    met = report(measure(backend, made, arguments.misses))
    print(f"{len(made)} cases in {time.monotonic() - started:.0f} s")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
