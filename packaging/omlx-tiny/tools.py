"""Tools, requests that call them, and results: the material of the tool-call cases.

Half of the tools are the everyday ones that clients define (`FAMILIES`), half are made of a verb
and a noun. Argument values and the made tools' names are split into trained and held-out ones.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any, Callable

import words

Maker = Callable[[random.Random], str]


@dataclass(frozen=True)
class Parameter:
    """One argument of a tool: its name, JSON type and how to draw a value."""

    name: str
    type: str
    make: Maker

    def draw(self, rng: random.Random, held: bool) -> Any:
        """A value of the parameter's JSON type, from the wanted side of the split."""
        if self.type == "integer":
            return int(words.draw(rng, words.digits, held))
        return words.draw(rng, self.make, held)


@dataclass(frozen=True)
class Tool:
    """A function tool with the wordings that ask for it (`{0}`, `{1}`... are its arguments)."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    requests: tuple[str, ...]

    def schema(self) -> dict[str, Any]:
        """The tool as an OpenAI client sends it."""
        properties = {p.name: {"type": p.type} for p in self.parameters}
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": {
                    "type": "object",
                    "properties": properties,
                    "required": [p.name for p in self.parameters],
                },
            },
        }


def _integer(_: random.Random) -> str:
    raise AssertionError("integers are drawn by Parameter.draw")


def _sum(rng: random.Random) -> str:
    parts = [str(rng.randrange(1, 1000)) for _ in range(rng.choice((2, 2, 3)))]
    return f" {rng.choice('+-*/')} ".join(parts)


def _email(rng: random.Random) -> str:
    return f"{words.word(rng)}@{words.word(rng)}.{rng.choice(('com', 'org', 'net'))}"


def _url(rng: random.Random) -> str:
    return f"https://{words.word(rng)}.{rng.choice(('com', 'org', 'net'))}/{words.word(rng)}"


def _command(rng: random.Random) -> str:
    program = rng.choice(("ls", "cat", "rm", "wc -l", "head -5", "grep TODO", "mkdir", "touch", "echo"))
    return f"{program} {rng.choice((words.path, words.word))(rng)}"


def _zone(rng: random.Random) -> str:
    return f"{rng.choice(('Europe', 'Asia', 'America', 'Africa'))}/{words.city(rng)}"


# names | descriptions | parameters "name/name type" | requests
FAMILIES = """
get_weather/weather/current_weather/get_current_weather|Get the weather of a city./Get the current weather in a location./Weather for a place.|city/location/place city|What is the weather in {0}?/How is the weather in {0} today?/Tell me the weather in {0}./Is it raining in {0}?/What's the weather like in {0}?/Check the weather in {0}.
get_forecast/forecast|Get the weather forecast for a city and a number of days.|city/location city,days int|Give me the forecast for {0} for {1} days./What is the forecast in {0} for the next {1} days?
get_time/current_time/time_in|Get the current time in a time zone./Tell the time in a zone.|timezone/zone/tz zone|What time is it in {0}?/Tell me the time in {0}./What is the current time in {0}?
read_file/Read/open_file/cat_file|Read a file./Read the contents of a file from disk./Show a file.|path/file_path/filename path|Read the file {0}./Show me {0}./What is in {0}?/Open {0} and tell me what it says./Read {0}.
write_file/Write/save_file|Write text to a file./Save content in a file.|path/file_path path,content/text phrase|Write "{1}" to {0}./Save the text "{1}" in the file {0}./Write "{1}" into {0}.
list_files/list_directory/LS|List the files in a directory./List a folder.|path/directory/dir path|List the files in {0}./What files are in {0}?/Show the directory {0}.
delete_file/remove_file|Delete a file.|path/file path|Delete the file {0}./Remove {0}./Please delete {0}.
run_command/exec_command/shell/Bash/run_shell|Run a shell command./Execute a command in the shell.|command/cmd command|Run the command {0}./Run `{0}`./Execute {0} in the shell./Run {0}
search/web_search/search_web/google|Search the web./Search the internet for a query.|query/q phrase|Search for {0}./Search the web for {0}./Look up {0}./Find pages about {0}.
grep/search_files/find_in_files|Search the files for a pattern.|pattern/regex word|Find {0} in the files./Search the files for {0}./Grep for {0}.
calculator/calculate/evaluate|Evaluate an arithmetic expression./Calculate a sum.|expression/input sum|Calculate {0}./What is {0}?/How much is {0}?/Evaluate {0}.
add/add_numbers/sum|Add two numbers.|a/x int,b/y int|Add {0} and {1}./What is the sum of {0} and {1}?/Please add {0} and {1}.
multiply|Multiply two numbers.|a/x int,b/y int|Multiply {0} by {1}./What is the product of {0} and {1}?
send_email/email/send_mail|Send an email./Send an email to a person.|to/recipient email,subject phrase|Send an email to {0} with the subject "{1}"./Email {0} about "{1}".
send_message/notify|Send a message to a person.|to/user person,message/text phrase|Send {0} the message "{1}"./Tell {0} "{1}"./Message {0}: "{1}"
fetch_url/fetch/open_url/http_get|Fetch a web page./Get the content of a URL.|url url|Fetch {0}./Open the page {0}./Get {0} and tell me what it says.
translate/translate_text|Translate a word into another language.|text/word word,language/target lang|Translate {0} into {1}./How do you say {0} in {1}?/Translate the word {0} to {1}.
convert_currency/currency|Convert an amount of money.|amount int,from/source money,to/target money|Convert {0} {1} to {2}./How much is {0} {1} in {2}?
set_timer/timer|Set a timer for some minutes.|minutes int|Set a timer for {0} minutes./Start a timer of {0} minutes.
set_alarm/alarm|Set an alarm.|time clock|Set an alarm for {0}./Wake me at {0}.
create_event/add_event|Add an event to the calendar.|title phrase,date date|Add "{0}" to my calendar on {1}./Create an event "{0}" on {1}.
get_stock_price/stock_price|Get the price of a stock.|symbol/ticker ticker|What is the stock price of {0}?/Get the price of the stock {0}.
play_music/play_song|Play a song.|title/song phrase|Play the song {0}./Play {0}.
get_user/find_user/lookup_user|Get a user by id.|id/user_id int|Get the user {0}./Look up user {0}./Who is user {0}?
get_order/order_status|Get the status of an order.|order_id/id code|What is the status of order {0}?/Where is my order {0}?/Check order {0}.
roll_dice/roll|Roll a dice.|sides int|Roll a dice with {0} sides.
turn_on/switch_on|Turn a device on.|device/name word|Turn on the {0}./Switch the {0} on.
set_temperature/set_thermostat|Set the temperature of a room.|room word,degrees int|Set the {0} to {1} degrees.
"""

MAKERS: dict[str, Maker] = {
    "city": words.city, "int": _integer, "zone": _zone, "path": words.path, "phrase": words.phrase,
    "command": _command, "word": words.word, "sum": _sum, "email": _email, "person": words.person,
    "url": _url, "date": words.date, "code": words.code, "decimal": words.decimal,
    "lang": lambda rng: rng.choice(("French", "German", "Spanish", "Italian", "Dutch", "Polish",
                                    words.made_up(rng).capitalize())),
    "money": lambda rng: "".join(rng.choice("ABCDEFGHJKLNPRSUY") for _ in range(3)),
    "ticker": lambda rng: "".join(rng.choice("ABCDEFGHIKLMNOPRST") for _ in range(rng.choice((3, 4)))),
    "clock": lambda rng: f"{rng.randrange(24):02}:{rng.randrange(60):02}",
}  # fmt: skip

LOOSE_PARAMETERS = (
    ("id", "int"), ("name", "word"), ("count", "int"), ("label", "word"), ("target", "word"),
    ("owner", "person"), ("level", "int"), ("size", "int"), ("date", "date"), ("city", "city"),
    ("code", "code"), ("path", "path"), ("reason", "phrase"), ("limit", "int"), ("tag", "word"),
)  # fmt: skip


def family(rng: random.Random) -> Tool:
    """An everyday tool, with one of its usual names, descriptions and parameter names."""
    line = rng.choice(FAMILIES.strip().splitlines())
    names, descriptions, parameters, requests = line.split("|")
    drawn = []
    for spec in parameters.split(","):
        options, kind = spec.split(" ")
        json_type = "integer" if kind == "int" else "string"
        drawn.append(Parameter(rng.choice(options.split("/")), json_type, MAKERS[kind]))
    description = rng.choice([d + ("" if d.endswith(".") else ".") for d in descriptions.split("./")])
    return Tool(rng.choice(names.split("/")), description, tuple(drawn), tuple(requests.split("/")))


def made(rng: random.Random, held: bool) -> Tool:
    """A tool named after a verb and a noun, with one to three parameters."""

    def pair(r: random.Random) -> str:
        return f"{r.choice(words.VERBS)}_{r.choice(words.NOUNS)}"

    name = words.draw(rng, pair, held)
    verb, noun = name.split("_")
    chosen = rng.sample(LOOSE_PARAMETERS, rng.choice((1, 1, 2, 2, 3)))
    parameters = tuple(
        Parameter(n, "integer" if k == "int" else "string", MAKERS[k]) for n, k in chosen
    )
    listed = " and ".join(f"{p.name} {{{i}}}" for i, p in enumerate(parameters))
    verb_up = verb.capitalize()
    requests = (
        f"{verb_up} the {noun} with {listed}.",
        f"Please {verb} the {noun} with {listed}.",
        f"Can you {verb} a {noun} with {listed}?",
        f"{verb_up} {noun}: {listed}",
        f"Use {name} with {listed}.",
        f"I want to {verb} the {noun}, {listed}.",
    )
    description = rng.choice((f"{verb_up} the {noun}.", f"{verb_up} a {noun}.", f"Tool to {verb} a {noun}."))
    shown = name if rng.random() < 0.8 else verb + noun.capitalize()
    return Tool(shown, description, parameters, tuple(r.replace(name, shown) for r in requests))


def toolbox(rng: random.Random, count: int, held: bool) -> list[Tool]:
    """`count` tools that differ in name and in description."""
    tools: dict[str, Tool] = {}
    seen: set[str] = set()
    while len(tools) < count:
        tool = family(rng) if rng.random() < 0.5 else made(rng, held)
        if tool.name not in tools and tool.requests[0] not in seen:
            tools[tool.name] = tool
            seen.add(tool.requests[0])
    return list(tools.values())


def request(rng: random.Random, tool: Tool, held: bool) -> tuple[str, dict[str, Any]]:
    """A user's wording for a call of `tool`, and the arguments it names."""
    arguments = {p.name: p.draw(rng, held) for p in tool.parameters}
    return rng.choice(tool.requests).format(*arguments.values()), arguments


