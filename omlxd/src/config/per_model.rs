//! `[models."<id>"]`: what one model has of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use engine::{LoadOptions, SamplingDefaults};
use serde_json::{Map, Value, json};
use toml::de::DeValue;

use super::value::{FromToml, KvDtype, Raw, expected, integer, shown};
use crate::limits::{CONFIG_ALIAS_HOPS, CONFIG_CONTEXT_TOKENS, CONFIG_TOP_K, MODEL_NAME_BYTES};

/// With fewer there is no room for a prompt.
const MIN_CONTEXT_TOKENS: usize = 16;

/// A model's own settings.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ModelSettings {
    /// Other names that requests may use.
    pub alias: Vec<String>,
    /// Loaded at start and never unloaded.
    pub pin: bool,
    /// As `models.idle_ttl`; `None` where that holds.
    pub idle_ttl: Option<Option<Duration>>,
    /// Most tokens of a prompt and its answer.
    pub context_limit: Option<usize>,
    /// Sampling where a request does not say.
    pub sampling: SamplingDefaults,
    /// Variables of the chat template where a request does not set them.
    pub chat_template_kwargs: Map<String, Value>,
    /// What its keys and values are kept in.
    pub kv_dtype: engine::KvDtype,
}

impl ModelSettings {
    /// What the engine needs of them.
    pub fn load_options(&self) -> LoadOptions {
        LoadOptions {
            context_tokens: self.context_limit,
            sampling: self.sampling,
            template_kwargs: self.chat_template_kwargs.clone(),
            kv_dtype: self.kv_dtype,
        }
    }
}

/// A key of `[models."<id>"]`.
pub struct ModelKey {
    /// Its name.
    pub name: &'static str,
    /// What kind of value it takes.
    pub kind: &'static str,
    /// What it does.
    pub doc: &'static str,
    /// Checks a value and puts it into its field.
    pub(super) set: fn(&mut ModelSettings, &Raw<'_>) -> Result<(), String>,
}

/// Every key of `[models."<id>"]`.
pub const MODEL_KEYS: &[ModelKey] = &[
    ModelKey {
        name: "alias",
        kind: "text, or list of texts",
        doc: "Other names that requests can use. A model whose id is that name takes precedence. An alias can lead \
              to another section's alias, at most eight in a row and never in a circle.",
        set: |model, raw| {
            let names = match raw {
                DeValue::String(_) => vec![String::from_toml(raw)?],
                _ => <Vec<String> as FromToml>::from_toml(raw)?,
            };
            if !names.iter().all(|name| is_name(name)) {
                return Err(format!("an alias has 1 to {MODEL_NAME_BYTES} bytes"));
            }
            model.alias = names;
            Ok(())
        },
    },
    ModelKey {
        name: "pin",
        kind: bool::KIND,
        doc: "Load the model at start and never unload it, neither when idle nor to free memory.",
        set: |model, raw| put(&mut model.pin, raw),
    },
    ModelKey {
        name: "idle_ttl",
        kind: "time, or `\"off\"`",
        doc: "As `models.idle_ttl`, for this model.",
        set: |model, raw| {
            model.idle_ttl = Some(<Option<Duration> as FromToml>::from_toml(raw)?);
            Ok(())
        },
    },
    ModelKey {
        name: "context_limit",
        kind: "number",
        doc: "Maximum tokens of a prompt and its answer, if less than the model's context.",
        set: |model, raw| {
            let limit = integer(raw, "a number of tokens from 16 on")?;
            let range = MIN_CONTEXT_TOKENS..=CONFIG_CONTEXT_TOKENS;
            let limit = usize::try_from(limit).ok().filter(|limit| range.contains(limit));
            model.context_limit = Some(limit.ok_or_else(|| {
                format!("it must be from {MIN_CONTEXT_TOKENS} to {CONFIG_CONTEXT_TOKENS} tokens")
            })?);
            Ok(())
        },
    },
    ModelKey {
        name: "temperature",
        kind: "number, 0 to 2",
        doc: "Default if a request does not set it; takes precedence over the model's generation_config.json.",
        set: |model, raw| number(&mut model.sampling.temperature, raw, 0.0, 2.0),
    },
    ModelKey {
        name: "top_p",
        kind: "number, 0 to 1",
        doc: "The same.",
        set: |model, raw| number(&mut model.sampling.top_p, raw, 0.0, 1.0),
    },
    ModelKey {
        name: "top_k",
        kind: "number; 0 is off",
        doc: "The same.",
        set: |model, raw| {
            let top_k = integer(raw, "a whole number from 0 on")?;
            let top_k = usize::try_from(top_k).ok().filter(|top_k| *top_k <= CONFIG_TOP_K);
            let top_k = top_k.ok_or_else(|| format!("it must be from 0 to {CONFIG_TOP_K}"))?;
            model.sampling.top_k = Some(top_k);
            Ok(())
        },
    },
    ModelKey {
        name: "min_p",
        kind: "number, 0 to 1",
        doc: "The same.",
        set: |model, raw| number(&mut model.sampling.min_p, raw, 0.0, 1.0),
    },
    ModelKey {
        name: "repetition_penalty",
        kind: "number, 0.01 to 100",
        doc: "The same.",
        set: |model, raw| number(&mut model.sampling.repetition_penalty, raw, 0.01, 100.0),
    },
    ModelKey {
        name: "kv_dtype",
        kind: KvDtype::KIND,
        doc: "Data type of the KV cache; \"auto\" is the type that the model computes in. 16 bits take half the \
              space of float32 in memory and on SSD, are less precise, and are converted in each step. A \
              change starts a new cache for the model.",
        set: |model, raw| {
            model.kv_dtype = KvDtype::from_toml(raw)?.into();
            Ok(())
        },
    },
    ModelKey {
        name: "chat_template_kwargs",
        kind: "table",
        doc: "Variables of the chat template, such as `{ enable_thinking = false }`; a request's values take \
              precedence.",
        set: |model, raw| {
            match to_json(raw) {
                Value::Object(kwargs) => model.chat_template_kwargs = kwargs,
                _ => return Err(expected("a table such as { enable_thinking = false }", raw)),
            }
            Ok(())
        },
    },
];

/// The name of a model's key in `omlxctl config show` and in problems.
pub(super) fn path(id: &str, key: &str) -> String {
    format!("models.{id:?}.{}", shown(key))
}

/// Whether a request could name a model so.
pub(super) fn is_name(name: &str) -> bool {
    (1..=MODEL_NAME_BYTES).contains(&name.len())
}

/// The key that was probably meant.
pub(super) fn nearest_key(name: &str) -> &'static str {
    let distance = |key: &&ModelKey| strsim::damerau_levenshtein(key.name, name);
    MODEL_KEYS.iter().min_by_key(distance).map_or("", |key| key.name)
}

