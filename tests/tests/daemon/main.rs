//! The daemon as its users meet it: official clients, raw streams, models that are damaged, and a
//! cache that is.

mod bad_input;
mod cache;
mod cache_commands;
mod cached;
mod clients;
mod recall;
mod slips;
mod soak;
mod sse;
mod tools;
mod world;
