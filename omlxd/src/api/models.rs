//! `GET /v1/models` and `GET /v1/models/{id}`.

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::error::ApiError;
use crate::app::App;
use crate::registry::{ModelEntry, ModelState};

/// Every model on disk, loaded or not.
pub(crate) fn list(app: &App) -> Value {
    let data: Vec<Value> = app.registry.list().iter().map(|entry| model(app, entry)).collect();
    json!({"object": "list", "data": data})
}

/// One model. `id` is the rest of the path: its slashes may be raw or percent-encoded. E19.
pub(crate) fn get(app: &App, id: &str) -> Result<Value, ApiError> {
    let id = percent_decode_str(id).decode_utf8_lossy();
    match app.registry.find(&id) {
        Some(entry) => Ok(model(app, &entry)),
        None => Err(ApiError::model_not_found(&id, &app.registry.near(&id))),
    }
}

fn model(app: &App, entry: &ModelEntry) -> Value {
    let owner = entry.id.split_once('/').map_or("omlx", |(owner, _)| owner);
    let mut model = json!({
        "id": entry.id,
        "object": "model",
        "created": entry.created,
        "owned_by": owner,
    });
    // Known once the model has been loaded; vLLM's name for it.
    if let ModelState::Ready(loaded) = app.registry.state(&entry.id) {
        model["max_model_len"] = json!(loaded.info().context_tokens);
    }
    model
}
