//! Access to config.json for the model families.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::LoadError;
use crate::limits;
use crate::mlx::rope::rope_type;

/// A parsed config.json.
#[derive(Debug)]
pub(crate) struct ConfigFile<'a> {
    /// The path that it was read from.
    pub(crate) path: &'a Path,
    /// Its fields, from `models::text_fields`.
    pub(crate) fields: &'a Map<String, Value>,
}

impl ConfigFile<'_> {
    /// Parses the fields as a family's own struct.
    ///
    /// # Errors
    /// Names the field that is missing or has the wrong type.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, LoadError> {
        serde_json::from_value(Value::Object(self.fields.clone()))
            .map_err(|error| self.invalid(error.to_string()))
    }

    /// Checks that `num_hidden_layers` is within its limits.
    pub(crate) fn check_layers(&self, layers: i32) -> Result<(), LoadError> {
        if (1..=limits::LAYERS).contains(&layers) {
            Ok(())
        } else {
            Err(self.invalid(format!("\"num_hidden_layers\" is {layers}")))
        }
    }

    /// Checks that each of these fields is within the limits of a size.
    pub(crate) fn check_sizes(&self, sizes: &[(&str, i32)]) -> Result<(), LoadError> {
        match sizes.iter().find(|(_, size)| !(1..=limits::CONFIG_SIZE).contains(size)) {
            Some((name, size)) => Err(self.invalid(format!("\"{name}\" is {size}"))),
            None => Ok(()),
        }
    }

    /// The error for an invalid field.
    pub(crate) fn invalid(&self, what: impl Into<String>) -> LoadError {
        LoadError::Invalid { path: self.path.to_owned(), what: what.into() }
    }

    /// The scaling of positions: from `rope_parameters`, the newer name, if it has one, else from
    /// `rope_scaling`.
    pub(crate) fn rope_scaling(&self) -> Option<&Map<String, Value>> {
        let object = |key| self.fields.get(key).and_then(Value::as_object);
        let newer = object("rope_parameters");
        let says = |scaling: &&Map<String, Value>| rope_type(scaling).is_some();
        newer.filter(says).or_else(|| object("rope_scaling")).or(newer)
    }

    /// A number that newer configs store in `rope_parameters`, and older ones in `rope_scaling` or
    /// at the top level. The newer place has priority.
    ///
    /// # Errors
    /// If the value found is not a number.
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
    /// If it is not a number.
    pub(crate) fn rope_theta(&self) -> Result<Option<f32>, LoadError> {
        Ok(self.rope_number("rope_theta")?.map(|theta| theta as f32))
    }
}
