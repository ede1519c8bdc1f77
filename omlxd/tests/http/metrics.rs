//! `/metrics`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use omlx_tests::http;
use serde_json::json;

use crate::dashboard::assert_answered;
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
    ("omlx_wired_limit_bytes", &[]),
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
            assert!(series.iter().all(has), "{name} has no {label}");
        }
        let mut sorted = series.clone();
        sorted.sort_unstable();
        sorted.dedup_by_key(|line| line.rsplit_once(' ').map(|(series, _)| series));
        assert_eq!(sorted.len(), series.len(), "{name} has a series twice");
    }
}

/// The parts of the page, and the names that belong to each.
const PARTS: &[(&str, &[&str])] = &[
    (
        "Requests",
        &[
            "omlx_request",
            "omlx_prompt_",
            "omlx_generation_",
            "omlx_preemptions",
            "omlx_constrained_",
        ],
    ),
    ("Reuse", &["omlx_prefix_", "omlx_live_", "omlx_kv_cache_"]),
    ("The store", &["omlx_kvstore_"]),
    ("Models", &["omlx_model_"]),
    (
        "Engine and memory",
        &["omlx_engine_", "omlx_scheduler_", "omlx_mlx_", "omlx_memory_", "omlx_wired_"],
    ),
    ("HTTP", &["omlx_http_", "omlx_auth_"]),
    ("Process", &["omlx_build_", "omlx_process_", "process_"]),
];

/// Labels whose values are not to be listed: they name what this machine has, or are many.
const OPEN_LABELS: [&str; 15] = [
    "status",
    "model",
    "revision",
    "quant",
    "kv_dtype",
    "block_size",
    "max_model_len",
    "version",
    "commit",
    "mlx_version",
    "chip",
    "os",
    "arch",
    "route",
    "code",
];

fn unit(name: &str) -> &'static str {
    let name = name.trim_end_matches("_total");
    match name {
        "omlx_memory_pressure_level" => "1, 2 or 4",
        _ if name.ends_with("timestamp_seconds") || name.ends_with("start_time_seconds") => {
            "seconds since 1970"
        }
        _ if name.ends_with("_seconds") => "seconds",
        _ if name.ends_with("_bytes") => "bytes",
        _ if name.ends_with("_tokens") || name.ends_with("_tokens_cached") => "tokens",
        _ if name.ends_with("_info") => "1",
        _ if ["_state", "_enabled", "_problem", "_paused"].iter().any(|e| name.ends_with(e)) => {
            "0 or 1"
        }
        _ if name.starts_with("omlx_kvstore_io_errors") => "errors",
        _ if name.starts_with("omlx_kvstore_") || name.ends_with("_blocks") => "records",
        _ if name.contains("requests") || name.starts_with("omlx_request_err") => "requests",
        _ => "number",
    }
}

/// The labels of a series line.
fn labels(series: &str) -> Vec<(&str, &str)> {
    let inside = series.split_once('{').map_or("", |(_, inside)| inside.trim_end_matches('}'));
    let pairs = inside.split("\",").filter_map(|pair| pair.split_once("=\""));
    pairs.map(|(key, value)| (key, value.trim_end_matches('"'))).collect()
}

/// The tables of docs/metrics.md, from a scrape.
fn tables(scrape: &str) -> String {
    let mut rows: BTreeMap<usize, String> = BTreeMap::new();
    let families = scrape.split("# HELP ").skip(1);
    for family in families {
        let mut lines = family.lines();
        let (name, help) = lines.next().unwrap().split_once(' ').unwrap();
        let kind = lines.next().unwrap().rsplit(' ').next().unwrap();
        let mut values: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for line in lines.filter(|line| !line.is_empty()) {
            let (series, _) = line.rsplit_once(' ').unwrap();
            for (label, value) in labels(series) {
                let known = values.entry(label).or_default();
                if !known.contains(&value) {
                    known.push(value);
                }
            }
        }
        values.remove("le");
        let shown = values.iter().map(|(label, values)| {
            let list = values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>();
            if OPEN_LABELS.contains(label) {
                format!("`{label}`")
            } else {
                format!("`{label}`: {}", list.join(" "))
            }
        });
        let shown = shown.collect::<Vec<_>>().join("; ");
        let fits = |(_, starts): &(&str, &[&str])| starts.iter().any(|s| name.starts_with(s));
        let part = PARTS.iter().position(fits).unwrap_or_else(|| panic!("{name} is in no part"));
        let help = help.replace("\\\"", "\"").replace('|', "\\|");
        let row = format!("| `{name}` | {kind} | {} | {shown} | {help} |\n", unit(name));
        rows.entry(part).or_default().push_str(&row);
    }
    let mut page = String::new();
    for (part, rows) in rows {
        let head = "| name | type | unit | labels | what it is |\n|---|---|---|---|---|";
        let _ = write!(page, "\n## {}\n\n{head}\n{rows}", PARTS[part].0);
    }
    page
}

#[test]
fn the_page_has_every_metric_and_its_queries_find_series() {
    const MARK: &str = "<!-- What follows is made from a scrape; a test keeps it so. -->\n";
    let server = Server::start();
    server.chat(json!({"max_tokens": 2})).ok();
    let scrape = server.get("/metrics").text;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let page = std::fs::read_to_string(&file).unwrap();
    let (head, written) = page.split_at(page.find(MARK).expect("the mark") + MARK.len());
    let made = tables(&scrape);
    if std::env::var_os("OMLX_UPDATE").is_some() {
        std::fs::write(&file, format!("{head}{made}")).unwrap();
    } else {
        assert!(
            written == made,
            "run `OMLX_UPDATE=1 cargo test -p omlxd --test http page`; the page should have\n{made}"
        );
    }
    let blocks = head.split("```promql\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let queries: Vec<&str> = blocks.flat_map(str::lines).collect();
    assert!(queries.len() > 15, "{queries:?}");
    for query in queries {
        assert_answered(query, &scrape);
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
