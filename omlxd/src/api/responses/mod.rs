//! `/v1/responses`: requests, answers, and answers stored for later.

mod archive;
// Not in release builds: what fuzz targets and tests reach of this module.
#[cfg(debug_assertions)]
mod for_tests;
mod input;
mod reply;
mod request;

use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;

use super::answer::Answer;
use super::parse::parse;
use super::run;
use crate::auth::ApiCaller;
use crate::error::ApiError;
use crate::http::Call;
use crate::requests::Ticket;
use archive::Archive;

#[cfg(test)]
pub(super) use for_tests::chat;
#[cfg(debug_assertions)]
pub(super) use for_tests::{check, writer};
pub(crate) use request::ResponsesRequest;

/// Answers `POST /v1/responses`.
pub(crate) async fn create(
    caller: ApiCaller,
    call: &Call,
    body: Bytes,
) -> Result<Answer, ApiError> {
    let request = read(caller, call, body).await?;
    run::answer(caller, call, request).await
}

/// Answers `POST /v1/responses/input_tokens`: how many tokens the prompt would have.
pub(crate) async fn input_tokens(
    caller: ApiCaller,
    call: &Call,
    body: Bytes,
) -> Result<Answer, ApiError> {
    let request = read(caller, call, body).await?;
    let tokens = run::count(call, request).await?;
    let answer = json!({"object": "response.input_tokens", "input_tokens": tokens});
    Ok(Answer::json(&answer))
}

/// Answers `GET /v1/responses/{id}`. E38.
pub(crate) async fn get(caller: ApiCaller, call: &Call, id: &str) -> Result<Answer, ApiError> {
    let (archive, id) = (archive(&caller, call), id.to_owned());
    let found = tokio::task::spawn_blocking(move || archive.get(&id));
    Ok(Answer::json(&found.await.map_err(|_| ApiError::internal())??))
}

/// Answers `DELETE /v1/responses/{id}`. E38.
pub(crate) async fn delete(caller: ApiCaller, call: &Call, id: &str) -> Result<Answer, ApiError> {
    let (archive, id) = (archive(&caller, call), id.to_owned());
    let removed = tokio::task::spawn_blocking(move || {
        archive.delete(&id)?;
        Ok(json!({"id": id, "object": "response", "deleted": true}))
    });
    Ok(Answer::json(&removed.await.map_err(|_| ApiError::internal())??))
}

fn archive(caller: &ApiCaller, call: &Call) -> Archive {
    Archive::new(Arc::clone(&call.app().responses), caller.tenant())
}

async fn read(
    caller: ApiCaller,
    call: &Call,
    body: Bytes,
) -> Result<(ResponsesRequest, Ticket), ApiError> {
    let archive = archive(&caller, call);
    parse(caller, call, body, |body, reading| ResponsesRequest::read(body, reading, archive)).await
}
