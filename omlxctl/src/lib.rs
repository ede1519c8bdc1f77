//! The admin protocol: its types ([`protocol`]), which omlxd answers with, and a client for it
//! ([`client`]).
#![forbid(unsafe_code)]

pub mod client;
pub mod protocol;
