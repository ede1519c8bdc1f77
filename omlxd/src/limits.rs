//! The daemon's limits on requests and configurations; the engine's are in [`engine::limits`].

engine::limits! {
    /// The bytes of a model's name in a request.
    MODEL_NAME_BYTES: usize = 256, Bytes, Request, "400", "a_model_name_at_its_limit";
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
    /// The entries of `logit_bias`.
    LOGIT_BIAS: usize = 4096, Count, Request, "400", "lists_are_read_up_to_their_limits";
    /// The characters of a client's own text that an error message repeats.
    ERROR_MESSAGE_CHARS: usize = 2000, Count, Request, "cut there", "an_error_repeats_a_bounded_part_of_a_request";
    /// The connections beyond `server.max_connections` that are answered 503 at the same time.
    REFUSED_CONNECTIONS: usize = 2048, Count, Request, "they wait to be accepted", "thousands_of_connections_past_the_limit_are_answered";
}
