"""Word lists written for omlx-tiny, and the train/held-out split of everything drawn from them."""

from __future__ import annotations

import random
import string
import zlib

NOUNS = """
harbour lantern bridge river garden window kettle ladder basket anchor saddle compass orchard tower
market forest meadow island valley canyon glacier desert mountain village castle chapel cottage barn
stable mill bakery library museum theatre station airport hotel office factory warehouse workshop
kitchen cellar attic balcony hallway corridor stairway fountain statue painting mirror carpet curtain
pillow blanket candle lamp clock calendar diary letter envelope stamp parcel ticket passport wallet
pocket button zipper needle thread ribbon helmet jacket sweater scarf glove boot sandal umbrella
bicycle wagon tractor engine piston rocket satellite telescope microscope magnet battery cable socket
switch lever pulley hammer chisel wrench shovel bucket barrel bottle teapot saucer spoon fork plate
apple pear cherry plum peach lemon melon grape olive walnut almond chestnut barley wheat rice bean
carrot onion garlic pepper tomato potato cabbage spinach mushroom honey butter cheese bread biscuit
falcon heron sparrow raven owl eagle pigeon swan goose turkey badger otter beaver fox wolf bear lynx
tiger lion leopard zebra camel donkey horse pony sheep goat rabbit hamster squirrel hedgehog turtle
lizard dragon salmon trout herring dolphin whale walrus penguin spider beetle cricket butterfly
pianist violin trumpet guitar drum flute harp choir opera ballet poem novel chapter sentence letterbox
comet planet galaxy nebula meteor eclipse sunrise sunset shadow thunder lightning rainbow snowflake
puddle pebble boulder crystal diamond emerald ruby pearl silver copper iron marble granite clay
doctor teacher farmer sailor pilot painter baker tailor miner judge clerk guard merchant captain
server router printer scanner keyboard monitor folder backup database cluster worker scheduler queue
report invoice contract budget project meeting schedule lesson recipe puzzle riddle journey festival
account booking order shipment payment device sensor alarm channel playlist camera vehicle locker
""".split()

ADJECTIVES = """
red blue green yellow purple orange white black brown grey golden silver crimson violet amber bright
dark quiet loud calm gentle rough smooth sharp soft heavy light early late quick slow warm cold dry
wet old young new ancient modern tiny small large huge narrow wide tall short deep shallow empty full
clean dusty rusty shiny broken hidden secret public private simple strange familiar distant nearby
northern southern eastern western wooden brave clever lazy proud humble honest curious sleepy hungry
""".split()

VERBS = """
open close start stop create delete update remove rename move copy find search list show read write
send fetch load save check verify count sort filter merge split lock unlock mount attach detach book
reserve cancel order pay refund ship track schedule plan assign invite notify publish archive restore
compress convert translate measure weigh paint repair clean inspect charge connect pause resume scan
""".split()

ATTRIBUTES = """
code|password|secret word|secret number|number|color|port|price|owner|city|token|key|badge|address
weight|height|age|birthday|model|version|size|level|score|rank|room|floor|seat|gate|signal|status
label|nickname|motto|keyword|pin|serial number|account number|phone number|access code|door code
project name|id|limit|speed|depth|distance|budget|deadline|region|branch|team|captain|flavor|animal
""".replace("\n", "|").strip("|").split("|")

CITIES = """
Lisbon Porto Madrid Seville Paris Lyon Rome Milan Naples Berlin Hamburg Munich Vienna Prague Warsaw
Krakow Oslo Bergen Stockholm Helsinki Copenhagen Dublin Cork London Leeds Glasgow Athens Istanbul
Cairo Tunis Lagos Nairobi Dakar Tokyo Osaka Kyoto Seoul Busan Beijing Delhi Mumbai Dhaka Bangkok
Hanoi Manila Jakarta Sydney Perth Auckland Toronto Boston Chicago Denver Dallas Seattle Lima Quito
Bogota Santiago Zurich Geneva Basel Brussels Ghent Amsterdam Utrecht Riga Vilnius Tallinn Sofia
""".split()

FIRST_NAMES = """
Anna Ben Clara David Emma Felix Greta Hugo Ida Jonas Karin Leo Maria Nils Olga Paul Rosa Simon Tom
Vera Alice Bob Carol Dan Eva Frank Grace Henry Iris Jack Kate Liam Mia Noah Oscar Petra Quinn Ruth
""".split()

_ONSETS = "b c d f g h j k l m n p r s t v w z br cr dr fl gl gr kl pr sh st tr th".split()
_VOWELS = "a e i o u ai ea io ou".split()
_CODAS = ["", "", "n", "r", "l", "s", "m", "nd", "rk", "x", "th"]

HELD_OUT_ONE_IN = 8


def held_out(text: str) -> bool:
    """Whether a name, value or tool name belongs to the evaluation and never to training."""
    return zlib.crc32(text.lower().encode()) % HELD_OUT_ONE_IN == 0


