//! A model that greedily writes exactly the texts that a test wrote down, through the real engine,
//! tokenizer, template and parser: how a model errs can so be replayed without a model that errs.
//!
//! Any chat template may be used, and any tokens of its format; texts may repeat themselves. What is to
//! be written is told by a word in the prompt, [`Scripted::answer`]'s result. Between any two tokens of
//! an answer the model writes a *step*, a special token of its own, which has no text. A step says which
//! token follows it. After any other token the next step follows, and which one that is tells the only
//! layer: its attention looks at all tokens alike, so that it counts the steps so far. (Where the
//! engine holds an answer to a grammar, steps are not allowed; there [`crate::script`] helps.)

use std::fs;
use std::io;
use std::path::Path;

use safetensors::Dtype;
use serde_json::{Value, json};

use crate::fixtures::save;
use crate::script;
use crate::weights::Tensor;

/// The id of `<|im_end|>`.
const END: u32 = 2;
/// Tokens of the tokenizer that only some formats have.
const MARKERS: [&str; 4] = ["<think>", "</think>", "<tool_call>", "</tool_call>"];
/// How much of the steps so far reaches the last matrix. A count must stay under one.
const SEEN: f32 = 0.01;
/// How strongly a step calls for its token, another token for the next step; and how strongly other
/// tokens keep from following each other.
const TOKEN: f32 = 100.0;
const STEP: f32 = 10.0;
const APART: f32 = 10_000.0;

/// What a model writes.
#[derive(Debug, Clone)]
pub struct Scripted {
    template: String,
    tokenizer: Value,
    /// Tokens of the tokenizer without steps.
    tokens: usize,
    answers: Vec<Vec<u32>>,
}

impl Scripted {
    /// A model with this chat template, whose vocabulary has these tokens beside ordinary text.
    ///
    /// # Panics
    /// When the tokenizer of the tests is damaged.
    pub fn new(template: &str, tokens: &[&str]) -> Self {
        let mut tokenizer: Value = serde_json::from_str(script::TOKENIZER).expect("a tokenizer");
        let added = tokenizer["added_tokens"].as_array_mut().expect("a list");
        // Ids have no gaps: what goes leaves a token that no text holds.
        for token in added.iter_mut() {
            let is = |marker: &&str| token["content"] == **marker;
            if MARKERS.iter().any(is) && !tokens.iter().any(is) {
                token["content"] = json!(format!("<|unused_{}|>", token["id"]));
            }
        }
        let known = added.clone();
        for token in tokens.iter().filter(|token| known.iter().all(|k| k["content"] != **token)) {
            add(&mut tokenizer, token, false);
        }
        let tokens = next_id(&tokenizer);
        Self { template: template.to_owned(), tokenizer, tokens, answers: Vec::new() }
    }

    /// The text of tokenizer.json, with which answers are taken apart.
    pub fn tokenizer(&self) -> String {
        self.tokenizer.to_string()
    }

    /// Adds an answer, as tokens of [`Scripted::tokenizer`], and gives the word that the prompt for
    /// it holds.
    pub fn answer(&mut self, tokens: &[u32]) -> String {
        self.answers.push([tokens, &[END]].concat());
        word(self.answers.len() - 1)
    }

