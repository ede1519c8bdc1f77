//! The daemon as its users meet it: official clients, raw streams, and models that are damaged.

mod bad_input;
mod clients;
mod sse;
mod world;
