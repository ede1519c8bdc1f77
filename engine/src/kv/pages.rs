//! Converts between a sequence's caches and the bytes of records.
//!
//! A record has one part. It contains, layer after layer, keys and then values, each [heads,
//! tokens, dim] in the cache's dtype; a snapshot also contains the arrays of the recurrent layers.
//! All other properties follow from the model, whose layout is part of the namespace.

use std::ops::Range;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::plan::Needs;
use crate::error::Result;
use crate::kv::slots::{KvSlot, SequenceCache, Slot, SlotSpec, StateSlot};
use crate::mlx::bridge::{PageBuffer, item_bytes, raw_bytes};
use crate::sched::KvCost;

/// The slots of a model's layers, with their shapes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Layout {
    layers: Vec<LayerLayout>,
}

#[derive(Debug, Clone, PartialEq)]
enum LayerLayout {
    Kv { window: Option<usize>, keys: Rows, values: Rows },
    State(Vec<(Vec<i32>, Dtype)>),
}

/// The keys or values of one token: `heads` rows of `dim` numbers.
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
    /// A full block of the layers that attend to all tokens.
    Block(Range<usize>),
    /// A full block of the windowed layers: the tokens that are inside the window at the block's
    /// end.
    Window(Range<usize>),
    /// All layers at the range's end. The range starts where the last full block ends.
    Snapshot(Range<usize>),
}

