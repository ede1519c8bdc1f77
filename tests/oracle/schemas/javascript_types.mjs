// Writes the JSON schemas that zod, zod-to-json-schema, TypeBox and effect make of ordinary types:
// zod.json, zod-to-json-schema.json, typebox.json and effect.json in the folder that is named.

import { writeFileSync } from "node:fs";
import { z } from "zod";
import * as z3 from "zod/v3";
import { zodToJsonSchema } from "zod-to-json-schema";
import { Type as Old } from "@sinclair/typebox";
import { Type as New } from "typebox";
import { Schema as S } from "effect";
import { JSONSchema, Schema as E } from "effect3";

const folder = process.argv[2];
const write = (name, schemas) =>
  writeFileSync(`${folder}/${name}.json`, JSON.stringify(schemas, null, 0) + "\n");

// What a library cannot say is no schema.
const put = (into, name, make) => {
  let schema;
  try {
    schema = JSON.parse(JSON.stringify(make()));
  } catch {
    return;
  }
  if (schema !== undefined) into[name] = schema;
};

const ordinary = (z) => {
  const user = z.object({ name: z.string().min(1).max(20), age: z.number().int().min(0).max(150) });
  const tree = z.object({ value: z.string(), children: z.lazy(() => z.array(tree)) });
  const cat = z.object({ kind: z.literal("cat"), lives: z.number() });
  const dog = z.object({ kind: z.literal("dog"), good: z.boolean() });
  return {
    object: user,
    "strict object": user.strict(),
    "open object": user.passthrough(),
    "object with others": user.catchall(z.number()),
    partial: user.partial(),
    pick: user.pick({ name: true }),
    extend: user.extend({ admin: z.boolean().default(false) }),
    "described": user.describe("A user"),
    union: z.union([z.string(), z.number(), z.array(z.boolean())]),
    "discriminated union": z.discriminatedUnion("kind", [cat, dog]),
    optional: z.object({ a: z.string().optional(), b: z.number().nullish() }),
    nullable: z.string().nullable(),
    "nullable object": user.nullable(),
    enum: z.enum(["red", "green", "blue"]),
    "native enum": z.nativeEnum({ Low: 1, High: 2, Other: "x" }),
    literal: z.literal("fixed"),
    "literal number": z.literal(3.5),
    "literal null": z.null(),
    tuple: z.tuple([z.string(), z.number()]),
    "open tuple": z.tuple([z.string()]).rest(z.number()),
    "empty tuple": z.tuple([]),
    nested: z.object({ a: z.object({ b: z.object({ c: z.array(user) }) }) }),
    tree,
    date: z.date(),
    datetime: z.string().datetime(),
    "datetime with offset": z.string().datetime({ offset: true }),
    "date string": z.string().date(),
    "time string": z.string().time(),
    "duration string": z.string().duration(),
    uuid: z.string().uuid(),
    email: z.string().email(),
    url: z.string().url(),
    ip: z.string().ip ? z.string().ip() : z.string(),
    cuid: z.string().cuid(),
    cuid2: z.string().cuid2(),
    ulid: z.string().ulid(),
    nanoid: z.string().nanoid(),
    base64: z.string().base64(),
    base64url: z.string().base64url(),
    jwt: z.string().jwt(),
    emoji: z.string().emoji(),
    "starts with": z.string().startsWith("a-b"),
    "ends with": z.string().endsWith(".ts"),
    includes: z.string().includes("(x)"),
    regex: z.string().regex(/^[a-z]{2,4}-\d+$/),
    "regex with lookahead": z.string().regex(/^(?=.*[A-Z])(?=.*\d)[\w!]{4,9}$/),
    "two regexes": z.string().regex(/^a/).regex(/z$/),
    "case-insensitive regex": z.string().regex(/^abc$/i),
    length: z.string().length(3),
    trimmed: z.string().trim().toLowerCase(),
    int: z.number().int(),
    positive: z.number().positive(),
    negative: z.number().negative(),
    bounded: z.number().gt(1).lte(2.5),
    multiple: z.number().multipleOf(0.5).min(0).max(4),
    "multiple of a hundredth": z.number().multipleOf(0.01).min(0).max(1),
    finite: z.number().finite(),
    safe: z.number().safe(),
    bigint: z.bigint(),
    boolean: z.boolean(),
    array: z.array(z.number()),
    "bounded array": z.array(z.string()).min(1).max(3),
    "array of so many": z.array(z.boolean()).length(2),
    set: z.set(z.string()),
    "bounded set": z.set(z.number()).max(1),
    record: z.record(z.string(), z.number()),
    "record by enum": z.record(z.enum(["a", "b"]), z.boolean()),
    "record by regex": z.record(z.string().regex(/^k\d$/), z.boolean()),
    "record by uuid": z.record(z.string().uuid(), z.number()),
    "record by length": z.record(z.string().min(2).max(3), z.number()),
    "record of records": z.record(z.string(), z.record(z.string(), z.boolean())),
    map: z.map(z.string(), z.number()),
    any: z.any(),
    unknown: z.object({ x: z.unknown() }),
    never: z.object({ x: z.never().optional() }),
    undefined: z.object({ x: z.undefined().optional() }),
    intersection: z.intersection(user, z.object({ extra: z.boolean() })),
    "strict intersection": z.intersection(user.strict(), z.object({ name: z.string() })),
    and: cat.and(z.object({ tail: z.boolean() })),
    readonly: user.readonly(),
    branded: z.string().brand("Id"),
    default: z.object({ a: z.number().default(3), b: z.string().default("x") }),
    catch: z.number().catch(0),
    refined: z.string().refine((text) => text.length > 3),
    transformed: z.string().transform((text) => text.length),
    piped: z.string().pipe(z.string().max(5)),
    coerced: z.coerce.number(),
    preprocessed: z.preprocess((x) => x, z.number().int()),
    promise: z.promise(z.string()),
    function: z.function(),
    symbol: z.symbol(),
    "keys of an object": user.keyof(),
  };
};

