//! Qwen3.5 and 3.6, the text model, dense or with experts. Source: config keys and weight names as
//! published for `model_type = "qwen3_5"` and `"qwen3_5_moe"`.
//!
//! Most layers are gated delta nets (a short convolution, then the rule of `gated_delta.rs`).
//! Usually every fourth layer is attention with an output gate and rotary positions on a part of
//! each head. Vision and multi-token prediction weights are ignored.

use std::rc::Rc;

use mlx_rs::Array;
use mlx_rs::ops::{multiply, sigmoid};
use serde::Deserialize;

use crate::error::{LoadError, Result};
use crate::kv::slots::SlotSpec;
use crate::limits;
use crate::mlx::attention::Sdpa;
use crate::mlx::bridge::slice;
use crate::mlx::rope::Rope;
use crate::models::decoder::{Block, Decoder, DecoderShape};
use crate::models::delta_net::{DeltaNet, DeltaShape};
use crate::models::forward::{CausalLm, Forward};
use crate::models::moe::{FeedForward, MoeShape};
use crate::models::nn::{GatedMlp, Linear, LinearGroup, RmsNorm, silu};
use crate::weights::Weights;
use crate::weights::config::ConfigFile;
use crate::weights::text_model::root;

/// The config.json keys that this family reads.
#[derive(Debug, Deserialize)]
struct Config {
    hidden_size: i32,
    num_hidden_layers: i32,
    intermediate_size: Option<i32>,
    num_attention_heads: i32,
    num_key_value_heads: i32,
    head_dim: Option<i32>,
    rms_norm_eps: f32,
    vocab_size: i32,
    max_position_embeddings: usize,
    tie_word_embeddings: Option<bool>,
    #[serde(default)]
    attention_bias: bool,
    linear_num_value_heads: i32,
    linear_num_key_heads: i32,
    linear_key_head_dim: i32,
    linear_value_head_dim: i32,
    linear_conv_kernel_dim: i32,
    layer_types: Option<Vec<LayerType>>,
    #[serde(default = "every_fourth")]
    full_attention_interval: i32,
    num_experts: Option<i32>,
    num_local_experts: Option<i32>,
    num_experts_per_tok: Option<i32>,
    moe_intermediate_size: Option<i32>,
    shared_expert_intermediate_size: Option<i32>,
    #[serde(default = "yes")]
    norm_topk_prob: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LayerType {
    LinearAttention,
    FullAttention,
}

fn every_fourth() -> i32 {
    4
}

fn yes() -> bool {
    true
}

impl Config {
    fn check(&self, file: &ConfigFile<'_>) -> Result<(), LoadError> {
        file.check_layers(self.num_hidden_layers)?;
        file.check_sizes(&[
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size.unwrap_or(1)),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim()),
            ("vocab_size", self.vocab_size),
            ("full_attention_interval", self.full_attention_interval),
        ])?;
        self.delta_shape().check(file)?;
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        if heads % kv_heads != 0 {
            return Err(file.invalid(format!(
                "\"num_attention_heads\" {heads} is not a multiple of \"num_key_value_heads\" \
                 {kv_heads}"
            )));
        }
        if i64::from(heads) * i64::from(self.head_dim()) > i64::from(limits::CONFIG_SIZE) {
            return Err(file.invalid("\"num_attention_heads\" x \"head_dim\" is too large"));
        }
        match &self.layer_types {
            Some(types) if types.len() != self.num_hidden_layers as usize => {
                Err(file.invalid(format!(
                    "\"layer_types\" has {} entries for {} layers",
                    types.len(),
                    self.num_hidden_layers
                )))
            }
            _ => Ok(()),
        }
    }

    fn head_dim(&self) -> i32 {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    fn delta_shape(&self) -> DeltaShape {
        DeltaShape {
            hidden: self.hidden_size,
            kernel: self.linear_conv_kernel_dim,
            key_heads: self.linear_num_key_heads,
            heads: self.linear_num_value_heads,
            key_dim: self.linear_key_head_dim,
            value_dim: self.linear_value_head_dim,
            rms_norm_eps: self.rms_norm_eps,
        }
    }

    fn layer_type(&self, layer: i32) -> LayerType {
        match &self.layer_types {
            Some(types) => types[layer as usize],
            None if (layer + 1) % self.full_attention_interval == 0 => LayerType::FullAttention,
            None => LayerType::LinearAttention,
        }
    }

    fn experts(&self, file: &ConfigFile<'_>) -> Result<Option<MoeShape>, LoadError> {
        let Some(experts) = self.num_experts.or(self.num_local_experts).filter(|&n| n != 0) else {
            return Ok(None);
        };
        let given = |name: &str, value: Option<i32>| {
            value.ok_or_else(|| file.invalid(format!("\"{name}\" is absent")))
        };
        let shared = self.shared_expert_intermediate_size;
        let shape = MoeShape {
            experts,
            used: given("num_experts_per_tok", self.num_experts_per_tok)?,
            intermediate: given("moe_intermediate_size", self.moe_intermediate_size)?,
            normalized: self.norm_topk_prob,
            shared: Some(given("shared_expert_intermediate_size", shared)?),
        };
        shape.check(file)?;
        Ok(Some(shape))
    }

    fn rope(&self, file: &ConfigFile<'_>) -> Result<Rope, LoadError> {
        let part = file.rope_number("partial_rotary_factor")?.unwrap_or(0.25);
        if !(0.0..=1.0).contains(&part) {
            return Err(file.invalid(format!("\"partial_rotary_factor\" is {part}")));
        }
        let dims = (f64::from(self.head_dim()) * part) as i32;
        let theta = file.rope_theta()?.unwrap_or(100_000.0);
        let positions = self.max_position_embeddings;
        let rope = Rope::new(dims, theta, false, file.rope_scaling(), positions);
        rope.map_err(|what| file.invalid(what))
    }
}

