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
        "omlx_engine_step_duration_seconds_count",
        "omlx_engine_step_tokens_count",
        "omlx_engine_batch_size_count",
        "omlx_scheduler_overhead_seconds_count",
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

/// Every family, with the labels that dashboards and alarms rely on.
const FAMILIES: &[(&str, &[&str])] = &[
    ("omlx_build_info", &["version", "mlx_version", "commit", "chip", "os"]),
    ("omlx_model_info", &["model", "revision", "quant", "kv_dtype", "block_size", "max_model_len"]),
    ("omlx_model_state", &["model", "state"]),
    ("omlx_model_load_duration_seconds_bucket", &["model"]),
    ("omlx_requests_running", &["model"]),
    ("omlx_requests_waiting", &["model"]),
    ("omlx_requests_total", &["model", "endpoint", "finish_reason"]),
    ("omlx_request_errors_total", &["endpoint", "code"]),
    ("omlx_requests_rejected_total", &["model", "reason"]),
    ("omlx_preemptions_total", &["model"]),
    ("omlx_prompt_tokens_total", &["model"]),
    ("omlx_generation_tokens_total", &["model"]),
    ("omlx_prompt_tokens_cached_total", &["model", "tier"]),
    ("omlx_prefix_cache_queries_tokens_total", &["model", "tier"]),
    ("omlx_prefix_cache_hits_tokens_total", &["model", "tier"]),
    ("omlx_prefix_cache_miss_total", &["model", "reason"]),
    ("omlx_request_time_to_first_token_seconds_bucket", &["model", "cache"]),
    ("omlx_request_inter_token_latency_seconds_bucket", &["model"]),
    ("omlx_request_e2e_latency_seconds_bucket", &["model"]),
    ("omlx_request_queue_time_seconds_bucket", &["model"]),
    ("omlx_request_prefill_time_seconds_bucket", &["model"]),
    ("omlx_request_decode_time_seconds_bucket", &["model"]),
    ("omlx_request_restore_time_seconds_bucket", &["model"]),
    ("omlx_request_prompt_tokens_bucket", &["model"]),
    ("omlx_request_generation_tokens_bucket", &["model"]),
    ("omlx_request_params_max_tokens_bucket", &["model"]),
    ("omlx_engine_step_duration_seconds_bucket", &["model", "phase"]),
    ("omlx_engine_step_tokens_bucket", &["model"]),
    ("omlx_engine_batch_size_bucket", &["model"]),
    ("omlx_scheduler_overhead_seconds_bucket", &["model"]),
    ("omlx_engine_last_progress_timestamp_seconds", &[]),
    ("omlx_kv_cache_capacity_bytes", &["tier"]),
    ("omlx_kv_cache_used_bytes", &["tier"]),
    ("omlx_kv_cache_blocks", &["tier", "kind"]),
    ("omlx_kvstore_quota_bytes", &[]),
    ("omlx_kvstore_physical_bytes", &[]),
    ("omlx_kvstore_unindexed_bytes", &[]),
    ("omlx_kvstore_free_disk_bytes", &[]),
    ("omlx_kvstore_write_bytes_total", &["kind"]),
    ("omlx_kvstore_read_bytes_total", &["kind"]),
    ("omlx_kvstore_write_duration_seconds_bucket", &["size"]),
    ("omlx_kvstore_read_duration_seconds_bucket", &["size"]),
    ("omlx_kvstore_queue_bytes", &["op"]),
    ("omlx_kvstore_queue_depth", &["op"]),
    ("omlx_kvstore_dropped_total", &["reason"]),
    ("omlx_kvstore_evictions_total", &["reason"]),
    ("omlx_kvstore_evicted_bytes_total", &["reason"]),
    ("omlx_kvstore_verify_failures_total", &["reason"]),
    ("omlx_kvstore_io_errors_total", &["op", "errno"]),
    ("omlx_kvstore_write_budget_remaining_bytes", &[]),
    ("omlx_kvstore_block_lifetime_seconds_bucket", &["tier"]),
    ("omlx_kvstore_idle_before_evict_seconds_bucket", &["tier"]),
    ("omlx_kvstore_reuse_gap_seconds_bucket", &["tier"]),
    ("omlx_kvstore_recovery_seconds", &[]),
    ("omlx_kvstore_recovered_blocks", &[]),
    ("omlx_kvstore_discarded_blocks", &[]),
    ("omlx_mlx_active_bytes", &[]),
    ("omlx_mlx_cache_bytes", &[]),
    ("omlx_mlx_peak_bytes", &[]),
    ("omlx_memory_pressure_level", &[]),
    ("omlx_memory_guard_actions_total", &["action"]),
    ("omlx_http_requests_total", &["method", "route", "status"]),
    ("omlx_http_request_duration_seconds_bucket", &["route"]),
    ("omlx_http_requests_in_flight", &[]),
    ("omlx_http_connections", &[]),
    ("omlx_http_client_disconnects_total", &["route", "phase"]),
    ("omlx_http_request_body_bytes_bucket", &["route"]),
    ("omlx_auth_failures_total", &["reason"]),
    ("process_cpu_seconds_total", &[]),
    ("process_resident_memory_bytes", &[]),
    ("process_start_time_seconds", &[]),
    ("process_open_fds", &[]),
    ("omlx_process_phys_footprint_bytes", &[]),
    ("omlx_process_disk_written_bytes_total", &[]),
];

#[test]
fn every_family_is_in_a_scrape_with_its_labels() {
    let server = Server::start();
    server.chat(json!({"max_tokens": 2})).ok();
    let text = server.get("/metrics").text;
    for (name, labels) in FAMILIES {
        let is_of =
            |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let series: Vec<&str> = text.lines().filter(is_of).collect();
        assert!(!series.is_empty(), "{name} is missing");
        for label in *labels {
            let has = |line: &&str| {
                [format!("{{{label}=\""), format!(",{label}=\"")].iter().any(|l| line.contains(l))
            };
            assert!(series.iter().all(|line| has(line)), "{name} has no {label}");
        }
        let mut sorted = series.clone();
        sorted.sort_unstable();
        sorted.dedup_by_key(|line| line.rsplit_once(' ').map(|(series, _)| series));
        assert_eq!(sorted.len(), series.len(), "{name} has a series twice");
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
