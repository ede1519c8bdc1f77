//! MLX's affine quantization as mlx-lm writes it into config.json: a default, and per-layer
//! overrides by the layer's path (`false` keeps that layer unquantized).

use crate::types::Quantization;
use std::collections::HashMap;

use serde_json::{Map, Value};

/// The supported bits and group sizes.
const BITS: [i64; 6] = [2, 3, 4, 5, 6, 8];
const GROUP_SIZES: [i64; 3] = [32, 64, 128];

/// Possible prefixes of a layer's path in a checkpoint or in the keys of its config, which may
/// differ: for a text-only model, and inside a multimodal model as published and as converted by
/// mlx-lm.
const ROOTS: [&str; 5] =
    ["language_model.model.", "model.language_model.", "language_model.", "model.", ""];

/// The `quantization` object of a config.json.
#[derive(Debug, Default, Clone)]
pub(crate) struct QuantizationConfig {
    default: Option<Quantization>,
    layers: HashMap<String, Option<Quantization>>,
}

impl QuantizationConfig {
    /// Reads `quantization` (or `quantization_config`, which mlx-lm writes too).
    ///
    /// # Errors
    /// A sentence that names the field, for any quantization that this engine does not support.
    pub(crate) fn from_config(config: &Map<String, Value>) -> Result<Self, String> {
        let (field, value) = match (config.get("quantization"), config.get("quantization_config")) {
            (Some(value), _) if !value.is_null() => ("quantization", value),
            // An empty object counts as absent.
            (_, Some(value)) if !value.is_null() && *value != Value::Object(Map::new()) => {
                ("quantization_config", value)
            }
            _ => return Ok(<Self as Default>::default()),
        };
        let object = value.as_object().ok_or_else(|| format!("\"{field}\" is not an object"))?;
        if let Some(method) = object.get("quant_method") {
            return Err(format!(
                "\"{field}.quant_method\" is {method}: only MLX's own affine quantization runs \
                 here; convert the model with mlx_lm.convert"
            ));
        }
        let mut config = Self { default: Some(entry(field, object)?), layers: HashMap::new() };
        for (path, value) in object {
            let quantization = match value {
                Value::Object(object) => Some(entry(&format!("{field}.{path}"), object)?),
                Value::Bool(false) => None,
                _ => continue,
            };
            config.layers.insert(path.clone(), quantization);
        }
        Ok(config)
    }

    /// How the layer at `path` is packed, depending on whether the weights have scales for it. An
    /// override for exactly this path has priority over one for the same layer under another
    /// prefix.
    pub(crate) fn of_layer(&self, path: &str, has_scales: bool) -> Option<Quantization> {
        let layer = ROOTS.iter().find_map(|root| path.strip_prefix(root)).unwrap_or(path);
        let under = |root: &&str| self.layers.get(&format!("{root}{layer}"));
        match self.layers.get(path).or_else(|| ROOTS.iter().find_map(under)) {
            Some(quantization) => *quantization,
            None => self.default.filter(|_| has_scales),
        }
    }

    /// The model-wide setting.
    pub(crate) fn default(&self) -> Option<Quantization> {
        self.default
    }
}

fn entry(field: &str, object: &Map<String, Value>) -> Result<Quantization, String> {
    if let Some(mode) = object.get("mode").filter(|mode| *mode != "affine") {
        return Err(format!("\"{field}.mode\" is {mode}; only \"affine\" is supported"));
    }
    let number = |key: &str, allowed: &[i64], default: i64| {
        let value = object.get(key).map_or(Some(default), Value::as_i64);
        value
            .filter(|value| allowed.contains(value))
            .map(|value| value as i32)
            .ok_or_else(|| format!("\"{field}.{key}\" is {}; supported: {allowed:?}", object[key]))
    };
    Ok(Quantization {
        bits: number("bits", &BITS, 4)?,
        group_size: number("group_size", &GROUP_SIZES, 64)?,
    })
}

impl Quantization {
    /// Returns `None` for an unsupported packing.
    pub(crate) fn of(bits: usize, group_size: usize) -> Option<Self> {
        let (bits, group_size) = (bits as i64, group_size as i64);
        let is_one = BITS.contains(&bits) && GROUP_SIZES.contains(&group_size);
        is_one.then_some(Self { bits: bits as i32, group_size: group_size as i32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<QuantizationConfig, String> {
        QuantizationConfig::from_config(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn overrides_win_over_the_default() {
        let config = parse(
            r#"{"quantization": {"group_size": 64, "bits": 4,
                "a": {"group_size": 32, "bits": 8}, "b": false}}"#,
        )
        .unwrap();
        assert_eq!(config.of_layer("a", true), Some(Quantization { bits: 8, group_size: 32 }));
        assert_eq!(config.of_layer("b", true), None);
        assert_eq!(config.of_layer("c", true), Some(Quantization { bits: 4, group_size: 64 }));
        assert_eq!(config.of_layer("c", false), None);
    }

    #[test]
    fn an_override_counts_under_any_root() {
        let config = parse(
            r#"{"quantization": {"group_size": 64, "bits": 4,
                "model.language_model.layers.0.a": {"group_size": 32, "bits": 8},
                "language_model.model.layers.0.b": false,
                "layers.0.c": {"group_size": 32, "bits": 6},
                "model.layers.0.d": false, "language_model.model.layers.0.d": {"bits": 8},
                "lm_head": {"bits": 8}, "vision_tower.layers.0.e": {"bits": 8}}}"#,
        )
        .unwrap();
        let packing = |bits, group_size| Some(Quantization { bits, group_size });
        for root in ["language_model.model", "model.language_model", "model"] {
            let of = |layer: &str| config.of_layer(&format!("{root}.layers.0.{layer}"), true);
            assert_eq!(of("a"), packing(8, 32), "{root}");
            assert_eq!(of("b"), None, "{root}");
            assert_eq!(of("c"), packing(6, 32), "{root}");
            assert_eq!(of("e"), packing(4, 64), "{root}");
        }
        assert_eq!(config.of_layer("model.layers.0.d", true), None);
        assert_eq!(config.of_layer("model.language_model.layers.0.d", true), packing(8, 64));
        assert_eq!(config.of_layer("language_model.lm_head", true), packing(8, 64));
        assert_eq!(parse(r#"{"quantization_config": {}}"#).unwrap().default(), None);
    }

    #[test]
    fn unsupported_quantizations_are_named() {
        assert!(parse(r#"{"quantization": {"bits": 7}}"#).unwrap_err().contains("bits\" is 7"));
        assert!(parse(r#"{"quantization": {"mode": "mxfp4"}}"#).unwrap_err().contains("mode"));
        assert!(
            parse(r#"{"quantization_config": {"quant_method": "gptq"}}"#)
                .unwrap_err()
                .contains("gptq")
        );
        assert!(parse(r#"{"quantization": {"a": {"bits": 4, "group_size": 7}}}"#).is_err());
        assert!(parse("{}").unwrap().default().is_none());
    }
}
