//! The gated delta net layer of the qwen3_5 families: a causal convolution over the last few
//! tokens, the rule of `gated_delta.rs`, and a gated norm.

use crate::error::Result;
use mlx_rs::ops::{concatenate, conv1d, exp, logaddexp, multiply, negative, sigmoid, zeros_dtype};
use mlx_rs::{Array, Dtype, fast};

use crate::error::LoadError;
use crate::limits;
use crate::mlx::bridge::slice;
use crate::mlx::gated_delta::{Inputs, gated_delta};
use crate::models::forward::Forward;
use crate::models::nn::{Linear, LinearGroup, RmsNorm, silu};
use crate::weights::Weights;
use crate::weights::config::ConfigFile;

/// Added to the squared length of queries and keys before they are scaled to length 1.
const UNIT_EPS: f32 = 1e-6;

/// The config values for these layers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeltaShape {
    pub(crate) hidden: i32,
    /// Number of tokens that the convolution covers.
    pub(crate) kernel: i32,
    pub(crate) key_heads: i32,
    /// A multiple of `key_heads`.
    pub(crate) heads: i32,
    pub(crate) key_dim: i32,
    pub(crate) value_dim: i32,
    pub(crate) rms_norm_eps: f32,
}

impl DeltaShape {
    pub(crate) fn check(&self, config: &ConfigFile<'_>) -> Result<(), LoadError> {
        config.check_sizes(&[
            ("linear_num_key_heads", self.key_heads),
            ("linear_num_value_heads", self.heads),
            ("linear_key_head_dim", self.key_dim),
            ("linear_value_head_dim", self.value_dim),
            ("linear_conv_kernel_dim", self.kernel),
        ])?;
        if self.heads % self.key_heads != 0 {
            return Err(config.invalid(format!(
                "\"linear_num_value_heads\" {} is not a multiple of \"linear_num_key_heads\" {}",
                self.heads, self.key_heads
            )));
        }
        let width = |heads: i32, dim: i32| i64::from(heads) * i64::from(dim);
        let channels = 2 * width(self.key_heads, self.key_dim) + width(self.heads, self.value_dim);
        if channels > i64::from(limits::CONFIG_SIZE) {
            return Err(config.invalid(format!("the delta layers come to {channels} channels")));
        }
        Ok(())
    }

    /// Channels of the queries, keys and values of a token together.
    fn channels(&self) -> i32 {
        2 * self.key_heads * self.key_dim + self.heads * self.value_dim
    }
}

/// A gated delta net.
#[derive(Debug)]
pub(crate) struct DeltaNet {
    /// Projections to queries, keys and values together; the output gate; beta; the decay.
    projections: LinearGroup,
    /// [channels, kernel, 1], one filter for each channel of queries, keys and values.
    conv: Array,
    /// Minus the exponential of `A_log`, [heads], float32.
    rate: Array,
    /// [heads]
    dt_bias: Array,
    norm: RmsNorm,
    out_proj: Linear,
    shape: DeltaShape,
}

impl DeltaNet {
    /// Loads the tensors under `path`. With `as_published` the convolution is [channels, 1,
    /// kernel].
    pub(crate) fn load(
        weights: &mut Weights,
        path: &str,
        shape: DeltaShape,
        as_published: bool,
    ) -> Result<Self, LoadError> {
        let DeltaShape { hidden, kernel, heads, value_dim, .. } = shape;
        let (channels, values) = (shape.channels(), heads * value_dim);
        let parts = [("qkv", channels), ("z", values), ("b", heads), ("a", heads)];
        let parts = parts.map(|(name, rows)| (format!("{path}.in_proj_{name}"), rows));
        let stored = if as_published { [channels, 1, kernel] } else { [channels, kernel, 1] };
        let conv = weights.float(&format!("{path}.conv1d.weight"), &stored)?;
        let a_log = weights.float(&format!("{path}.A_log"), &[heads])?;
        let prepare = || -> Result<[Array; 2]> {
            let conv = conv.reshape(&[channels, kernel, 1])?;
            let rate = negative(exp(a_log.as_dtype(Dtype::Float32)?)?)?;
            rate.eval()?;
            Ok([conv, rate])
        };
        let [conv, rate] = prepare()
            .map_err(|error| LoadError::Mlx { path: path.into(), what: error.what().to_owned() })?;
        Ok(Self {
            projections: LinearGroup::load(weights, &parts, hidden, false)?,
            conv,
            rate,
            dt_bias: weights.float(&format!("{path}.dt_bias"), &[heads])?,
            norm: RmsNorm::load(weights, &format!("{path}.norm"), value_dim, shape.rms_norm_eps)?,
            out_proj: Linear::load(weights, &format!("{path}.out_proj"), [hidden, values], false)?,
            shape,
        })
    }