const only4 = {
  "looser record": () => z.partialRecord(z.enum(["a", "b"]), z.number()),
  "z.email": () => z.email(),
  "z.uuid": () => z.uuid(),
  "z.uuidv4": () => z.uuidv4(),
  "z.guid": () => z.guid(),
  "z.url": () => z.url(),
  "z.httpUrl": () => z.httpUrl(),
  "z.hostname": () => z.hostname(),
  "z.ipv4": () => z.ipv4(),
  "z.ipv6": () => z.ipv6(),
  "z.cidrv4": () => z.cidrv4(),
  "z.cidrv6": () => z.cidrv6(),
  "z.mac": () => z.mac(),
  "z.e164": () => z.e164(),
  "z.ksuid": () => z.ksuid(),
  "z.xid": () => z.xid(),
  "z.hex": () => z.hex(),
  "z.iso.date": () => z.iso.date(),
  "z.iso.time": () => z.iso.time({ precision: 0 }),
  "z.iso.datetime": () => z.iso.datetime({ offset: true, local: true }),
  "z.iso.duration": () => z.iso.duration(),
  "z.int32": () => z.int32(),
  "z.uint32": () => z.uint32(),
  "z.float32": () => z.float32(),
  "z.float64": () => z.float64(),
  "z.int64": () => z.int64(),
  "z.json": () => z.json(),
  "z.file": () => z.file(),
  "z.strictObject": () => z.strictObject({ a: z.string() }),
  "z.looseObject": () => z.looseObject({ a: z.string() }),
  "z.templateLiteral": () => z.templateLiteral(["v", z.int(), "-", z.enum(["a", "b"])]),
  "z.literal of several": () => z.literal(["a", 1, true, null]),
  "z.stringbool": () => z.stringbool(),
  "z.xor": () => z.xor([z.string(), z.number()]),
  "getter recursion": () => {
    const node = z.object({ name: z.string(), get next() { return node.nullable(); } });
    return node;
  },
  "mutual recursion": () => {
    const user = z.object({ email: z.email(), get posts() { return z.array(post); } });
    const post = z.object({ title: z.string(), get author() { return user.optional(); } });
    return user;
  },
  "meta with id": () => z.object({ a: z.string().meta({ id: "shared", title: "A" }) }),
};

