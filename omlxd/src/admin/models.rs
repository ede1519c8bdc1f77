//! The admin routes of models: what there is, what is in memory, and what is pulled.

use std::time::{Duration, Instant};

use engine::Quantization;
use hyper::StatusCode;
use omlxctl::protocol::{
    ErrorCode, ErrorDetail, HUB_ENDPOINT_HEADER, HUB_TOKEN_HEADER, KnownModel, ModelChanged,
    ModelEvent, ModelFacts, ModelProgress, Models, Pinned, PullCancelled, PullEvent, PullList,
    RemovedModel,
};
use tokio::runtime::Handle;

use super::answer::{AdminError, Answer, Asked, Events, json};
use super::cache;
use super::peer::AdminPeer;
use crate::app::App;
use crate::daemon::Daemon;
use crate::pull::{Access, PullError};
use crate::registry::{KeepError, ModelEntry, Source, other_purpose};

/// Pause between two reports of progress.
const PROGRESS: Duration = Duration::from_millis(200);

pub(super) fn list(_: AdminPeer, daemon: &Daemon, _: &Asked) -> Answer {
    let app = &daemon.app;
    let models: Vec<_> =
        app.registry.catalog().list().iter().map(|entry| known(app, entry)).collect();
    let chosen = app.config.models.default.clone();
    let loaded = app.registry.loaded().first().map(|model| model.name().to_owned());
    let first = models.iter().find(|model| can_chat(model)).map(|model| model.id.clone());
    json(&Models { default: chosen.or(loaded).or(first), models })
}

/// Whether a model is one to talk to when none is named: its files say that it runs here and generates
/// text, it fits, and the last attempt to load it did not fail.
fn can_chat(model: &KnownModel) -> bool {
    let fits = model.facts.as_ref().is_some_and(|facts| facts.fits);
    fits && model.error.is_none() && other_purpose(&model.path).is_none()
}

pub(super) fn show(_: AdminPeer, daemon: &Daemon, asked: &Asked) -> Answer {
    let entry = find(&daemon.app, &asked.id)?;
    json(&known(&daemon.app, &entry))
}

fn known(app: &App, entry: &ModelEntry) -> KnownModel {
    let status = app.registry.status(&entry.id);
    let (facts, problem) = match app.registry.catalog().facts(entry) {
        Ok(facts) => (Some(facts), None),
        Err(problem) => (None, Some(problem)),
    };
    let facts = facts.map(|facts| ModelFacts {
        architecture: facts.config.architecture.clone(),
        parameters: facts.parameters,
        quantization: facts.config.quantization.map(packing),
        dtype: facts.dtype.clone(),
        context_tokens: facts.config.context_tokens,
        disk_bytes: facts.file_bytes,
        memory_bytes: facts.weight_bytes,
        fits: facts.weight_bytes <= app.registry.room().budget_bytes,
    });
    let (source, revision) = match &entry.source {
        Source::Bundled => ("bundled", None),
        Source::Folder => ("folder", None),
        Source::Hub { revision, .. } => ("hub", Some(revision.clone())),
    };
    KnownModel {
        id: entry.id.clone(),
        path: entry.dir.clone(),
        state: status.state.to_owned(),
        error: status.error,
        source: source.to_owned(),
        revision,
        aliases: app.registry.catalog().aliases(&entry.id).to_vec(),
        pinned: status.pinned,
        requests: status.leases,
        waiting: status.waiting,
        facts,
        problem,
    }
}

/// How weights are packed, in words.
pub(super) fn packing(quantization: Quantization) -> String {
    format!("{} bits in groups of {}", quantization.bits, quantization.group_size)
}

