//! The model families, one file each. A new one is a file here, a line in [`FAMILIES`], and a case
//! in the parity tests; see docs/adding-a-model.md.

mod delta_net;
mod dense;
mod gemma3;
mod llama;
mod moe;
mod nn;
mod qwen2;
mod qwen3;
mod qwen3_5;
mod qwen3_moe;
pub(crate) mod step;

use std::fmt;
use std::path::Path;

use crate::error::Result;
use mlx_rs::Array;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::error::LoadError;
use crate::kv::slots::LayerKind;
use crate::limits;
use crate::models::step::Step;
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

/// Where a text model's tensors may lie: alone, and within a multimodal checkpoint as published and
/// as mlx-lm converts it.
const ROOTS: [&str; 3] = ["model", "model.language_model", "language_model.model"];

/// The one of [`ROOTS`] under which these weights lie.
pub(crate) fn root(weights: &Weights) -> &'static str {
    let holds = |root: &&&str| weights.contains(&format!("{root}.embed_tokens.weight"));
    ROOTS.iter().find(holds).unwrap_or(&ROOTS[0])
}

/// Whether a tensor belongs to the text model: it lies under its root, or is its output head.
pub(crate) fn is_text(weights: &Weights, tensor: &str) -> bool {
    let under = |path: &str| tensor.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
    under(root(weights)) || under(head_path(weights))
}

/// The output head's path beside a root.
fn head_path(weights: &Weights) -> &'static str {
    match weights.contains("language_model.lm_head.weight") {
        true => "language_model.lm_head",
        false => "lm_head",
    }
}

/// Keys of which some say one thing in older and newer ways. Beside a `text_config`, those at the top
/// describe something else, as for mlx-lm: an older key that is nested must not lose to a newer one at
/// the top.
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

