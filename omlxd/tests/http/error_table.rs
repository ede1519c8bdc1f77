//! Every row of the error table in `docs/api.md`: status, type, code, param, and what a client is told
//! to do next.

use engine::{GenerateError, GrammarError, SubmitError, TemplateError};
use hyper::header::{HeaderMap, RETRY_AFTER};
use omlxd::error::{ApiError, X_SHOULD_RETRY};
use omlxd::registry::AcquireError;
use serde_json::{Value, json};

/// Number, refusal, status; code and param, empty where they are null.
type Row = (u8, ApiError, u16, &'static str, &'static str);

/// Rows with `Retry-After`, and its seconds.
const RETRY_AFTER_SECS: [(u8, u64); 6] = [(25, 1), (26, 7), (27, 10), (28, 10), (30, 30), (33, 5)];
/// Rows without it, for which another try can help all the same.
const CAN_RETRY: [u8; 1] = [32];
/// Rows that end the connection.
const CLOSE: [u8; 3] = [22, 23, 33];

/// The rows that are refusals of this module. Not here: E5, E9, E11, E14 and E15, which are made by the
/// same functions as others, and E34, which has no body.
fn rows() -> Vec<Row> {
    let acquire = |error: &AcquireError| ApiError::model_unavailable("m", error);
    let generate = |error: &GenerateError| ApiError::generate(error);
    let raised = TemplateError::Raised("no".to_owned());
    let full = SubmitError::QueueFull { waiting: 3 };
    let no_room =
        AcquireError::NoRoom { needed_bytes: 2, free_bytes: 1, budget_bytes: 3, waited_secs: 5 };
    let too_large = AcquireError::TooLarge { needed_bytes: 2, budget_bytes: 1 };
    let late = AcquireError::StillLoading { waited_secs: 5 };
    let bad = GrammarError::Invalid("no".to_owned());
    let bad = ApiError::invalid_grammar("response_format", "schema", &bad);
    vec![
        (1, ApiError::not_json(5, "x"), 400, "", ""),
        (1, ApiError::not_gzip("x"), 400, "", ""),
        (2, ApiError::not_an_object("a list"), 400, "invalid_type", ""),
        (3, ApiError::missing("p"), 400, "missing_required_parameter", "p"),
        (4, ApiError::wrong_type("p", "a", "b"), 400, "invalid_type", "p"),
        (6, ApiError::invalid_value("p", "x"), 400, "invalid_value", "p"),
        (7, ApiError::unsupported_parameter("p", ""), 400, "unsupported_parameter", "p"),
        (7, ApiError::unsupported_value("p", "x"), 400, "unsupported_value", "p"),
        (8, ApiError::unknown_parameter("p"), 400, "unknown_parameter", "p"),
        (10, ApiError::context_length("input", 9, 8), 400, "context_length_exceeded", "input"),
        (12, ApiError::template("messages", &raised), 400, "invalid_prompt", "messages"),
        (12, ApiError::tool_template("tools[0]", &raised), 400, "invalid_prompt", "tools[0]"),
        (12, ApiError::no_template("messages", "m"), 400, "invalid_prompt", "messages"),
        (13, bad, 400, "", "response_format"),
        (16, ApiError::no_key(), 401, "", ""),
        (17, ApiError::wrong_key("4321"), 401, "invalid_api_key", ""),
        (18, ApiError::forbidden("no"), 403, "insufficient_permissions", ""),
        (19, ApiError::model_not_found("m", &[]), 404, "model_not_found", "model"),
        (20, ApiError::unknown_url("GET", "/x"), 404, "unknown_url", ""),
        (21, ApiError::method_not_allowed("GET", "/x", "POST"), 405, "method_not_allowed", ""),
        (22, ApiError::read_timeout(30), 408, "request_timeout", ""),
        (23, ApiError::too_large(5), 413, "request_too_large", ""),
        (24, ApiError::unsupported_media("no"), 415, "unsupported_media_type", ""),
        (25, ApiError::rate_limited(3), 429, "rate_limit_exceeded", ""),
        (26, ApiError::submit(&full, "prompt", 7), 503, "server_overloaded", ""),
        (27, acquire(&late), 503, "model_loading", "model"),
        (28, acquire(&no_room), 503, "insufficient_memory", "model"),
        (29, acquire(&too_large), 400, "model_too_large", "model"),
        (30, generate(&GenerateError::NoMemory), 503, "aborted_memory_pressure", ""),
        (31, generate(&GenerateError::Deadline), 504, "request_deadline_exceeded", ""),
        (32, ApiError::internal(), 500, "internal_error", ""),
        (33, ApiError::shutting_down(), 503, "shutting_down", ""),
        (35, ApiError::load_failed("m", "x"), 503, "model_load_failed", "model"),
        (36, ApiError::cancelled(), 503, "request_cancelled", ""),
        (37, generate(&GenerateError::Mlx("x".to_owned())), 500, "generation_failed", ""),
        (38, ApiError::response_not_found("r"), 404, "not_found", ""),
        (
            38,
            ApiError::previous_not_found("r"),
            400,
            "previous_response_not_found",
            "previous_response_id",
        ),
        (39, generate(&GenerateError::Grammar("x".to_owned())), 400, "grammar_failed", ""),
    ]
}

#[test]
fn every_row_has_its_shape() {
    for (number, error, status, code, param) in rows() {
        let body: Value = serde_json::from_slice(&error.body()).unwrap();
        let kind = match status {
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        let or_null = |text: &str| if text.is_empty() { Value::Null } else { json!(text) };
        let got = &body["error"];
        assert_eq!(error.status().as_u16(), status, "E{number}");
        let shape = (&got["type"], &got["code"], &got["param"]);
        assert_eq!(shape, (&json!(kind), &or_null(code), &or_null(param)), "E{number}");
        assert!(!got["message"].as_str().unwrap().is_empty(), "E{number}");
        assert_eq!(body.as_object().unwrap().len(), 1, "E{number}");

        let mut headers = HeaderMap::new();
        error.headers(&mut headers);
        let told = headers.get(RETRY_AFTER).map(|value| value.to_str().unwrap().parse().unwrap());
        let expected = RETRY_AFTER_SECS.iter().find(|(row, _)| *row == number);
        assert_eq!(told, expected.map(|(_, secs)| *secs), "E{number}");
        let can_retry = told.is_some() || CAN_RETRY.contains(&number);
        let refused = headers.get(X_SHOULD_RETRY).is_some_and(|value| value == "false");
        assert_eq!(refused, !can_retry, "E{number}");
        assert_eq!(error.closes(), CLOSE.contains(&number), "E{number}");
    }
}

#[test]
fn the_documented_rows_are_those() {
    let documented = include_str!("../../../docs/api.md");
    for (number, _, status, code, _) in rows() {
        let begin = format!("| E{number} |");
        let found: Vec<&str> = documented.lines().filter(|line| line.starts_with(&begin)).collect();
        let [row] = found[..] else { panic!("docs/api.md has {} rows E{number}", found.len()) };
        assert!(row.contains(&status.to_string()) && row.contains(code), "{row}");
    }
}
