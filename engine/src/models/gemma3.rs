//! Gemma 3, the text model. Source: config keys and weight names as published for
//! `model_type = "gemma3_text"`, and for `"gemma3"`, which nests it beside a vision tower.
//!
//! Most layers attend to a window of tokens and use a short rope base; usually every sixth layer
//! attends to all tokens and uses a long base. Each sublayer has a norm before and after it, stored
//! as the weight minus 1.

use std::rc::Rc;

use mlx_rs::ops::{add, clip, multiply, power, tanh};
use mlx_rs::{Array, Dtype};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{LoadError, Result};
use crate::kv::slots::SlotSpec;
use crate::limits;
use crate::mlx::attention::Sdpa;
use crate::mlx::rope::Rope;
use crate::models::decoder::{Block, Decoder, DecoderShape};
use crate::models::forward::{CausalLm, Forward};
use crate::models::nn::{GatedMlp, Linear, LinearGroup, RmsNorm};
use crate::weights::Weights;
use crate::weights::config::ConfigFile;

/// Values that published configs of the text model omit.
pub(crate) const TEXT_DEFAULTS: &[(&str, u64)] =
    &[("vocab_size", 262_144), ("max_position_embeddings", 32_768)];

/// Values that published multimodal configs omit.
pub(crate) const DEFAULTS: &[(&str, u64)] = &[
    ("vocab_size", 262_208),
    ("max_position_embeddings", 131_072),
    ("num_attention_heads", 8),
    ("num_key_value_heads", 4),
];

/// The largest float16.
const F16_MAX: f32 = 65504.0;

/// The config.json keys that this family reads.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Config {
    hidden_size: i32,
    num_hidden_layers: i32,
    intermediate_size: i32,
    num_attention_heads: i32,
    num_key_value_heads: i32,
    head_dim: i32,
    query_pre_attn_scalar: f32,
    rms_norm_eps: f32,
    vocab_size: i32,
    max_position_embeddings: usize,
    rope_local_base_freq: f32,
    sliding_window: i32,
    layer_types: Option<Vec<LayerType>>,
    sliding_window_pattern: Option<i32>,
    /// The newer name of the same key.
    _sliding_window_pattern: Option<i32>,
    hidden_activation: String,
    attn_logit_softcapping: Option<f32>,
    final_logit_softcapping: Option<f32>,
    use_bidirectional_attention: bool,
}

