//! Inference-only layers: thin wrappers over MLX operations, without training code.

use std::f32::consts::E;

use crate::error::Result;
use mlx_rs::ops::indexing::take_axis;
use mlx_rs::ops::{addmm, concatenate, dequantize, matmul, multiply, quantized_matmul, sigmoid};
use mlx_rs::{Array, Dtype, fast};

use crate::error::LoadError;
use crate::mlx::bridge::{metal_is_available, slice};
use crate::types::Quantization;
use crate::weights::Weights;

/// A matrix, plain or packed. Each row produces one output.
#[derive(Debug)]
enum Matrix {
    /// `weight`: [rows, columns]; `turned`: its transposed view, made once.
    Plain {
        weight: Array,
        turned: Array,
    },
    Packed {
        weight: Array,
        scales: Array,
        biases: Array,
        quantization: Quantization,
    },
}

impl Matrix {
    fn load(weights: &mut Weights, path: &str, shape: [i32; 2]) -> Result<Self, LoadError> {
        match weights.quantization_of(path, shape[1]) {
            None => Ok(Self::plain(weights.float(&format!("{path}.weight"), &shape)?)),
            Some(quantization) => {
                let [weight, scales, biases] = weights.packed(path, &shape, quantization)?;
                Ok(Self::Packed { weight, scales, biases, quantization })
            }
        }
    }

    fn plain(weight: Array) -> Self {
        Self::Plain { turned: weight.t(), weight }
    }

    /// x: [.., columns]. Returns [.., rows].
    fn forward(&self, x: &Array, bias: Option<&Array>) -> Result<Array> {
        match (self, bias) {
            (Self::Plain { turned, .. }, None) => matmul(x, turned),
            (Self::Plain { turned, .. }, Some(bias)) => addmm(bias, x, turned, 1.0, 1.0),
            (Self::Packed { weight, scales, biases, quantization: q }, bias) => {
                let y = quantized_matmul(x, weight, scales, biases, true, q.group_size, q.bits)?;
                bias.map_or(Ok(y.clone()), |bias| y.add(bias))
            }
        }
    }

    /// Concatenates matrices with the same packing along the rows.
    fn stack(parts: &[&Self]) -> Result<Self> {
        let join = |pick: &dyn Fn(&Self) -> Option<Array>| {
            let arrays: Vec<Array> = parts.iter().filter_map(|part| pick(part)).collect();
            let joined = concatenate(&arrays, 0)?;
            joined.eval()?;
            Result::<Array>::Ok(joined)
        };
        match parts[0] {
            Self::Plain { .. } => Ok(Self::plain(join(&|part| part.array(0))?)),
            Self::Packed { quantization, .. } => Ok(Self::Packed {
                weight: join(&|part| part.array(0))?,
                scales: join(&|part| part.array(1))?,
                biases: join(&|part| part.array(2))?,
                quantization: *quantization,
            }),
        }
    }

    fn array(&self, index: usize) -> Option<Array> {
        match (self, index) {
            (Self::Plain { weight, .. } | Self::Packed { weight, .. }, 0) => Some(weight.clone()),
            (Self::Packed { scales, .. }, 1) => Some(scales.clone()),
            (Self::Packed { biases, .. }, 2) => Some(biases.clone()),
            _ => None,
        }
    }

    /// Rows `from..to`, as a view.
    fn rows(&self, from: i32, to: i32) -> Result<Self> {
        let cut = |a: &Array| slice(a, &[from, 0], &[to, a.shape()[1]]);
        Ok(match self {
            Self::Plain { weight, .. } => Self::plain(cut(weight)?),
            Self::Packed { weight, scales, biases, quantization } => Self::Packed {
                weight: cut(weight)?,
                scales: cut(scales)?,
                biases: cut(biases)?,
                quantization: *quantization,
            },
        })
    }

    fn quantization(&self) -> Option<Quantization> {
        match self {
            Self::Plain { .. } => None,
            Self::Packed { quantization, .. } => Some(*quantization),
        }
    }
}

/// y = x W^T + b.
#[derive(Debug)]
pub(crate) struct Linear {
    matrix: Matrix,
    bias: Option<Array>,
}

