//! The engine at run time: its handle, its thread, the requests on it and the steps that compute them.

pub(crate) mod batch;
pub(crate) mod generation;
pub(crate) mod handle;
pub(crate) mod inspect;
pub(crate) mod loaded;
pub(crate) mod memory;
pub(crate) mod model;
pub(crate) mod reasoning_budget;
mod report;
pub(crate) mod row;
pub(crate) mod sampling;
pub(crate) mod worker;
