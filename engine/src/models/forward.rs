//! One step of a model: segments of one or more sequences, computed together.
//!
//! Linear layers process the tokens of all segments as one sequence ([1, T, hidden]). Rotary
//! positions, recurrent layers and other operations that allow it process the decoding rows, one
//! token each, as one batch ([D, .., 1, ..]). Attention reads each row's own keys and values. A
//! row's numbers therefore do not depend on its neighbours.

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::take_axis;
use mlx_rs::ops::{concatenate, split_equal};

use crate::error::Result;
use crate::kv::slots::{SequenceCache, SlotSpec, StateSlot};
use crate::mlx::attention::{Masks, Sdpa};
use crate::mlx::backend::Backend;
use crate::mlx::bridge::slice;
use crate::mlx::rope::{Rope, Table};

/// A loaded language model: weights and forward pass. Lives on the engine thread.
pub(crate) trait CausalLm: fmt::Debug {
    /// tokens: [1, T], the ids of all segments of the step. Returns logits [1, R, vocab] for the
    /// rows that the segments request, in order; `None` when none is requested. The caches then
    /// include the step's tokens; nothing is evaluated yet.
    fn forward(&self, tokens: &Array, step: Forward<'_>) -> Result<Option<Array>>;

    /// The cache slots of a sequence for this model.
    fn slots(&self) -> Vec<SlotSpec>;
}

/// The tokens of one sequence in a step. They follow the tokens in its cache.
#[derive(Debug)]
pub(crate) struct Segment<'a> {
    /// The sequence's caches. Their offset is the first token's position.
    pub(crate) cache: &'a mut SequenceCache,
    /// Number of tokens in this segment.
    pub(crate) tokens: i32,
    /// How many of its last tokens need logits: 0, 1, or one more than the draft tokens to verify.
    pub(crate) outputs: i32,
}

/// A step in progress, as the layers of a model see it.
#[derive(Debug)]
pub(crate) struct Forward<'a> {
    /// Segments in the order of their tokens.
    segments: Vec<Segment<'a>>,
    /// Number of leading one-token segments that continue a sequence: the decoding rows.
    rows: usize,
    /// Whether only the tokens that need logits are computed after this layer's mixer.
    outputs_only: bool,
    masks: Masks,
    backend: Backend,
    /// Tables by the address of the rope: layers with the same rope share its table.
    tables: HashMap<*const Rope, Option<Rc<Table>>>,
    /// Positions of the decoding rows, [D], for MLX's fused call.
    row_offsets: Option<Array>,
}

/// Queries, keys or values of a step, split as attention reads them.
#[derive(Debug)]
pub(crate) struct Heads {
    /// Those of the decoding rows: [D, heads, 1, head_dim]; `None` when there are none.
    rows: Option<Array>,
    /// Those of each other segment: [1, heads, L, head_dim].
    chunks: Vec<Array>,
}

impl Heads {
    /// Returns the first `heads` heads and the others.
    pub(crate) fn split_at(&self, heads: i32) -> Result<[Heads; 2]> {
        let part = |x: &Array, from, to| match *x.shape() {
            [batch, _, length, dim] => slice(x, &[0, from, 0, 0], &[batch, to, length, dim]),
            _ => Err(Exception::custom(format!("heads of shape {:?}", x.shape()))),
        };
        let half = |is_first: bool| -> Result<Heads> {
            let part =
                |x: &Array| if is_first { part(x, 0, heads) } else { part(x, heads, x.shape()[1]) };
            Ok(Heads {
                rows: self.rows.as_ref().map(part).transpose()?,
                chunks: self.chunks.iter().map(part).collect::<Result<_>>()?,
            })
        };
        Ok([half(true)?, half(false)?])
    }
}

impl<'a> Forward<'a> {
    /// A step over `segments`, in the order of their tokens.
    pub(crate) fn new(segments: Vec<Segment<'a>>, backend: Backend) -> Self {
        let decodes = |segment: &&Segment<'_>| segment.tokens == 1 && segment.cache.offset > 0;
        Self {
            rows: segments.iter().take_while(decodes).count(),
            segments,
            outputs_only: false,
            masks: Masks::new(backend),
            backend,
            tables: HashMap::new(),
            row_offsets: None,
        }
    }

