//! The machine's memory, and sizes that are a share of something.

use crate::config::Size;

/// What is assumed of a machine that does not say.
const UNKNOWN_BYTES: u64 = 8 << 30;

/// A size in bytes: itself, a share of `whole`, or `auto`.
pub(crate) fn size_of(size: Size, whole: u64, auto: u64) -> u64 {
    match size {
        Size::Auto => auto,
        Size::Bytes(bytes) => bytes,
        Size::Percent(share) => whole / 100 * u64::from(share),
    }
}

/// Memory of the machine, or what its container allows.
pub(crate) fn total_bytes() -> u64 {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let limit = system.cgroup_limits().map(|limits| limits.total_memory);
    let total = limit.map_or(system.total_memory(), |limit| limit.min(system.total_memory()));
    if total == 0 { UNKNOWN_BYTES } else { total }
}

/// `memory.budget` in bytes; "auto" is three quarters of the machine's memory.
pub(crate) fn budget_bytes(budget: Size) -> u64 {
    let total = total_bytes();
    size_of(budget, total, total / 4 * 3)
}
