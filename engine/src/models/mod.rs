//! The model families, one file each. A new one is a file here, a line in [`FAMILIES`], and a case
//! in the parity tests; see docs/adding-a-model.md.

mod dense;
mod llama;
mod qwen2;
mod qwen3;

use std::fmt;
use std::path::Path;

use crate::error::Result;
use mlx_rs::Array;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::cache::LayerKind;
use crate::error::LoadError;
use crate::step::Step;
use crate::weights::Weights;

/// A loaded model: weights, and the computation over them. Lives on the engine thread.
pub(crate) trait Architecture: fmt::Debug {
    /// tokens: [1, T], the ids of all segments of the step. Returns logits [1, R, vocab], one row
    /// for each segment that wants them, in order; `None` when none does. The caches then hold the
    /// step's tokens; nothing is evaluated yet.
    fn forward(&self, tokens: &Array, step: &mut Step<'_>) -> Result<Option<Array>>;

    /// What each layer caches.
    fn layers(&self) -> Vec<LayerKind>;
}

type Loader = fn(&ConfigFile<'_>, &mut Weights) -> Result<Box<dyn Architecture>, LoadError>;

/// `model_type` as config.json names it, and what loads it.
const FAMILIES: &[(&str, Loader)] = &[
    ("llama", llama::load),
    ("mistral", llama::load),
    ("qwen2", qwen2::load),
    ("qwen3", qwen3::load),
];

/// A parsed config.json.
#[derive(Debug)]
pub(crate) struct ConfigFile<'a> {
    /// Where it was read.
    pub(crate) path: &'a Path,
    /// Its content.
    pub(crate) fields: &'a Map<String, Value>,
}

impl ConfigFile<'_> {
    /// The fields as a family's own struct.
    ///
    /// # Errors
    /// Names the field that is absent or of the wrong type.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, LoadError> {
        serde_json::from_value(Value::Object(self.fields.clone()))
            .map_err(|error| self.invalid(error.to_string()))
    }

    /// The error for a field that is not usable.
    pub(crate) fn invalid(&self, what: impl Into<String>) -> LoadError {
        LoadError::Invalid { path: self.path.to_owned(), what: what.into() }
    }

    /// `rope_scaling`, or `rope_parameters`, its newer name.
    pub(crate) fn rope_scaling(&self) -> Option<&Map<String, Value>> {
        let object = |key| self.fields.get(key).and_then(Value::as_object);
        object("rope_scaling").or_else(|| object("rope_parameters"))
    }

    /// `rope_theta`, which newer configs keep in `rope_parameters`.
    pub(crate) fn rope_theta(&self) -> Option<f32> {
        let theta = |fields: &Map<String, Value>| fields.get("rope_theta").and_then(Value::as_f64);
        let nested = || self.fields.get("rope_parameters")?.as_object().and_then(theta);
        theta(self.fields).or_else(nested).map(|theta| theta as f32)
    }

    /// `model_type`.
    ///
    /// # Errors
    /// When it is absent or names a family that is not in [`FAMILIES`].
    pub(crate) fn architecture(&self) -> Result<&str, LoadError> {
        let Some(model_type) = self.fields.get("model_type").and_then(Value::as_str) else {
            return Err(self.invalid("\"model_type\" is absent"));
        };
        if FAMILIES.iter().any(|(name, _)| *name == model_type) {
            return Ok(model_type);
        }
        Err(LoadError::UnknownArchitecture {
            path: self.path.to_owned(),
            model_type: model_type.to_owned(),
            supported: FAMILIES.iter().map(|(name, _)| *name).collect(),
        })
    }
}

/// Builds the model that the config names from its weights.
pub(crate) fn load(
    config: &ConfigFile<'_>,
    weights: &mut Weights,
) -> Result<Box<dyn Architecture>, LoadError> {
    let model_type = config.architecture()?;
    let (_, loader) = FAMILIES
        .iter()
        .find(|(name, _)| *name == model_type)
        .ok_or_else(|| config.invalid("\"model_type\" is unknown"))?;
    loader(config, weights)
}
