//! The dense decoder that llama, qwen2 and qwen3 share: pre-norm blocks of grouped-query attention
//! with rotary positions and a SwiGLU feed-forward. The families differ in biases, in the norms on
//! queries and keys, and in windows; each family's file says how.

use crate::error::Result;
use crate::mlx::attention::Attend;
use mlx_rs::Array;
use mlx_rs::ops::{broadcast_to, concatenate, multiply};

use super::moe::{FeedForward, MoeShape};
use super::{Architecture, ConfigFile};
use crate::error::LoadError;
use crate::kv::slots::LayerKind;
use crate::limits;
use crate::mlx::bridge::{metal_is_available, slice};
use crate::mlx::rope::Rope;
use crate::models::nn::{GatedMlp, Linear, LinearGroup, RmsNorm, Vocabulary, silu};
use crate::models::step::{Rotary, Step, take_rows};
use crate::weights::Weights;

/// What a family's config comes to.
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
    /// `None`: tied when there is no `lm_head.weight`.
    pub(crate) tied_embeddings: Option<bool>,
    pub(crate) qkv_bias: bool,
    pub(crate) output_bias: bool,
    pub(crate) mlp_bias: bool,
    /// RMS norms on the heads of queries and keys.
    pub(crate) qk_norm: bool,
    /// Per layer; empty: no layer has a window.
    pub(crate) windows: Vec<Option<i32>>,
    /// Per layer, the experts of its feed-forward; empty: no layer has experts.
    pub(crate) experts: Vec<Option<MoeShape>>,
}

impl Shape {
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
}

/// The decoder.
#[derive(Debug)]
pub(crate) struct Dense {
    vocabulary: Vocabulary,
    layers: Vec<Block>,
    norm: RmsNorm,
    rope: Rope,
    head_dim: i32,
    fused_rope: bool,
}

impl Dense {
    /// Loads all weights, each checked against `shape`.
    pub(crate) fn load(
        config: &ConfigFile<'_>,
        weights: &mut Weights,
        shape: Shape,
        rope: Rope,
    ) -> Result<Box<dyn Architecture>, LoadError> {
        shape.check(config)?;
        let (names, table) = (["model.embed_tokens", "lm_head"], [shape.vocab, shape.hidden]);
        let vocabulary = Vocabulary::load(weights, names, table, shape.tied_embeddings)?;
        let layers = (0..shape.layers).map(|layer| Block::load(weights, &shape, layer));
        Ok(Box::new(Self {
            vocabulary,
            layers: layers.collect::<Result<_, _>>()?,
            norm: RmsNorm::load(weights, "model.norm", shape.hidden, shape.rms_norm_eps)?,
            rope,
            head_dim: shape.head_dim,
            fused_rope: metal_is_available(),
        }))
    }
}

impl Architecture for Dense {
    fn forward(&self, tokens: &Array, step: &mut Step<'_>) -> Result<Option<Array>> {
        let mut x = self.vocabulary.embed(tokens)?; // [1, T, hidden]
        let rows = step.output_rows();
        let rotary = Rotary::new(&self.rope, step, self.head_dim, x.dtype(), self.fused_rope);
        let rotary = &rotary;
        let (last, before) = self.layers.split_last().expect("checked: at least one layer");
        for (index, layer) in before.iter().enumerate() {
            x = layer.forward(&x, step, index, rotary, None)?.expect("all rows are kept");
        }
        // Behind the last layer's keys and values only the rows whose logits are wanted go on.
        let last = last.forward(&x, step, before.len(), rotary, Some(&rows))?; // [1, R, hidden]
        step.advance();
        let Some(x) = last else { return Ok(None) };
        self.vocabulary.logits(&self.norm.forward(&x)?).map(Some) // [1, R, vocab]
    }

    fn layers(&self) -> Vec<LayerKind> {
        self.layers.iter().map(|layer| layer.self_attn.attend.layer_kind()).collect()
    }
}

#[derive(Debug)]
struct Block {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: FeedForward,
}

