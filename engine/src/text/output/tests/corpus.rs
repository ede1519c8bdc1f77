//! Answers of each family, well formed and not.

use super::{Case, Family};

const fn case(prompt: &'static str, answer: &'static str, parts: &'static str) -> Case {
    Case { prompt, answer, parts }
}

/// All families with their cases.
pub(super) const ALL: &[(&Family, &[Case])] = &[
    (&QWEN3, HERMES),
    (&QWEN3, THINKING),
    (&QWEN3, PROSE),
    (&SPELLED_OUT, HERMES),
    (&SPELLED_OUT, THINKING),
    (&QWEN3_CODER, FUNCTIONS),
    (&QWEN3_CODER, THINKING_CODER),
    (&MINIMAX, MINIMAX_CALLS),
    (&GLM, GLM_CALLS),
    (&LLAMA, LLAMA_CALLS),
    (&MISTRAL, MISTRAL_CALLS),
    (&DEEPSEEK, DEEPSEEK_CALLS),
    (&DSML, DSML_CALLS),
    (&DSML_SPELLED, DSML_CALLS),
    (
        &DSML_TOOL_CALLS,
        &[case(
            "",
            "<\u{ff5c}DSML\u{ff5c}tool_calls>\n<\u{ff5c}DSML\u{ff5c}invoke name=\"stop\">\n</\u{ff5c}DSML\u{ff5c}invoke>\n\
         </\u{ff5c}DSML\u{ff5c}tool_calls>",
            "stop({})",
        )],
    ),
    (&KIMI, KIMI_CALLS),
    (&GEMMA, GEMMA_CALLS),
    (&FUNCTION_GEMMA, FUNCTION_GEMMA_CALLS),
    (&GPT_OSS, HARMONY),
];

const QWEN3: Family = Family {
    template: "<think> </think> <tool_call> </tool_call>",
    tokens: &["<tool_call>", "</tool_call>", "<think>", "</think>"],
};

/// The same format where the vocabulary has no tokens for it.
const SPELLED_OUT: Family = Family { tokens: &[], ..QWEN3 };

