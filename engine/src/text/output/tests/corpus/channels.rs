//! Families that name the channel of a message: the Gemmas and gpt-oss.

use crate::text::output::tests::case::{Case, Family, case};

pub(super) const GEMMA: Family = Family {
    template: "<|channel>thought <channel|> <|tool_call>call: <|\"|> <tool_call|>",
    tokens: &["<|tool_call>", "<tool_call|>", "<|\"|>", "<|channel>", "<channel|>"],
};

pub(super) const GEMMA_CALLS: &[Case] = &[
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

pub(super) const FUNCTION_GEMMA: Family = Family {
    template: "<start_function_call>call: <escape>",
    tokens: &["<start_function_call>", "<end_function_call>", "<escape>"],
};

pub(super) const FUNCTION_GEMMA_CALLS: &[Case] = &[case(
    "",
    "<start_function_call>call:look{city:<escape>Rome<escape>,days:1}<end_function_call>",
    r#"look({"city": "Rome", "days": 1})"#,
)];

pub(super) const GPT_OSS: Family = Family {
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

pub(super) const HARMONY: &[Case] = &[
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
    // Text before a call, and a message without an end.
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