    /// x: [1, T, hidden]. Returns the kept tokens, [1, R, hidden].
    pub(crate) fn forward(
        &self,
        x: &Array,
        slot: usize,
        step: &mut Forward<'_>,
    ) -> Result<Option<Array>> {
        let parts = self.projections.forward(x, step.decodes_only())?;
        let [qkv, z, b, a] = &parts[..] else { unreachable!("four parts were loaded") };
        let beta = sigmoid(b)?; // [1, T, heads]
        let decay = a.add(&self.dt_bias)?;
        let decay = logaddexp(&decay, Array::from_f32(0.0).as_dtype(decay.dtype())?)?;
        let log_decay = multiply(decay, &self.rate)?; // [1, T, heads], float32

        let has_kernels = step.has_kernels();
        let y = step.each(slot, [qkv, &log_decay, &beta], |parts, state| {
            self.recur(parts, &state, has_kernels)
        })?;
        let (Some(y), Some(z)) = (y, step.kept(z)?) else { return Ok(None) };
        let gate = silu(&z.as_dtype(Dtype::Float32)?.reshape(y.shape())?)?;
        let normed = self.norm.forward(&y)?.as_dtype(Dtype::Float32)?;
        let gated = multiply(gate, normed)?.as_dtype(y.dtype())?;
        let rows = y.shape()[1]; // y: [1, R, heads, value_dim]
        self.out_proj
            .forward(&gated.reshape(&[1, rows, self.shape.heads * self.shape.value_dim])?)
            .map(Some)
    }

    /// qkv: [B, L, channels]; log_decay and beta: [B, L, heads]. The previous state is empty or has
    /// the last `kernel - 1` rows of qkv, [B, kernel - 1, channels], and the rule's state. Returns
    /// [B, L, heads, value_dim] and the new state.
    fn recur(
        &self,
        [qkv, log_decay, beta]: [Array; 3],
        state: &[Array],
        has_kernels: bool,
    ) -> Result<(Array, Vec<Array>)> {
        let [batch, length, channels] = *qkv.shape() else {
            return Err(mlx_rs::error::Exception::custom("the convolution takes three axes"));
        };
        let before = self.shape.kernel - 1;
        let (tail, state) = match state {
            [tail, state] => (tail.clone(), Some(state)),
            _ => (zeros_dtype(&[batch, before, channels], qkv.dtype())?, None),
        };
        let input = concatenate(&[&tail, &qkv], 1)?; // [B, kernel - 1 + L, channels]
        let tail = slice(&input, &[0, length, 0], &[batch, length + before, channels])?;
        let mixed = silu(&conv1d(&input, &self.conv, 1, 0, 1, channels)?)?; // [B, L, channels]

        let keys = self.shape.key_heads * self.shape.key_dim;
        let part = |from: i32, to: i32, heads: i32, dim: i32| {
            slice(&mixed, &[0, 0, from], &[batch, length, to])?
                .reshape(&[batch, length, heads, dim])
        };
        let q = part(0, keys, self.shape.key_heads, self.shape.key_dim)?;
        let k = part(keys, 2 * keys, self.shape.key_heads, self.shape.key_dim)?;
        let v = part(2 * keys, channels, self.shape.heads, self.shape.value_dim)?;
        // Keys are scaled to length 1; queries too, and then divided by sqrt(key_dim).
        let unit = 1.0 / (self.shape.key_dim as f32).sqrt();
        let q = self.to_length(&q, unit * unit)?;
        let k = self.to_length(&k, unit)?;
        let inputs = Inputs { q, k, v, log_decay, beta };
        let (y, state) = gated_delta(&inputs, state, has_kernels)?;
        // A copy, so that the chunk's other rows do not stay in memory.
        Ok((y, vec![tail.contiguous()?, state]))
    }

    /// Scales x, [.., key_dim], to length `sqrt(key_dim) * factor`.
    fn to_length(&self, x: &Array, factor: f32) -> Result<Array> {
        let normed = fast::rms_norm(x, None, UNIT_EPS / self.shape.key_dim as f32)?;
        multiply(normed, Array::from_f32(factor).as_dtype(x.dtype())?)
    }
}
