//! `omlxctl cache` against a real daemon, and the metrics against what was done.

use std::time::{Duration, Instant};

use omlx_tests::script::Script;
use serde_json::{Value, json};

use crate::cached::{
    BLOCK, IN_BLOCKS, MODEL, OTHER, PROMPT, Place, SSD_ONLY, ask, ask_with, change, metric,
    prompts, wait_for, wait_until_saved,
};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn stats_and_metrics_tell_what_was_done() {
    let (place, prompts) = (Place::new(), prompts(2));
    let daemon = place.start(SSD_ONLY);
    for name in [
        "omlx_kvstore_dropped_total",
        "omlx_kvstore_evictions_total",
        "omlx_kvstore_verify_failures_total",
        "omlx_kvstore_io_errors_total",
        "omlx_kvstore_write_bytes_total",
        "omlx_kv_cache_blocks",
        "omlx_live_sessions",
    ] {
        assert_eq!(metric(&daemon, name, &[]), 0.0, "{name}");
    }
    assert_eq!(ask(&daemon, MODEL, &prompts[0]).cached, 0);
    wait_until_saved(&daemon, IN_BLOCKS / BLOCK);
    assert_eq!(ask(&daemon, MODEL, &prompts[0]).cached_ssd, IN_BLOCKS);

    let blocks = IN_BLOCKS / BLOCK;
    let written = metric(&daemon, "omlx_kvstore_write_bytes_total", &["\"kv\""]);
    // Each record is a header and a part, of 16 KiB or more each.
    assert!(written >= (blocks * (32 << 10)) as f64, "{written}");
    assert_eq!(metric(&daemon, "omlx_kvstore_write_duration_seconds_count", &[]), blocks as f64);
    assert_eq!(metric(&daemon, "omlx_kvstore_hits_total", &["\"ssd\""]), blocks as f64);
    assert_eq!(metric(&daemon, "omlx_kvstore_enabled", &[]), 1.0);
    assert_eq!(metric(&daemon, "omlx_kvstore_problem", &[]), 0.0);
    assert_eq!(metric(&daemon, "omlx_kvstore_quota_bytes", &[]), f64::from(64 << 20));
    assert_eq!(metric(&daemon, "omlx_kv_cache_block_tokens", &[]), BLOCK as f64);
    assert!(metric(&daemon, "omlx_kvstore_free_disk_bytes", &[]) > 0.0);
    let page = daemon.request("GET", "/metrics", "").expect("metrics").text().expect("text");
    assert!(page.contains("mlx_version=\"0."), "omlx_build_info names MLX's version");

    let stats = place.ctl_json(&["cache", "stats"], 0);
    assert_eq!(stats["status"]["enabled"], true);
    assert_eq!(stats["status"]["ssd"]["blocks"], blocks);
    assert_eq!(stats["status"]["ssd"]["capacity_bytes"], 64 << 20);
    assert_eq!(stats["store"]["written_bytes"].as_f64(), Some(written));
    assert_eq!(stats["store"]["hits_ssd"], blocks);
    let model = &stats["models"][0];
    assert_eq!(
        *model,
        json!({
            "model": MODEL,
            "prompt_tokens": 2 * PROMPT,
            "ram_tokens": 0,
            "ssd_tokens": IN_BLOCKS,
            "misses": {"cold": 1},
        })
    );
    assert_eq!(stats["store"]["namespaces"][0]["model"], MODEL);
    let said = text(&place.ctl(&["cache", "stats"]).stdout);
    for line in ["TIER", "WHY NOT MORE", "1 cold", MODEL, "NAMESPACE"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let status = place.ctl_json(&["status"], 0);
    assert_eq!(status["cache"], stats["status"]);
    let said = text(&place.ctl(&["status"]).stdout);
    assert!(said.contains("\ncache     0 B of 0 B in RAM, "), "{said}");
}

#[test]
fn verify_finds_damage_and_then_none() {
    let (place, prompts) = (Place::new(), prompts(2));
    let daemon = place.start(SSD_ONLY);
    prompts.iter().for_each(|prompt| drop(ask(&daemon, MODEL, prompt)));
    wait_until_saved(&daemon, 2 * IN_BLOCKS / BLOCK);
    let records = place.records();
    let good = place.ctl_json(&["cache", "verify"], 0);
    assert_eq!((&good["done"], &good["damaged"]), (&json!(records.len()), &json!(0)));
    for path in &records[..3] {
        change(path, |bytes| *bytes.last_mut().expect("a byte") ^= 1);
    }
    let found = place.ctl_json(&["cache", "verify"], 1);
    assert_eq!((&found["total"], &found["damaged"]), (&json!(records.len()), &json!(3)));
    assert_eq!(metric(&daemon, "omlx_kvstore_verify_failures_total", &["\"checksum\""]), 3.0);
    let again = place.ctl(&["cache", "verify"]);
    assert_eq!(again.status.code(), Some(0));
    let said = text(&again.stdout);
    assert!(said.starts_with(&format!("{} records checked", records.len() - 3)), "{said}");
    assert!(again.stderr.is_empty(), "progress is for terminals");
    let store_off = Place::new();
    let _daemon = store_off.start("enabled = false\n");
    let refused = store_off.ctl(&["cache", "verify"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("cache.enabled is false"));
}

#[test]
fn clear_removes_everything_or_one_models_records() {
    let (place, prompts) = (Place::new(), prompts(1));
    let daemon = place.start("ram_budget = \"0B\"\n");
    let (blocks, prompt) = (IN_BLOCKS / BLOCK, &prompts[0]);
    ask(&daemon, MODEL, prompt);
    // Under a salt the same prompt has records of its own.
    let salted = json!({"cache_salt": "a-salt-of-16-chars"});
    assert_eq!(ask_with(&daemon, MODEL, prompt, &salted).cached, 0);
    ask(&daemon, OTHER, prompt);
    wait_until_saved(&daemon, 3 * blocks);
    wait_for(&daemon, "omlx_live_sessions", &[], |sessions| sessions == 3.0);

    assert_eq!(place.ctl(&["cache", "clear"]).status.code(), Some(2), "nobody confirmed it");
    let unknown = place.ctl(&["cache", "clear", "--model", "no/such", "--yes"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("no/such was not loaded since omlxd started"));
    assert_eq!(place.records().len(), 3 * blocks, "nothing went yet");

    let cleared = place.ctl_json(&["cache", "clear", "--model", MODEL, "--yes"], 0);
    assert_eq!((&cleared["model"], &cleared["records"]), (&json!(MODEL), &json!(2 * blocks)));
    assert_eq!(cleared["live_sessions"], 3);
    let on_ssd = ["tier=\"ssd\"", "kind=\"kv\""];
    wait_for(&daemon, "omlx_kv_cache_blocks", &on_ssd, |left| left == blocks as f64);
    wait_for(&daemon, "omlx_live_sessions", &[], |sessions| sessions == 0.0);
    assert_eq!(ask(&daemon, OTHER, prompt).cached_ssd, IN_BLOCKS, "the other model's stay");
    let gone = ask(&daemon, MODEL, prompt);
    assert_eq!(gone.cached, 0);
    assert_eq!(place.explain(&gone)["reason"], "evicted");

    wait_until_saved(&daemon, 2 * blocks);
    let cleared = place.ctl_json(&["cache", "clear", "-y"], 0);
    assert_eq!((&cleared["model"], &cleared["records"]), (&Value::Null, &json!(2 * blocks)));
    wait_for(&daemon, "omlx_kv_cache_blocks", &[], |left| left == 0.0);
    wait_for(&daemon, "omlx_kvstore_evictions_total", &["manual"], |n| n == 4.0 * blocks as f64);
    // Files go in the background.
    let deadline = Instant::now() + Duration::from_secs(60);
    while !place.records().is_empty() {
        assert!(Instant::now() < deadline, "{:?}", place.records());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn explain_names_the_reason_and_the_first_token_that_differs() {
    let (place, prompts) = (Place::new(), prompts(3));
    let daemon = place.start(SSD_ONLY);
    let cold = place.explain(&ask(&daemon, MODEL, &prompts[0]));
    assert_eq!((&cold["reason"], &cold["computed_tokens"]), (&json!("cold"), &json!(PROMPT)));
    assert_eq!(cold["divergence"], Value::Null);
    wait_until_saved(&daemon, IN_BLOCKS / BLOCK);

    let mut changed = prompts[0].clone();
    let at = 5 * BLOCK + 3;
    changed[at] = prompts[1].iter().copied().find(|id| *id != changed[at]).expect("another");
    let answer = ask(&daemon, MODEL, &changed);
    let diverged = place.explain(&answer);
    assert_eq!(diverged["reason"], "diverged");
    assert_eq!(
        (&diverged["ssd_tokens"], &diverged["ram_tokens"]),
        (&json!(at / BLOCK * BLOCK), &json!(0))
    );
    assert_eq!(diverged["computed_tokens"], PROMPT - at / BLOCK * BLOCK);
    let divergence = &diverged["divergence"];
    assert_eq!((&divergence["position"], &divergence["block"]), (&json!(at), &json!(5)));
    assert_eq!(divergence["token_id"], changed[at]);
    assert_eq!(divergence["earlier_token_id"], prompts[0][at]);
    assert_ne!(divergence["earlier"], divergence["now"]);
    for side in ["token", "before", "earlier", "now"] {
        assert!(divergence[side].as_str().is_some_and(|text| !text.is_empty()), "{side}");
    }
    assert!(divergence["now"].as_str().unwrap().starts_with(divergence["token"].as_str().unwrap()));
    // The same for people, by the answer's own id.
    let own = answer.id.replace("req_", "cmpl-");
    let said = text(&place.ctl(&["cache", "explain", &own]).stdout);
    assert!(said.contains(&format!("differs   at token {at} (\"")), "{said}");
    assert!(said.contains("in block 5 of 16 tokens each"), "{said}");

    place.ctl_json(&["cache", "clear", "--yes"], 0);
    let evicted = place.explain(&ask(&daemon, MODEL, &prompts[0]));
    assert_eq!(
        (&evicted["reason"], &evicted["computed_tokens"]),
        (&json!("evicted"), &json!(PROMPT))
    );

    let salt = json!({"cache_salt": "a-salt-of-16-chars"});
    let salted = place.explain(&ask_with(&daemon, MODEL, &prompts[0], &salt));
    assert_eq!(salted["reason"], "salt");
    let short = place.explain(&ask(&daemon, MODEL, &prompts[2][..BLOCK - 2]));
    assert_eq!(short["reason"], "too_short");
    for reason in ["cold", "diverged", "evicted", "salt", "too_short"] {
        let counted = metric(&daemon, "omlx_prefix_cache_miss_total", &[reason, MODEL]);
        assert_eq!(counted, 1.0, "{reason}");
    }
    let unknown = place.ctl(&["cache", "explain", "req_0"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("nothing is known of request req_0"));
}

#[test]
fn explain_names_a_thought_that_was_left_out_and_a_head_that_changed() {
    let place = Place::new();
    let call = Script::call("look", &json!({}));
    let says: [&str; 3] = ["<think>\nI should look", " at it.\n</think>\n\n", &call];
    let script = Script::new(&[&says, &["It is", " blue."]], &["Bye"]);
    script.write(&place.models().join("omlx/script")).expect("a model");
    let daemon = place.start("");
    let chat = |messages: &[&Value], about: &str| {
        let parameters = json!({"type": "object", "properties": {}});
        let function = json!({"name": "look", "description": about, "parameters": parameters});
        let tools = json!([{"type": "function", "function": function}]);
        let body = json!({
            "model": "omlx/script", "messages": messages, "tools": tools, "temperature": 0,
        });
        let answer = daemon.request("POST", "/v1/chat/completions", &body.to_string());
        let answer = answer.expect("an answer");
        let id = answer.header("x-request-id").expect("an id").to_owned();
        let body: Value = serde_json::from_str(&answer.text().expect("text")).expect("JSON");
        (body["choices"][0]["message"].clone(), place.explain_request(&id)["divergence"].clone())
    };
    let user = json!({"role": "user", "content": "What colour does the sky have today?"});
    let (called, cold) = chat(&[&user], "Looks up.");
    assert_eq!(
        (&called["reasoning_content"], &cold),
        (&json!("I should look at it."), &json!(null))
    );
    let id = &called["tool_calls"][0]["id"];
    let result = json!({"role": "tool", "tool_call_id": id, "content": "blue"});

    let mut forgetful = called.clone();
    forgetful.as_object_mut().expect("a message").remove("reasoning_content");
    let (_, lost) = chat(&[&user, &forgetful, &result], "Looks up.");
    let cause = lost["cause"].as_str().expect("a cause");
    assert!(cause.contains("send them back as reasoning_content"), "{lost}");
    let (answer, kept) = chat(&[&user, &called, &result], "Looks up.");
    assert_eq!((&answer["content"], &kept), (&json!("It is blue."), &json!(null)));

    let (_, head) = chat(&[&user, &called, &result], "Looks upwards.");
    let cause = head["cause"].as_str().expect("a cause");
    assert!(cause.contains("before the first user message"), "{head}");
    let other = json!({"role": "user", "content": "What is a cloud?"});
    let (_, other) = chat(&[&other], "Looks up.");
    assert_eq!((&other["cause"], other["now"].is_string()), (&Value::Null, true));
}

#[test]
fn what_was_reused_whole_is_said_so() {
    let (place, prompts) = (Place::new(), prompts(1));
    let daemon = place.start("ram_budget = \"0B\"\n");
    ask(&daemon, MODEL, &prompts[0]);
    let again = place.explain(&ask(&daemon, MODEL, &prompts[0]));
    assert_eq!((&again["reason"], &again["live"]), (&Value::Null, &json!(true)));
    // The last token is always computed.
    assert_eq!((&again["ram_tokens"], &again["computed_tokens"]), (&json!(PROMPT - 1), &json!(1)));
    let stats = place.ctl_json(&["status"], 0);
    assert_eq!(stats["cache"]["live"]["sessions"], 1);
    assert!(stats["cache"]["live"]["used_bytes"].as_u64() > Some(0));
    assert_eq!(metric(&daemon, "omlx_live_sessions", &[]), 1.0);
    assert!(metric(&daemon, "omlx_live_session_bytes", &[]) > 0.0);
}
