//! Small random models, made when a test needs them.
//!
//! A [`Case`] says what a model is; its weights follow from it alone. `tests/oracle/fixtures.py`
//! makes the same bytes, which is how mlx-lm computes goldens for models that are never stored.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::golden::Golden;
use crate::weights::Tensor;

const TOKENIZER: &str = include_str!("../fixtures/tokenizer.json");
const TOKENIZER_CONFIG: &str = include_str!("../fixtures/tokenizer_config.json");
const GENERATION_CONFIG: &str = include_str!("../fixtures/generation_config.json");

/// Tokens of the fixture tokenizer, and rows of the fixture models' embeddings.
pub const VOCAB_TOKENS: u32 = 384;
/// Ids below this are special or added tokens.
pub const FIRST_ORDINARY_TOKEN: u32 = 8;
/// The end-of-sequence ids in generation_config.json.
pub const EOS_TOKENS: [u32; 2] = [3, 0];

/// The dtype that weights, scales and biases are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Dtype {
    /// float32
    F32,
    /// float16
    F16,
    /// bfloat16
    BF16,
}

impl Dtype {
    pub(crate) fn stored(self) -> safetensors::Dtype {
        match self {
            Self::F32 => safetensors::Dtype::F32,
            Self::F16 => safetensors::Dtype::F16,
            Self::BF16 => safetensors::Dtype::BF16,
        }
    }
}

/// What a model is.
#[derive(Debug, Clone, Deserialize)]
pub struct Case {
    /// Its golden's file name without `.json`.
    pub name: String,
    /// Dtype of the weights.
    pub dtype: Dtype,
    /// Number of safetensors files; more than one come with an index.
    pub shards: usize,
    /// Another seed gives other weights.
    pub seed: u64,
    /// The model's config.json.
    pub config: Map<String, Value>,
    /// How the weights are laid out.
    #[serde(default)]
    pub layout: Layout,
}

/// How checkpoints of one model may differ in names and shapes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// As mlx-lm writes it. For most families there is no other.
    #[default]
    Mlx,
    /// As its publisher does.
    Published,
}

impl Case {
    /// The case of a committed golden, such as "llama-default-f32" or "qwen3-q4-g64-bf16".
    ///
    /// # Panics
    /// When there is no golden of that name.
    pub fn named(name: &str) -> Self {
        Golden::named(name).case
    }

    /// A float32 llama that answers in milliseconds: for tests that need just any model.
    pub fn any() -> Self {
        Self::named("llama-default-f32")
    }

    /// The same case with other values in config.json; `Value::Null` removes a key.
    pub fn with_config(mut self, changes: Value) -> Self {
        let Value::Object(changes) = changes else { panic!("changes must be a JSON object") };
        for (key, value) in changes {
            if value.is_null() {
                self.config.remove(&key);
            } else {
                self.config.insert(key, value);
            }
        }
        self
    }

    /// Writes the model folder `dir` (made if need be): config.json, weights, tokenizer.json,
    /// tokenizer_config.json with a chat template, generation_config.json.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        fs::write(dir.join("config.json"), serde_json::to_string(&self.config)?)?;
        fs::write(dir.join("tokenizer.json"), TOKENIZER)?;
        fs::write(dir.join("tokenizer_config.json"), TOKENIZER_CONFIG)?;
        fs::write(dir.join("generation_config.json"), GENERATION_CONFIG)?;
        self.write_weights(dir)
    }

    /// The bytes of every tensor, by name.
    pub fn tensor_bytes(&self) -> BTreeMap<String, Vec<u8>> {
        self.tensors().into_iter().map(|tensor| (tensor.name, tensor.bytes)).collect()
    }

    fn tensors(&self) -> Vec<Tensor> {
        crate::families::tensors(self)
    }

    /// Tensor i goes to shard i modulo the number of shards.
    fn write_weights(&self, dir: &Path) -> io::Result<()> {
        let tensors = self.tensors();
        if self.shards == 1 {
            return save(&dir.join("model.safetensors"), tensors.iter());
        }
        let mut weight_map = Map::new();
        for shard in 0..self.shards {
            let file = format!("model-{:05}-of-{:05}.safetensors", shard + 1, self.shards);
            let part = || tensors.iter().skip(shard).step_by(self.shards);
            save(&dir.join(&file), part())?;
            weight_map.extend(part().map(|tensor| (tensor.name.clone(), json!(file))));
        }
        let total: usize = tensors.iter().map(|tensor| tensor.bytes.len()).sum();
        let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
        fs::write(dir.join("model.safetensors.index.json"), index.to_string())
    }
}

pub(crate) fn save<'a>(path: &Path, tensors: impl Iterator<Item = &'a Tensor>) -> io::Result<()> {
    let views: Vec<_> = tensors
        .map(|tensor| {
            let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
            (tensor.name.as_str(), view.expect("shape and bytes agree"))
        })
        .collect();
    let metadata = Some([("format".to_string(), "mlx".to_string())].into());
    safetensors::serialize_to_file(views, metadata, path).map_err(io::Error::other)
}

