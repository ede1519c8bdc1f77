//! What each admin route answers.

use hyper::StatusCode;
use omlxctl::protocol::{
    ADMIN_API, Budget, Cancelled, ErrorCode, Loaded, LoadedModel, Memory, Request, Requests,
    Setting, Settings, ShuttingDown, State, Status, Version,
};

use super::answer::{AdminError, Answer, Asked, json};
use super::peer::AdminPeer;
use super::{cache, models};
use crate::daemon::{Daemon, VERSION};
use crate::requests::RequestInfo;

pub(super) fn version(_: AdminPeer, _: &Daemon, _: &Asked) -> Answer {
    json(&Version { version: VERSION.to_owned(), admin_api: ADMIN_API })
}

pub(super) fn status(_: AdminPeer, daemon: &Daemon, _: &Asked) -> Answer {
    let app = &daemon.app;
    let progress = app.engine.progress();
    let memory = app.engine.memory();
    let room = app.registry.room();
    let loaded = app.registry.loaded();
    json(&Status {
        version: VERSION.to_owned(),
        pid: std::process::id(),
        uptime_seconds: app.started.elapsed().as_secs_f64(),
        state: if app.shutdown.is_cancelled() { State::Stopping } else { State::Ready },
        base_dir: daemon.home.base().to_owned(),
        http: daemon.http.to_string(),
        loaded_models: loaded.iter().map(|model| model.name().to_owned()).collect(),
        known_models: app.registry.catalog().list().len(),
        requests_running: progress.running,
        requests_waiting: progress.waiting,
        memory: Memory {
            active_bytes: memory.active_bytes,
            cache_bytes: memory.cache_bytes,
            peak_bytes: memory.peak_bytes,
        },
        budget: Some(Budget { budget_bytes: room.budget_bytes, used_bytes: room.used_bytes }),
        pulls: app.pulls.list().len(),
        busy: progress.busy || progress.loading,
        held_awake: app.awake.is_held(),
        last_progress_seconds: progress.since_last_step.as_secs_f64(),
        cache: Some(cache::status(daemon)),
        last_crash: daemon.crash.clone(),
    })
}

pub(super) fn ps(_: AdminPeer, daemon: &Daemon, _: &Asked) -> Answer {
    let running = in_flight(daemon);
    let loaded = daemon.app.registry.loaded();
    let models = loaded.iter().map(|model| {
        let info = model.info();
        let status = daemon.app.registry.status(model.name());
        LoadedModel {
            id: model.name().to_owned(),
            architecture: info.architecture.clone(),
            parameters: info.parameters,
            weight_bytes: info.weight_bytes,
            context_tokens: info.context_tokens,
            dtype: info.dtype.clone(),
            quantization: info.quantization.map(models::packing),
            load_seconds: info.load_time.as_secs_f64(),
            requests: running.iter().filter(|request| request.model == model.name()).count(),
            state: status.state.to_owned(),
            pinned: status.pinned,
            idle_seconds: status.idle.unwrap_or_default().as_secs_f64(),
            waiting: status.waiting,
        }
    });
    json(&Loaded { models: models.collect() })
}

pub(super) fn activity(_: AdminPeer, daemon: &Daemon, _: &Asked) -> Answer {
    json(&daemon.app.metrics.activity())
}

pub(super) fn requests(_: AdminPeer, daemon: &Daemon, _: &Asked) -> Answer {
    let requests = in_flight(daemon).into_iter().map(|request| Request {
        id: request.id,
        model: request.model,
        endpoint: request.endpoint.to_owned(),
        phase: request.phase.as_str().to_owned(),
        prompt_tokens: request.prompt_tokens,
        completion_tokens: request.generated_tokens,
        age_seconds: request.age.as_secs_f64(),
    });
    json(&Requests { requests: requests.collect() })
}

fn in_flight(daemon: &Daemon) -> Vec<RequestInfo> {
    daemon.app.requests.list()
}

pub(super) fn cancel(_: AdminPeer, daemon: &Daemon, asked: &Asked) -> Answer {
    let id = asked.id.as_str();
    if daemon.app.requests.cancel(id) {
        return json(&Cancelled { id: id.to_owned() });
    }
    let message = format!("no request {id} is in flight: `omlxctl requests` shows those that are");
    Err(AdminError::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message))
}

pub(super) fn config(_: AdminPeer, daemon: &Daemon, _: &Asked) -> Answer {
    let effective = daemon.effective();
    let settings = effective.settings.iter().map(|setting| Setting {
        key: setting.key.clone(),
        value: setting.value.clone(),
        origin: setting.origin.to_string(),
    });
    json(&Settings { file: daemon.config_file(), settings: settings.collect() })
}

pub(super) fn check_config(_: AdminPeer, daemon: &Daemon, _: &Asked) -> Answer {
    json(&daemon.check_config())
}

pub(super) fn shutdown(_: AdminPeer, daemon: &Daemon, _: &Asked) -> Answer {
    daemon.app.shutdown.cancel();
    let drain_seconds = daemon.app.config.server.drain.as_secs();
    json(&ShuttingDown { pid: std::process::id(), drain_seconds })
}
