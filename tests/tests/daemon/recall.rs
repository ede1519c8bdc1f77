//! Meaning, not shape: the bundled model recalls what it was told thousands of characters before, and
//! still does when that part of the prompt comes from SSD.

use std::time::{Duration, Instant};

use omlx_tests::daemon::{Daemon, built_binary};
use serde_json::{Value, json};

/// What is told, what is asked, and what must be in the answer.
const FACTS: [(&str, &str, &str); 4] = [
    ("The code of Lisbon is 447.", "What is the code of Lisbon?", "447"),
    ("The pin of Anna is 82.", "What is the pin of Anna?", "82"),
    ("The owner of the house is Karl.", "What is the owner of the house?", "Karl"),
    ("The password of the server is apple.", "What is the password of the server?", "apple"),
];
/// Some 55 tokens that have nothing to do with it.
const FILLER: &str = "The sun came up over the hills and the river was quiet. A dog slept near the \
    door. The old man read his paper and drank his tea. In the afternoon it began to rain. ";

/// The answer, and how many of the prompt's tokens came from SSD.
fn ask(daemon: &Daemon, fact: &str, question: &str) -> (String, u64) {
    let content = format!("{fact} {}{question}", FILLER.repeat(20));
    let body = json!({
        "model": "omlx-tiny",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 24,
        "temperature": 0,
    });
    let answer =
        daemon.request("POST", "/v1/chat/completions", &body.to_string()).expect("an answer");
    assert_eq!(answer.status, 200);
    let answer: Value = serde_json::from_str(&answer.text().expect("text")).expect("JSON");
    let text = answer["choices"][0]["message"]["content"].as_str().expect("a text");
    (text.to_owned(), answer["usage"]["omlx"]["cached_tokens_ssd"].as_u64().expect("a count"))
}

#[test]
fn a_fact_is_recalled_from_a_restored_cache() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let base = dir.path().join("base");
    let start = || Daemon::start(&built_binary(), &base, None, &[]).expect("omlxd starts");
    let daemon = start();
    let first = FACTS.map(|(fact, question, expected)| {
        let (text, from_ssd) = ask(&daemon, fact, question);
        assert!(text.contains(expected), "{question} {text:?} without a cache");
        assert_eq!(from_ssd, 0);
        text
    });
    let deadline = Instant::now() + Duration::from_secs(60);
    while daemon.metric("omlx_kvstore_queue_depth", &["op=\"save\""]).expect("a metric") > 0.0 {
        assert!(Instant::now() < deadline, "the blocks are not written");
        std::thread::sleep(Duration::from_millis(10));
    }
    // As kill -9 does.
    drop(daemon);
    let daemon = start();
    for ((fact, question, expected), before) in FACTS.iter().zip(first) {
        let (text, from_ssd) = ask(&daemon, fact, question);
        assert!(from_ssd >= 1024, "{question} took {from_ssd} tokens from SSD");
        assert!(text.contains(expected), "{question} {text:?} from SSD");
        assert_eq!(text, before);
    }
}
