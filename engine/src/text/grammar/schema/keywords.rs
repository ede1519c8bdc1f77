//! The treatment of each keyword.

/// The treatment of a keyword.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// It is enforced for every answer, within the bounds in the row.
    Enforced,
    /// It restricts nothing here and is removed.
    Note,
    /// A schema with it is rejected, apart from the exceptions in the row.
    Refused,
}

/// A row of the table of keywords.
#[derive(Debug, Clone, Copy)]
pub struct Keyword {
    /// The name in a schema.
    pub name: &'static str,
    /// Its treatment.
    pub treatment: Treatment,
    /// Further notes: bounds, exceptions, or alternatives. May be empty.
    pub says: &'static str,
}

const fn enforced(name: &'static str, says: &'static str) -> Keyword {
    Keyword { name, treatment: Treatment::Enforced, says }
}

const fn note(name: &'static str, says: &'static str) -> Keyword {
    Keyword { name, treatment: Treatment::Note, says }
}

const fn refused(name: &'static str, says: &'static str) -> Keyword {
    Keyword { name, treatment: Treatment::Refused, says }
}

/// All known keywords. All others are treated as notes.
pub const KEYWORDS: &[Keyword] = &[
    enforced("type", ""),
    enforced("enum", "numbers up to 2^53"),
    enforced("const", "numbers up to 2^53"),
    enforced("$ref", "into the same document: a pointer, an `$anchor` or an `$id`"),
    enforced("$dynamicRef", "as `$ref`"),
    enforced("$recursiveRef", "as `$ref`"),
    enforced("allOf", ""),
    enforced("anyOf", ""),
    enforced(
        "oneOf",
        "where no value can match two of its schemas, as far as their types, constants, bounds, patterns and required properties show",
    ),
    enforced(
        "not",
        "`{}`, `true` and `false`; another `not`; a `type`; `enum` or `const` beside another `enum`; `enum`, `const` or `pattern` of strings",
    ),
    enforced("properties", "written in the schema's order"),
    enforced("required", ""),
    enforced(
        "additionalProperties",
        "a name outside `properties` can come twice; the last one counts, as wherever JSON is read",
    ),
    enforced("patternProperties", ""),
    enforced("propertyNames", "`enum`, `const`, `pattern`, `format` and lengths"),
    enforced(
        "minProperties",
        "among the names of `properties` and of patterns that match a few names; of other names one can be demanded, not several",
    ),
    enforced("maxProperties", "with up to 6 optional properties, or as many as there may be"),
    enforced("dependentRequired", ""),
    enforced("dependentSchemas", ""),
    enforced("dependencies", "as the two before"),
    enforced(
        "unevaluatedProperties",
        "where nothing stands beside it but `properties`, `patternProperties`, and `allOf` or `$ref` of such schemas",
    ),
    enforced("items", "the older list too"),
    enforced("prefixItems", ""),
    enforced("additionalItems", ""),
    enforced("unevaluatedItems", "where nothing stands beside it but `items` and `prefixItems`"),
    enforced("minItems", ""),
    enforced("maxItems", ""),
    enforced("minLength", ""),
    enforced("maxLength", ""),
    enforced(
        "pattern",
        "without backreferences and word boundaries; look-ahead only right after `^`",
    ),
    enforced(
        "contentEncoding",
        "`base64`, where no `pattern` stands beside it; any other is a note",
    ),
    enforced("format", "those that are listed below; any other is a note"),
    enforced("minimum", "beyond 2^53 it is taken as 2^53"),
    enforced("maximum", "beyond 2^53 it is taken as 2^53"),
    enforced("exclusiveMinimum", "the older `true` too"),
    enforced("exclusiveMaximum", "the older `true` too"),
    enforced(
        "multipleOf",
        "above 0, of up to 5 digits; where several may hold for one number, their least common multiple too",
    ),
    refused(
        "uniqueItems",
        "leave it out or set it to `false`; beside `maxItems` of 0 or 1 it restricts nothing and is taken out",
    ),
    refused(
        "contains",
        "say it with `items` or `prefixItems`; a `contains` that every item matches becomes `minItems`",
    ),
    refused(
        "if",
        "say it with `anyOf`; without `then` and `else`, or with `true` or `false`, it restricts nothing of its own",
    ),
    note("then", "beside no `if`"),
    note("else", "beside no `if`"),
    note("minContains", "beside no `contains`"),
    note("maxContains", "beside no `contains`"),
    note("$schema", "all drafts from 4 on are read, each keyword as the draft that has it"),
    note("$id", ""),
    note("id", ""),
    note("$anchor", ""),
    note("$dynamicAnchor", ""),
    note("$recursiveAnchor", ""),
    note("$vocabulary", ""),
    note("$comment", ""),
    note("$defs", "read where `$ref` leads there"),
    note("definitions", "read where `$ref` leads there"),
    note("title", ""),
    note("description", ""),
    note("default", ""),
    note("examples", ""),
    note("deprecated", ""),
    note("readOnly", ""),
    note("writeOnly", ""),
    note("contentMediaType", ""),
    note("contentSchema", ""),
    note("nullable", "`null` has to be named in `type`"),
    note("discriminator", ""),
];

/// The table's row for a keyword.
pub(super) fn row(name: &str) -> Option<&'static Keyword> {
    KEYWORDS.iter().find(|keyword| keyword.name == name)
}

/// Keywords whose values are not schemas.
pub(super) const DATA: [&str; 4] = ["const", "enum", "default", "examples"];
/// Keywords whose fields are schemas under names that the client chooses.
pub(super) const MAPS: [&str; 6] =
    ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"];
