//! The named limits on everything that a model folder, a request or a configuration controls.
//!
//! Each limit is one constant, declared by [`limits!`](macro@crate::limits) with what it bounds,
//! what happens past it, and the test that tries it at the limit and one past it.
//! `docs/security.md` shows the limits as a table, which `omlxd/tests/limits_page.rs` generates
//! from [`ALL`].

/// The source of the value that a limit bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ControlledBy {
    /// A file of a model folder.
    ModelFolder,
    /// A client of the API.
    Request,
    /// `config.toml`, the command line or another file of the base directory.
    Configuration,
}

/// The unit of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of memory or of a file.
    Bytes,
    /// A number of items, such as tokens, tools or keys.
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
    /// What it bounds, from the constant's doc comment.
    pub bounds: &'static str,
    /// The source of the bounded value.
    pub controlled_by: ControlledBy,
    /// The largest value that is accepted.
    pub value: u64,
    /// The unit of `value`.
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
            value: $name as u64,
            unit: $crate::limits::Unit::$unit,
            past_it: $past,
            test: $test,
        }),*];
    };
}

limits! {
    /// The size of a JSON file of a model folder that describes the model, such as config.json.
    CONFIG_BYTES: u64 = 16 << 20, Bytes, ModelFolder, "the model is refused", "a_config_at_its_limit";
    /// Any size that config.json gives, such as hidden_size or vocab_size: every product of two is within 64 bits, and every length within what MLX's 32-bit shapes can say.
    CONFIG_SIZE: i32 = 1 << 24, Count, ModelFolder, "the model is refused", "a_size_of_a_config_at_its_limit";
    /// The layers of a model. Published models have up to 126.
    LAYERS: i32 = 4096, Count, ModelFolder, "the model is refused", "layers_at_their_limit";
    /// The experts of a layer. Published models have up to 512.
    EXPERTS: i32 = 4096, Count, ModelFolder, "the model is refused", "experts_at_their_limit";
    /// The tokens of a model's context.
    CONTEXT_TOKENS: usize = 1 << 26, Count, ModelFolder, "the model is refused", "a_context_at_its_limit";
    /// The header of a file of weights. Real ones are under 20 MB.
    WEIGHTS_HEADER_BYTES: u64 = 100_000_000, Bytes, ModelFolder, "the model is refused", "a_header_of_weights_at_its_limit";
    /// The index of shards. A thousand layers have well under 10 MB.
    WEIGHTS_INDEX_BYTES: u64 = 64 << 20, Bytes, ModelFolder, "the model is refused", "an_index_of_weights_at_its_limit";
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
    /// The number of tokens of a vocabulary. Real ones have under 300,000.
    VOCABULARY_TOKENS: u64 = 1 << 21, Count, ModelFolder, "the model is refused", "a_vocabulary_at_its_limits";
    /// The number of merges of a vocabulary. Real ones have under 600,000.
    VOCABULARY_MERGES: u64 = 1 << 21, Count, ModelFolder, "the model is refused", "a_vocabulary_at_its_limits";
    /// The largest id of a token.
    TOKEN_ID: u64 = (1 << 24) - 1, Count, ModelFolder, "the model is refused", "a_vocabulary_at_its_limits";
    /// The bytes of a token in tokenizer.json. Real ones are under 1,000.
    TOKEN_BYTES: u64 = 4096, Bytes, ModelFolder, "the model is refused", "a_vocabulary_at_its_limits";
    /// What the added tokens of a vocabulary have together, as large as its normalizer may make them. Real ones
    /// have under 2 MiB.
    ADDED_TOKENS_BYTES: u64 = 16 << 20, Bytes, ModelFolder, "the model is refused", "the_added_tokens_at_their_limit";
    /// What all tokens of a vocabulary stand for together.
    VOCABULARY_BYTES: u64 = 128 << 20, Bytes, ModelFolder, "the model is refused", "the_text_of_a_vocabulary_at_its_limit";
    /// `max_input_chars_per_word`, past which a word is one unknown token.
    WORD_CHARS: u64 = 1000, Count, ModelFolder, "the model is refused", "a_vocabulary_at_its_limits";
    /// The steps of a tokenizer's normalizer, and of each of its other components.
    TOKENIZER_STEPS: u64 = 64, Count, ModelFolder, "the model is refused", "the_steps_of_a_tokenizer_at_their_limits";
    /// The nesting of sequences of such steps.
    TOKENIZER_NESTING: u64 = 8, Levels, ModelFolder, "the model is refused", "the_steps_of_a_tokenizer_at_their_limits";
    /// The bytes of a pattern that a tokenizer splits or replaces by.
    PATTERN_BYTES: u64 = 16 << 10, Bytes, ModelFolder, "the model is refused", "the_steps_of_a_tokenizer_at_their_limits";
    /// The bytes that a tokenizer's normalizer and pre_tokenizer may make of one byte.
    TEXT_GROWTH: u64 = 1024, Bytes, ModelFolder, "the model is refused", "the_growth_of_a_text_at_its_limit";
    /// The bytes that a tokenizer's decoder may make of one byte.
    TOKEN_GROWTH: u64 = 64, Bytes, ModelFolder, "the model is refused", "the_growth_of_a_token_at_its_limit";
    /// The tokens that a tokenizer's post_processor puts around a text.
    TOKENS_AROUND_TEXT: u64 = 64, Count, ModelFolder, "the model is refused", "the_tokens_around_a_text_at_their_limit";
    /// The time in which a tokenizer.json is read.
    TOKENIZER_LOAD_SECS: u64 = 120, Seconds, ModelFolder, "the model is refused", "what_is_too_slow_is_left_behind";
    /// The time in which a prompt's text becomes tokens, waiting for others included.
    ENCODE_SECS: u64 = 120, Seconds, Request, "500; until the text is done the model refuses others", "what_is_too_slow_is_left_behind";
    /// The texts that one model's tokenizer encodes at a time.
    ENCODES_AT_ONCE: usize = 4, Count, Request, "the request waits", "no_more_than_so_many_are_encoded_at_once";
    /// The bytes of a prompt's text, or 8 for each token of the context where that is more.
    PROMPT_TEXT_BYTES: usize = 4 << 20, Bytes, Request, "400", "a_text_at_its_limit";
    /// The bytes of a text that is encoded without being counted first, in pieces.
    UNCOUNTED_TEXT_BYTES: usize = 1 << 20, Bytes, Request, "the text is counted first", "a_text_is_counted_past_its_limit";
    /// The bytes that normalizer and pre_tokenizer make of a prompt's text, or 32 for each token of the context
    /// where that is more.
    NORMALIZED_TEXT_BYTES: usize = 16 << 20, Bytes, Request, "400", "a_text_that_grows_at_its_limit";
    /// The size of a file with chat templates: tokenizer_config.json has many other things.
    TEMPLATE_FILE_BYTES: u64 = 16 << 20, Bytes, ModelFolder, "the model is refused", "a_template_file_at_its_limit";
    /// The length of a chat template. Real ones are under 40 KB.
    TEMPLATE_BYTES: usize = 1 << 20, Bytes, ModelFolder, "the model is refused", "a_template_at_its_length";
    /// The chat templates of a model, with those of `additional_chat_templates`.
    TEMPLATES: usize = 64, Count, ModelFolder, "the model is refused", "as_many_templates_as_allowed";
    /// The names, operators and brackets in one tag of a chat template. Real ones have up to 50.
    TEMPLATE_TAG_TOKENS: usize = 2048, Count, ModelFolder, "the model is refused", "chains_at_their_limit";
    /// The brackets in brackets in one tag of a chat template. Real ones have up to 4.
    TEMPLATE_BRACKET_LEVELS: usize = 20, Levels, ModelFolder, "the model is refused", "nesting_at_its_limit";
    /// The blocks in blocks of a chat template, each `elif` counted as one. Real ones have up to 12.
    TEMPLATE_BLOCK_LEVELS: usize = 128, Levels, ModelFolder, "the model is refused", "nesting_at_its_limit";
    /// The lists and dicts in lists and dicts that a chat template keeps or prints.
    TEMPLATE_VALUE_LEVELS: usize = 200, Levels, ModelFolder, "the request is refused", "values_at_their_depth";
    /// What one rendering of a chat template may do: about as many instructions, values looked through and
    /// 64 bytes of text made. A conversation of 200,000 tokens in messages of twenty takes a quarter of it.
    TEMPLATE_FUEL: u64 = 5_000_000, Count, ModelFolder, "the request is refused", "a_rendering_at_its_fuel";
    /// The time of one rendering of a chat template, and of all renderings by which it is learned what it takes.
    TEMPLATE_RENDER_MILLIS: u64 = 10_000, Milliseconds, ModelFolder, "the request is refused; the template counts as taking everything", "a_rendering_at_its_deadline";
    /// The schemas of a function that are looked through for what kind of value one parameter is.
    SCHEMAS_SEARCHED: usize = 1024, Count, Request, "what lies beyond says nothing: the value is text", "a_schema_at_its_search_limit";
    /// The patterns of `patternProperties` that are tried for what kind of value one parameter is.
    PATTERNS_SEARCHED: usize = 16, Count, Request, "the others say nothing", "patterns_at_their_search_limit";
    /// The size of one such pattern when it is compiled.
    KEY_PATTERN_BYTES: usize = 64 << 10, Bytes, Request, "the pattern says nothing", "a_pattern_at_its_size_limit";
    /// The places in a model's thoughts where it is tried whether a call begins.
    CALLS_TRIED_IN_THOUGHTS: usize = 64, Count, Request, "what follows stays thoughts", "thoughts_at_their_limit_of_tries";
}
