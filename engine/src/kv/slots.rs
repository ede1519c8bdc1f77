//! The cache slots of a sequence: keys and values of an attention layer, or the state of a
//! recurrent layer.

use std::rc::Rc;

use crate::error::Result;
use mlx_rs::error::Exception;
use mlx_rs::ops::{concatenate, zeros_dtype};
use mlx_rs::{Array, Dtype};

use crate::mlx::bridge::{slice, slice_update};

/// Minimum number of tokens by which capacity grows.
const GROW_TOKENS: i32 = 256;

/// Number of tokens that a sliding layer keeps beyond its window when it drops old ones, so that it
/// can still be rewound by a few tokens.
const SLACK_TOKENS: i32 = 16;

/// The type of one cache slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotSpec {
    /// Keys and values of all tokens, or of the last `window` tokens, the newest included.
    Kv { window: Option<i32> },
    /// A state of fixed size.
    State,
}

/// All slots of one sequence. Between steps every slot has seen the same tokens.
#[derive(Debug)]
pub(crate) struct SequenceCache {
    /// In the order of the model's [`SlotSpec`]s.
    pub(crate) slots: Vec<Slot>,
    /// Number of tokens seen, which is the position of the next one.
    pub(crate) offset: i32,
    /// Minimum number of tokens for which the next growth allocates.
    expected: i32,
    /// Dtype of cached keys and values; `None` for the compute dtype.
    kv_dtype: Option<Dtype>,
}

/// One slot of a sequence.
#[derive(Debug, Clone)]
pub(crate) enum Slot {
    Kv(KvSlot),
    State(StateSlot),
}

/// Keys and values of one attention layer, [1, kv_heads, capacity, head_dim], of which the first
/// `offset - base` tokens are filled. `None` before the first token.
#[derive(Debug, Default, Clone)]
pub(crate) struct KvSlot {
    pub(crate) keys: Option<Array>,
    pub(crate) values: Option<Array>,
    /// Number of tokens that a token attends to, itself included; `None` for all.
    pub(crate) window: Option<i32>,
    /// The position of the first token in the buffers; 0 without a window.
    pub(crate) base: i32,
}

/// The state of one recurrent layer after the tokens seen. The layer's code defines its arrays;
/// there are none before the first token. Sequences that decode together share arrays, with one row
/// each, for as long as they stay together. These arrays are never written to, so a clone of the
/// slot is a snapshot; they may be unevaluated.
#[derive(Debug, Clone, Default)]
pub(crate) struct StateSlot {
    /// [B, ..] each.
    arrays: Rc<[Array]>,
    row: i32,
}

impl StateSlot {
    /// The state of a single sequence: arrays of [1, ..].
    pub(crate) fn new(arrays: Vec<Array>) -> Self {
        Self { arrays: arrays.into(), row: 0 }
    }

    /// True before the first token.
    pub(crate) fn is_empty(&self) -> bool {
        self.arrays.is_empty()
    }

    /// Number of sequences that share the arrays.
    fn rows(&self) -> i32 {
        self.arrays.first().map_or(1, |array| array.shape()[0])
    }

    /// The sequence's own arrays, [1, ..] each. They are views if the arrays are shared.
    pub(crate) fn arrays(&self) -> Result<Vec<Array>> {
        if self.rows() == 1 {
            return Ok(self.arrays.to_vec());
        }
        let own = self.arrays.iter().map(|array| {
            let mut start = vec![0; array.ndim()];
            let mut stop = array.shape().to_vec();
            (start[0], stop[0]) = (self.row, self.row + 1);
            slice(array, &start, &stop)
        });
        own.collect()
    }

