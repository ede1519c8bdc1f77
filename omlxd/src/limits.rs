//! The daemon's limits on requests and configurations; the engine's are in [`engine::limits`](mod@engine::limits).

engine::limits! {
    /// The bytes of a model's name in a request.
    MODEL_NAME_BYTES: usize = 256, Bytes, Request, "400", "a_model_name_at_its_limit";
    /// The answers that a request to /v1/responses goes on from, one by the other.
    RESPONSE_CHAIN: usize = 1024, Count, Request, "400", "a_chain_of_answers_at_its_limit";
    /// The bytes of those answers on disk: as much as the largest request by default.
    RESPONSE_CHAIN_BYTES: u64 = 64 << 20, Bytes, Request, "400", "a_chain_of_answers_at_its_limit";
    /// The size of config.toml.
    CONFIG_FILE_BYTES: u64 = 1 << 20, Bytes, Configuration, "the configuration is refused", "a_configuration_file_at_its_limit";
    /// The problems of a configuration that are shown.
    CONFIG_PROBLEMS: usize = 100, Count, Configuration, "the others are counted", "problems_at_their_limit";
    /// Any time: 365 days.
    CONFIG_TIME_SECS: u64 = 365 * 24 * 3600, Seconds, Configuration, "the configuration is refused", "times_and_sizes_at_their_limits";
    /// Any size: a pebibyte.
    CONFIG_SIZE_BYTES: u64 = 1 << 50, Bytes, Configuration, "the configuration is refused", "times_and_sizes_at_their_limits";
    /// The bytes of any text: a path, an origin.
    CONFIG_TEXT_BYTES: usize = 4096, Bytes, Configuration, "the configuration is refused", "texts_and_lists_at_their_limits";
    /// The items of any list.
    CONFIG_LIST_ITEMS: usize = 256, Count, Configuration, "the configuration is refused", "texts_and_lists_at_their_limits";
    /// The models that have a section of their own.
    CONFIG_MODELS: usize = 1024, Count, Configuration, "the configuration is refused", "model_sections_at_their_limit";
    /// The aliases that lead from a name to a model, one to the next.
    CONFIG_ALIAS_HOPS: usize = 8, Count, Configuration, "the configuration is refused", "alias_chains_at_their_limit";
    /// The context_limit of a model, in tokens.
    CONFIG_CONTEXT_TOKENS: usize = 1 << 24, Count, Configuration, "the configuration is refused", "numbers_of_a_model_at_their_limits";
    /// The top_k of a model.
    CONFIG_TOP_K: usize = u32::MAX as usize, Count, Configuration, "the configuration is refused", "numbers_of_a_model_at_their_limits";
    /// The size of the file of API keys.
    KEY_FILE_BYTES: u64 = 64 << 10, Bytes, Configuration, "the keys are refused", "a_key_file_at_its_limit";
    /// The bytes of an API key.
    KEY_BYTES: usize = 256, Bytes, Configuration, "the keys are refused", "a_key_at_its_limit";
    /// The bytes of an API key's name.
    KEY_NAME_BYTES: usize = 64, Bytes, Configuration, "the name is refused", "a_key_name_at_its_limit";
    /// The size of a file with a TLS certificate or its key.
    TLS_FILE_BYTES: u64 = 1 << 20, Bytes, Configuration, "the file is refused", "a_certificate_file_at_its_limit";
    /// The size of logs/crashes.json.
    CRASH_NOTES_BYTES: u64 = 256 << 10, Bytes, Configuration, "the notes begin anew", "crash_notes_at_their_limit";
    /// The size of a file that the run before left in run/.
    RUN_FILE_BYTES: u64 = 64 << 10, Bytes, Configuration, "the file is not read", "crash_notes_at_their_limit";
    /// The bytes of the name of an organisation, a model or a revision to pull.
    PULL_NAME_BYTES: usize = 96, Bytes, Request, "400", "names_at_their_limit";
    /// The size of each file of a model to pull but its weights.
    PULL_SMALL_FILE_BYTES: u64 = 256 << 20, Bytes, ModelFolder, "nothing is downloaded", "listings_at_their_limits";
    /// The files of weights of a model to pull.
    PULL_WEIGHT_FILES: usize = 2048, Count, ModelFolder, "nothing is downloaded", "listings_at_their_limits";
    /// The size of a file in refs/ of the hub's cache layout.
    REVISION_FILE_BYTES: u64 = 4096, Bytes, ModelFolder, "the reference is not followed", "a_reference_at_its_limit";
    /// The values in the JSON of a request body; an object counts as three.
    JSON_VALUES: usize = 1 << 19, Count, Request, "413", "a_body_has_values_up_to_its_limit";
    /// How long a request waits for others to give back memory, before its body is read.
    REQUEST_MEMORY_WAIT_SECS: u64 = 5, Seconds, Request, "503", "who_finds_no_room_waits_and_is_then_refused";
    /// The messages of a request, and the items of a Responses input.
    MESSAGES: usize = 50_000, Count, Request, "400", "lists_are_read_up_to_their_limits";
    /// The parts or blocks of one message.
    PARTS: usize = 50_000, Count, Request, "400", "lists_are_read_up_to_their_limits";
    /// The tools of a request, those in namespaces included.
    TOOLS: usize = 10_000, Count, Request, "400", "lists_are_read_up_to_their_limits";
    /// The choices of a request, all its prompts together.
    CHOICES: usize = 128, Count, Request, "400", "lists_are_read_up_to_their_limits";
    /// A JSON schema that is given as text.
    SCHEMA_TEXT_BYTES: usize = 1 << 20, Bytes, Request, "400", "a_schema_as_text_at_its_limit";
    /// The entries of `logit_bias`.
    LOGIT_BIAS: usize = 4096, Count, Request, "400", "lists_are_read_up_to_their_limits";
    /// The characters of a client's own text that an error message repeats.
    ERROR_MESSAGE_CHARS: usize = 2000, Count, Request, "cut there", "an_error_repeats_a_bounded_part_of_a_request";
    /// The connections beyond `server.max_connections` that are answered 503 at the same time.
    REFUSED_CONNECTIONS: usize = 2048, Count, Request, "they wait to be accepted", "thousands_of_connections_past_the_limit_are_answered";
    /// The bytes of a cache salt.
    CACHE_SALT_BYTES: usize = 128, Bytes, Request, "400", "a_cache_salt_at_its_limit";
    /// The most likely tokens that can be asked for beside each token of a chat answer.
    TOP_LOGPROBS: i64 = 20, Count, Request, "400", "top_logprobs_at_their_limit";
    /// The different names of ignored fields of a request that are kept for the log.
    IGNORED_NAMES: usize = 32, Count, Request, "counted, but not logged", "ignored_names_at_their_limit";
}