/// Loads a model and waits for it.
pub(super) fn load(_: AdminPeer, daemon: &Daemon, asked: &Asked, events: &Events) {
    let registry = &daemon.app.registry;
    let entry = match find(&daemon.app, &asked.id) {
        Ok(entry) => entry,
        Err(error) => return refuse(events, error.code, error.message),
    };
    let work = registry.acquire(&entry);
    let outcome = reporting(daemon, &entry.id, events, work);
    match outcome {
        // Nobody reads: it is loaded all the same.
        None => {}
        Some((Ok(lease), seconds)) => {
            let memory_bytes = lease.info().weight_bytes;
            let (id, state) = (entry.id, "ready".to_owned());
            events.send(&ModelEvent::Done(ModelChanged { id, state, memory_bytes, seconds }));
        }
        Some((Err(error), _)) => {
            refuse(events, ErrorCode::Failed, format!("{} cannot be loaded: {error}", entry.id));
        }
    }
}

/// Unloads a model once its requests have ended.
pub(super) fn unload(_: AdminPeer, daemon: &Daemon, asked: &Asked, events: &Events) {
    let registry = &daemon.app.registry;
    let entry = match find(&daemon.app, &asked.id) {
        Ok(entry) => entry,
        Err(error) => return refuse(events, error.code, error.message),
    };
    let memory_bytes = registry.loaded_model(&entry.id).map_or(0, |m| m.info().weight_bytes);
    let outcome = reporting(daemon, &entry.id, events, registry.unload(&entry.id));
    match outcome {
        None => {}
        Some((Ok(()), seconds)) => {
            let (id, state) = (entry.id, "unloaded".to_owned());
            events.send(&ModelEvent::Done(ModelChanged { id, state, memory_bytes, seconds }));
        }
        Some((Err(error), _)) => refuse(events, ErrorCode::InUse, error.to_string()),
    }
}

/// Does something while telling how far it is; `None` when nobody listens any more. Then it is
/// dropped: the registry finishes what it began.
fn reporting<T>(
    daemon: &Daemon,
    id: &str,
    events: &Events,
    work: impl Future<Output = T>,
) -> Option<(T, f64)> {
    let began = Instant::now();
    let mut work = std::pin::pin!(work);
    loop {
        let turn = Handle::current().block_on(tokio::time::timeout(PROGRESS, &mut work));
        if let Ok(done) = turn {
            return Some((done, began.elapsed().as_secs_f64()));
        }
        let status = daemon.app.registry.status(id);
        let progress = ModelProgress {
            id: id.to_owned(),
            state: status.state.to_owned(),
            requests: status.leases,
            seconds: began.elapsed().as_secs_f64(),
        };
        if daemon.app.shutdown.is_cancelled() {
            refuse(events, ErrorCode::Failed, "omlxd stops".to_owned());
            return None;
        }
        if !events.send(&ModelEvent::Progress(progress)) {
            return None;
        }
    }
}

fn refuse(events: &Events, code: ErrorCode, message: String) {
    events.send(&ModelEvent::Error(ErrorDetail { code, message }));
}

pub(super) fn pin(_: AdminPeer, daemon: &Daemon, asked: &Asked) -> Answer {
    set_pin(daemon, &asked.id, true)
}

pub(super) fn unpin(_: AdminPeer, daemon: &Daemon, asked: &Asked) -> Answer {
    set_pin(daemon, &asked.id, false)
}

fn set_pin(daemon: &Daemon, name: &str, pinned: bool) -> Answer {
    let entry = find(&daemon.app, name)?;
    let changed = daemon.app.registry.pin(&entry.id, pinned);
    json(&Pinned { id: entry.id, pinned, changed })
}

/// Deletes a model from disk, and with `cache=1` what it computed.
pub(super) fn remove(_: AdminPeer, daemon: &Daemon, asked: &Asked) -> Answer {
    let app = &daemon.app;
    let entry = find(app, &asked.id)?;
    let conflict =
        |message: String| AdminError::new(StatusCode::CONFLICT, ErrorCode::InUse, message);
    if app.pulls.is_running(&entry.id) {
        let id = &entry.id;
        return Err(conflict(format!("{id} is being pulled: `omlxctl pull --cancel {id}` first")));
    }
    let removed = Handle::current().block_on(app.registry.remove(&entry));
    let removed = removed.map_err(|error| match error {
        KeepError::Disk { .. } => {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            AdminError::new(status, ErrorCode::Failed, error.to_string())
        }
        error => conflict(error.to_string()),
    })?;
    let wanted = asked.flag("cache");
    let cache_records = wanted.then(|| cache::clear_model(daemon, &entry.id)).flatten();
    json(&RemovedModel { id: entry.id, bytes: removed.bytes, cache_records })
}

