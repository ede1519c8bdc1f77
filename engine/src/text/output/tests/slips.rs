//! Models' mistakes in each format. `tests/fixtures/slips.json` has the expected results.

use crate::types::FinishReason;
use serde::Deserialize;

use super::*;
use crate::limits::CALLS_TRIED_IN_THOUGHTS;

#[derive(Deserialize)]
struct File {
    tools: Vec<Value>,
    families: Vec<Slips>,
}

#[derive(Deserialize)]
struct Slips {
    family: String,
    /// Text of the chat template.
    template: String,
    /// Added tokens.
    tokens: Vec<String>,
    cases: Vec<Slip>,
}

#[derive(Deserialize)]
struct Slip {
    shape: String,
    /// The end of the prompt.
    #[serde(default)]
    prompt: String,
    /// Whether the answer ends at its length limit.
    #[serde(default)]
    length: bool,
    answer: String,
    /// In the form that [`show`] writes.
    parts: String,
}

fn slips() -> Vec<Slips> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/slips.json");
    let file: File = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(file.tools, tools());
    file.families
}

#[test]
fn every_slip_has_one_reading_however_it_is_cut() {
    let mut wrong = Vec::new();
    for family in slips() {
        let tokens: Vec<&str> = family.tokens.iter().map(String::as_str).collect();
        let harness = Harness::of(&family.template, &tokens);
        for slip in &family.cases {
            let finish = if slip.length { FinishReason::Length } else { FinishReason::Stop };
            let read = std::panic::AssertUnwindSafe(|| {
                harness.check_ended(&slip.prompt, &slip.answer, finish, &slip.parts);
            });
            if std::panic::catch_unwind(read).is_err() {
                wrong.push(format!("{}: {}", family.family, slip.shape));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_format_has_at_least_ten_slips() {
    let mut known: Vec<String> = Vec::new();
    for family in slips() {
        let first = family.family.split(',').next().unwrap();
        assert!(family.cases.len() >= 10 || known.iter().any(|name| name == first), "{first}");
        known.push(first.to_owned());
    }
    known.dedup();
    assert_eq!(known.len(), 12, "{known:?}");
}

#[test]
fn thoughts_at_their_limit_of_tries() {
    let harness = Harness::new(corpus::ALL[0].0);
    let call = "<tool_call>\n{\"name\": \"stop\", \"arguments\": {}}\n</tool_call>";
    let read = |mentions: usize| {
        let answer = "<tool_call>, ".repeat(mentions) + call;
        let parts = harness.read("<think>\n", FinishReason::Stop, harness.by_tokens(&answer));
        parts.ends_with("stop({})")
    };
    assert!(read(CALLS_TRIED_IN_THOUGHTS - 1));
    assert!(!read(CALLS_TRIED_IN_THOUGHTS));
}
