//! The model families, one file each. A new one is a file here, a line in [`FAMILIES`], and a case
//! in the parity tests; see docs/adding-a-model.md.

mod delta_net;
mod dense;
mod gemma3;
mod llama;
mod moe;
mod qwen2;
mod qwen3;
mod qwen3_5;
mod qwen3_moe;

use std::fmt;
use std::path::Path;

use crate::error::Result;
use mlx_rs::Array;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

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

/// A `model_type` as config.json names it.
#[derive(Debug)]
struct Family {
    model_type: &'static str,
    load: Loader,
    /// Sizes that published configs may leave out.
    defaults: &'static [(&'static str, u64)],
}

impl Family {
    const fn new(model_type: &'static str, load: Loader) -> Self {
        Self { model_type, load, defaults: &[] }
    }
}

const FAMILIES: &[Family] = &[
    Family { defaults: gemma3::DEFAULTS, ..Family::new("gemma3", gemma3::load) },
    Family { defaults: gemma3::TEXT_DEFAULTS, ..Family::new("gemma3_text", gemma3::load) },
    Family::new("llama", llama::load),
    Family::new("mistral", llama::load),
    Family::new("qwen2", qwen2::load),
    Family::new("qwen3", qwen3::load),
    Family::new("qwen3_5", qwen3_5::load),
    Family::new("qwen3_5_moe", qwen3_5::load),
    Family::new("qwen3_5_moe_text", qwen3_5::load),
    Family::new("qwen3_5_text", qwen3_5::load),
    Family::new("qwen3_moe", qwen3_moe::load),
];

fn family(model_type: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.model_type == model_type)
}

/// Largest value of any size in a config: keeps every product of two within i64 and every buffer's
/// length within what MLX's 32-bit shapes can say.
const MAX_SIZE: i32 = 1 << 24;

/// Where a text model's tensors may lie: alone, and within a multimodal checkpoint as published and
/// as mlx-lm converts it.
const ROOTS: [&str; 3] = ["model", "model.language_model", "language_model.model"];

/// The one of [`ROOTS`] under which these weights lie.
pub(crate) fn root(weights: &Weights) -> &'static str {
    let holds = |root: &&&str| weights.contains(&format!("{root}.embed_tokens.weight"));
    ROOTS.iter().find(holds).unwrap_or(&ROOTS[0])
}

/// The output head's path beside a root.
fn head_path(weights: &Weights) -> &'static str {
    match weights.contains("language_model.lm_head.weight") {
        true => "language_model.lm_head",
        false => "lm_head",
    }
}

/// The fields that describe the text model: those of `text_config`, where a multimodal model's
/// config nests them, over those at the top; and what the family's configs leave out. `model_type`
/// stays the top's.
pub(crate) fn text_fields(config: &Map<String, Value>) -> Map<String, Value> {
    let mut fields = config.clone();
    if let Some(Value::Object(text)) = fields.remove("text_config") {
        let given = text.into_iter().filter(|(key, value)| key != "model_type" && !value.is_null());
        fields.extend(given);
    }
    let family = fields.get("model_type").and_then(Value::as_str).and_then(family);
    for (key, value) in family.map_or(&[][..], |family| family.defaults) {
        if fields.get(*key).is_none_or(Value::is_null) {
            fields.insert((*key).to_owned(), json!(value));
        }
    }
    fields
}

/// A parsed config.json.
#[derive(Debug)]
pub(crate) struct ConfigFile<'a> {
    /// Where it was read.
    pub(crate) path: &'a Path,
    /// Its content, as [`text_fields`] gives it.
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

    /// Checks that each of these fields is a size.
    fn check_sizes(&self, sizes: &[(&str, i32)]) -> Result<(), LoadError> {
        match sizes.iter().find(|(_, size)| !(1..=MAX_SIZE).contains(size)) {
            Some((name, size)) => Err(self.invalid(format!("\"{name}\" is {size}"))),
            None => Ok(()),
        }
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
        if family(model_type).is_some() {
            return Ok(model_type);
        }
        Err(LoadError::UnknownArchitecture {
            path: self.path.to_owned(),
            model_type: model_type.to_owned(),
            supported: FAMILIES.iter().map(|family| family.model_type).collect(),
        })
    }
}

/// Builds the model that the config names from its weights.
pub(crate) fn load(
    config: &ConfigFile<'_>,
    weights: &mut Weights,
) -> Result<Box<dyn Architecture>, LoadError> {
    let model_type = config.architecture()?;
    let family = family(model_type).ok_or_else(|| config.invalid("\"model_type\" is unknown"))?;
    (family.load)(config, weights)
}
