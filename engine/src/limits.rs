//! The named limits of everything that a model folder, a request or a configuration controls.
//!
//! Each limit is one constant, declared by [`limits!`](crate::limits) with what it bounds, what happens past
//! it, and the test that tries it at the limit and one past it. `docs/security.md` shows them as a table, which
//! `omlxd/tests/limits_page.rs` makes from [`ALL`].

/// Who chooses the thing that a limit bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ControlledBy {
    /// A file of a model folder.
    ModelFolder,
    /// A client of the API.
    Request,
    /// `config.toml`, the command line or another file of the base directory.
    Configuration,
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of memory or of a file.
    Bytes,
    /// Things: tokens, tools, keys.
    Count,
    /// Levels of nesting.
    Levels,
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
}

/// A row of the table of limits.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// The constant's name.
    pub name: &'static str,
    /// What it bounds: the constant's documentation.
    pub bounds: &'static str,
    /// Who chooses what it bounds.
    pub controlled_by: ControlledBy,
    /// The largest value that is accepted.
    pub value: u64,
    /// What `value` counts.
    pub unit: Unit,
    /// What happens past it.
    pub past_it: &'static str,
    /// The name of the test function that tries the limit and one past it.
    pub test: &'static str,
}

/// Declares limits: a constant for each, and `ALL`, the rows of the table.
///
/// ```text
/// limits! {
///     /// The size of config.json.
///     CONFIG_BYTES: u64 = 16 << 20, Bytes, ModelFolder, "the model is refused", "a_config_at_its_limit";
/// }
/// ```
#[macro_export]
macro_rules! limits {
    ($($(#[doc = $bounds:literal])+ $name:ident: $type:ty = $value:expr, $unit:ident, $by:ident, $past:literal, $test:literal;)*) => {
        $($(#[doc = $bounds])+ pub const $name: $type = $value;)*

        /// Every limit of this package.
        pub const ALL: &[$crate::limits::Limit] = &[$($crate::limits::Limit {
            name: stringify!($name),
            bounds: concat!($($bounds),+),
            controlled_by: $crate::limits::ControlledBy::$by,
            value: $value as u64,
            unit: $crate::limits::Unit::$unit,
            past_it: $past,
            test: $test,
        }),*];
    };
}

limits! {
    /// The size of tokenizer.json. Real ones are under 40 MB.
    TOKENIZER_FILE_BYTES: u64 = 256 << 20, Bytes, ModelFolder, "the model is refused", "a_tokenizer_file_at_its_limit";
    /// The length of a JSON schema, as JSON text.
    SCHEMA_BYTES: usize = 512 << 10, Bytes, Request, "400 (E13)", "a_schema_at_its_limits";
    /// The nesting of a JSON schema.
    SCHEMA_LEVELS: usize = 64, Levels, Request, "400 (E13)", "a_schema_at_its_limits";
    /// The digits of `multipleOf`, as an integer; and the least common multiple of several that may hold for one number.
    SCHEMA_DIVISOR: u128 = 100_000, Count, Request, "400 (E13)", "a_divisor_at_its_limit";
    /// The selections of optional properties that `minProperties` and `maxProperties` of a schema leave, written out.
    SCHEMA_VARIANTS: usize = 512, Count, Request, "400 (E13)", "selections_at_their_limit";
    /// The optional properties of one object in a JSON schema: the parser holds the place of each at once.
    SCHEMA_OPTIONAL: usize = 400, Count, Request, "400 (E13)", "optional_properties_at_their_limit";
    /// The length of a regular expression or a Lark grammar, and of all choices together.
    GRAMMAR_BYTES: usize = 64 << 10, Bytes, Request, "400 (E13)", "a_grammar_at_its_limits";
    /// The nesting of brackets in a regular expression or a Lark grammar.
    GRAMMAR_LEVELS: usize = 64, Levels, Request, "400 (E13)", "a_grammar_at_its_limits";
    /// The texts to choose from.
    GRAMMAR_CHOICES: usize = 4096, Count, Request, "400 (E13)", "a_grammar_at_its_limits";
}