impl Linear {
    /// Loads `{path}.weight` of [rows, columns] and, if requested, `{path}.bias` of [rows].
    pub(crate) fn load(
        weights: &mut Weights,
        path: &str,
        [rows, columns]: [i32; 2],
        bias: bool,
    ) -> Result<Self, LoadError> {
        let matrix = Matrix::load(weights, path, [rows, columns])?;
        let bias = bias.then(|| weights.float(&format!("{path}.bias"), &[rows])).transpose()?;
        Ok(Self { matrix, bias })
    }

    /// x: [.., columns]. Returns [.., rows].
    pub(crate) fn forward(&self, x: &Array) -> Result<Array> {
        self.matrix.forward(x, self.bias.as_ref())
    }
}

/// Up to this many rows, one joined product is faster than two.
const FEW_ROWS: i32 = 16;

/// Linear layers over the same input. With few rows they are computed as one product, because the
/// number of operations dominates when each has little work.
#[derive(Debug)]
pub(crate) struct LinearGroup {
    parts: Vec<Linear>,
    /// Number of outputs of each part.
    rows: Vec<i32>,
    /// All parts in one matrix; `None` when they are packed differently.
    joined: Option<Linear>,
}

impl LinearGroup {
    /// Loads `{path}.q_proj`, `.k_proj` and `.v_proj` with the given numbers of rows.
    pub(crate) fn load_qkv(
        weights: &mut Weights,
        path: &str,
        [q, kv]: [i32; 2],
        hidden: i32,
        bias: bool,
    ) -> Result<Self, LoadError> {
        let parts = [("q_proj", q), ("k_proj", kv), ("v_proj", kv)];
        let parts = parts.map(|(name, rows)| (format!("{path}.{name}"), rows));
        Self::load(weights, &parts, hidden, bias)
    }

    /// Loads each `(path, rows)` over `columns` inputs. The parts become views of one matrix, so
    /// that keeping both costs no memory.
    pub(crate) fn load(
        weights: &mut Weights,
        parts: &[(String, i32)],
        columns: i32,
        bias: bool,
    ) -> Result<Self, LoadError> {
        let rows = parts.iter().map(|(_, rows)| *rows).collect();
        let mut parts = parts
            .iter()
            .map(|(path, rows)| Linear::load(weights, path, [*rows, columns], bias))
            .collect::<Result<Vec<_>, _>>()?;
        let joined = join(&mut parts).map_err(|error| LoadError::Mlx {
            path: Default::default(),
            what: error.what().to_owned(),
        })?;
        Ok(Self { parts, rows, joined })
    }

    /// x: [1, T, columns]; `few`: use one product if the parts can be joined. Returns each part's
    /// [1, T, rows].
    pub(crate) fn forward(&self, x: &Array, few: bool) -> Result<Vec<Array>> {
        match few.then(|| self.forward_joined(x)).flatten() {
            None => self.parts.iter().map(|part| part.forward(x)).collect(),
            Some(joined) => {
                let (joined, length, mut from) = (joined?, x.shape()[1], 0);
                let part = |rows: &i32| {
                    from += rows;
                    slice(&joined, &[0, 0, from - rows], &[1, length, from])
                };
                self.rows.iter().map(part).collect()
            }
        }
    }

    /// x: [1, T, columns]. Returns [1, T, all rows] if the parts can be joined.
    pub(crate) fn forward_joined(&self, x: &Array) -> Option<Result<Array>> {
        self.joined.as_ref().map(|joined| joined.forward(x))
    }
}

fn join(parts: &mut [Linear]) -> Result<Option<Linear>> {
    let packing = parts[0].matrix.quantization();
    if parts.iter().any(|part| part.matrix.quantization() != packing) {
        return Ok(None);
    }
    let matrices: Vec<&Matrix> = parts.iter().map(|part| &part.matrix).collect();
    let matrix = Matrix::stack(&matrices)?;
    let biases: Vec<Array> = parts.iter().filter_map(|part| part.bias.clone()).collect();
    let bias = if biases.len() == parts.len() { Some(concatenate(&biases, 0)?) } else { None };
    let mut from = 0;
    for part in parts {
        let rows = part.matrix.array(0).map_or(0, |weight| weight.shape()[0]);
        part.matrix = matrix.rows(from, from + rows)?;
        from += rows;
    }
    Ok(Some(Linear { matrix, bias }))
}

/// Token embeddings, which may also serve as the output head.
#[derive(Debug)]
pub(crate) struct Embedding {
    matrix: Matrix,
}