    /// Whether the Metal kernels of this crate can run.
    pub(crate) fn has_kernels(&self) -> bool {
        self.backend.kernels
    }

    /// From here on, mixers return only the rows of tokens that need logits.
    pub(crate) fn keep_outputs_only(&mut self) {
        self.outputs_only = true;
    }

    /// Ends the step, in which every slot has received the tokens.
    pub(crate) fn finish(self) {
        for segment in self.segments {
            segment.cache.offset += segment.tokens;
        }
    }

    /// Number of tokens of all segments.
    fn tokens(&self) -> i32 {
        self.segments.iter().map(|segment| segment.tokens).sum()
    }

    /// Whether every segment is a decoding row.
    pub(crate) fn decodes_only(&self) -> bool {
        self.rows == self.segments.len()
    }

    /// x: [1, T, ..]. Returns the kept rows, [1, R, ..]; `None` when no row is kept.
    pub(crate) fn kept(&self, x: &Array) -> Result<Option<Array>> {
        if !self.outputs_only {
            return Ok(Some(x.clone()));
        }
        let mut end = 0;
        let rows = self.segments.iter().flat_map(|segment| {
            end += segment.tokens;
            end - segment.outputs..end
        });
        let rows: Vec<i32> = rows.collect();
        match rows.len() {
            0 => Ok(None),
            kept if kept == x.shape()[1] as usize => Ok(Some(x.clone())),
            kept => take_axis(x, Array::from_slice(&rows, &[kept as i32]), 1).map(Some),
        }
    }

    /// x: [1, T, heads, head_dim]. Splits it as attention reads it.
    pub(crate) fn heads(&self, x: &Array) -> Result<Heads> {
        let [_, total, heads, dim] = *x.shape() else {
            return Err(Exception::custom(format!("heads of shape {:?}", x.shape())));
        };
        let rows = self.rows as i32;
        let part = |from, to| {
            if from == 0 && to == total {
                Ok(x.clone())
            } else {
                slice(x, &[0, from, 0, 0], &[1, to, heads, dim])
            }
        };
        let mut from = rows;
        let chunks = self.segments[self.rows..].iter().map(|segment| {
            from += segment.tokens;
            part(from - segment.tokens, from)?.transpose_axes(&[0, 2, 1, 3])
        });
        let chunks = chunks.collect::<Result<_>>()?;
        let rows =
            (rows > 0).then(|| part(0, rows)?.reshape(&[rows, heads, 1, dim])).transpose()?;
        Ok(Heads { rows, chunks })
    }

    /// x: [1, T, heads, head_dim]. Returns it rotated to the tokens' positions.
    pub(crate) fn rotate(&mut self, rope: &Rc<Rope>, x: &Array) -> Result<Heads> {
        if let Some(table) = self.table(rope, x) {
            return self.heads(&table.apply(x)?);
        }
        let mut heads = self.heads(x)?;
        if let Some(rows) = &mut heads.rows {
            let offsets: Vec<i32> =
                self.segments[..self.rows].iter().map(|segment| segment.cache.offset).collect();
            let array = self
                .row_offsets
                .get_or_insert_with(|| Array::from_slice(&offsets, &[offsets.len() as i32]));
            *rows = rope.apply_rows(rows, &offsets, array)?;
        }
        for (chunk, segment) in heads.chunks.iter_mut().zip(&self.segments[self.rows..]) {
            *chunk = rope.apply(chunk, segment.cache.offset)?;
        }
        Ok(heads)
    }

