//! Answers of each family, well-formed and not.

mod channels;
mod json;
mod tags;

use super::case::{Case, Family, case};
use channels::{FUNCTION_GEMMA, FUNCTION_GEMMA_CALLS, GEMMA, GEMMA_CALLS, GPT_OSS, HARMONY};
use json::{
    DEEPSEEK, DEEPSEEK_CALLS, HERMES, KIMI, KIMI_CALLS, LLAMA, LLAMA_CALLS, MISTRAL, MISTRAL_CALLS,
    PROSE, QWEN3, SPELLED_OUT, THINKING,
};
use tags::{
    DSML, DSML_CALLS, DSML_SPELLED, DSML_TOOL_CALLS, FUNCTIONS, GLM, GLM_CALLS, MINIMAX,
    MINIMAX_CALLS, QWEN3_CODER, THINKING_CODER,
};

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
