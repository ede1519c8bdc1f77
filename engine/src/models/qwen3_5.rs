//! Qwen3.5 and 3.6, the text model, dense or with experts. Source: config keys and weight names as
//! published for `model_type = "qwen3_5"` and `"qwen3_5_moe"`.
//!
//! Most layers are gated delta nets (a short convolution, then the rule of `gated_delta.rs`), every
//! fourth as a rule is attention with a gate on its output and rotary positions on a part of each
//! head. Vision and multi-token prediction weights are left alone.

use crate::error::Result;
use crate::mlx::attention::Attend;
use mlx_rs::Array;
use mlx_rs::ops::{multiply, sigmoid};
use serde::Deserialize;

use super::delta_net::{DeltaNet, DeltaShape};
use super::moe::{FeedForward, MoeShape};
use super::{Architecture, ConfigFile, head_path, root};
use crate::error::LoadError;
use crate::kv::slots::LayerKind;
use crate::limits;
use crate::mlx::bridge::{metal_is_available, slice};
use crate::mlx::rope::Rope;
use crate::models::nn::{GatedMlp, Linear, LinearGroup, RmsNorm, Vocabulary, silu};
use crate::models::step::{Rotary, Step, take_rows};
use crate::weights::Weights;

/// The keys of config.json that matter here.
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

/// What loading needs to know beside the config.
struct Source<'a> {
    weights: &'a mut Weights,
    config: &'a Config,
    experts: Option<MoeShape>,
    /// Published checkpoints hold a convolution as [channels, 1, kernel], and norms as their distance
    /// from 1; mlx-lm's conversions have [channels, kernel, 1] and whole norms.
    as_published: bool,
}

impl Source<'_> {
    fn norm(&mut self, path: &str, dims: i32) -> Result<RmsNorm, LoadError> {
        let load = if self.as_published { RmsNorm::load_from_one } else { RmsNorm::load };
        load(self.weights, path, dims, self.config.rms_norm_eps)
    }
}

/// Loads a Qwen3.5 text model.
pub(crate) fn load(
    file: &ConfigFile<'_>,
    weights: &mut Weights,
) -> Result<Box<dyn Architecture>, LoadError> {
    let config: Config = file.parse()?;
    config.check(file)?;
    let experts = config.experts(file)?;
    let (rope, root, head) = (config.rope(file)?, root(weights), head_path(weights));
    let table = [config.vocab_size, config.hidden_size];
    let embed = format!("{root}.embed_tokens");
    let tied = config.tie_word_embeddings;
    let vocabulary = Vocabulary::load(weights, [embed.as_str(), head], table, tied)?;
    let as_published = (0..config.num_hidden_layers).any(|layer| {
        let name = format!("{root}.layers.{layer}.linear_attn.conv1d.weight");
        weights.shape_of(&name).is_some_and(|shape| shape.last() != Some(&1))
    });
    let mut source = Source { weights, config: &config, experts, as_published };
    let layer = |layer| Block::load(file, &mut source, &format!("{root}.layers.{layer}"), layer);
    Ok(Box::new(Qwen35 {
        layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_, _>>()?,
        norm: source.norm(&format!("{root}.norm"), config.hidden_size)?,
        vocabulary,
        rope,
        head_dim: config.head_dim(),
        fused_rope: metal_is_available(),
    }))
}

/// The decoder.
#[derive(Debug)]
struct Qwen35 {
    vocabulary: Vocabulary,
    layers: Vec<Block>,
    norm: RmsNorm,
    rope: Rope,
    head_dim: i32,
    fused_rope: bool,
}

impl Architecture for Qwen35 {
    fn forward(&self, tokens: &Array, step: &mut Step<'_>) -> Result<Option<Array>> {
        let mut x = self.vocabulary.embed(tokens)?; // [1, T, hidden]
        let rows = step.output_rows();
        let rotary = Rotary::new(&self.rope, step, self.head_dim, x.dtype(), self.fused_rope);
        let (last, before) = self.layers.split_last().expect("checked: at least one layer");
        for (index, layer) in before.iter().enumerate() {
            x = layer.forward(&x, step, index, &rotary, None)?.expect("all rows are kept");
        }
        let last = last.forward(&x, step, before.len(), &rotary, Some(&rows))?; // [1, R, hidden]
        step.advance();
        let Some(x) = last else { return Ok(None) };
        self.vocabulary.logits(&self.norm.forward(&x)?).map(Some) // [1, R, vocab]
    }

    fn layers(&self) -> Vec<LayerKind> {
        let kind = |layer: &Block| match &layer.mixer {
            Mixer::Delta(_) => LayerKind::Recurrent,
            Mixer::Attention(attention) => attention.attend.layer_kind(),
        };
        self.layers.iter().map(kind).collect()
    }
}

#[derive(Debug)]
struct Block {
    input_layernorm: RmsNorm,
    mixer: Mixer,
    post_attention_layernorm: RmsNorm,
    mlp: FeedForward,
}

/// How the tokens of a sequence see each other.
#[derive(Debug)]
enum Mixer {
    Delta(Box<DeltaNet>),
    Attention(Box<Attention>),
}

