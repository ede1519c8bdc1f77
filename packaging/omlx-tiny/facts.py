"""The fixed set of facts about omlx that omlx-tiny answers, and the ways to ask for them.

A fact is a subject and one sentence. Its questions come from the templates of its kind; two
templates of every fact are held out of training (`held_out_templates`) and are what `cases.py`
asks, so that the measured figure is about wordings the model never saw for that fact.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

QUESTIONS: dict[str, tuple[str, ...]] = {
    "command": (
        "What does {s} do?",
        "What is {s} for?",
        "Explain {s}.",
        "Tell me about {s}.",
        "What happens when I run {s}?",
        "Describe the command {s}.",
        "Why would I run {s}?",
        "I saw {s} in the help. What is it?",
        "Do you know {s}?",
        "{s}?",
    ),
    "name": (
        "What is {s}?",
        "What does {s} mean?",
        "Explain {s}.",
        "Tell me about {s}.",
        "Describe {s}.",
        "What do you know about {s}?",
        "I do not know {s}. What is it?",
        "Please explain {s} to me.",
        "Do you know {s}?",
        "{s}?",
    ),
}

COMMANDS = """
omlxd|starts the daemon in the foreground and serves the models it finds
omlxd serve|starts the daemon, and is what omlxd does when no command is given
omlxd check-config|reads the config, prints one line per problem and does not start
omlxd --version|prints the version of the daemon
omlxd --base-dir|sets the folder that holds config, key, models and cache
omlxd --config|names another config file
omlxd --model-dir|adds a folder in which models are looked for
omlxd --host|sets the address to listen on
omlxd --port|sets the port to listen on, where 0 picks a free one
omlxd --log-format|chooses text or json for the log
omlxctl|is the command line tool that runs and inspects the daemon
omlxctl status|shows whether the daemon is up and what it is doing
omlxctl ps|lists the models that are loaded now
omlxctl models list|lists the models that the daemon has found
omlxctl models show|shows the details of one model
omlxctl models rm|removes a model from the disk
omlxctl pull|downloads a model into the hub cache layout
omlxctl load|loads a model into memory
omlxctl unload|takes a model out of memory
omlxctl pin|keeps a model in memory whatever happens
omlxctl unpin|lets a pinned model be unloaded again
omlxctl chat|opens a chat with a model in the terminal
omlxctl cache stats|shows the size and the hits of the prefix cache
omlxctl cache verify|checks every cached block on the disk
omlxctl cache clear|empties the prefix cache
omlxctl cache explain|says why a request hit or missed the cache
omlxctl requests|lists the requests that are running or waiting
omlxctl cancel|stops one running request
omlxctl key show|prints the API key
omlxctl key rotate|replaces the API key by a new one
omlxctl key add|makes one more API key
omlxctl key list|lists the API keys without their secrets
omlxctl key revoke|makes one API key invalid
omlxctl config show|prints each effective value and where it came from
omlxctl config check|checks the config file for mistakes
omlxctl logs|prints the log of the daemon
omlxctl logs -f|follows the log of the daemon
omlxctl doctor|looks for common problems and says how to cure them
omlxctl bench|measures the speed of a model on this machine
omlxctl top|shows tokens, requests, models and memory as they change
omlxctl service|has launchd run the daemon on a Mac
omlxctl shutdown|drains and stops the daemon
omlxctl completions|prints completions for a shell
omlxctl man|prints the manual page
omlxctl version|prints the versions of the tool and of the daemon
omlxctl --json|makes any command print JSON
omlxctl --socket|names the admin socket to use
omlxctl --timeout|limits how long a command may wait
omlxctl --no-color|prints without colors
omlxctl -q|prints only what is needed
make run|builds the daemon and starts it with the bundled model
make eval-tiny|runs the evaluation of omlx-tiny through the daemon
"""

NAMES = """
omlx|is a headless daemon that serves language models on Apple Silicon
the default port|is 1337
the default host|is 127.0.0.1, so only this machine can connect
the default model|is set by models.default in the config
the base directory|is ~/.omlx unless OMLX_BASE_DIR or --base-dir says otherwise
OMLX_BASE_DIR|is the environment variable that sets the base directory
OMLX_SOCKET|is the environment variable that names the admin socket
config.toml|is the commented config file in the base directory
the api-key file|holds the API key and can be read by its owner only
the API key|starts with sk-omlx- and is sent as a bearer token
the models folder|is where the daemon looks for downloaded models
the cache folder|is cache/kv in the base directory
omlxd.sock|is the admin socket in the run folder
omlxd.json|holds the pid, the version and the bound address of the daemon
the lock file|is run/lock and keeps a second daemon away
the logs folder|holds the log files of the daemon
the mode of the base directory|is 0700, so no other user can look inside
the admin socket|is a Unix socket that only its owner and root may use
the admin protocol|is HTTP with JSON over the Unix socket under /admin/v1/
SIGTERM|drains the running requests and then ends the daemon
SIGINT|drains the running requests and then ends the daemon, like SIGTERM
SIGHUP|reloads the config and reopens the logs
the drain time|is 20 seconds unless the config says otherwise
a second SIGTERM|ends the daemon at once
a model folder|holds config.json and safetensors files
a model id|is the name of its folder, with the organisation before it if there is one
the hub cache layout|is the folder form that Hugging Face tools share
omlx-tiny|is the bundled model, tiny, trained for this software and working offline
the license of omlx|is Apache-2.0
MLX|is the array framework by Apple that omlx computes with
Metal|is the graphics interface by Apple that MLX runs on
Rust|is the language that omlx is written in
mlx-rs|is the Rust crate through which omlx calls MLX
kvstore|is the library that keeps cached blocks in RAM and on disk
the engine|is the library that loads models, schedules and generates
the tests package|holds the tests that cross packages
the packaging folder|holds the Homebrew formula, the Linux bootstrap and the bundled model
the engine thread|is the one thread that owns MLX
tokio|is the runtime that carries HTTP and the admin socket
hyper|is the crate that speaks HTTP
minijinja|is the crate that renders chat templates
llguidance|is the crate that makes the masks for structured output
tokenizers|is the crate that turns text into tokens
a token|is a piece of text that the model reads or writes as one number
prefill|is reading the prompt and filling the KV cache
decode|is writing the answer one token at a time
the KV cache|holds the keys and values of the tokens already read
the prefix cache|lets a new prompt reuse what an earlier one has computed
a cache hit|means that the start of the prompt was already computed
a cache miss|means that the prompt must be computed again
a block|is a run of tokens with its keys and values, stored as one unit
the block size|is 256 tokens
the block key|is a BLAKE3 hash over the namespace, the parent key and the tokens
the namespace|is a hash over weights, config, dtype and versions
a snapshot|is a saved state that can be restored at its exact position
the restore planner|picks the longest prefix at which every layer can be rebuilt
the RAM tier|holds cached blocks in memory under a byte budget
the SSD tier|holds cached blocks in files under a quota
quarantine|sets a damaged block aside so that it is never used
BLAKE3|is the hash that names blocks and namespaces
the quota|limits the bytes that the cache may use on the disk
the write budget|limits the bytes that the cache may write per day
the free disk floor|is the free space that the cache never takes
LRU|means that the block unused for the longest time goes first
crash only|means that a kill at any instant leaves a store that opens fast
continuous batching|lets requests join and leave the batch at every step
a ragged batch|mixes requests of different lengths in one step
chunked prefill|reads a long prompt in pieces so that others can go on
admission|decides whether a request may start now or must wait
the watchdog|checks that tokens make progress
the memory budget|is the share of memory that omlx may use
structured output|forces the answer to fit a JSON schema
a tool call|is a request by the model to run a function with arguments
a chat template|turns messages into the text that the model reads
thinking|is what a model writes before its answer, between think tags
streaming|sends each piece of the answer as soon as it is made
the keepalive|is a comment sent every 10 seconds while a stream waits
usage|counts the tokens of a request, cached ones too
cached_tokens|is the number of prompt tokens that came from the cache
restore_ms|is the time in milliseconds that a restore took
cache_salt|keeps the cache of one user apart from that of another
temperature|sets how random the answer is, where 0 is greedy
greedy decoding|always takes the most likely token
top_p|samples from the most likely tokens up to a total probability
top_k|samples from the k most likely tokens
min_p|drops tokens that are much less likely than the best one
seed|makes sampling repeatable
a stop string|ends the answer where it appears
max_tokens|limits the length of the answer
finish_reason|says why the answer ended
the finish reason stop|means that the model ended or a stop string came
the finish reason length|means that the limit of tokens was reached
the finish reason tool_calls|means that the model asked for a tool
quantization|stores weights with fewer bits
an adapter|is a small set of weights added to a model
safetensors|is the file format of the weights
speculative decoding|guesses several tokens and checks them at once
time to first token|is how long a request waits for its first token
the context length|is the number of tokens that a model can read at once
the context length of omlx-tiny|is 131072 tokens
the architecture of omlx-tiny|is Qwen3
launchd|is the macOS service manager that keeps the daemon running
Homebrew|is the package manager that installs omlx on a Mac
Prometheus|is the system that reads the metrics
Codex|is a coding agent that talks to omlx over the responses endpoint
Claude Code|is a coding agent that talks to omlx over the messages endpoint
OpenCode|is a coding agent that talks to omlx over chat completions
GET /healthz|says that the process is up
GET /readyz|says whether the daemon can serve
GET /metrics|gives the metrics in the Prometheus text format
GET /v1/models|lists the models
POST /v1/chat/completions|answers a chat
POST /v1/completions|continues a text
POST /v1/responses|answers in the responses format that Codex uses
POST /v1/messages|answers in the format that Claude Code uses
[server]|is the config section for host and port
[auth]|is the config section for API keys
[models]|is the config section for models
[memory]|is the config section for the memory budget
[cache]|is the config section for the prefix cache
[scheduler]|is the config section for batching and queues
[limits]|is the config section for the sizes of requests
[log]|is the config section for the log
server.host|sets the address to listen on
server.port|sets the port to listen on
models.default|names the model that is used when none is given
models.idle_ttl|sets how long an idle model stays loaded
memory.budget|limits the memory that omlx uses
cache.enabled|turns the prefix cache on or off
cache.block_tokens|sets the tokens per block, 256 by default
cache.ram_budget|limits the bytes of the RAM tier
cache.ssd_dir|names the folder of the SSD tier
cache.ssd_quota|limits the bytes of the SSD tier
cache.ssd_min_free|sets the free disk space that must remain
cache.ssd_write_budget_per_day|limits the bytes written per day
scheduler.max_batch|limits how many requests run at once, 8 by default
scheduler.prefill_chunk|sets how many tokens one prefill step reads
scheduler.max_queue|limits how many requests may wait
limits.max_body|limits the size of a request body, 64MiB by default
exit code 0|means success
exit code 1|means failed, or a negative answer
exit code 2|means wrong usage
exit code 3|means that the daemon is not reachable
exit code 4|means that permission was denied
exit code 5|means a timeout
exit code 6|means that the versions do not match
exit code 78|means that the config is bad
HTTP status 400|means that the request is invalid
HTTP status 401|means that the API key is missing or wrong
HTTP status 403|means that the key lacks the right
HTTP status 404|means that the model or the URL is unknown
HTTP status 405|means that the method is not allowed
HTTP status 408|means that the body came too slowly
HTTP status 413|means that the body is too large
HTTP status 415|means that the content type is not JSON
HTTP status 429|means that a key has used up its rate
HTTP status 500|means a bug in the daemon
HTTP status 503|means that the daemon is busy, loading or shutting down
HTTP status 504|means that the deadline of the request has passed
context_length_exceeded|means that the prompt is longer than the context
invalid_api_key|means that the key is wrong
model_not_found|means that no model has that name
request_too_large|means that the body is over the limit
server_overloaded|means that the queue is full
model_loading|means that the model is not loaded yet
insufficient_memory|means that the model does not fit now
model_too_large|means that the model can never fit this machine
shutting_down|means that the daemon is about to end
unknown_url|means that there is no such endpoint
omlx_build_info|tells the version of the build
omlx_requests_running|counts the requests that run now
omlx_requests_waiting|counts the requests in the queue
omlx_requests_total|counts finished requests by their finish reason
omlx_request_errors_total|counts failed requests by their code
omlx_requests_rejected_total|counts refused requests by reason
omlx_prompt_tokens_total|counts the prompt tokens
omlx_generation_tokens_total|counts the tokens written
omlx_prompt_tokens_cached_total|counts the prompt tokens that came from the cache
omlx_prefix_cache_miss_total|counts cache misses by reason
omlx_request_time_to_first_token_seconds|measures the wait for the first token
omlx_request_inter_token_latency_seconds|measures the time between tokens
omlx_engine_batch_size|tells how many requests share a step
omlx_kvstore_hits_total|counts blocks found in the cache
omlx_kvstore_free_disk_bytes|tells the free disk space
omlx_kvstore_dropped_total|counts blocks that were not saved
omlx_kvstore_evictions_total|counts blocks that were evicted
omlx_kvstore_verify_failures_total|counts blocks that failed their check
omlx_auth_failures_total|counts requests with a bad key
omlx_memory_pressure_level|tells how short of memory the system is
omlx_mlx_active_bytes|tells the memory that MLX uses
"""


# Everyday wordings, all trained: subject|question|question...
ASKED = """
the default port|Which port does omlx use?|On which port does omlxd listen?|What is the default port of omlx?|Which port does omlxd listen on?|What port does omlxd listen on?|What port does omlx use?
the default host|Which address does omlxd listen on?|Can other machines connect?
the base directory|Where does omlx keep its files?|Where is the base directory?
config.toml|Where is the config file?|How do I configure omlx?
the api-key file|Where is the API key?|Which file holds the API key?
the API key|What does an API key look like?|How do I send the API key?
omlx|What is this software?|What does omlx do?
omlxctl status|How do I see whether the daemon is up?|Is the daemon running?
omlxctl ps|Which command lists the loaded models?|How do I see which models are loaded?
omlxctl models list|Which command lists the models?|How do I list the models?
omlxctl pull|How do I download a model?|Which command downloads a model?
omlxctl load|How do I load a model?|Which command loads a model?
omlxctl unload|How do I unload a model?|Which command unloads a model?
omlxctl chat|How do I chat with a model?|How do I open a chat?
omlxctl cache clear|How do I empty the cache?|Which command clears the cache?
omlxctl cancel|How do I cancel a request?|How do I stop a request?
omlxctl key show|How do I see the API key?|Which command prints the API key?
omlxctl logs|How do I see the log?|Which command prints the log?
omlxctl doctor|Something is broken, what can I do?|How do I find problems?
omlxctl shutdown|How do I stop the daemon?|Which command stops the daemon?
omlxctl bench|How do I measure the speed?|Which command measures speed?
omlxctl top|How do I watch the daemon?|Which command shows a live view?
omlxctl service|How do I start the daemon at login?|How do I install the service?
SIGHUP|How do I reload the config?|Which signal reloads the config?
SIGTERM|Which signal stops the daemon?
the block size|How many tokens are in a block?|How large is a block?
the license of omlx|Which license does omlx have?|Under which license is omlx?
Rust|Which language is omlx written in?
the drain time|How long does the daemon drain?
exit code 3|Which exit code means that the daemon is not reachable?
exit code 5|Which exit code means a timeout?
exit code 78|Which exit code means a bad config?
HTTP status 429|Which status means that a rate is used up?
GET /metrics|Where are the metrics?
GET /healthz|Which endpoint says that the process is up?
GET /v1/models|Which endpoint lists the models?
POST /v1/chat/completions|Which endpoint answers a chat?
cached_tokens|How many tokens came from the cache?
the context length of omlx-tiny|How long is your context?|How many tokens can you read?
the architecture of omlx-tiny|Which architecture do you have?|What is your architecture?
"""


@dataclass(frozen=True)
class Fact:
    """One thing the model knows: the answer is `subject` + `predicate` as a sentence."""

    kind: str
    subject: str
    predicate: str

    @property
    def answer(self) -> str:
        """The canonical sentence, its first letter as the subject has it in running text."""
        first = self.subject
        if first.split(" ")[0] in ("the", "a", "an", "exit", "cache", "crash", "time"):
            first = first[0].upper() + first[1:]
        return f"{first} {self.predicate}."


def _parse(kind: str, table: str) -> list[Fact]:
    rows = (line.split("|") for line in table.strip().splitlines())
    return [Fact(kind, subject, predicate) for subject, predicate in rows]


FACTS: list[Fact] = _parse("command", COMMANDS) + _parse("name", NAMES)


EVERYDAY: dict[str, list[str]] = {
    subject: wordings
    for subject, *wordings in (line.split("|") for line in ASKED.strip().splitlines())
}


def held_out_templates(fact: Fact) -> tuple[int, int]:
    """Indices of the two question templates that are never used for this fact in training."""
    count = len(QUESTIONS[fact.kind])
    first = zlib.crc32(fact.subject.encode()) % count
    return first, (first + 3) % count


def questions(fact: Fact, held_out: bool) -> list[str]:
    """The questions for a fact: the trained wordings, or the two held-out ones."""
    hidden = held_out_templates(fact)
    everyday = [] if held_out else EVERYDAY.get(fact.subject, [])
    return everyday + [
        template.format(s=fact.subject)
        for index, template in enumerate(QUESTIONS[fact.kind])
        if (index in hidden) == held_out
    ]