impl Embedding {
    /// Loads `{path}.weight` of [vocab, hidden].
    pub(crate) fn load(
        weights: &mut Weights,
        path: &str,
        shape: [i32; 2],
    ) -> Result<Self, LoadError> {
        Ok(Self { matrix: Matrix::load(weights, path, shape)? })
    }

    /// tokens: [1, T] ids below the vocabulary's size. Returns [1, T, hidden].
    pub(crate) fn forward(&self, tokens: &Array) -> Result<Array> {
        match &self.matrix {
            Matrix::Plain { weight, .. } => take_axis(weight, tokens, 0),
            Matrix::Packed { weight, scales, biases, quantization: q } => dequantize(
                take_axis(weight, tokens, 0)?,
                take_axis(scales, tokens, 0)?,
                &take_axis(biases, tokens, 0)?,
                q.group_size,
                q.bits,
            ),
        }
    }

    /// x: [.., hidden]. Returns logits [.., vocab].
    pub(crate) fn as_linear(&self, x: &Array) -> Result<Array> {
        self.matrix.forward(x, None)
    }
}

/// The input embeddings and the output head of a decoder.
#[derive(Debug)]
pub(crate) struct TokenHead {
    embed_tokens: Embedding,
    /// `None`: the embeddings serve as the output head.
    lm_head: Option<Linear>,
}

impl TokenHead {
    /// Loads `{embed}.weight` and, unless the two are `tied`, `{head}.weight`, both of [vocab,
    /// hidden]. If the config does not say, they are tied when there is no head.
    pub(crate) fn load(
        weights: &mut Weights,
        [embed, head]: [&str; 2],
        shape: [i32; 2],
        tied: Option<bool>,
    ) -> Result<Self, LoadError> {
        let tied = tied.unwrap_or(!weights.contains(&format!("{head}.weight")));
        Ok(Self {
            embed_tokens: Embedding::load(weights, embed, shape)?,
            lm_head: if tied { None } else { Some(Linear::load(weights, head, shape, false)?) },
        })
    }

    /// tokens: [1, T]. Returns [1, T, hidden].
    pub(crate) fn embed(&self, tokens: &Array) -> Result<Array> {
        self.embed_tokens.forward(tokens)
    }

    /// x: [1, R, hidden]. Returns [1, R, vocab].
    pub(crate) fn logits(&self, x: &Array) -> Result<Array> {
        match &self.lm_head {
            Some(head) => head.forward(x),
            None => self.embed_tokens.as_linear(x),
        }
    }
}

/// Root mean square normalization (arXiv 1910.07467).
#[derive(Debug)]
pub(crate) struct RmsNorm {
    pub(crate) weight: Array,
    pub(crate) eps: f32,
}

impl RmsNorm {
    /// Loads `{path}.weight` of [dims].
    pub(crate) fn load(
        weights: &mut Weights,
        path: &str,
        dims: i32,
        eps: f32,
    ) -> Result<Self, LoadError> {
        Ok(Self { weight: weights.float(&format!("{path}.weight"), &[dims])?, eps })
    }

    /// Loads it from checkpoints that store the weight minus 1.
    pub(crate) fn load_from_one(
        weights: &mut Weights,
        path: &str,
        dims: i32,
        eps: f32,
    ) -> Result<Self, LoadError> {
        let norm = Self::load(weights, path, dims, eps)?;
        let shift = || -> Result<Array> {
            let one = Array::from_f32(1.0).as_dtype(norm.weight.dtype())?;
            let weight = norm.weight.add(one)?;
            weight.eval()?;
            Ok(weight)
        };
        let weight = shift()
            .map_err(|error| LoadError::Mlx { path: path.into(), what: error.what().to_owned() })?;
        Ok(Self { weight, eps })
    }

    /// x: [.., dims]. Returns the same shape.
    pub(crate) fn forward(&self, x: &Array) -> Result<Array> {
        fast::rms_norm(x, Some(&self.weight), self.eps)
    }
}

/// The gated feed-forward layer: down(activation(gate(x)) * up(x)). With [`silu`] it is SwiGLU.
#[derive(Debug)]
pub(crate) struct GatedMlp {
    gate_up: LinearGroup,
    down: Linear,
    activation: Activation,
}

