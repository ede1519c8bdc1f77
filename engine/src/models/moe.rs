//! Feed-forward layers with experts: a router selects a few of many SwiGLU experts for each token.
//! There may also be a shared expert for all tokens. The qwen3_moe and qwen3_5_moe families use it.

use crate::error::Result;
use mlx_rs::ops::indexing::{take_along_axis, take_axis};
use mlx_rs::ops::{
    argpartition_axis, argsort, divide, floor_divide, gather_mm, gather_qmm, multiply, sigmoid,
    softmax_axis, stack, sum_axis,
};
use mlx_rs::{Array, Dtype};

use crate::error::LoadError;
use crate::limits;
use crate::mlx::bridge::{metal_is_available, slice};
use crate::models::nn::{GatedMlp, Linear, silu};
use crate::types::Quantization;
use crate::weights::Weights;
use crate::weights::config::ConfigFile;

/// From this many rows on they are sorted by expert, so that each expert's weights are read once.
const SORT_ROWS: usize = 64;

/// The config values for experts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MoeShape {
    pub(crate) experts: i32,
    /// Number of experts used for each token.
    pub(crate) used: i32,
    pub(crate) intermediate: i32,
    /// Whether the weights of the used experts are normalized to a sum of 1.
    pub(crate) normalized: bool,
    /// Intermediate size of the shared expert.
    pub(crate) shared: Option<i32>,
}

impl MoeShape {
    pub(crate) fn check(&self, config: &ConfigFile<'_>) -> Result<(), LoadError> {
        config.check_sizes(&[
            ("moe_intermediate_size", self.intermediate),
            ("shared_expert_intermediate_size", self.shared.unwrap_or(1)),
        ])?;
        if !(1..=limits::EXPERTS).contains(&self.experts) {
            return Err(config.invalid(format!("\"num_experts\" is {}", self.experts)));
        }
        if !(1..=self.experts).contains(&self.used) {
            return Err(config.invalid(format!(
                "\"num_experts_per_tok\" is {} of {} experts",
                self.used, self.experts
            )));
        }
        Ok(())
    }
}

/// A block's feed-forward layer.
#[derive(Debug)]
pub(crate) enum FeedForward {
    Dense(GatedMlp),
    Experts(Box<Moe>),
}

impl FeedForward {
    /// Loads the router and the experts under `path`.
    pub(crate) fn experts(
        weights: &mut Weights,
        path: &str,
        hidden: i32,
        shape: MoeShape,
    ) -> Result<Self, LoadError> {
        Ok(Self::Experts(Box::new(Moe::load(weights, path, hidden, shape)?)))
    }

    /// x: [1, T, hidden]. Returns the same shape.
    pub(crate) fn forward(&self, x: &Array) -> Result<Array> {
        match self {
            Self::Dense(mlp) => mlp.forward(x),
            Self::Experts(moe) => moe.forward(x),
        }
    }
}

/// Router and experts.
#[derive(Debug)]
pub(crate) struct Moe {
    router: Linear,
    gate: ExpertMatrices,
    up: ExpertMatrices,
    down: ExpertMatrices,
    shared: Option<Shared>,
    shape: MoeShape,
}

/// The shared expert and its gate.
#[derive(Debug)]
struct Shared {
    expert: GatedMlp,
    gate: Linear,
}

impl Moe {
    fn load(
        weights: &mut Weights,
        path: &str,
        hidden: i32,
        shape: MoeShape,
    ) -> Result<Self, LoadError> {
        let [gate, up, down] = load_experts(weights, path, hidden, shape)?;
        let shared = |intermediate| -> Result<Shared, LoadError> {
            let sizes = [hidden, intermediate];
            Ok(Shared {
                expert: GatedMlp::load(
                    weights,
                    &format!("{path}.shared_expert"),
                    sizes,
                    false,
                    silu,
                )?,
                gate: Linear::load(
                    weights,
                    &format!("{path}.shared_expert_gate"),
                    [1, hidden],
                    false,
                )?,
            })
        };
        Ok(Self {
            shared: shape.shared.map(shared).transpose()?,
            router: Linear::load(weights, &format!("{path}.gate"), [shape.experts, hidden], false)?,
            gate,
            up,
            down,
            shape,
        })
    }

    /// x: [1, T, hidden]. Returns the same shape.
    fn forward(&self, x: &Array) -> Result<Array> {
        let MoeShape { experts, used, normalized, .. } = self.shape;
        let length = x.shape()[1];
        let odds = softmax_axis(self.router.forward(x)?, -1, true)?; // [1, T, experts]
        let order = argpartition_axis(&odds, -used, -1)?;
        let chosen = slice(&order, &[0, 0, experts - used], &[1, length, experts])?; // [1, T, used]
        let mut scores = take_along_axis(&odds, &chosen, -1)?; // [1, T, used]
        if normalized {
            scores = divide(&scores, sum_axis(&scores, -1, true)?)?;
        }
        let y = self.experts(x, &chosen)?; // [1, T, used, hidden]
        let weighed = multiply(y, scores.reshape(&[1, length, used, 1])?)?;
        let y = sum_axis(weighed, 2, false)?.as_dtype(x.dtype())?; // [1, T, hidden]
        match &self.shared {
            None => Ok(y),
            Some(Shared { expert, gate }) => {
                let gate = sigmoid(gate.forward(x)?)?; // [1, T, 1]
                y.add(multiply(gate, expert.forward(x)?)?)
            }
        }
    }

