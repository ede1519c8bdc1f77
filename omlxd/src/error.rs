//! Every refusal as an OpenAI error object. The rows `E1` to `E39` are those of `docs/api.md`.

use std::fmt::Display;

use bytes::Bytes;
use engine::{GenerateError, GrammarError, SubmitError, TemplateError, TokenizeError};
use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use crate::error_code::{Code, INVALID};
use crate::limits::ERROR_MESSAGE_CHARS;
use crate::registry::AcquireError;

/// Tells the official SDKs whether another try can help; it overrides their own rule.
pub const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

const SERVER: &str = "server_error";
/// When a client should ask again for a model that was not there in time.
const MODEL_RETRY_SECS: u64 = 10;
/// A template's own message is cut to this many characters.
const TEMPLATE_MESSAGE_CHARS: usize = 500;
/// Longest text about a faulty schema, in characters.
const SCHEMA_MESSAGE_CHARS: usize = 500;

/// As much of a text as an answer repeats.
fn cut(text: String) -> String {
    match text.char_indices().nth(ERROR_MESSAGE_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// A refusal: a status, the four keys of the error object, and what the client should do next.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError(Box<Refusal>);

#[derive(Debug, Clone, PartialEq)]
struct Refusal {
    status: StatusCode,
    kind: &'static str,
    code: Option<Code>,
    param: Option<String>,
    message: String,
    /// More keys inside `error`, which SDKs tolerate.
    extra: Vec<(&'static str, usize)>,
    retry_after_secs: Option<u64>,
    /// Whether the same request can succeed later.
    can_retry: bool,
    close: bool,
    header: Option<(HeaderName, HeaderValue)>,
    /// It is E13.
    is_bad_grammar: bool,
}

impl ApiError {
    fn new(
        status: StatusCode,
        kind: &'static str,
        code: Option<Code>,
        message: impl Into<String>,
    ) -> Self {
        let can_retry = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        let message = cut(message.into());
        ApiError(Box::new(Refusal {
            status,
            kind,
            code,
            param: None,
            message,
            extra: Vec::new(),
            retry_after_secs: None,
            can_retry,
            close: false,
            header: None,
            is_bad_grammar: false,
        }))
    }

    fn invalid(code: Code, param: impl Display, message: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::BAD_REQUEST, INVALID, Some(code), message);
        error.0.param = Some(cut(param.to_string()));
        error
    }

    fn closing(mut self) -> Self {
        self.0.close = true;
        self
    }

    fn never_retry(mut self) -> Self {
        self.0.can_retry = false;
        self
    }

    fn retry_after(mut self, secs: u64) -> Self {
        self.0.retry_after_secs = Some(secs);
        self
    }

    /// E1: the body is not JSON.
    pub fn not_json(offset: usize, what: impl Display) -> Self {
        let message = format!("The request body is not valid JSON: {what} at byte {offset}.");
        Self::new(StatusCode::BAD_REQUEST, INVALID, None, message)
    }

    /// E1: the body cannot be decompressed.
    pub fn not_gzip(what: impl Display) -> Self {
        let message = format!("The request body is not valid gzip: {what}.");
        Self::new(StatusCode::BAD_REQUEST, INVALID, None, message)
    }

    /// E1: the body's framing is broken.
    pub fn bad_body(what: impl Display) -> Self {
        let message = format!("The request body could not be read: {what}.");
        Self::new(StatusCode::BAD_REQUEST, INVALID, None, message).closing()
    }

    /// E2: JSON, but not an object.
    pub fn not_an_object(got: &str) -> Self {
        let message = format!("The request body must be a JSON object, but it is {got}.");
        Self::new(StatusCode::BAD_REQUEST, INVALID, Some(Code::InvalidType), message)
    }

    /// E3: a required field is absent.
    pub fn missing(param: impl Display) -> Self {
        let message = format!("Missing required parameter: '{param}'.");
        Self::invalid(Code::MissingRequiredParameter, param, message)
    }

    /// E4: a field has the wrong JSON type.
    pub fn wrong_type(param: impl Display, expected: &str, got: &str) -> Self {
        let message = format!("Invalid type for '{param}': expected {expected}, but got {got}.");
        Self::invalid(Code::InvalidType, param, message)
    }

    /// E5, E6, E9, E14: a value that is not one of those allowed.
    pub fn invalid_value(param: impl Display, what: impl Display) -> Self {
        let message = format!("Invalid value for '{param}': {what}.");
        Self::invalid(Code::InvalidValue, param, message)
    }

    /// E7: a known parameter that is not supported.
    pub fn unsupported_parameter(param: impl Display, hint: impl Display) -> Self {
        let message = format!("Unsupported parameter: '{param}' is not supported{hint}.");
        Self::invalid(Code::UnsupportedParameter, param, message)
    }

    /// E7, E15: a supported parameter with a value that is not supported.
    pub fn unsupported_value(param: impl Display, what: impl Display) -> Self {
        let message = format!("Unsupported value for '{param}': {what}.");
        Self::invalid(Code::UnsupportedValue, param, message)
    }

    /// E8: an unknown parameter, in strict mode.
    pub fn unknown_parameter(param: impl Display) -> Self {
        let message = format!("Unknown parameter: '{param}'.");
        Self::invalid(Code::UnknownParameter, param, message)
    }

    /// E10: the prompt leaves no room for an answer.
    pub fn context_length(param: &str, prompt_tokens: usize, context_tokens: usize) -> Self {
        let message = format!(
            "This model's maximum context length is {context_tokens} tokens. However, your \
             messages resulted in {prompt_tokens} tokens. Please reduce the length of the messages."
        );
        let mut error = Self::invalid(Code::ContextLengthExceeded, param, message);
        error.0.extra = vec![("n_prompt_tokens", prompt_tokens), ("n_ctx", context_tokens)];
        error
    }

    /// E12: the conversation is not one that the model's chat template can render.
    pub fn template(param: &str, error: &TemplateError) -> Self {
        let message: String = error.to_string().chars().take(TEMPLATE_MESSAGE_CHARS).collect();
        Self::invalid(Code::InvalidPrompt, param, message)
    }

    /// E12: the chat template refused a tool, which stands at `place`.
    pub fn tool_template(place: &str, error: &TemplateError) -> Self {
        let message: String = error.to_string().chars().take(TEMPLATE_MESSAGE_CHARS).collect();
        let message = format!("The model's chat template cannot write this tool: {message}");
        Self::invalid(Code::InvalidPrompt, place, message)
    }

    /// E12: the model has no chat template.
    pub fn no_template(param: &str, model: &str) -> Self {
        let message = format!(
            "The model '{model}' has no chat template, so it cannot answer messages; use \
             /v1/completions."
        );
        Self::invalid(Code::InvalidPrompt, param, message)
    }

    /// E13: a schema or a grammar that no answer can be held to. `subject` names it.
    pub fn invalid_grammar(param: &str, subject: &str, error: &GrammarError) -> Self {
        if let GrammarError::Internal(_) = error {
            // What it says may hold words of the schema, which is the client's.
            tracing::error!("a grammar could not be compiled: llguidance panicked");
        }
        let what: String = error.to_string().chars().take(SCHEMA_MESSAGE_CHARS).collect();
        let message = format!("Invalid {subject}: {what}.");
        let mut error = Self::new(StatusCode::BAD_REQUEST, INVALID, None, message);
        error.0.param = Some(param.to_owned());
        error.0.is_bad_grammar = true;
        error
    }

    /// E16: no credential.
    pub fn no_key() -> Self {
        let message = "You didn't provide an API key. Provide it in an Authorization header using \
                       Bearer auth (Authorization: Bearer YOUR_KEY). 'omlxctl key show' prints it.";
        let mut error = Self::new(StatusCode::UNAUTHORIZED, INVALID, None, message);
        let value = HeaderValue::from_static("Bearer realm=\"omlxd\"");
        error.0.header = Some((header::WWW_AUTHENTICATE, value));
        error
    }

    /// E17: a credential that is not one of the keys. `tail` is at most its last 4 characters.
    pub fn wrong_key(tail: &str) -> Self {
        let message = format!(
            "Incorrect API key provided: ****{tail}. 'omlxctl key show' prints the right one."
        );
        let code = Some(Code::InvalidApiKey);
        let mut error = Self::new(StatusCode::UNAUTHORIZED, INVALID, code, message);
        let value = HeaderValue::from_static("Bearer realm=\"omlxd\", error=\"invalid_token\"");
        error.0.header = Some((header::WWW_AUTHENTICATE, value));
        error
    }

    /// E18: a browser origin or a `Host` that this daemon does not serve.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, INVALID, Some(Code::InsufficientPermissions), message)
    }

    /// E38: there is no stored answer of this id.
    pub fn response_not_found(id: &str) -> Self {
        let message = format!("Response with id '{id:.64}' not found.");
        Self::new(StatusCode::NOT_FOUND, INVALID, Some(Code::NotFound), message)
    }

    /// E38: a stored answer that a request wants to go on from is not there.
    pub fn previous_not_found(id: &str) -> Self {
        let message = format!(
            "Previous response with id '{id:.64}' not found. Stored answers are removed after \
             server.responses_ttl; send the whole input instead."
        );
        Self::invalid(Code::PreviousResponseNotFound, "previous_response_id", message)
    }

    /// E19: no such model; `near` are ids that resemble it.
    pub fn model_not_found(model: &str, near: &[String]) -> Self {
        let mut message = format!("The model '{model}' does not exist.");
        if !near.is_empty() {
            message.push_str(&format!(" Near names: {}.", near.join(", ")));
        }
        let mut error = Self::invalid(Code::ModelNotFound, "model", message);
        error.0.status = StatusCode::NOT_FOUND;
        error
    }

    /// E20: no such URL.
    pub fn unknown_url(method: &str, path: &str) -> Self {
        let message = format!("Invalid URL ({method} {path})");
        Self::new(StatusCode::NOT_FOUND, INVALID, Some(Code::UnknownUrl), message)
    }

    /// E21: the URL exists, for other methods.
    pub fn method_not_allowed(method: &str, path: &str, allow: &'static str) -> Self {
        let message = format!("Not allowed to {method} on {path}; allowed: {allow}.");
        let code = Some(Code::MethodNotAllowed);
        let mut error = Self::new(StatusCode::METHOD_NOT_ALLOWED, INVALID, code, message);
        error.0.header = Some((header::ALLOW, HeaderValue::from_static(allow)));
        error
    }

    /// E22: the body came too slowly.
    pub fn read_timeout(secs: u64) -> Self {
        let message = format!("The request body paused for more than {secs} seconds.");
        Self::new(StatusCode::REQUEST_TIMEOUT, INVALID, Some(Code::RequestTimeout), message)
            .closing()
    }

    /// E23: the body is too large.
    pub fn too_large(limit_bytes: u64) -> Self {
        let message = format!("The request body is larger than the limit of {limit_bytes} bytes.");
        let code = Some(Code::RequestTooLarge);
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, INVALID, code, message).closing()
    }

    /// E23: the body holds too many values.
    pub fn too_many_values(limit: usize) -> Self {
        let message = format!(
            "The JSON of the request body holds more than {limit} values, which is the limit."
        );
        let code = Some(Code::RequestTooLarge);
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, INVALID, code, message).closing()
    }

    /// E24: the body is not announced as JSON, or comes in an unknown encoding.
    pub fn unsupported_media(message: impl Into<String>) -> Self {
        let code = Some(Code::UnsupportedMediaType);
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID, code, message)
    }

    /// E25: a key has as many requests as it may.
    pub fn rate_limited(running: usize) -> Self {
        let message = format!(
            "Rate limit reached: {running} requests of this API key are being answered already, \
             which is the limit. Retry when one has ended."
        );
        let code = Some(Code::RateLimitExceeded);
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", code, message).retry_after(1)
    }

    /// E31: the request's time is over.
    pub fn deadline_exceeded() -> Self {
        let message = "The request took longer than limits.request_deadline allows. What was \
                       computed is kept: the same prompt sent again goes on from there.";
        let code = Some(Code::RequestDeadlineExceeded);
        Self::new(StatusCode::GATEWAY_TIMEOUT, SERVER, code, message).never_retry()
    }

    /// E30: there is no memory for a request, though nothing else runs.
    pub fn no_memory() -> Self {
        let message = "There is not enough memory for this request now. Retry later, or raise \
                       memory.budget.";
        let code = Some(Code::AbortedMemoryPressure);
        Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, code, message).retry_after(30)
    }

    /// E26: the queue is full.
    pub fn overloaded(waiting: usize, retry_after_secs: u64) -> Self {
        let message = format!(
            "The server is overloaded: {waiting} requests are waiting already. Retry in \
             {retry_after_secs} s."
        );
        Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, Some(Code::ServerOverloaded), message)
            .retry_after(retry_after_secs)
    }

    /// E26: other requests hold the memory for bodies.
    pub fn no_request_memory() -> Self {
        let message = "The server is overloaded: other requests hold all of the memory that is set \
                       aside for requests. Retry when they have ended.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, Some(Code::ServerOverloaded), message)
            .retry_after(1)
            .closing()
    }

    /// E32: a bug. The message holds no internals; the log has them under the request's id.
    pub fn internal() -> Self {
        let message = "The server had an error while processing your request. The log has it \
                       under the id in the x-request-id header.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, SERVER, Some(Code::InternalError), message)
    }

    /// E33: the daemon is shutting down.
    pub fn shutting_down() -> Self {
        let message = "The server is shutting down.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, Some(Code::ShuttingDown), message)
            .retry_after(5)
            .closing()
    }

    /// E35: the model's folder cannot be loaded. `why` names the file and the field.
    pub fn load_failed(model: &str, why: &str) -> Self {
        let message = format!("The model '{model}' cannot be loaded: {why}.");
        let code = Some(Code::ModelLoadFailed);
        let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, code, message);
        error.0.param = Some("model".to_owned());
        error.never_retry()
    }

    /// E27, E28, E29, E35: the model cannot be had.
    pub fn model_unavailable(model: &str, error: &AcquireError) -> Self {
        let (code, message) = match error {
            AcquireError::Failed(why) => return Self::load_failed(model, why),
            AcquireError::Gone => return Self::model_not_found(model, &[]),
            AcquireError::TooLarge { needed_bytes, budget_bytes } => {
                let message = format!("The model '{model}' can never be loaded here: {error}.");
                let mut error = Self::invalid(Code::ModelTooLarge, "model", message);
                let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
                error.0.extra = vec![
                    ("needed_bytes", bytes(*needed_bytes)),
                    ("available_bytes", bytes(*budget_bytes)),
                ];
                return error;
            }
            AcquireError::NoRoom { .. } => (Code::InsufficientMemory, "has no room"),
            AcquireError::StillLoading { .. } => (Code::ModelLoading, "is not there yet"),
        };
        let message = format!("The model '{model}' {message}: {error}.");
        let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, Some(code), message)
            .retry_after(MODEL_RETRY_SECS);
        error.0.param = Some("model".to_owned());
        error
    }

    /// E36: an administrator cancelled the request.
    pub fn cancelled() -> Self {
        let message = "The request was cancelled by an administrator.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, Some(Code::RequestCancelled), message)
            .never_retry()
    }

    /// A request that the engine refused. `param` is the field that holds the prompt.
    pub fn submit(error: &SubmitError, param: &'static str, busy_secs: u64) -> Self {
        match error {
            SubmitError::EmptyPrompt => Self::invalid_value(param, "the prompt has no tokens"),
            SubmitError::ContextExceeded { prompt_tokens, context_tokens } => {
                Self::context_length(param, *prompt_tokens, *context_tokens)
            }
            SubmitError::UnknownToken { .. } => Self::invalid_value(param, error),
            SubmitError::QueueFull { waiting } => Self::overloaded(*waiting, busy_secs),
            SubmitError::ShuttingDown => Self::shutting_down(),
            _ => Self::internal(),
        }
    }

    /// A text that did not become tokens. `param` is the field that it came from.
    pub fn tokenize(param: &str, error: &TokenizeError) -> Self {
        match error {
            TokenizeError::TooManyTokens { tokens, most_tokens } => {
                let mut error = Self::context_length(param, *tokens, *most_tokens);
                let exact = format!("{tokens} tokens.");
                error.0.message =
                    error.0.message.replace(&exact, &format!("{tokens} tokens or more."));
                error
            }
            TokenizeError::TooManyBytes { bytes, most_bytes, most_tokens } => {
                let message = format!(
                    "This model's maximum context length is {most_tokens} tokens. However, your \
                     messages resulted in a text of {bytes} bytes, and at most {most_bytes} are \
                     encoded for it. Please reduce the length of the messages."
                );
                Self::invalid(Code::ContextLengthExceeded, param, message)
            }
            TokenizeError::Refused(_) => Self::invalid_value(param, error),
            TokenizeError::Unwanted => Self::cancelled(),
            TokenizeError::TooSlow => {
                let code = Some(Code::GenerationFailed);
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                Self::new(status, SERVER, code, format!("{error}.")).never_retry()
            }
            _ => Self::internal(),
        }
    }

    /// A generation that failed while it ran.
    pub fn generate(error: &GenerateError) -> Self {
        match error {
            GenerateError::ShuttingDown => Self::shutting_down(),
            GenerateError::NotANumber { .. } | GenerateError::Mlx(_) => {
                let code = Some(Code::GenerationFailed);
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                Self::new(status, SERVER, code, format!("{error}.")).never_retry()
            }
            GenerateError::Grammar(_) => {
                let code = Some(Code::GrammarFailed);
                Self::new(StatusCode::BAD_REQUEST, INVALID, code, format!("{error}."))
            }
            GenerateError::SlowReader(secs) => Self::read_timeout(*secs),
            GenerateError::Deadline => Self::deadline_exceeded(),
            GenerateError::NoMemory => Self::no_memory(),
            _ => Self::internal(),
        }
    }

    /// Whether it is E13, which has a code on some endpoints only.
    pub(crate) fn is_bad_grammar(&self) -> bool {
        self.0.is_bad_grammar
    }

    /// The same refusal for an endpoint where it has a code.
    pub(crate) fn with_code(mut self, code: Code) -> Self {
        self.0.code = Some(code);
        self
    }

    /// The prompt's tokens and the context's, when the one does not fit the other (E10).
    pub(crate) fn context(&self) -> Option<(usize, usize)> {
        match self.0.extra[..] {
            [("n_prompt_tokens", prompt_tokens), ("n_ctx", context_tokens)] => {
                Some((prompt_tokens, context_tokens))
            }
            _ => None,
        }
    }

    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The label of `omlx_request_errors_total`: the code, or the type where there is no code.
    pub fn label(&self) -> &'static str {
        self.0.code.map_or(self.0.kind, Code::as_str)
    }

    /// Its code, where it has one.
    pub fn code(&self) -> Option<Code> {
        self.0.code
    }

    /// Whether the connection must not be used again.
    pub fn closes(&self) -> bool {
        self.0.close
    }

    /// Which field is wrong, as a dotted path.
    pub fn param(&self) -> Option<&str> {
        self.0.param.as_deref()
    }

    /// What went wrong, in words.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// `{"error": {...}}` with all four keys.
    pub fn body(&self) -> Bytes {
        let mut error = Map::new();
        error.insert("message".to_owned(), json!(self.0.message));
        error.insert("type".to_owned(), json!(self.0.kind));
        error.insert("param".to_owned(), json!(self.0.param));
        error.insert("code".to_owned(), json!(self.0.code.map(Code::as_str)));
        for (name, value) in &self.0.extra {
            error.insert((*name).to_owned(), json!(value));
        }
        Bytes::from(json!({ "error": Value::Object(error) }).to_string())
    }

    /// Adds the headers that go with this error.
    pub fn headers(&self, headers: &mut HeaderMap) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if !self.0.can_retry {
            headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if let Some(secs) = self.0.retry_after_secs {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        if self.0.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some((name, value)) = &self.0.header {
            headers.insert(name.clone(), value.clone());
        }
    }
}
