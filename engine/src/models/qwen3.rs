//! Qwen3, dense. Source: config keys and weight names as published for `model_type = "qwen3"`. The
//! same as llama, with RMS norms on the heads of queries and keys, and without biases.

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
    head_dim: i32,
    rms_norm_eps: f32,
    vocab_size: i32,
    max_position_embeddings: usize,
    tie_word_embeddings: Option<bool>,
}

/// Loads a Qwen3 model.
pub(crate) fn load(
    file: &ConfigFile<'_>,
    weights: &mut Weights,
) -> Result<Box<dyn CausalLm>, LoadError> {
    let config: Config = file.parse()?;
    let theta = file.rope_theta()?.ok_or_else(|| file.invalid("\"rope_theta\" is absent"))?;
    let rope = Rope::new(
        config.head_dim,
        theta,
        false,
        file.rope_scaling(),
        config.max_position_embeddings,
    );
    let shape = Shape {
        hidden: config.hidden_size,
        layers: config.num_hidden_layers,
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        intermediate: config.intermediate_size,
        vocab: config.vocab_size,
        rms_norm_eps: config.rms_norm_eps,
        tied_embeddings: config.tie_word_embeddings,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: true,
        windows: Vec::new(),
        experts: Vec::new(),
    };
    shape.load(file, weights, rope.map_err(|what| file.invalid(what))?)
}
