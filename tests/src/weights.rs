//! Random weights that `tests/oracle/fixtures.py` makes byte for byte alike.
//!
//! Each tensor has its own splitmix64 stream, keyed by the seed and the tensor's name, so that
//! neither the order of tensors nor the number of shards changes a value. All arithmetic is in
//! float32 with one rounding an operation, which is exact in every language.

use half::f16;
use serde_json::{Map, Value};

use crate::fixtures::Dtype;

/// One tensor as a safetensors file holds it.
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: safetensors::Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// FNV-1a (64 bits) over the seed's little-endian bytes, then the name's bytes.
fn stream_key(seed: u64, name: &str) -> u64 {
    let bytes = seed.to_le_bytes().into_iter().chain(name.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |key, byte| {
        (key ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Splitmix64 (Steele, Lea and Flood 2014) from a state.
fn splitmix64(mut state: u64) -> impl Iterator<Item = u64> {
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// Floats in [-1, 1), from the top 24 bits of each output.
fn uniform(key: u64) -> impl Iterator<Item = f32> {
    splitmix64(key).map(|z| (z >> 40) as f32 * (1.0 / 8_388_608.0) - 1.0)
}

/// Half the range of a uniform distribution whose deviation is gain / sqrt(fan_in).
fn half_range(fan_in: usize, gain: f64) -> f32 {
    ((3.0 / fan_in as f64).sqrt() * gain) as f32
}

/// Collects the tensors of one model.
pub(crate) struct Builder<'a> {
    seed: u64,
    dtype: Dtype,
    quantization: Option<&'a Map<String, Value>>,
    pub(crate) tensors: Vec<Tensor>,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(
        seed: u64,
        dtype: Dtype,
        quantization: Option<&'a Map<String, Value>>,
    ) -> Self {
        Self { seed, dtype, quantization, tensors: Vec::new() }
    }

    /// A norm's weight (centre 1) or a bias (centre 0): centre + uniform / 8.
    pub(crate) fn vector(&mut self, name: String, size: usize, centre: f32) {
        let values = uniform(stream_key(self.seed, &name)).take(size);
        let bytes = self.cast(values.map(|value| value * 0.125 + centre));
        self.push(name, self.dtype.stored(), vec![size], bytes);
    }

    /// `name` of any shape, never packed. A value's standard deviation is gain / sqrt(fan_in).
    pub(crate) fn plain(&mut self, name: String, shape: &[usize], fan_in: usize, gain: f64) {
        let spread = half_range(fan_in, gain);
        let values = uniform(stream_key(self.seed, &name)).take(shape.iter().product());
        let bytes = self.cast(values.map(|value| value * spread));
        self.push(name, self.dtype.stored(), shape.to_vec(), bytes);
    }

    /// `path`.weight [rows, cols], or its packed weight, scales and biases.
    pub(crate) fn matrix(&mut self, path: &str, rows: usize, cols: usize, gain: f64) {
        self.matrices(path, &[rows, cols], gain);
    }

    /// One matrix, [rows, cols], or one for each expert, [experts, rows, cols].
    pub(crate) fn matrices(&mut self, path: &str, shape: &[usize], gain: f64) {
        let [outer @ .., cols] = shape else { panic!("{path}: a matrix has columns") };
        let (cols, rows) = (*cols, outer.iter().product::<usize>());
        let with_columns = |cols| outer.iter().copied().chain([cols]).collect::<Vec<usize>>();
        let name = format!("{path}.weight");
        let Some((bits, group)) = self.quantization_of(path, cols) else {
            return self.plain(name, shape, cols, gain);
        };
        let (spread, key) = (half_range(cols, gain), stream_key(self.seed, &name));
        let words = cols * bits / 32;
        let packed = splitmix64(key).take(rows * words);
        let packed = packed.flat_map(|z| ((z >> 32) as u32).to_le_bytes()).collect();
        self.push(name, safetensors::Dtype::U32, with_columns(words), packed);

        let levels = ((1_u32 << bits) - 1) as f32;
        let groups = cols / group;
        let jitter = uniform(stream_key(self.seed, &format!("{path}.scales")));
        let scales: Vec<f32> = jitter
            .take(rows * groups)
            .map(|jitter| (2.0 * spread / levels) * (1.0 + 0.25 * jitter))
            .collect();
        let bytes = self.cast(scales.iter().copied());
        self.push(format!("{path}.scales"), self.dtype.stored(), with_columns(groups), bytes);
        let bytes = self.cast(scales.iter().map(|scale| scale * (levels * -0.5)));
        self.push(format!("{path}.biases"), self.dtype.stored(), with_columns(groups), bytes);
    }

    /// A matrix and, if it has one, its bias.
    pub(crate) fn linear(&mut self, path: &str, rows: usize, cols: usize, bias: bool) {
        self.matrix(path, rows, cols, 2.0);
        if bias {
            self.vector(format!("{path}.bias"), rows, 0.0);
        }
    }

    /// (bits, group) of a matrix, or `None`: the rules by which mlx-lm reads config.json.
    fn quantization_of(&self, path: &str, cols: usize) -> Option<(usize, usize)> {
        let default = self.quantization?;
        let own = match default.get(path) {
            Some(Value::Object(own)) => own,
            Some(_) => return None,
            None => default,
        };
        let number = |key: &str| own.get(key).and_then(Value::as_u64).map(|n| n as usize);
        let (bits, group) = (number("bits")?, number("group_size")?);
        cols.is_multiple_of(group).then_some((bits, group))
    }

    fn cast(&self, values: impl Iterator<Item = f32>) -> Vec<u8> {
        match self.dtype {
            Dtype::F32 => values.flat_map(f32::to_le_bytes).collect(),
            Dtype::F16 => values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect(),
            // Truncation, not rounding.
            Dtype::BF16 => {
                values.flat_map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes()).collect()
            }
        }
    }

    fn push(&mut self, name: String, dtype: safetensors::Dtype, shape: Vec<usize>, bytes: Vec<u8>) {
        self.tensors.push(Tensor { name, dtype, shape, bytes });
    }
}
