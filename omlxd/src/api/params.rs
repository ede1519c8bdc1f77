//! The fields that chat and text completions share.

use engine::{SamplingDefaults, SamplingParams};
use serde_json::Value;

use super::constrain::Constraint;
use super::read::{Fields, Path, out_of_range, wrong};
use super::reading::Reading;
use crate::error::ApiError;
use crate::limits::{CACHE_SALT_BYTES, LOGIT_BIAS, MODEL_NAME_BYTES};

/// `stream_options` of a request with `stream: true`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamOptions {
    /// Send a chunk with the token counts before the end.
    pub include_usage: bool,
}

/// Fields that both endpoints have. `None` means absent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Params {
    /// The model's name as the client wrote it; responses echo it.
    pub model: String,
    /// Choices for each prompt.
    pub n: usize,
    /// `Some` for a streamed answer.
    pub stream: Option<StreamOptions>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// The most tokens to generate.
    pub max_tokens: Option<usize>,
    /// No end of sequence before this many tokens (vLLM's extension).
    pub min_tokens: usize,
    /// Go on after an end of sequence (vLLM's extension).
    pub ignore_eos: bool,
    /// Echo `"service_tier": "default"`.
    pub service_tier: bool,
    seed: Option<u64>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: f32,
    frequency_penalty: f32,
    logit_bias: Vec<(u32, f32)>,
    /// What the answer's text is held to.
    pub constraint: Option<Constraint>,
    /// Keeps the prompt's KV apart from that of requests with another salt (vLLM's extension).
    pub cache_salt: Option<String>,
}

/// The names that [`Params::read`] reads.
pub(super) const PARAMS: &[&str] = &[
    "model",
    "n",
    "stream",
    "stream_options",
    "stop",
    "max_tokens",
    "min_tokens",
    "ignore_eos",
    "service_tier",
    "seed",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "metadata",
    "store",
    "cache_salt",
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
];

impl Params {
    /// Reads the shared fields. E3, E4, E6, E7.
    pub(super) fn read(fields: &Fields<'_, '_>, reading: &Reading) -> Result<Self, ApiError> {
        let model = fields.required_string("model")?;
        if model.is_empty() || model.len() > MODEL_NAME_BYTES {
            let what = format!("a name has 1 to {MODEL_NAME_BYTES} bytes");
            return Err(ApiError::invalid_value("model", what));
        }
        accepted(fields)?;
        Ok(Params {
            cache_salt: cache_salt(fields)?,
            constraint: Constraint::read(fields, reading)?,
            model: model.to_owned(),
            n: choices(fields, reading)?,
            stream: stream(fields, reading)?,
            stop: stop(fields, "stop", reading)?,
            max_tokens: tokens(fields, "max_tokens", 1)?,
            min_tokens: tokens(fields, "min_tokens", 0)?.unwrap_or(0),
            ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
            service_tier: fields.string("service_tier")?.is_some(),
            // A negative seed is as good as any other, but -1 asks for none everywhere else.
            seed: fields
                .integer("seed", i64::MIN..=i64::MAX)?
                .filter(|seed| *seed != -1)
                .map(|seed| seed as u64),
            temperature: float(fields, "temperature", 0.0, 2.0)?,
            top_p: float(fields, "top_p", 0.0, 1.0)?,
            top_k: fields
                .integer("top_k", -1..=i64::from(u32::MAX))?
                .map(|k| usize::try_from(k).unwrap_or(0)),
            min_p: float(fields, "min_p", 0.0, 1.0)?,
            repetition_penalty: float(fields, "repetition_penalty", 0.01, 100.0)?,
            presence_penalty: float(fields, "presence_penalty", -2.0, 2.0)?.unwrap_or(0.0),
            frequency_penalty: float(fields, "frequency_penalty", -2.0, 2.0)?.unwrap_or(0.0),
            logit_bias: logit_bias(fields, reading)?,
        })
    }

    /// How choice number `choice` samples: the request's values, else the model's, else plain. The
    /// first choice takes the request's seed itself, so that `n` does not change it.
    pub(super) fn sampling(&self, defaults: &SamplingDefaults, choice: usize) -> SamplingParams {
        let plain = SamplingParams::default();
        SamplingParams {
            temperature: self.temperature.or(defaults.temperature).unwrap_or(plain.temperature),
            top_p: self.top_p.or(defaults.top_p).unwrap_or(plain.top_p),
            top_k: self.top_k.or(defaults.top_k).unwrap_or(plain.top_k),
            min_p: self.min_p.or(defaults.min_p).unwrap_or(plain.min_p),
            repetition_penalty: self
                .repetition_penalty
                .or(defaults.repetition_penalty)
                .unwrap_or(plain.repetition_penalty),
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.clone(),
            seed: self.seed.map(|seed| seed.wrapping_add(choice as u64)),
        }
    }

    /// E6 for a `logit_bias` that names a token which the model does not have.
    pub(super) fn check_vocabulary(&self, vocab_tokens: usize) -> Result<(), ApiError> {
        match self.logit_bias.iter().find(|(id, _)| *id as usize >= vocab_tokens) {
            Some((id, _)) => {
                let last = vocab_tokens.saturating_sub(1);
                Err(out_of_range(&Path::Root.field("logit_bias"), id, 0, last))
            }
            None => Ok(()),
        }
    }
}

fn float(fields: &Fields<'_, '_>, name: &str, min: f64, max: f64) -> Result<Option<f32>, ApiError> {
    Ok(fields.number(name, min..=max)?.map(|number| number as f32))
}

/// A count of tokens of at least `min`.
pub(super) fn tokens(
    fields: &Fields<'_, '_>,
    name: &str,
    min: i64,
) -> Result<Option<usize>, ApiError> {
    let count = fields.integer(name, min..=i64::MAX)?;
    Ok(count.map(|count| usize::try_from(count).unwrap_or(usize::MAX)))
}

