"""Prints the JSON schemas that pydantic makes of ordinary types, as {"name": schema}."""

import dataclasses
import datetime
import decimal
import enum
import ipaddress
import json
import pathlib
import re
import typing
import uuid
from typing import Annotated, Any, Generic, Literal, Optional, TypeVar, Union

import annotated_types
import pydantic
import typing_extensions
from pydantic import BaseModel, ConfigDict, Field, RootModel, TypeAdapter

T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"
    GREEN = "green"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mixed(enum.Enum):
    A = 1
    B = "b"
    C = 2.5
    D = None


class Address(BaseModel):
    street: str
    city: str = "Paris"
    zip: Annotated[str, Field(pattern=r"^\d{5}$")]


class Person(BaseModel):
    """A person."""

    name: str = Field(min_length=1, max_length=20, description="The name", examples=["Ann"])
    age: int = Field(ge=0, le=150)
    email: Optional[pydantic.EmailStr] = None
    address: Address
    tags: list[str] = []
    favourite: Color = Color.RED


class Cat(BaseModel):
    kind: Literal["cat"]
    meows: int


class Dog(BaseModel):
    kind: Literal["dog"]
    barks: float


class Lizard(BaseModel):
    kind: Literal["reptile", "lizard"] = "lizard"
    scales: bool


class Tree(BaseModel):
    value: int
    children: list["Tree"] = []


class Node(BaseModel):
    name: str
    next: Optional["Node"] = None


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int
    b: str = "x"


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class TypedExtra(BaseModel):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, int]
    a: str


class Aliased(BaseModel):
    first_name: str = Field(alias="firstName")
    ref: int = Field(alias="$ref")


class Box(BaseModel, Generic[T]):
    content: T
    more: list[T]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, json_schema_extra={"examples": [{"a": 1}]})
    a: int = Field(deprecated=True)


class Computed(BaseModel):
    width: int

    @pydantic.computed_field
    @property
    def area(self) -> int:
        return self.width * self.width


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


class Movie(typing_extensions.TypedDict, total=False):
    title: typing_extensions.Required[str]
    year: int


class Pair(typing.NamedTuple):
    left: int
    right: str


Json = typing_extensions.TypeAliasType(
    "Json", "Union[dict[str, Json], list[Json], str, int, float, bool, None]")

TYPES = {
    "person": Person,
    "enum": Color,
    "int enum": Level,
    "mixed enum": Mixed,
    "literal": Literal["a", 1, True, None],
    "union": Union[int, str, list[bool]],
    "discriminated union": Annotated[Union[Cat, Dog, Lizard], Field(discriminator="kind")],
    "list of a discriminated union": list[Annotated[Union[Cat, Dog], Field(discriminator="kind")]],
    "optional": Optional[int],
    "tree": Tree,
    "linked list": Node,
    "json": Json,
    "extra forbid": Strict,
    "extra allow": Open,
    "extra of a type": TypedExtra,
    "aliases": Aliased,
    "generic": Box[int],
    "generic of a model": Box[Cat],
    "frozen": Frozen,
    "computed": Computed,
    "dataclass": Point,
    "typed dict": Movie,
    "named tuple": Pair,
    "date": datetime.date,
    "datetime": datetime.datetime,
    "aware": pydantic.AwareDatetime,
    "past date": pydantic.PastDate,
    "time": datetime.time,
    "timedelta": datetime.timedelta,
    "uuid": uuid.UUID,
    "uuid1": pydantic.UUID1,
    "uuid4": pydantic.UUID4,
    "uuid5": pydantic.UUID5,
    "uuid7": pydantic.UUID7,
    "email": pydantic.EmailStr,
    "name and email": pydantic.NameEmail,
    "url": pydantic.AnyUrl,
    "http url": pydantic.HttpUrl,
    "file url": pydantic.FileUrl,
    "postgres": pydantic.PostgresDsn,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "any ip": pydantic.IPvAnyAddress,
    "ipv4 network": ipaddress.IPv4Network,
    "ipv6 interface": ipaddress.IPv6Interface,
    "path": pathlib.Path,
    "file path": pydantic.FilePath,
    "decimal": decimal.Decimal,
    "decimal with digits": Annotated[decimal.Decimal, Field(max_digits=5, decimal_places=2)],
    "decimal with bounds": Annotated[decimal.Decimal, Field(ge=0, lt=10)],
    "bytes": bytes,
    "bounded bytes": Annotated[bytes, Field(min_length=2, max_length=4)],
    "base64": pydantic.Base64Str,
    "secret": pydantic.SecretStr,
    "json string": pydantic.Json,
    "json string of a type": pydantic.Json[list[int]],
    "regex": re.Pattern,
    "pattern": Annotated[str, Field(pattern="^[A-Z]{3}-[0-9]+$")],
    "free pattern": Annotated[str, Field(pattern="ab+")],
    "stripped": Annotated[str, pydantic.StringConstraints(strip_whitespace=True, max_length=8)],
    "lower": Annotated[str, pydantic.StringConstraints(to_lower=True, min_length=2, max_length=3)],
    "positive": pydantic.PositiveInt,
    "negative": pydantic.NegativeInt,
    "not negative float": pydantic.NonNegativeFloat,
    "finite": pydantic.FiniteFloat,
    "bounded int": Annotated[int, Field(gt=3, lt=17, multiple_of=5)],
    "bounded float": Annotated[float, Field(ge=-0.5, lt=1.25)],
    "interval": Annotated[int, annotated_types.Interval(ge=2, lt=9)],
    "multiple": Annotated[float, Field(multiple_of=0.25, ge=0, le=3)],
    "int64": Annotated[int, Field(ge=-(2**63), le=2**63 - 1)],
    "list": list[int],
    "bounded list": Annotated[list[str], Field(min_length=1, max_length=3)],
    "set": set[int],
    "frozen set": frozenset[str],
    "tuple": tuple[int, str],
    "open tuple": tuple[int, ...],
    "empty tuple": tuple[()],
    "nested tuples": tuple[tuple[int, int], list[tuple[str]]],
    "dict": dict[str, int],
    "dict by int": dict[int, str],
    "dict by enum": dict[Color, int],
    "dict by literal": dict[Literal["a", "b"], bool],
    "dict by pattern": dict[Annotated[str, Field(pattern="^k[0-9]+$")], int],
    "dict by uuid": dict[uuid.UUID, int],
    "bounded dict": Annotated[dict[str, int], Field(min_length=1, max_length=3)],
    "two of a dict": Annotated[dict[str, int], Field(min_length=2)],
    "any": Any,
    "object": object,
    "none": None,
    "root model": RootModel[list[Cat]],
    "callable": Annotated[int, pydantic.WithJsonSchema({"type": "integer", "x-kind": "n"})],
    "color": Annotated[str, Field(pattern="^#(?:[0-9a-f]{3}){1,2}$", title="Colour")],
    "two types of bounds": Union[Annotated[int, Field(ge=1)], Annotated[str, Field(max_length=3)]],
    "byte size": pydantic.ByteSize,
    "bool": bool,
    "complex": complex,
}


def main():
    schemas = {}
    for name, kind in TYPES.items():
        for mode in ("validation", "serialization"):
            try:
                schema = TypeAdapter(kind).json_schema(mode=mode)
            except pydantic.errors.PydanticInvalidForJsonSchema:
                continue
            if mode == "validation" or schema != schemas.get(name):
                schemas[name if mode == "validation" else f"{name}, written"] = schema
    print(json.dumps(schemas))


if __name__ == "__main__":
    main()
