//! Rotary position embeddings and their scalings: default, linear, llama3, yarn and dynamic NTK.
//!
//! Sources: RoFormer (arXiv 2104.09864), YaRN (arXiv 2309.00071), and the config keys as published
//! for Llama 3.1 (`rope_type = "llama3"`). Half-split layout: component `i` is paired with
//! `i + dims / 2`, unless `rope_traditional` pairs neighbours.

use crate::error::Result;
use mlx_rs::ops::indexing::take_axis;
use mlx_rs::ops::{concatenate, multiply, split_equal};
use mlx_rs::{Array, Dtype, fast};
use serde_json::{Map, Value};

use crate::mlx::bridge::slice;

/// The type of a rope scaling, under its older or newer key. An explicit null counts as absent.
pub(crate) fn rope_type(scaling: &Map<String, Value>) -> Option<&Value> {
    let given = |key| scaling.get(key).filter(|kind: &&Value| !kind.is_null() && **kind != "");
    given("type").or_else(|| given("rope_type"))
}

/// The rotary embedding of one model.
#[derive(Debug)]
pub(crate) struct Rope {
    dims: i32,
    traditional: bool,
    base: f32,
    scale: f32,
    /// Wavelengths divided by 2 pi, one per pair, if they do not follow from `base`.
    freqs: Option<Array>,
    /// Factor for the rotated components (yarn's attention temperature).
    magnitude: f32,
    dynamic: Option<Dynamic>,
}

/// Dynamic NTK: beyond `max_positions` the base grows with the position. Each token is rotated as
/// if it were decoded alone, so the result does not depend on how a prompt is split into chunks.
#[derive(Debug, Clone, Copy)]
struct Dynamic {
    factor: f32,
    max_positions: i32,
}

impl Rope {
    /// Reads `rope_theta` and `rope_scaling` of config.json (or `rope_parameters`, which holds
    /// both).
    ///
    /// # Errors
    /// A sentence that names the field.
    pub(crate) fn new(
        dims: i32,
        theta: f32,
        traditional: bool,
        scaling: Option<&Map<String, Value>>,
        max_positions: usize,
    ) -> Result<Rope, String> {
        let plain = Rope {
            dims,
            traditional,
            base: theta,
            scale: 1.0,
            freqs: None,
            magnitude: 1.0,
            dynamic: None,
        };
        if dims < 2 || dims % 2 != 0 || !theta.is_finite() || theta <= 1.0 {
            return Err(format!("rope over {dims} dimensions with theta {theta} is not possible"));
        }
        let Some(scaling) = scaling else { return Ok(plain) };
        let kind = rope_type(scaling);
        match kind.map_or(Some("default"), Value::as_str) {
            // Multimodal rope gives text the same position on each of its axes.
            Some("default" | "mrope") => Ok(plain),
            Some("linear") => Ok(Rope { scale: 1.0 / factor(scaling)?, ..plain }),
            Some("dynamic") => {
                let max_positions = max_positions as i32;
                let dynamic = Dynamic { factor: factor(scaling)?, max_positions };
                Ok(Rope { dynamic: Some(dynamic), ..plain })
            }
            Some("llama3") => {
                let freqs = llama3_freqs(dims, f64::from(theta), scaling)?;
                Ok(Rope { freqs: Some(freqs_array(&freqs)), ..plain })
            }
            Some("yarn") => {
                let (freqs, magnitude) = yarn(dims, f64::from(theta), scaling)?;
                Ok(Rope { freqs: Some(freqs_array(&freqs)), magnitude, ..plain })
            }
            _ => Err(format!(
                "\"rope_scaling.type\" is {}; supported: default, linear, dynamic, llama3, yarn",
                kind.unwrap_or(&Value::Null)
            )),
        }
    }

    /// x: [1, heads, T, head_dim] at positions `offset..offset + T`. Returns the same shape.
    pub(crate) fn apply(&self, x: &Array, offset: i32) -> Result<Array> {
        let length = x.shape()[2];
        let x = &self.magnify(x)?;
        match self.dynamic {
            Some(dynamic) if offset + length > dynamic.max_positions => {
                self.apply_dynamic(x, offset, dynamic)
            }
            _ => self.rotate(x, self.base, offset),
        }
    }

