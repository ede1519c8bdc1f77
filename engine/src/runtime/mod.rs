//! The engine at run time: its handle, its thread, its requests and the steps that compute them.

pub(crate) mod batch;
pub(crate) mod command;
pub(crate) mod config;
pub(crate) mod events;
pub(crate) mod files;
pub(crate) mod generation;
pub(crate) mod handle;
pub(crate) mod inspect;
pub(crate) mod link;
pub(crate) mod loaded;
pub(crate) mod memory;
pub(crate) mod model;
pub(crate) mod reasoning_budget;
pub(crate) mod report;
pub(crate) mod row;
pub(crate) mod sampling;
pub(crate) mod sensor;
pub(crate) mod status;
pub(crate) mod worker;
