//! Every format reads its corpus, split in all ways in which a stream may arrive, with the same
//! result.

mod case;
mod corpus;
mod forced;
mod slips;
mod turns;

use crate::types::FinishReason;
use crate::types::MarkedText;
use serde_json::{Value, json};

use super::*;
use crate::text::detokenize::Detokenizer;
use crate::text::tokenizer::Tokenizer;
use crate::types::Mark;
use case::{Case, Family};

/// Marks a marker that the model spelled with ordinary tokens; it is removed from the text.
const SPELLED: char = '\u{1}';

/// The tools with which the corpus is read.
pub(super) fn tools() -> Vec<Value> {
    let function = |name: &str, properties: Value| {
        let parameters = json!({
            "type": "object", "properties": properties, "$defs": {"shape": {"type": "object"}},
        });
        json!({"type": "function", "function": {"name": name, "parameters": parameters}})
    };
    vec![
        function(
            "look",
            json!({
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "list": {"type": "array", "items": {}},
                "flag": {"anyOf": [{"type": "boolean"}]},
                "either": {"type": ["string", "null"]},
                "shape": {"$ref": "#/$defs/shape"},
            }),
        ),
        function("stop", json!({})),
    ]
}

/// Parts in one line: `think(..)`, `text(..)`, `name(arguments)`, the last one with `...` if it was
/// cut.
fn show(parts: &[Part], cut: bool) -> String {
    let mut out = String::new();
    let mut last = std::mem::discriminant(&Part::CallEnd);
    for part in parts {
        let kind = std::mem::discriminant(part);
        let joins = kind == last && !out.is_empty();
        if joins && matches!(part, Part::Reasoning(_) | Part::Text(_)) {
            out.pop();
        }
        last = kind;
        match part {
            Part::Reasoning(text) if joins => out.push_str(&format!("{text})")),
            Part::Reasoning(text) => out.push_str(&format!("think({text})")),
            Part::Text(text) if joins => out.push_str(&format!("{text})")),
            Part::Text(text) => out.push_str(&format!("text({text})")),
            Part::CallStart { name, .. } => out.push_str(&format!("{name}(")),
            Part::CallArguments(text) => out.push_str(text),
            Part::CallEnd => out.push(')'),
        }
    }
    out + if cut { "..." } else { "" }
}

/// The smallest pieces in which text can arrive: a character, or a marker's token.
fn atoms(answer: &str, markers: &[(String, u32)]) -> Vec<(String, Option<u32>)> {
    let mut atoms = Vec::new();
    let mut rest = answer;
    while let Some(c) = rest.chars().next() {
        let token = markers.iter().find(|(text, _)| rest.starts_with(text.as_str()));
        let length = token.map_or(c.len_utf8(), |(text, _)| text.len());
        if c != SPELLED {
            atoms.push((rest[..length].to_owned(), token.map(|(_, id)| *id)));
        }
        rest = &rest[length..];
    }
    atoms
}

fn delta(atoms: &[(String, Option<u32>)]) -> MarkedText {
    let mut delta = MarkedText::default();
    for (text, id) in atoms {
        let start = delta.text.len();
        delta.text.push_str(text);
        delta.marks.extend(id.map(|id| Mark { start, end: delta.text.len(), id }));
    }
    delta
}

pub(super) fn tokenizer(tokens: &[&str]) -> Tokenizer {
    let json = include_str!("../../../../../tests/fixtures/tokenizer.json");
    let mut json: Value = serde_json::from_str(json).unwrap();
    let list = json["added_tokens"].as_array_mut().unwrap();
    list.retain(|token| token["special"] == true);
    let base = 100_000;
    for (number, token) in tokens.iter().enumerate() {
        list.push(json!({
            "id": base + number, "content": token, "special": number % 2 == 0, "lstrip": false,
            "rstrip": false, "normalized": false, "single_word": false,
        }));
    }
    Tokenizer::from_json(json.to_string().as_bytes()).unwrap()
}

pub(super) struct Harness {
    tokenizer: Tokenizer,
    format: OutputFormat,
    markers: Vec<(String, u32)>,
}

impl Harness {
    fn new(family: &Family) -> Self {
        Self::of(family.template, family.tokens)
    }

    fn of(template: &str, tokens: &[&str]) -> Self {
        let tokenizer = tokenizer(tokens);
        let format = OutputFormat::of(|text| template.contains(text), &tokenizer);
        let markers = tokens.iter().filter_map(|token| {
            let id = tokenizer.added_token(token)?;
            format.parser("", &[], true).markers().contains(&id).then(|| ((*token).to_owned(), id))
        });
        let markers = markers.collect();
        Self { tokenizer, format, markers }
    }

    fn parser(&self, prompt: &str) -> OutputParser {
        self.format.parser(prompt, &tools(), true)
    }

    fn read(
        &self,
        prompt: &str,
        finish: FinishReason,
        deltas: impl IntoIterator<Item = MarkedText>,
    ) -> String {
        let mut parser = self.parser(prompt);
        let mut parts = Vec::new();
        for delta in deltas {
            parts.extend(parser.push(&delta));
        }
        parts.extend(parser.finish(finish));
        show(&parts, parser.is_cut())
    }

