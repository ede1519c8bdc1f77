//! Refusals in the shape that Anthropic's clients expect.

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::error_code::Code;

/// `{"type": "error", "error": {...}, "request_id": ...}`.
pub(crate) fn body(error: &ApiError, request_id: &str) -> Vec<u8> {
    let mut body = object(error);
    body["request_id"] = json!(request_id);
    body.to_string().into_bytes()
}

/// An event that ends a stream which failed.
pub(super) fn event(error: &ApiError) -> Vec<u8> {
    format!("event: error\ndata: {}\n\n", object(error)).into_bytes()
}

fn object(error: &ApiError) -> Value {
    let kind = match error.status() {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => "timeout_error",
        status if status.is_server_error() => "api_error",
        _ => "invalid_request_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": message(error)}})
}

/// Clients of this API know a prompt that is too long by these words, and make it shorter.
fn message(error: &ApiError) -> String {
    match error.context() {
        Some((prompt_tokens, context_tokens)) => {
            format!("prompt is too long: {prompt_tokens} tokens > {context_tokens} maximum")
        }
        None if error.code() == Some(Code::ContextLengthExceeded) => {
            format!("prompt is too long: {}", error.message())
        }
        None => error.message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use engine::TokenizeError;

    use super::*;

    #[test]
    fn each_status_has_its_type() {
        let cases = [
            (ApiError::missing("model"), "invalid_request_error"),
            (ApiError::no_key(), "authentication_error"),
            (ApiError::forbidden("no"), "permission_error"),
            (ApiError::model_not_found("m", &[]), "not_found_error"),
            (ApiError::too_large(5), "request_too_large"),
            (ApiError::unsupported_media("no"), "invalid_request_error"),
            (ApiError::rate_limited(3), "rate_limit_error"),
            (ApiError::overloaded(3, 1), "overloaded_error"),
            (ApiError::deadline_exceeded(), "timeout_error"),
            (ApiError::internal(), "api_error"),
        ];
        for (error, kind) in cases {
            let body: Value = serde_json::from_slice(&body(&error, "req_1")).unwrap();
            assert_eq!(body["type"], "error");
            assert_eq!(body["error"]["type"], kind);
            assert_eq!(body["request_id"], "req_1");
        }
    }

    #[test]
    fn a_prompt_that_is_too_long_is_told_in_the_known_words() {
        let error = ApiError::context_length("messages", 300, 256);
        let body: Value = serde_json::from_slice(&body(&error, "req_1")).unwrap();
        assert_eq!(body["error"]["message"], "prompt is too long: 300 tokens > 256 maximum");
        let error = TokenizeError::TooManyBytes { bytes: 3, most_bytes: 2, most_tokens: 1 };
        let error = ApiError::tokenize("messages", &error);
        assert!(error.message().contains("maximum context length is 1 tokens"));
        assert!(message(&error).starts_with("prompt is too long: "));
    }
}