    fn table(&mut self, rope: &Rc<Rope>, x: &Array) -> Option<Rc<Table>> {
        if self.backend.fused_rope {
            return None;
        }
        let segments = &self.segments;
        let made = self.tables.entry(Rc::as_ptr(rope)).or_insert_with(|| {
            let ranges = segments.iter().map(|s| s.cache.offset..s.cache.offset + s.tokens);
            let positions: Vec<i32> = ranges.flatten().collect();
            rope.table(&positions, x.shape()[3], x.dtype()).map(Rc::new)
        });
        made.clone()
    }

    /// Appends keys and values to a slot and attends over everything in the slot, for each segment
    /// over its own. q has query heads, k and v have key heads. Returns [1, R, heads * head_dim] of
    /// the kept tokens; `None` when none is kept.
    pub(crate) fn attend(
        &mut self,
        slot: usize,
        sdpa: Sdpa,
        [q, k, v]: [Heads; 3],
    ) -> Result<Option<Array>> {
        let decoded = match [q.rows, k.rows, v.rows] {
            [Some(q), Some(k), Some(v)] => self.attend_rows(slot, sdpa, [q, k, v])?,
            _ => None,
        };
        let mut parts = Vec::from_iter(decoded);
        let chunks = q.chunks.iter().zip(k.chunks).zip(v.chunks);
        for (segment, ((q, k), v)) in self.segments[self.rows..].iter_mut().zip(chunks) {
            let (keys, values) = segment.cache.update(slot, &k, &v)?;
            let outputs = if self.outputs_only { segment.outputs } else { segment.tokens };
            if outputs == 0 {
                continue;
            }
            let q = last_tokens(q, outputs)?;
            let y = sdpa.forward(&q, &keys, &values, &mut self.masks)?; // [1, heads, L, head_dim]
            parts.push(flat_heads(&y)?);
        }
        join_tokens(parts)
    }

    /// Attention of the decoding rows. q: [D, heads, 1, head_dim]; k, v: [D, kv_heads, 1,
    /// head_dim]. Returns [1, R, heads * head_dim].
    fn attend_rows(&mut self, slot: usize, sdpa: Sdpa, qkv: [Array; 3]) -> Result<Option<Array>> {
        let rows = self.rows as i32;
        let apart = |x: &Array| match rows {
            1 => Ok(vec![x.clone()]),
            rows => split_equal(x, rows, 0),
        };
        let [q, k, v] = qkv;
        let unfused = Sdpa::decodes_unfused(&q, &self.masks);
        let q = if unfused { sdpa.decode_queries(&q, k.shape()[1])? } else { q };
        let q = apart(&q)?;
        // Joined, the keys and values of many rows take one write a row. One row alone takes two writes,
        // which cost less than joining.
        let joined = if rows > 1 { apart(&concatenate(&[&k, &v], 1)?)? } else { Vec::new() };
        let mut outputs = Vec::with_capacity(self.rows);
        for (row, segment) in self.segments[..self.rows].iter_mut().enumerate() {
            let (keys, values) = match joined.get(row) {
                Some(kv) => segment.cache.update_joined(slot, kv)?,
                None => segment.cache.update(slot, &k, &v)?,
            };
            if !self.outputs_only || segment.outputs > 0 {
                outputs.push(if unfused {
                    sdpa.decode_row(&q[row], &keys, &values)?
                } else {
                    sdpa.forward(&q[row], &keys, &values, &mut self.masks)?
                });
            }
        }
        let joined = match &outputs[..] {
            [] => return Ok(None),
            [only] => only.clone(),
            // [R, heads, 1, head_dim], or the same numbers as [R, kv_heads, shared, head_dim].
            outputs => concatenate(outputs, 0)?,
        };
        let [rows, heads, shared, dim] = *joined.shape() else { return Ok(Some(joined)) };
        joined.reshape(&[1, rows, heads * shared * dim]).map(Some)
    }