const four = {};
for (const target of ["draft-2020-12", "draft-7", "draft-4", "openapi-3.0"]) {
  for (const io of ["output", "input"]) {
    const all = { ...ordinary(z) };
    for (const [name, make] of Object.entries(only4)) {
      try { all[name] = make(); } catch { continue; }
    }
    for (const [name, type] of Object.entries(all)) {
      put(four, `${name}, ${target}, ${io}`, () => z.toJSONSchema(type, { target, io }));
    }
  }
}
// A schema that differs from an earlier one by nothing but its draft's name is left out.
const seen = new Set();
for (const [name, schema] of Object.entries(four)) {
  const { $schema, ...rest } = schema;
  const text = JSON.stringify(rest);
  if (seen.has(text)) delete four[name];
  seen.add(text);
}
write("zod", four);

const three = {};
for (const target of ["jsonSchema7", "jsonSchema2019-09", "openApi3", "openAi"]) {
  for (const [name, type] of Object.entries(ordinary(z3.z ?? z3))) {
    put(three, `${name}, ${target}`, () => zodToJsonSchema(type, { target }));
  }
}
const known = new Set();
for (const [name, schema] of Object.entries(three)) {
  const { $schema, ...rest } = schema;
  const text = JSON.stringify(rest);
  if (known.has(text)) delete three[name];
  known.add(text);
}
write("zod-to-json-schema", three);

const typebox = (T, version) => ({
  object: () => T.Object({ a: T.String({ minLength: 1, maxLength: 9 }), b: T.Optional(T.Integer()) }),
  "closed object": () => T.Object({ a: T.String() }, { additionalProperties: false }),
  "object with others": () => T.Object({ a: T.String() }, { additionalProperties: T.Number() }),
  "counted object": () => T.Object({ a: T.Optional(T.String()), b: T.Optional(T.String()) }, { minProperties: 1, additionalProperties: false }),
  "counted open object": () => T.Object({ a: T.Optional(T.String()), b: T.Optional(T.String()) }, { minProperties: 1, maxProperties: 2 }),
  union: () => T.Union([T.String(), T.Number(), T.Null()]),
  "union of literals": () => T.Union([T.Literal("a"), T.Literal(1), T.Literal(true)]),
  "union of objects": () => T.Union([T.Object({ kind: T.Literal("a"), x: T.Number() }), T.Object({ kind: T.Literal("b") })]),
  intersect: () => T.Intersect([T.Object({ a: T.String() }), T.Object({ b: T.Number() })]),
  "closed intersect": () => T.Intersect([T.Object({ a: T.String() }), T.Object({ b: T.Number() })], { unevaluatedProperties: false }),
  composite: () => T.Composite([T.Object({ a: T.String() }), T.Object({ b: T.Number() })]),
  evaluated: () => T.Evaluate(T.Intersect([T.Object({ a: T.String() }), T.Object({ b: T.Number() })])),
  partial: () => T.Partial(T.Object({ a: T.String(), b: T.Number() })),
  enum: () => T.Enum({ A: "a", B: "b", N: 1 }),
  "enum of a list": () => T.Enum(["a", "b"]),
  tuple: () => T.Tuple([T.String(), T.Number()]),
  array: () => T.Array(T.Integer(), { minItems: 1, maxItems: 3 }),
  set: () => T.Array(T.Integer(), { uniqueItems: true }),
  contains: () => T.Array(T.Integer(), { contains: T.Literal(3) }),
  record: () => T.Record(T.String(), T.Number()),
  "record by integer": () => T.Record(T.Integer(), T.Boolean()),
  "record by number": () => T.Record(T.Number(), T.Boolean()),
  "record by literals": () => T.Record(T.Union([T.Literal("a"), T.Literal("b")]), T.Number()),
  "record by template": () => T.Record(T.TemplateLiteral("id-${string}"), T.Number()),
  "closed record": () => T.Record(T.String({ pattern: "^k[0-9]$" }), T.Number(), { additionalProperties: false }),
  "template literal": () => T.TemplateLiteral("v${number}"),
  regex: () => T.RegExp ? T.RegExp(/^[a-c]+$/) : T.String({ pattern: "^[a-c]+$" }),
  dates: () => T.Object({ a: T.String({ format: "date-time" }), b: T.String({ format: "date" }), c: T.String({ format: "time" }) }),
  formats: () => T.Object({ a: T.String({ format: "email" }), b: T.String({ format: "uuid" }), c: T.String({ format: "uri" }), d: T.String({ format: "ipv4" }), e: T.String({ format: "ipv6" }) }),
  bounds: () => T.Number({ exclusiveMinimum: 0, maximum: 9.5, multipleOf: 0.5 }),
  "bigint": () => T.BigInt(),
  date: () => T.Date(),
  bytes: () => T.Uint8Array({ maxByteLength: 3 }),
  any: () => T.Any(),
  unknown: () => T.Object({ x: T.Unknown() }),
  never: () => T.Object({ x: T.Optional(T.Never()) }),
  not: () => T.Not(T.String()),
  "not an object": () => T.Not(T.Object({ a: T.String() })),
  null: () => T.Null(),
  undefined: () => T.Object({ x: T.Optional(T.Undefined()) }),
  readonly: () => T.Object({ a: T.Readonly(T.String()) }),
  default: () => T.Object({ a: T.String({ default: "x" }) }),
  recursive: () => T.Recursive((Self) => T.Object({ id: T.String(), nodes: T.Array(Self) })),
  cyclic: () => T.Cyclic({ Node: T.Object({ id: T.String(), next: T.Union([T.Ref("Node"), T.Null()]) }) }, "Node"),
  module: () => (version === "old" ? T.Module({ A: T.Object({ b: T.Array(T.Ref("B")) }), B: T.Object({ n: T.Number() }) }).Import("A") : T.Module({ A: T.Object({ b: T.Array(T.Ref("B")) }), B: T.Object({ n: T.Number() }) }).A),
  keys: () => T.KeyOf(T.Object({ a: T.String(), b: T.String() })),
  exclude: () => T.Exclude(T.Union([T.Literal("a"), T.Literal("b")]), T.Literal("b")),
  conditional: () => T.Object({ a: T.Optional(T.String()), b: T.Optional(T.String()) }, { dependentRequired: { a: ["b"] } }),
});
const boxes = {};
for (const [version, T] of [["old", Old], ["new", New]]) {
  for (const [name, make] of Object.entries(typebox(T, version))) put(boxes, `${name}, ${version}`, make);
}
write("typebox", boxes);