impl GatedMlp {
    /// Loads `{path}.gate_proj`, `.up_proj` and `.down_proj`.
    pub(crate) fn load(
        weights: &mut Weights,
        path: &str,
        [hidden, intermediate]: [i32; 2],
        bias: bool,
        activation: Activation,
    ) -> Result<Self, LoadError> {
        let parts = ["gate_proj", "up_proj"].map(|name| (format!("{path}.{name}"), intermediate));
        Ok(Self {
            gate_up: LinearGroup::load(weights, &parts, hidden, bias)?,
            down: Linear::load(
                weights,
                &format!("{path}.down_proj"),
                [hidden, intermediate],
                bias,
            )?,
            activation,
        })
    }

    /// x: [1, T, hidden]. Returns the same shape.
    pub(crate) fn forward(&self, x: &Array) -> Result<Array> {
        let parts = self.gate_up.forward(x, x.shape()[1] <= FEW_ROWS)?;
        let [gate, up] = &parts[..] else { unreachable!("two parts were loaded") };
        self.down.forward(&multiply((self.activation)(gate)?, up)?)
    }
}

/// The activation of a [`GatedMlp`]'s gate. Returns x's shape.
pub(crate) type Activation = fn(&Array) -> Result<Array>;

/// x times sigmoid(x).
pub(crate) fn silu(x: &Array) -> Result<Array> {
    if x.dtype() == Dtype::Float32 && !metal_is_available() {
        // x / (1 + e^-x): MLX's CPU backend takes three times as long for an exponential, which its
        // sigmoid is made of, as for a power.
        let denominator = Array::from_f32(E.recip()).power(x)?.add(Array::from_f32(1.0))?;
        return x.divide(denominator);
    }
    multiply(x, sigmoid(x)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pseudo-random numbers that are exact in float32.
    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 20) as f32 / 4096.0 - 0.5
        };
        (0..count).map(|_| next()).collect()
    }

    /// Compares every number of rows, weights of any shape and values of whole vectors with sums in
    /// float64, and checks that a row has the same bits alone and in a batch.
    #[test]
    fn a_row_of_a_product_does_not_depend_on_its_neighbours() {
        for (n, k) in [(1, 1), (5, 7), (50, 64), (97, 129), (700, 515)] {
            rows_do_not_depend_on_their_neighbours(n, k, true);
        }
        for (n, k) in [(8, 1), (16, 7), (24, 64), (64, 129), (520, 515)] {
            rows_do_not_depend_on_their_neighbours(n, k, false);
        }
    }

    /// Checks products with a matrix of n columns and k rows, or with its transpose.
    fn rows_do_not_depend_on_their_neighbours(n: usize, k: usize, transposed: bool) {
        let matrix = numbers(n * k, 1);
        let b = if transposed {
            Array::from_slice(&matrix, &[n as i32, k as i32]).t()
        } else {
            Array::from_slice(&matrix, &[k as i32, n as i32])
        };
        let at = |i: usize, j: usize| matrix[if transposed { j * k + i } else { i * n + j }];
        let case = |m: usize| format!("{m}x{n}x{k}, transposed: {transposed}");
        let mut alone: Vec<Vec<f32>> = Vec::new();
        for m in 1..=34 {
            let rows = numbers(m * k, 2);
            let a = Array::from_slice(&rows, &[m as i32, k as i32]);
            let product = matmul(&a, &b).unwrap();
            product.eval().unwrap();
            let product = product.as_slice::<f32>();
            for (r, row) in product.chunks_exact(n).enumerate() {
                for (j, &got) in row.iter().enumerate() {
                    let products = (0..k).map(|i| f64::from(rows[r * k + i]) * f64::from(at(i, j)));
                    let error = (f64::from(got) - products.sum::<f64>()).abs();
                    assert!(error < 1e-6 * k as f64, "{}: row {r}, column {j}", case(m));
                }
                // Another kernel handles more rows than this.
                if m <= 32 && r + 1 < m {
                    assert_eq!(row, alone[r], "{}: row {r}", case(m));
                }
            }
            // Row r of `numbers` is the same for every m, so the last row here is new.
            let last = Array::from_slice(&rows[(m - 1) * k..], &[1, k as i32]);
            let last = matmul(&last, &b).unwrap();
            last.eval().unwrap();
            alone.push(last.as_slice::<f32>().to_vec());
        }
    }
}
