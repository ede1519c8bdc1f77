//! One caller's stored answers.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;

use crate::error::ApiError;
use crate::response_store::{ChainError, Record, ResponseStore};

/// The answers that one API key stored.
#[derive(Debug, Clone)]
pub(super) struct Archive {
    store: Arc<ResponseStore>,
    tenant: String,
}

impl Archive {
    /// Those of a tenant.
    pub(super) fn new(store: Arc<ResponseStore>, tenant: String) -> Self {
        Archive { store, tenant }
    }

    /// Whether answers are stored at all.
    pub(super) fn is_enabled(&self) -> bool {
        self.store.is_enabled()
    }

    /// Stores an answer.
    pub(super) fn save(&self, id: &str, record: &Record) {
        self.store.save(&self.tenant, id, record, SystemTime::now());
    }

    /// A stored answer; 404 when there is none.
    pub(super) fn get(&self, id: &str) -> Result<Value, ApiError> {
        let record = self.store.load(&self.tenant, id, SystemTime::now());
        record.map(|record| record.response).ok_or_else(|| ApiError::response_not_found(id))
    }

    /// Removes a stored answer; 404 when there is none.
    pub(super) fn delete(&self, id: &str) -> Result<(), ApiError> {
        if self.store.delete(&self.tenant, id, SystemTime::now()) {
            Ok(())
        } else {
            Err(ApiError::response_not_found(id))
        }
    }

    /// The answers that lead to one, oldest first, or a refusal of `previous_response_id`.
    pub(super) fn chain(&self, id: &str, now: SystemTime) -> Result<Vec<Record>, ApiError> {
        if !self.is_enabled() {
            let hint = ": answers are not stored (server.store_responses); send the whole input";
            return Err(ApiError::unsupported_parameter("previous_response_id", hint));
        }
        self.store.chain(&self.tenant, id, now).map_err(|error| match error {
            ChainError::Unknown(missing) => ApiError::previous_not_found(&missing),
            ChainError::TooLong => {
                let what = "the conversation that leads to it is too long";
                ApiError::invalid_value("previous_response_id", what)
            }
        })
    }

    /// An item of a stored answer. Its id is `<kind>_<digits of the answer's id>_<place>`.
    pub(super) fn item(&self, id: &str) -> Option<Value> {
        let digits = id.split('_').nth(1)?;
        let record = self.store.load(&self.tenant, &format!("resp_{digits}"), SystemTime::now())?;
        record.output().iter().find(|item| item["id"] == id).cloned()
    }
}