    /// Joins the arrays of several sequences into [B, ..] each. If exactly these sequences already
    /// share arrays in this order, returns those.
    pub(crate) fn join(slots: &[&StateSlot]) -> Result<Vec<Array>> {
        let [first, others @ ..] = slots else { return Ok(Vec::new()) };
        let together = first.rows() as usize == slots.len()
            && first.row == 0
            && others
                .iter()
                .zip(1..)
                .all(|(slot, row)| Rc::ptr_eq(&slot.arrays, &first.arrays) && slot.row == row);
        if together {
            return Ok(first.arrays.to_vec());
        }
        let own = slots.iter().map(|slot| slot.arrays()).collect::<Result<Vec<_>>>()?;
        let joined = (0..first.arrays.len()).map(|index| {
            let parts: Vec<&Array> = own.iter().filter_map(|arrays| arrays.get(index)).collect();
            concatenate(&parts, 0)
        });
        joined.collect()
    }

    /// Slots for sequences that share `arrays`, one row each, in order.
    pub(crate) fn share(arrays: Vec<Array>) -> impl Iterator<Item = StateSlot> {
        let arrays: Rc<[Array]> = arrays.into();
        (0..).map(move |row| StateSlot { arrays: Rc::clone(&arrays), row })
    }

    /// Bytes of the sequence's own row.
    pub(crate) fn bytes(&self) -> usize {
        self.arrays.iter().map(Array::nbytes).sum::<usize>() / self.rows() as usize
    }

    /// Copies the state out of shared arrays, so that it does not keep the other sequences' rows in
    /// memory.
    pub(crate) fn detached(&self) -> Result<Self> {
        if self.rows() == 1 {
            return Ok(self.clone());
        }
        let own = self.arrays()?;
        let own = own.iter().map(|array| array.contiguous()).collect::<Result<Vec<_>>>()?;
        mlx_rs::transforms::eval(&own)?;
        Ok(Self::new(own))
    }
}

impl SequenceCache {
    /// Empty caches for a sequence that is expected to reach `expected` tokens.
    pub(crate) fn new(specs: &[SlotSpec], expected: usize) -> Self {
        let slot = |spec: &SlotSpec| match *spec {
            SlotSpec::Kv { window } => Slot::Kv(KvSlot { window, ..KvSlot::default() }),
            SlotSpec::State => Slot::State(StateSlot::default()),
        };
        let slots = specs.iter().map(slot).collect();
        Self { slots, offset: 0, expected: expected as i32, kv_dtype: None }
    }

    /// Sets the dtype in which keys and values are cached.
    pub(crate) fn keeping(self, kv_dtype: Option<Dtype>) -> Self {
        Self { kv_dtype, ..self }
    }

    /// The capacity, in tokens, of a buffer for `tokens` tokens.
    pub(crate) fn capacity_for(tokens: usize) -> usize {
        tokens.max(1).next_multiple_of(GROW_TOKENS as usize)
    }

    /// The maximum capacity, in tokens, of a sliding layer's buffer while chunks have at most 256
    /// tokens, the number by which capacity grows.
    pub(crate) fn window_capacity(window: usize) -> usize {
        (window - 1 + (SLACK_TOKENS + GROW_TOKENS) as usize).next_multiple_of(GROW_TOKENS as usize)
    }

    /// The bytes of the caches' arrays in memory.
    pub(crate) fn bytes(&self) -> usize {
        let bytes = |slot: &Slot| match slot {
            Slot::Kv(kv) => kv.keys.iter().chain(&kv.values).map(Array::nbytes).sum(),
            Slot::State(state) => state.bytes(),
        };
        self.slots.iter().map(bytes).sum()
    }

    /// Copies states out of shared arrays, for a sequence that no longer decodes.
    pub(crate) fn detach(&mut self) -> Result<()> {
        for slot in &mut self.slots {
            if let Slot::State(state) = slot {
                *state = state.detached()?;
            }
        }
        Ok(())
    }

    /// Returns caches for another sequence with the same tokens. Buffers are shared until one of
    /// the two writes, which copies them.
    pub(crate) fn fork(&self, expected: usize) -> Self {
        Self { slots: self.slots.clone(), expected: expected as i32, ..*self }
    }