def call_text(name: str, arguments: dict[str, Any]) -> str:
    """The call as the model writes it."""
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


def result(rng: random.Random, held: bool) -> tuple[str, str, list[str]]:
    """What a tool returned, the final answer that uses it, and the values it must contain."""
    kind = rng.random()
    if kind < 0.45:
        keys = rng.sample(("status", "temperature", "sky", "total", "price", "owner", "time", "count",
                           "city", "result", "name", "wind", "message", "id", "ok", "size"),
                          rng.randint(1, 3))  # fmt: skip
        values = [words.draw(rng, words.value, held) for _ in keys]
        shown = [int(v) if v.isdigit() and rng.random() < 0.7 else v for v in values]
        text = json.dumps(dict(zip(keys, shown)), ensure_ascii=False)
        said = ", ".join(f"{k} {v}" for k, v in zip(keys, values))
        return text, f"The tool says: {said}.", values
    value = words.draw(rng, words.value, held)
    shapes = ("{v}", "{v}", "{v} and {w}", "error: {v} not found", "{w}: {v}", "{v} {w}", "done, {v}")
    first = rng.choice(shapes).format(v=value, w=words.word(rng))
    rest = "".join(f"\n{words.path(rng)}" for _ in range(rng.choice((0, 0, 0, 1, 3, 6))))
    return first + rest, f"The tool says: {first}.", [value]
