//! The gated delta rule (Gated DeltaNet, arXiv 2412.06464), in float32.
//!
//! Each head keeps a matrix S of [Dv, Dk]. For each token, S decays by g, is read at the token's
//! key, and is updated with the difference between the value and that read, scaled by beta:
//!
//! ```text
//! S <- g S;   delta = beta (v - S k);   S <- S + delta k^T;   y = S q
//! ```
//!
//! There are three implementations: one token in plain operations; blocks of tokens by matrix
//! products, for prefill without Metal; and a Metal kernel that processes all tokens. The kernel
//! has not been run yet: it needs a Mac, where its test below is not skipped.

use crate::error::Result;
use mlx_rs::linalg::tri_inv;
use mlx_rs::ops::{
    concatenate, exp, eye, matmul, multiply, pad, select, split_equal, subtract, tri, tril,
    zeros_dtype,
};
use mlx_rs::{Array, Dtype, Stream, with_stream};

use crate::mlx::bridge::{gated_delta_kernel, slice};

/// Number of tokens in a block. Work in a block is matrix products; the state links the blocks.
const BLOCK_TOKENS: i32 = 64;

/// The inputs of T tokens of one sequence, or of one token of each of B sequences. `Hv` is a
/// multiple of `Hk`.
#[derive(Debug)]
pub(crate) struct Inputs {
    /// [B, T, Hk, Dk], scaled.
    pub(crate) q: Array,
    /// [B, T, Hk, Dk], of unit length.
    pub(crate) k: Array,
    /// [B, T, Hv, Dv]
    pub(crate) v: Array,
    /// The logarithm of g, [B, T, Hv], at most 0, float32.
    pub(crate) log_decay: Array,
    /// [B, T, Hv]
    pub(crate) beta: Array,
}

/// The sizes [sequences, tokens, key heads, value heads, Dk, Dv].
type Sizes = [i32; 6];

impl Inputs {
    fn sizes(&self) -> Result<Sizes> {
        match (self.k.shape(), self.v.shape()) {
            (&[batch, tokens, key_heads, dk], &[_, _, heads, dv]) if heads % key_heads == 0 => {
                Ok([batch, tokens, key_heads, heads, dk, dv])
            }
            _ => Err(mlx_rs::error::Exception::custom(format!(
                "the delta rule over keys of {:?} and values of {:?}",
                self.k.shape(),
                self.v.shape()
            ))),
        }
    }
}

/// Applies the rule from `state` ([B, Hv, Dv, Dk], float32; `None` for zeros), with the Metal
/// kernel if `has_kernels`. Returns y, [B, T, Hv, Dv] in v's dtype, and the state after the last
/// token.
///
/// # Errors
/// If both B and T are greater than 1.
pub(crate) fn gated_delta(
    inputs: &Inputs,
    state: Option<&Array>,
    has_kernels: bool,
) -> Result<(Array, Array)> {
    let sizes @ [batch, tokens, _, heads, dk, dv] = inputs.sizes()?;
    let state = match state {
        Some(state) => state.clone(),
        None => zeros_dtype(&[batch, heads, dv, dk], Dtype::Float32)?,
    };
    if has_kernels && dk % 32 == 0 {
        return gated_delta_kernel([
            &inputs.q,
            &inputs.k,
            &inputs.v,
            &inputs.log_decay,
            &inputs.beta,
            &state,
        ]);
    }
    match (batch, tokens) {
        (_, 1) => one_token(inputs, &state, sizes),
        (1, _) => in_blocks(inputs, &state, sizes),
        _ => {
            Err(mlx_rs::error::Exception::custom("the delta rule over chunks of several sequences"))
        }
    }
}

/// Applies the rule for T = 1 and any number of sequences.
fn one_token(
    inputs: &Inputs,
    state: &Array,
    [batch, _, key_heads, heads, dk, dv]: Sizes,
) -> Result<(Array, Array)> {
    let group = heads / key_heads;
    let float = |a: &Array, shape: &[i32]| a.as_dtype(Dtype::Float32)?.reshape(shape);
    let k = float(&inputs.k, &[batch, key_heads, 1, dk, 1])?;
    let q = float(&inputs.q, &[batch, key_heads, 1, dk, 1])?;
    let v = float(&inputs.v, &[batch, key_heads, group, dv, 1])?;
    let beta = float(&inputs.beta, &[batch, key_heads, group, 1, 1])?;
    let decay = exp(float(&inputs.log_decay, &[batch, key_heads, group, 1, 1])?)?;

    let state = multiply(state.reshape(&[batch, key_heads, group, dv, dk])?, decay)?;
    let recalled = matmul(&state, &k)?; // [B, Hk, group, Dv, 1]
    let delta = multiply(subtract(v, recalled)?, beta)?;
    let state = state.add(matmul(delta, k.swap_axes(3, 4)?)?)?;
    let y = matmul(&state, q)?; // [B, Hk, group, Dv, 1]
    let y = y.reshape(&[batch, 1, heads, dv])?.as_dtype(inputs.v.dtype())?;
    Ok((y, state.reshape(&[batch, heads, dv, dk])?))
}