    /// x: [1, T, hidden], chosen: [1, T, used]. Returns [1, T, used, hidden].
    fn experts(&self, x: &Array, chosen: &Array) -> Result<Array> {
        let [_, length, hidden] = *x.shape() else {
            return Err(mlx_rs::error::Exception::custom("experts take three axes"));
        };
        let used = self.shape.used;
        if chosen.size() < SORT_ROWS {
            let y = self.swiglu(&x.reshape(&[1, length, 1, 1, hidden])?, chosen, false)?;
            return y.reshape(&[1, length, used, hidden]);
        }
        let flat = chosen.reshape(&[length * used])?;
        let order = argsort(&flat)?; // rows of (token, expert), by expert
        let tokens = floor_divide(&order, Array::from_slice(&[used as u32], &[1]))?;
        let rows = take_axis(&x.reshape(&[length, 1, hidden])?, &tokens, 0)?; // [T * used, 1, hidden]
        let y = self.swiglu(&rows, &take_axis(&flat, &order, 0)?, true)?;
        take_axis(&y, argsort(&order)?, 0)?.reshape(&[1, length, used, hidden])
    }

    /// x: [.., 1, hidden]. Returns [.., 1, hidden], preceded by the axes of `chosen`.
    fn swiglu(&self, x: &Array, chosen: &Array, sorted: bool) -> Result<Array> {
        let gate = self.gate.forward(x, chosen, sorted)?;
        let up = self.up.forward(x, chosen, sorted)?;
        self.down.forward(&multiply(silu(&gate)?, up)?, chosen, sorted)
    }
}

/// One matrix of every expert, plain or packed.
#[derive(Debug)]
enum ExpertMatrices {
    /// [experts, columns, rows], a transposed view.
    Plain(Array),
    /// The weight is [experts, rows, packed columns].
    Packed { weight: Array, scales: Array, biases: Array, quantization: Quantization },
}

impl ExpertMatrices {
    /// weight: [experts, rows, columns].
    fn plain(weight: &Array) -> Result<Self> {
        // MLX's CPU backend has this product in float32 only; other dtypes end the process.
        let weight =
            if metal_is_available() { weight.clone() } else { weight.as_dtype(Dtype::Float32)? };
        weight.eval()?;
        Ok(Self::Plain(weight.swap_axes(1, 2)?))
    }

    /// x: [.., 1, columns]. Returns [.., 1, rows]; row i comes from the expert `chosen[i]`.
    fn forward(&self, x: &Array, chosen: &Array, sorted: bool) -> Result<Array> {
        match self {
            Self::Plain(turned) => {
                let wide = x.as_dtype(turned.dtype())?;
                gather_mm(wide, turned, None, chosen, sorted)?.as_dtype(x.dtype())
            }
            Self::Packed { weight, scales, biases, quantization: q } => gather_qmm(
                x,
                weight,
                scales,
                biases,
                None,
                chosen,
                true,
                q.group_size,
                q.bits,
                sorted,
            ),
        }
    }
}

/// The gate, up and down matrices of all experts. Checkpoints have three layouts: stacked as mlx-lm
/// writes them (`switch_mlp`), stacked with gate above up (`experts.gate_up_proj`), or separate
/// (`experts.0.gate_proj`).
fn load_experts(
    weights: &mut Weights,
    path: &str,
    hidden: i32,
    MoeShape { experts, intermediate, .. }: MoeShape,
) -> Result<[ExpertMatrices; 3], LoadError> {
    let mlx = |error: mlx_rs::error::Exception| LoadError::Mlx {
        path: path.into(),
        what: error.what().to_owned(),
    };
    let fused = format!("{path}.experts.gate_up_proj");
    if weights.contains(&fused) {
        let both = weights.float(&fused, &[experts, 2 * intermediate, hidden])?;
        let shape = [experts, hidden, intermediate];
        let down = weights.float(&format!("{path}.experts.down_proj"), &shape)?;
        // The halves are copied, because Metal would copy a view with gaps in every step.
        let half = |from: i32| {
            slice(&both, &[0, from, 0], &[experts, from + intermediate, hidden])?.contiguous()
        };
        let halves = half(0).and_then(|gate| Ok([gate, half(intermediate)?, down]));
        let [gate, up, down] = halves.map_err(mlx)?;
        let plain = |weight: &Array| ExpertMatrices::plain(weight).map_err(mlx);
        return Ok([plain(&gate)?, plain(&up)?, plain(&down)?]);
    }
    let mut load = |name: &str, [rows, columns]: [i32; 2]| {
        let stacked = format!("{path}.switch_mlp.{name}");
        if weights.contains(&format!("{stacked}.weight")) {
            load_stacked(weights, &stacked, [experts, rows, columns])
        } else {
            load_one_by_one(weights, path, name, [experts, rows, columns])
        }
    };
    Ok([
        load("gate_proj", [intermediate, hidden])?,
        load("up_proj", [intermediate, hidden])?,
        load("down_proj", [hidden, intermediate])?,
    ])
}

