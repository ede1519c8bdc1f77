//! The HTTP server: connections, limits, routes, and what every response has in common.

mod body;
mod call;
mod connection;
mod origin;
mod read;
mod route;
mod server;
mod stream;
mod tls;

pub use body::Body;
pub(crate) use call::Call;
pub use route::{Flavor, Route};
pub use server::{serve, serve_with};
pub(crate) use stream::{EventSender, EventStream};
pub use tls::{Tls, TlsError};
