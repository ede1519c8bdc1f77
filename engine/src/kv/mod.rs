//! The engine's KV cache: the caches of running sequences, their records in the store, and the
//! reuse of prompt prefixes.

mod explain;
mod identity;
mod live;
mod pages;
mod plan;
mod prefix_cache;
mod records;
mod sequence;
pub(crate) mod slots;

pub use explain::{Cause, Divergence, MissReason, ReuseReport};
pub(crate) use live::Donor;
pub(crate) use pages::Layout;
pub use prefix_cache::ReuseConfig;
pub(crate) use prefix_cache::{RestoredSequence, Reuse};
pub(crate) use sequence::{CachedSequence, ModelReuse, common_prefix};
