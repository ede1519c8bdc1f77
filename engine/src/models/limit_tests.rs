//! Tests each limit on the content of a model folder, at the limit and one past it.

use std::fs;
use std::path::Path;

use omlx_tests::fixtures::Case;
use serde_json::json;

use super::moe::MoeShape;
use serde_json::{Map, Value};

use crate::error::LoadError;
use crate::limits;
use crate::runtime::files::{context_tokens, read_object};
use crate::weights::Weights;
use crate::weights::config::ConfigFile;
use crate::weights::quantization::QuantizationConfig;

fn with_config<T>(
    fields: Value,
    run: impl FnOnce(&ConfigFile<'_>) -> Result<T, LoadError>,
) -> Result<T, String> {
    let fields = fields.as_object().expect("an object");
    let file = ConfigFile { path: Path::new("config.json"), fields };
    run(&file).map_err(|error| error.to_string())
}

fn packing() -> QuantizationConfig {
    QuantizationConfig::from_config(&Map::new()).unwrap()
}

#[test]
fn a_config_at_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    for (bytes, is_read) in [(limits::CONFIG_BYTES, true), (limits::CONFIG_BYTES + 1, false)] {
        let mut text = "{}".to_owned();
        text.extend(std::iter::repeat_n(' ', bytes as usize - 2));
        fs::write(&path, text).unwrap();
        assert_eq!(read_object(&path).is_ok(), is_read, "{bytes}");
    }
}

#[test]
fn a_size_of_a_config_at_its_limit() {
    let check = |size| with_config(json!({}), |file| file.check_sizes(&[("hidden_size", size)]));
    assert_eq!(check(limits::CONFIG_SIZE), Ok(()));
    assert!(check(limits::CONFIG_SIZE + 1).unwrap_err().contains("hidden_size"));
    assert_eq!(check(1), Ok(()));
    assert!(check(0).is_err() && check(-1).is_err() && check(i32::MAX).is_err());
}

#[test]
fn layers_at_their_limit() {
    let check = |layers| with_config(json!({}), |file| file.check_layers(layers));
    assert_eq!(check(limits::LAYERS), Ok(()));
    assert!(check(limits::LAYERS + 1).unwrap_err().contains("num_hidden_layers"));
    assert!(check(0).is_err() && check(i32::MIN).is_err());
}

#[test]
fn experts_at_their_limit() {
    let check = |experts| {
        let shape = MoeShape { experts, used: 1, intermediate: 8, normalized: true, shared: None };
        with_config(json!({}), |file| shape.check(file))
    };
    assert_eq!(check(limits::EXPERTS), Ok(()));
    assert!(check(limits::EXPERTS + 1).unwrap_err().contains("num_experts"));
}

#[test]
fn a_context_at_its_limit() {
    let tokens = |positions: Value, scaling: Value| {
        let fields = json!({
            "model_type": "llama", "max_position_embeddings": positions, "rope_scaling": scaling,
        });
        with_config(fields, context_tokens)
    };
    let most = limits::CONTEXT_TOKENS;
    assert_eq!(tokens(json!(most), json!(null)), Ok(most));
    assert!(tokens(json!(most + 1), json!(null)).is_err());
    assert_eq!(tokens(json!(most / 4), json!({"type": "linear", "factor": 4.0})), Ok(most));
    assert!(tokens(json!(most / 4), json!({"type": "linear", "factor": 4.1})).is_err());
    assert!(tokens(json!(8), json!({"type": "yarn", "factor": 1e300})).is_err());
}

#[test]
fn a_header_of_weights_at_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let most = limits::WEIGHTS_HEADER_BYTES;
    for (bytes, is_read) in [(most, true), (most + 1, false)] {
        let mut file = bytes.to_le_bytes().to_vec();
        file.extend(b"{}");
        file.resize(8 + bytes as usize, b' ');
        fs::write(dir.path().join("model.safetensors"), file).unwrap();
        let opened = Weights::open(dir.path(), packing());
        assert_eq!(opened.is_ok(), is_read, "{bytes}");
        if let Err(error) = opened {
            assert!(error.to_string().contains("longer than"), "{error}");
        }
    }
}

#[test]
fn an_index_of_weights_at_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    Case::named("llama-sharded-bf16").write(dir.path()).unwrap();
    let index = dir.path().join("model.safetensors.index.json");
    let text = fs::read(&index).unwrap();
    let most = limits::WEIGHTS_INDEX_BYTES;
    for (bytes, is_read) in [(most, true), (most + 1, false)] {
        let mut text = text.clone();
        text.resize(bytes as usize, b' ');
        fs::write(&index, text).unwrap();
        let opened = Weights::open(dir.path(), packing());
        assert_eq!(opened.is_ok(), is_read, "{bytes}");
    }
}
