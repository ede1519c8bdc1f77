//! What dispatch, metrics, logs and `Allow` know of a route. The table of routes with their
//! handlers is `api/routes.rs`.

use hyper::Method;

use crate::metrics::Endpoint;

/// A route, without its handler.
#[derive(Debug)]
pub struct Route {
    /// Its path, which is also its label in metrics. `{id}` at the end stands for an id.
    pub template: &'static str,
    /// Its label where requests are counted by endpoint.
    pub endpoint: Endpoint,
    /// The methods that it answers, as in `Allow`.
    pub allow: &'static str,
    /// The statuses that it can answer with, for series that begin at zero.
    pub statuses: &'static [&'static str],
    /// Health checks and scrapers ask it every few seconds: its requests are logged as debug.
    pub is_probe: bool,
    /// The API whose clients call it.
    pub flavor: Flavor,
}

/// Whose form errors and headers have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// `{"error": {...}}`
    OpenAi,
    /// `{"type": "error", ...}`, and the header `request-id`.
    Anthropic,
}

impl Route {
    /// What requests to a path that does not exist are counted as.
    pub const UNKNOWN: Route = Route {
        template: "unknown",
        endpoint: Endpoint::Other,
        allow: "",
        statuses: &[],
        is_probe: false,
        flavor: Flavor::OpenAi,
    };

    /// Whether the path is that of this route, and the id in it (empty without one). A model's id
    /// may hold slashes, the id of a response may not.
    pub fn id_in<'p>(&self, path: &'p str) -> Option<&'p str> {
        let Some(prefix) = self.template.strip_suffix("{id}") else {
            return (path == self.template).then_some("");
        };
        let id = path.strip_prefix(prefix).filter(|id| !id.is_empty())?;
        (self.endpoint == Endpoint::Models || !id.contains('/')).then_some(id)
    }

    /// Whether it answers a method. `HEAD` is a `GET` without the body.
    pub fn allows(&self, method: &Method) -> bool {
        self.allow.split(", ").any(|allowed| allowed == method.as_str())
    }

    /// Whether it reads a body.
    pub fn has_body(&self) -> bool {
        self.allow == "POST"
    }
}
