//! `GET /v1/models` and `GET /v1/models/{id}`.

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::error::ApiError;
use crate::app::App;
use crate::registry::ModelEntry;

/// Every model on disk, loaded or not, also under its aliases.
pub(crate) fn list(app: &App) -> Value {
    let named = |entry: &ModelEntry| {
        let own = std::iter::once(model(app, entry));
        let aliases = app.registry.aliases(&entry.id).iter().map(|alias| {
            let mut same = model(app, entry);
            same["id"] = json!(alias);
            same["root"] = json!(entry.id);
            same
        });
        own.chain(aliases.collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    let data: Vec<Value> = app.registry.list().iter().flat_map(named).collect();
    json!({"object": "list", "data": data})
}

/// One model. `id` is the rest of the path: its slashes may be raw or percent-encoded. E19.
pub(crate) fn get(app: &App, id: &str) -> Result<Value, ApiError> {
    let id = percent_decode_str(id).decode_utf8_lossy();
    match app.registry.find_or_near(&id) {
        Ok(entry) => Ok(model(app, &entry)),
        Err(near) => Err(ApiError::model_not_found(&id, &near)),
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
    if let Some(loaded) = app.registry.loaded_model(&entry.id) {
        model["max_model_len"] = json!(loaded.info().context_tokens);
    }
    model
}