/// The inputs for loading a layer.
struct Source<'a> {
    file: &'a ConfigFile<'a>,
    config: &'a Config,
    experts: Option<MoeShape>,
    rope: Rc<Rope>,
    /// Published checkpoints store a convolution as [channels, 1, kernel] and norms as the weight
    /// minus 1; mlx-lm's conversions store [channels, kernel, 1] and the weight itself.
    as_published: bool,
}

impl Source<'_> {
    fn norm(&self, weights: &mut Weights, path: &str, dims: i32) -> Result<RmsNorm, LoadError> {
        let load = if self.as_published { RmsNorm::load_from_one } else { RmsNorm::load };
        load(weights, path, dims, self.config.rms_norm_eps)
    }
}

/// Loads a Qwen3.5 text model.
pub(crate) fn load(
    file: &ConfigFile<'_>,
    weights: &mut Weights,
) -> Result<Box<dyn CausalLm>, LoadError> {
    let config: Config = file.parse()?;
    config.check(file)?;
    let root = root(weights);
    let as_published = (0..config.num_hidden_layers).any(|layer| {
        let name = format!("{root}.layers.{layer}.linear_attn.conv1d.weight");
        weights.shape_of(&name).is_some_and(|shape| shape.last() != Some(&1))
    });
    let (experts, rope) = (config.experts(file)?, Rc::new(config.rope(file)?));
    let source = Source { file, config: &config, experts, rope, as_published };
    let shape = DecoderShape {
        vocab: config.vocab_size,
        hidden: config.hidden_size,
        layers: config.num_hidden_layers,
        tied_embeddings: config.tie_word_embeddings,
        embed_scale: None,
        logit_softcap: None,
    };
    let norm = |weights: &mut Weights, path: &str| source.norm(weights, path, config.hidden_size);
    Decoder::load(weights, shape, norm, |weights, path, layer| {
        Qwen35Block::load(weights, &source, path, layer)
    })
}

/// Grouped-query attention with an output gate.
#[derive(Debug)]
struct Attention {
    /// Each head's query is followed by its gate.
    qkv: LinearGroup,
    o_proj: Linear,
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    rope: Rc<Rope>,
    sdpa: Sdpa,
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
}

impl Attention {
    fn load(weights: &mut Weights, source: &Source<'_>, path: &str) -> Result<Self, LoadError> {
        let config = source.config;
        let (hidden, head_dim) = (config.hidden_size, config.head_dim());
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let rows = [2 * heads * head_dim, kv_heads * head_dim];
        let (bias, output) = (config.attention_bias, [hidden, heads * head_dim]);
        Ok(Self {
            q_norm: source.norm(weights, &format!("{path}.q_norm"), head_dim)?,
            k_norm: source.norm(weights, &format!("{path}.k_norm"), head_dim)?,
            qkv: LinearGroup::load_qkv(weights, path, rows, hidden, bias)?,
            o_proj: Linear::load(weights, &format!("{path}.o_proj"), output, bias)?,
            rope: Rc::clone(&source.rope),
            sdpa: Sdpa { scale: 1.0 / (head_dim as f32).sqrt(), window: None },
            heads,
            kv_heads,
            head_dim,
        })
    }