const HERMES: &[Case] = &[
    case("", "Hello.\n", "text(Hello.\n)"),
    case("", "", ""),
    case(
        "",
        "<tool_call>\n{\"name\": \"look\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>",
        r#"look({"city": "Rome"})"#,
    ),
    // Text before, between and after; each keeps its own space.
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
    // Several in one pair of markers, with and without an array; a brace too many.
    case(
        "",
        "<tool_call>\n{\"name\": \"stop\"}\n{\"name\": \"look\"}\n</tool_call>",
        "stop({})look({})",
    ),
    case("", r#"<tool_call>[{"name": "stop"}, {"name": "look"}]</tool_call>"#, "stop({})look({})"),
    case("", "<tool_call>{\"name\": \"stop\"}}\n</tool_call>!", "stop({})text(!)"),
    // Slips that are mended.
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
    // No calls: what there is of them is text.
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

const THINKING: &[Case] = &[
    case("<think>\n", "I\n\nsee\n</think>\n\nYes\n", "think(I\n\nsee)text(Yes\n)"),
    case("<think>", "\nI see\n</think>Yes", "think(I see)text(Yes)"),
    case("", "<think>\nI see\n</think>\n\nYes", "think(I see)text(Yes)"),
    case("", " \n<think>\n\n</think>\n\nYes", "text(Yes)"),
    case("", " \n<thin", "text( \n<thin)"),
    case("<think>\n\n</think>\n\n", "Yes\n\n", "text(Yes\n\n)"),
    // The template's end is nothing that a user wrote.
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

const PROSE: &[Case] = &[
    case(
        "",
        "Write <\u{1}tool_call>{\"name\": \"stop\"}<\u{1}/tool_call> and <\u{1}think>",
        "text(Write <tool_call>{\"name\": \"stop\"}</tool_call> and <think>)",
    ),
    // Thoughts in the middle, between calls.
    case(
        "",
        "One <think>\nb\n</think>\n\ntwo<tool_call>{\"name\": \"stop\"}</tool_call><think>c</think>",
        "text(One )think(b)text(two)stop({})think(c)",
    ),
];

const QWEN3_CODER: Family = Family {
    template: "<think> </think> <tool_call> <function= <parameter=",
    tokens: &["<tool_call>", "</tool_call>", "<think>", "</think>"],
};

const FUNCTIONS: &[Case] = &[
    case(
        "",
        "Let me.\n\n<tool_call>\n<function=look>\n<parameter=city>\nRome\n</parameter>\n\
         <parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
        "text(Let me.\n)look({\"city\": \"Rome\", \"days\": 3})",
    ),
    case(
        "",
        "<tool_call>\n<function=stop>\n</function>\n</tool_call>\n<tool_call>\n<function=look>\n\
         </function>\n</tool_call>",
        "stop({})look({})",
    ),
    // Values over several lines, with quotes, and with the markers in them.
    case(
        "",
        "<tool_call>\n<function=look>\n<parameter=city>\n\na \"b\"\n\t\u{1f980}\n\n</parameter>\n\
         </function>\n</tool_call>",
        "look({\"city\": \"\\na \\\"b\\\"\\n\\t\u{1f980}\\n\"})",
    ),
    case(
        "",
        "<tool_call>\n<function=look>\n<parameter=city>\nx</parameter> y</function> z \
         </tool_call>\n</parameter>\n</function>\n</tool_call>",
        "look({\"city\": \"x</parameter> y</function> z </tool_call>\"})",
    ),
    case(
        "",
        "<tool_call>\n<function=look>\n<parameter=city></parameter>\n<parameter=days>two</parameter>\
         \n</function>\n</tool_call>",
        r#"look({"city": "", "days": "two"})"#,
    ),
    // Kinds by schema.
    case(
        "",
        "<tool_call>\n<function=look>\n<parameter=days>\n\"7\"\n</parameter>\n<parameter=list>\n[1, \
         'a', None]\n</parameter>\n<parameter=flag>\nTrue\n</parameter>\n<parameter=either>\nnull\n\
         </parameter>\n<parameter=shape>\n{\"a\": 1}\n</parameter>\n<parameter=undeclared>\n5\n\
         </parameter>\n</function>\n</tool_call>",
        "look({\"days\": 7, \"list\": [1, \"a\", null], \"flag\": true, \"either\": null, \"shape\": \
         {\"a\": 1}, \"undeclared\": \"5\"})",
    ),
    case(
        "",
        "<tool_call>\n<function=look>\n<parameter=either>\n12\n</parameter>\n<parameter=list>\nnot a \
         list\n</parameter>\n<parameter=city>\n12\n</parameter>\n</function>\n</tool_call>",
        r#"look({"either": "12", "list": "not a list", "city": "12"})"#,
    ),
    // The opening marker or the end of a value left out.
    case(
        "",
        "I do.\n<function=look>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>",
        r#"text(I do.)look({"city": "Rome"})"#,
    ),
    case(
        "",
        "<tool_call>\n<function=look>\n<parameter=city>\nRome\n</function>\n</tool_call>",
        r#"look({"city": "Rome"})"#,
    ),
    // No calls.
    case("", "In a line <function=look> is prose", "text(In a line <function=look> is prose)"),
    case(
        "",
        "<tool_call>\n<function=other>\n</function>\n</tool_call>",
        "text(<tool_call>\n<function=other>\n</function>\n</tool_call>)",
    ),
    case("", "<tool_call>\n{\"name\": \"stop\"}", "stop({})"),
    case("", "<tool_call>\n<func", "text(<tool_call>\n<func)"),
    case("", "<tool_call>\n<function=look", "text(<tool_call>\n<function=look)"),
    // Unclosed.
    case("", "<tool_call>\n<function=look>\n<parameter=city>\nRo", "look({\"city\": \"Ro)..."),
    case("", "<tool_call>\n<function=look>\n<parameter=ci", "look({)text(\n<parameter=ci)..."),
    case(
        "",
        "<tool_call>\n<function=look>\n<parameter=days>\n3\n</parameter>\n",
        "look({\"days\": 3})",
    ),
    case("", "<tool_call>\n<function=look>\nRome", "look({)text(\nRome)..."),
];

const THINKING_CODER: &[Case] = &[case(
    "<think>\n",
    "so\n</think>\n\n<tool_call>\n<function=stop>\n</function>\n</tool_call>",
    "think(so)stop({})",
)];

const MINIMAX: Family = Family {
    template: "<think> </think> <minimax:tool_call>",
    tokens: &["<minimax:tool_call>", "</minimax:tool_call>", "<think>", "</think>"],
};

const MINIMAX_CALLS: &[Case] = &[
    case(
        "<think>\n",
        "Hm\n</think>\n\nI look.\n<minimax:tool_call>\n<invoke name=\"look\">\n<parameter \
         name=\"city\">Rome\n</parameter>\n<parameter name=\"days\">2</parameter>\n</invoke>\n<invoke \
         name=\"stop\">\n</invoke>\n</minimax:tool_call>",
        "think(Hm)text(I look.)look({\"city\": \"Rome\\n\", \"days\": 2})stop({})",
    ),
    case(
        "",
        "<minimax:tool_call>\n<invoke name=\"nope\">\n</invoke>\n</minimax:tool_call>",
        "text(<minimax:tool_call>\n<invoke name=\"nope\">\n</invoke>\n</minimax:tool_call>)",
    ),
    case(
        "",
        "<minimax:tool_call>\n<invoke name=\"look\">\n<parameter name=\"city\">a</parameter>b \
         </invoke>c</minimax:tool_call></parameter>\n</invoke>\n</minimax:tool_call>",
        r#"look({"city": "a</parameter>b </invoke>c</minimax:tool_call>"})"#,
    ),
];

const GLM: Family = Family {
    template: "<think> </think> <tool_call> <arg_key> <arg_value>",
    tokens: &[
        "<tool_call>",
        "</tool_call>",
        "<arg_key>",
        "</arg_key>",
        "<arg_value>",
        "</arg_value>",
        "<think>",
        "</think>",
    ],
};

const GLM_CALLS: &[Case] = &[
    case(
        "",
        "\n<think>Hm</think>\nI look.\n<tool_call>look\n<arg_key>city</arg_key>\n<arg_value>Rome\
         </arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>",
        r#"think(Hm)text(I look.)look({"city": "Rome", "days": 2})"#,
    ),
    case(
        "",
        "<tool_call>look<arg_key>city</arg_key><arg_value>a b</arg_value></tool_call><tool_call>stop\
         </tool_call>",
        r#"look({"city": "a b"})stop({})"#,
    ),
    case(
        "",
        "<tool_call>look\n<arg_key>city</arg_key>\n<arg_value>x</arg_value> y</tool_call> z\
         </arg_value>\n</tool_call>",
        r#"look({"city": "x</arg_value> y</tool_call> z"})"#,
    ),
    case("", "<tool_call>a joke</tool_call>", "text(<tool_call>a joke</tool_call>)"),
    case("", "<tool_call>look\n<arg_key>city</arg_key>\n<arg_value>Ro", "look({\"city\": \"Ro)..."),
    case("", "<tool_call>look\n<arg_key>city</arg_key>x", "look({\"city\": \"x)..."),
];

const LLAMA: Family =
    Family { template: "<|start_header_id|> '\"parameters\": '", tokens: &["<|python_tag|>"] };

const LLAMA_CALLS: &[Case] = &[
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

const MISTRAL: Family = Family {
    template: "[TOOL_CALLS] [THINK] [/THINK]",
    tokens: &["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"],
};

const MISTRAL_CALLS: &[Case] = &[
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

/// DeepSeek V3.2.
const DSML: Family = Family {
    template: "<\u{ff5c}DSML\u{ff5c}function_calls> </think>",
    tokens: &["\u{ff5c}DSML\u{ff5c}", "<think>", "</think>"],
};

/// The same where the vocabulary has no tokens for it.
const DSML_SPELLED: Family = Family { tokens: &[], ..DSML };

/// V4 has another word around the calls.
const DSML_TOOL_CALLS: Family =
    Family { template: "<\u{ff5c}DSML\u{ff5c}tool_calls> </think>", ..DSML };

const DSML_CALLS: &[Case] = &[
    case(
        "<think>",
        "Hm</think>I look.\n\n<\u{ff5c}DSML\u{ff5c}function_calls>\n<\u{ff5c}DSML\u{ff5c}invoke name=\"look\">\n\
         <\u{ff5c}DSML\u{ff5c}parameter name=\"city\" string=\"true\">Rome \"x\"\n</\u{ff5c}DSML\u{ff5c}parameter>\n\
         <\u{ff5c}DSML\u{ff5c}parameter name=\"days\" string=\"false\">2</\u{ff5c}DSML\u{ff5c}parameter>\n\
         </\u{ff5c}DSML\u{ff5c}invoke>\n<\u{ff5c}DSML\u{ff5c}invoke name=\"stop\">\n</\u{ff5c}DSML\u{ff5c}invoke>\n\
         </\u{ff5c}DSML\u{ff5c}function_calls>",
        "think(Hm)text(I look.)look({\"city\": \"Rome \\\"x\\\"\\n\", \"days\": 2})stop({})",
    ),
    // The mark decides, not the schema; without one the schema does.
    case(
        "",
        "<\u{ff5c}DSML\u{ff5c}function_calls>\n<\u{ff5c}DSML\u{ff5c}invoke name=\"look\">\n\
         <\u{ff5c}DSML\u{ff5c}parameter name=\"days\" string=\"true\">2</\u{ff5c}DSML\u{ff5c}parameter>\n\
         <\u{ff5c}DSML\u{ff5c}parameter name=\"city\" string=\"false\">\"Rome\"</\u{ff5c}DSML\u{ff5c}parameter>\n\
         <\u{ff5c}DSML\u{ff5c}parameter name=\"list\" string=\"false\">[1, {\"a\": null}]</\u{ff5c}DSML\u{ff5c}parameter>\n\
         <\u{ff5c}DSML\u{ff5c}parameter name=\"flag\">true</\u{ff5c}DSML\u{ff5c}parameter>\n\
         <\u{ff5c}DSML\u{ff5c}parameter name=\"either\" string=\"false\">none at all</\u{ff5c}DSML\u{ff5c}parameter>\n\
         </\u{ff5c}DSML\u{ff5c}invoke>\n</\u{ff5c}DSML\u{ff5c}function_calls>",
        "look({\"days\": \"2\", \"city\": \"Rome\", \"list\": [1, {\"a\": null}], \"flag\": true, \
         \"either\": \"none at all\"})",
    ),
    // Markers inside a value, and prose about them.
    case(
        "",
        "<\u{ff5c}DSML\u{ff5c}function_calls>\n<\u{ff5c}DSML\u{ff5c}invoke name=\"look\">\n\
         <\u{ff5c}DSML\u{ff5c}parameter name=\"city\" string=\"true\">a</\u{ff5c}DSML\u{ff5c}parameter>b \
         </\u{ff5c}DSML\u{ff5c}invoke>c</\u{ff5c}DSML\u{ff5c}function_calls></\u{ff5c}DSML\u{ff5c}parameter>\n\
         </\u{ff5c}DSML\u{ff5c}invoke>\n</\u{ff5c}DSML\u{ff5c}function_calls>",
        "look({\"city\": \"a</\u{ff5c}DSML\u{ff5c}parameter>b </\u{ff5c}DSML\u{ff5c}invoke>c\
         </\u{ff5c}DSML\u{ff5c}function_calls>\"})",
    ),
    case(
        "",
        "<\u{ff5c}DSML\u{ff5c}function_calls>\n<\u{ff5c}DSML\u{ff5c}invoke name=\"nope\">\n</\u{ff5c}DSML\u{ff5c}invoke>",
        "text(<\u{ff5c}DSML\u{ff5c}function_calls>\n<\u{ff5c}DSML\u{ff5c}invoke name=\"nope\">\n</\u{ff5c}DSML\u{ff5c}invoke>)",
    ),
    case("", "I write \u{ff5c}DSML\u{ff5c}.\n\n", "text(I write \u{ff5c}DSML\u{ff5c}.\n\n)"),
    case(
        "",
        "<\u{ff5c}DSML\u{ff5c}function_calls>\n<\u{ff5c}DSML\u{ff5c}invoke name=\"look\">\n\
         <\u{ff5c}DSML\u{ff5c}parameter name=\"city\" string=\"true\">Ro",
        "look({\"city\": \"Ro)...",
    ),
];

const DEEPSEEK: Family = Family {
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

const DEEPSEEK_CALLS: &[Case] = &[
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

const KIMI: Family = Family {
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

const KIMI_CALLS: &[Case] = &[
    case(
        "",
        "I look.<|tool_calls_section_begin|><|tool_call_begin|>functions.look:0\
         <|tool_call_argument_begin|>{\"city\": \"Rome\"}<|tool_call_end|><|tool_call_begin|>\
         functions.stop:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
        r#"text(I look.)look({"city": "Rome"})stop({})"#,
    ),
    // The section ends the thoughts.
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

const GEMMA: Family = Family {
    template: "<|channel>thought <channel|> <|tool_call>call: <|\"|> <tool_call|>",
    tokens: &["<|tool_call>", "<tool_call|>", "<|\"|>", "<|channel>", "<channel|>"],
};

const GEMMA_CALLS: &[Case] = &[
    case(
        "",
        "<|channel>thought\nHm\n<channel|>I look.<|tool_call>call:look{city:<|\"|>Rome, \
         \"x\"}<|\"|>,days:2}<tool_call|>",
        r#"think(Hm)text(I look.)look({"city": "Rome, \"x\"}", "days": 2})"#,
    ),
    case(
        "<|channel>thought\n",
        "Hm\n<channel|><|tool_call>call:stop{}<tool_call|><|tool_call>call:look{list:[1,<|\"|>a\
         <|\"|>,[],{<|\"|>k<|\"|>:true,n:null}],shape:{}}<tool_call|>",
        "think(Hm)stop({})look({\"list\": [1, \"a\", [], {\"k\": true, \"n\": null}], \"shape\": {}})",
    ),
    case("<|channel>thought\n<channel|>", "Hi", "text(Hi)"),
    case("", "<|tool_call>call:nope{}<tool_call|>", "text(<|tool_call>call:nope{}<tool_call|>)"),
    case("", "<|tool_call>prose", "text(<|tool_call>prose)"),
    case("", "<|tool_call>call:look{city:<|\"|>Ro", "look({\"city\": \"Ro)..."),
    case("", "<|tool_call>call:look{days:what}", "look({\"days\": )text(what})..."),
];

const FUNCTION_GEMMA: Family = Family {
    template: "<start_function_call>call: <escape>",
    tokens: &["<start_function_call>", "<end_function_call>", "<escape>"],
};

const FUNCTION_GEMMA_CALLS: &[Case] = &[case(
    "",
    "<start_function_call>call:look{city:<escape>Rome<escape>,days:1}<end_function_call>",
    r#"look({"city": "Rome", "days": 1})"#,
)];

const GPT_OSS: Family = Family {
    template: "<|channel|> <|message|>",
    tokens: &[
        "<|start|>",
        "<|channel|>",
        "<|message|>",
        "<|constrain|>",
        "<|end|>",
        "<|call|>",
        "<|return|>",
    ],
};

const HARMONY: &[Case] = &[
    case("", "<|channel|>final<|message|>Hi\n", "text(Hi\n)"),
    case(
        "",
        "<|channel|>analysis<|message|>Hm.\n<|end|><|start|>assistant<|channel|>commentary \
         to=functions.look <|constrain|>json<|message|>{\"city\": \"Rome\"}<|call|>",
        "think(Hm.\n)look({\"city\": \"Rome\"})",
    ),
    case(
        "",
        "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant to=functions.stop<|channel|>\
         commentary json<|message|>{}",
        "think(Hm)stop({})",
    ),
    // Said before a call, and a message that was not ended.
    case(
        "",
        "<|channel|>commentary<|message|>I look.<|channel|>analysis<|message|>Hm<|end|><|start|>\
         assistant<|channel|>final<|message|>Done",
        "text(I look.)think(Hm)text(Done)",
    ),
    case(
        "",
        "<|channel|>commentary to=functions.nope<|message|>{\"a\": 1}<|call|>",
        "text({\"a\": 1})",
    ),
    case("", "No header", "text(No header)"),
    case("", "<|channel|>ana", ""),
    case("", "<|channel|>commentary to=functions.look<|message|>{\"city", "look({\"city)..."),
    case("", "<|channel|>commentary to=functions.look<|message|>Rome", "text(Rome)"),
];