fn load_stacked(
    weights: &mut Weights,
    path: &str,
    shape: [i32; 3],
) -> Result<ExpertMatrices, LoadError> {
    match weights.quantization_of(path, shape[2]) {
        None => ExpertMatrices::plain(&weights.float(&format!("{path}.weight"), &shape)?)
            .map_err(|error| LoadError::Mlx { path: path.into(), what: error.what().to_owned() }),
        Some(quantization) => {
            let [weight, scales, biases] = weights.packed(path, &shape, quantization)?;
            Ok(ExpertMatrices::Packed { weight, scales, biases, quantization })
        }
    }
}

fn load_one_by_one(
    weights: &mut Weights,
    path: &str,
    name: &str,
    [experts, rows, columns]: [i32; 3],
) -> Result<ExpertMatrices, LoadError> {
    let expert = |n: i32| format!("{path}.experts.{n}.{name}");
    let quantization = weights.quantization_of(&expert(0), columns);
    let mut parts: [Vec<Array>; 3] = Default::default();
    for n in 0..experts {
        match quantization {
            None => {
                parts[0].push(weights.float(&format!("{}.weight", expert(n)), &[rows, columns])?);
            }
            Some(quantization) => {
                let packed = weights.packed(&expert(n), &[rows, columns], quantization)?;
                parts.iter_mut().zip(packed).for_each(|(part, array)| part.push(array));
            }
        }
    }
    let join = |part: &[Array]| -> Result<Array> {
        let stacked = stack(part, 0)?;
        // Evaluated now, so that the single experts are released before the next matrix.
        stacked.eval()?;
        Ok(stacked)
    };
    let all = || -> Result<ExpertMatrices> {
        match quantization {
            None => ExpertMatrices::plain(&join(&parts[0])?),
            Some(quantization) => Ok(ExpertMatrices::Packed {
                weight: join(&parts[0])?,
                scales: join(&parts[1])?,
                biases: join(&parts[2])?,
                quantization,
            }),
        }
    };
    all().map_err(|error| LoadError::Mlx { path: path.into(), what: error.what().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::quantization::QuantizationConfig;
    use omlx_tests::fixtures::Case;
    use serde_json::json;

    /// Checks that rows of x through the experts `chosen` equal each expert's own layer.
    fn assert_experts_are_their_own_layers(quantization: serde_json::Value) {
        crate::mlx::bridge::init().unwrap();
        let case = Case::named("qwen3_moe-published-f32");
        let case = case.with_config(json!({"quantization": quantization}));
        let dir = tempfile::tempdir().unwrap();
        case.write(dir.path()).unwrap();
        let packing = QuantizationConfig::from_config(&case.config).unwrap();
        let mut weights = Weights::open(dir.path(), packing).unwrap();
        let path = "model.layers.0.mlp";
        let shape =
            MoeShape { experts: 8, used: 3, intermediate: 64, normalized: true, shared: None };
        let [gate, _, down] = load_experts(&mut weights, path, 64, shape).unwrap();

        let chosen = [0u32, 3, 3, 5, 7];
        let x = Array::from_iter((0..5 * 64).map(|i| (i as f32 * 0.37).sin()), &[5, 1, 64]);
        let indices = Array::from_slice(&chosen, &[5]);
        for (name, matrices) in [("gate_proj", gate), ("down_proj", down)] {
            for sorted in [false, true] {
                let all = matrices.forward(&x, &indices, sorted).unwrap();
                for (row, expert) in chosen.iter().enumerate() {
                    let row = row as i32;
                    let own = format!("{path}.experts.{expert}.{name}");
                    let own = Linear::load(&mut weights, &own, [64, 64], false).unwrap();
                    let cut = |a: &Array| slice(a, &[row, 0, 0], &[row + 1, 1, 64]).unwrap();
                    let distance = cut(&all).subtract(own.forward(&cut(&x)).unwrap()).unwrap();
                    let worst = distance.abs().unwrap().max(None).unwrap().item_exact::<f32>();
                    assert!(worst < 1e-4, "{name}, expert {expert}: {worst}");
                }
            }
        }
    }

    #[test]
    fn experts_stored_one_by_one() {
        assert_experts_are_their_own_layers(json!(null));
    }

    #[test]
    fn packed_experts_stored_one_by_one() {
        assert_experts_are_their_own_layers(json!({"bits": 4, "group_size": 64}));
    }
}