impl Layout {
    /// Reads the layout of a model from its caches, which may hold any number of tokens but 0.
    ///
    /// # Errors
    /// If a cache is still empty.
    pub(crate) fn of(cache: &SequenceCache) -> Result<Self> {
        let layers = cache.slots.iter().map(|layer| match layer {
            Slot::Kv(KvSlot { keys: Some(keys), values: Some(values), window, .. }) => {
                let window = window.map(|window| window as usize);
                Ok(LayerLayout::Kv { window, keys: rows(keys)?, values: rows(values)? })
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

    /// Encodes everything that a record's bytes depend on, for the namespace: numbers in order, as
    /// little-endian u64. The encoding of a given layout must never change, or every cache is lost.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.layers.len() as u64];
        for layer in &self.layers {
            match layer {
                LayerLayout::Kv { window, keys, values } => {
                    // 0 stands for no window, because no window has size 0.
                    out.extend([1, window.map_or(0, |window| window as u64)]);
                    for rows in [keys, values] {
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

    /// Returns the records that a restore needs.
    pub(crate) fn needs(&self) -> Needs {
        let windows = self.layers.iter().filter_map(|layer| match layer {
            LayerLayout::Kv { window, .. } => *window,
            LayerLayout::State(_) => None,
        });
        let state = self.layers.iter().any(|layer| matches!(layer, LayerLayout::State(_)));
        Needs { look_back: windows.max().map_or(0, |window| window - 1), state }
    }

    /// Whether any layer has a window.
    pub(crate) fn has_windows(&self) -> bool {
        let windowed =
            |layer: &LayerLayout| matches!(layer, LayerLayout::Kv { window: Some(_), .. });
        self.layers.iter().any(windowed)
    }

    /// The dtype of stored keys and values; `None` when no layer attends.
    pub(crate) fn kv_dtype(&self) -> Option<Dtype> {
        self.layers.iter().find_map(|layer| match layer {
            LayerLayout::Kv { keys, .. } => Some(keys.dtype),
            LayerLayout::State(_) => None,
        })
    }

    /// The memory cost of a sequence's caches.
    pub(crate) fn cost(&self) -> KvCost {
        let mut cost = KvCost { fixed_bytes: self.state_bytes() as u64, ..KvCost::default() };
        for layer in &self.layers {
            if let LayerLayout::Kv { window, keys, values } = layer {
                let bytes = (keys.token_bytes() + values.token_bytes()) as u64;
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

    /// Bytes of the recurrent layers' states.
    pub(crate) fn state_bytes(&self) -> usize {
        self.bytes(&Extent::Snapshot(0..0))
    }

    /// Bytes of one token in the layers that keep all tokens.
    pub(crate) fn token_bytes(&self) -> usize {
        self.bytes(&Extent::Block(0..1))
    }

    /// Bytes of a record.
    pub(crate) fn bytes(&self, extent: &Extent) -> usize {
        let of_layer = |(layer, tokens): (usize, Range<usize>)| match &self.layers[layer] {
            LayerLayout::Kv { keys, values, .. } => {
                tokens.len() * (keys.token_bytes() + values.token_bytes())
            }
            LayerLayout::State(arrays) => arrays.iter().map(array_bytes).sum(),
        };
        self.pieces(extent).map(of_layer).sum()
    }

    /// The layers in a record, each with its range of tokens.
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

    /// Whether the caches still hold everything that the record needs. Windowed layers drop old
    /// tokens.
    pub(crate) fn covers(&self, cache: &SequenceCache, extent: &Extent) -> bool {
        self.pieces(extent).all(|(layer, tokens)| match &cache.slots[layer] {
            Slot::Kv(kv) => {
                tokens.is_empty()
                    || (tokens.start >= kv.base as usize && tokens.end <= cache.offset as usize)
            }
            Slot::State(state) => !state.is_empty(),
        })
    }

    /// Copies evaluated caches into `out`, the bytes of a record, of length [`Self::bytes`].
    /// `states` are the states of the recurrent layers at a snapshot's position.
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
                (LayerLayout::Kv { keys, values, .. }, Slot::Kv(kv)) => {
                    for (rows, array) in [(keys, &kv.keys), (values, &kv.values)] {
                        let Some(array) = array else { return Err(changed(index)) };
                        let tokens = tokens.start - kv.base as usize..tokens.end - kv.base as usize;
                        let (here, rest) = out.split_at_mut(tokens.len() * rows.token_bytes());
                        gather_rows(*rows, array, tokens, here)?;
                        out = rest;
                    }
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

fn rows(array: &Array) -> Result<Rows> {
    match *array.shape() {
        [1, heads, _, dim] => {
            Ok(Rows { heads: heads as usize, dim: dim as usize, dtype: array.dtype() })
        }
        ref shape => Err(Exception::custom(format!("KV of shape {shape:?}"))),
    }
}

fn array_bytes((shape, dtype): &(Vec<i32>, Dtype)) -> usize {
    shape.iter().map(|&n| n as usize).product::<usize>() * item_bytes(*dtype)
}

/// Copies `tokens` of a buffer [1, heads, capacity, dim] to [heads, tokens, dim].
fn gather_rows(rows: Rows, array: &Array, tokens: Range<usize>, out: &mut [u8]) -> Result<()> {
    let array = array.contiguous()?;
    let bytes = raw_bytes(&array)?;
    let head_bytes = bytes.len() / rows.heads;
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

/// Caches that are being rebuilt from records.
#[derive(Debug)]
pub(crate) struct Rebuild<'a> {
    layout: &'a Layout,
    /// Number of tokens that the caches will hold.
    tokens: usize,
    layers: Vec<LayerBuild>,
}

#[derive(Debug)]
enum LayerBuild {
    /// Buffers for `capacity` tokens, starting at token `base`.
    Kv {
        base: usize,
        capacity: usize,
        keys: PageBuffer,
        values: PageBuffer,
    },
    State(Vec<Array>),
}

impl<'a> Rebuild<'a> {
    /// Allocates buffers for `tokens` tokens, or for `expected` tokens in layers that keep all of
    /// them.
    pub(crate) fn new(layout: &'a Layout, tokens: usize, expected: usize) -> Self {
        let layers = layout.layers.iter().map(|layer| match layer {
            LayerLayout::State(_) => LayerBuild::State(Vec::new()),
            LayerLayout::Kv { window, keys, values } => {
                let base = window.map_or(0, |window| (tokens + 1).saturating_sub(window));
                let wanted = if window.is_some() { tokens - base } else { expected.max(tokens) };
                let capacity = SequenceCache::capacity_for(wanted);
                let buffer = |rows: &Rows| PageBuffer::zeroed(capacity * rows.token_bytes());
                LayerBuild::Kv { base, capacity, keys: buffer(keys), values: buffer(values) }
            }
        });
        Self { layout, tokens, layers: layers.collect() }
    }

    /// Copies a record into the caches. Returns false when its length is wrong.
    pub(crate) fn add_record(&mut self, extent: &Extent, bytes: &[u8]) -> Result<bool> {
        if bytes.len() != self.layout.bytes(extent) {
            return Ok(false);
        }
        let mut bytes = bytes;
        for (index, tokens) in self.layout.pieces(extent) {
            match (&self.layout.layers[index], &mut self.layers[index]) {
                (
                    LayerLayout::Kv { keys: key_rows, values: value_rows, .. },
                    LayerBuild::Kv { base, capacity, keys, values },
                ) => {
                    let wanted = tokens.start.max(*base)..tokens.end.min(self.tokens);
                    for (rows, buffer) in [(key_rows, keys), (value_rows, values)] {
                        let (here, rest) = bytes.split_at(tokens.len() * rows.token_bytes());
                        bytes = rest;
                        if wanted.start < wanted.end {
                            let target = (*base, *capacity);
                            scatter(*rows, here, &tokens, &wanted, target, buffer.as_mut_slice());
                        }
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

    /// Returns the finished caches.
    pub(crate) fn finish(self, kinds: &[SlotSpec], expected: usize) -> Result<SequenceCache> {
        let mut cache = SequenceCache::new(kinds, expected);
        cache.offset = self.tokens as i32;
        for ((built, layout), layer) in
            self.layers.into_iter().zip(&self.layout.layers).zip(&mut cache.slots)
        {
            match (built, layout, layer) {
                (
                    LayerBuild::Kv { base, capacity, keys, values },
                    LayerLayout::Kv { keys: key_rows, values: value_rows, .. },
                    Slot::Kv(kv),
                ) => {
                    let array = |buffer: PageBuffer, rows: &Rows| {
                        let shape = [1, rows.heads as i32, capacity as i32, rows.dim as i32];
                        buffer.into_array(&shape, rows.dtype)
                    };
                    kv.keys = Some(array(keys, key_rows)?);
                    kv.values = Some(array(values, value_rows)?);
                    kv.base = base as i32;
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

/// Our own number for each dtype of a cache, independent of MLX's numbers.
fn dtype_number(dtype: Dtype) -> u64 {
    match dtype {
        Dtype::Float32 => 1,
        Dtype::Float16 => 2,
        Dtype::Bfloat16 => 3,
        // No layer uses any other dtype; different sizes at least get different numbers.
        other => 100 + item_bytes(other) as u64,
    }
}

/// Copies the tokens `wanted` of `from`, which holds `tokens` as [heads, tokens, dim], into a
/// buffer [heads, capacity, dim] whose first token is `base`.
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
        LayerLayout::Kv { window, keys: rows, values: rows }
    }

    /// A changed encoding invalidates every user's cache, so it may only change with
    /// `LAYOUT_VERSION`.
    #[test]
    fn the_encoding_of_a_layout_never_changes() {
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