impl Block {
    fn load(
        file: &ConfigFile<'_>,
        source: &mut Source<'_>,
        path: &str,
        layer: i32,
    ) -> Result<Self, LoadError> {
        let hidden = source.config.hidden_size;
        let mlp = format!("{path}.mlp");
        Ok(Self {
            input_layernorm: source.norm(&format!("{path}.input_layernorm"), hidden)?,
            mixer: match source.config.layer_type(layer) {
                LayerType::LinearAttention => {
                    let path = format!("{path}.linear_attn");
                    let shape = source.config.delta_shape();
                    let published = source.as_published;
                    Mixer::Delta(Box::new(DeltaNet::load(source.weights, &path, shape, published)?))
                }
                LayerType::FullAttention => {
                    let path = format!("{path}.self_attn");
                    Mixer::Attention(Box::new(Attention::load(source, &path)?))
                }
            },
            post_attention_layernorm: source
                .norm(&format!("{path}.post_attention_layernorm"), hidden)?,
            mlp: match (source.experts, source.config.intermediate_size) {
                (Some(experts), _) => FeedForward::experts(source.weights, &mlp, hidden, experts)?,
                (None, Some(inner)) => {
                    let sizes = [hidden, inner];
                    FeedForward::Dense(GatedMlp::load(source.weights, &mlp, sizes, false, silu)?)
                }
                (None, None) => return Err(file.invalid("\"intermediate_size\" is absent")),
            },
        })
    }

    /// x: [1, T, hidden]. Returns the same shape, or with `keep` only those rows ([1, R, hidden],
    /// `None` when there are none).
    fn forward(
        &self,
        x: &Array,
        step: &mut Step<'_>,
        layer: usize,
        rotary: &Rotary<'_>,
        keep: Option<&[i32]>,
    ) -> Result<Option<Array>> {
        let normed = self.input_layernorm.forward(x)?;
        let mixed = match &self.mixer {
            Mixer::Delta(delta) => delta.forward(&normed, step, layer, keep)?,
            Mixer::Attention(attention) => attention.forward(&normed, step, layer, rotary, keep)?,
        };
        let Some(mixed) = mixed else { return Ok(None) };
        let h = take_rows(x, keep)?.add(&mixed)?;
        h.add(self.mlp.forward(&self.post_attention_layernorm.forward(&h)?)?).map(Some)
    }
}

/// Grouped-query attention whose output passes a gate.
#[derive(Debug)]
struct Attention {
    /// Each head's query is followed by its gate.
    qkv: LinearGroup,
    o_proj: Linear,
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    attend: Attend,
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
}

impl Attention {
    fn load(source: &mut Source<'_>, path: &str) -> Result<Self, LoadError> {
        let config = source.config;
        let (hidden, head_dim) = (config.hidden_size, config.head_dim());
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let rows = [2 * heads * head_dim, kv_heads * head_dim];
        let (bias, output) = (config.attention_bias, [hidden, heads * head_dim]);
        Ok(Self {
            q_norm: source.norm(&format!("{path}.q_norm"), head_dim)?,
            k_norm: source.norm(&format!("{path}.k_norm"), head_dim)?,
            qkv: LinearGroup::load_qkv(source.weights, path, rows, hidden, bias)?,
            o_proj: Linear::load(source.weights, &format!("{path}.o_proj"), output, bias)?,
            attend: Attend { scale: 1.0 / (head_dim as f32).sqrt(), window: None },
            heads,
            kv_heads,
            head_dim,
        })
    }

    /// x: [1, T, hidden]; returns the same shape, or the rows to keep.
    fn forward(
        &self,
        x: &Array,
        step: &mut Step<'_>,
        layer: usize,
        rotary: &Rotary<'_>,
        keep: Option<&[i32]>,
    ) -> Result<Option<Array>> {
        let (length, heads, dim) = (x.shape()[1], self.heads, self.head_dim);
        let parts = self.qkv.forward(x)?;
        let [q, k, v] = &parts[..] else { unreachable!("three parts were loaded") };
        let both = q.reshape(&[1, length, heads, 2 * dim])?;
        let q = slice(&both, &[0; 4], &[1, length, heads, dim])?;
        let gate = slice(&both, &[0, 0, 0, dim], &[1, length, heads, 2 * dim])?;
        let gate = gate.reshape(&[1, length, heads * dim])?;

        let split = |x: &Array| x.reshape(&[1, length, self.kv_heads, dim]);
        let turn = |x: Array| x.transpose_axes(&[0, 2, 1, 3]); // [1, heads, T, head_dim]
        let q = rotary.apply(&turn(self.q_norm.forward(&q)?)?, step)?;
        let k = rotary.apply(&turn(self.k_norm.forward(&split(k)?)?)?, step)?;
        let v = turn(split(v)?)?;
        let attended = step.attend(layer, self.attend, [q, k, v], keep.is_some())?;
        let Some(attended) = attended else { return Ok(None) };
        let gated = multiply(attended, sigmoid(take_rows(&gate, keep)?)?)?; // [1, R, heads * dim]
        self.o_proj.forward(&gated).map(Some)
    }
}