    /// Sets the number of tokens that the sequence is expected to reach.
    pub(crate) fn expect(&mut self, tokens: usize) {
        self.expected = tokens as i32;
    }

    /// Appends keys and values ([1, kv_heads, T, head_dim]) to a slot. Returns all keys and values
    /// of the slot, [1, kv_heads, S, head_dim], the new tokens last, in the dtype of the new ones.
    /// S is `offset + T`, or with a window at most `window - 1 + T`. `offset` changes only when the
    /// step is complete.
    pub(crate) fn update(
        &mut self,
        slot: usize,
        keys: &Array,
        values: &Array,
    ) -> Result<(Array, Array)> {
        let Slot::Kv(cache) = &mut self.slots[slot] else {
            return Err(Exception::custom(format!("slot {slot} is recurrent and takes no KV")));
        };
        let Some(kept) = self.kv_dtype.filter(|kept| *kept != keys.dtype()) else {
            return cache.update(keys, values, self.offset, self.expected);
        };
        let new = (keys.as_dtype(kept)?, values.as_dtype(kept)?);
        let (all_keys, all_values) = cache.update(&new.0, &new.1, self.offset, self.expected)?;
        // Attention also sees the new tokens in the cached dtype. Therefore a prompt that is
        // computed in chunks, or restored, gives the same result as one computed at once.
        Ok((all_keys.as_dtype(keys.dtype())?, all_values.as_dtype(values.dtype())?))
    }

    /// The state of a recurrent layer.
    pub(crate) fn state(&mut self, slot: usize) -> Result<&mut StateSlot> {
        match &mut self.slots[slot] {
            Slot::State(state) => Ok(state),
            Slot::Kv(_) => Err(Exception::custom(format!("slot {slot} attends and has no state"))),
        }
    }

    /// All arrays, which must be evaluated with a step that computes no logits.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.slots.iter().flat_map(|slot| {
            let (first, second): (&[Array], &[Array]) = match slot {
                Slot::Kv(cache) => (cache.keys.as_slice(), cache.values.as_slice()),
                Slot::State(state) => (&state.arrays, &[]),
            };
            first.iter().chain(second)
        })
    }
}

impl KvSlot {
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
        let len = offset - self.base;
        let capacity = self.keys.as_ref().map_or(0, |keys| keys.shape()[2]);
        let fit = if len + length <= capacity {
            Fit { dropped: 0, kept: len, capacity }
        } else {
            // Growing copies the buffer anyway, so old tokens are dropped now.
            let useful = self.window.map_or(i32::MAX, |w| (w - 1).saturating_add(SLACK_TOKENS));
            let kept = len.min(useful);
            let wanted = (kept + length).max(expected.min(useful));
            Fit { dropped: len - kept, kept, capacity: round_up(wanted) }
        };
        // The first new token looks back this far. Older tokens may still be in the buffer, but the
        // result must not depend on them, not even in its last bits.
        let from = self.window.map_or(0, |window| (fit.kept - (window - 1)).max(0));
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
    /// Number of tokens to drop from the front.
    dropped: i32,
    /// Number of tokens that stay.
    kept: i32,
    /// The resulting capacity in tokens.
    capacity: i32,
}

fn round_up(tokens: i32) -> i32 {
    (tokens + GROW_TOKENS - 1) / GROW_TOKENS * GROW_TOKENS
}

/// Appends `new` to `buffer`. Returns the filled part from token `from` on.
fn append(buffer: &mut Option<Array>, new: &Array, fit: Fit, from: i32) -> Result<Array> {
    let [batch, heads, length, dim] = *new.shape() else {
        return Err(Exception::custom(format!("KV of shape {:?}", new.shape())));
    };
    let end = fit.kept + length;
    let roomy = match buffer.take() {
        Some(buffer) if buffer.shape()[2] == fit.capacity && fit.dropped == 0 => buffer,
        old => grow(old, [batch, heads, dim], new.dtype(), fit)?,
    };
    let filled = slice_update(&roomy, new, &[0, 0, fit.kept, 0], &[batch, heads, end, dim])?;
    // Drop the old handle before evaluation, so that MLX can write in place.
    drop(roomy);
    let view = slice(&filled, &[0, 0, from, 0], &[batch, heads, end, dim])?;
    *buffer = Some(filled);
    Ok(view)
}