/// Ways in which a model folder can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// model.safetensors ends in the middle of a tensor.
    TruncatedWeights,
    /// model.safetensors is shorter than its own header.
    TruncatedHeader,
    /// model.safetensors is not a safetensors file.
    NotSafetensors,
    /// There is no safetensors file.
    NoWeights,
    /// config.json says hidden_size 96; the weights have 64.
    LyingHiddenSize,
    /// config.json says more layers than there are weights for.
    LyingLayers,
    /// config.json has no hidden_size.
    NoHiddenSize,
    /// config.json is not JSON.
    ConfigNotJson,
    /// There is no config.json.
    NoConfig,
    /// There is no tokenizer.json.
    NoTokenizer,
    /// tokenizer.json is not one.
    TokenizerNotJson,
    /// config.json names an architecture that nobody has.
    UnknownModelType,
    /// num_attention_heads is 0.
    ZeroHeads,
    /// A sharded model whose index names a file that is not there.
    MissingShard,
    /// One weight is NaN. Loads; generating fails.
    NanWeights,
}

impl Damage {
    /// Every way that loading must refuse, with words of which the error holds at least one: a file
    /// or a field.
    pub const UNLOADABLE: [(Self, &'static [&'static str]); 14] = [
        (Self::TruncatedWeights, &["model.safetensors"]),
        (Self::TruncatedHeader, &["model.safetensors"]),
        (Self::NotSafetensors, &["model.safetensors"]),
        (Self::NoWeights, &["safetensors"]),
        (Self::LyingHiddenSize, &["model.embed_tokens", "config.json"]),
        (Self::LyingLayers, &["model.layers.2"]),
        (Self::NoHiddenSize, &["hidden_size"]),
        (Self::ConfigNotJson, &["config.json"]),
        (Self::NoConfig, &["config.json"]),
        (Self::NoTokenizer, &["tokenizer.json"]),
        (Self::TokenizerNotJson, &["tokenizer.json"]),
        (Self::UnknownModelType, &["model_type"]),
        (Self::ZeroHeads, &["num_attention_heads"]),
        (Self::MissingShard, &["model-00002-of-00003.safetensors"]),
    ];

    /// Writes a damaged model folder.
    pub fn write(self, dir: &Path) -> io::Result<()> {
        self.case().write(dir)?;
        let file = |name: &str| -> PathBuf { dir.join(name) };
        let weights = file("model.safetensors");
        match self {
            Self::TruncatedWeights => truncate(&weights, fs::metadata(&weights)?.len() / 2),
            Self::TruncatedHeader => truncate(&weights, 100),
            Self::NotSafetensors => fs::write(weights, "<!DOCTYPE html><title>404</title>"),
            Self::NoWeights => fs::remove_file(weights),
            Self::ConfigNotJson => fs::write(file("config.json"), "{\"model_type\": \"llama\","),
            Self::NoConfig => fs::remove_file(file("config.json")),
            Self::NoTokenizer => fs::remove_file(file("tokenizer.json")),
            Self::TokenizerNotJson => fs::write(file("tokenizer.json"), "{}"),
            Self::MissingShard => fs::remove_file(file("model-00002-of-00003.safetensors")),
            Self::NanWeights => poison(&weights),
            Self::LyingHiddenSize
            | Self::LyingLayers
            | Self::NoHiddenSize
            | Self::UnknownModelType
            | Self::ZeroHeads => lie(&file("config.json"), self.lie()),
        }
    }

    fn case(self) -> Case {
        match self {
            Self::MissingShard => Case::named("llama-sharded-bf16"),
            _ => Case::any(),
        }
    }

    fn lie(self) -> (&'static str, Value) {
        match self {
            Self::LyingHiddenSize => ("hidden_size", json!(96)),
            Self::LyingLayers => ("num_hidden_layers", json!(3)),
            Self::UnknownModelType => ("model_type", json!("llama-nine")),
            Self::ZeroHeads => ("num_attention_heads", json!(0)),
            _ => ("hidden_size", Value::Null),
        }
    }
}

fn truncate(path: &Path, bytes: u64) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path)?.set_len(bytes)
}

/// Changes one key of a written config.json; null removes it.
fn lie(path: &Path, (key, value): (&str, Value)) -> io::Result<()> {
    let mut config: Map<String, Value> = serde_json::from_slice(&fs::read(path)?)?;
    config.insert(key.into(), value);
    config.retain(|_, value| !value.is_null());
    fs::write(path, serde_json::to_string(&config)?)
}

/// Makes the file's last float32, which is one of a matrix's, a NaN.
fn poison(path: &Path) -> io::Result<()> {
    let mut bytes = fs::read(path)?;
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(path, bytes)
}
