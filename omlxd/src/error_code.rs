//! The codes of errors, once: what clients are told, and the labels of metrics, are made of these.

/// Declares the codes with their texts.
macro_rules! codes {
    ($($name:ident = $text:literal),* $(,)?) => {
        /// The `code` of an error object.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code {
            $(#[doc = concat!("`", $text, "`")] $name,)*
        }

        impl Code {
            /// All of them.
            pub const ALL: &[Code] = &[$(Code::$name),*];

            /// As it is written.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Code::$name => $text,)*
                }
            }
        }
    };
}

codes! {
    AbortedMemoryPressure = "aborted_memory_pressure",
    ContextLengthExceeded = "context_length_exceeded",
    GenerationFailed = "generation_failed",
    GrammarFailed = "grammar_failed",
    InsufficientMemory = "insufficient_memory",
    InsufficientPermissions = "insufficient_permissions",
    InternalError = "internal_error",
    InvalidApiKey = "invalid_api_key",
    InvalidJsonSchema = "invalid_json_schema",
    InvalidPrompt = "invalid_prompt",
    InvalidType = "invalid_type",
    InvalidValue = "invalid_value",
    MethodNotAllowed = "method_not_allowed",
    MissingRequiredParameter = "missing_required_parameter",
    ModelLoadFailed = "model_load_failed",
    ModelLoading = "model_loading",
    ModelNotFound = "model_not_found",
    ModelTooLarge = "model_too_large",
    NotFound = "not_found",
    PreviousResponseNotFound = "previous_response_not_found",
    RateLimitExceeded = "rate_limit_exceeded",
    RequestCancelled = "request_cancelled",
    RequestDeadlineExceeded = "request_deadline_exceeded",
    RequestTimeout = "request_timeout",
    RequestTooLarge = "request_too_large",
    ServerOverloaded = "server_overloaded",
    ShuttingDown = "shutting_down",
    UnknownParameter = "unknown_parameter",
    UnknownUrl = "unknown_url",
    UnsupportedMediaType = "unsupported_media_type",
    UnsupportedParameter = "unsupported_parameter",
    UnsupportedValue = "unsupported_value",
}

/// The type of errors that are the request's fault: their label in metrics where they have no code.
pub(crate) const INVALID: &str = "invalid_request_error";
