//! `/metrics`.

use omlx_tests::http;
use serde_json::json;

use crate::support::{KEY, SMALL, Server, sum};

#[test]
fn every_series_of_a_model_begins_at_zero() {
    let server = Server::start();
    let reply = server.get("/metrics");
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let model = format!("model=\"{SMALL}\"");
    for name in [
        "omlx_requests_running",
        "omlx_requests_waiting",
        "omlx_requests_total",
        "omlx_requests_rejected_total",
        "omlx_prompt_tokens_total",
        "omlx_generation_tokens_total",
        "omlx_prompt_tokens_cached_total",
        "omlx_request_time_to_first_token_seconds_count",
        "omlx_request_inter_token_latency_seconds_count",
        "omlx_request_e2e_latency_seconds_count",
        "omlx_request_queue_time_seconds_count",
        "omlx_request_prefill_time_seconds_count",
        "omlx_request_decode_time_seconds_count",
        "omlx_request_restore_time_seconds_count",
        "omlx_request_prompt_tokens_count",
        "omlx_request_generation_tokens_count",
        "omlx_request_params_max_tokens_count",
    ] {
        let series = format!("{name}{{");
        assert!(
            reply.text.lines().any(|line| line.starts_with(&series) && line.contains(&model)),
            "{name}"
        );
        assert_eq!(sum(&reply.text, name, &[&model]), 0.0, "{name}");
    }
    for bucket in ["0.001", "0.08", "2560"] {
        assert!(reply.text.contains(&format!("cache=\"none\",model=\"{SMALL}\",le=\"{bucket}\"")));
    }
}

#[test]
fn an_answer_is_counted_once_everywhere() {
    let server = Server::start();
    let answer = server.chat(json!({"max_tokens": 7, "ignore_eos": true})).ok();
    server.chat(json!({"model": "no/such"}));
    let text = server.get("/metrics").text;
    let model = format!("model=\"{SMALL}\"");
    let count = |name: &str, labels: &[&str]| {
        let labels: Vec<&str> = labels.iter().copied().chain([model.as_str()]).collect();
        sum(&text, name, &labels)
    };
    let prompt_tokens = answer["usage"]["prompt_tokens"].as_f64().unwrap();
    assert_eq!(count("omlx_requests_total", &["\"length\"", "\"chat.completions\""]), 1.0);
    assert_eq!(count("omlx_requests_total", &[]), 1.0);
    assert_eq!(count("omlx_prompt_tokens_total", &[]), prompt_tokens);
    assert_eq!(count("omlx_generation_tokens_total", &[]), 7.0);
    assert_eq!(count("omlx_request_time_to_first_token_seconds_count", &[]), 1.0);
    assert_eq!(count("omlx_request_inter_token_latency_seconds_count", &[]), 6.0);
    assert_eq!(count("omlx_request_params_max_tokens_sum", &[]), 7.0);
    assert_eq!(count("omlx_model_state", &["\"ready\""]), 1.0);
    assert_eq!(count("omlx_requests_running", &[]), 0.0);
    assert_eq!(sum(&text, "omlx_request_errors_total", &["\"model_not_found\""]), 1.0);
    assert_eq!(sum(&text, "omlx_http_requests_total", &["\"404\"", "/v1/chat/completions"]), 1.0);
    assert!(sum(&text, "omlx_engine_step_duration_seconds_count", &["\"decode\""]) >= 6.0);
    assert!(sum(&text, "omlx_scheduler_overhead_seconds_count", &[]) >= 7.0);
    assert!(sum(&text, "omlx_mlx_active_bytes", &[]) > 0.0);
    assert!(sum(&text, "process_resident_memory_bytes", &[]) > 1e6);
    // The names of models that do not exist are no labels.
    assert!(!text.contains("no/such"));
    assert!(!text.contains(KEY));
}

#[test]
fn metrics_need_a_key_when_the_host_is_not_this_machine() {
    let server = Server::start();
    // Over loopback, but by a name: as a proxy, or a page that rebinds its name, would ask.
    let ask = |host: &str| {
        let request = format!("GET /metrics HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        server.raw(request.as_bytes()).status
    };
    assert_eq!(ask("127.0.0.1"), 200);
    assert_eq!(ask("mac.example"), 403);
    let response = http::request(server.address, "GET", "/metrics", &[], b"").unwrap();
    assert_eq!(response.status, 200);
}
