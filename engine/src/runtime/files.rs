//! The files of a model folder that need no MLX.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::error::LoadError;
use crate::mlx::rope::rope_type;
use crate::models::{self, text_fields};
use crate::runtime::sampling::SamplingDefaults;
use crate::text::output::OutputFormat;
use crate::text::template::{ChatTemplate, parse_object};
use crate::text::tokenizer::Tokenizer;
use crate::types::KvDtype;
use crate::weights::config::ConfigFile;
use crate::weights::quantization::QuantizationConfig;
use crate::{limits, small_file};

/// The user's settings for a model, which override those of its folder.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoadOptions {
    /// Limit on prompt and answer together, in tokens, if it is lower than the model's.
    pub context_tokens: Option<usize>,
    /// Sampling defaults that override generation_config.json.
    pub sampling: SamplingDefaults,
    /// Variables of the chat template. Those of a request override them.
    pub template_kwargs: Map<String, Value>,
    /// The dtype in which keys and values are cached.
    pub kv_dtype: KvDtype,
}

/// The files of a model folder that need no MLX, read and checked.
#[derive(Debug)]
pub(crate) struct ModelFiles {
    pub(crate) dir: PathBuf,
    pub(crate) config_path: PathBuf,
    pub(crate) config: Map<String, Value>,
    /// The fields of the config that describe the text model.
    text_config: Map<String, Value>,
    pub(crate) quantization: QuantizationConfig,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) chat_template: Option<ChatTemplate>,
    pub(crate) output_format: OutputFormat,
    pub(crate) sampling: SamplingDefaults,
    pub(crate) kv_dtype: KvDtype,
    /// All tokens that end an answer.
    pub(crate) eos: Arc<[u32]>,
    /// Tokens that open a user's message; empty when unknown.
    pub(crate) user_opening: Arc<[u32]>,
    pub(crate) context_tokens: usize,
    pub(crate) vocab_tokens: usize,
}

impl ModelFiles {
    /// Reads everything but the weights.
    pub(crate) fn read(dir: &Path) -> Result<Self, LoadError> {
        let config_path = dir.join("config.json");
        let config = read_object(&config_path)?.ok_or(LoadError::Missing {
            path: config_path.clone(),
            hint: "a model folder holds config.json beside its weights",
        })?;
        let text_config = text_fields(&config);
        let file = ConfigFile { path: &config_path, fields: &text_config };
        models::architecture(&file)?;
        let quantization = QuantizationConfig::from_config(&config);
        let quantization = quantization.map_err(|what| file.invalid(what))?;
        let context_tokens = context_tokens(&file)?;
        let vocab_tokens = text_config
            .get("vocab_size")
            .and_then(Value::as_u64)
            .filter(|&vocab| (1..=limits::CONFIG_SIZE as u64).contains(&vocab))
            .ok_or_else(|| {
                let most = limits::CONFIG_SIZE;
                file.invalid(format!("\"vocab_size\" is not a number from 1 to {most}"))
            })?;
        let vocab_tokens = vocab_tokens as usize;
        let generation = read_object(&dir.join("generation_config.json"))?.unwrap_or_default();
        let tokenizer = Tokenizer::load(dir)?;
        let eos = eos_tokens([&config, &text_config], &generation, dir, &tokenizer, vocab_tokens)?;
        let chat_template = ChatTemplate::load(dir)?;
        let user_opening = chat_template.as_ref().and_then(ChatTemplate::user_opening);
        let user_opening = user_opening.map(|text| user_tokens(&text, &eos, &tokenizer));
        Ok(Self {
            dir: dir.to_owned(),
            quantization,
            output_format: OutputFormat::detect(chat_template.as_ref(), &tokenizer),
            chat_template,
            sampling: sampling_defaults(&generation),
            kv_dtype: KvDtype::default(),
            eos,
            user_opening: user_opening.unwrap_or_default(),
            context_tokens,
            vocab_tokens,
            tokenizer,
            config_path,
            config,
            text_config,
        })
    }

    /// Applies the user's settings over the folder's.
    pub(crate) fn with(mut self, options: LoadOptions) -> Self {
        let LoadOptions { context_tokens, sampling, template_kwargs, kv_dtype } = options;
        self.kv_dtype = kv_dtype;
        if let Some(limit) = context_tokens {
            self.context_tokens = self.context_tokens.min(limit.max(2));
        }
        self.sampling = sampling.over(&self.sampling);
        self.chat_template = self.chat_template.map(|own| own.with_defaults(template_kwargs));
        self
    }

    /// The config in the form that the model families read.
    pub(crate) fn config_file(&self) -> ConfigFile<'_> {
        ConfigFile { path: &self.config_path, fields: &self.text_config }
    }
}

pub(crate) fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, LoadError> {
    let text = small_file::read_text(path, limits::CONFIG_BYTES)?;
    text.map(|text| parse_object(path, &text)).transpose()
}