    /// Writes the model folder `dir`.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let mut tokenizer = self.tokenizer.clone();
        for (number, answer) in self.answers.iter().enumerate() {
            add(&mut tokenizer, &word(number), false);
            for step in 0..answer.len() {
                add(&mut tokenizer, &format!("<|step_{number}_{step}|>"), true);
            }
        }
        let vocabulary = next_id(&tokenizer);
        // One dimension for all ordinary tokens, and one for each of the others.
        let hidden = (vocabulary - self.tokens + 1).next_multiple_of(8);
        let mut config = script::config(vocabulary);
        for name in ["hidden_size", "head_dim"] {
            config[name] = json!(hidden);
        }
        fs::write(dir.join("config.json"), config.to_string())?;
        fs::write(dir.join("tokenizer.json"), tokenizer.to_string())?;
        let tokenizer_config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": false,
            "eos_token": "<|im_end|>", "chat_template": self.template,
        });
        fs::write(dir.join("tokenizer_config.json"), tokenizer_config.to_string())?;
        fs::write(dir.join("generation_config.json"), json!({"eos_token_id": END}).to_string())?;
        save(&dir.join("model.safetensors"), self.tensors(vocabulary, hidden).iter())
    }

    /// Weights that write the answers.
    fn tensors(&self, vocabulary: usize, hidden: usize) -> Vec<Tensor> {
        let mut embedding = vec![0.0; vocabulary * hidden];
        let mut head = vec![0.0; vocabulary * hidden];
        for token in 0..self.tokens {
            embedding[token * hidden] = 1.0;
        }
        let mut id = self.tokens;
        let dimension = |id: usize| id - self.tokens + 1;
        for answer in &self.answers {
            // The word is an ordinary token besides.
            embedding[id * hidden] = 1.0;
            embedding[id * hidden + dimension(id)] = 1.0;
            for &token in answer {
                let (before, step) = (dimension(id), id + 1);
                head[step * hidden + before] = STEP;
                head[step * hidden + before + 1] = -STEP;
                embedding[step * hidden + before + 1] = 1.0;
                head[token as usize * hidden + before + 1] = TOKEN;
                head[token as usize * hidden] = -APART;
                id = step;
            }
            id += 1;
        }
        // All but the first dimension goes through the attention.
        let diagonal = |value: f32| {
            let mut matrix = vec![0.0; hidden * hidden];
            (1..hidden).for_each(|n| matrix[n * hidden + n] = value);
            matrix
        };
        let layer = |name: &str| format!("model.layers.0.{name}.weight");
        let square = [hidden, hidden];
        let narrow = script::HEAD_DIM;
        let mut tensors = vec![
            tensor("model.embed_tokens.weight", &[vocabulary, hidden], embedding),
            tensor("lm_head.weight", &[vocabulary, hidden], head),
            tensor("model.norm.weight", &[hidden], vec![1.0; hidden]),
            tensor(&layer("self_attn.v_proj"), &square, diagonal(1.0)),
            tensor(&layer("self_attn.o_proj"), &square, diagonal(SEEN)),
            tensor(&layer("mlp.down_proj"), &[hidden, narrow], vec![0.0; hidden * narrow]),
        ];
        for name in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push(tensor(&layer(name), &[hidden], vec![1.0; hidden]));
        }
        for name in ["self_attn.q_norm", "self_attn.k_norm"] {
            tensors.push(tensor(&layer(name), &[hidden], vec![1.0; hidden]));
        }
        for name in ["self_attn.q_proj", "self_attn.k_proj"] {
            tensors.push(tensor(&layer(name), &square, vec![0.0; hidden * hidden]));
        }
        for name in ["mlp.gate_proj", "mlp.up_proj"] {
            tensors.push(tensor(&layer(name), &[narrow, hidden], vec![0.0; hidden * narrow]));
        }
        tensors
    }
}

/// What a prompt for an answer holds.
fn word(number: usize) -> String {
    format!("<|answer_{number}|>")
}

/// The id of the next token that is added.
fn next_id(tokenizer: &Value) -> usize {
    let added = tokenizer["added_tokens"].as_array().expect("a list");
    let ids = added.iter().filter_map(|token| token["id"].as_u64());
    ids.max().expect("tokens") as usize + 1
}

fn add(tokenizer: &mut Value, content: &str, special: bool) {
    let id = next_id(tokenizer);
    let added = tokenizer["added_tokens"].as_array_mut().expect("a list");
    added.push(json!({"id": id, "content": content, "special": special, "lstrip": false,
                      "normalized": false, "rstrip": false, "single_word": false}));
}

fn tensor(name: &str, shape: &[usize], values: Vec<f32>) -> Tensor {
    Tensor {
        name: name.to_owned(),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        bytes: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}
