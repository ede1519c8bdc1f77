//! Attention over the KV cache.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::f32::consts::LOG2_E;

use mlx_rs::fast::ScaledDotProductAttentionMask as Mask;
use mlx_rs::ops::{arange, logical_and, matmul, softmax_axis};
use mlx_rs::{Array, Dtype, fast};

use crate::error::Result;
use crate::mlx::backend::Backend;
use crate::mlx::bridge::slice;

/// On the CPU backend, up to this number of scores, the cost of attention is the number of
/// operations and not their size.
const FEW_SCORES: i64 = 2000;

/// A layer's scaled dot-product attention over the keys and values of its slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sdpa {
    /// Factor for the scores, usually 1 / sqrt(head_dim).
    pub(crate) scale: f32,
    /// Number of tokens that each token attends to, itself included; `None` for all.
    pub(crate) window: Option<i32>,
}

impl Sdpa {
    /// q: [1, heads, T, head_dim]; k, v: [1, kv_heads, S, head_dim], of which the last T belong to
    /// the queries (with `last_only`, q is the last token alone). Only distances matter: with a
    /// window, the keys may start at any token before it. Returns q's shape.
    pub(crate) fn forward(
        &self,
        q: &Array,
        k: &Array,
        v: &Array,
        masks: &mut Masks,
    ) -> Result<Array> {
        let length = q.shape()[2];
        let [batch, heads, held, dim] = *k.shape() else {
            return Err(mlx_rs::error::Exception::custom("keys must have four axes"));
        };
        let window = self.window.filter(|&window| window < held);
        // For a single token, keys outside the window are cut off instead of masked.
        let (k, v, window) = match (length, window) {
            (1, Some(window)) => {
                let cut = |a| slice(a, &[0, 0, held - window, 0], &[batch, heads, held, dim]);
                (&cut(k)?, &cut(v)?, None)
            }
            _ => (k, v, window),
        };
        if q.dtype() == Dtype::Float32 && !masks.backend.fused_attention && !has_few_scores(q, held)
        {
            return self.unfused_sdpa(q, k, v, window, masks);
        }
        let sdpa = fast::scaled_dot_product_attention;
        match (length, window) {
            (1, _) => sdpa(q, k, v, self.scale, None, None),
            (_, None) => sdpa(q, k, v, self.scale, Some(Mask::Causal), None),
            (_, Some(window)) => {
                let mask = masks.window(length, held, window)?;
                sdpa(q, k, v, self.scale, Some(Mask::Array(&mask)), None)
            }
        }
    }

    /// Whether decoding rows use [`Self::decode_row`].
    pub(crate) fn decodes_unfused(q: &Array, masks: &Masks) -> bool {
        q.dtype() == Dtype::Float32 && !masks.backend.fused_attention
    }

    /// Prepares queries of one token each, [D, heads, 1, dim], for [`Self::decode_row`]: scaled,
    /// and as [D, kv_heads, heads / kv_heads, dim].
    pub(crate) fn decode_queries(&self, q: &Array, kv_heads: i32) -> Result<Array> {
        let [rows, heads, _, dim] = *q.shape() else {
            return Err(mlx_rs::error::Exception::custom("queries must have four axes"));
        };
        let scaled = q.multiply(Array::from_f32(self.scale))?;
        scaled.reshape(&[rows, kv_heads, heads / kv_heads, dim])
    }

    /// Attention of one token of one row in float32 on the CPU backend, where the number of
    /// operations dominates when there is little work. q: [1, kv_heads, shared, dim] from
    /// [`Self::decode_queries`]; k, v: [1, kv_heads, S, dim]. Returns q's shape.
    pub(crate) fn decode_row(&self, q: &Array, k: &Array, v: &Array) -> Result<Array> {
        let [batch, heads, held, dim] = *k.shape() else {
            return Err(mlx_rs::error::Exception::custom("keys must have four axes"));
        };
        let (k, v) = match self.window.filter(|&window| window < held) {
            Some(window) => {
                let cut = |a| slice(a, &[0, 0, held - window, 0], &[batch, heads, held, dim]);
                (&cut(k)?, &cut(v)?)
            }
            None => (k, v),
        };
        let scores = matmul(q, k.swap_axes(-1, -2)?)?; // [1, kv_heads, shared, S]
        if i64::from(heads * q.shape()[2]) * i64::from(held) <= FEW_SCORES {
            return matmul(&softmax_axis(&scores, -1, true)?, v);
        }
        let scores = scores.multiply(Array::from_f32(LOG2_E))?;
        let weights = scores.subtract(scores.max_axis(-1, true)?)?;
        let weights = Array::from_f32(2.0).power(&weights)?;
        matmul(&weights, v)?.divide(weights.sum_axis(-1, true)?)
    }

