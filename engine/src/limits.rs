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
    /// The schemas of a function that are looked through for what kind of value one parameter is.
    SCHEMAS_SEARCHED: usize = 1024, Count, Request, "what lies beyond says nothing: the value is text", "a_schema_at_its_search_limit";
    /// The patterns of `patternProperties` that are tried for what kind of value one parameter is.
    PATTERNS_SEARCHED: usize = 16, Count, Request, "the others say nothing", "patterns_at_their_search_limit";
    /// The size of one such pattern when it is compiled.
    PATTERN_BYTES: usize = 64 << 10, Bytes, Request, "the pattern says nothing", "a_pattern_at_its_size_limit";
    /// The places in a model's thoughts where it is tried whether a call begins.
    CALLS_TRIED_IN_THOUGHTS: usize = 64, Count, Request, "what follows stays thoughts", "thoughts_at_their_limit_of_tries";
}
