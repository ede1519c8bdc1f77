//! The functions that a request offers.

use serde_json::{Map, Value};

use super::kinds::{Kinds, Search};

/// Names and parameters of the functions that may be called.
#[derive(Debug, Default)]
pub(super) struct Tools {
    functions: Map<String, Value>,
}

impl Tools {
    /// From `{"type": "function", "function": {"name": .., "parameters": ..}}`.
    pub(super) fn new(tools: &[Value]) -> Self {
        let functions = tools.iter().filter_map(|tool| {
            let function = tool.get("function")?;
            let parameters = function.get("parameters").cloned().unwrap_or_default();
            Some((function.get("name")?.as_str()?.to_owned(), parameters))
        });
        Self { functions: functions.collect() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// Whether a function of this name is offered.
    pub(super) fn offers(&self, name: &str) -> bool {
        self.functions.contains_key(name)
    }

    /// The types that a function's schema allows for a parameter; text if the schema does not say.
    pub(super) fn kinds(&self, function: &str, key: &str) -> Kinds {
        self.search(function).map(|mut search| search.property(key).0).unwrap_or_default()
    }

    /// Whether a function's schema names this parameter.
    pub(super) fn names(&self, function: &str, key: &str) -> bool {
        self.search(function).is_some_and(|mut search| search.property(key).1)
    }

    fn search(&self, function: &str) -> Option<Search<'_>> {
        self.functions.get(function).map(Search::new)
    }
}