    /// The same for several tokens in float32 on the CPU backend. Its exponential takes three times
    /// as long as its power, and most of the time of a long prompt.
    fn unfused_sdpa(
        &self,
        q: &Array,
        k: &Array,
        v: &Array,
        window: Option<i32>,
        masks: &mut Masks,
    ) -> Result<Array> {
        let (&[batch, heads, length, dim], &[_, kv_heads, held, _]) = (q.shape(), k.shape()) else {
            return Err(mlx_rs::error::Exception::custom("queries must have four axes"));
        };
        // The queries that share a key head are the rows of one product.
        let shared = heads / kv_heads;
        let q = q.multiply(Array::from_f32(self.scale * LOG2_E))?;
        let q = q.reshape(&[batch, kv_heads, shared * length, dim])?;
        let mut scores = matmul(&q, k.swap_axes(-1, -2)?)?; // [batch, kv_heads, shared * T, S]
        if length > 1 {
            let apart = scores.reshape(&[batch, kv_heads, shared, length, held])?;
            let masked = apart.add(masks.additive_causal(length, held, window.unwrap_or(held)))?;
            scores = masked.reshape(&[batch, kv_heads, shared * length, held])?;
        }
        let weights = scores.subtract(scores.max_axis(-1, true)?)?;
        let weights = Array::from_f32(2.0).power(&weights)?;
        let mixed = matmul(&weights, v)?.divide(weights.sum_axis(-1, true)?)?;
        mixed.reshape(&[batch, heads, length, dim])
    }
}

/// The masks of a step. Layers and segments with the same shape share one mask and its memory.
#[derive(Debug)]
pub(crate) struct Masks {
    backend: Backend,
    /// Masks by (T, S, window).
    window: HashMap<[i32; 3], Array>,
    additive: HashMap<[i32; 3], Array>,
}

impl Masks {
    /// Starts without masks. `backend` selects how attention is computed.
    pub(crate) fn new(backend: Backend) -> Self {
        Self { backend, window: HashMap::new(), additive: HashMap::new() }
    }

    /// Returns the mask of [`window_mask`].
    fn window(&mut self, length: i32, held: i32, window: i32) -> Result<Array> {
        match self.window.entry([length, held, window]) {
            Entry::Occupied(made) => Ok(made.get().clone()),
            Entry::Vacant(place) => Ok(place.insert(window_mask(length, held, window)?).clone()),
        }
    }

    /// Returns the mask of [`additive_causal_mask`].
    fn additive_causal(&mut self, length: i32, held: i32, window: i32) -> Array {
        let made = self.additive.entry([length, held, window]);
        made.or_insert_with(|| additive_causal_mask(length, held, window)).clone()
    }
}

/// q: [1, heads, T, head_dim], over `held` keys.
fn has_few_scores(q: &Array, held: i32) -> bool {
    // 64 heads, chunks of 256 tokens and a context of 200,000 exceed an i32.
    let [heads, length] = [q.shape()[1], q.shape()[2]].map(i64::from);
    heads * length * i64::from(held) <= FEW_SCORES
}

/// [T, S] of booleans: query `held - length + i` attends to key `j` when `0 <= query - j < window`.
fn window_mask(length: i32, held: i32, window: i32) -> Result<Array> {
    let queries = arange::<_, i32>(held - length, held, None)?.reshape(&[length, 1])?;
    let keys = arange::<_, i32>(0, held, None)?.reshape(&[1, held])?;
    let distance = queries.subtract(&keys)?;
    logical_and(distance.ge(Array::from_int(0))?, distance.lt(Array::from_int(window))?)
}