/// The fields that describe the text model: those of `text_config`, where a multimodal model's
/// config nests them, over those at the top; and what the family's configs leave out. `model_type`
/// stays the top's.
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

    /// Checks that `num_hidden_layers` is a number of layers.
    fn check_layers(&self, layers: i32) -> Result<(), LoadError> {
        match (1..=limits::LAYERS).contains(&layers) {
            true => Ok(()),
            false => Err(self.invalid(format!("\"num_hidden_layers\" is {layers}"))),
        }
    }

    /// Checks that each of these fields is a size.
    fn check_sizes(&self, sizes: &[(&str, i32)]) -> Result<(), LoadError> {
        match sizes.iter().find(|(_, size)| !(1..=limits::CONFIG_SIZE).contains(size)) {
            Some((name, size)) => Err(self.invalid(format!("\"{name}\" is {size}"))),
            None => Ok(()),
        }
    }

    /// The error for a field that is not usable.
    pub(crate) fn invalid(&self, what: impl Into<String>) -> LoadError {
        LoadError::Invalid { path: self.path.to_owned(), what: what.into() }
    }

    /// How positions are scaled: `rope_parameters`, the newer name, when it says so, else
    /// `rope_scaling`.
    pub(crate) fn rope_scaling(&self) -> Option<&Map<String, Value>> {
        let object = |key| self.fields.get(key).and_then(Value::as_object);
        let newer = object("rope_parameters");
        let says = |scaling: &&Map<String, Value>| rope_type(scaling).is_some();
        newer.filter(says).or_else(|| object("rope_scaling")).or(newer)
    }

    /// A number that newer configs keep in `rope_parameters`, and older ones in `rope_scaling` or at the
    /// top: the newer place wins.
    ///
    /// # Errors
    /// When what wins is no number.
    pub(crate) fn rope_number(&self, key: &str) -> Result<Option<f64>, LoadError> {
        let nested = |name: &str| self.fields.get(name)?.as_object()?.get(key);
        let given = [nested("rope_parameters"), nested("rope_scaling"), self.fields.get(key)];
        match given.into_iter().flatten().find(|value| !value.is_null()) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => Err(self.invalid(format!("\"{key}\" is {value}, which is no number"))),
            },
        }
    }

    /// The base of the rotary frequencies.
    ///
    /// # Errors
    /// When it is no number.
    pub(crate) fn rope_theta(&self) -> Result<Option<f32>, LoadError> {
        Ok(self.rope_number("rope_theta")?.map(|theta| theta as f32))
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

/// The kind of a rope scaling, under its older or its newer key. An explicit null says nothing.
pub(crate) fn rope_type(scaling: &Map<String, Value>) -> Option<&Value> {
    let given = |key| scaling.get(key).filter(|kind: &&Value| !kind.is_null() && **kind != "");
    given("type").or_else(|| given("rope_type"))
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

#[cfg(test)]
mod limit_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::slots::SequenceCache;
    use crate::models::step::{Segment, token_array};
    use crate::runtime::model::Folder;
    use omlx_tests::fixtures::Case;

    /// One segment of a step: a cache, its tokens, and whether logits are wanted.
    type Part<'a> = (&'a mut SequenceCache, &'a [u32], bool);

    fn load_case(name: &str) -> Box<dyn Architecture> {
        load_written(&Case::named(name))
    }

    fn load_written(case: &Case) -> Box<dyn Architecture> {
        let dir = tempfile::tempdir().unwrap();
        case.write(dir.path()).unwrap();
        load_folder(dir.path())
    }

    fn load_folder(dir: &Path) -> Box<dyn Architecture> {
        let folder = Folder::read(dir).unwrap();
        let mut weights = Weights::open(dir, folder.quantization.clone()).unwrap();
        load(&folder.config_file(), &mut weights).unwrap()
    }

    /// Runs a step; returns one row of logits for each part that wants them.
    fn run(model: &dyn Architecture, parts: Vec<Part<'_>>) -> Vec<Vec<f32>> {
        let tokens: Vec<u32> = parts.iter().flat_map(|(_, tokens, _)| tokens.to_vec()).collect();
        let segments = parts.into_iter().map(|(cache, tokens, wants_logits)| Segment {
            cache,
            length: tokens.len() as i32,
            wants_logits,
        });
        let mut step = Step::new(segments.collect());
        let logits = model.forward(&token_array(&tokens), &mut step).unwrap();
        let Some(logits) = logits else { return Vec::new() };
        let vocab = logits.shape()[2] as usize;
        let logits = logits.contiguous().unwrap();
        logits.as_slice::<f32>().chunks(vocab).map(<[f32]>::to_vec).collect()
    }

    fn assert_close(got: &[f32], wanted: &[f32], what: &str) {
        assert_eq!(got.len(), wanted.len(), "{what}");
        let worst = got.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-3, "{what}: logits differ by {worst}");
    }

    #[test]
    fn a_segment_does_not_depend_on_the_others() {
        crate::mlx::bridge::init().unwrap();
        let long: Vec<u32> = (0..90).map(|i| 10 + i * 37 % 350).collect();
        let short: Vec<u32> = (0..5).map(|i| 20 + i * 53 % 350).collect();
        for name in [
            "llama-sliding-f32",
            "qwen3-default-f32",
            "qwen3_moe-default-f32",
            "qwen3_5-default-f32",
            "qwen3_5-flat-tied-f32",
            "qwen3_5_moe-published-f32",
            "gemma3_text-default-f32",
        ] {
            let model = load_case(name);
            let model = model.as_ref();
            let cache = || SequenceCache::new(&model.layers(), 1);
            let alone = |tokens: &[u32]| run(model, vec![(&mut cache(), tokens, true)]).remove(0);

            let (mut a, mut b) = (cache(), cache());
            assert!(run(model, vec![(&mut a, &long[..70], false)]).is_empty());
            let first =
                run(model, vec![(&mut a, &long[70..80], false), (&mut b, &short[..4], true)]);
            assert_close(&first[0], &alone(&short[..4]), &format!("{name}, prefill"));
            let second = run(model, vec![(&mut b, &short[4..], true), (&mut a, &long[80..], true)]);
            assert_close(&second[0], &alone(&short), &format!("{name}, decode"));
            assert_close(&second[1], &alone(&long), &format!("{name}, end of the prompt"));
            assert_eq!((a.offset, b.offset), (90, 5), "{name}");
        }
    }

    #[test]
    fn a_cloned_state_is_a_snapshot() {
        crate::mlx::bridge::init().unwrap();
        // Its last layer is a recurrent one, and its middle one attends.
        let model = load_case("qwen3_5-flat-tied-f32");
        let mut cache = SequenceCache::new(&model.layers(), 1);
        run(model.as_ref(), vec![(&mut cache, &[10, 11, 12], false)]);
        let before = cache.recurrent(0).unwrap().clone();
        let read = |a: &Array| a.contiguous().unwrap().as_slice::<f32>().to_vec();
        let held: Vec<_> = before.arrays.iter().map(read).collect();
        run(model.as_ref(), vec![(&mut cache, &[13, 14, 15, 16, 17], false)]);
        mlx_rs::transforms::eval(cache.arrays()).unwrap();
        let after = cache.recurrent(0).unwrap();
        assert_eq!(before.arrays.iter().map(read).collect::<Vec<_>>(), held);
        assert_ne!(after.arrays.iter().map(read).collect::<Vec<_>>(), held);
    }

    #[test]
    fn limits_and_ends_are_read_from_a_nested_config() {
        let read = |case: &Case| {
            let dir = tempfile::tempdir().unwrap();
            case.write(dir.path()).unwrap();
            Folder::read(dir.path()).unwrap()
        };
        let mut case = Case::named("qwen3_5-default-f32");
        let text = case.config["text_config"].as_object_mut().unwrap();
        text.insert("eos_token_id".into(), json!([77, 78]));
        text.insert("max_position_embeddings".into(), json!(1234));
        case.config.insert("eos_token_id".into(), json!(79));
        let folder = read(&case);
        assert_eq!((folder.context_tokens, folder.vocab_tokens), (1234, 384));
        // The fixtures' generation_config.json names others, and wins over ordinary tokens.
        assert_eq!(*folder.eos, [0, 3]);
        case.config.insert("eos_token_id".into(), json!([79, 5]));
        assert_eq!(*read(&case).eos, [0, 3, 5], "5 is an added token");
        let dir = tempfile::tempdir().unwrap();
        case.write(dir.path()).unwrap();
        std::fs::write(dir.path().join("generation_config.json"), "{}").unwrap();
        let folder = Folder::read(dir.path()).unwrap();
        assert!([77, 78, 79].iter().all(|id| folder.eos.contains(id)), "{:?}", folder.eos);
        // Its linear scaling by 4 is in the number already.
        assert_eq!(read(&Case::named("gemma3-linear-f32")).context_tokens, 256);
        assert_eq!(read(&Case::named("llama-linear-f32")).context_tokens, 1024);
    }

    #[test]
    fn a_softcap_bends_the_logits() {
        crate::mlx::bridge::init().unwrap();
        let case = Case::named("gemma3_text-default-f32");
        let capped = case.clone().with_config(json!({"final_logit_softcapping": 0.5}));
        let [plain, capped] = [case, capped].map(|case| {
            let model = load_written(&case);
            let mut cache = SequenceCache::new(&model.layers(), 1);
            run(model.as_ref(), vec![(&mut cache, &[10, 11, 12], true)]).remove(0)
        });
        assert!(plain.iter().any(|logit| logit.abs() > 0.5));
        let wanted: Vec<f32> = plain.iter().map(|logit| (logit / 0.5).tanh() * 0.5).collect();
        assert_close(&capped, &wanted, "capped at 0.5");
    }

    #[test]
    fn layer_types_win_over_intervals() {
        crate::mlx::bridge::init().unwrap();
        let types = |names: [&str; 4]| names.map(|name| format!("{name}_attention"));
        let (linear, sliding, full) = ("linear", "sliding", "full");
        for (name, changes) in [
            (
                "qwen3_5-default-f32",
                json!({"layer_types": types([linear, full, linear, full]), "full_attention_interval": 3}),
            ),
            (
                "gemma3_text-default-f32",
                json!({
                    "layer_types": types([sliding, sliding, full, sliding]),
                    "sliding_window_pattern": 2,
                }),
            ),
        ] {
            let case = Case::named(name);
            let mut changed = case.clone();
            let text = match changed.config.get_mut("text_config") {
                Some(Value::Object(text)) => text,
                _ => &mut changed.config,
            };
            let written = {
                text.extend(changes.as_object().unwrap().clone());
                // The weights are those of the unchanged config.
                let dir = tempfile::tempdir().unwrap();
                case.write(dir.path()).unwrap();
                let config = serde_json::to_string(&changed.config).unwrap();
                std::fs::write(dir.path().join("config.json"), config).unwrap();
                load_folder(dir.path())
            };
            assert_eq!(written.layers(), load_case(name).layers(), "{name}");
        }
    }

    #[test]
    fn a_nested_config_lies_over_the_top_and_over_defaults() {
        let fields = json!({
            "model_type": "gemma3", "eos_token_id": 1, "vocab_size": 10, "head_dim": 8,
            "text_config": {
                "model_type": "gemma3_text", "head_dim": 16, "num_attention_heads": null,
            },
        });
        let text = text_fields(fields.as_object().unwrap());
        let wanted = json!({
            "model_type": "gemma3", "eos_token_id": 1, "vocab_size": 10, "head_dim": 16,
            "max_position_embeddings": 131_072, "num_attention_heads": 8,
            "num_key_value_heads": 4,
        });
        assert_eq!(Value::Object(text), wanted);
    }
}
