//! Families that write the arguments of a call as one JSON object.

use crate::text::output::tests::case::{Case, Family, case};

pub(super) const QWEN3: Family = Family {
    template: "<think> </think> <tool_call> </tool_call>",
    tokens: &["<tool_call>", "</tool_call>", "<think>", "</think>"],
};

/// The same format with a vocabulary that lacks its tokens.
pub(super) const SPELLED_OUT: Family = Family { tokens: &[], ..QWEN3 };

pub(super) const HERMES: &[Case] = &[
    case("", "Hello.\n", "text(Hello.\n)"),
    case("", "", ""),
    case(
        "",
        "<tool_call>\n{\"name\": \"look\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>",
        r#"look({"city": "Rome"})"#,
    ),
    // Text before, between and after; each keeps its spaces.
    case(
        "",
        "First.\n\n<tool_call>{\"name\":\"stop\",\"arguments\":{}}</tool_call>\nThen\n<tool_call>\n\
         {\"name\": \"look\", \"arguments\": {}}\n</tool_call> Done. \n",
        "text(First.\n)stop({})text(\nThen)look({})text( Done. \n)",
    ),
    case(
        "",
        "<tool_call>\n{\"name\": \"stop\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \
         \"look\", \"arguments\": {\"days\": 2}}\n</tool_call>\n",
        r#"stop({})look({"days": 2})"#,
    ),
    // The closing marker inside an argument.
    case(
        "",
        r#"<tool_call>{"name": "look", "arguments": {"city": "a</tool_call>b<tool_call>"}}</tool_call>"#,
        r#"look({"city": "a</tool_call>b<tool_call>"})"#,
    ),
    // Arguments first, under the other name, as a string, absent, null.
    case(
        "",
        r#"<tool_call>{"arguments": {"days": 1}, "name": "look"}</tool_call>"#,
        r#"look({"days": 1})"#,
    ),
    case(
        "",
        r#"<tool_call>{"id": 7, "name": "look", "parameters": {"days": 1}}</tool_call>"#,
        r#"look({"days": 1})"#,
    ),
    case(
        "",
        r#"<tool_call>{"name": "look", "arguments": "{\"city\": \"Rome\"}"}</tool_call>"#,
        r#"look({"city": "Rome"})"#,
    ),
    case("", r#"<tool_call>{"name": "stop"}</tool_call>"#, "stop({})"),
    case("", r#"<tool_call>{"name": "stop", "arguments": null}</tool_call>"#, "stop({})"),
    case("", r#"<tool_call>{"name": "stop", "arguments": ""}</tool_call>"#, "stop({})"),
    // Several calls in one pair of markers, with and without an array; an extra brace.
    case(
        "",
        "<tool_call>\n{\"name\": \"stop\"}\n{\"name\": \"look\"}\n</tool_call>",
        "stop({})look({})",
    ),
    case("", r#"<tool_call>[{"name": "stop"}, {"name": "look"}]</tool_call>"#, "stop({})look({})"),
    case("", "<tool_call>{\"name\": \"stop\"}}\n</tool_call>!", "stop({})text(!)"),
    // Mistakes that are repaired.
    case(
        "",
        "<tool_call>{'name': 'look', 'arguments': {'city': 'O\\'Hare \"x\"', 'ok': True, 'no': \
         None,},}</tool_call>",
        r#"look({"city": "O'Hare \"x\"", "ok": true, "no": null})"#,
    ),
    case(
        "",
        "<tool_call>{\"name\": \"look\", \"arguments\": {\"city\": \"a\n\tb\\d\"}}</tool_call>",
        r#"look({"city": "a\n\tb\\d"})"#,
    ),
    case(
        "",
        r#"<tool_call>{"name": "look", "arguments": {"c": "\ud83e\udd80 \ud83e! \udd80\u00E9"}}</tool_call>"#,
        r#"look({"c": "\ud83e\udd80 \ufffd! \ufffd\u00E9"})"#,
    ),
    case(
        "",
        "<tool_call>{\"name\": \"look\", \"arguments\": {\"c\": \"\u{1f980} \u{e9}\", \"n\": [1, -2.5e3, \
         [], {}]}}</tool_call>",
        "look({\"c\": \"\u{1f980} \u{e9}\", \"n\": [1, -2.5e3, [], {}]})",
    ),
    // Not calls, so everything is text.
    case("", "<tool_call> is a marker", "text(<tool_call> is a marker)"),
    case("", "a\n<tool_call>\n{\"name\": 3}", "text(a\n<tool_call>\n{\"name\": 3})"),
    case(
        "",
        r#"<tool_call>{"name": "other", "arguments": {}}</tool_call>"#,
        r#"text(<tool_call>{"name": "other", "arguments": {}}</tool_call>)"#,
    ),
    case(
        "",
        r#"<tool_call>{"name": "stop", "arguments": [1]}</tool_call>"#,
        r#"text(<tool_call>{"name": "stop", "arguments": [1]}</tool_call>)"#,
    ),
    case("", r#"<tool_call>{"x": 1}</tool_call>"#, r#"text(<tool_call>{"x": 1}</tool_call>)"#),
    case("", "<tool_call>", "text(<tool_call>)"),
    case("", "</tool_call>", "text(</tool_call>)"),
    case("", "a <tool", "text(a <tool)"),
    case(
        "",
        "Write <tool_call> and <tool_call>{\"name\": \"stop\"}</tool_call>",
        "text(Write <tool_call> and )stop({})",
    ),
    // Unclosed.
    case("", r#"<tool_call>{"name": "stop"}"#, "stop({})"),
    case("", r#"<tool_call>{"name": "stop", "arguments": {}"#, "stop({})"),
    case("", r#"<tool_call>{"name": "look", "arguments": {"ci"#, "look({\"ci)..."),
    case("", r#"<tool_call>{"name": "look", "argu"#, r#"text(<tool_call>{"name": "look", "argu)"#),
    case(
        "",
        r#"<tool_call>{"name": "look", "arguments": {"a": 1 b}}"#,
        r#"look({"a": 1 )text(b}})..."#,
    ),
];

pub(super) const THINKING: &[Case] = &[
    case("<think>\n", "I\n\nsee\n</think>\n\nYes\n", "think(I\n\nsee)text(Yes\n)"),
    case("<think>", "\nI see\n</think>Yes", "think(I see)text(Yes)"),
    case("", "<think>\nI see\n</think>\n\nYes", "think(I see)text(Yes)"),
    case("", " \n<think>\n\n</think>\n\nYes", "text(Yes)"),
    case("", " \n<thin", "text( \n<thin)"),
    case("<think>\n\n</think>\n\n", "Yes\n\n", "text(Yes\n\n)"),
    // The template's end is not text that a user wrote.
    case("<think><|im_start|>assistant\n", "Yes", "text(Yes)"),
    case("<think>\n", "never ends <tool_call> \n", "think(never ends <tool_call> \n)"),
    case("<think>\n", "a </thin b\n\n", "think(a </thin b\n\n)"),
    case("", "no </think> here", "text(no </think> here)"),
    case(
        "<think>\n",
        "so\n</think>\n\n<tool_call>\n{\"name\": \"stop\", \"arguments\": {}}\n</tool_call>",
        "think(so)stop({})",
    ),
    case(
        "<think>\n",
        "so\n</think>\n\nI look.\n<tool_call>\n{\"name\": \"stop\", \"arguments\": {}}\n</tool_call>",
        "think(so)text(I look.)stop({})",
    ),
];

pub(super) const PROSE: &[Case] = &[
    case(
        "",
        "Write <\u{1}tool_call>{\"name\": \"stop\"}<\u{1}/tool_call> and <\u{1}think>",
        "text(Write <tool_call>{\"name\": \"stop\"}</tool_call> and <think>)",
    ),
    // Reasoning in the middle, between calls.
    case(
        "",
        "One <think>\nb\n</think>\n\ntwo<tool_call>{\"name\": \"stop\"}</tool_call><think>c</think>",
        "text(One )think(b)text(two)stop({})think(c)",
    ),
];

pub(super) const LLAMA: Family =
    Family { template: "<|start_header_id|> '\"parameters\": '", tokens: &["<|python_tag|>"] };

pub(super) const LLAMA_CALLS: &[Case] = &[
    case("", r#"{"name": "look", "parameters": {"city": "Rome"}}"#, r#"look({"city": "Rome"})"#),
    case(
        "",
        r#"<|python_tag|>{"name": "look", "parameters": {"days": 2}}; {"name": "stop", "parameters": {}}"#,
        r#"look({"days": 2})stop({})"#,
    ),
    case("", "\n[{\"name\": \"stop\"}, {\"name\": \"look\"}]", "stop({})look({})"),
    case("", r#"{"name": "Alice", "age": 3}"#, r#"text({"name": "Alice", "age": 3})"#),
    case("", r#"{"age": 3}"#, r#"text({"age": 3})"#),
    case("", "[1, 2]", "text([1, 2])"),
    case("", "So: {\"name\": \"stop\"}", "text(So: {\"name\": \"stop\"})"),
    case("", "<|python_tag|>print(1)", "text(<|python_tag|>print(1))"),
    case("", "{\"name\": \"stop\"} and so", "stop({})text( and so)"),
];

pub(super) const MISTRAL: Family = Family {
    template: "[TOOL_CALLS] [THINK] [/THINK]",
    tokens: &["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"],
};

pub(super) const MISTRAL_CALLS: &[Case] = &[
    case(
        "",
        r#"[TOOL_CALLS][{"name": "look", "arguments": {"city": "Rome"}, "id": "123456789"}]"#,
        r#"look({"city": "Rome"})"#,
    ),
    case(
        "",
        r#"[TOOL_CALLS] [{"name": "stop", "arguments": {}}, {"name": "look", "arguments": {}}]"#,
        "stop({})look({})",
    ),
    case(
        "",
        r#"[THINK]Hm[/THINK]I look.[TOOL_CALLS]look[ARGS]{"city": "Rome"}[TOOL_CALLS]stop[ARGS]{}"#,
        r#"think(Hm)text(I look.)look({"city": "Rome"})stop({})"#,
    ),
    case("", r#"[TOOL_CALLS]look[CALL_ID]abc123def[ARGS]{"days": 1}"#, r#"look({"days": 1})"#),
    case("", r#"[TOOL_CALLS]look{"days": 1}"#, r#"look({"days": 1})"#),
    case("", "[TOOL_CALLS]nope[ARGS]{}", "text([TOOL_CALLS]nope[ARGS]{})"),
    case("", "[TOOL_CALLS]look[ARGS]Rome", "text([TOOL_CALLS]look[ARGS]Rome)"),
    case("", "[TOOL_CALLS]look", "text([TOOL_CALLS]look)"),
    case(
        "",
        r#"[TOOL_CALLS]look[ARGS]{"city": "[TOOL_CALLS]"#,
        r#"look({"city": "[TOOL_CALLS])..."#,
    ),
];

pub(super) const DEEPSEEK: Family = Family {
    template: "<\u{ff5c}tool\u{2581}calls\u{2581}begin\u{ff5c}> </think>",
    tokens: &[
        "<\u{ff5c}tool\u{2581}calls\u{2581}begin\u{ff5c}>",
        "<\u{ff5c}tool\u{2581}call\u{2581}begin\u{ff5c}>",
        "<\u{ff5c}tool\u{2581}sep\u{ff5c}>",
        "<\u{ff5c}tool\u{2581}call\u{2581}end\u{ff5c}>",
        "<\u{ff5c}tool\u{2581}calls\u{2581}end\u{ff5c}>",
        "<think>",
        "</think>",
    ],
};

pub(super) const DEEPSEEK_CALLS: &[Case] = &[
    case(
        "<think>",
        "Hm</think>I look.<\u{ff5c}tool\u{2581}calls\u{2581}begin\u{ff5c}><\u{ff5c}tool\u{2581}call\u{2581}begin\u{ff5c}>look\
         <\u{ff5c}tool\u{2581}sep\u{ff5c}>{\"city\": \"Rome\"}<\u{ff5c}tool\u{2581}call\u{2581}end\u{ff5c}>\
         <\u{ff5c}tool\u{2581}call\u{2581}begin\u{ff5c}>stop<\u{ff5c}tool\u{2581}sep\u{ff5c}>{}<\u{ff5c}tool\u{2581}call\u{2581}end\u{ff5c}>\
         <\u{ff5c}tool\u{2581}calls\u{2581}end\u{ff5c}>",
        r#"think(Hm)text(I look.)look({"city": "Rome"})stop({})"#,
    ),
    case(
        "",
        "<\u{ff5c}tool\u{2581}calls\u{2581}begin\u{ff5c}><\u{ff5c}tool\u{2581}call\u{2581}begin\u{ff5c}>function\
         <\u{ff5c}tool\u{2581}sep\u{ff5c}>look\n```json\n{\"city\": \"Rome\"}\n```<\u{ff5c}tool\u{2581}call\u{2581}end\u{ff5c}>\n\
         <\u{ff5c}tool\u{2581}call\u{2581}begin\u{ff5c}>function<\u{ff5c}tool\u{2581}sep\u{ff5c}>stop\n```json\n{}\n```\
         <\u{ff5c}tool\u{2581}call\u{2581}end\u{ff5c}><\u{ff5c}tool\u{2581}calls\u{2581}end\u{ff5c}>",
        r#"look({"city": "Rome"})stop({})"#,
    ),
    case(
        "",
        "<\u{ff5c}tool\u{2581}calls\u{2581}begin\u{ff5c}><\u{ff5c}tool\u{2581}call\u{2581}begin\u{ff5c}>nope\
         <\u{ff5c}tool\u{2581}sep\u{ff5c}>{}",
        "text(<\u{ff5c}tool\u{2581}calls\u{2581}begin\u{ff5c}><\u{ff5c}tool\u{2581}call\u{2581}begin\u{ff5c}>nope\
         <\u{ff5c}tool\u{2581}sep\u{ff5c}>{})",
    ),
    case(
        "",
        "<\u{ff5c}tool\u{2581}calls\u{2581}begin\u{ff5c}> is a marker",
        "text(<\u{ff5c}tool\u{2581}calls\u{2581}begin\u{ff5c}> is a marker)",
    ),
    case(
        "",
        "<\u{ff5c}tool\u{2581}calls\u{2581}begin\u{ff5c}><\u{ff5c}tool\u{2581}call\u{2581}begin\u{ff5c}>look\
         <\u{ff5c}tool\u{2581}sep\u{ff5c}>{\"city\": \"R",
        "look({\"city\": \"R)...",
    ),
];

pub(super) const KIMI: Family = Family {
    template: "<|tool_calls_section_begin|> </think>",
    tokens: &[
        "<|tool_calls_section_begin|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        "<|tool_calls_section_end|>",
        "<think>",
        "</think>",
    ],
};

pub(super) const KIMI_CALLS: &[Case] = &[
    case(
        "",
        "I look.<|tool_calls_section_begin|><|tool_call_begin|>functions.look:0\
         <|tool_call_argument_begin|>{\"city\": \"Rome\"}<|tool_call_end|><|tool_call_begin|>\
         functions.stop:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
        r#"text(I look.)look({"city": "Rome"})stop({})"#,
    ),
    // The section ends the reasoning.
    case(
        "<think>",
        "Hm\n<|tool_calls_section_begin|><|tool_call_begin|>functions.stop:0\
         <|tool_call_argument_begin|> {} <|tool_call_end|><|tool_calls_section_end|>",
        "think(Hm)stop({})",
    ),
    case(
        "",
        "<|tool_calls_section_begin|><|tool_call_begin|>look<|tool_call_argument_begin|>{\"city\": \
         \"<|tool_call_end|>\"}<|tool_call_end|><|tool_calls_section_end|>",
        r#"look({"city": "<|tool_call_end|>"})"#,
    ),
];