/// `max_position_embeddings`, multiplied by the factor of a rope scaling that it does not include
/// yet: any scaling but llama3, and none of Gemma 3's, whose configs state the scaled length.
pub(crate) fn context_tokens(file: &ConfigFile<'_>) -> Result<usize, LoadError> {
    let number = |fields: &Map<String, Value>, key| fields.get(key).and_then(Value::as_u64);
    let positions = number(file.fields, "max_position_embeddings").unwrap_or(2048);
    let scaling = file.rope_scaling();
    let kind = scaling.and_then(rope_type).and_then(Value::as_str);
    let factor = scaling.and_then(|s| s.get("factor")).and_then(Value::as_f64).unwrap_or(1.0);
    let is_stretched = models::architecture(file)?.starts_with("gemma3");
    let stretched = match kind.filter(|_| !is_stretched) {
        Some("linear" | "dynamic") => positions as f64 * factor,
        Some("yarn") => {
            let trained = scaling.and_then(|s| number(s, "original_max_position_embeddings"));
            (trained.unwrap_or(positions) as f64 * factor).max(positions as f64)
        }
        _ => positions as f64,
    };
    if !(2.0..=limits::CONTEXT_TOKENS as f64).contains(&stretched) {
        let what = format!("\"max_position_embeddings\" comes to {stretched} tokens");
        return Err(file.invalid(what));
    }
    Ok(stretched as usize)
}

/// All tokens that end an answer: those of generation_config.json, or else of config.json, and
/// those of tokenizer_config.json. If generation_config.json names any, a token that only
/// config.json names counts only if it is an added token: configs may contain class defaults such
/// as 2, which is an ordinary word in some vocabularies.
fn eos_tokens(
    configs: [&Map<String, Value>; 2],
    generation: &Map<String, Value>,
    dir: &Path,
    tokenizer: &Tokenizer,
    vocab: usize,
) -> Result<Arc<[u32]>, LoadError> {
    let named = |file: &Map<String, Value>| -> Vec<u32> {
        let Some(value) = file.get("eos_token_id") else { return Vec::new() };
        let many = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        many.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()
    };
    let mut ids = named(generation);
    let wins = !ids.is_empty();
    let older = configs.into_iter().flat_map(named);
    ids.extend(older.filter(|id| !wins || tokenizer.is_added(*id)));
    let tokenizer_config = read_object(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
    let named = tokenizer_config.get("eos_token");
    let content = named.and_then(|v| v.as_str().or_else(|| v.get("content")?.as_str()));
    ids.extend(content.and_then(|content| tokenizer.token_id(content)));
    ids.retain(|&id| (id as usize) < vocab);
    ids.sort_unstable();
    ids.dedup();
    Ok(ids.into())
}

/// The tokens that open a user's message. Leading tokens that end the previous message are not part
/// of it.
fn user_tokens(opening: &str, eos: &[u32], tokenizer: &Tokenizer) -> Arc<[u32]> {
    let tokens = tokenizer.encode(opening, false).unwrap_or_default();
    let before = tokens.split_last().map_or(&[][..], |(_, before)| before);
    let end = before.iter().rposition(|id| eos.contains(id)).map_or(0, |at| at + 1);
    let mut own = tokens[end..].iter();
    own.position(|id| tokenizer.is_added(*id)).map_or(&[][..], |at| &tokens[end + at..]).into()
}

fn sampling_defaults(generation: &Map<String, Value>) -> SamplingDefaults {
    let number = |key: &str| generation.get(key).and_then(Value::as_f64).map(|n| n as f32);
    let within = |n: Option<f32>, low: f32, high: f32| n.filter(|n| (low..=high).contains(n));
    let greedy = generation.get("do_sample") == Some(&Value::Bool(false));
    SamplingDefaults {
        temperature: if greedy { Some(0.0) } else { within(number("temperature"), 0.0, 100.0) },
        top_p: within(number("top_p"), 0.0, 1.0),
        top_k: generation.get("top_k").and_then(Value::as_u64).map(|k| k as usize),
        min_p: within(number("min_p"), 0.0, 1.0),
        repetition_penalty: within(number("repetition_penalty"), 0.01, 100.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_message_begins_after_the_end_of_the_previous_one() {
        let tokenizer = include_bytes!("../../../tests/fixtures/tokenizer.json");
        let tokenizer = Tokenizer::from_json(tokenizer).unwrap();
        let (start, end) = (tokenizer.token_id("<|im_start|>"), tokenizer.token_id("<|im_end|>"));
        let (start, end) = (start.unwrap(), end.unwrap());
        let own = tokenizer.encode("<|im_start|>user", false).unwrap();
        for text in ["<|im_start|>user", "<|im_end|>\n<|im_start|>user", "s>\n<|im_start|>user"] {
            assert_eq!(*user_tokens(text, &[end], &tokenizer), own, "{text:?}");
        }
        // A token that ends an answer because it begins the next message.
        assert_eq!(*user_tokens("<|im_start|>", &[start], &tokenizer), [start]);
        assert!(
            user_tokens("User:", &[end], &tokenizer).is_empty(),
            "nothing is sure to stay whole"
        );
    }
}
