//! Answers that a grammar forces a model to write are read correctly by the format's parser.

use super::*;
use crate::text::grammar::{Grammar, Pattern, TokenTrie};
use crate::text::output::{Call, Expected};
use crate::types::FinishReason;
use crate::types::MarkedText;

const END: u32 = 3;
/// The size of the vocabulary, with space for the markers that [`tokenizer`] adds.
const VOCAB: usize = 100_020;

fn json(schema: Value) -> Pattern {
    Pattern::Json { schema, exactly: true }
}

fn functions() -> Vec<Call> {
    let look = json!({"type": "object", "properties": {
        "days": {"type": "integer", "minimum": 0, "maximum": 99},
        "city": {"type": "string", "enum": ["Rome", "Paris"]},
        "flag": {"type": "boolean"}}, "required": ["days"], "additionalProperties": false});
    let stop = json!({"type": "object", "properties": {}, "additionalProperties": false});
    let call = |name: &str, schema| Call { name: name.to_owned(), arguments: json(schema) };
    vec![call("look", look), call("stop", stop)]
}

impl Harness {
    fn vocabulary(&self) -> TokenTrie {
        TokenTrie::new(&self.tokenizer, &[END], VOCAB).unwrap()
    }

    /// A prompt that leaves no reasoning open, because its length is not constrained.
    fn prompt(&self) -> &'static str {
        self.format.inner.thinking.map_or("", |thinking| thinking.close.text)
    }

    /// Draws tokens that a grammar allows, using `seed`. `None`: it did not end.
    fn draw(&self, grammar: &Grammar, seed: u32) -> Option<Vec<u32>> {
        let mut constraint = grammar.begin();
        let (mut tokens, mut random) = (Vec::new(), seed);
        for _ in 0..300 {
            let Some(allowed) = constraint.allowed() else { return Some(tokens) };
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if allowed[END as usize] && random >> 31 == 0 {
                return Some(tokens);
            }
            let open: Vec<u32> = (0..)
                .zip(allowed)
                .filter(|(id, is)| **is && *id != END)
                .map(|(id, _)| id)
                .collect();
            let token = *open.get((random >> 8) as usize % open.len().max(1))?;
            constraint.push(token).unwrap();
            tokens.push(token);
        }
        None
    }

    /// The parser's result, and whether it was cut.
    fn take(&self, tokens: &[u32], parallel: bool) -> (Vec<Part>, bool) {
        let mut parser = self.format.parser(self.prompt(), &tools(), parallel);
        let mut detokenizer = Detokenizer::new(self.tokenizer.clone(), parser.markers());
        let mut parts = Vec::new();
        for &id in tokens {
            let piece = detokenizer.push(id);
            let start = piece.text.len();
            let text = piece.text + piece.marker.as_deref().unwrap_or_default();
            let mark = piece.marker.map(|_| Mark { start, end: text.len(), id });
            let marks = mark.into_iter().collect();
            parts.extend(parser.push(&MarkedText { text, marks }));
        }
        parts.extend(
            parser.push(&MarkedText { text: detokenizer.finish(), ..MarkedText::default() }),
        );
        parts.extend(parser.finish(FinishReason::Stop));
        let cut = parser.is_cut();
        (parts, cut)
    }
}

/// Names and arguments of the calls. Any other part fails the test.
fn calls(parts: &[Part], answer: &str) -> Vec<(String, Value)> {
    let (mut calls, mut arguments) = (Vec::new(), String::new());
    for part in parts {
        match part {
            Part::CallStart { name, .. } => calls.push((name.clone(), Value::Null)),
            Part::CallArguments(text) => arguments.push_str(text),
            Part::CallEnd => {
                let value = serde_json::from_str(&arguments);
                calls.last_mut().unwrap().1 = value.unwrap_or_else(|e| panic!("{e}: {answer}"));
                arguments.clear();
            }
            Part::Text(text) if text.trim().is_empty() => {}
            // Harmony may reason first.
            Part::Reasoning(_) => {}
            Part::Text(text) => panic!("text {text:?} in {answer}"),
        }
    }
    calls
}

