"""Asks the daemon something through the official OpenAI client: `ask.py <host:port> <key> [again]`.

The first run talks a little and then sends a long prompt; `again` sends that prompt once more.
"""

import sys
import time

from openai import OpenAI


def stream(client: OpenAI, messages: list[dict]) -> str:
    """Prints an answer as it comes, then what it cost; returns it."""
    begin = time.perf_counter()
    first = None
    answer = ""
    usage = None
    chunks = client.chat.completions.create(
        model="omlx-tiny",
        messages=messages,
        max_tokens=80,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    )
    for chunk in chunks:
        usage = chunk.usage or usage
        text = chunk.choices[0].delta.content if chunk.choices else None
        if text:
            first = first or time.perf_counter()
            answer += text
            print(text, end="", flush=True)
    end = time.perf_counter()
    print(
        f"\n   [{usage.prompt_tokens} prompt tokens,"
        f" {usage.prompt_tokens_details.cached_tokens} of them from the cache"
        f" ({usage.omlx['cached_tokens_ssd']} from SSD);"
        f" first text after {1000 * ((first or end) - begin):.0f} ms,"
        f" {usage.completion_tokens} tokens in {end - begin:.2f} s]"
    )
    return answer


def long_prompt() -> list[dict]:
    """Some thousand tokens of notes, with a fact early in them."""
    notes = [f"Note {n}: shelf {n * 7 % 40} holds {n * 13 % 90} boxes." for n in range(160)]
    notes.insert(12, "The code of Lisbon is 4471.")
    return [{"role": "user", "content": " ".join(notes) + " What is the code of Lisbon?"}]


def ask_long(client: OpenAI) -> None:
    """Sends the long prompt."""
    print("> (160 notes, and among them the code of Lisbon) What is the code of Lisbon?")
    stream(client, long_prompt())


def main() -> None:
    address, key, *again = sys.argv[1:]
    client = OpenAI(base_url=f"http://{address}/v1", api_key=key, max_retries=0)
    if again:
        return ask_long(client)
    messages = []
    for question in ["Hello! What are you?", "Which port does omlxd listen on?"]:
        print(f"> {question}")
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": stream(client, messages)})
    ask_long(client)


if __name__ == "__main__":
    main()
