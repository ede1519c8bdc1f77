//! A model that says what a test wrote down, turn by turn, through the real engine: what real clients
//! do with tool calls can so be tested without a model that is good at making them.
//!
//! Every piece of the script is a token of its own. The layers add nothing, and the last matrix maps
//! each of these tokens to the one that follows; everything else ends the answer. Which turn it is,
//! the chat template tells with a marker, which it also writes into the turns that lie behind.

use std::fs;
use std::io;
use std::path::Path;

use safetensors::Dtype;
use serde_json::{Value, json};

use crate::fixtures::save;
use crate::weights::Tensor;

pub(crate) const TOKENIZER: &str = include_str!("../../packaging/omlx-tiny/model/tokenizer.json");
/// The id of `<|im_end|>`.
const END: usize = 2;
/// Tokens that other parts of the template would use, which must be text here: the pieces of a script
/// hold them inside.
const MARKERS: [&str; 4] = ["<think>", "</think>", "<tool_call>", "</tool_call>"];
/// One dimension for each token of the script.
const HIDDEN: usize = 128;
pub(crate) const HEAD_DIM: usize = 32;
const CONTEXT_TOKENS: usize = 131_072;

/// What a model says.
#[derive(Debug, Clone)]
pub struct Script {
    /// For each turn of a conversation with tools, the pieces of the answer.
    turns: Vec<Vec<String>>,
    /// The answer in every later turn, and where there are no tools.
    last: Vec<String>,
}

impl Script {
    /// Pieces must differ, also between turns: each is a token.
    ///
    /// # Panics
    /// When two pieces are the same, or there are too many.
    pub fn new(turns: &[&[&str]], last: &[&str]) -> Self {
        let owned = |pieces: &[&str]| pieces.iter().map(|piece| (*piece).to_owned()).collect();
        let script =
            Script { turns: turns.iter().map(|turn| owned(turn)).collect(), last: owned(last) };
        let mut pieces: Vec<&String> = script.answers().flatten().collect();
        let count = pieces.len();
        assert!(count + script.turns.len() + 1 < HIDDEN, "{count} pieces are too many");
        pieces.sort();
        pieces.dedup();
        assert_eq!(pieces.len(), count, "each piece of a script must be unique");
        script
    }

    /// The text of a call in the format of the script's template.
    pub fn call(name: &str, arguments: &Value) -> String {
        let object = spaced(&json!({"name": name, "arguments": arguments}));
        format!("<tool_call>\n{object}\n</tool_call>")
    }

    fn answers(&self) -> impl Iterator<Item = &Vec<String>> {
        self.turns.iter().chain([&self.last])
    }

    /// The marker of a turn, the last one's for `turns.len()`.
    fn marker(turn: usize) -> String {
        format!("<|turn_{turn}|>")
    }

