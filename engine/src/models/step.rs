//! One step of a model: segments of one or more sequences, computed together.
//!
//! Linear layers see the tokens of all segments as one sequence ([1, T, hidden]); attention is
//! computed segment by segment, each with its own cache and positions.

use crate::error::Result;
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::take_axis;
use mlx_rs::{Array, Dtype};

use crate::kv::slots::SequenceCache;
use crate::mlx::attention::{Attend, Masks};
use crate::mlx::bridge::slice;
use crate::mlx::rope::{Rope, Table};

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
    masks: Masks,
}

impl<'a> Step<'a> {
    pub(crate) fn new(segments: Vec<Segment<'a>>) -> Self {
        Self { segments, masks: Masks::default() }
    }

    /// Tokens of each segment.
    pub(crate) fn lengths(&self) -> Vec<i32> {
        self.segments.iter().map(|segment| segment.length).collect()
    }

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

    /// Attention of every segment over its own cache. q: [1, heads, T, head_dim]; k and v:
    /// [1, kv_heads, T, head_dim]. Returns [1, T, heads * head_dim], or with `last_only` one row for
    /// each segment that wants logits, `None` when none does.
    pub(crate) fn attend(
        &mut self,
        layer: usize,
        attend: Attend,
        [q, k, v]: [Array; 3],
        last_only: bool,
    ) -> Result<Option<Array>> {
        let lengths = self.lengths();
        let parts = split_segments(&q, &lengths)?
            .into_iter()
            .zip(split_segments(&k, &lengths)?)
            .zip(split_segments(&v, &lengths)?);
        let mut outputs = Vec::with_capacity(lengths.len());
        for (((q, k), v), segment) in parts.zip(&mut self.segments) {
            let (keys, values) = segment.cache.update(layer, &k, &v)?;
            let q = match (last_only, segment.wants_logits) {
                (false, _) => q,
                (true, true) => last_row(&q)?,
                (true, false) => continue,
            };
            outputs.push(attend.forward(&q, &keys, &values, &mut self.masks)?);
        }
        if outputs.is_empty() {
            return Ok(None);
        }
        let joined = join_segments(outputs)?; // [1, heads, R, head_dim]
        let [_, heads, rows, dim] = *joined.shape() else { return Ok(Some(joined)) };
        // One row lies in the same order either way.
        let joined = if rows == 1 { joined } else { joined.transpose_axes(&[0, 2, 1, 3])? };
        joined.reshape(&[1, rows, heads * dim]).map(Some)
    }

    /// Marks the tokens as held by the caches, once every layer has taken them.
    pub(crate) fn advance(&mut self) {
        for segment in &mut self.segments {
            segment.cache.offset += segment.length;
        }
    }
}

/// How a step's queries and keys are rotated.
#[derive(Debug)]
pub(crate) struct Rotary<'a> {
    rope: &'a Rope,
    table: Option<Table>,
}

impl<'a> Rotary<'a> {
    /// `fused`: by MLX's own kernel, whatever the dtype.
    pub(crate) fn new(
        rope: &'a Rope,
        step: &Step<'_>,
        head_dim: i32,
        dtype: Dtype,
        fused: bool,
    ) -> Self {
        let table = match fused {
            true => None,
            false => rope.table(&step.positions(), head_dim, dtype),
        };
        Self { rope, table }
    }

    /// x: [1, heads, T, head_dim] for all segments of the step; returns the same shape.
    pub(crate) fn apply(&self, x: &Array, step: &Step<'_>) -> Result<Array> {
        if let Some(table) = &self.table {
            return table.apply(x);
        }
        let parts = split_segments(x, &step.lengths())?;
        let turned = parts.iter().zip(&step.segments);
        let turned = turned.map(|(part, segment)| self.rope.apply(part, segment.cache.offset));
        join_segments(turned.collect::<Result<_>>()?)
    }
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

/// q: [1, heads, T, head_dim]; returns [1, heads, 1, head_dim].
fn last_row(q: &Array) -> Result<Array> {
    match *q.shape() {
        [batch, heads, length, dim] if length > 1 => {
            slice(q, &[0, 0, length - 1, 0], &[batch, heads, length, dim])
        }
        _ => Ok(q.clone()),
    }
}

/// x: [1, T, ..]; returns those rows, all of them with `None`.
pub(crate) fn take_rows(x: &Array, rows: Option<&[i32]>) -> Result<Array> {
    match rows {
        Some(rows) if rows.len() < x.shape()[1] as usize => {
            take_axis(x, Array::from_slice(rows, &[rows.len() as i32]), 1)
        }
        _ => Ok(x.clone()),
    }
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
