//! `GET /v1/models` and `GET /v1/models/{id}`.

use std::sync::Arc;

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::answer::Answer;
use crate::app::App;
use crate::auth::ApiCaller;
use crate::error::ApiError;
use crate::http::Call;
use crate::registry::ModelEntry;

/// Answers `GET /v1/models`: every model on disk, loaded or not, also under its aliases.
pub(super) async fn list(_caller: ApiCaller, call: &Call, _id: &str) -> Result<Answer, ApiError> {
    let app = Arc::clone(call.app());
    // Looking for models reads directories.
    let found = tokio::task::spawn_blocking(move || all(&app)).await;
    Ok(Answer::json(&found.map_err(|_| ApiError::internal())?))
}

/// Answers `GET /v1/models/{id}`. `id` is the rest of the path: its slashes may be raw or
/// percent-encoded. E19.
pub(super) async fn get(_caller: ApiCaller, call: &Call, id: &str) -> Result<Answer, ApiError> {
    let app = Arc::clone(call.app());
    let id = percent_decode_str(id).decode_utf8_lossy().into_owned();
    // Looking for a model reads directories.
    let found =
        tokio::task::spawn_blocking(move || match app.registry.catalog().find_or_near(&id) {
            Ok(entry) => Ok(model(&app, &entry)),
            Err(near) => Err(ApiError::model_not_found(&id, &near)),
        });
    Ok(Answer::json(&found.await.map_err(|_| ApiError::internal())??))
}

fn all(app: &App) -> Value {
    let named = |entry: &ModelEntry| {
        let own = std::iter::once(model(app, entry));
        let aliases = app.registry.catalog().aliases(&entry.id).iter().map(|alias| {
            let mut same = model(app, entry);
            same["id"] = json!(alias);
            same["root"] = json!(entry.id);
            same
        });
        own.chain(aliases.collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    let data: Vec<Value> = app.registry.catalog().list().iter().flat_map(named).collect();
    json!({"object": "list", "data": data})
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
