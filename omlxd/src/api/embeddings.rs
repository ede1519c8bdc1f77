//! `/v1/embeddings`, which is refused clearly: only models that generate are served.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::answer::Answer;
use super::parse::parse_as;
use super::read::{Fields, Path};
use crate::app::App;
use crate::auth::ApiCaller;
use crate::error::ApiError;
use crate::http::Call;

/// Answers `POST /v1/embeddings`: with a refusal.
pub(super) async fn create(
    caller: ApiCaller,
    call: &Call,
    body: Bytes,
) -> Result<Answer, ApiError> {
    let read = |body: &_, _: &_| model(body);
    let (model, _ticket) = parse_as(caller, call, "embeddings", false, body, read).await?;
    Err(refuse(call.app(), model).await)
}

/// The model that is asked for. E3, E4.
pub(super) fn model(body: &Map<String, Value>) -> Result<String, ApiError> {
    let fields = Fields::new(body, &Path::Root);
    let model = fields.required_string("model")?;
    fields.required("input")?;
    Ok(model.to_owned())
}

/// E7, or E19 for a model that does not exist.
async fn refuse(app: &Arc<App>, model: String) -> ApiError {
    let (app, name) = (Arc::clone(app), model.clone());
    // Looking for a model reads directories.
    let found =
        tokio::task::spawn_blocking(move || app.registry.catalog().find_or_near(&name)).await;
    match found {
        Ok(Ok(_)) => {
            let what = format_args!(
                "'{model:.64}' cannot be used here: this version of omlxd does not serve embeddings"
            );
            ApiError::unsupported_value("model", what)
        }
        Ok(Err(near)) => ApiError::model_not_found(&model, &near),
        Err(_) => ApiError::internal(),
    }
}
