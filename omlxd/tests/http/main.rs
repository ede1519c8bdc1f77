//! The HTTP API over real sockets, with the real engine and small random models.

mod answers;
mod anthropic;
mod bounds;
mod contract;
mod dashboard;
mod error_table;
mod errors;
mod fuzz;
mod history;
mod limits;
mod metrics;
mod models;
mod responses;
mod schemas;
mod shutdown;
mod streams;
mod structured;
mod support;
mod thoughts;
mod tokenizers;
