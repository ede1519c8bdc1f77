//! Per-sequence caches of attention and recurrent layers.

use crate::error::Result;
use mlx_rs::error::Exception;
use mlx_rs::ops::{concatenate, zeros_dtype};
use mlx_rs::{Array, Dtype};

use crate::mlx::bridge::{slice, slice_update};

/// Capacity grows by at least this many tokens at a time.
const GROW_TOKENS: i32 = 256;

/// A sliding layer keeps this many tokens more than its window needs when it forgets, so that it can
/// still be taken back by a few tokens.
const SLACK_TOKENS: i32 = 16;

/// What a layer keeps of the tokens it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LayerKind {
    /// Attention over all tokens.
    Full,
    /// Attention over the last `window` tokens, the newest included.
    Sliding { window: i32 },
    /// A state of fixed size.
    Recurrent,
}

/// The caches of all layers of one sequence. Between steps every layer has seen the same tokens.
#[derive(Debug)]
pub(crate) struct SequenceCache {
    /// One per layer.
    pub(crate) layers: Vec<LayerCache>,
    /// Tokens seen, which is the position of the next one.
    pub(crate) offset: i32,
    /// Tokens that the next growth makes room for at least.
    expected: i32,
    /// What keys and values are kept in; `None`: in the type that they are computed in.
    kv_dtype: Option<Dtype>,
}

/// The cache of one layer.
#[derive(Debug, Clone)]
pub(crate) enum LayerCache {
    Kv(KvCache),
    Recurrent(RecurrentCache),
}

/// Keys and values of one attention layer, [1, kv_heads, capacity, head_dim], of which the first
/// `offset - base` tokens are filled. `None` before the first token.
#[derive(Debug, Default, Clone)]
pub(crate) struct KvCache {
    pub(crate) keys: Option<Array>,
    pub(crate) values: Option<Array>,
    /// How far back a token sees, itself included; `None`: all the way.
    pub(crate) window: Option<i32>,
    /// The position of the first token in the buffers; 0 without a window.
    pub(crate) base: i32,
}

/// The state of one recurrent layer after the tokens seen. The layer's own code says which arrays
/// these are; there are none before the first token. An array here is never written to, so that
/// cloning the handles is a snapshot; it may still wait for evaluation.
#[derive(Debug, Default, Clone)]
pub(crate) struct RecurrentCache {
    pub(crate) arrays: Vec<Array>,
}

impl SequenceCache {
    /// Empty caches for a sequence that is expected to reach `expected` tokens.
    pub(crate) fn new(kinds: &[LayerKind], expected: usize) -> Self {
        let layer = |kind: &LayerKind| match *kind {
            LayerKind::Full => LayerCache::Kv(KvCache::default()),
            LayerKind::Sliding { window } => {
                LayerCache::Kv(KvCache { window: Some(window), ..KvCache::default() })
            }
            LayerKind::Recurrent => LayerCache::Recurrent(RecurrentCache::default()),
        };
        let layers = kinds.iter().map(layer).collect();
        Self { layers, offset: 0, expected: expected as i32, kv_dtype: None }
    }

    /// The same, keeping keys and values in this type.
    pub(crate) fn keeping(self, kv_dtype: Option<Dtype>) -> Self {
        Self { kv_dtype, ..self }
    }

    /// Tokens that a buffer for `tokens` tokens has room for.
    pub(crate) fn capacity_for(tokens: usize) -> usize {
        tokens.max(1).next_multiple_of(GROW_TOKENS as usize)
    }

    /// Tokens that a sliding layer's buffer has room for at most, while chunks are no longer than
    /// those of 256 tokens that capacity grows by.
    pub(crate) fn window_capacity(window: usize) -> usize {
        (window - 1 + (SLACK_TOKENS + GROW_TOKENS) as usize).next_multiple_of(GROW_TOKENS as usize)
    }