    /// x: [D, heads, 1, head_dim], with row d at position `offsets[d]`; `array` holds the same
    /// offsets. Returns the same shape.
    pub(crate) fn apply_rows(&self, x: &Array, offsets: &[i32], array: &Array) -> Result<Array> {
        if let &[offset] = offsets {
            return self.apply(x, offset);
        }
        if self.dynamic.is_some_and(|d| offsets.iter().any(|&at| at >= d.max_positions)) {
            // Each row beyond the trained length has its own base.
            let rows = split_equal(x, offsets.len() as i32, 0)?;
            let rows = rows.iter().zip(offsets).map(|(row, &offset)| self.apply(row, offset));
            return concatenate(&rows.collect::<Result<Vec<_>>>()?, 0);
        }
        let base = self.freqs.is_none().then_some(self.base);
        let x = &self.magnify(x)?;
        fast::rope_dynamic(x, self.dims, self.traditional, base, self.scale, array, &self.freqs)
    }

    fn rotate(&self, x: &Array, base: f32, offset: i32) -> Result<Array> {
        let base = self.freqs.is_none().then_some(base);
        fast::rope(x, self.dims, self.traditional, base, self.scale, offset, &self.freqs)
    }

    fn magnify(&self, x: &Array) -> Result<Array> {
        if self.magnitude == 1.0 {
            return Ok(x.clone());
        }
        let factor = Array::from_f32(self.magnitude).as_dtype(x.dtype())?;
        let [batch, heads, length, head_dim] = *x.shape() else { return Ok(x.clone()) };
        if self.dims == head_dim {
            return multiply(x, factor);
        }
        let turned = slice(x, &[0; 4], &[batch, heads, length, self.dims])?;
        let rest = slice(x, &[0, 0, 0, self.dims], &[batch, heads, length, head_dim])?;
        concatenate(&[multiply(turned, factor)?, rest], 3)
    }

    /// The base of a token beyond the trained length under dynamic scaling.
    fn grown_base(&self, position: i32) -> Option<f32> {
        let dynamic = self.dynamic.filter(|dynamic| position >= dynamic.max_positions)?;
        let grown = dynamic.factor * (position + 1) as f32 / dynamic.max_positions as f32
            - (dynamic.factor - 1.0);
        let dims = self.dims as f32;
        Some(self.base * grown.powf(dims / (dims - 2.0)))
    }

    /// Tokens up to the trained length share the plain base; each later token has its own.
    fn apply_dynamic(&self, x: &Array, offset: i32, dynamic: Dynamic) -> Result<Array> {
        let [batch, heads, length, head_dim] = *x.shape() else {
            return self.rotate(x, self.base, offset);
        };
        let plain = (dynamic.max_positions - offset).clamp(0, length);
        let mut parts = Vec::with_capacity((length - plain + 1) as usize);
        let part = |from, to| slice(x, &[0, 0, from, 0], &[batch, heads, to, head_dim]);
        if plain > 0 {
            parts.push(self.rotate(&part(0, plain)?, self.base, offset)?);
        }
        for at in plain..length {
            let base = self.grown_base(offset + at).unwrap_or(self.base);
            parts.push(self.rotate(&part(at, at + 1)?, base, offset + at)?);
        }
        concatenate(&parts, 2)
    }

    /// The cosines and sines that all layers of a step share, for backends without a fused rotary
    /// kernel: [T, 1, head_dim] each, with the first half of the sines negated. `None` where the
    /// fused call must be used: for neighbour pairs, and for any dtype but float32 (the fused
    /// fallback rounds its angles to the dtype, and parity with it matters more than speed).
    pub(crate) fn table(&self, positions: &[i32], head_dim: i32, dtype: Dtype) -> Option<Table> {
        if self.traditional || dtype != Dtype::Float32 {
            return None;
        }
        let half = (self.dims / 2) as usize;
        let inverse = |base: f32| -> Vec<f32> {
            let step = base.ln() / half as f32;
            (0..half).map(|i| (-(i as f32) * step).exp()).collect()
        };
        let plain: Vec<f32> = match &self.freqs {
            Some(freqs) => freqs.as_slice::<f32>().iter().map(|freq| 1.0 / freq).collect(),
            None => inverse(self.base),
        };
        // Components that are not rotated keep a cosine of 1 and a sine of 0.
        let width = head_dim as usize;
        let mut cos = vec![1.0; positions.len() * width];
        let mut sin = vec![0.0; positions.len() * width];
        let rows = cos.chunks_exact_mut(width).zip(sin.chunks_exact_mut(width));
        for (&position, (cos, sin)) in positions.iter().zip(rows) {
            let grown = self.grown_base(position).map(inverse);
            let position = position as f32 * self.scale;
            for (i, inverse) in grown.as_ref().unwrap_or(&plain).iter().enumerate() {
                let (s, c) = (position * inverse).sin_cos();
                let (s, c) = (s * self.magnitude, c * self.magnitude);
                (cos[i], cos[i + half]) = (c, c);
                (sin[i], sin[i + half]) = (-s, s);
            }
        }
        let shape = [positions.len() as i32, 1, head_dim];
        let swap = (positions.len() <= GATHERED_ROWS).then(|| {
            let (half, dims) = (half as u32, 2 * half as u32);
            let order = (half..dims).chain(0..half).chain(dims..head_dim as u32);
            Array::from_iter(order, &[head_dim])
        });
        let (cos, sin) = (Array::from_slice(&cos, &shape), Array::from_slice(&sin, &shape));
        Some(Table { cos, sin, dims: self.dims, swap })
    }
}