/// [T, S]: minus infinity where [`window_mask`] is false, else zero.
fn additive_causal_mask(length: i32, held: i32, window: i32) -> Array {
    // Chunks of 4,096 tokens over 1,000,000 keys exceed an i32.
    let mut mask = vec![0.0_f32; length as usize * held as usize];
    for (query, row) in (held - length..).zip(mask.chunks_exact_mut(held as usize)) {
        row[..(query + 1 - window).max(0) as usize].fill(f32::NEG_INFINITY);
        row[query as usize + 1..].fill(f32::NEG_INFINITY);
    }
    Array::from_slice(&mask, &[length, held])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [1, 1, T, 4] of values that differ by token.
    fn tokens(from: i32, to: i32, salt: f32) -> Array {
        let values = (from..to).flat_map(|t| (0..4).map(move |i| (t * 4 + i) as f32 * 0.7 + salt));
        Array::from_iter(values.map(f32::sin), &[1, 1, to - from, 4])
    }

    /// Attention computed from its definition, one query at a time over the keys of its window.
    fn by_definition(attend: Sdpa, from: i32, to: i32) -> Vec<f32> {
        let whole = Sdpa { window: None, ..attend };
        let rows = (from..to).flat_map(|at| {
            let first = attend.window.map_or(0, |window| (at + 1 - window).max(0));
            let (k, v) = (tokens(first, at + 1, 1.0), tokens(first, at + 1, 2.0));
            let row = whole
                .forward(&tokens(at, at + 1, 0.0), &k, &v, &mut Masks::new(Backend::current()))
                .unwrap();
            row.contiguous().unwrap().as_slice::<f32>().to_vec()
        });
        rows.collect()
    }

    #[test]
    fn a_window_gives_the_same_result_wherever_the_keys_begin() {
        crate::mlx::bridge::init().unwrap();
        let attend = Sdpa { scale: 0.5, window: Some(10) };
        let mut masks = Masks::new(Backend::current());
        for (from, to) in [(0, 30), (25, 30), (29, 30), (3, 12)] {
            let wanted = by_definition(attend, from, to);
            for base in 0..=(from - 9).max(0) {
                let (k, v) = (tokens(base, to, 1.0), tokens(base, to, 2.0));
                for rows in [to - from, 1] {
                    let q = tokens(to - rows, to, 0.0);
                    let got = attend.forward(&q, &k, &v, &mut masks).unwrap().contiguous().unwrap();
                    let wanted = &wanted[wanted.len() - 4 * rows as usize..];
                    let pairs = got.as_slice::<f32>().iter().zip(wanted);
                    let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(worst < 1e-5, "{from}..{to} from {base}, {rows} rows: {worst}");
                }
            }
        }
    }

    #[test]
    fn layers_of_one_shape_share_a_mask() {
        crate::mlx::bridge::init().unwrap();
        let mut masks = Masks::new(Backend::current());
        let noise = |length: i32| {
            Array::from_iter((0..4 * length * 8).map(|i| (i as f32).sin()), &[1, 4, length, 8])
        };
        let (few, many) = ((noise(5), noise(12)), (noise(24), noise(60)));
        for window in [None, Some(7)] {
            for (q, kv) in [&few, &many, &few, &many] {
                let attend = Sdpa { scale: 0.35, window };
                attend.forward(q, kv, kv, &mut masks).unwrap().eval().unwrap();
            }
        }
        let made = masks.window.len() + masks.additive.len();
        // With few scores, the fused attention applies the causal mask itself.
        assert_eq!(made, if masks.backend.fused_attention { 2 } else { 3 }, "{masks:?}");
    }

    #[test]
    fn a_long_context_has_many_scores() {
        crate::mlx::bridge::init().unwrap();
        let queries = |length| mlx_rs::ops::zeros::<f32>(&[1, 64, length, 8]).unwrap();
        assert!(has_few_scores(&queries(1), 31));
        assert!(!has_few_scores(&queries(1), 32));
        assert!(!has_few_scores(&queries(256), 200_000));
        assert!(!has_few_scores(&queries(256), 262_144));
    }

    /// The products equal MLX's fused attention for shared key heads, prompts and single tokens,
    /// with and without a window.
    #[test]
    fn products_are_what_the_fused_attention_computes() {
        crate::mlx::bridge::init().unwrap();
        let noise = |shape: &[i32], salt: f32| {
            let count = shape.iter().product::<i32>();
            Array::from_iter((0..count).map(|i| (i as f32 * 1.3 + salt).sin() * 3.0), shape)
        };
        for (heads, kv_heads, length, held) in
            [(4, 4, 1, 509), (6, 2, 1, 400), (6, 2, 7, 60), (4, 1, 24, 24)]
        {
            let q = noise(&[1, heads, length, 8], 0.0);
            let k = noise(&[1, kv_heads, held, 8], 1.0);
            let v = noise(&[1, kv_heads, held, 8], 2.0);
            for window in [None, Some(5)] {
                let attend = Sdpa { scale: 0.35, window };
                let mask = window_mask(length, held, window.unwrap_or(held)).unwrap();
                let mask = Some(Mask::Array(&mask));
                let fused = fast::scaled_dot_product_attention(&q, &k, &v, 0.35, mask, None);
                let fused = fused.unwrap().contiguous().unwrap();
                let ours = attend.forward(&q, &k, &v, &mut Masks::new(Backend::current())).unwrap();
                assert_eq!(ours.shape(), fused.shape());
                let ours = ours.contiguous().unwrap();
                let pairs = ours.as_slice::<f32>().iter().zip(fused.as_slice::<f32>());
                let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-5, "{heads}/{kv_heads} heads, {length} of {held}: {worst}");
            }
        }
    }
}
