//! Copies a sequence's caches into the bytes of records, and back.
//!
//! A record is one part: layer after layer, keys before values, each [heads, tokens, dim] in the
//! cache's own type; then, in a snapshot, the arrays of the recurrent layers. Everything else about
//! it follows from the model, whose layout is part of the namespace.

use std::ops::Range;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::plan::Needs;
use crate::error::Result;
use crate::kv::slots::{KvSlot, SequenceCache, Slot, SlotSpec, StateSlot};
use crate::mlx::bridge::{PageBuffer, item_bytes, raw_bytes};
use crate::sched::KvCost;

/// What the layers of a model keep.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Layout {
    layers: Vec<LayerLayout>,
}

#[derive(Debug, Clone, PartialEq)]
enum LayerLayout {
    /// `rows`: those of the keys, and as many of the values.
    Kv {
        window: Option<usize>,
        rows: Rows,
    },
    State(Vec<(Vec<i32>, Dtype)>),
}

/// The keys or the values of one token: `heads` rows of `dim` numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rows {
    heads: usize,
    dim: usize,
    dtype: Dtype,
}

impl Rows {
    fn row_bytes(self) -> usize {
        self.dim * item_bytes(self.dtype)
    }

    fn token_bytes(self) -> usize {
        self.heads * self.row_bytes()
    }
}

/// The tokens of a sequence that a record holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Extent {
    /// A full block, for the layers that attend to everything.
    Block(Range<usize>),
    /// A full block, for the layers with a window: the tokens inside the window at the end of the block.
    Window(Range<usize>),
    /// All layers at the end of the range, which starts where the last full block ends.
    Snapshot(Range<usize>),
}

impl Layout {
    /// The layout of a model, read from caches with any number of tokens.
    ///
    /// # Errors
    /// When a cache is still empty.
    pub(crate) fn of(cache: &SequenceCache) -> Result<Self> {
        let layers = cache.slots.iter().map(|layer| match layer {
            Slot::Kv(KvSlot { kv: Some(kv), window, .. }) => {
                let window = window.map(|window| window as usize);
                Ok(LayerLayout::Kv { window, rows: rows(kv)? })
            }
            Slot::Kv(_) => Err(Exception::custom("a layer kept nothing of a token")),
            Slot::State(state) => {
                let arrays = state.arrays()?;
                let shapes = arrays.iter().map(|array| (array.shape().to_vec(), array.dtype()));
                Ok(LayerLayout::State(shapes.collect()))
            }
        });
        Ok(Self { layers: layers.collect::<Result<_>>()? })
    }