    /// Runs a recurrent layer over a slot: once for all decoding rows, once for each other segment.
    /// tensors: [1, T, ..] each. `run` receives their parts, [B, L, ..] each, and the previous
    /// state, [B, ..] each or empty. It returns [B, L, ..] and the new state. Returns the output
    /// for the kept tokens, [1, R, ..]; `None` when none is kept.
    pub(crate) fn each<const N: usize>(
        &mut self,
        slot: usize,
        tensors: [&Array; N],
        mut run: impl FnMut([Array; N], Vec<Array>) -> Result<(Array, Vec<Array>)>,
    ) -> Result<Option<Array>> {
        let total = self.tokens();
        let part = |x: &Array, from: i32, to: i32| -> Result<Array> {
            if from == 0 && to == total {
                return Ok(x.clone());
            }
            let mut start = vec![0; x.ndim()];
            let mut stop = x.shape().to_vec();
            (start[1], stop[1]) = (from, to);
            slice(x, &start, &stop)
        };
        let mut outputs = Vec::new();
        let rows = self.rows as i32;
        if rows > 0 {
            let inputs = each_array(tensors, |x| swap_batch(&part(x, 0, rows)?))?;
            let states = self.segments[..self.rows].iter_mut();
            let states = states.map(|segment| segment.cache.state(slot).map(|state| &*state));
            let before = StateSlot::join(&states.collect::<Result<Vec<_>>>()?)?;
            let (y, after) = run(inputs, before)?;
            for (segment, state) in
                self.segments[..self.rows].iter_mut().zip(StateSlot::share(after))
            {
                *segment.cache.state(slot)? = state;
            }
            outputs.push(swap_batch(&y)?);
        }
        let mut from = rows;
        for segment in &mut self.segments[self.rows..] {
            let to = from + segment.tokens;
            let inputs = each_array(tensors, |x| part(x, from, to))?;
            let state = segment.cache.state(slot)?;
            let (y, after) = run(inputs, state.arrays()?)?;
            *state = StateSlot::new(after);
            outputs.push(y);
            from = to;
        }
        match join_tokens(outputs)? {
            None => Ok(None),
            Some(y) => self.kept(&y),
        }
    }
}

fn each_array<const N: usize>(
    arrays: [&Array; N],
    make: impl Fn(&Array) -> Result<Array>,
) -> Result<[Array; N]> {
    let made = arrays.iter().map(|array| make(array)).collect::<Result<Vec<_>>>()?;
    made.try_into().map_err(|_| Exception::custom("an array for each"))
}

/// Reshapes [1, D, ..] to [D, 1, ..] and back; the numbers keep their order.
fn swap_batch(x: &Array) -> Result<Array> {
    match x.shape() {
        [1, 1, ..] => Ok(x.clone()),
        [a, b, rest @ ..] => x.reshape(&[&[*b, *a], rest].concat()),
        _ => Err(Exception::custom(format!("rows of shape {:?}", x.shape()))),
    }
}

/// q: [1, heads, L, head_dim]. Returns its last `outputs` tokens.
fn last_tokens(q: &Array, outputs: i32) -> Result<Array> {
    match *q.shape() {
        [batch, heads, length, dim] if outputs < length => {
            slice(q, &[0, 0, length - outputs, 0], &[batch, heads, length, dim])
        }
        _ => Ok(q.clone()),
    }
}

/// [1, heads, L, head_dim] to [1, L, heads * head_dim].
fn flat_heads(y: &Array) -> Result<Array> {
    let [_, heads, length, dim] = *y.shape() else { return Ok(y.clone()) };
    // For a single token both orders are the same in memory.
    let y = if length == 1 { y.clone() } else { y.transpose_axes(&[0, 2, 1, 3])? };
    y.reshape(&[1, length, heads * dim])
}

/// Concatenates parts of [1, L, ..]; `None` when there are none.
fn join_tokens(parts: Vec<Array>) -> Result<Option<Array>> {
    match <[Array; 1]>::try_from(parts) {
        Ok([only]) => Ok(Some(only)),
        Err(parts) if parts.is_empty() => Ok(None),
        Err(parts) => concatenate(&parts, 1).map(Some),
    }
}

/// Token ids in the models' input shape, [1, T].
pub(crate) fn token_array(tokens: &[u32]) -> Array {
    Array::from_slice(tokens, &[1, tokens.len() as i32])
}