    /// Bytes held in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.arrays().map(Array::nbytes).sum()
    }

    /// Another sequence of the same tokens. Buffers are shared until one of the two writes, which
    /// copies them.
    pub(crate) fn fork(&self, expected: usize) -> Self {
        Self { layers: self.layers.clone(), expected: expected as i32, ..*self }
    }

    /// Tells how many tokens the sequence will reach.
    pub(crate) fn expect(&mut self, tokens: usize) {
        self.expected = tokens as i32;
    }

    /// Adds a layer's keys and values ([1, kv_heads, T, head_dim]) behind the tokens seen; returns
    /// all that the layer holds, [1, kv_heads, S, head_dim] with the new tokens last, in the type of
    /// the new ones. S is `offset + T`, in a sliding layer `window - 1 + T` at most.
    /// `offset` moves only when the step is complete.
    pub(crate) fn update(
        &mut self,
        layer: usize,
        keys: &Array,
        values: &Array,
    ) -> Result<(Array, Array)> {
        let LayerCache::Kv(cache) = &mut self.layers[layer] else {
            return Err(Exception::custom(format!("layer {layer} is recurrent and takes no KV")));
        };
        let Some(kept) = self.kv_dtype.filter(|kept| *kept != keys.dtype()) else {
            return cache.update(keys, values, self.offset, self.expected);
        };
        let new = (keys.as_dtype(kept)?, values.as_dtype(kept)?);
        let (all_keys, all_values) = cache.update(&new.0, &new.1, self.offset, self.expected)?;
        // The new tokens too are seen as they are kept: a prompt computed in parts, or restored,
        // comes out as one computed at once.
        Ok((all_keys.as_dtype(keys.dtype())?, all_values.as_dtype(values.dtype())?))
    }

    /// The state of a recurrent layer.
    pub(crate) fn recurrent(&mut self, layer: usize) -> Result<&mut RecurrentCache> {
        match &mut self.layers[layer] {
            LayerCache::Recurrent(cache) => Ok(cache),
            LayerCache::Kv(_) => {
                Err(Exception::custom(format!("layer {layer} attends and has no state")))
            }
        }
    }

    /// Every array held, to be evaluated with a step that asks for no logits.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.layers.iter().flat_map(|layer| {
            let (first, second): (&[Array], &[Array]) = match layer {
                LayerCache::Kv(cache) => (cache.keys.as_slice(), cache.values.as_slice()),
                LayerCache::Recurrent(cache) => (&cache.arrays, &[]),
            };
            first.iter().chain(second)
        })
    }
}

impl KvCache {
    fn update(
        &mut self,
        keys: &Array,
        values: &Array,
        offset: i32,
        expected: i32,
    ) -> Result<(Array, Array)> {
        let [_, _, length, _] = *keys.shape() else {
            return Err(Exception::custom(format!("KV of shape {:?}", keys.shape())));
        };
        let held = offset - self.base;
        let capacity = self.keys.as_ref().map_or(0, |keys| keys.shape()[2]);
        let fit = if held + length <= capacity {
            Fit { dropped: 0, held, capacity }
        } else {
            // Growing copies what is kept anyway: the moment to forget.
            let useful = self.window.map_or(i32::MAX, |w| (w - 1).saturating_add(SLACK_TOKENS));
            let kept = held.min(useful);
            let wanted = (kept + length).max(expected.min(useful));
            Fit { dropped: held - kept, held: kept, capacity: round_up(wanted) }
        };
        // The first new token looks back this far. Older tokens are held by chance: the result must
        // not depend on them, not even in its last bits.
        let from = self.window.map_or(0, |window| (fit.held - (window - 1)).max(0));
        let views = (
            append(&mut self.keys, keys, fit, from)?,
            append(&mut self.values, values, fit, from)?,
        );
        self.base += fit.dropped;
        Ok(views)
    }
}

/// How new tokens fit into a buffer.
#[derive(Debug, Clone, Copy)]
struct Fit {
    /// Tokens to forget from the front.
    dropped: i32,
    /// Tokens that stay.
    held: i32,
    /// Tokens that the buffer has room for in the end.
    capacity: i32,
}

fn round_up(tokens: i32) -> i32 {
    (tokens + GROW_TOKENS - 1) / GROW_TOKENS * GROW_TOKENS
}

/// Writes `new` behind what `buffer` holds; returns the filled part from token `from` on.
fn append(buffer: &mut Option<Array>, new: &Array, fit: Fit, from: i32) -> Result<Array> {
    let [batch, heads, length, dim] = *new.shape() else {
        return Err(Exception::custom(format!("KV of shape {:?}", new.shape())));
    };
    let end = fit.held + length;
    let roomy = match buffer.take() {
        Some(buffer) if buffer.shape()[2] == fit.capacity && fit.dropped == 0 => buffer,
        old => grow(old, [batch, heads, dim], new.dtype(), fit)?,
    };
    let filled = slice_update(&roomy, new, &[0, 0, fit.held, 0], &[batch, heads, end, dim])?;
    // The old handle goes before evaluation, so that MLX can write in place.
    drop(roomy);
    let view = slice(&filled, &[0, 0, from, 0], &[batch, heads, end, dim])?;
    *buffer = Some(filled);
    Ok(view)
}