    /// Everything that the bytes of a record depend on, for the namespace: numbers in order, as
    /// little-endian u64. The encoding of a layout must never change, or every cache is lost.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.layers.len() as u64];
        for layer in &self.layers {
            match layer {
                LayerLayout::Kv { window, rows } => {
                    // Zero stands for no window, because no window is empty.
                    out.extend([1, window.map_or(0, |window| window as u64)]);
                    // Once for the keys, once for the values.
                    for _ in 0..2 {
                        out.extend([rows.heads as u64, rows.dim as u64, dtype_number(rows.dtype)]);
                    }
                }
                LayerLayout::State(arrays) => {
                    out.extend([2, arrays.len() as u64]);
                    for (shape, dtype) in arrays {
                        out.extend([dtype_number(*dtype), shape.len() as u64]);
                        out.extend(shape.iter().map(|&n| n as u64));
                    }
                }
            }
        }
        out.into_iter().flat_map(u64::to_le_bytes).collect()
    }

    /// What a restore needs.
    pub(crate) fn needs(&self) -> Needs {
        let windows = self.layers.iter().filter_map(|layer| match layer {
            LayerLayout::Kv { window, .. } => *window,
            LayerLayout::State(_) => None,
        });
        let state = self.layers.iter().any(|layer| matches!(layer, LayerLayout::State(_)));
        Needs { look_back: windows.max().map_or(0, |window| window - 1), state }
    }

    /// Whether some layer has a window.
    pub(crate) fn has_windows(&self) -> bool {
        let windowed =
            |layer: &LayerLayout| matches!(layer, LayerLayout::Kv { window: Some(_), .. });
        self.layers.iter().any(windowed)
    }

    /// The type in which keys are kept; `None` when no layer has attention.
    pub(crate) fn kv_dtype(&self) -> Option<Dtype> {
        self.layers.iter().find_map(|layer| match layer {
            LayerLayout::Kv { rows, .. } => Some(rows.dtype),
            LayerLayout::State(_) => None,
        })
    }

    /// The memory that the caches of a sequence take.
    pub(crate) fn cost(&self) -> KvCost {
        let mut cost = KvCost { fixed_bytes: self.state_bytes() as u64, ..KvCost::default() };
        for layer in &self.layers {
            if let LayerLayout::Kv { window, rows } = layer {
                let bytes = 2 * rows.token_bytes() as u64;
                match window {
                    None => cost.token_bytes += bytes,
                    Some(window) => {
                        cost.windows.push((bytes, SequenceCache::window_capacity(*window)))
                    }
                }
            }
        }
        cost
    }

    /// Bytes of the recurrent layers.
    pub(crate) fn state_bytes(&self) -> usize {
        self.bytes(&Extent::Snapshot(0..0))
    }

    /// Bytes of one token in the layers that keep every token.
    pub(crate) fn token_bytes(&self) -> usize {
        self.bytes(&Extent::Block(0..1))
    }

    /// Bytes of a record.
    pub(crate) fn bytes(&self, extent: &Extent) -> usize {
        let of_layer = |(layer, tokens): (usize, Range<usize>)| match &self.layers[layer] {
            LayerLayout::Kv { rows, .. } => 2 * tokens.len() * rows.token_bytes(),
            LayerLayout::State(arrays) => arrays.iter().map(array_bytes).sum(),
        };
        self.pieces(extent).map(of_layer).sum()
    }

    /// The layers in a record, with the tokens of each that it holds.
    fn pieces(&self, extent: &Extent) -> impl Iterator<Item = (usize, Range<usize>)> {
        let (extent, layers) = (extent.clone(), self.layers.iter().enumerate());
        layers.filter_map(move |(index, layer)| {
            let inside = |tokens: &Range<usize>, window: usize| {
                tokens.start.max((tokens.end + 1).saturating_sub(window))..tokens.end
            };
            let tokens = match (&extent, layer) {
                (Extent::Block(tokens), LayerLayout::Kv { window: None, .. }) => tokens.clone(),
                (Extent::Snapshot(tokens), LayerLayout::Kv { window: None, .. }) => tokens.clone(),
                (
                    Extent::Window(tokens) | Extent::Snapshot(tokens),
                    LayerLayout::Kv { window: Some(window), .. },
                ) => inside(tokens, *window),
                (Extent::Snapshot(_), LayerLayout::State(_)) => 0..0,
                _ => return None,
            };
            Some((index, tokens))
        })
    }

    /// Whether the caches still have everything that the record needs. Tokens before a window are
    /// forgotten.
    pub(crate) fn covers(&self, cache: &SequenceCache, extent: &Extent) -> bool {
        self.pieces(extent).all(|(layer, tokens)| match &cache.slots[layer] {
            Slot::Kv(kv) => {
                tokens.is_empty()
                    || (tokens.start >= kv.base as usize && tokens.end <= cache.offset as usize)
            }
            Slot::State(state) => !state.is_empty(),
        })
    }

    /// Writes a record of evaluated caches into `out`, whose length is [`Self::bytes`]. `states` are the
    /// states of the recurrent layers at the position of a snapshot.
    pub(crate) fn gather(
        &self,
        cache: &SequenceCache,
        states: &[StateSlot],
        extent: &Extent,
        out: &mut [u8],
    ) -> Result<()> {
        let mut out = out;
        let mut states = states.iter();
        for (index, tokens) in self.pieces(extent) {
            match (&self.layers[index], &cache.slots[index]) {
                (LayerLayout::Kv { rows, .. }, Slot::Kv(slot)) => {
                    let Some(kv) = &slot.kv else { return Err(changed(index)) };
                    let tokens = tokens.start - slot.base as usize..tokens.end - slot.base as usize;
                    let (here, rest) = out.split_at_mut(2 * tokens.len() * rows.token_bytes());
                    gather_rows(*rows, kv, tokens, here)?;
                    out = rest;
                }
                (LayerLayout::State(_), Slot::State(_)) => {
                    let arrays = states.next().map_or(Ok(Vec::new()), StateSlot::arrays)?;
                    for array in arrays {
                        let array = array.contiguous()?;
                        let bytes = raw_bytes(&array)?;
                        let (here, rest) = out.split_at_mut(bytes.len());
                        here.copy_from_slice(bytes);
                        out = rest;
                    }
                }
                _ => return Err(changed(index)),
            }
        }
        match out.len() {
            0 => Ok(()),
            left => Err(Exception::custom(format!("a record was {left} bytes too long"))),
        }
    }
}