#[test]
fn forced_calls_are_read_as_calls_in_every_format() {
    let mut families = 0;
    for (family, _) in corpus::ALL {
        let harness = Harness::new(family);
        let vocabulary = harness.vocabulary();
        for parallel in [true, false] {
            let expected = Expected::Calls(functions());
            let pattern = harness.format.pattern(harness.prompt(), &expected, parallel);
            let Some(pattern) = pattern else { continue };
            families += 1;
            let grammar = Grammar::compile(&vocabulary, &pattern);
            let grammar = grammar.unwrap_or_else(|e| panic!("{}: {e}", family.template));
            let mut ended = 0;
            for seed in 0..12 {
                let Some(tokens) = harness.draw(&grammar, seed * 77 + 1) else { continue };
                ended += 1;
                let answer = harness.tokenizer.decode(&tokens, false);
                let (parts, cut) = harness.take(&tokens, parallel);
                assert!(!cut, "{answer}");
                let calls = calls(&parts, &answer);
                assert!(!calls.is_empty() && (parallel || calls.len() == 1), "{answer}");
                for (name, arguments) in calls {
                    let days = arguments["days"].as_u64().is_some_and(|days| days < 100);
                    let fits = if name == "look" { days } else { arguments == json!({}) };
                    assert!(fits, "{name}({arguments}) from {answer}");
                }
            }
            assert!(ended > 3, "{}: {ended} of 12 ended", family.template);
        }
    }
    // All but Gemma's two and the one without calls, each with and without parallel calls.
    assert!(families >= 16, "{families}");
}

/// Whether after `answer` the end, or another call, may follow.
fn after(template: usize, expected: &Expected, parallel: bool, answer: &str) -> (bool, bool) {
    let harness = Harness::new(corpus::ALL[template].0);
    let pattern = harness.format.pattern(harness.prompt(), expected, parallel).unwrap();
    let mut constraint = Grammar::compile(&harness.vocabulary(), &pattern).unwrap().begin();
    for id in harness.tokenizer.encode(answer, false).unwrap() {
        assert!(constraint.allowed().unwrap()[id as usize], "{answer}");
        constraint.push(id).unwrap();
    }
    let allowed = constraint.allowed();
    let call = harness.tokenizer.added_token("<tool_call>").unwrap();
    let may = |id: u32| allowed.as_ref().is_some_and(|allowed| allowed[id as usize]);
    (allowed.is_none() || may(END), may(call))
}

#[test]
fn an_answer_may_end_where_the_model_ends_its_call() {
    let hermes = "<tool_call>\n{\"name\": \"stop\", \"arguments\": {}}\n</tool_call>";
    let coder = "<tool_call>\n<function=stop>\n</function>\n</tool_call>";
    for (family, call) in [(0, hermes), (5, coder)] {
        for space in ["", "\n", "\n\n", " "] {
            let answer = call.to_owned() + space;
            let calls = Expected::Calls(functions());
            assert_eq!(after(family, &calls, true, &answer), (true, true), "{answer:?}");
            assert_eq!(after(family, &calls, false, &answer), (true, false), "{answer:?}");
            let free = Expected::Free(functions());
            assert_eq!(after(family, &free, true, &answer), (true, true), "{answer:?}");
        }
    }
}

#[test]
fn parameters_are_held_wherever_a_schema_says_them() {
    let schema = json!({"$defs": {"A": {"properties": {"days": {"type": "integer"},
                                    "city": {"$ref": "#/$defs/City"}}, "required": ["days"]},
                                  "City": {"const": "Rome"}},
                        "$ref": "#/$defs/A"});
    let call = Call { name: "look".to_owned(), arguments: json(schema) };
    let expected = Expected::Calls(vec![call]);
    let begin = "<tool_call>\n<function=look>\n";
    let whole = "<parameter=days>\n3\n</parameter>\n<parameter=city>\nRome\n</parameter>\n\
                 </function>\n</tool_call>";
    assert!(after(5, &expected, true, &format!("{begin}{whole}")).0);
}

#[test]
fn a_text_begins_after_the_thoughts() {
    let harness = Harness::new(corpus::ALL[0].0);
    let vocabulary = harness.vocabulary();
    let answer = Expected::Text(Pattern::Choice(vec!["yes".into()]));
    let first = |prompt: &str, expected: &Expected| {
        let pattern = harness.format.pattern(prompt, expected, true).unwrap();
        let constraint = Grammar::compile(&vocabulary, &pattern).unwrap().begin();
        let allowed = constraint.allowed().unwrap();
        let may = |text: &str| {
            let id = harness.tokenizer.added_token(text);
            let id = id.unwrap_or_else(|| harness.tokenizer.encode(text, false).unwrap()[0]);
            allowed[id as usize]
        };
        (may("<think>"), may("</think>"), may("y"), may("a"))
    };
    assert_eq!(first("assistant\n", &answer), (true, false, true, false));
    assert_eq!(first("assistant\n<think>\n", &answer), (false, true, true, true));
    assert_eq!(first("assistant\n<think>\n\n</think>\n\n", &answer), (false, false, true, false));
    // Free text stays free next to constrained calls.
    assert_eq!(first("</think>", &Expected::Free(functions())), (false, false, true, true));
}
