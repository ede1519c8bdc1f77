//! Per-sequence attention caches.

use crate::error::Result;
use mlx_rs::ops::{concatenate, zeros_dtype};
use mlx_rs::{Array, Dtype};

use crate::bridge::{slice, slice_update};

/// Capacity grows by at least this many tokens at a time.
const GROW_TOKENS: i32 = 256;

/// The caches of all layers of one sequence. Every layer holds the same number of tokens between
/// steps.
#[derive(Debug)]
pub(crate) struct SequenceCache {
    /// One per layer.
    pub(crate) layers: Vec<KvCache>,
    /// Tokens held, which is the position of the next one.
    pub(crate) offset: i32,
    /// Tokens that the next growth makes room for at least.
    expected: i32,
}

impl SequenceCache {
    /// Empty caches for a sequence that is expected to reach `expected` tokens.
    pub(crate) fn new(layers: usize, expected: usize) -> Self {
        let layers = (0..layers).map(|_| KvCache::default()).collect();
        Self { layers, offset: 0, expected: expected as i32 }
    }

    /// Adds a layer's keys and values ([1, kv_heads, T, head_dim]) behind the `offset` tokens held;
    /// returns all keys and values, [1, kv_heads, offset + T, head_dim]. `offset` moves only when
    /// the step is complete.
    pub(crate) fn update(
        &mut self,
        layer: usize,
        keys: &Array,
        values: &Array,
    ) -> Result<(Array, Array)> {
        self.layers[layer].update(keys, values, self.offset, self.expected)
    }

    /// Every array held, to be evaluated with a step that asks for no logits.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.layers.iter().flat_map(|layer| layer.keys.iter().chain(&layer.values))
    }
}

/// Keys and values of one attention layer, [1, kv_heads, capacity, head_dim], of which the first
/// tokens are filled.
#[derive(Debug, Default)]
pub(crate) struct KvCache {
    keys: Option<Array>,
    values: Option<Array>,
}

impl KvCache {
    fn update(
        &mut self,
        keys: &Array,
        values: &Array,
        offset: i32,
        expected: i32,
    ) -> Result<(Array, Array)> {
        Ok((
            append(&mut self.keys, keys, offset, expected)?,
            append(&mut self.values, values, offset, expected)?,
        ))
    }
}

/// Writes `new` at `offset` of `buffer`, growing it when needed; returns the filled part.
fn append(buffer: &mut Option<Array>, new: &Array, offset: i32, expected: i32) -> Result<Array> {
    let [batch, heads, length, dim] = *new.shape() else {
        return Err(mlx_rs::error::Exception::custom(format!("KV of shape {:?}", new.shape())));
    };
    let end = offset + length;
    let grown = match buffer.take() {
        Some(buffer) if buffer.shape()[2] >= end => buffer,
        old => grow(old, [batch, heads, end.max(expected), dim], new.dtype(), offset)?,
    };
    let filled = slice_update(&grown, new, &[0, 0, offset, 0], &[batch, heads, end, dim])?;
    // The old handle goes before evaluation, so that MLX can write in place.
    drop(grown);
    let view = slice(&filled, &[0; 4], &[batch, heads, end, dim])?;
    *buffer = Some(filled);
    Ok(view)
}

fn grow(
    old: Option<Array>,
    [batch, heads, wanted, dim]: [i32; 4],
    dtype: Dtype,
    offset: i32,
) -> Result<Array> {
    let capacity = (wanted + GROW_TOKENS - 1) / GROW_TOKENS * GROW_TOKENS;
    let Some(old) = old else { return zeros_dtype(&[batch, heads, capacity, dim], dtype) };
    let kept = slice(&old, &[0; 4], &[batch, heads, offset, dim])?;
    let room = zeros_dtype(&[batch, heads, capacity - offset, dim], dtype)?;
    concatenate(&[kept, room], 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_across_growth() {
        crate::bridge::init().unwrap();
        let mut cache = SequenceCache::new(1, 1);
        let mut expected: Vec<f32> = Vec::new();
        for step in 0..5 {
            let new: Vec<f32> = (0..200).map(|i| (step * 1000 + i) as f32).collect();
            expected.extend_from_slice(&new);
            let array = Array::from_slice(&new, &[1, 1, 100, 2]);
            let (keys, values) = cache.update(0, &array, &array).unwrap();
            cache.offset += 100;
            assert_eq!(keys.shape(), [1, 1, cache.offset, 2]);
            assert_eq!(keys.contiguous().unwrap().as_slice::<f32>(), expected);
            assert_eq!(values.contiguous().unwrap().as_slice::<f32>(), expected);
        }
        assert_eq!(cache.layers[0].keys.as_ref().unwrap().shape()[2], 512);
    }
}