/// Sizes that are 0 here must be present in config.json.
impl Default for Config {
    fn default() -> Self {
        Self {
            hidden_size: 0,
            num_hidden_layers: 0,
            intermediate_size: 0,
            num_attention_heads: 0,
            num_key_value_heads: 0,
            head_dim: 256,
            query_pre_attn_scalar: 256.0,
            rms_norm_eps: 1e-6,
            vocab_size: 0,
            max_position_embeddings: 32_768,
            rope_local_base_freq: 10_000.0,
            sliding_window: 0,
            layer_types: None,
            sliding_window_pattern: None,
            _sliding_window_pattern: None,
            hidden_activation: "gelu_pytorch_tanh".to_owned(),
            attn_logit_softcapping: None,
            final_logit_softcapping: None,
            use_bidirectional_attention: false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LayerType {
    SlidingAttention,
    FullAttention,
}

impl Config {
    fn check(&self, file: &ConfigFile<'_>) -> Result<(), LoadError> {
        file.check_layers(self.num_hidden_layers)?;
        file.check_sizes(&[
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("vocab_size", self.vocab_size),
            ("sliding_window", self.sliding_window),
            ("sliding_window_pattern", self.pattern()),
        ])?;
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        let wrong = if heads % kv_heads != 0 {
            format!(
                "\"num_attention_heads\" {heads} is not a multiple of \"num_key_value_heads\" \
                 {kv_heads}"
            )
        } else if i64::from(heads) * i64::from(self.head_dim) > i64::from(limits::CONFIG_SIZE) {
            "\"num_attention_heads\" x \"head_dim\" is too large".to_owned()
        } else if self
            .layer_types
            .as_ref()
            .is_some_and(|t| t.len() != self.num_hidden_layers as usize)
        {
            format!("\"layer_types\" does not have {} entries", self.num_hidden_layers)
        } else if !(self.query_pre_attn_scalar > 0.0 && self.query_pre_attn_scalar.is_finite()) {
            format!("\"query_pre_attn_scalar\" is {}", self.query_pre_attn_scalar)
        } else if self.final_logit_softcapping.is_some_and(|cap| !(cap > 0.0 && cap.is_finite())) {
            format!("\"final_logit_softcapping\" is {:?}", self.final_logit_softcapping)
        } else if self.hidden_activation != "gelu_pytorch_tanh" {
            format!("\"hidden_activation\" is \"{}\"", self.hidden_activation)
        } else if self.attn_logit_softcapping.is_some() {
            "\"attn_logit_softcapping\" is set, and Gemma 3 has none".to_owned()
        } else if self.use_bidirectional_attention {
            "\"use_bidirectional_attention\" is set: this is an embedding model".to_owned()
        } else {
            return Ok(());
        };
        Err(file.invalid(wrong))
    }

    /// The period of the layers that attend to all tokens.
    fn pattern(&self) -> i32 {
        self.sliding_window_pattern.or(self._sliding_window_pattern).unwrap_or(6)
    }

    fn layer_type(&self, layer: i32) -> LayerType {
        match &self.layer_types {
            Some(types) => types[layer as usize],
            None if (layer + 1) % self.pattern() == 0 => LayerType::FullAttention,
            None => LayerType::SlidingAttention,
        }
    }

    /// The ropes of (sliding, full) layers. Newer configs have `rope_parameters` for each.
    fn ropes(&self, file: &ConfigFile<'_>) -> Result<[Rope; 2], LoadError> {
        let own = |kind: &str| file.fields.get("rope_parameters")?.get(kind)?.as_object();
        let theta = |own: Option<&Map<String, Value>>| {
            own.and_then(|own| own.get("rope_theta")?.as_f64()).map(|theta| theta as f32)
        };
        let (sliding, full) = (own("sliding_attention"), own("full_attention"));
        let short = theta(sliding).unwrap_or(self.rope_local_base_freq);
        let long = theta(full).map_or_else(|| file.rope_theta(), |theta| Ok(Some(theta)))?;
        let long = long.unwrap_or(1_000_000.0);
        let rope = |theta, scaling| {
            let rope =
                Rope::new(self.head_dim, theta, false, scaling, self.max_position_embeddings);
            rope.map_err(|what| file.invalid(what))
        };
        Ok([rope(short, sliding)?, rope(long, full.or(file.rope_scaling()))?])
    }
}

/// Loads a Gemma 3 text model.
pub(crate) fn load(
    file: &ConfigFile<'_>,
    weights: &mut Weights,
) -> Result<Box<dyn CausalLm>, LoadError> {
    let config: Config = file.parse()?;
    config.check(file)?;
    let ropes = config.ropes(file)?.map(Rc::new);
    let shape = DecoderShape {
        vocab: config.vocab_size,
        hidden: config.hidden_size,
        layers: config.num_hidden_layers,
        // Tied if there is no head, whatever the config says.
        tied_embeddings: None,
        embed_scale: Some((config.hidden_size as f32).sqrt()),
        logit_softcap: config.final_logit_softcapping,
    };
    let last_norm =
        |weights: &mut Weights, path: &str| norm(weights, &config, path, config.hidden_size);
    Decoder::load(weights, shape, last_norm, |weights, path, layer| {
        Gemma3Block::load(weights, path, &config, config.layer_type(layer), &ropes)
    })
}

fn norm(
    weights: &mut Weights,
    config: &Config,
    path: &str,
    dims: i32,
) -> Result<RmsNorm, LoadError> {
    RmsNorm::load_from_one(weights, path, dims, config.rms_norm_eps)
}

#[derive(Debug)]
struct Attention {
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
    /// `ropes`: those of sliding and of full layers.
    fn load(
        weights: &mut Weights,
        path: &str,
        config: &Config,
        kind: LayerType,
        [sliding, full]: &[Rc<Rope>; 2],
    ) -> Result<Self, LoadError> {
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let (hidden, head_dim) = (config.hidden_size, config.head_dim);
        let rows = [heads * head_dim, kv_heads * head_dim];
        let output = [hidden, heads * head_dim];
        let is_sliding = kind == LayerType::SlidingAttention;
        Ok(Self {
            qkv: LinearGroup::load_qkv(weights, path, rows, hidden, false)?,
            o_proj: Linear::load(weights, &format!("{path}.o_proj"), output, false)?,
            q_norm: norm(weights, config, &format!("{path}.q_norm"), head_dim)?,
            k_norm: norm(weights, config, &format!("{path}.k_norm"), head_dim)?,
            rope: Rc::clone(if is_sliding { sliding } else { full }),
            sdpa: Sdpa {
                scale: 1.0 / config.query_pre_attn_scalar.sqrt(),
                window: is_sliding.then_some(config.sliding_window),
            },
            heads,
            kv_heads,
            head_dim,
        })
    }

    /// x: [1, T, hidden]. Returns the kept tokens, [1, R, hidden].
    fn forward(&self, x: &Array, slot: usize, step: &mut Forward<'_>) -> Result<Option<Array>> {
        let length = x.shape()[1];
        let parts = self.qkv.forward(x, step.decodes_only())?;
        let [q, k, v] = &parts[..] else { unreachable!("three parts were loaded") };
        let split = |x: &Array, heads| x.reshape(&[1, length, heads, self.head_dim]);
        let q = self.q_norm.forward(&split(q, self.heads)?)?;
        let k = self.k_norm.forward(&split(k, self.kv_heads)?)?;
        let v = step.heads(&split(v, self.kv_heads)?)?;
        let qkv = [step.rotate(&self.rope, &q)?, step.rotate(&self.rope, &k)?, v];
        match step.attend(slot, self.sdpa, qkv)? {
            Some(attended) => self.o_proj.forward(&attended).map(Some),
            None => Ok(None),
        }
    }
}

#[derive(Debug)]
struct Gemma3Block {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    pre_feedforward_layernorm: RmsNorm,
    mlp: GatedMlp,
    post_feedforward_layernorm: RmsNorm,
}

impl Gemma3Block {
    fn load(
        weights: &mut Weights,
        path: &str,
        config: &Config,
        kind: LayerType,
        ropes: &[Rc<Rope>; 2],
    ) -> Result<Self, LoadError> {
        let sizes = [config.hidden_size, config.intermediate_size];
        let mut norm =
            |name: &str| norm(weights, config, &format!("{path}.{name}"), config.hidden_size);
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            pre_feedforward_layernorm: norm("pre_feedforward_layernorm")?,
            post_feedforward_layernorm: norm("post_feedforward_layernorm")?,
            self_attn: Attention::load(weights, &format!("{path}.self_attn"), config, kind, ropes)?,
            mlp: GatedMlp::load(weights, &format!("{path}.mlp"), sizes, false, gelu)?,
        })
    }
}

impl Block for Gemma3Block {
    fn slot(&self) -> Option<SlotSpec> {
        Some(SlotSpec::Kv { window: self.self_attn.sdpa.window })
    }