impl Block {
    fn load(weights: &mut Weights, shape: &Shape, layer: i32) -> Result<Self, LoadError> {
        let path = format!("model.layers.{layer}");
        let mlp = format!("{path}.mlp");
        let norm = |weights: &mut Weights, name: &str| {
            RmsNorm::load(weights, &format!("{path}.{name}"), shape.hidden, shape.rms_norm_eps)
        };
        Ok(Self {
            input_layernorm: norm(weights, "input_layernorm")?,
            self_attn: Attention::load(weights, shape, layer)?,
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
        let attended = self.self_attn.forward(&normed, step, layer, rotary, keep.is_some())?;
        let Some(attended) = attended else { return Ok(None) };
        let h = take_rows(x, keep)?.add(&attended)?;
        h.add(self.mlp.forward(&self.post_attention_layernorm.forward(&h)?)?).map(Some)
    }
}

#[derive(Debug)]
struct Attention {
    qkv: LinearGroup,
    o_proj: Linear,
    norm: Option<QkNorm>,
    attend: Attend,
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
}

impl Attention {
    fn load(weights: &mut Weights, shape: &Shape, layer: i32) -> Result<Self, LoadError> {
        let path = format!("model.layers.{layer}.self_attn");
        let &Shape { hidden, heads, kv_heads, head_dim, .. } = shape;
        let rows = [heads * head_dim, kv_heads * head_dim];
        Ok(Self {
            qkv: LinearGroup::load_qkv(weights, &path, rows, hidden, shape.qkv_bias)?,
            o_proj: Linear::load(
                weights,
                &format!("{path}.o_proj"),
                [hidden, heads * head_dim],
                shape.output_bias,
            )?,
            norm: match shape.qk_norm {
                true => Some(QkNorm::load(weights, &path, shape)?),
                false => None,
            },
            attend: Attend {
                scale: 1.0 / (head_dim as f32).sqrt(),
                window: shape.windows.get(layer as usize).copied().flatten(),
            },
            heads,
            kv_heads,
            head_dim,
        })
    }

    /// x: [1, T, hidden] for all segments of the step; returns the same shape, or with `last_only`
    /// one row for each segment that wants logits.
    fn forward(
        &self,
        x: &Array,
        step: &mut Step<'_>,
        layer: usize,
        rotary: &Rotary<'_>,
        last_only: bool,
    ) -> Result<Option<Array>> {
        let [q, k, v] = match (x.shape()[1] == 1).then(|| self.qkv.forward_joined(x)).flatten() {
            Some(joined) => self.single(&joined?, step, rotary)?,
            None => self.several(x, step, rotary)?,
        }; // [1, heads, T, head_dim] each
        match step.attend(layer, self.attend, [q, k, v], last_only)? {
            Some(attended) => self.o_proj.forward(&attended).map(Some),
            None => Ok(None),
        }
    }

    /// Queries, keys and values of several tokens.
    fn several(&self, x: &Array, step: &Step<'_>, rotary: &Rotary<'_>) -> Result<[Array; 3]> {
        let length = x.shape()[1];
        let split = |x: &Array, heads| x.reshape(&[1, length, heads, self.head_dim]);
        let turn = |x: Array| x.transpose_axes(&[0, 2, 1, 3]);
        let parts = self.qkv.forward(x)?;
        let [q, k, v] = &parts[..] else { unreachable!("three parts were loaded") };
        let (mut q, mut k) = (split(q, self.heads)?, split(k, self.kv_heads)?);
        if let Some(norm) = &self.norm {
            q = norm.q_norm.forward(&q)?;
            k = norm.k_norm.forward(&k)?;
        }
        let v = turn(split(v, self.kv_heads)?)?;
        Ok([rotary.apply(&turn(q)?, step)?, rotary.apply(&turn(k)?, step)?, v])
    }

    /// Queries, keys and values of one token, from their joined projection [1, 1, all heads].
    fn single(&self, joined: &Array, step: &Step<'_>, rotary: &Rotary<'_>) -> Result<[Array; 3]> {
        let turned = self.heads + self.kv_heads;
        let all = turned + self.kv_heads;
        let dim = self.head_dim;
        let joined = joined.reshape(&[1, all, 1, dim])?;
        let heads = |x: &Array, from, to| slice(x, &[0, from, 0, 0], &[1, to, 1, dim]);
        let mut qk = heads(&joined, 0, turned)?;
        if let Some(norm) = &self.norm {
            qk = norm.joined(&qk)?;
        }
        let qk = rotary.apply(&qk, step)?;
        let (q, k) = (heads(&qk, 0, self.heads)?, heads(&qk, self.heads, turned)?);
        Ok([q, k, heads(&joined, turned, all)?])
    }
}

/// RMS norms over each head of queries and keys.
#[derive(Debug)]
struct QkNorm {
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    /// Both weights, one row a head: [1, heads + kv_heads, 1, head_dim].
    stacked: Array,
}

impl QkNorm {
    fn load(weights: &mut Weights, path: &str, shape: &Shape) -> Result<Self, LoadError> {
        let norm = |weights: &mut Weights, name: &str| {
            RmsNorm::load(weights, &format!("{path}.{name}"), shape.head_dim, shape.rms_norm_eps)
        };
        let (q_norm, k_norm) = (norm(weights, "q_norm")?, norm(weights, "k_norm")?);
        let spread =
            |norm: &RmsNorm, heads| broadcast_to(&norm.weight, &[1, heads, 1, shape.head_dim]);
        let stacked = spread(&q_norm, shape.heads)
            .and_then(|q| concatenate(&[q, spread(&k_norm, shape.kv_heads)?], 1))
            .and_then(|stacked| stacked.eval().map(|()| stacked))
            .map_err(|error| LoadError::Mlx { path: path.into(), what: error.what().to_owned() })?;
        Ok(Self { q_norm, k_norm, stacked })
    }

    /// x: [1, heads + kv_heads, 1, head_dim]; returns the same shape.
    fn joined(&self, x: &Array) -> Result<Array> {
        multiply(mlx_rs::fast::rms_norm(x, None, self.q_norm.eps)?, &self.stacked)
    }
}