/// Up to this many tokens, swapping the halves of a head by a single gather is faster than by three
/// copies.
const GATHERED_ROWS: usize = 16;

/// The rotations of a step's tokens. See [`Rope::table`].
#[derive(Debug)]
pub(crate) struct Table {
    cos: Array,
    sin: Array,
    /// Number of rotated components in a head.
    dims: i32,
    /// The order of components that swaps the halves, for steps with few tokens.
    swap: Option<Array>,
}

impl Table {
    /// x: [1, T, heads, head_dim], where T is the table's. Returns the same shape.
    pub(crate) fn apply(&self, x: &Array) -> Result<Array> {
        let swapped = match &self.swap {
            Some(swap) => take_axis(x, swap, 3)?,
            None => swap_halves(x, self.dims)?,
        };
        mlx_rs::ops::add(multiply(x, &self.cos)?, multiply(swapped, &self.sin)?)
    }
}

/// x: [1, T, heads, head_dim]. Returns x with the two halves of each head's first `dims` components
/// swapped.
fn swap_halves(x: &Array, dims: i32) -> Result<Array> {
    let [batch, length, heads, head_dim] = *x.shape() else { return Ok(x.clone()) };
    let part = |from, to| slice(x, &[0, 0, 0, from], &[batch, length, heads, to]);
    let (first, second) = (part(0, dims / 2)?, part(dims / 2, dims)?);
    if dims == head_dim {
        return concatenate(&[second, first], 3);
    }
    concatenate(&[second, first, part(dims, head_dim)?], 3)
}

fn number(scaling: &Map<String, Value>, key: &str) -> Option<f64> {
    scaling.get(key).and_then(Value::as_f64).filter(|n| n.is_finite() && *n > 0.0)
}

fn factor(scaling: &Map<String, Value>) -> Result<f32, String> {
    let factor = number(scaling, "factor").filter(|factor| *factor >= 1.0);
    factor.map(|factor| factor as f32).ok_or_else(|| {
        format!("\"rope_scaling.factor\" is {}; it must be at least 1", show(scaling, "factor"))
    })
}

fn show<'a>(scaling: &'a Map<String, Value>, key: &str) -> &'a Value {
    scaling.get(key).unwrap_or(&Value::Null)
}

fn freqs_array(freqs: &[f64]) -> Array {
    let freqs: Vec<f32> = freqs.iter().map(|&freq| freq as f32).collect();
    Array::from_slice(&freqs, &[freqs.len() as i32])
}

/// Wavelengths divided by 2 pi: `theta^(2i / dims)`.
fn plain_freqs(dims: i32, theta: f64) -> impl Iterator<Item = f64> {
    (0..dims / 2).map(move |i| theta.powf(f64::from(2 * i) / f64::from(dims)))
}

/// Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those in between
/// blended.
fn llama3_freqs(dims: i32, theta: f64, scaling: &Map<String, Value>) -> Result<Vec<f64>, String> {
    let factor = f64::from(factor(scaling)?);
    let low = number(scaling, "low_freq_factor").unwrap_or(1.0);
    let high = number(scaling, "high_freq_factor").unwrap_or(4.0);
    let trained = number(scaling, "original_max_position_embeddings").unwrap_or(8192.0);
    if high <= low {
        return Err(format!("\"rope_scaling.high_freq_factor\" {high} is not above {low}"));
    }
    let stretch = |freq: f64| {
        let wavelength = 2.0 * std::f64::consts::PI * freq;
        if wavelength > trained / low {
            freq * factor
        } else if wavelength > trained / high {
            let smooth = (trained / wavelength - low) / (high - low);
            freq / ((1.0 - smooth) / factor + smooth)
        } else {
            freq
        }
    };
    Ok(plain_freqs(dims, theta).map(stretch).collect())
}