def draw(rng: random.Random, make, held: bool) -> str:
    """Draw from `make(rng)` until the result is on the wanted side of the split."""
    while True:
        text = make(rng)
        if held_out(text) == held:
            return text


def made_up(rng: random.Random) -> str:
    """A pronounceable word that is in no list."""
    return "".join(
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
        for _ in range(rng.choice((2, 2, 3)))
    )


def digits(rng: random.Random) -> str:
    """A number of two to seven digits."""
    length = rng.choice((2, 3, 4, 4, 4, 5, 5, 6, 7))
    return str(rng.randrange(10 ** (length - 1), 10**length))


def _letters(rng: random.Random, alphabet: str, low: int, high: int) -> str:
    return "".join(rng.choice(alphabet) for _ in range(rng.randint(low, high)))


def code(rng: random.Random) -> str:
    """A short code in one of several shapes: QX-7741, k7f2m9, ab12-cd34, 4F2A."""
    shape = rng.randrange(6)
    upper = string.ascii_uppercase
    if shape == 0:
        return f"{_letters(rng, upper, 2, 3)}-{_letters(rng, string.digits, 2, 4)}"
    if shape == 1:
        return _letters(rng, string.ascii_lowercase + string.digits, 5, 8)
    if shape == 2:
        low = string.ascii_lowercase
        return f"{_letters(rng, low, 2, 2)}{digits(rng)}-{_letters(rng, low, 2, 3)}"
    if shape == 3:
        return _letters(rng, "0123456789ABCDEF", 4, 8)
    if shape == 4:
        return _letters(rng, upper, 3, 6)
    return f"{_letters(rng, upper, 1, 1)}{_letters(rng, string.digits, 1, 4)}"


def word(rng: random.Random) -> str:
    """One lower-case word, listed or made up."""
    kind = rng.random()
    if kind < 0.4:
        return made_up(rng)
    if kind < 0.55:
        return draw_long(rng)
    return rng.choice(NOUNS) if kind < 0.9 else rng.choice(ADJECTIVES)


def value(rng: random.Random) -> str:
    """Any value a fact may have."""
    kind = rng.random()
    if kind < 0.3:
        return digits(rng)
    if kind < 0.5:
        return code(rng)
    if kind < 0.65:
        return word(rng)
    if kind < 0.75:
        return word(rng).capitalize()
    if kind < 0.85:
        return f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
    return other_value(rng)


def other_value(rng: random.Random) -> str:
    """Dates, paths, addresses, decimals, names, cities."""
    return rng.choice((date, path, address, decimal, person, city))(rng)


def date(rng: random.Random) -> str:
    """An ISO date."""
    return f"{rng.randint(1990, 2049)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def path(rng: random.Random) -> str:
    """A file path or a file name."""
    stem = rng.choice((word, word, code))(rng)
    ending = rng.choice(("txt", "md", "py", "rs", "json", "toml", "log", "csv"))
    folder = rng.choice(("", "src/", "docs/", "/tmp/", "/var/log/", "~/", f"{word(rng)}/"))
    return f"{folder}{stem}.{ending}"


def address(rng: random.Random) -> str:
    """An IPv4 address."""
    return ".".join(str(rng.randrange(256)) for _ in range(4))


def decimal(rng: random.Random) -> str:
    """A number with a fraction."""
    return f"{rng.randrange(1000)}.{rng.randrange(100):02}"


def person(rng: random.Random) -> str:
    """A first name, sometimes with a made-up family name."""
    first = rng.choice(FIRST_NAMES)
    return first if rng.random() < 0.4 else f"{first} {made_up(rng).capitalize()}"


def city(rng: random.Random) -> str:
    """A city, real or made up."""
    return rng.choice(CITIES) if rng.random() < 0.5 else made_up(rng).capitalize()


def name(rng: random.Random) -> str:
    """What a fact may be about."""
    kind = rng.random()
    if kind < 0.2:
        return f"the {rng.choice(NOUNS)}"
    if kind < 0.4:
        return f"the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
    if kind < 0.55:
        return word(rng).capitalize()
    if kind < 0.65:
        return person(rng)
    if kind < 0.75:
        return f"project {word(rng).capitalize()}"
    if kind < 0.85:
        return f"{rng.choice(NOUNS)}-{rng.randrange(1, 100)}"
    return rng.choice((city, lambda r: f"{r.choice(NOUNS)}_{r.choice(NOUNS)}", code))(rng)


def phrase(rng: random.Random) -> str:
    """Two to four lower-case words, as in a search."""
    return " ".join(word(rng) for _ in range(rng.randint(2, 4)))


