//! Recordings that may be published: who ran the agent and where is not in them, nor are the agents'
//! own texts. Every text is replaced by filler, the same text by the same filler, and shorter; what
//! an API gives a meaning to stays.

use serde_json::{Map, Value, json};

use crate::agents::{ANSWERS, MODEL, PROMPTS};

/// A text of fewer characters without a space is a word of the protocol.
const WORD_CHARS: usize = 48;
/// One word of filler stands for this many words.
const SHORTER: usize = 4;
/// The filler of the longest texts, in words.
const MAX_WORDS: usize = 600;
const WORDS: [&str; 16] = [
    "amber", "brook", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "juniper",
    "knoll", "larch", "meadow", "north", "otter", "pebble",
];
/// Fields that name a machine or a session and mean nothing to the daemon.
const DROPPED: [&str; 3] = ["client_metadata", "metadata", "prompt_cache_key"];

/// A request's body without what is not to be published.
pub(crate) fn body(body: &Value) -> Value {
    let mut body = body.clone();
    if let Some(fields) = body.as_object_mut() {
        for name in DROPPED {
            if let Some(value) = fields.get_mut(name) {
                *value = if value.is_string() { json!("key") } else { json!({"id": "x"}) };
            }
        }
    }
    value(&body)
}

fn value(value: &Value) -> Value {
    match value {
        Value::String(text) => json!(text_of(text)),
        Value::Array(items) => items.iter().map(self::value).collect(),
        Value::Object(map) => {
            let member = |(key, value): (&String, &Value)| (key.clone(), self::value(value));
            Value::Object(map.iter().map(member).collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

fn text_of(text: &str) -> String {
    let is_ours = text == MODEL
        || PROMPTS.iter().any(|prompt| text.trim_matches('"') == *prompt)
        || ANSWERS.contains(&text)
        || ["A file is wanted.", "I begin.", "I begin.\n"].contains(&text)
        || text.contains("note.txt") && text.len() < 160
        || text.starts_with("omlx1.");
    let is_word = text.len() < WORD_CHARS && !text.contains([' ', '\n']) && !text.contains('/');
    if is_ours || is_word {
        return text.to_owned();
    }
    if text.starts_with("x-anthropic-billing-header:") {
        return "x-anthropic-billing-header: cc_version=2.1; cc_entrypoint=cli; cch=0;".to_owned();
    }
    let count = (text.split_whitespace().count() / SHORTER).clamp(1, MAX_WORDS);
    let mut state = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        words.push(WORDS[(state >> 60) as usize]);
    }
    words.join(" ")
}

#[test]
fn texts_become_filler_and_the_protocol_stays() {
    let recorded = json!({
        "model": MODEL,
        "client_metadata": {"session": "0199-abc"},
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": PROMPTS[0]}]},
            {"type": "message", "role": "developer", "content": "You are in /home/someone/project now."},
            {"type": "message", "role": "developer", "content": "You are in /home/someone/project now."}],
    });
    let published = body(&recorded);
    assert!(!published.to_string().contains("someone"));
    assert_eq!(published["input"][0], recorded["input"][0]);
    assert_eq!(published["input"][1], published["input"][2]);
    assert_eq!(published["client_metadata"], json!({"id": "x"}));
}
