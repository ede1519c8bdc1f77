//! Llama 2 and 3, and Mistral. Source: config keys and weight names as published for
//! `model_type = "llama"` and `"mistral"`.
//!
//! qwen2, qwen3 and qwen3_moe have the same blocks. They differ in biases, in the norms on queries
//! and keys, in windows and in experts, which [`Shape`] describes.

use std::rc::Rc;

use mlx_rs::Array;
use mlx_rs::ops::{broadcast_to, concatenate, multiply};
use serde::Deserialize;

use crate::error::{LoadError, Result};
use crate::kv::slots::SlotSpec;
use crate::limits;
use crate::mlx::attention::Sdpa;
use crate::mlx::bridge::slice;
use crate::mlx::rope::Rope;
use crate::models::decoder::{Block, Decoder, DecoderShape};
use crate::models::forward::{CausalLm, Forward, Heads};
use crate::models::moe::{FeedForward, MoeShape};
use crate::models::nn::{GatedMlp, Linear, LinearGroup, RmsNorm, silu};
use crate::weights::Weights;
use crate::weights::config::ConfigFile;

/// The config.json keys that this family reads.
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
) -> Result<Box<dyn CausalLm>, LoadError> {
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
    shape.load(file, weights, rope.map_err(|what| file.invalid(what))?)
}

/// The window of each layer: those that `layer_types` marks have `sliding_window` tokens.
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

/// The architecture of a family whose blocks are Llama's, derived from its config.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) hidden: i32,
    pub(crate) layers: i32,
    pub(crate) heads: i32,
    pub(crate) kv_heads: i32,
    pub(crate) head_dim: i32,
    pub(crate) intermediate: i32,
    pub(crate) vocab: i32,
    pub(crate) rms_norm_eps: f32,
    /// `None`: tied if there is no `lm_head.weight`.
    pub(crate) tied_embeddings: Option<bool>,
    pub(crate) qkv_bias: bool,
    pub(crate) output_bias: bool,
    pub(crate) mlp_bias: bool,
    /// Whether queries and keys have RMS norms on their heads.
    pub(crate) qk_norm: bool,
    /// Windows per layer; empty when no layer has a window.
    pub(crate) windows: Vec<Option<i32>>,
    /// Experts of each layer's feed-forward; empty when no layer has experts.
    pub(crate) experts: Vec<Option<MoeShape>>,
}

impl Shape {
    /// Checks that the sizes are consistent.
    fn check(&self, config: &ConfigFile<'_>) -> Result<(), LoadError> {
        let sizes = [
            ("hidden_size", self.hidden),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("intermediate_size", self.intermediate),
            ("vocab_size", self.vocab),
        ];
        config.check_layers(self.layers)?;
        config.check_sizes(&sizes)?;
        if self.heads % self.kv_heads != 0 {
            return Err(config.invalid(format!(
                "\"num_attention_heads\" {} is not a multiple of \"num_key_value_heads\" {}",
                self.heads, self.kv_heads
            )));
        }
        if i64::from(self.heads) * i64::from(self.head_dim) > i64::from(limits::CONFIG_SIZE) {
            return Err(config.invalid("\"num_attention_heads\" x \"head_dim\" is too large"));
        }
        if !self.windows.is_empty() && self.windows.len() != self.layers as usize {
            return Err(config.invalid(format!(
                "\"layer_types\" has {} entries for {} layers",
                self.windows.len(),
                self.layers
            )));
        }
        Ok(())
    }

    fn decoder(&self) -> DecoderShape {
        DecoderShape {
            vocab: self.vocab,
            hidden: self.hidden,
            layers: self.layers,
            tied_embeddings: self.tied_embeddings,
            embed_scale: None,
            logit_softcap: None,
        }
    }

    /// Loads a decoder of this shape and checks every tensor against it.
    ///
    /// # Errors
    /// If sizes are inconsistent, or a tensor is missing or has another shape.
    pub(crate) fn load(
        &self,
        config: &ConfigFile<'_>,
        weights: &mut Weights,
        rope: Rope,
    ) -> Result<Box<dyn CausalLm>, LoadError> {
        self.check(config)?;
        let rope = Rc::new(rope);
        let norm = |weights: &mut Weights, path: &str| {
            RmsNorm::load(weights, path, self.hidden, self.rms_norm_eps)
        };
        Decoder::load(weights, self.decoder(), norm, |weights, path, layer| {
            LlamaBlock::load(weights, path, self, layer, &rope)
        })
    }
}

#[derive(Debug)]
struct Attention {
    qkv: LinearGroup,
    o_proj: Linear,
    norm: Option<QkNorm>,
    rope: Rc<Rope>,
    sdpa: Sdpa,
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
}

impl Attention {
    fn load(
        weights: &mut Weights,
        path: &str,
        shape: &Shape,
        layer: i32,
        rope: &Rc<Rope>,
    ) -> Result<Self, LoadError> {
        let &Shape { hidden, heads, kv_heads, head_dim, .. } = shape;
        let rows = [heads * head_dim, kv_heads * head_dim];
        Ok(Self {
            qkv: LinearGroup::load_qkv(weights, path, rows, hidden, shape.qkv_bias)?,
            o_proj: Linear::load(
                weights,
                &format!("{path}.o_proj"),
                [hidden, heads * head_dim],
                shape.output_bias,
            )?,
            norm: if shape.qk_norm { Some(QkNorm::load(weights, path, shape)?) } else { None },
            rope: Rc::clone(rope),
            sdpa: Sdpa {
                scale: 1.0 / (head_dim as f32).sqrt(),
                window: shape.windows.get(layer as usize).copied().flatten(),
            },
            heads,
            kv_heads,
            head_dim,
        })
    }