fn grow(
    old: Option<Array>,
    [batch, heads, dim]: [i32; 3],
    dtype: Dtype,
    Fit { dropped, kept, capacity }: Fit,
) -> Result<Array> {
    let Some(old) = old else { return zeros_dtype(&[batch, heads, capacity, dim], dtype) };
    let old = slice(&old, &[0, 0, dropped, 0], &[batch, heads, dropped + kept, dim])?;
    let room = zeros_dtype(&[batch, heads, capacity - kept, dim], dtype)?;
    concatenate(&[old, room], 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(cache: &SequenceCache) -> &KvSlot {
        match &cache.slots[0] {
            Slot::Kv(cache) => cache,
            Slot::State(_) => panic!("a recurrent layer"),
        }
    }

    /// Tokens `from..to`, each with two components that encode its position.
    fn positions(from: i32, to: i32) -> Vec<f32> {
        (from..to).flat_map(|at| [at as f32, -at as f32]).collect()
    }

    /// Appends `length` tokens. Returns the keys after comparing them with the values.
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
        let mut cache = SequenceCache::new(&[SlotSpec::Kv { window: None }], 1);
        for step in 1..=5 {
            assert_eq!(append_tokens(&mut cache, 100), positions(0, step * 100));
        }
        assert_eq!(kv(&cache).keys.as_ref().unwrap().shape()[2], 512);
        assert_eq!(kv(&cache).base, 0);
    }

    #[test]
    fn keys_and_values_are_kept_in_another_type() {
        crate::mlx::bridge::init().unwrap();
        let cache = SequenceCache::new(&[SlotSpec::Kv { window: None }], 1);
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
        let fork = &cache.fork(1);
        assert_eq!(kv(fork).keys.as_ref().unwrap().dtype(), Dtype::Float16);
        assert_eq!(fork.bytes(), 2 * 512 * 2 * 2);
    }

    #[test]
    fn buffers_are_allocated_for_the_expected_tokens() {
        crate::mlx::bridge::init().unwrap();
        let mut cache = SequenceCache::new(&[SlotSpec::Kv { window: None }], 1000);
        append_tokens(&mut cache, 1);
        assert_eq!(kv(&cache).keys.as_ref().unwrap().shape()[2], 1024);
    }

    #[test]
    fn a_sliding_layer_holds_its_window_in_bounded_memory() {
        crate::mlx::bridge::init().unwrap();
        for (window, step) in [(1, 1), (20, 1), (20, 7), (300, 64), (20, 600), (300, 999)] {
            let mut cache = SequenceCache::new(&[SlotSpec::Kv { window: Some(window) }], 100_000);
            let limit = round_up(window - 1 + SLACK_TOKENS + step);
            for _ in 0..2500 / step + 2 {
                let before = cache.offset;
                let there = append_tokens(&mut cache, step);
                let base = kv(&cache).base;
                // The first new token sees `window - 1` tokens before it.
                let seen = positions((before - window + 1).max(0), cache.offset);
                assert_eq!(there, seen, "window {window}, step {step}");
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
        let mut cache = SequenceCache::new(&[SlotSpec::State, SlotSpec::Kv { window: None }], 1);
        let array = Array::from_slice(&positions(0, 1), &[1, 1, 1, 2]);
        assert!(cache.update(0, &array, &array).is_err());
        assert!(cache.state(1).is_err());
        assert!(cache.state(0).unwrap().is_empty());
        *cache.state(0).unwrap() = StateSlot::new(vec![array.clone()]);
        cache.update(1, &array, &array).unwrap();
        assert_eq!(cache.arrays().count(), 3);
    }
}
