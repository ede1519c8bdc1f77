//! What a reader of requests must know, and what it found that it does not know.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use tokio_util::sync::CancellationToken;

use super::json;
use super::read::{Fields, Path};
use crate::error::ApiError;
use crate::limits::{IGNORED_NAMES, JSON_VALUES};

/// What a reader of requests must know, and what it found that it does not know.
pub(super) struct Reading {
    /// Refuse what is unknown instead of ignoring it.
    pub strict: bool,
    /// Most choices for one prompt.
    pub max_choices: usize,
    /// Most stop strings.
    pub max_stop: usize,
    cancelled: CancellationToken,
    ignored: RefCell<Ignored>,
    /// The JSON values of the body, and of the texts in it that are read as JSON.
    values: Cell<usize>,
}

impl Reading {
    /// A reader with the limits of a configuration.
    pub(super) fn new(strict: bool, max_choices: usize, max_stop: usize) -> Self {
        let cancelled = CancellationToken::new();
        let ignored = RefCell::default();
        Reading { strict, max_choices, max_stop, cancelled, ignored, values: Cell::new(0) }
    }

    /// The same, for as long as a request is not cancelled.
    pub(super) fn until(self, cancelled: CancellationToken) -> Self {
        Reading { cancelled, ..self }
    }

    /// Whether nobody waits for the request any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }

    /// Checks the length of a list: E6 beyond its limit, E36 if the request was cancelled.
    pub(super) fn check_count(
        &self,
        path: &Path<'_>,
        count: usize,
        limit: usize,
    ) -> Result<(), ApiError> {
        if self.is_cancelled() {
            return Err(ApiError::cancelled());
        }
        if count <= limit {
            Ok(())
        } else {
            let what = format_args!("at most {limit} entries are allowed, and it has {count}");
            Err(ApiError::invalid_value(path, what))
        }
    }

    /// Sets the number of JSON values in the body.
    pub(super) fn holds(&self, values: usize) {
        self.values.set(values);
    }

    /// Counts the values of a text of the body before it is read as JSON: E23 when there are too many of
    /// them, those of the body and of other texts included.
    pub(super) fn check_json(&self, text: &str) -> Result<(), ApiError> {
        self.values.set(self.values.get().saturating_add(json::most_values(text)));
        if self.values.get() <= JSON_VALUES {
            Ok(())
        } else {
            Err(ApiError::too_many_values(JSON_VALUES))
        }
    }

    /// The JSON values counted so far.
    pub(super) fn values(&self) -> usize {
        self.values.get()
    }

    /// Notes something unknown: E8 in strict mode.
    pub(super) fn ignore(&self, path: &Path<'_>) -> Result<(), ApiError> {
        if self.strict {
            return Err(ApiError::unknown_parameter(path));
        }
        let mut ignored = self.ignored.borrow_mut();
        ignored.count += 1;
        if ignored.names.len() < IGNORED_NAMES {
            ignored.names.insert(path.known());
        }
        Ok(())
    }

    /// Notes every field of a nested object that is not `known`: E8 in strict mode.
    pub(super) fn known(&self, fields: &Fields<'_, '_>, known: &[&str]) -> Result<(), ApiError> {
        let mut unknown = fields.entries().filter(|(name, _)| !known.contains(name));
        unknown.try_for_each(|(name, _)| self.ignore(&fields.path().field(name)))
    }

    /// What was ignored.
    pub(super) fn into_ignored(self) -> Ignored {
        self.ignored.into_inner()
    }
}

/// What was ignored of a request.
#[derive(Debug, Default)]
pub(crate) struct Ignored {
    /// How many fields and tools.
    pub(crate) count: usize,
    /// Where, in words that are not the client's: see [`Path::known`].
    pub(crate) names: BTreeSet<String>,
}
