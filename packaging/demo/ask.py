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


FACT = "The code of Lisbon is 447."
QUESTION = "What is the code of Lisbon?"
STORY = (
    "The sun came up over the hills and the river was quiet. A dog slept near the door. The old man "
    "read his paper and drank his tea. In the afternoon it began to rain. "
)


def ask_long(client: OpenAI) -> None:
    """Tells a fact, then a long story, then asks for the fact."""
    print(f"> {FACT} (a long story) {QUESTION}")
    stream(client, [{"role": "user", "content": f"{FACT} {STORY * 20}{QUESTION}"}])


def main() -> None:
    address, key, *again = sys.argv[1:]
    client = OpenAI(base_url=f"http://{address}/v1", api_key=key, max_retries=0)
    if again:
        return ask_long(client)
    messages = []
    for question in ["Hello! What are you?", "What port does omlx use?"]:
        print(f"> {question}")
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": stream(client, messages)})
    ask_long(client)


if __name__ == "__main__":
    main()
