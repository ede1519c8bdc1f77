//! Families that write each argument of a call between separate tags.

use crate::text::output::tests::case::{Case, Family, case};

pub(super) const QWEN3_CODER: Family = Family {
    template: "<think> </think> <tool_call> <function= <parameter=",
    tokens: &["<tool_call>", "</tool_call>", "<think>", "</think>"],
};

pub(super) const FUNCTIONS: &[Case] = &[
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
    // Types by schema.
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
    // The opening marker or the end of a value is missing.
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
    // Not calls.
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

pub(super) const THINKING_CODER: &[Case] = &[case(
    "<think>\n",
    "so\n</think>\n\n<tool_call>\n<function=stop>\n</function>\n</tool_call>",
    "think(so)stop({})",
)];

pub(super) const MINIMAX: Family = Family {
    template: "<think> </think> <minimax:tool_call>",
    tokens: &["<minimax:tool_call>", "</minimax:tool_call>", "<think>", "</think>"],
};

pub(super) const MINIMAX_CALLS: &[Case] = &[
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

pub(super) const GLM: Family = Family {
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

pub(super) const GLM_CALLS: &[Case] = &[
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

/// DeepSeek V3.2.
pub(super) const DSML: Family = Family {
    template: "<\u{ff5c}DSML\u{ff5c}function_calls> </think>",
    tokens: &["\u{ff5c}DSML\u{ff5c}", "<think>", "</think>"],
};

/// The same format with a vocabulary that lacks its tokens.
pub(super) const DSML_SPELLED: Family = Family { tokens: &[], ..DSML };

/// V4 uses another word around the calls.
pub(super) const DSML_TOOL_CALLS: Family =
    Family { template: "<\u{ff5c}DSML\u{ff5c}tool_calls> </think>", ..DSML };

pub(super) const DSML_CALLS: &[Case] = &[
    case(
        "<think>",
        "Hm</think>I look.\n\n<\u{ff5c}DSML\u{ff5c}function_calls>\n<\u{ff5c}DSML\u{ff5c}invoke name=\"look\">\n\
         <\u{ff5c}DSML\u{ff5c}parameter name=\"city\" string=\"true\">Rome \"x\"\n</\u{ff5c}DSML\u{ff5c}parameter>\n\
         <\u{ff5c}DSML\u{ff5c}parameter name=\"days\" string=\"false\">2</\u{ff5c}DSML\u{ff5c}parameter>\n\
         </\u{ff5c}DSML\u{ff5c}invoke>\n<\u{ff5c}DSML\u{ff5c}invoke name=\"stop\">\n</\u{ff5c}DSML\u{ff5c}invoke>\n\
         </\u{ff5c}DSML\u{ff5c}function_calls>",
        "think(Hm)text(I look.)look({\"city\": \"Rome \\\"x\\\"\\n\", \"days\": 2})stop({})",
    ),
    // The mark has priority over the schema, which decides without one.
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
