//! Llama 2 and 3, and Mistral. Source: config keys and weight names as published for
//! `model_type = "llama"` and `"mistral"`.

use crate::error::Result;
use serde::Deserialize;

use super::dense::{Dense, Shape};
use super::{Architecture, ConfigFile};
use crate::error::LoadError;
use crate::mlx::rope::Rope;
use crate::weights::Weights;

/// The keys of config.json that matter here.
#[derive(Debug, Deserialize)]
struct Config {
    hidden_size: i32,
    num_hidden_layers: i32,
    intermediate_size: i32,
    num_attention_heads: i32,
    num_key_value_heads: Option<i32>,
    head_dim: Option<i32>,
    rms_norm_eps: f32,
    vocab_size: i32,
    max_position_embeddings: Option<usize>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    rope_traditional: bool,
    tie_word_embeddings: Option<bool>,
    layer_types: Option<Vec<LayerType>>,
    sliding_window: Option<i32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LayerType {
    FullAttention,
    SlidingAttention,
}

/// Loads a Llama or Mistral model.
pub(crate) fn load(
    file: &ConfigFile<'_>,
    weights: &mut Weights,
) -> Result<Box<dyn Architecture>, LoadError> {
    let config: Config = file.parse()?;
    let heads = config.num_attention_heads;
    let head_dim = config.head_dim.unwrap_or(config.hidden_size / heads.max(1));
    let rope = Rope::new(
        head_dim,
        file.rope_theta()?.unwrap_or(10_000.0),
        config.rope_traditional,
        file.rope_scaling(),
        config.max_position_embeddings.unwrap_or(2048),
    );
    let windows = windows(&config).map_err(|what| file.invalid(what))?;
    let shape = Shape {
        hidden: config.hidden_size,
        layers: config.num_hidden_layers,
        heads,
        kv_heads: config.num_key_value_heads.unwrap_or(heads),
        head_dim,
        intermediate: config.intermediate_size,
        vocab: config.vocab_size,
        rms_norm_eps: config.rms_norm_eps,
        tied_embeddings: config.tie_word_embeddings,
        qkv_bias: config.attention_bias,
        output_bias: config.attention_bias,
        mlp_bias: config.mlp_bias,
        qk_norm: false,
        windows,
        experts: Vec::new(),
    };
    Dense::load(file, weights, shape, rope.map_err(|what| file.invalid(what))?)
}

/// Which layers see only `sliding_window` tokens back: those that `layer_types` says.
fn windows(config: &Config) -> Result<Vec<Option<i32>>, String> {
    let Some(types) = &config.layer_types else { return Ok(Vec::new()) };
    let window = |layer: &LayerType| match (layer, config.sliding_window) {
        (LayerType::FullAttention, _) => Ok(None),
        (LayerType::SlidingAttention, Some(window)) if window > 0 => Ok(Some(window)),
        (LayerType::SlidingAttention, window) => {
            Err(format!("\"sliding_window\" is {window:?}, and \"layer_types\" asks for one"))
        }
    };
    types.iter().map(window).collect()
}
