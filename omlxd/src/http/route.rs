//! The routes: one table, from which come dispatch, `Allow`, and the labels of metrics.

use hyper::Method;

use crate::metrics::Endpoint;

/// Where a request goes. An id at the end of the path is not part of the route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// The process is up.
    Healthz,
    /// It can serve.
    Readyz,
    /// Counters for Prometheus.
    Metrics,
    /// What runs here.
    Version,
    /// All models.
    Models,
    /// One model.
    Model,
    /// Chat.
    ChatCompletions,
    /// Text.
    Completions,
    /// OpenAI's newer API.
    Responses,
    /// The length of its prompt.
    InputTokens,
    /// One stored answer of it.
    Response,
    /// Anthropic's API.
    Messages,
    /// The length of its prompt.
    CountTokens,
    /// Not served yet.
    Embeddings,
    /// Nothing that exists.
    Unknown,
}

impl Route {
    /// All of them.
    pub const ALL: [Route; 15] = [
        Route::Healthz,
        Route::Readyz,
        Route::Metrics,
        Route::Version,
        Route::Models,
        Route::Model,
        Route::ChatCompletions,
        Route::Completions,
        Route::Responses,
        Route::InputTokens,
        Route::Response,
        Route::Messages,
        Route::CountTokens,
        Route::Embeddings,
        Route::Unknown,
    ];

    /// The route of a path, and the id of a model or an answer where the path holds one.
    pub fn of(path: &str) -> (Route, &str) {
        let route = match path {
            "/healthz" => Route::Healthz,
            "/readyz" => Route::Readyz,
            "/metrics" => Route::Metrics,
            "/version" => Route::Version,
            "/v1/models" => Route::Models,
            "/v1/chat/completions" => Route::ChatCompletions,
            "/v1/completions" => Route::Completions,
            "/v1/responses" => Route::Responses,
            "/v1/responses/input_tokens" => Route::InputTokens,
            "/v1/messages" => Route::Messages,
            "/v1/messages/count_tokens" => Route::CountTokens,
            "/v1/embeddings" => Route::Embeddings,
            _ => return Self::with_id(path),
        };
        (route, "")
    }

    /// A model's id may hold slashes, an answer's may not.
    fn with_id(path: &str) -> (Route, &str) {
        let id = |prefix| path.strip_prefix(prefix).filter(|id: &&str| !id.is_empty());
        match (id("/v1/models/"), id("/v1/responses/")) {
            (Some(id), _) => (Route::Model, id),
            (_, Some(id)) if !id.contains('/') => (Route::Response, id),
            _ => (Route::Unknown, ""),
        }
    }

    /// The label of metrics.
    pub fn template(self) -> &'static str {
        match self {
            Route::Healthz => "/healthz",
            Route::Readyz => "/readyz",
            Route::Metrics => "/metrics",
            Route::Version => "/version",
            Route::Models => "/v1/models",
            Route::Model => "/v1/models/{id}",
            Route::ChatCompletions => "/v1/chat/completions",
            Route::Completions => "/v1/completions",
            Route::Responses => "/v1/responses",
            Route::InputTokens => "/v1/responses/input_tokens",
            Route::Response => "/v1/responses/{id}",
            Route::Messages => "/v1/messages",
            Route::CountTokens => "/v1/messages/count_tokens",
            Route::Embeddings => "/v1/embeddings",
            Route::Unknown => "unknown",
        }
    }

    /// Whether it answers a method. `HEAD` is a `GET` without the body.
    pub fn allows(self, method: &Method) -> bool {
        self != Route::Unknown && self.allow().split(", ").any(|allowed| allowed == method.as_str())
    }

    /// The value of `Allow`.
    pub fn allow(self) -> &'static str {
        match self {
            Route::Response => "GET, HEAD, DELETE",
            _ if self.has_body() => "POST",
            _ => "GET, HEAD",
        }
    }

    /// Whether it reads a body.
    pub fn has_body(self) -> bool {
        matches!(
            self,
            Route::ChatCompletions
                | Route::Completions
                | Route::Responses
                | Route::InputTokens
                | Route::Messages
                | Route::CountTokens
                | Route::Embeddings
        )
    }

    /// The method that most requests to it have; `None` for a path that does not exist.
    pub fn method(self) -> Option<&'static str> {
        match self {
            Route::Unknown => None,
            _ if self.has_body() => Some("POST"),
            _ => Some("GET"),
        }
    }

    /// Whether it is asked by machines all the time.
    pub fn is_probe(self) -> bool {
        matches!(self, Route::Healthz | Route::Readyz | Route::Metrics)
    }

    /// Its label where requests are counted by endpoint.
    pub fn endpoint(self) -> Endpoint {
        match self {
            Route::ChatCompletions => Endpoint::ChatCompletions,
            Route::Completions => Endpoint::Completions,
            Route::Responses | Route::InputTokens | Route::Response => Endpoint::Responses,
            Route::Messages | Route::CountTokens => Endpoint::Messages,
            Route::Models | Route::Model => Endpoint::Models,
            _ => Endpoint::Other,
        }
    }

    /// The statuses that it can answer with, for series that begin at zero.
    pub fn statuses(self) -> &'static [&'static str] {
        match self {
            _ if self.has_body() => {
                &["200", "400", "401", "403", "404", "408", "413", "415", "499", "500", "503"]
            }
            Route::Model | Route::Response => &["200", "401", "403", "404", "503"],
            Route::Readyz => &["200", "403", "503"],
            Route::Healthz => &["200", "403"],
            _ => &["200", "401", "403", "503"],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_find_their_routes() {
        for route in Route::ALL {
            if !matches!(route, Route::Unknown | Route::Model | Route::Response) {
                assert_eq!(Route::of(route.template()), (route, ""));
            }
        }
        assert_eq!(Route::of("/v1/models/org/name"), (Route::Model, "org/name"));
        assert_eq!(Route::of("/v1/models/org%2Fname"), (Route::Model, "org%2Fname"));
        assert_eq!(Route::of("/v1/responses/resp_1"), (Route::Response, "resp_1"));
        for path in ["/v1/responses/", "/v1/responses/resp_1/input_items", "/v1/messages/batches"] {
            assert_eq!(Route::of(path), (Route::Unknown, ""), "{path}");
        }
        for path in ["/", "/v1", "/v1/models/", "/v1/chat/completions/", "/admin/v1/status"] {
            assert_eq!(Route::of(path), (Route::Unknown, ""), "{path}");
        }
    }
}
