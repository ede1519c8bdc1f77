//! Operating system services: files and mappings, threads, memory, power, the system's log, and
//! ending the process. All differences between macOS and Linux are here, in the package that every
//! other package depends on.

#[cfg(any(target_vendor = "apple", test))]
mod apple;
#[cfg(not(target_vendor = "apple"))]
mod linux;
mod process;
mod types;

#[cfg(target_vendor = "apple")]
pub(crate) use apple::{
    barrier, fill_pages, is_fault, read_ahead, read_directly, read_through_cache, set_up_map,
    wish_for_huge_pages,
};
#[cfg(not(target_vendor = "apple"))]
pub(crate) use linux::{
    barrier, fill_pages, is_fault, read_ahead, read_directly, read_through_cache, set_up_map,
    wish_for_huge_pages,
};
pub use process::{
    StayAwake, end_process, footprint, give_back_memory, memory_pressure, set_intent, system_log,
};
pub use types::{Intent, Pressure, Severity};