/// Applies the rule in blocks of at most [`BLOCK_TOKENS`] tokens. With G as the logarithm of the
/// decay from a block's start to a token, the deltas of a block solve a triangular system:
///
/// ```text
/// delta_t = beta_t (v_t - exp(G_t) S k_t - sum over i < t of exp(G_t - G_i) (k_t . k_i) delta_i)
/// ```
///
/// All terms without S are computed for all blocks at once.
fn in_blocks(inputs: &Inputs, state: &Array, sizes: Sizes) -> Result<(Array, Array)> {
    let [_, tokens, key_heads, heads, dk, dv] = sizes;
    let group = heads / key_heads;
    let length = tokens.min(BLOCK_TOKENS);
    let count = (tokens + length - 1) / length;
    // The last block is padded with tokens of zeros, which neither decay nor write.
    let blocks = |a: &Array, heads: i32, group: i32, dim: i32| -> Result<Array> {
        let a = a.as_dtype(Dtype::Float32)?.reshape(&[tokens, heads, group, dim])?;
        let filled =
            pad(a, &[(0, count * length - tokens), (0, 0), (0, 0), (0, 0)][..], None, None)?;
        filled.reshape(&[count, length, heads, group, dim])?.transpose_axes(&[0, 2, 3, 1, 4])
    };
    let q = blocks(&inputs.q, key_heads, 1, dk)?; // [N, Hk, 1, L, Dk]
    let k = blocks(&inputs.k, key_heads, 1, dk)?; // [N, Hk, 1, L, Dk]
    let v = blocks(&inputs.v, key_heads, group, dv)?; // [N, Hk, group, L, Dv]
    let beta = blocks(&inputs.beta, key_heads, group, 1)?; // [N, Hk, group, L, 1]
    let log_decay = blocks(&inputs.log_decay, key_heads, group, 1)?; // [N, Hk, group, L, 1]

    let decay = decays(&log_decay, length)?; // [N, Hk, group, L, L]
    let from_start = exp(log_decay.cumsum(3, false, true)?)?; // [N, Hk, group, L, 1]
    let last_row = [count, key_heads, group, length, length];
    let to_end = slice(&decay, &[0, 0, 0, length - 1, 0], &last_row)?.swap_axes(3, 4)?;
    let whole =
        slice(&from_start, &[0, 0, 0, length - 1, 0], &[count, key_heads, group, length, 1])?;

    let turned = k.swap_axes(3, 4)?; // [N, Hk, 1, Dk, L]
    let overlap = multiply(multiply(matmul(&k, &turned)?, &decay)?, &beta)?;
    let system = tril(overlap, -1)?.add(eye::<f32>(length, None, None)?)?;
    // MLX inverts on the CPU only. `with_device` would make a stream, and so a thread, each time.
    let solve = with_stream(&Stream::cpu(), || tri_inv(&system, Some(false)))?;
    let from_values = matmul(&solve, multiply(&v, &beta)?)?; // [N, Hk, group, L, Dv]
    let from_state = matmul(&solve, multiply(multiply(&k, &beta)?, &from_start)?)?; // [.., L, Dk]
    let scores = multiply(matmul(&q, &turned)?, &decay)?; // [N, Hk, group, L, L]
    let q_in = multiply(&q, &from_start)?; // [N, Hk, group, L, Dk]
    let k_out = multiply(&k, to_end)?; // [N, Hk, group, L, Dk]

    let mut state = state.reshape(&[1, key_heads, group, dv, dk])?;
    let by_block = |a: &Array| split_equal(a, count, 0);
    let parts = [
        by_block(&from_values)?,
        by_block(&from_state)?,
        by_block(&scores)?,
        by_block(&q_in)?,
        by_block(&k_out)?,
        by_block(&whole)?,
    ];
    let mut outputs = Vec::with_capacity(count as usize);
    for n in 0..count as usize {
        let [from_values, from_state, scores, q_in, k_out, whole] =
            parts.each_ref().map(|part| &part[n]);
        let read = state.swap_axes(3, 4)?; // [1, Hk, group, Dk, Dv]
        let delta = subtract(from_values, matmul(from_state, &read)?)?; // [1, Hk, group, L, Dv]
        outputs.push(matmul(q_in, &read)?.add(matmul(scores, &delta)?)?);
        state = multiply(&state, whole)?.add(matmul(delta.swap_axes(3, 4)?, k_out)?)?;
    }
    let y = concatenate(&outputs, 0)?.transpose_axes(&[0, 3, 1, 2, 4])?; // [N, L, Hk, group, Dv]
    let y = slice(&y.reshape(&[1, count * length, heads, dv])?, &[0; 4], &[1, tokens, heads, dv])?;
    Ok((y.as_dtype(inputs.v.dtype())?, state.reshape(&[1, heads, dv, dk])?))
}