    /// Writes the model folder `dir`.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let (tokenizer, next) = self.tokenizer();
        let vocabulary = tokenizer.1;
        fs::write(dir.join("config.json"), config(vocabulary).to_string())?;
        fs::write(dir.join("tokenizer.json"), tokenizer.0.to_string())?;
        let tokenizer_config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": false,
            "eos_token": "<|im_end|>", "chat_template": self.template(),
        });
        fs::write(dir.join("tokenizer_config.json"), tokenizer_config.to_string())?;
        fs::write(dir.join("generation_config.json"), json!({"eos_token_id": END}).to_string())?;
        save(&dir.join("model.safetensors"), tensors(vocabulary, &next).iter())
    }

    /// The tokenizer with its size, and the pairs of tokens that follow each other.
    fn tokenizer(&self) -> ((Value, usize), Vec<(usize, usize)>) {
        let mut tokenizer: Value = serde_json::from_str(TOKENIZER).expect("omlx-tiny's tokenizer");
        let added = tokenizer["added_tokens"].as_array_mut().expect("a list");
        // Ids have no gaps: what goes leaves a token that no text holds.
        for token in added.iter_mut() {
            if MARKERS.iter().any(|marker| token["content"] == *marker) {
                token["content"] = json!(format!("<|unused_{}|>", token["id"]));
            }
        }
        let mut id = added.iter().filter_map(|token| token["id"].as_u64()).max().expect("tokens");
        let mut add = |content: &str, special: bool| {
            id += 1;
            added.push(json!({"id": id, "content": content, "special": special, "lstrip": false,
                              "normalized": false, "rstrip": false, "single_word": false}));
            id as usize
        };
        let mut next = Vec::new();
        for (turn, pieces) in self.answers().enumerate() {
            let mut before = add(&Self::marker(turn), true);
            for piece in pieces {
                let token = add(piece, false);
                next.push((before, token));
                before = token;
            }
            next.push((before, END));
        }
        ((tokenizer, id as usize + 1), next)
    }

    /// ChatML with tools, thoughts and calls as Qwen writes them, and a marker for each turn.
    fn template(&self) -> String {
        let (turns, last) = (self.turns.len(), Self::marker(self.turns.len()));
        let marker = format!(
            "{{{{- '<|turn_' ~ turn.n ~ '|>' if tools and turn.n < {turns} else '{last}' -}}}}"
        );
        format!(
            r#"
{{%- set turn = namespace(n=0) -%}}
{{%- if tools -%}}
    {{{{- '<|im_start|>system\nTools:\n' -}}}}
    {{%- for tool in tools -%}}{{{{- tool | tojson + '\n' -}}}}{{%- endfor -%}}
    {{{{- 'Call with <tool_call>\n{{"name": NAME, "arguments": OBJECT}}\n</tool_call><|im_end|>\n' -}}}}
{{%- endif -%}}
{{%- for message in messages -%}}
    {{%- if message.role == 'assistant' -%}}
        {{{{- '<|im_start|>assistant\n' -}}}}{marker}
        {{%- if message.reasoning_content -%}}
            {{{{- '<think>\n' + message.reasoning_content + '\n</think>\n\n' -}}}}
        {{%- endif -%}}
        {{{{- message.content -}}}}
        {{%- for call in message.tool_calls or [] -%}}
            {{%- if message.content or not loop.first -%}}{{{{- '\n' -}}}}{{%- endif -%}}
            {{{{- '<tool_call>\n{{"name": ' + call.function.name | tojson + ', "arguments": ' -}}}}
            {{{{- call.function.arguments | tojson + '}}\n</tool_call>' -}}}}
        {{%- endfor -%}}
        {{{{- '<|im_end|>\n' -}}}}
        {{%- set turn.n = turn.n + 1 -%}}
    {{%- else -%}}
        {{{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' -}}}}
    {{%- endif -%}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}
    {{{{- '<|im_start|>assistant\n' -}}}}{marker}
{{%- endif -%}}"#
        )
    }
}

/// JSON as the template's `tojson` writes it: with a space after every comma and colon.
fn spaced(value: &Value) -> String {
    let list = |items: Vec<String>| items.join(", ");
    match value {
        Value::Object(map) => {
            let member =
                |(key, value): (&String, &Value)| format!("{}: {}", json!(key), spaced(value));
            format!("{{{}}}", list(map.iter().map(member).collect()))
        }
        Value::Array(items) => format!("[{}]", list(items.iter().map(spaced).collect())),
        other => other.to_string(),
    }
}

pub(crate) fn config(vocabulary: usize) -> Value {
    json!({
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "vocab_size": vocabulary,
        "hidden_size": HIDDEN, "intermediate_size": HEAD_DIM, "num_hidden_layers": 1,
        "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": HEAD_DIM,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": false,
        "max_position_embeddings": CONTEXT_TOKENS, "torch_dtype": "float32", "eos_token_id": END,
    })
}

/// Weights that follow the pairs in `next`.
fn tensors(vocabulary: usize, next: &[(usize, usize)]) -> Vec<Tensor> {
    let tensor = |name: &str, shape: &[usize], values: Vec<f32>| Tensor {
        name: name.to_owned(),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        bytes: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    };
    let constant = |name: &str, shape: &[usize], value: f32| {
        tensor(name, shape, vec![value; shape.iter().product()])
    };
    let mut embedding = vec![0.0; vocabulary * HIDDEN];
    let mut head = vec![0.0; vocabulary * HIDDEN];
    // Dimension 0 is that of every token which is not in the script; the answer ends there.
    embedding.iter_mut().step_by(HIDDEN).for_each(|value| *value = 1.0);
    head[END * HIDDEN] = 10.0;
    for (dimension, (token, following)) in next.iter().enumerate().map(|(n, pair)| (n + 1, pair)) {
        embedding[token * HIDDEN] = 0.0;
        embedding[token * HIDDEN + dimension] = 1.0;
        head[following * HIDDEN + dimension] = 10.0;
    }
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let mut tensors = vec![
        tensor("model.embed_tokens.weight", &[vocabulary, HIDDEN], embedding),
        tensor("lm_head.weight", &[vocabulary, HIDDEN], head),
        constant("model.norm.weight", &[HIDDEN], 1.0),
    ];
    for name in ["input_layernorm", "post_attention_layernorm"] {
        tensors.push(constant(&layer(name), &[HIDDEN], 1.0));
    }
    for name in ["self_attn.q_norm", "self_attn.k_norm"] {
        tensors.push(constant(&layer(name), &[HEAD_DIM], 1.0));
    }
    for name in ["q_proj", "k_proj", "v_proj"] {
        tensors.push(constant(&layer(&format!("self_attn.{name}")), &[HEAD_DIM, HIDDEN], 0.0));
    }
    tensors.push(constant(&layer("self_attn.o_proj"), &[HIDDEN, HEAD_DIM], 0.0));
    for name in ["mlp.gate_proj", "mlp.up_proj"] {
        tensors.push(constant(&layer(name), &[HEAD_DIM, HIDDEN], 0.0));
    }
    tensors.push(constant(&layer("mlp.down_proj"), &[HIDDEN, HEAD_DIM], 0.0));
    tensors
}
