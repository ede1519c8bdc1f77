//! The HTTP server: connections, limits, routes, and what every response has in common.

mod body;
mod call;
mod connection;
mod origin;
mod read;
mod route;
mod server;
mod stream;

pub use body::Body;
pub(crate) use call::Call;
pub use route::Route;
pub use server::serve;
pub(crate) use stream::{EventSender, EventStream};
