//! What every command works with.

use omlxctl::client::Client;
use serde::de::DeserializeOwned;

use crate::exit::CommandError;
use crate::output::Output;

pub(crate) type Done = Result<(), CommandError>;

/// A client and how to print, which is what a command works with.
pub(crate) struct Context {
    pub(crate) client: Client,
    /// How to print.
    pub(crate) output: Output,
    pub(crate) warned: std::cell::Cell<bool>,
}

impl Context {
    /// Asks the daemon.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CommandError> {
        let answer = self.client.get(path).await?;
        self.warn_of_other_version(&answer.daemon_version);
        Ok(answer.value)
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, CommandError> {
        let answer = self.client.post(path).await?;
        self.warn_of_other_version(&answer.daemon_version);
        Ok(answer.value)
    }

    /// An upgrade leaves the old daemon running: say so, once.
    pub(crate) fn warn_of_other_version(&self, daemon: &str) {
        let ours = env!("CARGO_PKG_VERSION");
        if daemon != ours && !self.warned.replace(true) {
            let message = format!(
                "omlxd is {daemon}, omlxctl is {ours}: restart the daemon with `omlxctl service restart` or \
                 `brew services restart omlx`; else `omlxctl shutdown` and start it"
            );
            self.output.warning(&message);
        }
    }
}

/// What can stand in a path as it is.
pub(crate) fn check_request_id(id: &str) -> Done {
    let plain =
        !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if plain {
        return Ok(());
    }
    Err(CommandError::Usage(format!("{id:?} is not a request id: `omlxctl requests` shows them")))
}
