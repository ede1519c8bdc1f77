//! Entry points for the fuzz target (`engine/fuzz`) and for the same test under proptest: arbitrary
//! answers in every format. The parser must not panic, its result must not depend on how an answer
//! is split into pieces, it must not lose text, and it must not report a call that is none.

use serde_json::{Value, json};

use super::{OutputFormat, OutputParser, Part};
use crate::text::tokenizer::Tokenizer;
use crate::types::{FinishReason, Mark, MarkedText};

/// What identifies a format: words of the template, tokens of the vocabulary.
type Family = (&'static str, &'static [&'static str]);

const FAMILIES: [Family; 11] = [
    ("<think> </think> <tool_call>", &["<tool_call>", "</tool_call>", "<think>", "</think>"]),
    ("<tool_call> <function= <parameter=", &["<tool_call>", "</tool_call>"]),
    ("<minimax:tool_call>", &["<minimax:tool_call>", "</minimax:tool_call>"]),
    ("\u{ff5c}DSML\u{ff5c} </think>", &["\u{ff5c}DSML\u{ff5c}", "<think>", "</think>"]),
    ("<tool_call> <arg_key>", &["<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"]),
    ("<|start_header_id|> \"parameters\": ", &["<|python_tag|>"]),
    ("[TOOL_CALLS] [/THINK]", &["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"]),
    ("<\u{ff5c}tool\u{2581}calls\u{2581}begin\u{ff5c}>", &[]),
    (
        "<|tool_calls_section_begin|>",
        &["<|tool_calls_section_begin|>", "<|tool_call_begin|>", "<|tool_call_end|>"],
    ),
    (
        "<|tool_call> <|\"|> <channel|>",
        &["<|tool_call>", "<tool_call|>", "<|\"|>", "<|channel>", "<channel|>"],
    ),
    ("<|channel|> <|message|>", &["<|start|>", "<|channel|>", "<|message|>", "<|end|>"]),
];

/// Fragments of answers, apart from plain characters.
const FRAGMENTS: &[&str] = &[
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "</think>",
    "<function=",
    "<function=look>",
    "<parameter=city>",
    "<parameter=days>",
    "</parameter>",
    "</function>",
    "<minimax:tool_call>",
    "</minimax:tool_call>",
    "<invoke name=\"look\">",
    "<parameter name=\"city\">",
    "</invoke>",
    "\u{ff5c}DSML\u{ff5c}",
    "<\u{ff5c}DSML\u{ff5c}function_calls>",
    "</\u{ff5c}DSML\u{ff5c}function_calls>",
    "<\u{ff5c}DSML\u{ff5c}invoke name=\"look\">",
    "<\u{ff5c}DSML\u{ff5c}parameter name=\"city\" string=\"true\">",
    "<\u{ff5c}DSML\u{ff5c}parameter name=\"days\" string=\"false\">",
    "</\u{ff5c}DSML\u{ff5c}parameter>",
    "</\u{ff5c}DSML\u{ff5c}invoke>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "<|python_tag|>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "[CALL_ID]",
    "[THINK]",
    "[/THINK]",
    "<\u{ff5c}tool\u{2581}calls\u{2581}begin\u{ff5c}>",
    "<\u{ff5c}tool\u{2581}call\u{2581}begin\u{ff5c}>",
    "<\u{ff5c}tool\u{2581}sep\u{ff5c}>",
    "<\u{ff5c}tool\u{2581}call\u{2581}end\u{ff5c}>",
    "<\u{ff5c}tool\u{2581}calls\u{2581}end\u{ff5c}>",
    "<|tool_calls_section_begin|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
    "<|tool_calls_section_end|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|\"|>",
    "<|channel>",
    "<channel|>",
    "thought\n",
    "<|start|>",
    "<|channel|>",
    "<|message|>",
    "<|end|>",
    "<|call|>",
    "analysis",
    "commentary to=functions.look",
    "final",
    "call:look{",
    "look",
    "functions.look:0",
    "function",
    "```json\n",
    "```",
    "\n",
    "\n\n",
    " ",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    ":",
    ",",
    ";",
    "\\",
    "\\u",
    "\\ud83d",
    "\\udd80",
    "\"name\": ",
    "\"look\"",
    "\"arguments\": ",
    "\"parameters\": ",
    "{\"name\": \"look\", \"arguments\": ",
    "{\"city\": \"Rome\"}",
    "city:",
    "1",
    "-1.5e3",
    "true",
    "None",
    "null",
    "Rome",
    "\u{e9}",
    "\u{1f980}",
    "[[[[[[[[",
    "{\"a\":{\"a\":",
];

/// The first byte selects the format. The second selects whether its tokens exist, whether there
/// are tools, and how the prompt ends. Every other byte is a fragment or a character.
pub fn output(bytes: &[u8]) {
    let (Some(&family), Some(&flags)) = (bytes.first(), bytes.get(1)) else { return };
    let (template, tokens) = FAMILIES[usize::from(family) % FAMILIES.len()];
    let tokens = if flags & 1 == 0 { tokens } else { &[] };
    let format = OutputFormat::of(|text| template.contains(text), &vocabulary(tokens));
    let prompt = if flags & 2 == 0 { "" } else { "<think>\n" };
    let tools = if flags & 4 == 0 { tools() } else { Vec::new() };
    let parser = format.parser(prompt, &tools, flags & 8 == 0);
    let pieces: Vec<MarkedText> =
        bytes[2..].iter().flat_map(|&byte| pieces(byte, tokens)).collect();
    let text: String = pieces.iter().map(|piece| piece.text.as_str()).collect();

    let one_by_one = read(parser.clone(), pieces.iter().cloned());
    let whole = read(parser.clone(), [join(&pieces)]);
    assert_eq!(one_by_one, whole, "{text:?}");
    for size in [2, 3, 7] {
        assert_eq!(read(parser.clone(), pieces.chunks(size).map(join)), whole, "{text:?}");
    }
    check(&whole, &text, template);
}

/// Parts in a form that does not depend on the splits, and whether the last call was cut.
type Read = (Vec<Part>, bool);

fn read(mut parser: OutputParser, deltas: impl IntoIterator<Item = MarkedText>) -> Read {
    let mut parts = Vec::new();
    for delta in deltas {
        parser.push(&delta).into_iter().for_each(|part| add(&mut parts, part));
    }
    parser.finish(FinishReason::Stop).into_iter().for_each(|part| add(&mut parts, part));
    (parts, parser.is_cut())
}

fn add(parts: &mut Vec<Part>, part: Part) {
    match (parts.last_mut(), part) {
        (Some(Part::Text(last)), Part::Text(more))
        | (Some(Part::Reasoning(last)), Part::Reasoning(more))
        | (Some(Part::CallArguments(last)), Part::CallArguments(more)) => last.push_str(&more),
        (_, part) => parts.push(part),
    }
}

fn check((parts, cut): &Read, text: &str, template: &str) {
    let mut calls = 0;
    let mut broken = 0;
    let mut arguments = None;
    for part in parts {
        match (part, &mut arguments) {
            (Part::CallStart { index, name }, None) => {
                assert_eq!((*index, name.as_str()), (calls, "look"));
                calls += 1;
                arguments = Some(String::new());
            }
            (Part::CallArguments(more), Some(all)) => all.push_str(more),
            (Part::CallEnd, Some(all)) => {
                let is_object = all.starts_with('{')
                    && serde_json::from_str::<serde::de::IgnoredAny>(all).is_ok();
                broken += usize::from(!is_object);
                arguments = None;
            }
            (Part::Text(_) | Part::Reasoning(_), None) => {}
            _ => panic!("{parts:?} for {text:?}"),
        }
    }
    assert!(arguments.is_none(), "{parts:?} for {text:?}");
    assert!(broken == 0 || *cut, "{parts:?} for {text:?}");
    let thinks = parts.iter().any(|part| matches!(part, Part::Reasoning(_)));
    let structured = ["</think>", "[/THINK]", "<channel|>", "<|message|>"];
    if calls == 0 && !thinks && !structured.iter().any(|marker| template.contains(marker)) {
        let said: String =
            parts.iter().map(|part| if let Part::Text(text) = part { text } else { "" }).collect();
        assert_eq!(said, text);
    }
}

/// The text of a byte: a fragment in the fewest possible pieces, or a character.
fn pieces(byte: u8, tokens: &[&str]) -> Vec<MarkedText> {
    let plain = |text: String| MarkedText { text, ..MarkedText::default() };
    let Some(&text) = FRAGMENTS.get(usize::from(byte)) else {
        return vec![plain(char::from(byte).to_string())];
    };
    match tokens.iter().position(|token| *token == text) {
        Some(number) => {
            let mark = Mark { start: 0, end: text.len(), id: id(number) };
            vec![MarkedText { marks: vec![mark], ..plain(text.to_owned()) }]
        }
        None => text.chars().map(|c| plain(c.to_string())).collect(),
    }
}

fn join(pieces: &[MarkedText]) -> MarkedText {
    let mut joined = MarkedText::default();
    for piece in pieces {
        let base = joined.text.len();
        joined.text.push_str(&piece.text);
        joined.marks.extend(piece.marks.iter().map(|mark| Mark {
            start: mark.start + base,
            end: mark.end + base,
            ..*mark
        }));
    }
    joined
}

fn id(number: usize) -> u32 {
    100 + number as u32
}

fn vocabulary(tokens: &[&str]) -> Tokenizer {
    let added: Vec<Value> = tokens
        .iter()
        .enumerate()
        .map(|(number, token)| {
            json!({"id": id(number), "content": token, "special": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "single_word": false})
        })
        .collect();
    let model = json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"});
    let file = json!({"version": "1.0", "added_tokens": added, "model": model, "normalizer": null,
                      "pre_tokenizer": null, "post_processor": null, "decoder": null,
                      "truncation": null, "padding": null});
    Tokenizer::from_json(file.to_string().as_bytes()).expect("a tokenizer")
}

fn tools() -> Vec<Value> {
    let properties = json!({"city": {"type": "string"}, "days": {"type": "integer"}});
    let parameters = json!({"type": "object", "properties": properties});
    vec![json!({"type": "function", "function": {"name": "look", "parameters": parameters}})]
}
