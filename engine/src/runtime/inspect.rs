//! What a model is and will need, told from its files without loading it.

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

/// What a config.json says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFacts {
    /// `model_type`, one that runs here.
    pub architecture: String,
    /// The most tokens of a prompt and its answer together.
    pub context_tokens: usize,
    /// The model-wide packing, when there is one.
    pub quantization: Option<Quantization>,
}

/// What a model folder holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFacts {
    /// What its config.json says.
    pub config: ConfigFacts,
    /// Weights counted one by one, packed ones as what they unpack to.
    pub parameters: u64,
    /// Bytes of the weight files.
    pub file_bytes: u64,
    /// What the weights will take in memory.
    pub weight_bytes: u64,
    /// What the weights are stored as, such as `bfloat16`; of packed ones, their scales.
    pub dtype: String,
}

/// Reads a config.json's text. `path` is for messages.
///
/// # Errors
/// When it is not one of a model that runs here.
pub fn read_config(path: &Path, text: &str) -> Result<ConfigFacts, LoadError> {
    config_facts(path, &parse_object(path, text)?)
}

/// Reads a model folder's config.json and the headers of its weights: milliseconds, and no MLX.
/// Files of weights that are cut short or overlap are found here; a tensor that is missing or has
/// the wrong shape only by loading.
///
/// # Errors
/// When the folder is not one of a model that runs here.
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

/// The type that the weights are stored in; of packed ones, their scales, which layers compute in.
pub(crate) fn stored_dtype(weights: &Weights) -> Option<Dtype> {
    let root = text_model::root(weights);
    let of = |kind: &&str| weights.dtype_of(&format!("{root}.embed_tokens.{kind}"));
    ["scales", "weight"].iter().find_map(of)
}

/// What the engine computes in where any of the model is stored in 16 bits: float32 on MLX's CPU backend,
/// which is many times faster there. Packed weights stay packed, their scales and biases do not.
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
    fn what_is_told_beforehand_is_what_loading_finds() {
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
    fn what_cannot_run_is_told() {
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
