//! The table of routes: dispatch, `Allow`, access and the labels of metrics come from it. A new
//! endpoint is a file with its handler, and one line here.

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::answer::Answer;
use super::{anthropic, chat, completions, embeddings, models, responses, service};
use crate::auth::ApiCaller;
use crate::error::ApiError;
use crate::http::{Call, Flavor, Route};
use crate::metrics::Endpoint;

/// A route and what answers it.
pub(crate) struct Entry {
    pub(crate) route: Route,
    pub(crate) handler: Handler,
}

/// What a handler gives.
type Answering<'a> = BoxFuture<'a, Result<Answer, ApiError>>;

/// A handler by what it takes. The server checks keys and reads bodies before it calls one: an
/// [`ApiCaller`] is the proof of a valid key.
pub(crate) enum Handler {
    /// Needs no key. With the statuses that it can answer with.
    Open(&'static [&'static str], for<'a> fn(&'a Call) -> Answering<'a>),
    /// Needs no key from a program on this machine.
    OpenHere(for<'a> fn(&'a Call) -> Answering<'a>),
    /// Takes the id in the path.
    Get(GetHandler),
    /// The same, and what answers `DELETE`.
    GetOrDelete(GetHandler, GetHandler),
    /// Takes a JSON body.
    Post(for<'a> fn(ApiCaller, &'a Call, Bytes) -> Answering<'a>),
}

/// Takes the id in the path, which is empty for a route without one.
pub(crate) type GetHandler = for<'a> fn(ApiCaller, &'a Call, &'a str) -> Answering<'a>;

use Endpoint::{ChatCompletions, Completions, Messages, Models, Other, Responses};
use Flavor::{Anthropic, OpenAi};
use Handler::{Get, GetOrDelete, Open, OpenHere, Post};

#[rustfmt::skip]
static ROUTES: [Entry; 14] = [
    entry("/healthz", Other, OpenAi, Open(&["200", "403"], |call| service::healthz(call).boxed())),
    entry("/readyz", Other, OpenAi, Open(&["200", "403", "503"], |call| service::readyz(call).boxed())),
    entry("/metrics", Other, OpenAi, OpenHere(|call| service::metrics(call).boxed())),
    entry("/version", Other, OpenAi, Get(|caller, call, id| service::version(caller, call, id).boxed())),
    entry("/v1/models", Models, OpenAi, Get(|caller, call, id| models::list(caller, call, id).boxed())),
    entry("/v1/models/{id}", Models, OpenAi, Get(|caller, call, id| models::get(caller, call, id).boxed())),
    entry("/v1/chat/completions", ChatCompletions, OpenAi, Post(|caller, call, body| chat::create(caller, call, body).boxed())),
    entry("/v1/completions", Completions, OpenAi, Post(|caller, call, body| completions::create(caller, call, body).boxed())),
    entry("/v1/responses", Responses, OpenAi, Post(|caller, call, body| responses::create(caller, call, body).boxed())),
    entry("/v1/responses/input_tokens", Responses, OpenAi, Post(|caller, call, body| responses::input_tokens(caller, call, body).boxed())),
    entry("/v1/responses/{id}", Responses, OpenAi, GetOrDelete(
        |caller, call, id| responses::get(caller, call, id).boxed(),
        |caller, call, id| responses::delete(caller, call, id).boxed(),
    )),
    entry("/v1/messages", Messages, Anthropic, Post(|caller, call, body| anthropic::messages(caller, call, body).boxed())),
    entry("/v1/messages/count_tokens", Messages, Anthropic, Post(|caller, call, body| anthropic::count_tokens(caller, call, body).boxed())),
    entry("/v1/embeddings", Other, OpenAi, Post(|caller, call, body| embeddings::create(caller, call, body).boxed())),
];

/// Every route.
pub fn all() -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().map(|entry| &entry.route)
}

/// The route of a path with its handler, and the id in the path. Where two have the form of a path
/// the first one in the table answers.
pub(crate) fn find(path: &str) -> Option<(&'static Entry, &str)> {
    ROUTES.iter().find_map(|entry| Some((entry, entry.route.id_in(path)?)))
}

const fn entry(
    template: &'static str,
    endpoint: Endpoint,
    flavor: Flavor,
    handler: Handler,
) -> Entry {
    const POST: &[&str] =
        &["200", "400", "401", "403", "404", "408", "413", "415", "499", "500", "503"];
    const GET_ONE: &[&str] = &["200", "401", "403", "404", "503"];
    const GET: &[&str] = &["200", "401", "403", "503"];
    let has_id = template.as_bytes()[template.len() - 1] == b'}';
    let (allow, statuses) = match handler {
        Open(statuses, _) => ("GET, HEAD", statuses),
        OpenHere(_) => ("GET, HEAD", GET),
        Get(_) if has_id => ("GET, HEAD", GET_ONE),
        Get(_) => ("GET, HEAD", GET),
        GetOrDelete(..) => ("GET, HEAD, DELETE", GET_ONE),
        Post(_) => ("POST", POST),
    };
    let is_probe = matches!(handler, Open(..) | OpenHere(_));
    Entry { route: Route { template, endpoint, allow, statuses, is_probe, flavor }, handler }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str) -> Option<(&'static str, &str)> {
        find(path).map(|(entry, id)| (entry.route.template, id))
    }

    #[test]
    fn paths_find_their_routes() {
        for route in all().filter(|route| !route.template.ends_with("{id}")) {
            assert_eq!(found(route.template), Some((route.template, "")));
        }
        assert_eq!(found("/v1/models/org/name"), Some(("/v1/models/{id}", "org/name")));
        assert_eq!(found("/v1/models/org%2Fname"), Some(("/v1/models/{id}", "org%2Fname")));
        assert_eq!(found("/v1/responses/resp_1"), Some(("/v1/responses/{id}", "resp_1")));
        for path in ["/v1/responses/", "/v1/responses/resp_1/input_items", "/v1/messages/batches"] {
            assert_eq!(found(path), None, "{path}");
        }
        for path in ["/", "/v1", "/v1/models/", "/v1/chat/completions/", "/admin/v1/status"] {
            assert_eq!(found(path), None, "{path}");
        }
    }
}