    /// x: [1, T, hidden]. Returns the kept tokens, [1, R, hidden].
    fn forward(&self, x: &Array, slot: usize, step: &mut Forward<'_>) -> Result<Option<Array>> {
        let (length, heads, dim) = (x.shape()[1], self.heads, self.head_dim);
        let parts = self.qkv.forward(x, step.decodes_only())?;
        let [q, k, v] = &parts[..] else { unreachable!("three parts were loaded") };
        let both = q.reshape(&[1, length, heads, 2 * dim])?;
        let q = slice(&both, &[0; 4], &[1, length, heads, dim])?;
        let gate = slice(&both, &[0, 0, 0, dim], &[1, length, heads, 2 * dim])?;
        let gate = gate.reshape(&[1, length, heads * dim])?;

        let split = |x: &Array| x.reshape(&[1, length, self.kv_heads, dim]);
        let q = step.rotate(&self.rope, &self.q_norm.forward(&q)?)?;
        let k = step.rotate(&self.rope, &self.k_norm.forward(&split(k)?)?)?;
        let v = step.heads(&split(v)?)?;
        let attended = step.attend(slot, self.sdpa, [q, k, v])?;
        let (Some(attended), Some(gate)) = (attended, step.kept(&gate)?) else { return Ok(None) };
        let gated = multiply(attended, sigmoid(gate)?)?; // [1, R, heads * dim]
        self.o_proj.forward(&gated).map(Some)
    }
}

/// The mixer of a block.
#[derive(Debug)]
enum Mixer {
    Delta(Box<DeltaNet>),
    Attention(Box<Attention>),
}

#[derive(Debug)]
struct Qwen35Block {
    input_layernorm: RmsNorm,
    mixer: Mixer,
    post_attention_layernorm: RmsNorm,
    mlp: FeedForward,
}

impl Qwen35Block {
    fn load(
        weights: &mut Weights,
        source: &Source<'_>,
        path: &str,
        layer: i32,
    ) -> Result<Self, LoadError> {
        let Source { file, config, experts, as_published, .. } = *source;
        let hidden = config.hidden_size;
        let mlp = format!("{path}.mlp");
        Ok(Self {
            input_layernorm: source.norm(weights, &format!("{path}.input_layernorm"), hidden)?,
            mixer: match config.layer_type(layer) {
                LayerType::LinearAttention => {
                    let (path, shape) = (format!("{path}.linear_attn"), config.delta_shape());
                    Mixer::Delta(Box::new(DeltaNet::load(weights, &path, shape, as_published)?))
                }
                LayerType::FullAttention => {
                    let path = format!("{path}.self_attn");
                    Mixer::Attention(Box::new(Attention::load(weights, source, &path)?))
                }
            },
            post_attention_layernorm: source.norm(
                weights,
                &format!("{path}.post_attention_layernorm"),
                hidden,
            )?,
            mlp: match (experts, config.intermediate_size) {
                (Some(experts), _) => FeedForward::experts(weights, &mlp, hidden, experts)?,
                (None, Some(inner)) => {
                    let sizes = [hidden, inner];
                    FeedForward::Dense(GatedMlp::load(weights, &mlp, sizes, false, silu)?)
                }
                (None, None) => return Err(file.invalid("\"intermediate_size\" is absent")),
            },
        })
    }
}

impl Block for Qwen35Block {
    fn slot(&self) -> Option<SlotSpec> {
        Some(match &self.mixer {
            Mixer::Delta(_) => SlotSpec::State,
            Mixer::Attention(attention) => SlotSpec::Kv { window: attention.sdpa.window },
        })
    }

    fn mix(&self, x: &Array, slot: usize, step: &mut Forward<'_>) -> Result<Option<Array>> {
        let normed = self.input_layernorm.forward(x)?;
        match &self.mixer {
            Mixer::Delta(delta) => delta.forward(&normed, slot, step),
            Mixer::Attention(attention) => attention.forward(&normed, slot, step),
        }
    }

    fn feed(&self, x: &Array, mixed: &Array) -> Result<Array> {
        let h = x.add(mixed)?;
        h.add(self.mlp.forward(&self.post_attention_layernorm.forward(&h)?)?)
    }
}
