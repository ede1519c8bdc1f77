//! The HTTP API over real sockets, with the real engine and small random models.

mod answers;
mod dashboard;
mod errors;
mod limits;
mod metrics;
mod models;
mod shutdown;
mod streams;
mod structured;
mod support;
mod thoughts;
