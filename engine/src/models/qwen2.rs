//! Qwen2 and Qwen2.5, dense. Source: config keys and weight names as published for `model_type =
//! "qwen2"`. The same as llama, with biases on queries, keys and values.

use crate::error::Result;
use serde::Deserialize;

use crate::error::LoadError;
use crate::mlx::rope::Rope;
use crate::models::forward::CausalLm;
use crate::models::llama::Shape;
use crate::weights::Weights;
use crate::weights::config::ConfigFile;

/// The config.json keys that this family reads.
#[derive(Debug, Deserialize)]
struct Config {
    hidden_size: i32,
    num_hidden_layers: i32,
    intermediate_size: i32,
    num_attention_heads: i32,
    num_key_value_heads: i32,
    rms_norm_eps: f32,
    vocab_size: i32,
    #[serde(default = "default_positions")]
    max_position_embeddings: usize,
    #[serde(default)]
    rope_traditional: bool,
    tie_word_embeddings: Option<bool>,
}

fn default_positions() -> usize {
    32_768
}

/// Loads a Qwen2 model.
pub(crate) fn load(
    file: &ConfigFile<'_>,
    weights: &mut Weights,
) -> Result<Box<dyn CausalLm>, LoadError> {
    let config: Config = file.parse()?;
    let head_dim = config.hidden_size / config.num_attention_heads.max(1);
    let rope = Rope::new(
        head_dim,
        file.rope_theta()?.unwrap_or(1_000_000.0),
        config.rope_traditional,
        file.rope_scaling(),
        config.max_position_embeddings,
    );
    let shape = Shape {
        hidden: config.hidden_size,
        layers: config.num_hidden_layers,
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads,
        head_dim,
        intermediate: config.intermediate_size,
        vocab: config.vocab_size,
        rms_norm_eps: config.rms_norm_eps,
        tied_embeddings: config.tie_word_embeddings,
        qkv_bias: true,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        windows: Vec::new(),
        experts: Vec::new(),
    };
    shape.load(file, weights, rope.map_err(|what| file.invalid(what))?)
}
