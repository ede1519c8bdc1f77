//! The parts of the HTTP server that know nothing of the APIs: connections, TLS, bodies, origins,
//! event streams, and what is counted of every request.

mod body;
mod call;
mod connection;
mod origin;
mod read;
mod route;
mod stream;
mod tls;

pub use body::Body;
pub(crate) use call::Call;
pub(crate) use connection::Connection;
pub(crate) use origin::{allow as allow_origin, check as check_origin, is_preflight};
pub(crate) use read::{Reader, json_body};
pub use route::{Flavor, Route};
pub(crate) use stream::{EventSender, EventStream};
pub(crate) use tls::is_wanted as wants_tls;
pub use tls::{Tls, TlsError};
