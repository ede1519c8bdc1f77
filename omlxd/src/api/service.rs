//! What monitors and scripts ask: `/healthz`, `/readyz`, `/metrics` and `/version`.

use std::sync::Arc;

use hyper::StatusCode;
use serde_json::json;

use super::answer::Answer;
use crate::app::App;
use crate::auth::ApiCaller;
use crate::error::ApiError;
use crate::http::Call;
use crate::{metrics, watchdog};

/// Answers `GET /healthz`: the process is up.
pub(super) async fn healthz(_call: &Call) -> Result<Answer, ApiError> {
    Ok(Answer::json(&json!({"status": "ok"})))
}

/// Answers `GET /readyz`: whether requests can be served. Names no model, as it asks for no key.
pub(super) async fn readyz(call: &Call) -> Result<Answer, ApiError> {
    let app = call.app();
    let (loading, ready, failed) = app.registry.counts();
    let body = json!({
        "status": readiness(app),
        // A model that cannot be loaded does not make the daemon unready: it serves the others.
        "models": {"ready": ready, "loading": loading, "failed": failed},
    });
    let mut answer = Answer::json(&body);
    if let Answer::Document { status, .. } = &mut answer
        && readiness(app) != "ready"
    {
        *status = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(answer)
}

fn readiness(app: &App) -> &'static str {
    if app.shutdown.is_cancelled() {
        "shutting_down"
    } else if watchdog::is_stalled(&app.engine.progress()) {
        "stalled"
    } else {
        "ready"
    }
}

/// Answers `GET /metrics`.
pub(super) async fn metrics(call: &Call) -> Result<Answer, ApiError> {
    let app = Arc::clone(call.app());
    let text = tokio::task::spawn_blocking(move || app.render_metrics()).await;
    Ok(Answer::Document {
        status: StatusCode::OK,
        content_type: metrics::CONTENT_TYPE,
        body: text.map_err(|_| ApiError::internal())?,
    })
}

/// Answers `GET /version`.
pub(super) async fn version(
    _caller: ApiCaller,
    call: &Call,
    _id: &str,
) -> Result<Answer, ApiError> {
    Ok(Answer::json(&json!({"version": call.app().version})))
}
