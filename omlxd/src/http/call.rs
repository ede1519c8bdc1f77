//! One request on its way through the server.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use hyper::Method;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::route::Route;
use crate::app::App;
use crate::request_memory::Share;

/// The status counted for a client that went away, as nginx has it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// What a handler knows of its request besides the body.
pub(crate) struct Call {
    app: Arc<App>,
    id: String,
    route: &'static Route,
    started: Instant,
    share: OnceLock<Arc<Share>>,
}

impl Call {
    /// A new request, with a new id.
    pub(crate) fn new(app: Arc<App>, route: &'static Route) -> Self {
        Call { app, id: new_id(), route, started: Instant::now(), share: OnceLock::new() }
    }

    /// The daemon's parts.
    pub(crate) fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Its id, as in `x-request-id`.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Where it was sent.
    pub(crate) fn route(&self) -> &'static Route {
        self.route
    }

    /// When its head was complete.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// The request holds this share of memory until its end.
    pub(crate) fn hold(&self, share: Share) {
        // A body is read once.
        let _ = self.share.set(Arc::new(share));
    }

    /// Its share of memory, once its body is read.
    pub(crate) fn share(&self) -> Option<Arc<Share>> {
        self.share.get().cloned()
    }

    /// Its accounting, which ends when the response's body is dropped.
    pub(crate) fn answered(&self, method: &Method, in_flight: TaskTrackerToken) -> Answered {
        self.app.metrics.http().in_flight.inc();
        Answered {
            app: Arc::clone(&self.app),
            id: self.id.clone(),
            method: method_label(method),
            route: self.route,
            started: self.started,
            status: CLIENT_CLOSED_REQUEST,
            complete: false,
            _in_flight: in_flight,
        }
    }
}

/// Counts and logs a request at its end, however it ends.
pub(crate) struct Answered {
    app: Arc<App>,
    id: String,
    method: &'static str,
    route: &'static Route,
    started: Instant,
    status: u16,
    complete: bool,
    _in_flight: TaskTrackerToken,
}

impl Answered {
    /// The response has this status.
    pub(crate) fn status(&mut self, status: u16) {
        self.status = status;
    }

    /// The response was made to its end.
    pub(crate) fn complete(&mut self) {
        self.complete = true;
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        let status = if self.complete { self.status } else { CLIENT_CLOSED_REQUEST };
        let (took, route) = (self.started.elapsed(), self.route.template);
        let http = self.app.metrics.http();
        http.in_flight.dec();
        http.answered(self.method, route, status, took);
        let ms = took.as_millis() as u64;
        // Probes come every few seconds for ever.
        if self.route.is_probe {
            tracing::debug!(request = self.id, method = self.method, route, status, ms, "answered");
        } else {
            tracing::info!(request = self.id, method = self.method, route, status, ms, "answered");
        }
    }
}

/// Methods are free text on the wire; labels are not.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::OPTIONS => "OPTIONS",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// `req_` and 32 random hexadecimal digits.
fn new_id() -> String {
    let mut random = [0_u8; 16];
    getrandom::fill(&mut random).expect("the system has randomness");
    format!("req_{:032x}", u128::from_be_bytes(random))
}
