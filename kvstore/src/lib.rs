//! Stores opaque, content-addressed blocks in a RAM tier and in memory-mapped files.
//!
//! A block is some bytes, in parts, under a 32-byte key in a namespace. The store keeps as many
//! blocks as its limits allow. It returns a block exactly as it was put or not at all, and it may
//! evict any block at any time. It does not interpret the bytes.
//!
//! ```
//! use kvstore::{Key, Kind, Namespace, Record, Store, StoreConfig};
//! # let root = tempfile::tempdir().unwrap();
//! # let root = root.path().join("kv");
//! let store = Store::open(StoreConfig::new(root, 1 << 30)).unwrap();
//! let (namespace, key) = (Namespace([1; 32]), Key([2; 32]));
//! let record =
//!     Record { kind: Kind::Kv, key, parent: None, witness: b"tokens", parts: &[b"keys", b"values"] };
//! store.put(&namespace, &record);
//!
//! let guard = store.get(&namespace, &key, b"tokens").unwrap();
//! assert_eq!((&guard[0], &guard[1]), (&b"keys"[..], &b"values"[..]));
//! guard.check().unwrap(); // after the last use of the bytes
//! assert!(store.get(&namespace, &key, b"other tokens").is_err());
//! store.close();
//! ```
//!
//! Where to start reading: `docs/kvstore-format.md` describes the files and their write order;
//! [`Store`] has the calls; `state.rs` makes every decision, without I/O; `save.rs`,
//! `write_index.rs` and `scan.rs` change the disk; `map.rs` makes mapped files safe.

#[cfg(test)]
extern crate self as kvstore;

mod buffer;
mod config;
mod core;
mod crypt;
mod direct_reader;
pub mod disk;
mod disk_usage;
mod error;
mod guard;
mod index_log;
mod inspect;
mod key;
pub mod layout;
mod map;
mod open;
mod paths;
pub mod platform;
mod read;
mod real_disk;
mod record;
mod restore;
mod save;
mod scan;
mod state;
pub mod stats;
mod store;
mod sync;
mod write_index;
mod writer;

pub use config::{Clock, MIN_QUOTA_BYTES, StoreConfig, SystemClock};
pub use error::{Corrupt, Miss, OpenError};
pub use guard::{Guard, Pin};
pub use inspect::{BlockInfo, BlockLocation, Cleared, VerifyReport};
pub use key::{Key, Kind, Namespace};
pub use layout::Damage;
pub use map::MAX_MAPPINGS;
pub use real_disk::RealDisk;
pub use record::{PutOutcome, Record, RecordShape};
pub use state::eviction_log::Departure;
pub use stats::{Stats, Tier};
pub use store::{Prefix, Store};

#[cfg(test)]
mod concurrency_tests;
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod sim_support;