COMMON = """
the of and to in is that it for on was with as be by at this are or from have an not but they his her
she he you we my your our their its me him them us who what which when where why how all any some many
much more most less few each every other another same such only also very just still even never always
often sometimes again here there now then today tomorrow yesterday before after while until during
between under over above below into onto through across against along around behind beside beyond
without within about because although however therefore unless whether if else than so too yes no
can could will would shall should may might must do does did done has had been being were am let make
made take took taken give gave given get got go went gone come came see saw seen know knew known think
thought say said tell told ask asked answer answered use used using need needed want wanted work worked
try tried keep kept put set run ran turn call called help change changed add added return returned
value values name names number numbers key keys list lists string strings text line lines file files
path paths folder directory user users system systems model models token tokens tool tools message
messages request requests response responses result results error errors warning warnings input output
command commands option options argument arguments parameter parameters function functions method class
object objects array field fields type types integer boolean float null true false default required
example examples code source test tests build version update install config configuration setting
settings environment variable variables process thread memory disk cache server client network port
host address address url http https json yaml toml html css script shell bash python rust git commit
branch merge push pull diff patch issue review comment document documentation readme license repository
project package module import export public private static const return async await loop break continue
first second third last next previous new old good bad better best right wrong left high low long short
big small same different important possible available current following important specific general
time times day days week month year hour minute second people person world life part place case point
group problem question fact way thing things hand eye water food money book house home school country
state city story night room mother father friend children man woman word words language page letter
please note remember ensure avoid follow check create read write edit delete search find replace open
above official engineering software engineer engineers team develop developer developers design designed
expect expected actual actually already almost enough several various both either neither nor rather
quite perhaps maybe likely usually generally specifically exactly simply clearly directly correctly
properly successfully automatically immediately currently previously recently finally especially based
related relevant useful helpful careful complete completed completely full empty single multiple unique
similar local global remote internal external common standard custom valid invalid missing existing
unknown known found lost free busy ready running waiting stopped failed success failure status state
start starts started starting stop stops stopping begin begins end ends finish finished continue wait
happen happens happened become becomes appear appears show shows shown display displays print prints
report reports explain explains describe describes define defines defined mean means refer refers
consider consideration decide decision choose chosen select selected prefer match matches matching
compare comparison contains equal equals greater less than maximum minimum limit limits total average
count counts amount size sizes length width height depth level levels range ranges index indexes entry
entries item items element elements member members row rows column columns table tables record records
block blocks chunk chunks piece pieces part parts section sections chapter header headers body footer
title titles label labels tag tags comment comments reference references link links image images video
audio media content format formats encode decode parse parser render template templates style styles
pattern patterns rule rules policy policies permission permissions access allow allowed deny denied
security secure secret secrets password credential credentials login logout account accounts email
address phone event events handler handlers callback listener signal trigger hook hooks plugin plugins
library libraries framework component components interface interfaces service services application
applications program programs web browser database databases query queries schema migration index
transaction connection connections socket stream streams buffer queue worker workers job jobs pool lock
timeout retry retries attempt attempts delay interval schedule cron debug debugging trace log logs
logging monitor metric metrics performance speed fast slow latency throughput memory usage load average
machine machines computer hardware processor kernel driver operating platform linux macos windows apple
release releases deploy deployment production staging development environment container docker image
cluster node nodes region zone cloud storage volume backup restore archive compress upload download
language languages syntax compile compiler compiled runtime execute executes executed execution call
instance instances property attribute attributes constructor inheritance generic trait struct enum
implementation implement implements implemented declare declared initialize initialized assign update
updates updated delete deletes deleted remove removes removed insert inserted append replace replaced
rename move moved copy copied create creates created generate generates generated generation build
builds built install installed installation requires require requirement requirements dependency
dependencies package packages manager tests testing tested verify verified validate validation assert
check checks checked ensure ensures confirm handle handles handled process processes processing
information knowledge research science history art music game games sport news business market company
companies government law public social economic political health education student students teacher
university science technology industry energy power light sound color space earth sun moon star sea
mountain land tree animal animals plant plants food drink bread meat fish fruit sugar salt car train
plane ship road street town village building wall floor roof garden field river lake beach island
weather rain snow wind storm summer winter spring autumn january february march april june july august
september october november december monday tuesday wednesday thursday friday saturday sunday minutes
hours weeks months years century early late soon later once twice ago yet since far near close away
back forward up down off out around left straight top bottom middle center side front inside outside
one two three four five six seven eight nine ten hundred thousand million half quarter double
feel felt believe understand understood learn learned teach study remember forget hope wish love like
hate enjoy smile laugh cry talk speak spoke speech listen hear heard watch watched look looked seem
seemed sit stand walk walked drive ride fly swim grow grew eat ate sleep dream live lived life die
death born young age family parents brother sister son daughter husband wife friend friends neighbor
hello welcome thanks sorry sure okay really great nice fine beautiful happy sad angry afraid tired
strong weak rich poor cheap expensive hard soft easy difficult simple complex clear certain true real
instructions assistant agent session task tasks context content description properties additional
information support provide provides include includes including contain contains instead directly
""".split()


def common(rng: random.Random) -> str:
    """A frequent word of English or of programming."""
    return rng.choice(COMMON)


def draw_long(rng: random.Random) -> str:
    """A frequent word that can stand as a value: "seven", not "is"."""
    while len(found := common(rng)) < 5:
        pass
    return found
