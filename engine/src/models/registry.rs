//! The model families by `model_type`. A new family is a line in [`FAMILIES`].

use serde_json::{Map, Value, json};

use crate::error::LoadError;
use crate::models::forward::CausalLm;
use crate::models::{gemma3, llama, qwen2, qwen3, qwen3_5, qwen3_moe};
use crate::weights::Weights;
use crate::weights::config::ConfigFile;

type Loader = fn(&ConfigFile<'_>, &mut Weights) -> Result<Box<dyn CausalLm>, LoadError>;

/// A `model_type` of config.json and how to load it.
#[derive(Debug)]
struct Family {
    model_type: &'static str,
    load: Loader,
    /// Default sizes that published configs may omit.
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

/// Keys with several spellings for the same value. If there is a `text_config`, the top-level keys
/// describe something else, as in mlx-lm, so an older spelling inside it must not lose to a newer
/// one at the top.
const NESTED_ONLY: [&str; 11] = [
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "rope_local_base_freq",
    "partial_rotary_factor",
    "layer_types",
    "sliding_window_pattern",
    "_sliding_window_pattern",
    "full_attention_interval",
    "num_experts",
    "num_local_experts",
];

/// The fields that describe the text model: the `text_config` of a multimodal model overrides the
/// top level, and the family's defaults fill the gaps. `model_type` is always the top-level one.
pub(crate) fn text_fields(config: &Map<String, Value>) -> Map<String, Value> {
    let mut fields = config.clone();
    if let Some(Value::Object(text)) = fields.remove("text_config") {
        fields.retain(|key, _| !NESTED_ONLY.contains(&key.as_str()));
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

/// Builds the model that the config names from its weights.
pub(crate) fn load(
    config: &ConfigFile<'_>,
    weights: &mut Weights,
) -> Result<Box<dyn CausalLm>, LoadError> {
    let model_type = architecture(config)?;
    let family = family(model_type).ok_or_else(|| config.invalid("\"model_type\" is unknown"))?;
    (family.load)(config, weights)
}

/// Returns `model_type`.
///
/// # Errors
/// If it is missing or names a family that is not in [`FAMILIES`].
pub(crate) fn architecture<'a>(file: &'a ConfigFile<'_>) -> Result<&'a str, LoadError> {
    let Some(model_type) = file.fields.get("model_type").and_then(Value::as_str) else {
        return Err(file.invalid("\"model_type\" is absent"));
    };
    if family(model_type).is_some() {
        return Ok(model_type);
    }
    Err(LoadError::UnknownArchitecture {
        path: file.path.to_owned(),
        model_type: model_type.to_owned(),
        supported: FAMILIES.iter().map(|family| family.model_type).collect(),
    })
}
