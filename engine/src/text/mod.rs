//! Text and tokens: tokenizers, chat templates, stop strings, the parsers of answers, and grammars.

pub(crate) mod detokenize;
pub(crate) mod grammar;
pub(crate) mod output;
pub(crate) mod python_json;
pub(crate) mod stop;
pub(crate) mod template;
pub(crate) mod tokenizer;