/// Fields that are accepted and change nothing in the answer.
fn accepted(fields: &Fields<'_, '_>) -> Result<(), ApiError> {
    for name in ["user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"] {
        fields.string(name)?;
    }
    for name in ["metadata", "prompt_cache_options"] {
        fields.object(name)?;
    }
    fields.boolean("store")?;
    Ok(())
}

fn cache_salt(fields: &Fields<'_, '_>) -> Result<Option<String>, ApiError> {
    let Some(salt) = fields.string("cache_salt")? else { return Ok(None) };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if (16..=CACHE_SALT_BYTES).contains(&salt.len()) && salt.bytes().all(plain) {
        return Ok(Some(salt.to_owned()));
    }
    let what =
        format_args!("a salt has 16 to {CACHE_SALT_BYTES} characters of A-Z, a-z, 0-9, _ and -");
    Err(ApiError::invalid_value(fields.path().field("cache_salt"), what))
}

fn choices(fields: &Fields<'_, '_>, reading: &Reading) -> Result<usize, ApiError> {
    let n = fields.integer("n", 1..=128)?.unwrap_or(1) as usize;
    if n <= reading.max_choices {
        return Ok(n);
    }
    let what = format_args!("at most {} choices (limits.max_choices)", reading.max_choices);
    Err(ApiError::unsupported_value("n", what))
}

fn stream(fields: &Fields<'_, '_>, reading: &Reading) -> Result<Option<StreamOptions>, ApiError> {
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let path = fields.path().field("stream_options");
    let Some(options) = fields.get("stream_options") else {
        return Ok(stream.then_some(StreamOptions { include_usage: false }));
    };
    let options = Fields::of(options, &path)?;
    if !stream {
        return Err(ApiError::invalid_value(path, "only allowed with \"stream\": true"));
    }
    options.boolean("include_obfuscation")?;
    for name in options.unknown(&["include_usage", "include_obfuscation"]) {
        reading.ignore(&path.field(name))?;
    }
    let include_usage = options.boolean("include_usage")?.unwrap_or(false);
    Ok(Some(StreamOptions { include_usage }))
}

/// Texts that end the answer, in the field `name`.
pub(super) fn stop(
    fields: &Fields<'_, '_>,
    name: &str,
    reading: &Reading,
) -> Result<Vec<String>, ApiError> {
    let path = fields.path().field(name);
    let list = match fields.get(name) {
        None => return Ok(Vec::new()),
        Some(one @ Value::String(_)) => std::slice::from_ref(one),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong(&path, "a string or an array of strings", other)),
    };
    if list.len() > reading.max_stop {
        let what = format_args!("at most {} stop strings", reading.max_stop);
        return Err(ApiError::invalid_value(path, what));
    }
    let text = |(index, value): (usize, &Value)| match value.as_str() {
        Some("") => Err(ApiError::invalid_value(path, "a stop string must not be empty")),
        Some(text) => Ok(text.to_owned()),
        None => Err(wrong(&path.index(index), "a string", value)),
    };
    list.iter().enumerate().map(text).collect()
}

fn logit_bias(fields: &Fields<'_, '_>, reading: &Reading) -> Result<Vec<(u32, f32)>, ApiError> {
    let path = fields.path().field("logit_bias");
    let Some(map) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    reading.check_count(&path, map.len(), LOGIT_BIAS)?;
    let bias = Fields::new(map, &path);
    map.keys()
        .map(|key| {
            let id = key.parse::<u32>().map_err(|_| {
                ApiError::invalid_value(path, format_args!("'{key:.32}' is not a token id"))
            })?;
            let value = bias.number(key, -100.0..=100.0)?.unwrap_or(0.0);
            Ok((id, value as f32))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::IGNORED_NAMES;
    use serde_json::json;

    fn read(body: &Value) -> Result<Params, ApiError> {
        let path = Path::Root;
        Params::read(&Fields::of(body, &path)?, &Reading::new(false, 8, 4))
    }

    #[test]
    fn a_seed_of_minus_one_is_none() {
        let seed = |seed: Value| read(&json!({"model": "m", "seed": seed})).unwrap().seed;
        for none in [json!(null), json!(-1), json!(-1.0)] {
            assert_eq!(seed(none), None);
        }
        assert_eq!((seed(json!(0)), seed(json!(-2))), (Some(0), Some(u64::MAX - 1)));
    }

    #[test]
    fn a_model_name_at_its_limit() {
        let name = |bytes: usize| read(&json!({"model": "m".repeat(bytes)}));
        assert!(name(MODEL_NAME_BYTES).is_ok());
        assert_eq!(name(MODEL_NAME_BYTES + 1).unwrap_err().param(), Some("model"));
    }

    #[test]
    fn a_cache_salt_at_its_limit() {
        let salt = |bytes: usize| read(&json!({"model": "m", "cache_salt": "s".repeat(bytes)}));
        assert!(salt(CACHE_SALT_BYTES).is_ok());
        assert_eq!(salt(CACHE_SALT_BYTES + 1).unwrap_err().param(), Some("cache_salt"));
    }

    #[test]
    fn ignored_names_at_their_limit() {
        let names = super::super::vendor_fields::NAMES;
        for (fields, kept) in [(IGNORED_NAMES, IGNORED_NAMES), (IGNORED_NAMES + 1, IGNORED_NAMES)] {
            let reading = Reading::new(false, 8, 4);
            let mut known = names[..fields].iter();
            known.try_for_each(|name| reading.ignore(&Path::Root.field(name))).unwrap();
            let ignored = reading.into_ignored();
            assert_eq!((ignored.count, ignored.names.len()), (fields, kept));
        }
    }
}