/// [.., L, L]: the fraction of token i's write that is left at token t; 0 for i > t. Each entry is
/// the exponential of a sum over the tokens' own logarithms. A difference of two long sums would
/// lose its precision after a single strong decay.
fn decays(log_decay: &Array, length: i32) -> Result<Array> {
    let after = tri::<bool>(length, None, Some(-1))?; // token j comes after token i
    let sums = select(after, log_decay, Array::from_f32(0.0))?.cumsum(3, false, true)?;
    tril(exp(sums)?, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mlx::bridge::metal_is_available;

    type Rule = fn(&Inputs, &Array, Sizes) -> Result<(Array, Array)>;

    fn kernel(inputs: &Inputs, state: &Array, _: Sizes) -> Result<(Array, Array)> {
        gated_delta_kernel([
            &inputs.q,
            &inputs.k,
            &inputs.v,
            &inputs.log_decay,
            &inputs.beta,
            state,
        ])
    }

    fn token_by_token(inputs: &Inputs, state: &Array, sizes: Sizes) -> Result<(Array, Array)> {
        let (mut state, mut outputs) = (state.clone(), Vec::new());
        for t in 0..sizes[1] {
            let (y, after) = one_token(&part(inputs, t, t + 1), &state, sizes)?;
            outputs.push(y);
            state = after;
        }
        Ok((concatenate(&outputs, 1)?, state))
    }

    fn noise(count: i32, salt: u32) -> Vec<f32> {
        let mut x = salt.wrapping_mul(2_654_435_761) | 1;
        let mut next = move || {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            x as f32 / u32::MAX as f32 * 2.0 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    /// The strength of the decay. With [`Decay::Reset`], some tokens forget everything.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Decay {
        Weak,
        Reset,
        /// All keys are equal and nothing decays: the hardest triangular system.
        Repeated,
    }

    const HEADS: [i32; 2] = [2, 4];
    const DIMS: [i32; 2] = [32, 16];

    fn inputs(tokens: i32, decay: Decay) -> Inputs {
        let ([key_heads, heads], [dk, dv]) = (HEADS, DIMS);
        let unit = |salt| {
            let mut values = noise(tokens * key_heads * dk, salt);
            for row in values.chunks_mut(dk as usize) {
                if decay == Decay::Repeated {
                    row.copy_from_slice(&noise(dk, salt));
                }
                let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
                row.iter_mut().for_each(|x| *x /= norm);
            }
            Array::from_slice(&values, &[1, tokens, key_heads, dk])
        };
        let gates = noise(tokens * heads, 4).into_iter().enumerate().map(|(i, x)| match decay {
            Decay::Weak => -0.2 * (x + 1.0),
            Decay::Reset if i % 7 == 3 => -5000.0,
            Decay::Reset => -0.01 * (x + 1.0),
            Decay::Repeated => 0.0,
        });
        let beta = noise(tokens * heads, 5).into_iter().map(|x| match decay {
            Decay::Repeated => 0.95,
            _ => 0.5 + 0.49 * x,
        });
        Inputs {
            q: unit(1),
            k: unit(2),
            v: Array::from_slice(&noise(tokens * heads * dv, 3), &[1, tokens, heads, dv]),
            log_decay: Array::from_iter(gates, &[1, tokens, heads]),
            beta: Array::from_iter(beta, &[1, tokens, heads]),
        }
    }

    fn part(inputs: &Inputs, from: i32, to: i32) -> Inputs {
        let cut = |a: &Array| {
            let mut stop = a.shape().to_vec();
            let mut start = vec![0; stop.len()];
            (start[1], stop[1]) = (from, to);
            slice(a, &start, &stop).unwrap()
        };
        Inputs {
            q: cut(&inputs.q),
            k: cut(&inputs.k),
            v: cut(&inputs.v),
            log_decay: cut(&inputs.log_decay),
            beta: cut(&inputs.beta),
        }
    }

    fn start() -> Array {
        let ([_, heads], [dk, dv]) = (HEADS, DIMS);
        Array::from_slice(&noise(heads * dv * dk, 6), &[1, heads, dv, dk])
    }

    fn read(a: &Array) -> Vec<f32> {
        a.contiguous().unwrap().as_slice::<f32>().to_vec()
    }

    /// The rule computed from its definition in float64. Returns y and the state.
    fn by_definition(inputs: &Inputs) -> (Vec<f64>, Vec<f64>) {
        let [_, tokens, key_heads, heads, dk, dv] = inputs.sizes().unwrap().map(|n| n as usize);
        let double = |a: &Array| read(a).into_iter().map(f64::from).collect::<Vec<_>>();
        let (q, k, v) = (double(&inputs.q), double(&inputs.k), double(&inputs.v));
        let (gates, beta, mut state) =
            (double(&inputs.log_decay), double(&inputs.beta), double(&start()));
        let mut y = vec![0.0; tokens * heads * dv];
        for (t, h, row) in (0..tokens)
            .flat_map(|t| (0..heads).flat_map(move |h| (0..dv).map(move |row| (t, h, row))))
        {
            let s = &mut state[(h * dv + row) * dk..][..dk];
            let keys = (t * key_heads + h * key_heads / heads) * dk;
            let (q, k) = (&q[keys..][..dk], &k[keys..][..dk]);
            s.iter_mut().for_each(|s| *s *= gates[t * heads + h].exp());
            let recalled: f64 = s.iter().zip(k).map(|(s, k)| s * k).sum();
            let at = (t * heads + h) * dv + row;
            let delta = beta[t * heads + h] * (v[at] - recalled);
            s.iter_mut().zip(k).for_each(|(s, k)| *s += delta * k);
            y[at] = s.iter().zip(q).map(|(s, q)| s * q).sum();
        }
        (y, state)
    }

    fn assert_close(got: &Array, wanted: &[f64], what: &str) {
        let got = read(got);
        assert_eq!(got.len(), wanted.len(), "{what}");
        let worst =
            got.iter().zip(wanted).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        assert!(worst < 2e-5, "{what}: {worst}");
    }

    fn assert_follows_the_definition(rule: Rule) {
        crate::mlx::bridge::init().unwrap();
        for decay in [Decay::Weak, Decay::Reset, Decay::Repeated] {
            for tokens in [1, 2, 63, 64, 65, 200] {
                let inputs = inputs(tokens, decay);
                let (y, state) = rule(&inputs, &start(), inputs.sizes().unwrap()).unwrap();
                let (wanted_y, wanted_state) = by_definition(&inputs);
                let what = format!("{decay:?}, {tokens} tokens");
                assert_close(&y, &wanted_y, &what);
                assert_close(&state, &wanted_state, &what);
            }
        }
    }

    #[test]
    fn token_by_token_follows_the_definition() {
        assert_follows_the_definition(token_by_token);
    }

    #[test]
    fn in_blocks_follows_the_definition() {
        assert_follows_the_definition(in_blocks);
    }

    #[test]
    #[cfg_attr(not(target_os = "macos"), ignore = "the kernel needs Metal")]
    fn the_metal_kernel_follows_the_definition() {
        assert_follows_the_definition(kernel);
    }

    #[test]
    fn the_state_carries_over_any_cut() {
        crate::mlx::bridge::init().unwrap();
        let inputs = inputs(150, Decay::Weak);
        let (wanted_y, wanted_state) = by_definition(&inputs);
        for cut in [1, 64, 100, 149] {
            let (first, state) =
                gated_delta(&part(&inputs, 0, cut), Some(&start()), metal_is_available()).unwrap();
            let (second, state) =
                gated_delta(&part(&inputs, cut, 150), Some(&state), metal_is_available()).unwrap();
            let y = concatenate(&[first, second], 1).unwrap();
            assert_close(&y, &wanted_y, &format!("cut at {cut}"));
            assert_close(&state, &wanted_state, &format!("cut at {cut}"));
        }
    }

    #[test]
    fn wrong_shapes_are_errors() {
        crate::mlx::bridge::init().unwrap();
        let inputs = inputs(2, Decay::Weak);
        let wrong = Inputs { v: inputs.k.reshape(&[2, 2, 2, 16]).unwrap(), ..inputs };
        assert!(gated_delta(&wrong, None, false).is_err());
    }
}