fn changed(layer: usize) -> Exception {
    Exception::custom(format!("the cache of layer {layer} is not what it was at loading"))
}

/// kv: [1, 2 * kv_heads, capacity, head_dim].
fn rows(kv: &Array) -> Result<Rows> {
    match *kv.shape() {
        [1, heads, _, dim] => {
            Ok(Rows { heads: heads as usize / 2, dim: dim as usize, dtype: kv.dtype() })
        }
        ref shape => Err(Exception::custom(format!("KV of shape {shape:?}"))),
    }
}

fn array_bytes((shape, dtype): &(Vec<i32>, Dtype)) -> usize {
    shape.iter().map(|&n| n as usize).product::<usize>() * item_bytes(*dtype)
}

/// Copies `tokens` of a buffer [1, 2 * heads, capacity, dim] to [2 * heads, tokens, dim].
fn gather_rows(rows: Rows, array: &Array, tokens: Range<usize>, out: &mut [u8]) -> Result<()> {
    let array = array.contiguous()?;
    let bytes = raw_bytes(&array)?;
    let head_bytes = bytes.len() / (2 * rows.heads);
    let length = tokens.len() * rows.row_bytes();
    if length == 0 {
        return Ok(());
    }
    let start = tokens.start * rows.row_bytes();
    for (from, to) in bytes.chunks_exact(head_bytes).zip(out.chunks_exact_mut(length)) {
        let Some(from) = from.get(start..start + length) else {
            return Err(Exception::custom("a cache holds less than its offset says"));
        };
        to.copy_from_slice(from);
    }
    Ok(())
}

/// Caches that are built from records.
#[derive(Debug)]
pub(crate) struct Rebuild<'a> {
    layout: &'a Layout,
    /// The tokens that the caches will hold.
    tokens: usize,
    layers: Vec<LayerBuild>,
}

#[derive(Debug)]
enum LayerBuild {
    /// A buffer for the tokens from `base` on, `capacity` tokens long.
    Kv {
        base: usize,
        capacity: usize,
        kv: PageBuffer,
    },
    State(Vec<Array>),
}

impl<'a> Rebuild<'a> {
    /// Makes room for `tokens` tokens, and for `expected` ones in layers that keep all tokens.
    pub(crate) fn new(layout: &'a Layout, tokens: usize, expected: usize) -> Self {
        let layers = layout.layers.iter().map(|layer| match layer {
            LayerLayout::State(_) => LayerBuild::State(Vec::new()),
            LayerLayout::Kv { window, rows } => {
                let base = window.map_or(0, |window| (tokens + 1).saturating_sub(window));
                let wanted = if window.is_some() { tokens - base } else { expected.max(tokens) };
                let capacity = SequenceCache::capacity_for(wanted);
                let kv = PageBuffer::zeroed(2 * capacity * rows.token_bytes());
                LayerBuild::Kv { base, capacity, kv }
            }
        });
        Self { layout, tokens, layers: layers.collect() }
    }

    /// Copies a record into the caches. False when the record has another length than it should.
    pub(crate) fn add_record(&mut self, extent: &Extent, bytes: &[u8]) -> Result<bool> {
        if bytes.len() != self.layout.bytes(extent) {
            return Ok(false);
        }
        let mut bytes = bytes;
        for (index, tokens) in self.layout.pieces(extent) {
            match (&self.layout.layers[index], &mut self.layers[index]) {
                (LayerLayout::Kv { rows, .. }, LayerBuild::Kv { base, capacity, kv }) => {
                    let wanted = tokens.start.max(*base)..tokens.end.min(self.tokens);
                    let (here, rest) = bytes.split_at(2 * tokens.len() * rows.token_bytes());
                    bytes = rest;
                    if wanted.start < wanted.end {
                        let target = (*base, *capacity);
                        scatter(*rows, here, &tokens, &wanted, target, kv.as_mut_slice());
                    }
                }
                (LayerLayout::State(shapes), LayerBuild::State(arrays)) => {
                    for shape in shapes {
                        let (here, rest) = bytes.split_at(array_bytes(shape));
                        bytes = rest;
                        let mut buffer = PageBuffer::zeroed(here.len());
                        buffer.as_mut_slice().copy_from_slice(here);
                        arrays.push(buffer.into_array(&shape.0, shape.1)?);
                    }
                }
                _ => return Err(changed(index)),
            }
        }
        Ok(true)
    }

