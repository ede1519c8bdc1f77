//! The routes: one table, from which come dispatch, `Allow`, and the labels of metrics.

use hyper::Method;

use crate::metrics::Endpoint;

/// Where a request goes. The rest of the path after `/v1/models/` is not part of the route.
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
    /// Nothing that exists.
    Unknown,
}

impl Route {
    /// All of them.
    pub const ALL: [Route; 9] = [
        Route::Healthz,
        Route::Readyz,
        Route::Metrics,
        Route::Version,
        Route::Models,
        Route::Model,
        Route::ChatCompletions,
        Route::Completions,
        Route::Unknown,
    ];

    /// The route of a path, and the model's id where the path holds one.
    pub fn of(path: &str) -> (Route, &str) {
        let route = match path {
            "/healthz" => Route::Healthz,
            "/readyz" => Route::Readyz,
            "/metrics" => Route::Metrics,
            "/version" => Route::Version,
            "/v1/models" => Route::Models,
            "/v1/chat/completions" => Route::ChatCompletions,
            "/v1/completions" => Route::Completions,
            _ => match path.strip_prefix("/v1/models/").filter(|id| !id.is_empty()) {
                Some(id) => return (Route::Model, id),
                None => Route::Unknown,
            },
        };
        (route, "")
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
            Route::Unknown => "unknown",
        }
    }

    /// The method that it answers; `None` for a path that does not exist.
    pub fn method(self) -> Option<&'static str> {
        match self {
            Route::ChatCompletions | Route::Completions => Some("POST"),
            Route::Unknown => None,
            _ => Some("GET"),
        }
    }

    /// Whether it answers a method. `HEAD` is a `GET` without the body.
    pub fn allows(self, method: &Method) -> bool {
        match self.method() {
            Some("POST") => method == Method::POST,
            Some(_) => method == Method::GET || method == Method::HEAD,
            None => false,
        }
    }

    /// The value of `Allow`.
    pub fn allow(self) -> &'static str {
        if self.has_body() { "POST" } else { "GET, HEAD" }
    }

    /// Whether it reads a body.
    pub fn has_body(self) -> bool {
        self.method() == Some("POST")
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
            Route::Models | Route::Model => Endpoint::Models,
            _ => Endpoint::Other,
        }
    }

    /// The statuses that it can answer with, for series that begin at zero.
    pub fn statuses(self) -> &'static [&'static str] {
        match self {
            Route::ChatCompletions | Route::Completions => {
                &["200", "400", "401", "403", "404", "408", "413", "415", "499", "500", "503"]
            }
            Route::Model => &["200", "401", "403", "404", "503"],
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
            if !matches!(route, Route::Unknown | Route::Model) {
                assert_eq!(Route::of(route.template()), (route, ""));
            }
        }
        assert_eq!(Route::of("/v1/models/org/name"), (Route::Model, "org/name"));
        assert_eq!(Route::of("/v1/models/org%2Fname"), (Route::Model, "org%2Fname"));
        for path in ["/", "/v1", "/v1/models/", "/v1/chat/completions/", "/admin/v1/status"] {
            assert_eq!(Route::of(path), (Route::Unknown, ""), "{path}");
        }
    }
}