/// YaRN. Returns (frequencies, magnitude).
fn yarn(dims: i32, theta: f64, scaling: &Map<String, Value>) -> Result<(Vec<f64>, f32), String> {
    let factor = f64::from(factor(scaling)?);
    let trained = number(scaling, "original_max_position_embeddings").unwrap_or(4096.0);
    let beta_fast = number(scaling, "beta_fast").unwrap_or(32.0);
    let beta_slow = number(scaling, "beta_slow").unwrap_or(1.0);
    let correction = |rotations: f64| {
        f64::from(dims) * (trained / (rotations * 2.0 * std::f64::consts::PI)).ln()
            / (2.0 * theta.ln())
    };
    let low = correction(beta_fast).floor().max(0.0);
    let mut high = correction(beta_slow).ceil().min(f64::from(dims - 1));
    if low == high {
        high += 0.001; // avoids a division by zero
    }
    let freqs = plain_freqs(dims, theta).enumerate().map(|(i, extrapolated)| {
        let interpolated = factor * extrapolated;
        let keep = 1.0 - ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        (interpolated * extrapolated) / (interpolated * keep + extrapolated * (1.0 - keep))
    });
    let magnitude = |weight: f64| {
        if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 }
    };
    let weight =
        |key: &str, default: f64| scaling.get(key).and_then(Value::as_f64).unwrap_or(default);
    let ratio = magnitude(weight("mscale", 1.0)) / magnitude(weight("mscale_all_dim", 0.0));
    Ok((freqs.collect(), ratio as f32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rope(scaling: Value) -> Rope {
        crate::mlx::bridge::init().unwrap();
        Rope::new(16, 10_000.0, false, scaling.as_object(), 32).unwrap()
    }

    fn input(length: i32) -> Array {
        let values: Vec<f32> =
            (0..2 * length * 16).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect();
        Array::from_slice(&values, &[1, 2, length, 16])
    }

    fn assert_close(a: &Array, b: &Array) {
        let (a, b) = (a.contiguous().unwrap(), b.contiguous().unwrap());
        let pairs = a.as_slice::<f32>().iter().zip(b.as_slice::<f32>());
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "differ by {worst}");
    }

    #[test]
    fn the_shared_table_equals_the_fused_call() {
        let scalings = [
            json!(null),
            json!({"type": "linear", "factor": 4.0}),
            json!({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 16}),
            json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}),
        ];
        for scaling in scalings {
            let rope = rope(scaling);
            for length in [1, 5] {
                let x = input(length);
                let positions: Vec<i32> = (7..7 + length).collect();
                let table = rope.table(&positions, 16, Dtype::Float32).unwrap();
                let turned = x.transpose_axes(&[0, 2, 1, 3]).unwrap();
                let by_table = table.apply(&turned).unwrap().transpose_axes(&[0, 2, 1, 3]);
                assert_close(&by_table.unwrap(), &rope.apply(&x, 7).unwrap());
            }
        }
    }

    #[test]
    fn dynamic_does_not_depend_on_chunks() {
        let rope = rope(json!({"type": "dynamic", "factor": 2.0}));
        let x = input(12);
        let whole = rope.apply(&x, 26).unwrap();
        for at in 1..12 {
            let part = |from: i32, to: i32| slice(&x, &[0, 0, from, 0], &[1, 2, to, 16]).unwrap();
            let first = rope.apply(&part(0, at), 26).unwrap();
            let second = rope.apply(&part(at, 12), 26 + at).unwrap();
            assert_close(&concatenate(&[first, second], 2).unwrap(), &whole);
        }
        let table = rope.table(&(26..38).collect::<Vec<_>>(), 16, Dtype::Float32).unwrap();
        let turned = x.transpose_axes(&[0, 2, 1, 3]).unwrap();
        let by_table = table.apply(&turned).unwrap().transpose_axes(&[0, 2, 1, 3]);
        assert_close(&by_table.unwrap(), &whole);
    }

    #[test]
    fn invalid_scalings_are_named() {
        let build = |scaling: Value| Rope::new(16, 1e4, false, scaling.as_object(), 32);
        assert!(build(json!({"type": "longrope"})).unwrap_err().contains("longrope"));
        assert!(build(json!({"type": "linear", "factor": 0})).unwrap_err().contains("factor"));
        assert!(Rope::new(3, 1e4, false, None, 32).is_err());
    }
}