    /// x: [1, T, hidden] for all segments of the step. Returns the kept tokens, [1, R, hidden].
    fn forward(&self, x: &Array, slot: usize, step: &mut Forward<'_>) -> Result<Option<Array>> {
        let joined = step.decodes_only().then(|| self.qkv.forward_joined(x)).flatten();
        let qkv = match joined {
            Some(joined) => self.split_joined(&joined?, step)?,
            None => self.split(x, step)?,
        };
        match step.attend(slot, self.sdpa, qkv)? {
            Some(attended) => self.o_proj.forward(&attended).map(Some), // [1, R, hidden]
            None => Ok(None),
        }
    }

    /// Computes queries, keys and values of x, [1, T, hidden].
    fn split(&self, x: &Array, step: &mut Forward<'_>) -> Result<[Heads; 3]> {
        let length = x.shape()[1];
        let heads = |x: &Array, heads| x.reshape(&[1, length, heads, self.head_dim]);
        let parts = self.qkv.forward(x, false)?;
        let [q, k, v] = &parts[..] else { unreachable!("three parts were loaded") };
        let (mut q, mut k) = (heads(q, self.heads)?, heads(k, self.kv_heads)?);
        if let Some(norm) = &self.norm {
            q = norm.q_norm.forward(&q)?;
            k = norm.k_norm.forward(&k)?;
        }
        let v = step.heads(&heads(v, self.kv_heads)?)?;
        Ok([step.rotate(&self.rope, &q)?, step.rotate(&self.rope, &k)?, v])
    }

    /// The same for decoding rows, from their joined projection, [1, D, all heads * head_dim].
    /// Queries and keys are normalized and rotated together.
    fn split_joined(&self, joined: &Array, step: &mut Forward<'_>) -> Result<[Heads; 3]> {
        let (rows, dim) = (joined.shape()[1], self.head_dim);
        let rotated = self.heads + self.kv_heads;
        let all = rotated + self.kv_heads;
        let joined = joined.reshape(&[1, rows, all, dim])?;
        let heads = |from, to| slice(&joined, &[0, 0, from, 0], &[1, rows, to, dim]);
        let mut qk = heads(0, rotated)?;
        if let Some(norm) = &self.norm {
            qk = norm.joined(&qk)?;
        }
        let [q, k] = step.rotate(&self.rope, &qk)?.split_at(self.heads)?;
        Ok([q, k, step.heads(&heads(rotated, all)?)?])
    }
}

/// RMS norms over each head of queries and keys.
#[derive(Debug)]
struct QkNorm {
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    /// Both weights, one row per head: [heads + kv_heads, head_dim].
    stacked: Array,
}

impl QkNorm {
    fn load(weights: &mut Weights, path: &str, shape: &Shape) -> Result<Self, LoadError> {
        let norm = |weights: &mut Weights, name: &str| {
            RmsNorm::load(weights, &format!("{path}.{name}"), shape.head_dim, shape.rms_norm_eps)
        };
        let (q_norm, k_norm) = (norm(weights, "q_norm")?, norm(weights, "k_norm")?);
        let spread = |norm: &RmsNorm, heads| broadcast_to(&norm.weight, &[heads, shape.head_dim]);
        let stacked = spread(&q_norm, shape.heads)
            .and_then(|q| concatenate(&[q, spread(&k_norm, shape.kv_heads)?], 0))
            .and_then(|stacked| stacked.eval().map(|()| stacked))
            .map_err(|error| LoadError::Mlx { path: path.into(), what: error.what().to_owned() })?;
        Ok(Self { q_norm, k_norm, stacked })
    }

    /// x: [1, D, heads + kv_heads, head_dim]. Returns the same shape.
    fn joined(&self, x: &Array) -> Result<Array> {
        multiply(mlx_rs::fast::rms_norm(x, None, self.q_norm.eps)?, &self.stacked)
    }
}

/// A pre-norm block of grouped-query attention and a SwiGLU feed-forward.
#[derive(Debug)]
struct LlamaBlock {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: FeedForward,
}

impl LlamaBlock {
    fn load(
        weights: &mut Weights,
        path: &str,
        shape: &Shape,
        layer: i32,
        rope: &Rc<Rope>,
    ) -> Result<Self, LoadError> {
        let mlp = format!("{path}.mlp");
        let norm = |weights: &mut Weights, name: &str| {
            RmsNorm::load(weights, &format!("{path}.{name}"), shape.hidden, shape.rms_norm_eps)
        };
        let attention = format!("{path}.self_attn");
        Ok(Self {
            input_layernorm: norm(weights, "input_layernorm")?,
            self_attn: Attention::load(weights, &attention, shape, layer, rope)?,
            post_attention_layernorm: norm(weights, "post_attention_layernorm")?,
            mlp: match shape.experts.get(layer as usize).copied().flatten() {
                Some(experts) => FeedForward::experts(weights, &mlp, shape.hidden, experts)?,
                None => {
                    let sizes = [shape.hidden, shape.intermediate];
                    FeedForward::Dense(GatedMlp::load(weights, &mlp, sizes, shape.mlp_bias, silu)?)
                }
            },
        })
    }
}

impl Block for LlamaBlock {
    fn slot(&self) -> Option<SlotSpec> {
        Some(SlotSpec::Kv { window: self.self_attn.sdpa.window })
    }

    fn mix(&self, x: &Array, slot: usize, step: &mut Forward<'_>) -> Result<Option<Array>> {
        self.self_attn.forward(&self.input_layernorm.forward(x)?, slot, step)
    }

    fn feed(&self, x: &Array, mixed: &Array) -> Result<Array> {
        let h = x.add(mixed)?;
        h.add(self.mlp.forward(&self.post_attention_layernorm.forward(&h)?)?)
    }
}
