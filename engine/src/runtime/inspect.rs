//! Describes a model from its files, without loading it.

use std::path::Path;

use mlx_rs::Dtype;
use serde_json::{Map, Value};

use crate::error::LoadError;
use crate::mlx::bridge;
use crate::models::{self, text_fields};
use crate::runtime::files::{context_tokens, read_object};
use crate::text::template::parse_object;
use crate::types::ComputeDtype;
use crate::types::Quantization;
use crate::weights::Weights;
use crate::weights::config::ConfigFile;
use crate::weights::quantization::QuantizationConfig;
use crate::weights::text_model;

/// The facts in a config.json.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFacts {
    /// `model_type`, which this engine supports.
    pub architecture: String,
    /// Limit on prompt and answer together, in tokens.
    pub context_tokens: usize,
    /// The model-wide quantization, if there is one.
    pub quantization: Option<Quantization>,
}

/// The facts in a model folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFacts {
    /// The facts in its config.json.
    pub config: ConfigFacts,
    /// Number of weights; packed weights are counted unpacked.
    pub parameters: u64,
    /// Bytes of the weight files.
    pub file_bytes: u64,
    /// Bytes that the weights will take in memory.
    pub weight_bytes: u64,
    /// The dtype of the stored weights, such as `bfloat16`; for packed weights, that of their
    /// scales.
    pub dtype: String,
}

/// Reads the text of a config.json. `path` is used in error messages.
///
/// # Errors
/// If it is not the config of a supported model.
pub fn read_config(path: &Path, text: &str) -> Result<ConfigFacts, LoadError> {
    config_facts(path, &parse_object(path, text)?)
}

/// Reads a model folder's config.json and the headers of its weights. This takes milliseconds and
/// does not use MLX. It detects weight files that are truncated or overlap. Tensors that are
/// missing or have the wrong shape are only detected by loading.
///
/// # Errors
/// If the folder is not a supported model.
pub fn inspect(dir: &Path, compute: ComputeDtype) -> Result<ModelFacts, LoadError> {
    let path = dir.join("config.json");
    let config = read_object(&path)?.ok_or_else(|| LoadError::Missing {
        path: path.clone(),
        hint: "a model folder holds config.json beside its weights",
    })?;
    let facts = config_facts(&path, &config)?;
    let quantization = quantization(&path, &config)?;
    let weights = Weights::open(dir, quantization)?;
    let stored = stored_dtype(&weights);
    let converted = widened(&weights, compute);
    let (weight_bytes, parameters) =
        weights.predict(|tensor| text_model::is_text(&weights, tensor), converted);
    Ok(ModelFacts {
        config: facts,
        parameters,
        file_bytes: weights.file_bytes(),
        weight_bytes,
        dtype: stored.map_or("unknown".to_owned(), |d| format!("{d:?}").to_lowercase()),
    })
}

/// The dtype of the stored weights; for packed weights, that of their scales, the compute dtype.
pub(crate) fn stored_dtype(weights: &Weights) -> Option<Dtype> {
    let root = text_model::root(weights);
    let of = |kind: &&str| weights.dtype_of(&format!("{root}.embed_tokens.{kind}"));
    ["scales", "weight"].iter().find_map(of)
}

/// The compute dtype for a model with 16-bit weights: float32 on MLX's CPU backend, which is many
/// times faster there. Packed weights stay packed, but their scales and biases are converted.
pub(crate) fn widened(weights: &Weights, compute: ComputeDtype) -> Option<Dtype> {
    let is_narrow = || weights.has_16_bit_floats(|tensor| text_model::is_text(weights, tensor));
    let is_widened = compute == ComputeDtype::Auto && !bridge::metal_is_available() && is_narrow();
    is_widened.then_some(Dtype::Float32)
}

fn config_facts(path: &Path, config: &Map<String, Value>) -> Result<ConfigFacts, LoadError> {
    let text = text_fields(config);
    let file = ConfigFile { path, fields: &text };
    Ok(ConfigFacts {
        architecture: models::architecture(&file)?.to_owned(),
        context_tokens: context_tokens(&file)?,
        quantization: quantization(path, config)?.default(),
    })
}

fn quantization(path: &Path, config: &Map<String, Value>) -> Result<QuantizationConfig, LoadError> {
    let invalid = |what| LoadError::Invalid { path: path.to_owned(), what };
    QuantizationConfig::from_config(config).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use omlx_tests::fixtures::{Case, Damage};

    use super::*;
    use crate::Engine;
    use crate::EngineConfig;

    #[test]
    fn inspection_agrees_with_loading() {
        let engine = Engine::start(EngineConfig::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for name in [
            "llama-bf16",
            "llama-tied-llama3-bf16",
            "llama-q4-bias-sharded-f16",
            "qwen3-q4-overrides-f16",
            "qwen3_moe-default-f32",
            "qwen3_5-default-f32",
            "gemma3_text-default-f32",
        ] {
            let dir = tempfile::tempdir().unwrap();
            Case::named(name).write(dir.path()).unwrap();
            let facts = inspect(dir.path(), ComputeDtype::Auto).unwrap();
            let model = runtime.block_on(engine.load(dir.path(), name)).unwrap();
            let info = model.info();
            assert_eq!(facts.config.architecture, info.architecture, "{name}");
            assert_eq!(facts.config.context_tokens, info.context_tokens, "{name}");
            assert_eq!(facts.config.quantization, info.quantization, "{name}");
            assert_eq!(facts.parameters, info.parameters, "{name}");
            assert_eq!(facts.weight_bytes, info.weight_bytes, "{name}");
            assert!(facts.file_bytes > 0);
        }
    }

    #[test]
    fn models_that_cannot_run_are_reported() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (damage, what) in [
            (Damage::UnknownModelType, "llama-nine"),
            (Damage::TruncatedWeights, "truncated"),
            (Damage::NoWeights, "is missing"),
        ] {
            damage.write(&at(what)).unwrap();
            let error = inspect(&at(what), ComputeDtype::Auto).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