class Person extends E.Class("Person")({ name: E.NonEmptyString, age: E.Int.pipe(E.between(0, 150)) }) {}
const tree = E.Struct({ value: E.Number, children: E.Array(E.suspend(() => tree)) }).annotations({ identifier: "Tree" });
const effects3 = {
  struct: E.Struct({ a: E.String, b: E.optional(E.Number), c: E.NullOr(E.Boolean) }),
  class: Person,
  tree,
  union: E.Union(E.String, E.Number),
  "tagged union": E.Union(E.TaggedStruct("A", { x: E.Number }), E.TaggedStruct("B", { y: E.String })),
  literal: E.Literal("a", "b", 1, true, null),
  enums: E.Enums({ Low: 0, High: 1, Name: "n" }),
  tuple: E.Tuple(E.String, E.Number),
  "optional tuple": E.Tuple(E.String, E.optionalElement(E.Number)),
  "open tuple": E.Tuple([E.String], E.Number),
  array: E.Array(E.Int).pipe(E.minItems(1), E.maxItems(3)),
  "non-empty array": E.NonEmptyArray(E.String),
  record: E.Record({ key: E.String, value: E.Number }),
  "record by literals": E.Record({ key: E.Literal("a", "b"), value: E.Number }),
  "record by pattern": E.Record({ key: E.String.pipe(E.pattern(/^k\d+$/)), value: E.Number }),
  "record by template": E.Record({ key: E.TemplateLiteral("a-", E.String), value: E.Number }),
  "record by length": E.Record({ key: E.String.pipe(E.minLength(2)), value: E.Number }),
  "struct with others": E.Struct({ a: E.Number }, { key: E.String, value: E.Number }),
  "template literal": E.TemplateLiteral("v", E.Number),
  strings: E.Struct({ a: E.NonEmptyString, b: E.String.pipe(E.length(3)), c: E.Trimmed, d: E.Lowercased, e: E.UUID, f: E.ULID }),
  prefixes: E.Struct({ a: E.String.pipe(E.startsWith("a")), b: E.String.pipe(E.endsWith("b")), c: E.String.pipe(E.includes("c")) }),
  numbers: E.Struct({ a: E.Positive, b: E.NonNegative, c: E.Int, d: E.Finite, e: E.Number.pipe(E.multipleOf(5)), f: E.Number.pipe(E.lessThan(3)) }),
  date: E.Date,
  "date from self": E.DateFromSelf,
  bigint: E.BigInt,
  decimal: E.BigDecimal,
  json: E.parseJson(E.Struct({ a: E.Number })),
  any: E.Any,
  unknown: E.Struct({ x: E.Unknown }),
  object: E.Object,
  void: E.Void,
  never: E.Struct({ x: E.optional(E.Never) }),
  brand: E.String.pipe(E.brand("Id")),
  annotated: E.String.annotations({ title: "T", description: "D", examples: ["x"], jsonSchema: { maxLength: 4 } }),
  hashset: E.HashSet(E.String),
  map: E.Map({ key: E.String, value: E.Number }),
  option: E.Option(E.Number),
  duration: E.Duration,
  "filtered": E.String.pipe(E.filter((text) => text.length > 2)),
  partial: E.partial(E.Struct({ a: E.String, b: E.Number })),
  extended: E.extend(E.Struct({ a: E.String }), E.Struct({ b: E.Number })),
};
const effects = {};
for (const [name, schema] of Object.entries(effects3)) {
  for (const target of ["jsonSchema7", "jsonSchema2020-12", "openApi3.1"]) {
    put(effects, `${name}, 3, ${target}`, () => JSONSchema.make(schema, { target }));
  }
}
const tree4 = S.Struct({ value: S.Number, children: S.Array(S.suspend(() => tree4)) }).annotate({ identifier: "Tree" });
const effects4 = {
  struct: () => S.Struct({ a: S.String, b: S.optionalKey(S.Number), c: S.NullOr(S.Boolean) }),
  tree: () => tree4,
  union: () => S.Union([S.String, S.Number]),
  "tagged union": () => S.Union([S.TaggedStruct("A", { x: S.Number }), S.TaggedStruct("B", { y: S.String })]),
  literals: () => S.Literals(["a", "b", 1]),
  enum: () => S.Enum({ Low: 0, Name: "n" }),
  tuple: () => S.Tuple([S.String, S.Number]),
  "open tuple": () => S.TupleWithRest(S.Tuple([S.String]), [S.Number]),
  array: () => S.Array(S.Int).check(S.isMinLength(1), S.isMaxLength(3)),
  "non-empty array": () => S.NonEmptyArray(S.String),
  "unique array": () => S.UniqueArray(S.String),
  record: () => S.Record(S.String, S.Number),
  "record by literals": () => S.Record(S.Literals(["a", "b"]), S.Number),
  "struct with others": () => S.StructWithRest(S.Struct({ a: S.Number }), [S.Record(S.String, S.Number)]),
  strings: () => S.Struct({ a: S.NonEmptyString, b: S.String.check(S.isLengthBetween(2, 3)), c: S.String.check(S.isPattern(/^a+$/)), d: S.String.check(S.isUUID()) }),
  numbers: () => S.Struct({ a: S.Int, b: S.Finite, c: S.Number.check(S.isGreaterThan(3)), d: S.Number.check(S.isBetween({ minimum: 0, maximum: 2 })) }),
  "number": () => S.Number,
  date: () => S.Date,
  bigint: () => S.BigInt,
  any: () => S.Any,
  unknown: () => S.Struct({ x: S.Unknown }),
  never: () => S.Struct({ x: S.optionalKey(S.Never) }),
  json: () => S.Json,
  template: () => S.TemplateLiteral(["v", S.Number]),
  "entries bounds": () => S.Record(S.String, S.Number).check(S.isMinProperties(1), S.isMaxProperties(3)),
};
for (const [name, make] of Object.entries(effects4)) {
  put(effects, `${name}, 4`, () => {
    const { schema, definitions } = S.toJsonSchemaDocument(make());
    return Object.keys(definitions ?? {}).length ? { ...schema, $defs: definitions } : schema;
  });
}
const unique = new Set();
for (const [name, schema] of Object.entries(effects)) {
  const { $schema, ...rest } = schema;
  const text = JSON.stringify(rest);
  if (unique.has(text)) delete effects[name];
  unique.add(text);
}
write("effect", effects);
