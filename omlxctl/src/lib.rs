//! The admin protocol: its types ([`protocol`]), which omlxd answers with, and a client for it
//! ([`client`]). And [`files`], by which both open theirs.
#![forbid(unsafe_code)]

pub mod client;
pub mod files;
pub mod protocol;