fn grow(
    old: Option<Array>,
    [batch, heads, dim]: [i32; 3],
    dtype: Dtype,
    Fit { dropped, held, capacity }: Fit,
) -> Result<Array> {
    let Some(old) = old else { return zeros_dtype(&[batch, heads, capacity, dim], dtype) };
    let kept = slice(&old, &[0, 0, dropped, 0], &[batch, heads, dropped + held, dim])?;
    let room = zeros_dtype(&[batch, heads, capacity - held, dim], dtype)?;
    concatenate(&[kept, room], 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(cache: &SequenceCache) -> &KvCache {
        match &cache.layers[0] {
            LayerCache::Kv(cache) => cache,
            LayerCache::Recurrent(_) => panic!("a recurrent layer"),
        }
    }

    /// Tokens `from..to`, each with two components that tell its position.
    fn positions(from: i32, to: i32) -> Vec<f32> {
        (from..to).flat_map(|at| [at as f32, -at as f32]).collect()
    }

    /// Appends `length` tokens; returns the keys, after comparing the values with them.
    fn append_tokens(cache: &mut SequenceCache, length: i32) -> Vec<f32> {
        let (from, to) = (cache.offset, cache.offset + length);
        let array = Array::from_slice(&positions(from, to), &[1, 1, length, 2]);
        let (keys, values) = cache.update(0, &array, &array).unwrap();
        cache.offset = to;
        let read = |a: &Array| a.contiguous().unwrap().as_slice::<f32>().to_vec();
        assert_eq!(read(&keys), read(&values));
        read(&keys)
    }

    #[test]
    fn appends_across_growth() {
        crate::mlx::bridge::init().unwrap();
        let mut cache = SequenceCache::new(&[LayerKind::Full], 1);
        for step in 1..=5 {
            assert_eq!(append_tokens(&mut cache, 100), positions(0, step * 100));
        }
        assert_eq!(kv(&cache).keys.as_ref().unwrap().shape()[2], 512);
        assert_eq!(kv(&cache).base, 0);
    }

    #[test]
    fn keys_and_values_are_kept_in_another_type() {
        crate::mlx::bridge::init().unwrap();
        let cache = SequenceCache::new(&[LayerKind::Full], 1);
        let mut cache = cache.keeping(Some(Dtype::Float16));
        for _ in 0..3 {
            append_tokens(&mut cache, 100);
        }
        let third = Array::from_slice(&[1.0f32 / 3.0, 0.0], &[1, 1, 1, 2]);
        let (keys, _) = cache.update(0, &third, &third).unwrap();
        assert_eq!(keys.dtype(), Dtype::Float32, "attention sees the type that it computes in");
        let keys = keys.contiguous().unwrap().as_slice::<f32>().to_vec();
        let seen = keys[keys.len() - 2];
        assert!(seen != 1.0 / 3.0 && (seen - 1.0 / 3.0).abs() < 1e-3, "{seen} was not rounded");
        let held = &cache.fork(1);
        assert_eq!(kv(held).keys.as_ref().unwrap().dtype(), Dtype::Float16);
        assert_eq!(held.bytes(), 2 * 512 * 2 * 2);
    }

    #[test]
    fn expected_tokens_are_made_room_for_at_once() {
        crate::mlx::bridge::init().unwrap();
        let mut cache = SequenceCache::new(&[LayerKind::Full], 1000);
        append_tokens(&mut cache, 1);
        assert_eq!(kv(&cache).keys.as_ref().unwrap().shape()[2], 1024);
    }

    #[test]
    fn a_sliding_layer_holds_its_window_in_bounded_memory() {
        crate::mlx::bridge::init().unwrap();
        for (window, step) in [(1, 1), (20, 1), (20, 7), (300, 64), (20, 600), (300, 999)] {
            let mut cache = SequenceCache::new(&[LayerKind::Sliding { window }], 100_000);
            let limit = round_up(window - 1 + SLACK_TOKENS + step);
            for _ in 0..2500 / step + 2 {
                let before = cache.offset;
                let held = append_tokens(&mut cache, step);
                let base = kv(&cache).base;
                // The first new token sees `window - 1` tokens before it.
                let seen = positions((before - window + 1).max(0), cache.offset);
                assert_eq!(held, seen, "window {window}, step {step}");
                assert!(base <= (before - window + 1).max(0), "window {window}, step {step}");
                let capacity = kv(&cache).keys.as_ref().unwrap().shape()[2];
                assert!(capacity <= limit, "window {window}, step {step}: {capacity} tokens");
            }
            assert!(kv(&cache).base > 0, "window {window}, step {step}: nothing was forgotten");
        }
    }

    #[test]
    fn a_recurrent_layer_keeps_state_and_takes_no_keys() {
        crate::mlx::bridge::init().unwrap();
        let mut cache = SequenceCache::new(&[LayerKind::Recurrent, LayerKind::Full], 1);
        let array = Array::from_slice(&positions(0, 1), &[1, 1, 1, 2]);
        assert!(cache.update(0, &array, &array).is_err());
        assert!(cache.recurrent(1).is_err());
        assert!(cache.recurrent(0).unwrap().arrays.is_empty());
        cache.recurrent(0).unwrap().arrays = vec![array.clone()];
        cache.update(1, &array, &array).unwrap();
        assert_eq!(cache.arrays().count(), 3);
    }
}
