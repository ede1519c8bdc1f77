//! The admin routes of API keys.

use hyper::StatusCode;
use omlxctl::protocol::{ApiKey, ApiKeys, ErrorCode, KeyAdded, KeyInfo, KeyRevoked};

use super::answer::{AdminError, Answer, Asked, json};
use super::peer::AdminPeer;
use crate::daemon::Daemon;
use crate::error_chain::Chain;
use crate::home::HomeError;
use crate::key_file::{KeyError, Known};

pub(super) fn show(_: AdminPeer, daemon: &Daemon, _: &Asked) -> Answer {
    api_key(daemon.key())
}

pub(super) fn rotate(_: AdminPeer, daemon: &Daemon, _: &Asked) -> Answer {
    api_key(daemon.rotate_key())
}

fn api_key(key: Result<Option<String>, HomeError>) -> Answer {
    let key = key.map_err(|error| refused(&KeyError::Home(error)))?;
    json(&ApiKey { key })
}

pub(super) fn list(_: AdminPeer, daemon: &Daemon, _: &Asked) -> Answer {
    let keys = daemon.keys().map_err(|error| refused(&error))?;
    let own = keys.iter().position(|key| !key.is_hashed);
    let info = |(place, Known { name, tail, .. })| KeyInfo { name, tail, own: Some(place) == own };
    json(&ApiKeys {
        required: daemon.app.config.auth.enabled,
        keys: keys.into_iter().enumerate().map(info).collect(),
    })
}

pub(super) fn add(_: AdminPeer, daemon: &Daemon, asked: &Asked) -> Answer {
    needed(daemon)?;
    let key = daemon.add_key(&asked.id).map_err(|error| refused(&error))?;
    json(&KeyAdded { name: asked.id.clone(), key })
}

pub(super) fn revoke(_: AdminPeer, daemon: &Daemon, asked: &Asked) -> Answer {
    needed(daemon)?;
    let Known { name, tail, .. } = daemon.revoke_key(&asked.id).map_err(|error| refused(&error))?;
    json(&KeyRevoked { name, tail })
}

fn needed(daemon: &Daemon) -> Result<(), AdminError> {
    if daemon.app.config.auth.enabled {
        return Ok(());
    }
    let message = "auth.enabled is false: the API asks for no key";
    Err(AdminError::new(StatusCode::CONFLICT, ErrorCode::Failed, message))
}

fn refused(error: &KeyError) -> AdminError {
    let (status, code) = match error {
        KeyError::Home(_) => (StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Failed),
        KeyError::Unknown(_) => (StatusCode::NOT_FOUND, ErrorCode::NotFound),
        KeyError::Last(_) | KeyError::Own(_) => (StatusCode::CONFLICT, ErrorCode::InUse),
        _ => (StatusCode::CONFLICT, ErrorCode::Failed),
    };
    AdminError::new(status, code, Chain(error).to_string())
}