    /// The answer as split by the tokenizer.
    fn by_tokens(&self, answer: &str) -> Vec<MarkedText> {
        let markers: std::sync::Arc<[u32]> = self.markers.iter().map(|(_, id)| *id).collect();
        let mut detokenizer = Detokenizer::new(self.tokenizer.clone(), markers);
        let mut deltas = Vec::new();
        for piece in answer.split(SPELLED) {
            for id in self.tokenizer.encode(piece, false).unwrap() {
                let piece = detokenizer.push(id);
                let start = piece.text.len();
                let text = piece.text + piece.marker.as_deref().unwrap_or_default();
                let mark = piece.marker.map(|_| Mark { start, end: text.len(), id });
                deltas.push(MarkedText { text, marks: mark.into_iter().collect() });
            }
        }
        deltas.push(MarkedText { text: detokenizer.finish(), ..MarkedText::default() });
        deltas
    }

    fn check(&self, case: &Case) {
        self.check_ended(case.prompt, case.answer, FinishReason::Stop, case.parts);
    }

    /// Checks that the answer gives the same parts however it is split.
    fn check_ended(&self, prompt: &str, answer: &str, finish: FinishReason, parts: &str) {
        let atoms = atoms(answer, &self.markers);
        let read = |deltas: Vec<MarkedText>| self.read(prompt, finish, deltas);
        assert_eq!(read(vec![delta(&atoms)]), parts, "whole: {answer}");
        for at in 0..=atoms.len() {
            let (left, right) = atoms.split_at(at);
            assert_eq!(read(vec![delta(left), delta(right)]), parts, "at {at}: {answer}");
        }
        let single = atoms.chunks(1).map(delta).collect();
        assert_eq!(read(single), parts, "one by one: {answer}");
        assert_eq!(read(self.by_tokens(answer)), parts, "by tokens: {answer}");
    }
}

#[test]
fn every_cut_of_the_corpus_gives_the_same_parts() {
    for (family, cases) in corpus::ALL {
        let harness = Harness::new(family);
        cases.iter().for_each(|case| harness.check(case));
    }
}

#[test]
fn without_tools_the_markers_of_calls_are_text() {
    for (family, cases) in corpus::ALL {
        let harness = Harness::new(family);
        for case in cases.iter().filter(|case| case.prompt.is_empty()) {
            let atoms = atoms(case.answer, &harness.markers);
            let mut parser = harness.format.parser("", &[], true);
            let mut parts: Vec<Part> =
                atoms.chunks(1).flat_map(|one| parser.push(&delta(one))).collect();
            parts.extend(parser.finish(FinishReason::Stop));
            let text: String = parts
                .iter()
                .filter_map(|part| match part {
                    Part::Text(text) | Part::Reasoning(text) => Some(text.as_str()),
                    _ => None,
                })
                .collect();
            let all: String = atoms.iter().map(|(text, _)| text.as_str()).collect();
            if !["think", "THINK", "channel"].iter().any(|word| all.contains(word)) {
                assert_eq!(text, all);
            }
        }
    }
}

#[test]
fn a_single_call_is_all_that_is_given_where_only_one_is_wanted() {
    let (family, _) = &corpus::ALL[0];
    let harness = Harness::new(family);
    let mut parser = harness.format.parser("", &tools(), false);
    let call = "<tool_call>\n{\"name\": \"stop\", \"arguments\": {}}\n</tool_call>\n";
    let mut parts = parser.push(&delta(&atoms(&call.repeat(2), &harness.markers)));
    parts.extend(parser.finish(FinishReason::Stop));
    assert_eq!(show(&parts, parser.is_cut()), "stop({})");
}

#[test]
fn parts_come_as_soon_as_they_are_certain() {
    let (family, _) = &corpus::ALL[0];
    let harness = Harness::new(family);
    let mut parser = harness.parser("<think>\n");
    let mut feed = |text: &str| show(&parser.push(&delta(&atoms(text, &harness.markers))), false);
    assert_eq!(feed("Hm. "), "think(Hm. )");
    assert_eq!(feed("Yes\n"), "think(Yes)");
    assert_eq!(feed("</think>\n\nLook: "), "text(Look: )");
    assert_eq!(feed("<tool_call>\n{\"name\": \"look\", \"arguments\": "), "");
    assert_eq!(feed("{\"city"), "look({\"city");
    assert_eq!(feed("\": \"Ro"), "\": \"Ro");
    assert_eq!(feed("m\"}"), "m\"}");
    assert_eq!(feed("}"), ")");
    assert_eq!(feed("\n</tool_call>"), "");
}

/// The same test as the fuzz target.
#[test]
fn anything_at_all_is_read_without_loss() {
    use proptest::prelude::*;
    let runner = &mut proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(2_000));
    let bytes = proptest::collection::vec(any::<u8>(), 2..60);
    let ran = runner.run(&bytes, |bytes| {
        fuzz::output(&bytes);
        Ok(())
    });
    ran.unwrap_or_else(|error| panic!("{error}"));
}