/// Begins a pull, or joins the one that runs, and tells how far it is. It goes on when nobody
/// listens.
pub(super) fn pull(_: AdminPeer, daemon: &Daemon, asked: &Asked, events: &Events) {
    let access = Access {
        endpoint: asked.header(HUB_ENDPOINT_HEADER),
        token: asked.header(HUB_TOKEN_HEADER),
    };
    let revision = asked.value("revision");
    let pulls = &daemon.app.pulls;
    let job = match pulls.start(&asked.id, revision.as_deref(), asked.flag("force"), &access) {
        Ok(job) => job,
        Err(error) => return events.end(&failed(&error)),
    };
    loop {
        match job.outcome() {
            Some(Ok(pulled)) => {
                events.send(&PullEvent::Progress(job.progress()));
                events.send(&PullEvent::Done(pulled.clone()));
                return;
            }
            Some(Err(error)) => return events.end(&failed(error)),
            None if daemon.app.shutdown.is_cancelled() => {
                let message = "omlxd stops; the next pull goes on where this one was".to_owned();
                let detail = ErrorDetail { code: ErrorCode::Failed, message };
                return events.end(&PullEvent::Error(detail));
            }
            None => {
                if !events.send(&PullEvent::Progress(job.progress())) {
                    return;
                }
            }
        }
        job.wait(PROGRESS);
    }
}

fn failed(error: &PullError) -> PullEvent {
    let code = match error {
        PullError::NotFound(_) => ErrorCode::NotFound,
        _ => ErrorCode::Failed,
    };
    PullEvent::Error(ErrorDetail { code, message: error.to_string() })
}

pub(super) fn pulls(_: AdminPeer, daemon: &Daemon, _: &Asked) -> Answer {
    json(&PullList { pulls: daemon.app.pulls.list() })
}

pub(super) fn cancel_pull(_: AdminPeer, daemon: &Daemon, asked: &Asked) -> Answer {
    let id = asked.id.clone();
    if daemon.app.pulls.cancel(&id) {
        return json(&PullCancelled { id });
    }
    let message = format!("{id} is not being pulled");
    Err(AdminError::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message))
}

fn find(app: &App, name: &str) -> Result<ModelEntry, AdminError> {
    app.registry.catalog().find_or_near(name).map_err(|near| {
        let near = near.join(", ");
        let near = if near.is_empty() { String::new() } else { format!("; there is: {near}") };
        let message = format!("no model is called {name}{near}");
        AdminError::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn nobody_talks_to_a_model_that_cannot_run_unless_they_name_it() {
        let dir = tempfile::tempdir().unwrap();
        let model = |change: Value| {
            let facts = json!({"architecture": "qwen3", "parameters": 1, "quantization": null,
                               "dtype": "f32", "context_tokens": 9, "disk_bytes": 1,
                               "memory_bytes": 1, "fits": true});
            let mut known = json!({"id": "m", "path": dir.path(), "state": "unloaded", "error": null,
                                   "facts": facts});
            known.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            serde_json::from_value::<KnownModel>(known).unwrap()
        };
        assert!(can_chat(&model(json!({}))));
        assert!(!can_chat(&model(json!({"facts": null, "problem": "model_type is 'bert'"}))));
        assert!(!can_chat(&model(json!({"state": "failed", "error": "no tensor"}))));
        let mut large = model(json!({}));
        large.facts.as_mut().unwrap().fits = false;
        assert!(!can_chat(&large));
        // A decoder by its config.
        std::fs::write(dir.path().join("modules.json"), "[]").unwrap();
        assert!(!can_chat(&model(json!({}))));
        std::fs::remove_file(dir.path().join("modules.json")).unwrap();
        assert!(can_chat(&model(json!({}))));
        let config = json!({"architectures": ["Qwen3ForSequenceClassification"]});
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        assert!(!can_chat(&model(json!({}))));
    }
}