    /// The complete caches.
    pub(crate) fn finish(self, kinds: &[SlotSpec], expected: usize) -> Result<SequenceCache> {
        let mut cache = SequenceCache::new(kinds, expected);
        cache.offset = self.tokens as i32;
        for ((built, layout), layer) in
            self.layers.into_iter().zip(&self.layout.layers).zip(&mut cache.slots)
        {
            match (built, layout, layer) {
                (
                    LayerBuild::Kv { base, capacity, kv },
                    LayerLayout::Kv { rows, .. },
                    Slot::Kv(slot),
                ) => {
                    let shape = [1, 2 * rows.heads as i32, capacity as i32, rows.dim as i32];
                    slot.kv = Some(kv.into_array(&shape, rows.dtype)?);
                    slot.base = base as i32;
                }
                (LayerBuild::State(arrays), LayerLayout::State(shapes), Slot::State(r)) => {
                    if arrays.len() != shapes.len() {
                        return Err(Exception::custom("a recurrent layer was not restored"));
                    }
                    *r = StateSlot::new(arrays);
                }
                _ => return Err(Exception::custom("the layers are not those of the layout")),
            }
        }
        Ok(cache)
    }
}

/// A number for each type that layers keep, independent of MLX.
fn dtype_number(dtype: Dtype) -> u64 {
    match dtype {
        Dtype::Float32 => 1,
        Dtype::Float16 => 2,
        Dtype::Bfloat16 => 3,
        // No layer keeps another type. Such types would differ by their size at least.
        other => 100 + item_bytes(other) as u64,
    }
}

/// Copies the tokens `wanted` of `from`, which holds `tokens` as [2 * heads, tokens, dim], into a buffer
/// [2 * heads, capacity, dim] whose first token is `base`.
fn scatter(
    rows: Rows,
    from: &[u8],
    tokens: &Range<usize>,
    wanted: &Range<usize>,
    (base, capacity): (usize, usize),
    out: &mut [u8],
) {
    let row = rows.row_bytes();
    let length = wanted.len() * row;
    let (source, target) = ((wanted.start - tokens.start) * row, (wanted.start - base) * row);
    let heads = from.chunks_exact(tokens.len() * row).zip(out.chunks_exact_mut(capacity * row));
    for (from, to) in heads {
        to[target..target + length].copy_from_slice(&from[source..source + length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(window: Option<usize>, heads: usize, dim: usize, dtype: Dtype) -> LayerLayout {
        let rows = Rows { heads, dim, dtype };
        LayerLayout::Kv { window, rows }
    }

    /// A changed encoding invalidates every cache, so it changes only together with `LAYOUT_VERSION`.
    #[test]
    fn a_layout_is_encoded_as_it_always_was() {
        let state = vec![(vec![1, 3, 96], Dtype::Bfloat16), (vec![1, 4, 16, 16], Dtype::Float32)];
        let layout = Layout {
            layers: vec![
                kv(None, 2, 32, Dtype::Float16),
                kv(Some(512), 1, 8, Dtype::Float32),
                LayerLayout::State(state),
            ],
        };
        let encoded = layout.encode();
        let numbers: Vec<u64> = encoded
            .chunks_exact(8)
            .map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
            .collect();
        let wanted = [
            &[3][..],
            &[1, 0, 2, 32, 2, 2, 32, 2],
            &[1, 512, 1, 8, 1, 1, 8, 1],
            &[2, 2, 3, 3, 1, 3, 96, 1, 4, 1, 4, 16, 16],
        ];
        assert_eq!(numbers, wanted.concat());
    }

    #[test]
    fn different_layouts_are_encoded_differently() {
        let one = |layer| Layout { layers: vec![layer] };
        let state = |arrays: &[(&[i32], Dtype)]| {
            let arrays = arrays.iter().map(|(shape, dtype)| (shape.to_vec(), *dtype));
            one(LayerLayout::State(arrays.collect()))
        };
        let f32 = Dtype::Float32;
        let all = [
            Layout { layers: Vec::new() },
            one(kv(None, 2, 32, f32)),
            one(kv(None, 32, 2, f32)),
            one(kv(Some(1), 2, 32, f32)),
            one(kv(None, 2, 32, Dtype::Float16)),
            one(kv(None, 2, 32, Dtype::Bfloat16)),
            Layout { layers: vec![kv(None, 2, 32, f32); 2] },
            state(&[]),
            state(&[(&[2, 3], f32)]),
            state(&[(&[2], f32), (&[3], f32)]),
            state(&[(&[3, 2], f32)]),
        ];
        let encoded: std::collections::BTreeSet<_> = all.iter().map(Layout::encode).collect();
        assert_eq!(encoded.len(), all.len());
    }
}
