//! One step of a model: segments of one or more sequences, computed together.
//!
//! Linear layers see the tokens of all segments as one sequence ([1, T, hidden]); attention is
//! computed segment by segment, each with its own cache and positions.

use crate::error::Result;
use mlx_rs::fast::ScaledDotProductAttentionMask as Mask;
use mlx_rs::ops::{arange, concatenate, logical_and};
use mlx_rs::{Array, fast};

use crate::bridge::slice;
use crate::cache::SequenceCache;

/// The tokens of one sequence in a step: they follow what its cache holds.
#[derive(Debug)]
pub(crate) struct Segment<'a> {
    /// The sequence's caches; their offset is the first token's position.
    pub(crate) cache: &'a mut SequenceCache,
    /// Tokens of this segment.
    pub(crate) length: i32,
    /// Whether the logits after the last token are wanted.
    pub(crate) wants_logits: bool,
}

/// A step under way.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    /// In the order of their tokens.
    pub(crate) segments: Vec<Segment<'a>>,
}

impl Step<'_> {
    /// The position of each token.
    pub(crate) fn positions(&self) -> Vec<i32> {
        let ranges = self.segments.iter().map(|s| s.cache.offset..s.cache.offset + s.length);
        ranges.flatten().collect()
    }

    /// Indices, among all tokens, of those whose logits are wanted.
    pub(crate) fn output_rows(&self) -> Vec<i32> {
        let mut end = 0;
        let rows = self.segments.iter().filter_map(|segment| {
            end += segment.length;
            segment.wants_logits.then_some(end - 1)
        });
        rows.collect()
    }

    /// Marks the tokens as held by the caches, once every layer has taken them.
    pub(crate) fn advance(&mut self) {
        for segment in &mut self.segments {
            segment.cache.offset += segment.length;
        }
    }
}

/// Attention over a segment's cache.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attend {
    /// Multiplies the scores; 1 / sqrt(head_dim) as a rule.
    pub(crate) scale: f32,
    /// Each token sees this many tokens back, itself included; `None`: all of them.
    pub(crate) window: Option<i32>,
}

impl Attend {
    /// q: [1, heads, T, head_dim]; k, v: [1, kv_heads, S, head_dim] of which the last T are the
    /// queries' own (or, when `last_only`, q is the last token alone). Returns q's shape.
    pub(crate) fn forward(&self, q: &Array, k: &Array, v: &Array) -> Result<Array> {
        let length = q.shape()[2];
        let [batch, heads, held, dim] = *k.shape() else {
            return Err(mlx_rs::error::Exception::custom("keys must have four axes"));
        };
        let window = self.window.filter(|&window| window < held);
        let sdpa = fast::scaled_dot_product_attention;
        match (length, window) {
            (1, None) => sdpa(q, k, v, self.scale, None, None),
            (1, Some(window)) => {
                let cut = |a| slice(a, &[0, 0, held - window, 0], &[batch, heads, held, dim]);
                sdpa(q, &cut(k)?, &cut(v)?, self.scale, None, None)
            }
            (_, None) => sdpa(q, k, v, self.scale, Some(Mask::Causal), None),
            (_, Some(window)) => {
                let mask = window_mask(length, held, window)?;
                sdpa(q, k, v, self.scale, Some(Mask::Array(&mask)), None)
            }
        }
    }
}

/// [T, S] of booleans: query `held - length + i` sees key `j` when `0 <= query - j < window`.
fn window_mask(length: i32, held: i32, window: i32) -> Result<Array> {
    let queries = arange::<_, i32>(held - length, held, None)?.reshape(&[length, 1])?;
    let keys = arange::<_, i32>(0, held, None)?.reshape(&[1, held])?;
    let distance = queries.subtract(&keys)?;
    logical_and(distance.ge(Array::from_int(0))?, distance.lt(Array::from_int(window))?)
}

/// [1, heads, T, head_dim] of all segments cut at the segments' borders along T.
pub(crate) fn split_segments(x: &Array, lengths: &[i32]) -> Result<Vec<Array>> {
    if let [_] = lengths {
        return Ok(vec![x.clone()]);
    }
    let [batch, heads, _, dim] = *x.shape() else {
        return Err(mlx_rs::error::Exception::custom("segments are cut from four axes"));
    };
    let mut start = 0;
    lengths
        .iter()
        .map(|length| {
            let end = start + length;
            let part = slice(x, &[0, 0, start, 0], &[batch, heads, end, dim]);
            start = end;
            part
        })
        .collect()
}

/// The inverse of [`split_segments`].
pub(crate) fn join_segments(parts: Vec<Array>) -> Result<Array> {
    match <[Array; 1]>::try_from(parts) {
        Ok([only]) => Ok(only),
        Err(parts) => concatenate(&parts, 2),
    }
}

/// Token ids as the models take them: [1, T].
pub(crate) fn token_array(tokens: &[u32]) -> Array {
    Array::from_slice(tokens, &[1, tokens.len() as i32])
}