/// One alias names one model, and following aliases ends soon. Gives the model whose aliases are wrong,
/// and what is wrong with them.
pub(super) fn check_together(models: &BTreeMap<String, ModelSettings>) -> Vec<(&str, String)> {
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    let mut problems = Vec::new();
    for (id, settings) in models {
        for alias in &settings.alias {
            if let Some(other) = owners.insert(alias, id) {
                let (alias, other) = (shown(alias), shown(other));
                problems.push((id.as_str(), format!("\"{alias}\" is an alias of {other} too")));
            }
        }
    }
    for (alias, id) in &owners {
        if let Err(what) = check_chain(&owners, alias) {
            problems.push((id, what));
        }
    }
    problems
}

/// Follows an alias to a name that is none, which has to come within the limit.
fn check_chain(owners: &BTreeMap<&str, &str>, alias: &str) -> Result<(), String> {
    let mut seen = vec![alias];
    let mut name = alias;
    for _ in 0..CONFIG_ALIAS_HOPS {
        let Some(owner) = owners.get(name) else { return Ok(()) };
        if *owner == alias {
            let alias = shown(alias);
            return Err(format!("\"{alias}\" leads back to itself: an alias must end at a model"));
        }
        if seen.contains(owner) {
            // It leads into a circle, each part of which is reported.
            return Ok(());
        }
        seen.push(owner);
        name = owner;
    }
    if owners.contains_key(name) {
        let alias = shown(alias);
        return Err(format!(
            "more than {CONFIG_ALIAS_HOPS} aliases lead from \"{alias}\" to a model"
        ));
    }
    Ok(())
}

fn put<T: FromToml>(field: &mut T, raw: &Raw<'_>) -> Result<(), String> {
    *field = T::from_toml(raw)?;
    Ok(())
}

fn number(field: &mut Option<f32>, raw: &Raw<'_>, min: f32, max: f32) -> Result<(), String> {
    let wanted = format!("a number from {min} to {max}");
    let value = match raw {
        DeValue::Float(text) => text.as_str().parse::<f32>().ok(),
        DeValue::Integer(_) => integer(raw, &wanted).ok().map(|value| value as f32),
        _ => None,
    };
    let value = value.filter(|value| (min..=max).contains(value));
    *field = Some(value.ok_or_else(|| expected(&wanted, raw))?);
    Ok(())
}

fn to_json(raw: &Raw<'_>) -> Value {
    match raw {
        DeValue::String(text) => json!(text),
        DeValue::Integer(_) => integer(raw, "").map_or(Value::Null, |value| json!(value)),
        DeValue::Float(text) => json!(text.as_str().parse::<f64>().ok()),
        DeValue::Boolean(value) => json!(value),
        DeValue::Datetime(time) => json!(time.to_string()),
        DeValue::Array(items) => items.iter().map(|item| to_json(item.get_ref())).collect(),
        DeValue::Table(table) => {
            let pairs = table.iter();
            let pairs = pairs.map(|(k, v)| (k.get_ref().to_string(), to_json(v.get_ref())));
            Value::Object(pairs.collect())
        }
    }
}