    fn mix(&self, x: &Array, slot: usize, step: &mut Forward<'_>) -> Result<Option<Array>> {
        let attended = self.self_attn.forward(&self.input_layernorm.forward(x)?, slot, step)?;
        attended.map(|y| self.post_attention_layernorm.forward(&y)).transpose()
    }

    fn feed(&self, x: &Array, mixed: &Array) -> Result<Array> {
        let h = add_within_range(x, mixed)?;
        let y = self.mlp.forward(&self.pre_feedforward_layernorm.forward(&h)?)?;
        add_within_range(&h, &self.post_feedforward_layernorm.forward(&y)?)
    }
}

/// Adds x and y. In float16, which the residual stream of these models exceeds, the sum is clamped.
fn add_within_range(x: &Array, y: &Array) -> Result<Array> {
    if x.dtype() != Dtype::Float16 {
        return add(x, y);
    }
    let wide = add(x.as_dtype(Dtype::Float32)?, y.as_dtype(Dtype::Float32)?)?;
    let (low, high) = (Array::from_f32(-F16_MAX), Array::from_f32(F16_MAX));
    clip(wide, (&low, &high))?.as_dtype(Dtype::Float16)
}

/// GELU in its tanh approximation, in x's dtype.
fn gelu(x: &Array) -> Result<Array> {
    let number = |value: f32| Array::from_f32(value).as_dtype(x.dtype());
    let cubed = multiply(number(0.044_715)?, power(x, number(3.0)?)?)?;
    let bent = tanh(multiply(number((2.0 / std::f32::consts::PI).sqrt())?, add(x, cubed)?)?)?;
    multiply(multiply(number(0.5)?, x)?, add(number(1.0)?, bent)?)
}
