//! Qwen3 with experts. Source: config keys and weight names as published for `model_type =
//! "qwen3_moe"`. The same as qwen3, but the feed-forward of most layers has experts.

use crate::error::Result;
use serde::Deserialize;

use crate::error::LoadError;
use crate::mlx::rope::Rope;
use crate::models::forward::CausalLm;
use crate::models::llama::Shape;
use crate::models::moe::MoeShape;
use crate::weights::Weights;
use crate::weights::config::ConfigFile;

/// The config.json keys that this family reads.
#[derive(Debug, Deserialize)]
struct Config {
    hidden_size: i32,
    num_hidden_layers: i32,
    intermediate_size: i32,
    moe_intermediate_size: i32,
    num_experts: Option<i32>,
    /// The newer name of the same key.
    num_local_experts: Option<i32>,
    num_experts_per_tok: i32,
    norm_topk_prob: bool,
    #[serde(default = "every_layer")]
    decoder_sparse_step: i32,
    #[serde(default)]
    mlp_only_layers: Vec<i32>,
    num_attention_heads: i32,
    num_key_value_heads: i32,
    head_dim: Option<i32>,
    rms_norm_eps: f32,
    vocab_size: i32,
    max_position_embeddings: usize,
    tie_word_embeddings: Option<bool>,
}

fn every_layer() -> i32 {
    1
}

/// Loads a Qwen3 model with experts.
pub(crate) fn load(
    file: &ConfigFile<'_>,
    weights: &mut Weights,
) -> Result<Box<dyn CausalLm>, LoadError> {
    let config: Config = file.parse()?;
    let theta = file.rope_theta()?.ok_or_else(|| file.invalid("\"rope_theta\" is absent"))?;
    let heads = config.num_attention_heads;
    let head_dim = config.head_dim.unwrap_or(config.hidden_size / heads.max(1));
    let positions = config.max_position_embeddings;
    let rope = Rope::new(head_dim, theta, false, file.rope_scaling(), positions);
    let shape = Shape {
        hidden: config.hidden_size,
        layers: config.num_hidden_layers,
        heads,
        kv_heads: config.num_key_value_heads,
        head_dim,
        intermediate: config.intermediate_size,
        vocab: config.vocab_size,
        rms_norm_eps: config.rms_norm_eps,
        tied_embeddings: config.tie_word_embeddings,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: true,
        windows: Vec::new(),
        experts: experts(file, &config)?,
    };
    shape.load(file, weights, rope.map_err(|what| file.invalid(what))?)
}

/// The layers with experts: every `decoder_sparse_step`-th, except the `mlp_only_layers`.
fn experts(file: &ConfigFile<'_>, config: &Config) -> Result<Vec<Option<MoeShape>>, LoadError> {
    file.check_layers(config.num_hidden_layers)?;
    file.check_sizes(&[("decoder_sparse_step", config.decoder_sparse_step)])?;
    let experts = config.num_experts.or(config.num_local_experts);
    let experts = experts.ok_or_else(|| file.invalid("\"num_experts\" is absent"))?;
    let moe = MoeShape {
        experts,
        used: config.num_experts_per_tok,
        intermediate: config.moe_intermediate_size,
        normalized: config.norm_topk_prob,
        shared: None,
    };
    moe.check(file)?;
    let is_sparse = |layer: &i32| {
        !config.mlp_only_layers.contains(layer) && (layer + 1) % config.decoder_sparse_step == 0
    };
    Ok((0..config.num_hidden_layers).map(|layer| is_sparse(&layer).then_some(moe)).collect())
}
